//! Archives in the words of programs that people have: what each of them leaves out, adds and says in its
//! own way. Each is replayed, and one that was changed says where it parts.

use std::fs;

use base64::{Engine, prelude::BASE64_STANDARD};
use gitlab_runner::har::{Har, Mode};
use serde_json::{Value, json};

use crate::{
    foreign::{entries, is_replayed},
    world::{path, replay},
};

const SESSIONS: [&str; 4] = [
    "official-failure",
    "mitm-success",
    "mitm-artifact",
    "mitm-dependency",
];

/// Each session in other words, to be replayed and to part.
fn each(creator: &str, write: impl Fn(usize, &mut Value)) {
    for session in SESSIONS {
        let mut all = entries(session);
        for (number, entry) in all.iter_mut().enumerate() {
            write(number, entry);
        }
        is_replayed(&all);
    }
    let mut all = entries("mitm-success");
    let number = all.iter().position(|it| it["request"]["method"] == "PATCH");
    let number = number.unwrap();
    let text = &mut all[number]["request"]["postData"]["text"];
    let changed = text.as_str().unwrap().replacen('e', "E", 1);
    assert_ne!(*text, changed);
    *text = changed.into();
    for (number, entry) in all.iter_mut().enumerate() {
        write(number, entry);
    }
    let archive = json!({ "log": { "creator": { "name": creator }, "entries": all } });
    let har = Har::parse(archive.to_string().as_bytes()).unwrap();
    let mismatch = replay(&har, Mode::Strict).verdict.unwrap_err();
    assert_eq!(mismatch.entry, Some(number), "{creator}: {mismatch}");
    let shown = mismatch.to_string();
    assert!(
        shown.contains("the body is another one from byte"),
        "{creator}: {shown}"
    );
}

fn headers<'a>(entry: &'a mut Value, side: &str) -> &'a mut Vec<Value> {
    entry[side]["headers"].as_array_mut().unwrap()
}

fn lower_case(entry: &mut Value) {
    for side in ["request", "response"] {
        for header in headers(entry, side) {
            header["name"] = header["name"].as_str().unwrap().to_lowercase().into();
        }
    }
}

fn is_upload(entry: &Value) -> bool {
    let kind = &entry["request"]["postData"]["mimeType"];
    kind.as_str()
        .is_some_and(|kind| kind.starts_with("multipart/"))
}

/// When it began, with so many digits of the second.
fn started(entry: &Value, digits: usize, zone: &str) -> Value {
    let text = entry["startedDateTime"].as_str().unwrap();
    let (date, fraction) = text
        .trim_end_matches('Z')
        .split_once('.')
        .unwrap_or((text, ""));
    let date = &date[..19];
    let fraction = fraction.split('+').next().unwrap_or_default();
    format!("{date}.{fraction:0<digits$.digits$}{zone}").into()
}

#[test]
fn chrome() {
    each("WebInspector", |number, entry| {
        lower_case(entry);
        let authority = json!({ "name": ":authority", "value": "gitlab.example.test" });
        headers(entry, "request").insert(0, authority);
        entry["startedDateTime"] = started(entry, 3, "Z");
        entry["_initiator"] = json!({ "type": "script", "stack": { "callFrames": [] } });
        entry["_connectionId"] = number.to_string().into();
        entry["_priority"] = "High".into();
        entry["pageref"] = "page_1".into();
        entry["serverIPAddress"] = "[::1]".into();
        entry["timings"] = json!({
            "blocked": 1.5, "dns": -1, "ssl": -1, "connect": -1, "send": 0.2,
            "wait": entry["timings"]["wait"], "receive": 0.3, "_blocked_queueing": 1.1,
        });
        // Files are not shown.
        if is_upload(entry) {
            let file =
                json!({ "name": "file", "fileName": "a.zip", "contentType": "application/zip" });
            let kind = entry["request"]["postData"]["mimeType"].clone();
            entry["request"]["postData"] = json!({ "mimeType": kind, "params": [file] });
        }
        for side in ["request", "response"] {
            entry[side]["httpVersion"] = "http/2.0".into();
            entry[side]["headersSize"] = (-1).into();
        }
        entry["response"]["statusText"] = "".into();
        entry["response"]["bodySize"] = (-1).into();
        entry["response"]["_transferSize"] = 812.into();
    });
}

#[test]
fn firefox() {
    each("Firefox", |_, entry| {
        entry["startedDateTime"] = started(entry, 3, "+00:00");
        entry["_securityState"] = "secure".into();
        entry["cache"] = json!({ "afterRequest": null });
        entry["connection"] = "443".into();
        entry["time"] = entry["time"].as_f64().unwrap().round().into();
        for side in ["request", "response"] {
            entry[side]["httpVersion"] = "HTTP/2".into();
        }
        let content = &mut entry["response"]["content"];
        if let Some(text) = content["text"].as_str().map(str::to_owned)
            && content["encoding"].is_null()
        {
            content["text"] = BASE64_STANDARD.encode(text).into();
            content["encoding"] = "base64".into();
            content["comment"] = "".into();
        }
    });
}

#[test]
fn charles() {
    each("Charles Proxy", |_, entry| {
        entry["startedDateTime"] = started(entry, 3, "+00:00");
        entry["time"] = entry["time"].as_f64().unwrap().round().into();
        let is_lost = entry["response"]["status"] == 0;
        if is_lost {
            entry["response"] = json!({
                "_charlesStatus": "Failed", "_remoteClosed": true, "status": null, "content": null,
                "headers": [], "errorMessage": "Connection dropped",
            });
        } else {
            entry["response"]["_charlesStatus"] = "Complete".into();
        }
        for side in ["request", "response"] {
            if let Some(side) = entry[side].as_object_mut() {
                side.remove("cookies");
                side.remove("queryString");
            }
        }
    });
}

#[test]
fn fiddler() {
    each("Fiddler", |number, entry| {
        entry["startedDateTime"] = started(entry, 7, "+00:00");
        entry["comment"] = format!("[#{}]", number + 1).into();
        entry["connection"] = "ClientPort:50123;EgressPort:50124".into();
        entry["time"] = entry["time"].as_f64().unwrap().round().to_string().into();
        entry["timings"] =
            json!({ "dns": 0, "connect": 0, "ssl": 0, "send": 0, "wait": 9, "receive": 0 });
        entry["response"]["status"] = entry["response"]["status"].to_string().into();
        entry["request"]["headersSize"] = 380.into();
        if let Some(content) = entry["response"]["content"].as_object_mut() {
            content.insert("compression".to_owned(), 0.into());
        }
    });
    // A proxy sees where a tunnel leads before what is in it.
    let mut all = entries("mitm-success");
    let url = "http://gitlab.example.test:443";
    let tunnel = json!({
        "startedDateTime": all[0]["startedDateTime"],
        "request": { "method": "CONNECT", "url": url, "headers": [], "bodySize": 0 },
        "response": { "status": 200, "statusText": "Connection Established", "content": {} },
    });
    all.insert(0, tunnel);
    is_replayed(&all);
}

#[test]
fn as_little_as_possible() {
    each("by hand", |_, entry| {
        let (request, response) = (&entry["request"], &entry["response"]);
        let mut written = json!({
            "startedDateTime": entry["startedDateTime"],
            "request": {
                "method": request["method"], "url": request["url"], "headers": request["headers"],
            },
            "response": { "status": response["status"], "headers": response["headers"] },
        });
        for (side, field, part) in [
            ("request", "postData", "text"),
            ("response", "content", "text"),
        ] {
            if let Some(text) = entry[side][field].get(part) {
                written[side][field][part] = text.clone();
            }
        }
        if let Some(encoding) = entry["response"]["content"].get("encoding") {
            written["response"]["content"]["encoding"] = encoding.clone();
        }
        *entry = written;
    });
}

/// What cannot be replayed is said, with its place.
#[test]
fn what_no_replay_can_make_up() {
    let archive: Value =
        serde_json::from_slice(&fs::read(path("official-failure")).unwrap()).unwrap();
    for (change, wanted) in [
        (
            json!({ "size": 2000, "mimeType": "application/json" }),
            "the job that it hands out was not kept",
        ),
        (
            json!({ "size": 9, "text": "{\"id\":", "encoding": "base64" }),
            "the body of its reply is no base64",
        ),
        (
            json!({ "size": 9, "text": BASE64_STANDARD.encode(b"\x8b\x02\x80\xff"), "encoding": "base64" }),
            "the body of its reply is compressed, and cannot be unpacked",
        ),
    ] {
        let mut archive = archive.clone();
        let entry = &mut archive["log"]["entries"][1];
        headers(entry, "response").push(json!({ "name": "content-encoding", "value": "br" }));
        entry["response"]["content"] = change;
        let har = Har::parse(archive.to_string().as_bytes()).unwrap();
        let error = gitlab_runner::har::HarServer::new(&har, Mode::Lenient).unwrap_err();
        let wanted = format!("entry 1 of the archive cannot be replayed: {wanted}");
        assert_eq!(error.to_string(), wanted);
    }
}
