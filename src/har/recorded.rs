//! What a recorded job did, read off the requests of the runner that ran it.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::{
    HarBody,
    exchange::{Exchange, field},
};
use crate::{ids::JobId, time::WallTime};

/// A log may be no longer than that.
const MAX_LOG: u64 = 256 << 20;
/// So long before a patch its bytes are written: the machine patches at the next full interval.
const BEFORE: Duration = Duration::from_millis(1);
/// Between the last patch and the final update, if the one follows on the other.
const AT_ONCE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct RecordedJob {
    pub(super) handed_out: Option<WallTime>,
    pub(super) log: Vec<u8>,
    /// How long the log was, and when since the job was handed out.
    pub(super) growth: Vec<(Duration, u64)>,
    pub(super) uploads: Vec<Upload>,
    /// If it was reported.
    pub(super) end: Option<End>,
}

pub(super) struct Upload {
    pub(super) file_name: String,
    /// As long as it was; zeros if it was not kept.
    pub(super) content: Bytes,
}

pub(super) struct End {
    /// When, since the job was handed out.
    pub(super) after: Duration,
    pub(super) is_success: bool,
    pub(super) reason: Option<String>,
    pub(super) exit_code: Option<i32>,
}

impl RecordedJob {
    pub(super) fn read(exchanges: &[Exchange], id: JobId) -> Self {
        let mut job = Self {
            handed_out: handed_out(exchanges, id),
            ..Self::default()
        };
        let since = |time: Option<WallTime>| match (time, job.handed_out) {
            (Some(time), Some(handed_out)) => time.since(handed_out),
            _ => Duration::ZERO,
        };
        // When the last patch with something new was first sent, and when it was answered.
        let mut flush = None;
        let mut first_upload = None;
        for exchange in exchanges.iter().filter(|it| it.key.job == Some(id)) {
            let at = since(exchange.started);
            if exchange.key.is_patch() {
                let before = job.log.len();
                write(&mut job.log, exchange);
                if job.log.len() > before {
                    let len = job.log.len() as u64;
                    job.growth.push((at.saturating_sub(BEFORE), len));
                    flush = Some(at);
                }
            } else if exchange.key.is_upload() {
                if first_upload.is_none() {
                    first_upload = Some(at);
                }
                // One that was not taken is sent again.
                if exchange.reply.status() == 201 {
                    job.uploads.extend(upload(exchange));
                }
            } else if exchange.key.is_final() && job.end.is_none() {
                let body = exchange.request.bytes();
                let last = exchanges.iter().rfind(|it| {
                    it.key.job == Some(id) && it.key.is_patch() && it.number < exchange.number
                });
                let patched = last.map(|it| since(it.started) + it.duration);
                let is_flush = patched.is_some_and(|patched| at <= patched + AT_ONCE);
                let after = flush.filter(|_| is_flush).unwrap_or(at);
                job.end = Some(End {
                    after: first_upload.map_or(after, |upload| after.min(upload)),
                    is_success: field(body, "state").is_some_and(|state| state == "success"),
                    reason: field(body, "failure_reason"),
                    exit_code: number(body, "exit_code"),
                });
            }
        }
        // What was flushed was written by the end, whenever that was.
        if let Some(end) = &job.end {
            job.growth.retain(|(at, _)| *at + BEFORE < end.after);
        }
        job
    }
}

fn handed_out(exchanges: &[Exchange], id: JobId) -> Option<WallTime> {
    let entry = exchanges
        .iter()
        .find(|it| it.reply.hands_out() == Some(id))?;
    entry
        .started
        .map(|started| WallTime(started.0.saturating_add(entry.duration)))
}

fn number(body: &[u8], name: &str) -> Option<i32> {
    let body: Value = serde_json::from_slice(body).ok()?;
    i32::try_from(body.get(name)?.as_i64()?).ok()
}

/// Puts the bytes of a patch where they belong.
fn write(log: &mut Vec<u8>, exchange: &Exchange) {
    let bytes = exchange.request.bytes();
    let range = exchange.request.header("content-range");
    let start = range.and_then(|range| range.split('-').next()?.trim().parse::<u64>().ok());
    let Some(start) = start.filter(|start| *start <= log.len() as u64) else {
        return;
    };
    let end = start.saturating_add(bytes.len() as u64);
    if end > MAX_LOG || end <= log.len() as u64 {
        return;
    }
    log.truncate(usize::try_from(start).unwrap_or(0));
    log.extend_from_slice(bytes);
}

fn upload(exchange: &Exchange) -> Option<Upload> {
    let form = exchange.request.bytes();
    let text = String::from_utf8_lossy(form);
    let name = text.find("filename=\"")? + "filename=\"".len();
    let file_name = text[name..].split('"').next()?.to_owned();
    let head = form.windows(10).position(|it| it == b"filename=\"")?;
    let head = head + form[head..].windows(4).position(|it| it == b"\r\n\r\n")? + 4;
    let boundary = exchange
        .request
        .header("content-type")?
        .split_once("boundary=")?
        .1;
    let tail = boundary.trim_matches('"').len() + "\r\n----\r\n".len();
    let whole = exchange.request.size?.min(MAX_LOG);
    let len = usize::try_from(whole).ok()?.checked_sub(head + tail)?;
    let content = match &exchange.request.body {
        Some(HarBody::Whole(bytes)) if bytes.len() >= head + len => bytes.slice(head..head + len),
        _ => Bytes::from(vec![0; len]),
    };
    Some(Upload { file_name, content })
}
