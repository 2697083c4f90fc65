//! Payloads that cannot be understood, and what is found in them all the same.

use quickcheck::quickcheck;

use super::*;

const ID: JobId = JobId(9_007_199);

fn error(body: &[u8]) -> PayloadError {
    JobPayload::parse(body).unwrap_err()
}

fn found(error: &PayloadError) -> (Option<u64>, Option<&str>) {
    (
        error.id.map(|id| id.0),
        error.token.as_ref().map(Secret::expose),
    )
}

const ALL: (Option<u64>, Option<&str>) = (Some(ID.0), Some(EVERYTHING_TOKEN));

/// An object with its fields in this order.
fn compose(fields: &[(&str, Value)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(key, value)| format!("{}:{value}", json!(key)))
        .collect();
    format!("{{{}}}", fields.join(","))
}

fn assert_no_content(error: &PayloadError) {
    let shown = format!("{error} {error:?}");
    for content in ["EXAMPLE", "hunter", "example", "wrong", "acme"] {
        assert!(!shown.contains(content), "{shown}");
    }
}

#[test]
fn a_wrong_type_anywhere_at_the_top_leaves_id_and_token() {
    let everything = value(EVERYTHING);
    let fields = everything.as_object().unwrap();
    let mut tried = 0;
    for (field, old) in fields {
        if field == "a_field_from_the_future" {
            continue;
        }
        for wrong in [
            json!(5),
            json!(true),
            json!("wrong, expected wrong at line 1"),
            json!({ "wrong": "wrong" }),
            json!([["wrong"]]),
        ] {
            let is_fine = match old {
                Value::Number(_) => wrong.is_number(),
                Value::Bool(_) => wrong.is_boolean(),
                Value::String(_) => wrong.is_string(),
                Value::Array(_) => false,
                _ => wrong.is_object(),
            };
            if is_fine {
                continue;
            }
            tried += 1;
            for is_first in [true, false] {
                let others = fields.iter().filter(|(key, _)| *key != field);
                let mut fields: Vec<(&str, Value)> = others
                    .map(|(key, value)| (key.as_str(), value.clone()))
                    .collect();
                fields.insert(
                    if is_first { 0 } else { fields.len() },
                    (field, wrong.clone()),
                );
                let error = error(compose(&fields).as_bytes());
                let wanted = match field.as_str() {
                    "id" => (None, ALL.1),
                    "token" => (ALL.0, None),
                    _ => ALL,
                };
                assert_eq!(found(&error), wanted, "{field} = {wrong}");
                assert!(
                    error.place().starts_with(field),
                    "{field} = {wrong}: {error}"
                );
                assert!(error.to_string().contains("expected"), "{error}");
                assert_no_content(&error);
            }
        }
    }
    assert!(tried >= 21 * 4, "{tried}");
}

#[test]
fn places_are_named_precisely() {
    for (body, wanted) in [
        (
            "{\"id\":1,\n \"token\":\"t\",\"variables\":[{\"key\":\"A\"},{\"value\":\n7}]}",
            "variables[1].value (expected a string, line 3 column 1)",
        ),
        (
            r#"{"steps":[{"script":["a",true]}]}"#,
            "steps[0].script[1] (expected a string, line 1 column 29)",
        ),
        (
            r#"{"dependencies":[{"id":"x"}]}"#,
            "dependencies[0].id (expected a whole number from 0 on, line 1 column 26)",
        ),
        (
            r#"{"dependencies":[{"id":-1}]}"#,
            "dependencies[0].id (expected a whole number from 0 on, line 1 column",
        ),
        (
            r#"{"secrets":{"PASSWORD":{"vault":{"server":{"url":5}}}}}"#,
            "secrets.?.vault (expected a string",
        ),
        (
            r#"{"variables":[{"value":"\"}], \\","key":7}]}"#,
            "variables[0].key (expected a string",
        ),
        (
            r#"{"variables":[{"masked":1}]}"#,
            "variables[0].masked (expected true or false",
        ),
        (r#"{"steps":7}"#, "steps (expected a list"),
        (r#"{"secrets":7}"#, "secrets (expected an object"),
        (
            r#"{"runner_info":{"timeout":"inf"}}"#,
            "runner_info.timeout (expected a number",
        ),
        (
            r#"{"image":{"executor_opts":{"docker":{"user":{}}}}}"#,
            "image.executor_opts.docker (expected a string or a number",
        ),
        (
            r#"{"id":1,"token":"t"} x"#,
            "the body (it is not JSON that can be read",
        ),
        (
            r#"{"id":1,"token":"t","image":{"name":"#,
            "image.name (it ends too early",
        ),
        (r#"{"id":1,"token":"t""#, "token (it ends too early"),
        (r#"{"key":"hunter":"#, "key (it is not JSON"),
        ("", "the body (it ends too early"),
        ("null", "the body (expected an object)"),
        ("[]", "the body (expected an object)"),
        ("5", "the body (expected an object"),
        (r#"[{"key":"#, "the body (it ends too early"),
        ("<html>", "the body (it is not JSON"),
    ] {
        let error = error(body.as_bytes()).to_string();
        let text = format!("cannot read the job payload at {wanted}");
        assert!(error.starts_with(&text), "{body}: {error}");
    }
}

#[test]
fn id_and_token_must_be_good() {
    for (id, token, wanted) in [
        (json!(null), json!("t"), (None, Some("t"))),
        (json!(0), json!("t"), (None, Some("t"))),
        (json!(-1), json!("t"), (None, Some("t"))),
        (json!(1.5), json!("t"), (None, Some("t"))),
        (json!(1e30), json!("t"), (None, Some("t"))),
        (json!("x"), json!("t"), (None, Some("t"))),
        (json!(1), json!(null), (Some(1), None)),
        (json!(1), json!(""), (Some(1), None)),
        (json!(1), json!("a b"), (Some(1), None)),
        (json!(1), json!("a\nb"), (Some(1), None)),
        (json!(1), json!("ü"), (Some(1), None)),
    ] {
        let body = json!({ "id": id, "token": token }).to_string();
        let error = error(body.as_bytes());
        assert_eq!(found(&error), wanted, "{body}");
        let wanted = if wanted.0.is_none() { "id" } else { "token" };
        assert_eq!(error.place(), wanted, "{body}");
    }
    assert_eq!(error(b"{}").place(), "id");
    assert_eq!(error(br#"{"id":1}"#).place(), "token");
}

#[test]
fn what_comes_before_a_cut_is_found() {
    let body = EVERYTHING.as_bytes();
    let end_of_id = EVERYTHING.find("9007199,").unwrap() + "9007199,".len();
    let end_of_token = EVERYTHING.find("SIGNATURE\"").unwrap() + "SIGNATURE\"".len();
    let end = EVERYTHING.trim_end().len();
    // Every place around id and token, and a third of those behind them to save time.
    for cut in (0..end_of_token + 100).chain((end_of_token..end).step_by(3)) {
        let error = error(&body[..cut]);
        let wanted = match cut {
            _ if cut >= end_of_token => ALL,
            _ if cut >= end_of_id => (ALL.0, None),
            _ => (None, None),
        };
        assert_eq!(found(&error), wanted, "cut at {cut}");
        assert_no_content(&error);
    }
    assert!(JobPayload::parse(&body[..end]).is_ok());
    // A number without an end may be any number.
    for body in [
        r#"{"token":"t","id":90"#,
        r#"{"token":"t","id":9e1"#,
        r#"{"token":"t","id":"#,
    ] {
        assert_eq!(found(&error(body.as_bytes())), (None, Some("t")), "{body}");
    }
    assert_eq!(
        found(&error(br#"{"token":"t","id":90,"#)),
        (Some(90), Some("t"))
    );
    assert_eq!(
        found(&error(br#"{"token":"t","id":90,"al"#)),
        (Some(90), Some("t"))
    );
    assert_eq!(found(&error(br#"{"id":90,"token":"t"#)), (Some(90), None));
}

#[test]
fn what_comes_before_garbage_is_found() {
    for garbage in [
        "}",
        "x",
        "{\"id\":5,\"token\":\"evil\"}",
        "\0",
        "7",
        "<html>",
        "\u{feff}",
    ] {
        let body = format!("{EVERYTHING}{garbage}");
        assert_eq!(found(&error(body.as_bytes())), ALL, "{garbage}");
    }
}

#[test]
fn id_and_token_of_other_things_are_not_taken() {
    let error =
        error(br#"{"dependencies":[{"id":7,"token":"d"}],"x":"\"id\":8","token":"t","steps":5}"#);
    assert_eq!(found(&error), (None, Some("t")));
}

#[test]
fn the_last_good_id_and_token_are_found() {
    let error = error(br#"{"id":1,"token":"a","id":2,"id":[],"token":"b","token":5,"steps":5}"#);
    assert_eq!(found(&error), (Some(2), Some("b")));
}

#[test]
fn invalid_utf8_is_an_error_that_leaves_id_and_token() {
    let (start, end) = EVERYTHING.split_once("make release").unwrap();
    let body = [start.as_bytes(), b"make \xff", end.as_bytes()].concat();
    let error = error(&body);
    assert_eq!(found(&error), ALL);
    assert_eq!(error.place(), "steps[0].script[0]");
    let body = b"{\"steps\":[{\"script\":[\"\xff\"]}],\"\xfe\":\"\xff\",\"id\":1,\"token\":\"t\"}";
    assert_eq!(found(&self::error(body)), (Some(1), Some("t")));
    let body = b"{\"id\":1,\"token\":\"t\xff\"}";
    assert_eq!(found(&self::error(body)), (Some(1), None));
}

#[test]
fn deep_nesting_is_an_error_or_skipped() {
    let deep = |field: &str| {
        let (open, close) = ("[".repeat(200_000), "]".repeat(200_000));
        format!(r#"{{"{field}":{open}{close},"id":1,"token":"t"}}"#)
    };
    for field in ["steps", "image", "variables", "secrets", "run"] {
        let error = error(deep(field).as_bytes());
        assert_eq!(found(&error), (Some(1), Some("t")), "{field}");
    }
    assert!(JobPayload::parse(deep("brand_new").as_bytes()).is_ok());
    let content = format!(
        r#"{{"inputs":[{{"value":{{"content":{}{}}}}}],"id":1,"token":"t"}}"#,
        "[".repeat(200_000),
        "]".repeat(200_000)
    );
    let error = error(content.as_bytes());
    assert_eq!(found(&error), (Some(1), Some("t")));
    let place = error.place();
    assert!(
        place.starts_with("inputs[0].value.content[0]") && place.len() < 40,
        "{place}"
    );
    assert_eq!(
        found(&self::error("[".repeat(200_000).as_bytes())),
        (None, None)
    );
    assert_eq!(
        found(&self::error("{\"a\":".repeat(200_000).as_bytes())),
        (None, None)
    );
}

quickcheck! {
    fn any_body_is_an_answer(body: Vec<u8>) -> bool {
        JobPayload::parse(&body).is_err()
    }

    /// Whatever is broken, the message shows nothing of the content.
    fn a_flipped_byte_shows_nothing(flips: Vec<(usize, u8)>) -> bool {
        let mut body = EVERYTHING.as_bytes().to_vec();
        for (place, byte) in flips.into_iter().take(4) {
            let place = place % body.len();
            body[place] = if byte % 2 == 0 { byte } else { b"\"{}[],:\\0n "[place % 11] };
        }
        match JobPayload::parse(&body) {
            Ok(payload) => !format!("{payload:?}").contains("hunter2"),
            Err(error) => {
                let shown = format!("{error} {error:?}");
                !shown.contains("EXAMPLE") && !shown.contains("hunter")
            }
        }
    }
}
