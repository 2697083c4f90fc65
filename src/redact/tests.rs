use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde_json::json;

use super::*;

fn redacted(redactor: &mut Redactor, body: &str) -> String {
    String::from_utf8(redactor.json(body.as_bytes()).into_owned()).unwrap()
}

#[test]
fn the_same_secret_is_the_same_placeholder() {
    let mut redactor = Redactor::new();
    let body = redacted(&mut redactor, r#"{ "token" : "glrt-abcdef", "x": 1.0 }"#);
    assert_eq!(body, r#"{ "token" : "glrt-redacted-1", "x": 1.0 }"#);
    assert_eq!(
        redactor.text("is glrt-abcdef good?"),
        "is glrt-redacted-1 good?"
    );
    assert_eq!(
        redactor.header("JOB-TOKEN", "glrt-abcdef"),
        "glrt-redacted-1"
    );
    assert_eq!(
        redactor.header("Authorization", "Bearer glcbt-2_xyz"),
        "Bearer glcbt-redacted-2"
    );
    // And once more, it stays.
    assert_eq!(redacted(&mut redactor, &body), body);
}

#[test]
fn secrets_of_a_payload_are_found_by_their_marks() {
    let payload = json!({
        "id": 7, "token": "eyJ.job.jwt",
        "variables": [
            { "key": "MASKED", "value": "hidden \"one\"\nline", "public": false, "masked": true },
            { "key": "FILE", "value": "-----BEGIN KEY-----\nabc\n", "public": true, "file": true },
            { "key": "PRIVATE", "value": "not for everybody", "public": false, "masked": false },
            { "key": "CI_DEBUG_TRACE", "value": "true", "public": false, "masked": false },
            { "key": "CI_JOB_TOKEN", "value": "eyJ.job.jwt", "public": true, "masked": false },
            { "key": "CI_REPOSITORY_URL", "public": false, "masked": false,
              "value": "https://gitlab-ci-token:eyJ.job.jwt@gitlab.example.com/a.git" },
            { "key": "SHOWN", "value": "everybody may read this", "public": true, "masked": false },
            { "key": "PIN", "value": "1", "public": false, "masked": true },
        ],
        "inputs": [{ "key": "pin", "value":
            { "type": "string", "content": "sensitive input", "sensitive": true } }],
        "credentials": [{ "username": "me", "password": "registry-pass" }],
        "secrets": { "A": { "vault": { "server": { "auth": { "data": { "jwt": "$ID_TOKEN" } } } } } },
        "git_info": { "repo_url": "https://gitlab-ci-token:clone%2Fpass@gitlab.example.com/a.git" },
    });
    let mut redactor = Redactor::new();
    let body = redacted(&mut redactor, &payload.to_string());
    let after: serde_json::Value = serde_json::from_str(&body).unwrap();
    for secret in [
        "sensitive input",
        "job.jwt",
        "hidden",
        "BEGIN",
        "everybody\"",
        "registry-pass",
        "clone",
        "not for",
    ] {
        assert!(!body.contains(secret), "{secret}: {body}");
    }
    assert_eq!(after["id"], 7);
    assert_eq!(after["variables"][3]["value"], "true");
    assert_eq!(after["variables"][4]["value"], after["token"]);
    assert_eq!(after["variables"][6], payload["variables"][6]);
    assert_eq!(after["secrets"], payload["secrets"]);
    assert!(
        after["variables"][7]["value"]
            .as_str()
            .unwrap()
            .starts_with("redacted-")
    );
    let url = after["variables"][5]["value"].as_str().unwrap();
    let token = after["token"].as_str().unwrap();
    assert_eq!(
        url,
        format!("https://gitlab-ci-token:{token}@gitlab.example.com/a.git")
    );
    // In whatever form it shows up.
    let log = "hidden \"one\"\nline";
    assert!(redactor.text(log).starts_with("redacted-"));
    assert!(
        !redactor
            .text(&json!({ "a": log }).to_string())
            .contains("hidden")
    );
    assert!(!redactor.url("https://h/?x=clone%2Fpass").contains("clone"));
}

#[test]
fn a_text_that_is_cut_or_no_json_is_redacted_too() {
    let mut redactor = Redactor::new();
    let cut = redacted(
        &mut redactor,
        r#"{"id":1,"token":"secret-token","variables":[{"key":"A","masked":true,"value":"masked-va"#,
    );
    assert!(
        !cut.contains("secret-token") && !cut.contains("masked-va"),
        "{cut}"
    );
    assert!(!redacted(&mut redactor, "<p>secret-token</p>").contains("secret"));
    let bytes = redactor.bytes(b"\xff secret-token \xff").into_owned();
    assert_eq!(bytes, b"\xff redacted-1 \xff");
    for odd in [
        "",
        "\"",
        "{\"",
        "}}]",
        "{\"token\":",
        "\"\\",
        "{\"token\":\"\\u12\"}",
    ] {
        redacted(&mut redactor, odd);
    }
}

#[test]
fn a_value_that_is_cut_before_its_marks_is_a_secret() {
    for end in ["", ",", r#","pub"#, r#","public":true,"masked":tr"#] {
        let mut redactor = Redactor::new();
        let body = r#"{"variables":[{"key":"B","value":"shown to all","public":true},"#;
        let cut = format!(r#"{body}{{"key":"A","value":"masked-value"{end}"#);
        let cut = redacted(&mut redactor, &cut);
        assert!(!cut.contains("masked-value"), "{cut}");
        assert!(cut.contains("shown to all"), "{cut}");
    }
    let mut redactor = Redactor::new();
    let cut = redacted(&mut redactor, r#"{"ok":true,"a":{"key":"A","value":"true""#);
    assert_eq!(cut, r#"{"ok":true,"a":{"key":"A","value":"redacted-0""#);
}

#[test]
fn parameters_of_urls_are_secrets() {
    let mut redactor = Redactor::new();
    let url = redactor.url("https://s3.test/a.zip?X-Amz-Signature=abc%3Ddef&partNumber=1");
    assert_eq!(
        url,
        "https://s3.test/a.zip?X-Amz-Signature=redacted-1&partNumber=1"
    );
    assert_eq!(redactor.text("abc=def"), "redacted-1");
}

#[test]
fn there_are_many_ways_to_encode_the_same() {
    for raw in [
        "ab%2bcd%3d",
        "ab%2Bcd%3d",
        "ab+cd=",
        "ab+cd%3D",
        "%61b%2Bcd%3D",
    ] {
        let mut redactor = Redactor::new();
        let url = redactor.url(&format!("https://s3.test/a?sig={raw}&n=1"));
        assert_eq!(url, "https://s3.test/a?sig=redacted-1&n=1", "{raw}");
        assert_eq!(redactor.text("ab+cd="), "redacted-1", "{raw}");
        assert_eq!(redactor.text("ab%2Bcd%3D"), "redacted-1", "{raw}");
    }
    let mut redactor = Redactor::new();
    redactor.learn_url("https://h.test/?token=two+words");
    assert_eq!(redactor.text("two words"), "redacted-1");
    for raw in ["pa+ss", "pa%2bss", "pa%2Bss"] {
        let mut redactor = Redactor::new();
        let url = redactor.url(&format!("https://u:{raw}@host/a?b=pa+ss"));
        assert_eq!(url, "https://u:redacted-1@host/a?b=redacted-1", "{raw}");
    }
}

#[test]
fn a_secret_is_known_however_it_is_percent_encoded() {
    let secret = "clé \"of\" a/door+";
    let lower: String = secret.bytes().map(|it| format!("%{it:02x}")).collect();
    let quoted = json!({ "it": secret }).to_string();
    let upper: String = quoted.bytes().map(|it| format!("%{it:02X}")).collect();
    for (text, wanted) in [
        (
            format!("/?a={lower}&b=1%20"),
            "/?a=redacted-1&b=1%20".to_owned(),
        ),
        (
            "x=cl%C3%A9%20%22of%22%20a%2fdoor+!".to_owned(),
            "x=redacted-1!".to_owned(),
        ),
        (
            format!("<{upper}>"),
            "<%7B%22%69%74%22%3A%22redacted-1%22%7D>".to_owned(),
        ),
        (
            format!("{lower}{lower} {lower}%"),
            "redacted-1redacted-1 redacted-1%".to_owned(),
        ),
        ("100% of %zz %4".to_owned(), "100% of %zz %4".to_owned()),
    ] {
        let mut redactor = Redactor::new();
        redactor.learn(secret);
        assert_eq!(redactor.text(&text), wanted);
        assert_eq!(redactor.bytes(text.as_bytes()), wanted.as_bytes());
        let body = redacted(&mut redactor, &json!([text]).to_string());
        assert_eq!(body, json!([wanted]).to_string());
    }
    let mut redactor = Redactor::new();
    redactor.learn(secret);
    let word = format!("{}{lower}", "%41".repeat(30_000));
    assert!(!redactor.text(&word).ends_with(&lower));
}

#[test]
fn a_secret_is_known_in_json_within_json() {
    let secret = "a \"quoted\" one\\\n";
    let mut redactor = Redactor::new();
    redactor.learn(secret);
    let mut body = secret.trim().to_owned();
    for _ in 0..3 {
        body = json!({ "text": body }).to_string();
        let after = redacted(&mut redactor, &body);
        assert!(
            !after.contains("quoted") && after.contains("redacted-1"),
            "{after}"
        );
    }
}

#[test]
fn every_url_of_a_text_is_searched_and_tokens_are_known_by_their_prefix() {
    let mut redactor = Redactor::new();
    let body = redacted(
        &mut redactor,
        r#"{"a":"https://h/a http://u:first-pass@h/ and ssh://u:other%2fpass@h","b":"https://0123456789abcdef@h/",
            "c":"https://somebody@h/","d":"curl -H 'X: glpat-abcdef012345' glpat-[MASKED]"}"#,
    );
    for secret in ["first-pass", "other", "0123456789abcdef", "abcdef012345"] {
        assert!(!body.contains(secret), "{secret}: {body}");
    }
    assert!(body.contains("https://somebody@h/"), "{body}");
    assert!(body.contains("'X: glpat-redacted-"), "{body}");
    assert!(body.contains("' glpat-[MASKED]"), "{body}");
    assert_eq!(redacted(&mut redactor, &body), body);
    redacted(&mut redactor, r#"["It is glrt-0123456789."]"#);
    assert!(!redactor.text("glrt-0123456789").contains("0123"));
}

#[test]
fn urls_are_searched_wherever_they_stand() {
    for text in [
        "/uploads/a.zip?X-Amz-Signature=hidden-one&n=1",
        "uploads/a.zip?token=hidden-one#top",
        "https://h/back#access_token=hidden-one",
        "https://h/login?to=https%3A%2F%2Fh%2F%3Fprivate_token%3Dhidden-one%26n%3D1",
        "https://h/login?to=%2Flogin%3Fto%3D%252Fa%253Fsig%253Dhidden-one",
        "<a href=\"https://h/a?n=1&amp;X-Goog-Signature=hidden-one\">moved</a>",
        "see https://h/a?Signature=hidden-one for more",
        "<https://h/a?n=1&rss_token=hidden-one>; rel=\"next\"",
    ] {
        let mut redactor = Redactor::new();
        redactor.learn_text(text);
        let after = redactor.text(text).into_owned();
        assert!(!after.contains("hidden-one"), "{after}");
        assert_eq!(after, text.replace("hidden-one", "redacted-1"));
        let mut redactor = Redactor::new();
        assert_eq!(redactor.header("Location", text), after, "{text}");
        let mut redactor = Redactor::new();
        let body = redacted(&mut redactor, &json!({ "message": text }).to_string());
        assert!(!body.contains("hidden-one"), "{body}");
    }
    // Neither for ever, nor beyond what the stack has room for.
    let deep = format!("https://h/?to={}3F", "%25".repeat(100_000));
    Redactor::new().learn_text(&deep);
}

#[test]
fn what_only_looks_like_a_secret_stays() {
    for text in [
        "https://h/?page=1&token=true&tokens=many-of-them",
        "is it a token=maybe-not",
        "x;y=z&signature",
    ] {
        let mut redactor = Redactor::new();
        redactor.learn_text(text);
        assert_eq!(redactor.text(text), text);
    }
    let mut redactor = Redactor::new();
    assert_eq!(redactor.header("X-Needs-Token", "true"), "redacted-0");
    assert_eq!(redactor.text("it is true"), "it is true");
}

#[test]
fn cookies_and_keys_of_all_kinds_are_secrets() {
    let mut redactor = Redactor::new();
    for name in [
        "Cookie",
        "X-Api-Key",
        "X-Vault-Token",
        "Proxy-Authorization",
    ] {
        assert!(
            redactor
                .header(name, "hidden-header")
                .starts_with("redacted-"),
            "{name}"
        );
    }
    redactor.header(
        "Set-Cookie",
        "_gitlab_session=0123456789abcdef; path=/; secure",
    );
    assert!(
        !redactor
            .text("the session 0123456789abcdef")
            .contains("0123")
    );
    let body =
        r#"{"client_secret":"hidden-a","registry_password":"hidden-b","id_token":"hidden-c"}"#;
    assert!(!redacted(&mut redactor, body).contains("hidden"));
}

#[test]
fn base64_hides_nothing() {
    let secret = "glrt-t1_hidden+secret/";
    for before in ["", "a", "ab", "abc"] {
        for after in ["", "z", "}}"] {
            let mut redactor = Redactor::new();
            redactor.learn(secret);
            let text = format!("{before}{secret}{after}");
            for text in [
                BASE64_STANDARD.encode(&text),
                BASE64_URL_SAFE_NO_PAD.encode(&text),
            ] {
                let shown = redactor.text(&format!("is {text} it")).into_owned();
                assert!(shown.contains("redacted-1"), "{text} {shown}");
                // No run of it is left that says more than a few characters.
                let left = shown.split("glrt-redacted-1").flat_map(|it| it.split(' '));
                assert!(left.into_iter().all(|it| it.len() <= 8), "{text} {shown}");
            }
        }
    }
    // Too little is left of it.
    let mut redactor = Redactor::new();
    redactor.learn("abcdefg");
    let text = BASE64_STANDARD.encode("abcdefg");
    assert_eq!(redactor.text(&text), text);
}

#[test]
fn not_all_that_begins_with_a_dollar_is_a_reference() {
    let mut redactor = Redactor::new();
    let body = r#"{"password":"$ecret","token":"$TOKEN","jwt":"$2y$10$hash","secret":"${a"}"#;
    let after = redacted(&mut redactor, body);
    for secret in ["$ecret", "TOKEN", "hash", "{a"] {
        assert!(!after.contains(secret), "{secret}: {after}");
    }
    let body = r#"{"jwt":"$ID_TOKEN","access_key":"${KEY_2}"}"#;
    assert_eq!(redacted(&mut Redactor::new(), body), body);
}

#[test]
fn sensitive_inputs_of_any_type_are_secrets() {
    let mut redactor = Redactor::new();
    let body = r#"{"id":4711,"inputs":[
        {"key":"a","value":{"content":["first secret",["nested one"]],"type":"array","sensitive":true}},
        {"key":"n","value":{"type":"number","content":-4711,"sensitive":true}},
        {"key":"m","value":{"type":"number","content":123456789.5,"sensitive":true}},
        {"key":"p","value":{"type":"array","content":["shown to all",4711],"sensitive":false}}]}"#;
    let after = redacted(&mut redactor, body);
    let read: serde_json::Value = serde_json::from_str(&after).unwrap();
    assert_eq!(read["inputs"][1]["value"]["content"], "redacted-0");
    for secret in ["first", "nested", "-4711", "\"content\":123456789"] {
        assert!(!after.contains(secret), "{secret}: {after}");
    }
    for kept in [
        r#""id":4711"#,
        r#"["shown to all",4711]"#,
        r#""type":"array""#,
    ] {
        assert!(after.contains(kept), "{kept}: {after}");
    }
}

#[test]
fn a_payload_names_further_prefixes_of_tokens() {
    let mut redactor = Redactor::new();
    let body =
        r#"{"a":"is acme-0123456789 good","features":{"token_mask_prefixes":["acme-","a"]}}"#;
    let after = redacted(&mut redactor, body);
    assert!(after.contains(r#""is redacted-1 good""#), "{after}");
    assert!(after.contains(r#"["acme-","a"]"#), "{after}");
}

#[test]
fn it_can_be_switched_off_and_has_an_end() {
    let mut off = Redactor::off();
    let body = r#"{"token":"glrt-abcdef"}"#;
    assert_eq!(redacted(&mut off, body), body);
    let mut redactor = Redactor::new();
    redactor.learn(&"x".repeat(MAX_BYTES + 1));
    assert!(redactor.is_full());
}

/// What was redacted is redacted again, as parts of texts are.
#[test]
fn placeholders_stay_whatever_they_are_made_of() {
    let mut redactor = Redactor::new();
    for secret in ["glrt-abcdefgh", "glrt-redacted", "redacted", "dacted-1"] {
        redactor.learn(secret);
    }
    let once = redactor
        .text("glrt-abcdefgh glrt-redacted redacted. dacted-1")
        .into_owned();
    assert_eq!(
        once,
        "glrt-redacted-1 glrt-redacted-2 redacted-3. redacted-4"
    );
    assert_eq!(redactor.text(&once), once);
}

/// Long words are looked at in pieces, which a secret may lie across.
#[test]
fn a_secret_is_found_wherever_it_stands_in_a_long_word() {
    let secret = "geheim/schlüssel?";
    let encoded: String = secret.bytes().map(|it| format!("%{it:02x}")).collect();
    for before in [0, 1, 21_825, 21_830, 21_840, 21_845, 50_000] {
        let mut redactor = Redactor::new();
        redactor.learn(secret);
        let text = ["%41".repeat(before), encoded.clone(), "%42".repeat(30_000)].concat();
        let after = redactor.text(&text).into_owned();
        let wanted = text.replace(&encoded, "redacted-1");
        assert!(after == wanted, "behind {before}");
    }
}
