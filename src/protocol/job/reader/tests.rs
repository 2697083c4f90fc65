use super::*;

const SOME: &str = r#"{"trace_sections":true,"failure_reasons":["a","b"]}"#;

fn body(features: &str) -> String {
    format!(r#"{{"id":1,"token":"t","features":{features},"steps":[{{"name":"script"}}]}}"#)
}

#[test]
fn jobs_share_what_is_the_same() {
    let mut reader = PayloadReader::default();
    let mut read = |features| reader.read(body(features).as_bytes()).unwrap();
    let (one, other) = (read(SOME), read(SOME));
    assert_eq!(one, JobPayload::parse(body(SOME).as_bytes()).unwrap());
    assert!(Arc::ptr_eq(&one.features, &other.features));
    let other = read(r#"{"failure_reasons":["b"]}"#);
    assert_eq!(other.features.failure_reasons, ["b"]);
    assert!(!other.features.trace_sections);
    assert_eq!(read("null").features, Arc::absent());
    assert_eq!(read("[]").features, Arc::absent());
    assert!(read("{},\"variables\":null").variables.is_empty());
    assert!(read("{},\"variables\":[]").variables.is_empty());
}

/// A variable with this value, which may be shown to everybody.
fn public(key: &str, value: &str) -> String {
    format!(r#"{{"key":"{key}","value":"{value}","public":true,"masked":false}}"#)
}

#[test]
fn variables_that_jobs_have_in_common_are_read_once() {
    let mut reader = PayloadReader::default();
    let mut read = |variables: &[String]| {
        let variables = variables.join(",");
        let body = body("{}").replace("}]}", &format!("}}],\"variables\":[{variables}]}}"));
        let read = reader.read(body.as_bytes()).unwrap();
        assert_eq!(read, JobPayload::parse(body.as_bytes()).unwrap());
        read.variables
    };
    let secret = r#"{"key":"S","value":"s","public":false}"#.to_owned();
    let masked = r#"{"key":"M","value":"m","public":true,"masked":true}"#.to_owned();
    // GitLab marks it otherwise.
    let token = public("CI_JOB_TOKEN", "t");
    let first = read(&[
        public("A", "a"),
        public("ID", "1"),
        secret.clone(),
        masked.clone(),
        token.clone(),
        public("Z", "z"),
    ]);
    let second = read(&[
        public("NEW", "n"),
        public("A", "a"),
        public("ID", "2"),
        secret,
        masked,
        token,
        public("Z", "z"),
    ]);
    assert_eq!(second.len(), 7);
    let shared = |key: &str| {
        let of = |list: &[Arc<JobVariable>]| list.iter().find(|it| it.key == key).cloned();
        Arc::ptr_eq(&of(&first).unwrap(), &of(&second).unwrap())
    };
    assert!(shared("A") && shared("Z"));
    for other in ["ID", "S", "M", "CI_JOB_TOKEN"] {
        assert!(!shared(other), "{other}");
    }
    // As many were new to the second job, so they are known to the third as well.
    let third = read(&[public("A", "a"), public("Z", "z")]);
    assert!(Arc::ptr_eq(&third[0], &first[0]) && Arc::ptr_eq(&third[1], &first[5]));

    // Those of another server, say, take their place when they have come twice.
    let other = [public("B", "b"), public("C", "c")];
    read(&other);
    let (one, two) = (read(&other), read(&other));
    assert!(Arc::ptr_eq(&one[0], &two[0]) && Arc::ptr_eq(&one[1], &two[1]));

    // They are looked for behind each other, however many there are.
    let many: Vec<_> = (0..3 * NEAR)
        .map(|n| public(&format!("V{n}"), "v"))
        .collect();
    read(&many);
    let (one, two) = (read(&many), read(&many));
    assert!(one.iter().zip(&two).all(|(one, two)| Arc::ptr_eq(one, two)));
    // And not far off.
    for (next, is_near) in [(NEAR, true), (NEAR + 1, false)] {
        let read = read(&[many[0].clone(), many[next].clone()]);
        assert_eq!(Arc::ptr_eq(&read[1], &two[next]), is_near, "{next}");
    }
}

#[test]
fn a_variable_with_another_value_is_read_as_ever() {
    let mut reader = PayloadReader::default();
    let with = |value: &str, end: &str| {
        let variables = [
            format!(r#"{{"key":"ID","value":{value},"public":true,"masked":false{end}}}"#),
            format!(r#"{{"key":"S","value":{value},"public":false{end}}}"#),
            format!(r#"{{"key":"CI_REPOSITORY_URL","value":{value},"public":true{end}}}"#),
        ];
        let variables = variables.join(",");
        body("{}").replace("}]}", &format!("}}],\"variables\":[{variables}]}}"))
    };
    let told = |read: Result<JobPayload, PayloadError>| read.map_err(|error| error.to_string());
    let ordered = r#"{"file":false,"key":"K","masked":false,"public":true,"value":"v"}"#;
    let ordered = body("{}").replace("}]}", &format!("}}],\"variables\":[{ordered}]}}"));
    for value in ["v", "w"] {
        let body = ordered.replace("\"v\"", &format!("\"{value}\""));
        let read = reader.read(body.as_bytes()).unwrap();
        assert_eq!(read, JobPayload::parse(body.as_bytes()).unwrap());
        assert!(
            reader
                .known
                .variables
                .iter()
                .all(|known| known.frame.is_some())
        );
    }
    for (value, end) in [
        (r#""hush""#, ""),
        (r#""hush hush""#, ""),
        (r#""""#, ""),
        (r#""\u00fc\"\\""#, ""),
        (r#""ü, }, {""#, ""),
        (r#""a","value":"b""#, ""),
        (r#""a""#, r#","raw":true"#),
        (r#""a""#, r#","value":"b""#),
        (r#""a""#, r#", "raw": true"#),
        (r#""a""#, r#","what":"hush""#),
        (r#""a""#, r#","raw":"true""#),
        ("null", ""),
        ("7", ""),
        ("[]", ""),
        ("\"a\nb\"", ""),
        (r#""hush"#, ""),
        (r#""hush\"#, ""),
        (r#""https://u:hush@host/""#, ""),
    ] {
        let known = with(r#""first""#, end);
        for body in [&known, &with(value, end), &known, &with(value, "")] {
            let read = told(reader.read(body.as_bytes()));
            assert_eq!(read, told(JobPayload::parse(body.as_bytes())), "{body}");
        }
        for known in &reader.known.variables {
            let json = known.json.as_deref().unwrap_or_default();
            let frame = known.frame.as_ref().map_or("", |frame| &frame.tail);
            let texts = [json, frame, &known.variable.value];
            let is_secret = known.variable.key == "S" || value.contains("u:hush");
            assert!(
                !is_secret || !texts.concat().contains("hush"),
                "{value} {end}"
            );
        }
    }
}

#[test]
fn what_is_known_does_not_grow_and_is_not_shown() {
    let mut reader = PayloadReader::default();
    let long = public("LONG", &"x".repeat(KNOWN_LEN));
    let many: Vec<_> = (0..2 * KNOWN)
        .map(|n| public(&n.to_string(), "v"))
        .collect();
    let variables = [vec![long], many].concat().join(",");
    let body = body("{}").replace("}]}", &format!("}}],\"variables\":[{variables}]}}"));
    assert_eq!(
        reader.read(body.as_bytes()).unwrap().variables.len(),
        2 * KNOWN + 1
    );
    assert_eq!(reader.known.variables.len(), KNOWN);
    let shown = format!("PayloadReader {{ known: {KNOWN}, .. }}");
    assert_eq!(format!("{reader:?}"), shown);
}

#[test]
fn only_the_variables_of_the_job_are_those_of_the_job() {
    let (a, b) = (public("A", "a"), public("B", "b"));
    for fields in [
        format!("\"services\":[{{\"variables\":[{a}]}}],\"variables\":[{b}]"),
        format!("\"variables\":[{b}],\"services\":[{{\"variables\":[{a}]}}]"),
        format!("\"what\":{{\"variables\":[{a}]}},\"variables\":[{b}]"),
        format!("\"what\\\"variables\":[{a}],\"variables\":[{b}]"),
        format!("\"what\":\"\\\"variables\\\":[{a:?}]\",\"variables\":[{b}]")
            .replace("[\"", "[")
            .replace("\"]\"", "]\""),
        format!("\"variables\":[{a}],\"variables\":[{b}]"),
        format!("\"variables\":[{a}],\"variables\": [ {b} ]"),
        format!("\"variables\":[{a}],\"\\u0076ariables\":[{b}]"),
        format!("\"variables\":[null,{b}]"),
        format!("\"variables\":[{b} ,null]"),
    ] {
        let mut reader = PayloadReader::default();
        let body = format!("{{\"id\":1,\"token\":\"t\",{fields}}}");
        for _ in 0..2 {
            let read = reader.read(body.as_bytes()).unwrap();
            assert_eq!(read, JobPayload::parse(body.as_bytes()).unwrap(), "{body}");
            assert_eq!(read.variables.len(), 1, "{body}");
            assert_eq!(read.variables[0].key, "B", "{body}");
        }
    }
}

#[test]
fn only_the_features_of_the_job_are_those_of_the_job() {
    let mut reader = PayloadReader::default();
    let parts = |fields: &str| format!("{{\"id\":1,\"token\":\"t\",{fields}}}");
    let known = format!("\"features\":{SOME}");
    reader.read(parts(&known).as_bytes()).unwrap();
    let variables = format!("\"variables\":[{}]", public("A", "a"));
    for fields in [
        format!("{known},{variables}"),
        format!("{variables},{known}"),
        format!("{variables},{known} "),
        format!("{variables},\"features\": {SOME}"),
        format!("{variables},\"image\":{{{known}}}"),
        format!("{variables},\"image\":{{{known}}},\"features\":{{}}"),
        format!("{variables},{known},\"features\":{{\"trace_sections\":true}}"),
        format!("{variables},\"a\\{known}"),
        format!("{variables},{known}1"),
        format!("{variables},{known}{known}"),
        format!("\"variables\":[{{\"key\":\"A\",{known}}}]"),
    ] {
        let body = parts(&fields);
        let told = |read: Result<_, PayloadError>| read.map_err(|error| error.to_string());
        let parsed = told(JobPayload::parse(body.as_bytes()));
        for _ in 0..2 {
            assert_eq!(told(reader.read(body.as_bytes())), parsed, "{body}");
            reader.read(parts(&known).as_bytes()).unwrap();
        }
    }
}

#[test]
fn what_is_wrong_is_told_as_ever() {
    let mut reader = PayloadReader::default();
    for wrong in [
        body("{\"trace_sections\":\"what\"}"),
        body("\"text\""),
        body("{"),
        body("{}") + "x",
        body("{},\"variables\":[{\"key\":7}]"),
        body("{},\"variables\":[\"text\"]"),
        body("{},\"variables\":\"\""),
        body("{},\"variables\":0"),
        body("{},\"variables\":[]e5"),
        body("{},\"variables\":[].5"),
        body("{},\"variables\":[{\"key\":\"A\",\"value\":\"a\"}]E1"),
        body("{},\"variables\":[0]"),
        body("{},\"variables\":["),
        body("{},\"variables\":[{\"key\":\"A\"},]"),
        body("{},\"variables\":[{\"key\":\"A\"}{\"key\":\"B\"}]"),
        body("{},\"variables\":[{\"key\":\"A\"}]]"),
        body("{},\"services\":[{\"variables\":[{\"key\":7}]}]"),
        body("{},\"variables\":{\"key\":7}"),
        body("{}").replace("\"id\":1", "\"id\":0"),
        body("{}").replace("\"t\"", "null"),
        "null".to_owned(),
        "[]".to_owned(),
    ] {
        let error = reader.read(wrong.as_bytes()).unwrap_err().to_string();
        let wanted = JobPayload::parse(wrong.as_bytes()).unwrap_err().to_string();
        assert_eq!(error, wanted);
    }
}

#[test]
fn what_repeats_a_secret_does_not_outlive_its_job() {
    let mut reader = PayloadReader::default();
    let masked = r#"{"key":"PW","value":"hunter2","masked":true}"#;
    let variables = [
        public("URL", "https://u:hunter2@h"),
        masked.to_owned(),
        public("A", "a"),
    ];
    let variables = variables.join(",");
    let body = body("{}").replace("}]}", &format!("}}],\"variables\":[{variables}]}}"));
    for _ in 0..3 {
        let read = reader.read(body.as_bytes()).unwrap();
        assert_eq!(read, JobPayload::parse(body.as_bytes()).unwrap());
        for known in &reader.known.variables {
            let json = known.json.as_deref().unwrap_or_default();
            let texts = [json, &known.variable.value].concat();
            assert!(!texts.contains("hunter2"), "{texts}");
        }
    }
}
