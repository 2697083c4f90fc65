//! An output as one text: enough of it that no change goes unnoticed.

use std::fmt::Write as _;

use http::Request;

use crate::machine::{JobOutput, Output, RequestBody};

pub(super) fn output(output: &Output) -> String {
    match output {
        Output::Send {
            request,
            http,
            reply,
            limit,
        } => format!(
            "send {request}: {} -> {reply:?} within {limit:?}",
            send(http)
        ),
        Output::Forget(request) => format!("forget {request}"),
        Output::Job {
            job,
            output: JobOutput::Start(payload),
        } => format!("job {job}: Start({} steps)", payload.steps.len()),
        Output::Job { job, output } => format!("job {job}: {output:?}"),
        Output::Polled(outcome) => format!("polled: {outcome:?}"),
        Output::Called(outcome) => format!("called: {outcome:?}"),
        Output::PersistToken(token) => format!("persist {token:?}"),
        Output::Notice(notice) => format!("notice: {notice}"),
        Output::Stopped(reason) => format!("stopped: {reason:?}"),
    }
}

fn send(http: &Request<RequestBody>) -> String {
    let mut text = format!("{} {}", http.method(), http.uri());
    for (name, value) in http.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        let _ = write!(text, " | {name}: {value}");
    }
    match http.body() {
        RequestBody::Empty => {}
        RequestBody::Bytes(bytes) => {
            let _ = write!(text, " | {}", String::from_utf8_lossy(bytes));
        }
        RequestBody::Trace { range, .. } => {
            let _ = write!(text, " | log {}..{}", range.start, range.end);
        }
        RequestBody::Artifact {
            artifact,
            head,
            len,
            ..
        } => {
            let head = String::from_utf8_lossy(head);
            let _ = write!(text, " | {artifact}, {len} bytes behind {head:?}");
        }
    }
    text
}
