use serde_json::{Value, json};

use super::*;

mod broken;
mod examples;
mod lenient;

const EVERYTHING: &str = include_str!("../../../tests/payloads/everything.json");
const MINIMAL: &str = include_str!("../../../tests/payloads/minimal.json");
const RUN_STEPS: &str = include_str!("../../../tests/payloads/run_steps.json");
const TYPICAL: &str = include_str!("../../../tests/payloads/typical.json");

const EVERYTHING_TOKEN: &str =
    "eyEXAMPLEHEADER.eyEXAMPLEPAYLOADlongJobTokenInJwtForm0003.EXAMPLESIGNATURE";

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn parse(payload: &Value) -> JobPayload {
    JobPayload::parse(payload.to_string().as_bytes()).unwrap()
}

/// The smallest job there is, with some fields set.
fn job(fields: Value) -> JobPayload {
    let mut payload = json!({ "id": 1, "token": "t" });
    payload
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    parse(&payload)
}

#[test]
fn of_several_variables_the_last_one_counts() {
    let payload = parse(&value(EVERYTHING));
    assert_eq!(
        payload.variable("DUPLICATE").unwrap().value,
        "last one wins"
    );
    assert_eq!(payload.variable("duplicate"), None);
}

#[test]
fn everything_secret_is_to_be_masked() {
    let payload = job(json!({
        "token": "job-token",
        "git_info": { "repo_url": "https://u:repo%20password@h/x@y:z.git" },
        "variables": [
            { "key": "A", "value": " masked \n", "masked": true },
            { "key": "A", "value": "masked" },
            { "key": "B", "value": "plain" },
            { "key": "C", "value": " ", "masked": true },
            { "key": "D", "value": "one\ntwo", "masked": true },
            { "key": "E", "value": "hidden-by-a-later-one", "masked": true },
            { "key": "E", "value": "later" },
            { "key": "CI_JOB_TOKEN", "value": "another-job-token" },
            { "key": "CI_REGISTRY_PASSWORD", "value": "job-token" },
            { "key": "CI_REPOSITORY_URL", "value": "https://u:url-password@h/x.git" },
        ],
        "credentials": [{ "password": "registry-password" }, {}],
        "dependencies": [{ "id": 1, "token": "dependency-token" }, { "id": 2 }],
        "inputs": [
            { "key": "a", "value": { "content": "sensitive", "sensitive": true } },
            { "key": "b", "value": { "content": "open", "sensitive": false } },
            { "key": "c", "value": { "content": true, "sensitive": true } },
            { "key": "d", "value": { "content": ["in-array", { "a": "in-struct" }], "sensitive": true } },
            { "key": "e", "value": { "content": 271828, "sensitive": true } },
            { "key": "f", "value": { "content": 999, "sensitive": true } },
        ],
        "secrets": {
            "V": { "vault": { "server": { "auth": { "data": { "jwt": "jwt-vault" } } } }, "token": "$ID_TOKEN" },
            "Z": { "azure_key_vault": { "server": { "jwt": "jwt-azure" } } },
            "G": { "gcp_secret_manager": { "server": { "jwt": "jwt-gcp" } } },
            "W": { "aws_secrets_manager": { "server": { "jwt": "jwt-aws" } } },
            "L": { "gitlab_secrets_manager": { "server": { "inline_auth": { "jwt": "jwt-gitlab" } } } },
            "K": { "akeyless": { "server": {
                "access_key": "100%-key$/akeyless", "akeyless_token": "token-akeyless", "uid_token": "uid-akeyless",
                "k8s_service_account_token": "k8s-akeyless", "jwt": "jwt-akeyless",
            } } },
        },
    }));
    let mut values = payload.mask_values();
    values.sort();
    assert_eq!(
        values,
        [
            "100%-key$/akeyless",
            "271828",
            "another-job-token",
            "dependency-token",
            "hidden-by-a-later-one",
            "in-array",
            "in-struct",
            "job-token",
            "jwt-akeyless",
            "jwt-aws",
            "jwt-azure",
            "jwt-gcp",
            "jwt-gitlab",
            "jwt-vault",
            "k8s-akeyless",
            "masked",
            "one\ntwo",
            "registry-password",
            "repo password",
            "repo%20password",
            "sensitive",
            "token-akeyless",
            "uid-akeyless",
            "url-password",
        ]
    );
    assert_eq!(job(json!({})).mask_values(), ["t"]);
}

#[test]
fn percent_signs_stand_for_characters() {
    for (text, wanted) in [
        ("plain", None),
        ("", None),
        ("50%", None),
        ("%zz%+1", None),
        ("a%20b", Some("a b")),
        ("%c3%A4%", Some("ä%")),
        ("%ff", Some("\u{FFFD}")),
        ("%2", None),
        ("%é", None),
    ] {
        assert_eq!(percent_decoded(text).as_deref(), wanted, "{text}");
    }
}

#[test]
fn passwords_are_found_in_urls() {
    for (url, wanted) in [
        ("https://u:p@h/x", Some("p")),
        ("https://u:p@h", Some("p")),
        ("https://u:p:q@h?x", Some("p:q")),
        ("https://u:p@q@h/", Some("p@q")),
        ("https://:p@h", Some("p")),
        ("https://u@h:1/x:y@z", None),
        ("https://h/u:p@x", None),
        ("u:p@h", None),
        ("", None),
    ] {
        assert_eq!(password(url), wanted, "{url}");
    }
}

#[test]
fn debug_traces_are_asked_for_by_variables() {
    for (value, wanted) in [
        ("true", Some(true)),
        ("TRUE", Some(true)),
        ("True", Some(true)),
        ("t", Some(true)),
        ("T", Some(true)),
        ("1", Some(true)),
        ("false", Some(false)),
        ("F", Some(false)),
        ("0", Some(false)),
        ("2", None),
        ("yes", None),
        ("", None),
    ] {
        for key in ["CI_DEBUG_TRACE", "CI_DEBUG_SERVICES"] {
            let payload = job(json!({ "variables": [
                { "key": key, "value": "true" },
                { "key": key, "value": value },
            ] }));
            assert_eq!(payload.switch(key), wanted, "{key}={value}");
            assert_eq!(payload.is_debug_trace(), wanted == Some(true));
        }
    }
    assert!(!job(json!({})).is_debug_trace());
}

#[test]
fn settings_follow_references_unless_they_are_raw() {
    for (value, raw, said) in [
        (" 5m\n", false, Some("5m")),
        ("${SHORT}m", false, Some("5m")),
        ("$FILE", false, None),
        ("$MISSING ", false, None),
        (" \t", true, None),
        (" $SHORT", true, Some("$SHORT")),
    ] {
        let payload = job(json!({ "variables": [
            { "key": "SHORT", "value": "5" },
            { "key": "FILE", "value": "6", "file": true },
            { "key": "KEY", "value": value, "raw": raw },
        ] }));
        assert_eq!(payload.setting("KEY").as_deref(), said, "{value:?} {raw}");
    }
    assert_eq!(job(json!({})).setting("KEY"), None);
}

#[test]
fn nothing_secret_prints() {
    let text = EVERYTHING
        .replace("\"example\"", "\"EXAMPLE\"")
        .replace("\"5432\"", "\"EXAMPLE\"");
    let payload = JobPayload::parse(text.as_bytes()).unwrap();
    let shown = format!("{payload:?} {payload:#?}");
    for secret in [
        "EXAMPLE",
        "hunter2",
        "stable",
        "last one wins",
        "$literal",
        "$VAULT_ID_TOKEN",
        "$AZ_ID_TOKEN",
        "$GCP_ID_TOKEN",
        "$AWS_ID_TOKEN",
        "$AKEYLESS_ID_TOKEN",
        "kind: Config",
        "acquisition-key",
        "git.example.test",
    ] {
        assert!(text.contains(secret), "{secret} is not in the payload");
        assert!(!shown.contains(secret), "{secret}");
    }
    assert!(shown.contains("make release") && shown.contains("BOTH_FILE_AND_RAW"));
    let value = &payload.inputs[0].value;
    let wanted = format!(
        "InputValue {{ kind: {:?}, sensitive: {}, .. }}",
        value.kind, value.sensitive
    );
    assert_eq!(format!("{value:?}"), wanted);
}

#[test]
fn the_body_is_kept_apart_from_its_fields() {
    let payload = job(json!({ "": { "raw": [1] }, "steps": [{ "name": "script" }] }));
    assert_eq!(payload.raw.get(), None);
    assert_eq!(payload.steps.len(), 1);
    assert_eq!(format!("{:?}", payload.raw), "RawPayload(none)");
    let raw = RawPayload::new("secret".into());
    assert_eq!(format!("{raw:?}"), "RawPayload(6 bytes)");
}
