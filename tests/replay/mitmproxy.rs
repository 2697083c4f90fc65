//! An archive in the words of `mitmproxy`: what it leaves out, adds and says in its own way.

use base64::{Engine, prelude::BASE64_STANDARD};
use gitlab_runner::har::{Har, HarBody, HarEntry};
use serde_json::{Value, json};

pub(crate) fn written(har: &Har) -> String {
    let entries: Vec<Value> = har
        .log
        .entries
        .iter()
        .filter(|it| !it.response.given_up)
        .map(entry)
        .collect();
    let archive = json!({ "log": {
        "version": "1.2",
        "creator": { "name": "mitmproxy", "version": "12.1.1", "comment": "" },
        "pages": [],
        "entries": entries,
    } });
    serde_json::to_string_pretty(&archive).unwrap()
}

fn entry(entry: &HarEntry) -> Value {
    let started = entry.started_date_time.replace('Z', "+00:00");
    json!({
        "startedDateTime": started,
        "time": entry.time,
        "request": request(entry),
        "response": response(entry),
        "cache": {},
        "timings": {
            "connect": -1.0, "ssl": -1.0, "send": 0.0,
            "receive": entry.timings.receive, "wait": entry.timings.wait,
        },
        "serverIPAddress": "192.0.2.1",
    })
}

fn header(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

fn request(entry: &HarEntry) -> Value {
    let request = &entry.request;
    let mut headers: Vec<Value> = vec![
        header("Host", "gitlab.example.test"),
        header("Accept-Encoding", "gzip"),
        header("Content-Length", &request.body_size.to_string()),
    ];
    headers.extend(
        request
            .headers
            .iter()
            .map(|pair| header(&title(&pair.name), &pair.value)),
    );
    let query: Vec<Value> = request
        .query_string
        .iter()
        .map(|it| header(&it.name, &it.value))
        .collect();
    let mut written = json!({
        "method": request.method, "url": request.url, "httpVersion": "HTTP/1.1",
        "cookies": [], "headers": headers, "queryString": query,
        "headersSize": 412, "bodySize": request.body_size,
    });
    if ["POST", "PUT", "PATCH"].contains(&request.method.as_str()) {
        let body = request
            .post_data
            .as_ref()
            .map(|data| data.body(request.body_size).unwrap());
        let text = match body {
            Some(HarBody::Whole(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            Some(other) => panic!("{other:?} is not kept"),
            None => String::new(),
        };
        let mime = request
            .post_data
            .as_ref()
            .map_or("", |data| &data.mime_type);
        written["postData"] = json!({ "mimeType": mime, "text": text, "params": [] });
    }
    written
}

fn response(entry: &HarEntry) -> Value {
    let response = &entry.response;
    if response.status == 0 {
        return json!({
            "status": 0, "statusText": "", "httpVersion": "", "headers": [], "cookies": [],
            "content": {}, "redirectURL": "", "headersSize": -1, "bodySize": -1,
            "_transferSize": 0, "_error": "server closed connection",
        });
    }
    let HarBody::Whole(bytes) = response.body().unwrap() else {
        panic!("a body that is not kept");
    };
    let mut headers: Vec<Value> = vec![
        header("Server", "nginx"),
        header("Content-Length", &bytes.len().to_string()),
    ];
    headers.extend(
        response
            .headers
            .iter()
            .map(|pair| header(&title(&pair.name), &pair.value)),
    );
    let is_binary = bytes.iter().any(|byte| *byte < 9 || *byte > 126);
    let mut content = json!({
        "size": bytes.len(), "compression": 0, "mimeType": response.content.mime_type,
        "text": String::from_utf8_lossy(&bytes),
    });
    if is_binary {
        content["text"] = BASE64_STANDARD.encode(&bytes).into();
        content["encoding"] = "base64".into();
    }
    json!({
        "status": response.status, "statusText": response.status_text, "httpVersion": "HTTP/1.1",
        "headers": headers, "cookies": [], "content": content,
        "redirectURL": response.redirect_url, "headersSize": 300, "bodySize": bytes.len(),
    })
}

/// As Go writes the names of headers.
fn title(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect::<Vec<_>>().join("-")
}
