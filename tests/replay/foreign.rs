//! Archives as browsers and proxies write them, each in its own way.

use std::{fs, io::Write};

use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use gitlab_runner::har::{Har, Mode};
use serde_json::{Value, json};

use crate::world::{path, replay};

/// The entries of a session, to be written in another way.
pub(crate) fn entries(name: &str) -> Vec<Value> {
    let text = fs::read(path(name)).unwrap();
    let mut har: Value = serde_json::from_slice(&text).unwrap();
    std::mem::take(har["log"]["entries"].as_array_mut().unwrap())
}

/// The job in it is run, and ends as it did.
pub(crate) fn is_replayed(entries: &[Value]) {
    let archive = json!({ "log": { "version": "1.2", "pages": [], "entries": entries } });
    // Files of some systems begin with a mark, and end with a line.
    let archive = format!("\u{feff}\r\n{archive}\r\n");
    let har = Har::parse(archive.as_bytes()).unwrap();
    assert_eq!(har.log.entries.len(), entries.len());
    let replayed = replay(&har, Mode::Lenient);
    replayed.verdict.unwrap();
    assert_eq!(replayed.differences, [""; 0]);
    let asked = replayed.ran.har.log.entries;
    let is_final = |text: &str| text.contains("\"success\"") || text.contains("\"failed\"");
    assert!(asked.iter().any(|entry| {
        let body = entry.request.post_data.as_ref();
        entry.request.method == "PUT" && body.is_some_and(|body| is_final(&body.text))
    }));
}

#[test]
fn an_archive_with_null_for_what_it_does_not_know() {
    let mut all = entries("official-failure");
    for entry in &mut all {
        for field in ["cache", "timings", "pageref", "comment", "serverIPAddress"] {
            entry[field] = Value::Null;
        }
        for side in ["request", "response"] {
            entry[side]["cookies"] = Value::Null;
            entry[side]["headersSize"] = Value::Null;
        }
    }
    is_replayed(&all);
}

#[test]
fn an_archive_of_a_browser() {
    let mut all = entries("official-failure");
    for entry in &mut all {
        entry["_initiator"] = json!({ "type": "other" });
        entry["_priority"] = "High".into();
        entry["_resourceType"] = "fetch".into();
        entry["connection"] = "443".into();
        entry["timings"] = json!({
            "blocked": -1, "dns": -1, "ssl": -1, "connect": -1, "send": 0.1, "wait": -5.0,
            "receive": 0.5, "_blocked_queueing": -1,
        });
        for side in ["request", "response"] {
            entry[side]["httpVersion"] = "h3".into();
            let headers = entry[side]["headers"].as_array_mut().unwrap();
            for (name, value) in [
                (":authority", "h"),
                (":method", "x"),
                ("bad name\n", "x\ny"),
            ] {
                headers.insert(0, json!({ "name": name, "value": value, "comment": "" }));
            }
        }
        entry["response"]["_transferSize"] = 100.into();
        entry["response"]["_error"] = Value::Null;
        entry["response"]["statusText"] = "".into();
        let started = entry["startedDateTime"].as_str().unwrap();
        // The same moment elsewhere: all sessions are recorded before noon.
        let hour: u32 = started[11..13].parse().unwrap();
        let there = format!("{}{:02}{}", &started[..11], hour + 5, &started[13..19]);
        entry["startedDateTime"] = format!("{there}.000+05:00").into();
    }
    is_replayed(&all);
}

#[test]
fn what_is_not_asked_of_gitlab_is_passed_over() {
    let mut all = entries("official-failure");
    for url in [
        "data:image/png;base64,iVBORw0KGgo=",
        "blob:https://gitlab.example.com/1e9f",
        "chrome-extension://abc/x y.js",
        "wss://gitlab.example.com/-/cable",
        "about:blank",
        "gitlab.example.com:443",
        "https://gitlab.example.com/\u{fc}ber|{x}",
        "https://other.example.com/a b",
        "",
    ] {
        let entry = json!({ "request": { "method": "GET", "url": url }, "response": {} });
        all.insert(0, entry);
    }
    let bad_body = json!({ "status": 200, "content": { "text": "?", "encoding": "base64" } });
    let request = json!({ "method": "", "url": "https://h/x.png" });
    all.insert(2, json!({ "request": request, "response": bad_body }));
    all.insert(4, Value::Null);
    is_replayed(&all);
}

#[test]
fn bodies_that_were_not_kept() {
    let mut all = entries("mitm-dependency");
    for entry in &mut all {
        let status = entry["response"]["status"].as_i64().unwrap();
        let is_download = entry["request"]["method"] == "GET" && status == 200;
        let content = &mut entry["response"]["content"];
        if is_download || [200, 202, 302].contains(&status) {
            *content = json!({ "size": 100, "mimeType": "text/plain", "comment": "not kept" });
        }
    }
    is_replayed(&all);
}

/// Some runners say so while they prepare a job.
#[test]
fn a_job_that_is_pending_has_not_ended() {
    let mut all = entries("official-failure");
    let commit = all.iter().position(|it| it["request"]["method"] == "PUT");
    let mut pending = all[commit.unwrap()].clone();
    let text = &mut pending["request"]["postData"]["text"];
    *text = text
        .as_str()
        .unwrap()
        .replace("\"failed\"", "\"pending\"")
        .into();
    assert!(text.as_str().unwrap().contains("pending"));
    all.insert(commit.unwrap(), pending);
    is_replayed(&all);
}

/// `mitmproxy`, for one, writes each when it is over.
#[test]
fn entries_are_put_in_order() {
    let mut all = entries("mitm-dependency");
    all.reverse();
    is_replayed(&all);
    all.sort_by_key(|entry| entry["request"]["method"].to_string());
    is_replayed(&all);
}

#[test]
fn bodies_that_are_still_compressed() {
    let mut all = entries("official-failure");
    for entry in &mut all {
        let response = &mut entry["response"];
        let Some(text) = response["content"]["text"].as_str() else {
            continue;
        };
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        response["content"]["text"] = BASE64_STANDARD.encode(gzip.finish().unwrap()).into();
        response["content"]["encoding"] = "base64".into();
        let header = json!({ "name": "Content-Encoding", "value": "gzip" });
        response["headers"].as_array_mut().unwrap().push(header);
    }
    is_replayed(&all);
}

#[test]
fn a_redirect_may_be_written_in_other_ways() {
    for location in [
        "/uploads/x?sig=1",
        "https://gitlab.example.test:443/uploads/x?sig=1#top",
        "https://GitLab.example.test/uploads/x?sig=1",
    ] {
        let mut all = entries("mitm-dependency");
        let mut changed = 0;
        for entry in &mut all {
            let headers = entry["response"]["headers"].as_array_mut().unwrap();
            for header in headers.iter_mut().filter(|it| it["name"] == "Location") {
                header["value"] = location.into();
                changed += 1;
            }
            let url = entry["request"]["url"].as_str().unwrap();
            if !url.contains("/api/v4/") {
                let url = "https://gitlab.example.test/uploads/x?sig=1";
                entry["request"]["url"] = url.into();
                changed += 1;
            }
        }
        assert!(changed >= 2);
        is_replayed(&all);
    }
}
