//! A replay that parts from its recording says where.

use gitlab_runner::har::{Har, HarServer, Mismatch, Mode};
use serde_json::{Value, json};

use crate::world::{TOKEN, replay, session};

/// What is said about a recording that was changed so.
fn parted(name: &str, change: impl Fn(&mut Value)) -> (Mismatch, String) {
    let mut har: Value = serde_json::from_str(&session(name).to_json()).unwrap();
    change(&mut har["log"]["entries"]);
    let har = Har::parse(har.to_string().as_bytes()).unwrap();
    let mismatch = replay(&har, Mode::Strict).verdict.unwrap_err();
    let shown = mismatch.to_string();
    assert!(!shown.contains(TOKEN), "{shown}");
    (mismatch, shown)
}

/// The place of the first entry that is asked so.
fn place(entries: &Value, method: &str, end: &str) -> usize {
    let is = |entry: &Value| {
        let url = entry["request"]["url"].as_str().unwrap();
        entry["request"]["method"] == method && url.split('?').next().unwrap().ends_with(end)
    };
    entries.as_array().unwrap().iter().position(is).unwrap()
}

#[test]
fn another_body_is_shown_beside_the_recorded_one() {
    let (mismatch, shown) = parted("success", |entries| {
        let patch = place(entries, "PATCH", "trace");
        let text = entries[patch]["request"]["postData"]["text"]
            .as_str()
            .unwrap();
        let text = text.replace("hello", "hallo");
        entries[patch]["request"]["postData"]["text"] = text.into();
    });
    assert!(mismatch.entry.is_some());
    assert!(
        shown.contains("the body is another one from byte 1 ("),
        "{shown}"
    );
    let line = shown.lines().find(|line| line.starts_with('>')).unwrap();
    let (expected, actual) = line.split_once('|').unwrap();
    assert!(
        expected.contains("hallo") && actual.contains("hello"),
        "{shown}"
    );
    assert_eq!(
        shown.lines().filter(|line| line.starts_with('>')).count(),
        1,
        "{shown}"
    );
}

#[test]
fn another_header_query_or_field_is_named() {
    let (_, shown) = parted("success", |entries| {
        let patch = place(entries, "PATCH", "trace");
        for header in entries[patch]["request"]["headers"].as_array_mut().unwrap() {
            if header["name"] == "content-range" {
                header["value"] = "0-3".into();
            }
        }
    });
    assert!(
        shown.contains("the header content-range has another value"),
        "{shown}"
    );
    let (_, shown) = parted("success", |entries| {
        let patch = place(entries, "PATCH", "trace");
        let url = entries[patch]["request"]["url"].as_str().unwrap();
        let url = url.replace("debug_trace=false", "debug_trace=true");
        entries[patch]["request"]["url"] = url.into();
    });
    assert!(shown.contains("the query is debug_trace=false"), "{shown}");
    let (_, shown) = parted("failure", |entries| {
        let all = entries.as_array_mut().unwrap();
        for entry in all {
            let Some(text) = entry["request"]["postData"]["text"].as_str() else {
                continue;
            };
            entry["request"]["postData"]["text"] =
                text.replace("\"exit_code\":3", "\"exit_code\":4").into();
        }
    });
    let line = shown.lines().find(|line| line.starts_with('>')).unwrap();
    assert!(
        line.contains("\"exit_code\": 4") || line.contains("exit_code"),
        "{shown}"
    );
}

#[test]
fn a_request_that_is_not_recorded_is_beside_the_nearest() {
    let (mismatch, shown) = parted("success", |entries| {
        let commit = place(entries, "PUT", "jobs/4001");
        entries.as_array_mut().unwrap().remove(commit);
    });
    assert!(shown.contains("PUT /api/v4/jobs/4001"), "{shown}");
    assert!(!mismatch.actual.is_empty());
    let (_, shown) = parted("success", |entries| {
        for entry in entries.as_array_mut().unwrap() {
            let url = entry["request"]["url"].as_str().unwrap();
            entry["request"]["url"] = url.replace("/trace", "/trail").into();
        }
    });
    assert!(
        shown.contains("PATCH jobs/4001/trace is not recorded (any more)"),
        "{shown}"
    );
}

#[test]
fn a_recorded_request_that_is_not_sent_is_named() {
    let (mismatch, shown) = parted("failure", |entries| {
        let last = place(entries, "POST", "jobs/request");
        let mut more = entries[last].clone();
        more["request"]["url"] = "https://gitlab.example.test/api/v4/jobs/9/trace".into();
        more["request"]["method"] = "PATCH".into();
        entries.as_array_mut().unwrap().push(more);
    });
    assert!(
        shown.contains("PATCH jobs/9/trace was not asked"),
        "{shown}"
    );
    assert!(mismatch.actual.is_empty() && !mismatch.expected.is_empty());
}

#[test]
fn what_cannot_be_replayed_is_refused_with_its_place() {
    let entry =
        |request: Value, response: Value| json!({ "request": request, "response": response });
    let good = json!({ "method": "POST", "url": "https://h/api/v4/jobs/request" });
    for (entries, what) in [
        (json!([]), "no entry of it is a request of a runner"),
        (
            json!([entry(
                json!({ "method": "GET", "url": "https://h/" }),
                json!({})
            )]),
            "no entry",
        ),
        (
            json!([
                entry(json!({ "method": "GET", "url": "::" }), json!({})),
                entry(
                    json!({ "method": "GET", "url": "https://h h/api/v4/jobs/1" }),
                    json!({})
                )
            ]),
            "entry 1 of the archive cannot be replayed: its URL is none",
        ),
        (
            json!([entry(
                json!({ "method": "a b", "url": "https://h/api/v4/jobs/1" }),
                json!({})
            )]),
            "method",
        ),
        (
            json!([entry(good.clone(), json!({ "status": 7 }))]),
            "its status is none",
        ),
        (
            json!([entry(
                good.clone(),
                json!({ "status": 200, "content": { "text": "?", "encoding": "base64" } })
            )]),
            "base64",
        ),
        (
            json!([entry(
                good.clone(),
                json!({ "status": 201, "content": { "size": 900 } })
            )]),
            "entry 0 of the archive cannot be replayed: the job that it hands out was not kept",
        ),
        (
            json!([entry(
                good,
                json!({
                    "status": 201, "content": { "text": "/wBB", "encoding": "base64" },
                    "headers": [{ "name": "Content-Encoding", "value": "br" }],
                })
            )]),
            "compressed, and cannot be unpacked",
        ),
    ] {
        let har = json!({ "log": { "entries": entries } }).to_string();
        let har = Har::parse(har.as_bytes()).unwrap();
        let error = HarServer::new(&har, Mode::Strict).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn of_long_bodies_the_place_where_they_part_is_shown() {
    let (mismatch, shown) = parted("success", |entries| {
        let patch = place(entries, "PATCH", "trace");
        let data = &mut entries[patch]["request"]["postData"];
        let text = data["text"].as_str().unwrap();
        data["text"] = format!("{text}{}", "x".repeat(3 << 20)).into();
    });
    assert!(mismatch.expected.iter().map(String::len).sum::<usize>() < 40_000);
    assert!(shown.contains("(3145"), "{shown}");
}
