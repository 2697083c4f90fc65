//! The shapes that answers have, by who produces them.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde_json::{Value, json};

pub(in crate::mock) type Reply = Response<Bytes>;
/// An answer that ends the processing of a request early.
pub(super) type Refused = Box<Reply>;

pub(super) fn json(status: StatusCode, body: &Value) -> Reply {
    typed(status, "application/json", body.to_string())
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    typed(status, "text/plain; charset=utf-8", body)
}

/// The status code as the whole body: what the update route answers.
pub(super) fn bare(status: StatusCode) -> Reply {
    typed(status, "application/json", status.as_str().to_owned())
}

pub(super) fn no_content() -> Reply {
    let mut reply = Response::new(Bytes::new());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply
}

/// `{"message":"403 Forbidden"}`: most errors of the API.
pub(super) fn message(status: StatusCode) -> Reply {
    json(status, &json!({ "message": title(status) }))
}

/// `{"message":"403 Forbidden - Job has been erased!"}`.
pub(super) fn message_because(status: StatusCode, reason: &str) -> Reply {
    let text = format!("{} - {reason}", title(status));
    json(status, &json!({ "message": text }))
}

/// 400 with this text alone as message: what is wrong with an artifact.
pub(super) fn message_text(text: &str) -> Reply {
    json(StatusCode::BAD_REQUEST, &json!({ "message": text }))
}

/// `{"error":"token is missing"}`: validation, and the errors of the trace route.
pub(super) fn error(status: StatusCode, text: &str) -> Reply {
    json(status, &json!({ "error": text }))
}

/// The application's rate limiter: the one place where `message` is an object.
pub(in crate::mock) fn rate_limited(retry_after: u64) -> Reply {
    let text = "This endpoint has been requested too many times. Try again later.";
    let body = json!({ "message": { "error": text } });
    with(
        json(StatusCode::TOO_MANY_REQUESTS, &body),
        "Retry-After",
        &retry_after.to_string(),
    )
}

/// An error page of a proxy in front of GitLab.
pub(in crate::mock) fn html(status: StatusCode) -> Reply {
    let title = title(status);
    let page = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1>\
         </center>\r\n<hr><center>proxy</center>\r\n</body>\r\n</html>\r\n"
    );
    typed(status, "text/html", page)
}

/// What this status usually looks like when the API produces it.
pub(in crate::mock) fn usual(status: StatusCode) -> Reply {
    if status == StatusCode::TOO_MANY_REQUESTS {
        rate_limited(60)
    } else if status == StatusCode::NO_CONTENT {
        no_content()
    } else if status.is_success() {
        bare(status)
    } else {
        message(status)
    }
}

/// Says how long the body is, and does not send more than `len` bytes of it.
pub(in crate::mock) fn cut(mut reply: Reply, len: usize) -> Reply {
    let whole = reply.body().len();
    if len < whole {
        let headers = reply.headers_mut();
        headers.insert(header::CONTENT_LENGTH, whole.into());
        reply.body_mut().truncate(len);
    }
    reply
}

/// The `Content-Disposition` of a download. Characters that would need care are replaced, as
/// GitLab does when it stores a file.
pub(in crate::mock) fn attachment(filename: &str) -> String {
    let clean = |c: char| {
        if c.is_ascii_alphanumeric() || ".-+_".contains(c) {
            c
        } else {
            '_'
        }
    };
    let filename: String = filename.chars().map(clean).collect();
    format!("attachment; filename=\"{filename}\"")
}

/// `reply` with a header more. The mock's own values are plain ASCII; any other is left out.
pub(in crate::mock) fn with(mut reply: Reply, name: &'static str, value: &str) -> Reply {
    if let (Ok(name), Ok(value)) = (
        header::HeaderName::from_bytes(name.as_bytes()),
        header::HeaderValue::from_str(value),
    ) {
        reply.headers_mut().insert(name, value);
    }
    reply
}

pub(in crate::mock) fn typed(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Reply {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    reply.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    reply
}

fn title(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_str()),
        None => status.as_str().to_owned(),
    }
}
