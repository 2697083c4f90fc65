//! The object storage behind the simulated GitLab: a server of its own, to which downloads are
//! redirected.

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};

use super::{
    Answer, Server,
    gitlab::{
        Endpoint, Override,
        plan::{self, Effect, Planned},
        reply::{self, Reply},
    },
    report::MAX_REQUESTS,
};
use crate::{JobId, Time};

/// Links that are kept; the oldest ones cease to work beyond that.
const MAX_LINKS: usize = 10_000;

/// Headers that carry a credential of somebody else than the storage.
const CREDENTIALS: [&str; 5] = [
    "job-token",
    "private-token",
    "runner-token",
    "authorization",
    "cookie",
];

/// An object storage that gives out what a pre-signed link names, and refuses a request that
/// comes with a token: it is not the storage's, so it must not get there.
///
/// It is a handle, made by [`MockGitlab::object_store`](super::MockGitlab::object_store): clones
/// are the same storage. Serve one of them where
/// [`Settings::object_storage`](super::Settings::object_storage) says, keep another to look at.
/// Links do not expire by themselves but by [`expire_links`](Self::expire_links), since the two
/// servers may not share a clock.
#[derive(Clone, Default)]
pub struct ObjectStore(Arc<Mutex<Store>>);

#[derive(Default)]
struct Store {
    links: VecDeque<Link>,
    plans: Vec<Planned>,
    requests: VecDeque<StorageRequest>,
}

struct Link {
    path: String,
    query: String,
    job: JobId,
    object: Object,
    state: LinkState,
}

#[derive(Clone)]
struct Object {
    content: Bytes,
    disposition: String,
    etag: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Live,
    Expired,
    /// The object was deleted.
    Gone,
}

/// A request to the storage. It holds no secret: the query, which has the signature, is left out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StorageRequest {
    /// When it came, by the clock of the storage.
    pub at: Time,
    /// Its method.
    pub method: Method,
    /// Its path, without the query.
    pub path: String,
    /// Its `Range`.
    pub range: Option<String>,
    /// The header in which a token came that has no business here, in lower case. It was answered
    /// with 400.
    pub credential: Option<&'static str>,
    /// The status it was answered with; `None` when the connection was closed instead.
    pub status: Option<u16>,
}

impl ObjectStore {
    /// The requests so far, oldest first; the last 10,000 of them.
    pub fn requests(&self) -> Vec<StorageRequest> {
        self.lock().requests.iter().cloned().collect()
    }

    /// Plans a fault for the `nth` request from now; 1 (and 0) is the next one.
    pub fn plan(&self, nth: u64, fault: Override) {
        self.lock().plans.push(Planned {
            endpoint: Endpoint::Any,
            job: None,
            nth,
            fault,
        });
    }

    /// Lets all links that were given out so far expire: 403 from now on.
    pub fn expire_links(&self) {
        for link in &mut self.lock().links {
            link.state = LinkState::Expired;
        }
    }

    /// Makes a link to the archive of a job: a path with a query, for `GET` alone.
    pub(super) fn sign(
        &self,
        job: JobId,
        content: Bytes,
        filename: &str,
        signature: &str,
    ) -> String {
        let key = signature.get(..2).unwrap_or_default();
        let path = format!("/gitlab-artifacts/{key}/{job}/artifacts.zip");
        // Whoever takes it apart and puts it together again breaks it.
        let query = format!(
            "response-content-disposition=attachment%3B%20filename%3D%22artifacts.zip%22\
             &X-Amz-Expires=600&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}"
        );
        let location = format!("{path}?{query}");
        let etag = format!("\"{:08x}-{}\"", crc32fast::hash(&content), content.len());
        let link = Link {
            path,
            query,
            job,
            object: Object {
                content,
                disposition: reply::attachment(filename),
                etag,
            },
            state: LinkState::Live,
        };
        let links = &mut self.lock().links;
        if links.len() == MAX_LINKS {
            links.pop_front();
        }
        links.push_back(link);
        location
    }

    /// Deletes the archive of a job.
    pub(super) fn remove(&self, job: JobId) {
        for link in self.lock().links.iter_mut().filter(|link| link.job == job) {
            link.state = LinkState::Gone;
            link.object.content = Bytes::new();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        // Nothing is left half done by what happens with the lock held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    fn process(&self, request: &Request<Bytes>, credential: Option<&str>) -> Reply {
        if let Some(name) = credential {
            let message = format!("No authentication but the signature is taken, found {name}");
            return error(StatusCode::BAD_REQUEST, "InvalidArgument", &message);
        }
        let denied = |message| error(StatusCode::FORBIDDEN, "AccessDenied", message);
        let (path, query) = (request.uri().path(), request.uri().query());
        let Some(query) = query.filter(|query| query.contains("X-Amz-Signature=")) else {
            return denied("Access Denied");
        };
        let signed = |link: &&Link| link.path == path && link.query == query;
        let link = self.links.iter().find(signed);
        let Some(link) = link.filter(|_| request.method() == Method::GET) else {
            let message = "The signature does not belong to this request";
            return error(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", message);
        };
        match link.state {
            LinkState::Live => link.object.reply(request.headers()),
            LinkState::Expired => denied("Request has expired"),
            LinkState::Gone => {
                let message = "There is no such object";
                error(StatusCode::NOT_FOUND, "NoSuchKey", message)
            }
        }
    }
}

impl Object {
    fn reply(&self, headers: &HeaderMap) -> Reply {
        let text = |name| headers.get(name)?.to_str().ok();
        let len = self.content.len();
        let fresh = text(header::IF_RANGE).is_none_or(|etag| etag == self.etag);
        let wanted = text(header::RANGE)
            .filter(|_| fresh)
            .and_then(|range| wanted(range, len));
        let reply = match wanted {
            None => reply::typed(
                StatusCode::OK,
                "application/octet-stream",
                self.content.clone(),
            ),
            Some(range) if range.is_empty() => {
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                let reply = error(status, "InvalidRange", "The range cannot be satisfied");
                return reply::with(reply, "Content-Range", &format!("bytes */{len}"));
            }
            Some(range) => {
                let told = format!("bytes {}-{}/{len}", range.start, range.end - 1);
                let content = self.content.slice(range);
                let status = StatusCode::PARTIAL_CONTENT;
                let reply = reply::typed(status, "application/octet-stream", content);
                reply::with(reply, "Content-Range", &told)
            }
        };
        let reply = reply::with(reply, "Accept-Ranges", "bytes");
        let reply = reply::with(reply, "ETag", &self.etag);
        reply::with(reply, "Content-Disposition", &self.disposition)
    }
}

/// The bytes that a `Range` names, none of them if it cannot be satisfied. What is not a single
/// range of bytes is as if it were not there.
fn wanted(range: &str, len: usize) -> Option<Range<usize>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    match (first, last) {
        ("", suffix) => Some(len.saturating_sub(suffix.parse().ok()?)..len),
        (first, "") => {
            let first: usize = first.parse().ok()?;
            Some(first.min(len)..len)
        }
        (first, last) => {
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            let end = last.saturating_add(1).min(len);
            (first <= last).then(|| first.min(end)..end)
        }
    }
}

fn error(status: StatusCode, code: &str, message: &str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    reply::typed(status, "application/xml", body)
}

/// A planned status, in the shape that a storage gives it.
fn planned(code: u16) -> Reply {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let code = match status {
        StatusCode::SERVICE_UNAVAILABLE => "SlowDown",
        StatusCode::FORBIDDEN => "AccessDenied",
        StatusCode::NOT_FOUND => "NoSuchKey",
        _ => "InternalError",
    };
    error(status, code, "Planned by the test")
}

impl Server for ObjectStore {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        let mut store = self.lock();
        let headers = request.headers();
        let credential = CREDENTIALS
            .into_iter()
            .find(|name| headers.contains_key(*name));
        let range = headers.get(header::RANGE);
        let range = range.map(|range| String::from_utf8_lossy(range.as_bytes()).into_owned());
        let fault = plan::due(&mut store.plans, |_| true, None);
        let answer = match fault {
            None => Answer::Reply(store.process(&request, credential)),
            Some(Override::Status(code)) => Answer::Reply(planned(code)),
            Some(fault) => match fault.effect() {
                Effect::Instead(reply) => Answer::Reply(reply),
                Effect::Close => Answer::Close,
                Effect::After(spoil) => spoil.apply(store.process(&request, credential)),
            },
        };
        let status = match &answer {
            Answer::Reply(reply) => Some(reply.status().as_u16()),
            _ => None,
        };
        if store.requests.len() == MAX_REQUESTS {
            store.requests.pop_front();
        }
        store.requests.push_back(StorageRequest {
            at: now,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            range,
            credential,
            status,
        });
        answer
    }
}

/// Counts only: links are secrets.
impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = self.lock();
        f.debug_struct("ObjectStore")
            .field("links", &store.links.len())
            .field("requests", &store.requests.len())
            .finish_non_exhaustive()
    }
}
