//! The archive of what passed.

use std::time::Duration;

use http::{
    HeaderMap, Method, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};

use super::tape::{Captured, Content, Entry, Reply};
use crate::{
    Time,
    har::{Har, HarContent, HarEntry, HarPair, HarPostData, HarRequest, HarResponse},
    redact::{Redactor, Secrets},
    time::WallTime,
};

/// The type of a body like the query of a URL.
const FORM: &str = "application/x-www-form-urlencoded";

pub(super) fn har(content: &Content, secrets: Secrets, origin: WallTime, now: Time) -> Har {
    let mut redactor = secrets.redactor();
    for secret in &content.secrets {
        redactor.learn(secret);
    }
    // First all of them, since a secret may show up before the place where it is known by.
    for entry in &content.entries {
        learn(&mut redactor, entry);
    }
    let mut har = Har::default();
    har.log.version = "1.2".to_owned();
    har.log.creator.name = env!("CARGO_PKG_NAME").to_owned();
    har.log.creator.version = env!("CARGO_PKG_VERSION").to_owned();
    if content.missed > 0 {
        let missed = content.missed;
        har.log.comment = format!("{missed} further requests were not recorded: there was no room");
    }
    let entries = content.entries.iter();
    har.log.entries = entries
        .map(|entry| {
            let mut written = written(&mut redactor, entry, origin, now);
            written.request = request(&mut redactor, entry, content.artifact_limit);
            written
        })
        .collect();
    // Not before: what is too much may show only when all are searched for.
    if redactor.is_full() {
        har.log.comment = "left out: there were more secrets than can be kept out".to_owned();
        har.log.entries.clear();
    }
    har
}

fn learn(redactor: &mut Redactor, entry: &Entry) {
    redactor.learn_url(&entry.uri.to_string());
    redactor.learn_headers(&entry.headers);
    if is_json(&entry.headers, &entry.sent) {
        redactor.learn_json(&entry.sent.bytes);
    } else if header(&entry.headers, &CONTENT_TYPE).starts_with(FORM) {
        let form = String::from_utf8_lossy(&entry.sent.bytes);
        redactor.learn_url(&format!("?{form}"));
    }
    if let Some(reply) = &entry.reply {
        redactor.learn_headers(&reply.headers);
        if is_json(&reply.headers, &entry.received) {
            redactor.learn_json(&entry.received.bytes);
        } else if !is_artifact(entry, reply) {
            // A page for people, say.
            redactor.learn_text(&String::from_utf8_lossy(&entry.received.bytes));
        }
    }
}

/// Whether the body of the reply is what another job made.
fn is_artifact(entry: &Entry, reply: &Reply) -> bool {
    entry.method == Method::GET && reply.status == StatusCode::OK
}

/// By what it says, or by how it begins: an answer of a proxy may say anything.
fn is_json(headers: &HeaderMap, body: &Captured) -> bool {
    let says_so = header(headers, &CONTENT_TYPE).contains("json");
    says_so || body.bytes.trim_ascii_start().starts_with(b"{")
}

fn header(headers: &HeaderMap, name: &http::HeaderName) -> String {
    let value = headers.get(name).map(|value| value.as_bytes());
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

fn written(redactor: &mut Redactor, entry: &Entry, origin: WallTime, now: Time) -> HarEntry {
    let ended = entry.ended.unwrap_or(now);
    let replied = entry.reply.as_ref().map_or(ended, |reply| reply.at);
    let mut written = HarEntry {
        started_date_time: (origin + entry.started).to_string(),
        time: millis(ended.since(entry.started)),
        response: response(redactor, entry),
        ..HarEntry::default()
    };
    written.timings.wait = millis(replied.since(entry.started));
    written.timings.receive = millis(ended.since(replied));
    written
}

fn millis(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}

fn request(redactor: &mut Redactor, entry: &Entry, artifact_limit: usize) -> HarRequest {
    let url = redactor.url(&entry.uri.to_string());
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let query_string = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| HarPair::new(name, value))
        .collect();
    let mime_type = header(&entry.headers, &CONTENT_TYPE);
    let sent = &entry.sent;
    let (post_data, body_size) = if sent.len == 0 {
        (None, 0)
    } else if mime_type.starts_with("multipart/") && sent.len <= artifact_limit as u64 {
        (
            Some(HarPostData::whole(&mime_type, &sent.bytes)),
            size(sent.len),
        )
    } else if mime_type.starts_with("multipart/") || !sent.is_whole() {
        let head = redactor.bytes(&sent.bytes[..file_start(&sent.bytes)]);
        let mut data = HarPostData::whole(&mime_type, &head);
        data.sha256 = sent.sha256();
        (Some(data), size(sent.len))
    } else {
        let body = match is_json(&entry.headers, sent) {
            true => redactor.json(&sent.bytes),
            false => redactor.bytes(&sent.bytes),
        };
        (
            Some(HarPostData::whole(&mime_type, &body)),
            size(body.len() as u64),
        )
    };
    HarRequest {
        method: entry.method.to_string(),
        url,
        http_version: "HTTP/1.1".to_owned(),
        headers: pairs_of(redactor, &entry.headers),
        query_string,
        post_data,
        headers_size: -1,
        body_size,
        ..HarRequest::default()
    }
}

/// Where the file begins in a form: behind the headers of its part.
fn file_start(form: &[u8]) -> usize {
    let find = |text: &[u8], from: usize| {
        let rest = form.get(from..)?;
        let at = rest.windows(text.len()).position(|window| window == text)?;
        Some(from + at + text.len())
    };
    find(b"filename=", 0)
        .and_then(|at| find(b"\r\n\r\n", at))
        .unwrap_or(0)
}

fn response(redactor: &mut Redactor, entry: &Entry) -> HarResponse {
    let error = entry.error.as_deref().unwrap_or_default();
    let error = redactor.text(error).into_owned();
    let Some(reply) = &entry.reply else {
        return HarResponse {
            given_up: error.is_empty(),
            error,
            headers_size: -1,
            body_size: -1,
            ..HarResponse::default()
        };
    };
    let mime_type = header(&reply.headers, &CONTENT_TYPE);
    let received = &entry.received;
    let content = if !received.is_whole() {
        HarContent {
            size: size(received.len),
            mime_type,
            sha256: received.sha256(),
            ..HarContent::default()
        }
    } else if is_artifact(entry, reply) {
        HarContent::whole(&mime_type, &received.bytes)
    } else {
        let body = match is_json(&reply.headers, received) {
            true => redactor.json(&received.bytes),
            false => redactor.bytes(&received.bytes),
        };
        HarContent::whole(&mime_type, &body)
    };
    let redirect_url = redactor.url(&header(&reply.headers, &LOCATION));
    HarResponse {
        status: reply.status.as_u16().into(),
        status_text: reply.status.canonical_reason().unwrap_or("").to_owned(),
        http_version: "HTTP/1.1".to_owned(),
        headers: pairs_of(redactor, &reply.headers),
        body_size: content.size,
        content,
        redirect_url,
        headers_size: -1,
        error,
        ..HarResponse::default()
    }
}

fn size(len: u64) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

fn pairs_of(redactor: &mut Redactor, headers: &HeaderMap) -> Vec<HarPair> {
    let headers = redactor.headers(headers);
    let pairs = headers.iter();
    pairs
        .map(|(name, value)| {
            HarPair::new(name.as_str(), &String::from_utf8_lossy(value.as_bytes()))
        })
        .collect()
}
