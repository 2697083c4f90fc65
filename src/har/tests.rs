use bytes::Bytes;
use serde_json::{Value, json};

use super::*;

fn entry(value: Value) -> HarEntry {
    let archive = json!({ "log": { "entries": [value] } }).to_string();
    Har::parse(archive.as_bytes())
        .unwrap()
        .log
        .entries
        .remove(0)
}

#[test]
fn what_is_missing_null_or_odd_is_empty() {
    for value in [
        json!({}),
        json!({ "request": null, "response": null, "timings": null, "time": null }),
        json!({ "request": [], "response": 7, "timings": "x", "cache": {}, "time": "x" }),
        json!({ "request": { "headers": null, "postData": null }, "response": { "content": {} } }),
    ] {
        let entry = entry(value.clone());
        assert_eq!(entry.response.status, 0, "{value}");
        assert_eq!(entry.request.post_data.unwrap_or_default().text, "");
        assert_eq!(entry.response.content, HarContent::default());
        assert_eq!(entry.timings, HarTimings::default());
    }
    let odd = entry(json!({
        "time": "12.5", "_unknown": 1,
        "request": { "method": "GET", "url": "https://h/", "headers": [{ "name": "a" }, 7] },
        "response": { "status": "204", "content": { "size": 3.0, "mimeType": null } },
    }));
    assert_eq!(odd.duration(), Duration::from_micros(12_500));
    assert_eq!((odd.response.status, odd.response.content.size), (204, 3));
    assert_eq!(odd.request.headers.len(), 1);
}

#[test]
fn mitmproxy_is_read() {
    let failed = entry(json!({
        "startedDateTime": "2026-03-01T10:00:00.123456+00:00", "time": 15.25,
        "request": {
            "method": "PATCH", "url": "https://gitlab.example.com/api/v4/jobs/1/trace",
            "postData": { "mimeType": "text/plain", "text": null, "params": [] },
        },
        "response": {
            "status": 0, "statusText": "", "headers": [], "cookies": [], "content": {},
            "redirectURL": "", "headersSize": -1, "bodySize": -1, "_transferSize": 0,
            "_error": "Server disconnected",
        },
        "timings": { "connect": -1.0, "ssl": -1.0, "send": 5.0, "wait": 10.0, "receive": -1 },
    }));
    assert_eq!(failed.response.error, "Server disconnected");
    assert_eq!(failed.duration(), Duration::from_micros(15_250));
    assert!(failed.started().is_some());
    let object = entry(json!({ "response": { "_error": { "msg": "reset", "timestamp": 1.0 } } }));
    assert_eq!(object.response.error, "reset");
    let base64 = json!({ "content": { "size": 3, "text": "/wBB\n", "encoding": "base64" } });
    let base64 = entry(json!({ "response": base64 }));
    assert_eq!(
        base64.response.body(),
        Ok(HarBody::Whole(Bytes::from_static(b"\xff\0A")))
    );
    let bad = entry(json!({ "response": { "content": { "text": "?", "encoding": "base64" } } }));
    assert_eq!(bad.response.body(), Err(HarBodyError));
}

#[test]
fn halves_of_characters_are_none() {
    let archive = r#"{"log":{"entries":[{"request":{"postData":{"text":
        "\udc80a\ud83d\ude00\\ud800\ud800\ud83d\ude00é\\"}}}]}}"#;
    let har = Har::parse(archive.as_bytes()).unwrap();
    let data = har.log.entries[0].request.post_data.as_ref().unwrap();
    assert_eq!(data.text, "\u{fffd}a\u{1f600}\\ud800\u{fffd}\u{1f600}é\\");
    assert!(matches!(data.body(-1), Ok(HarBody::Lossy(_))));
    // No panic, wherever it is cut.
    for end in 0..archive.len() {
        let _ = Har::parse(&archive.as_bytes()[..end]);
    }
    assert!(Har::parse(b"{\"log\":{\"entries\":[],\"comment\":\"\xff\"}}").is_ok());
}

#[test]
fn what_is_no_archive_is_refused() {
    for (archive, what) in [
        ("", "cut short"),
        ("{\"log\":{\"entries\":[", "cut short"),
        ("secret", "no JSON (line 1"),
        ("[]", "no log.entries"),
        ("{\"log\":{\"entries\":7}}", "no log.entries"),
    ] {
        let error = Har::parse(archive.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    assert!(Har::parse("[".repeat(100_000).as_bytes()).is_err());
}

#[test]
fn what_is_written_is_read_again() {
    let mut har = Har::default();
    har.log.version = "1.2".into();
    let mut entry = HarEntry {
        time: 0.123_456,
        ..HarEntry::default()
    };
    entry.request.post_data = Some(HarPostData::whole("text/plain", b"\xff\0"));
    entry.response.content = HarContent::whole("text/plain", "é".as_bytes());
    entry.response.given_up = true;
    har.log.entries = vec![entry, HarEntry::default()];
    let text = har.to_json();
    assert_eq!(Har::parse(text.as_bytes()).unwrap(), har);
    let value: Value = serde_json::from_str(&text).unwrap();
    for field in [
        "startedDateTime",
        "time",
        "request",
        "response",
        "cache",
        "timings",
    ] {
        assert!(!value["log"]["entries"][1][field].is_null(), "{field}");
    }
    let entry = &har.log.entries[0];
    assert_eq!(entry.duration(), Duration::from_nanos(123_456));
    let data = entry.request.post_data.as_ref().unwrap();
    assert_eq!(
        data.body(-1),
        Ok(HarBody::Whole(Bytes::from_static(b"\xff\0")))
    );
}

#[test]
fn a_time_without_sense_is_none() {
    for time in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
        let entry = HarEntry {
            time,
            ..HarEntry::default()
        };
        assert_eq!(entry.duration(), Duration::ZERO);
    }
}
