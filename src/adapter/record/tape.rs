//! What passed, as it was, within a limit of memory.

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, Uri, request, response};
use sha2::{Digest, Sha256};

use crate::{Time, sync::lock};

/// What one request costs beside its texts, in bytes.
const ENTRY: usize = 512;
/// A longer body is kept as hash and length.
const MAX_BODY: usize = 4 << 20;
/// Of an upload, what may stand before the file.
const UPLOAD_HEAD: usize = 8 << 10;

/// Names one request.
#[derive(Clone, Copy)]
pub(super) struct Slot(usize);

pub(super) struct Tape(Mutex<Content>);

/// Cheap to clone: what goes on after that goes on in a copy of the one entry.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) secrets: Vec<Arc<str>>,
    /// Requests for which there was no room.
    pub(super) missed: u64,
    bytes: usize,
    limit: usize,
    pub(super) artifact_limit: usize,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub(super) started: Time,
    pub(super) ended: Option<Time>,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) sent: Captured,
    pub(super) reply: Option<Reply>,
    pub(super) received: Captured,
    pub(super) error: Option<String>,
}

#[derive(Clone)]
pub(super) struct Reply {
    pub(super) at: Time,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
}

/// A body, or what there was room for.
#[derive(Clone)]
pub(super) struct Captured {
    pub(super) len: u64,
    /// The first bytes: all of them if there are `len`.
    pub(super) bytes: BytesMut,
    /// More than that is not kept.
    room: usize,
    /// Whether a body that is too long keeps its first bytes all the same.
    keeps_head: bool,
    hash: Sha256,
}

impl Captured {
    fn new(room: usize, keeps_head: bool) -> Self {
        Self {
            len: 0,
            bytes: BytesMut::new(),
            room,
            keeps_head,
            hash: Sha256::new(),
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.bytes.len() as u64 == self.len
    }

    /// In hex.
    pub(super) fn sha256(&self) -> String {
        let hash = self.hash.clone().finalize();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// By how many bytes it grew, or shrank.
    fn add(&mut self, chunk: &Bytes, left: usize) -> (usize, usize) {
        let before = self.bytes.len();
        let was_whole = self.is_whole();
        self.hash.update(chunk);
        self.len += chunk.len() as u64;
        if was_whole {
            let room = self.room.saturating_sub(before).min(left);
            if chunk.len() <= room || self.keeps_head {
                self.bytes
                    .extend_from_slice(&chunk[..chunk.len().min(room)]);
            } else {
                self.bytes = BytesMut::new();
                self.room = 0;
            }
        }
        (before, self.bytes.len())
    }
}

impl Tape {
    pub(super) fn new(limit: usize) -> Self {
        Self(Mutex::new(Content {
            entries: Vec::new(),
            secrets: Vec::new(),
            missed: 0,
            bytes: 0,
            limit,
            artifact_limit: 0,
        }))
    }

    pub(super) fn set_limit(&self, bytes: usize) {
        lock(&self.0).limit = bytes;
    }

    pub(super) fn set_artifact_limit(&self, bytes: usize) {
        lock(&self.0).artifact_limit = bytes;
    }

    pub(super) fn add_secret(&self, secret: String) {
        lock(&self.0).secrets.push(secret.into());
    }

    /// How many requests there are.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).entries.len()
    }

    /// What there is now. Nothing has to wait while somebody looks at it.
    pub(super) fn content(&self) -> Content {
        lock(&self.0).clone()
    }

    /// A request begins; `None` if there is no room for it.
    pub(super) fn begin(&self, now: Time, parts: &request::Parts) -> Option<Slot> {
        let mut content = lock(&self.0);
        let size = ENTRY + size(&parts.headers) + parts.uri.to_string().len();
        if !content.take(size) {
            content.missed += 1;
            return None;
        }
        let is_upload = parts.method == Method::POST && parts.uri.path().ends_with("/artifacts");
        let artifact = content.artifact_limit;
        let (sent, received) = match (is_upload, &parts.method) {
            (true, _) => (Captured::new(artifact.max(UPLOAD_HEAD), true), MAX_BODY),
            (false, &Method::GET) => (Captured::new(MAX_BODY, false), artifact),
            (false, _) => (Captured::new(MAX_BODY, false), MAX_BODY),
        };
        content.entries.push(Arc::new(Entry {
            started: now,
            ended: None,
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
            sent,
            reply: None,
            received: Captured::new(received, false),
            error: None,
        }));
        Some(Slot(content.entries.len() - 1))
    }

    pub(super) fn sent(&self, slot: Slot, chunk: &Bytes) {
        lock(&self.0).capture(slot, chunk, |entry| &mut entry.sent);
    }

    pub(super) fn received(&self, slot: Slot, chunk: &Bytes) {
        lock(&self.0).capture(slot, chunk, |entry| &mut entry.received);
    }

    pub(super) fn replied(&self, slot: Slot, now: Time, parts: &response::Parts) {
        let mut content = lock(&self.0);
        // Bounded by what a client takes for headers; the next request finds less room.
        content.bytes += size(&parts.headers);
        if let Some(entry) = content.entry(slot) {
            // What GitLab says to a download that it refuses, or sends elsewhere, is no artifact.
            if parts.status != StatusCode::OK {
                entry.received.room = MAX_BODY;
            }
            entry.reply = Some(Reply {
                at: now,
                status: parts.status,
                headers: parts.headers.clone(),
            });
        }
    }

    pub(super) fn failed(&self, slot: Slot, error: &str) {
        if let Some(entry) = lock(&self.0).entry(slot) {
            entry.error.get_or_insert_with(|| error.to_owned());
        }
    }

    pub(super) fn ended(&self, slot: Slot, now: Time) {
        if let Some(entry) = lock(&self.0).entry(slot) {
            entry.ended = Some(now);
        }
    }
}

impl Content {
    fn entry(&mut self, slot: Slot) -> Option<&mut Entry> {
        self.entries.get_mut(slot.0).map(Arc::make_mut)
    }

    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.bytes.saturating_add(bytes) <= self.limit;
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    fn capture(&mut self, slot: Slot, chunk: &Bytes, of: fn(&mut Entry) -> &mut Captured) {
        let left = self.limit.saturating_sub(self.bytes);
        if let Some(entry) = self.entry(slot) {
            let (before, after) = of(entry).add(chunk, left);
            self.bytes = (self.bytes + after).saturating_sub(before);
        }
    }
}

fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn what_is_looked_at_does_not_change_and_holds_up_nothing() {
        let tape = Tape::new(1 << 20);
        let request = Request::post("https://h/api/v4/jobs/request").body(());
        let (parts, ()) = request.unwrap().into_parts();
        let [over, open] = [(); 2].map(|()| tape.begin(Time::ZERO, &parts).unwrap());
        tape.ended(over, Time::from_secs(1));
        tape.sent(open, &Bytes::from_static(b"one, "));

        let before = tape.content();
        tape.sent(open, &Bytes::from_static(b"two"));
        tape.failed(open, "broken");
        tape.add_secret("hidden".to_owned());
        tape.begin(Time::ZERO, &parts).unwrap();
        let after = tape.content();

        assert_eq!(before.entries[open.0].sent.bytes, "one, ");
        assert_eq!(before.entries[open.0].error, None);
        assert_eq!((before.entries.len(), before.secrets.len()), (2, 0));
        assert_eq!(after.entries[open.0].sent.bytes, "one, two");
        assert_eq!(after.entries[open.0].error.as_deref(), Some("broken"));
        assert_eq!((after.entries.len(), after.secrets.len()), (3, 1));
        // What is over is there only once.
        assert!(Arc::ptr_eq(&before.entries[over.0], &after.entries[over.0]));
    }
}
