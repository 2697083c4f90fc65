//! The entries of an archive that a runner has to do with, in a form to be compared.

use std::{collections::BTreeSet, error::Error, fmt, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use serde_json::Value;

use super::{Har, HarBody, HarEntry};
use crate::{ids::JobId, protocol::JobPayload, time::WallTime};

/// What is asked, whoever asks and of which job: entries with the same key stand for each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    method: String,
    /// Below `/api/v4/`, the number of the job as `:id`; or all of it on another server.
    path: String,
    pub(super) job: Option<JobId>,
    /// Of an update: whether it is the last.
    is_final: bool,
}

impl Key {
    pub(super) fn of(method: &str, path: &str, body: &[u8]) -> Self {
        let (path, job) = match path.split_once("/api/v4/") {
            Some((_, path)) => {
                let mut parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
                let job = match parts[..] {
                    ["jobs", id, ..] => id.parse().ok().map(JobId),
                    _ => None,
                };
                if job.is_some() {
                    parts[1] = ":id";
                }
                (parts.join("/"), job)
            }
            None => (path.to_owned(), None),
        };
        let is_update = method == "PUT" && path == "jobs/:id";
        let is_final = is_update && field(body, "state").is_some_and(|state| state != "running");
        Self {
            method: method.to_owned(),
            path,
            job,
            is_final,
        }
    }

    fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == path
    }

    pub(super) fn is_poll(&self) -> bool {
        self.is("POST", "jobs/request")
    }

    pub(super) fn is_patch(&self) -> bool {
        self.is("PATCH", "jobs/:id/trace")
    }

    pub(super) fn is_update(&self) -> bool {
        self.is("PUT", "jobs/:id")
    }

    /// Whether it is asked again and again while a job runs, by the clock of who asks.
    pub(super) fn is_timed(&self) -> bool {
        self.is_patch() || self.is_update() && !self.is_final
    }

    pub(super) fn is_final(&self) -> bool {
        self.is_final
    }

    pub(super) fn is_upload(&self) -> bool {
        self.is("POST", "jobs/:id/artifacts")
    }

    pub(super) fn is_verify(&self) -> bool {
        self.is("POST", "runners/verify")
    }

    /// Whether it is part of what runners ask GitLab.
    fn is_api(&self) -> bool {
        self.path.starts_with("jobs/")
            || self.path == "runners"
            || self.path.starts_with("runners/")
    }

    /// How much two keys have in common.
    pub(super) fn likeness(&self, other: &Self) -> usize {
        let same = |same: bool, weight| if same { weight } else { 0 };
        same(self.path == other.path, 4)
            + same(self.method == other.method, 2)
            + same(self.job == other.job, 1)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = self.job.map_or(String::new(), |job| job.to_string());
        write!(f, "{} {}", self.method, self.path.replace(":id", &job))
    }
}

/// A text field of a JSON object.
pub(super) fn field(body: &[u8], name: &str) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body.get(name)?.as_str().map(str::to_owned)
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    /// Its place in the archive, from 0.
    pub(super) number: usize,
    pub(super) key: Key,
    pub(super) started: Option<WallTime>,
    pub(super) duration: Duration,
    pub(super) request: Asked,
    pub(super) reply: Replied,
}

/// A request in a form to be compared and shown.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) uri: Uri,
    /// Names in lower case, sorted; without those that a client adds by itself.
    pub(super) headers: Vec<(String, String)>,
    /// `None` if the archive has none, although there was one.
    pub(super) body: Option<HarBody>,
    /// How long the body was, if that is known.
    pub(super) size: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) enum Replied {
    /// The body may be that of a download, known only by its hash.
    With {
        status: StatusCode,
        headers: HeaderMap,
        body: HarBody,
        /// It broke off.
        is_cut: bool,
    },
    Lost,
    /// Nobody waited for it.
    Never,
}

impl Replied {
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::With { status, .. } => status.as_u16(),
            Self::Lost | Self::Never => 0,
        }
    }

    /// The job in its body, if it hands out one.
    pub(super) fn hands_out(&self) -> Option<JobId> {
        let Self::With { status, body, .. } = self else {
            return None;
        };
        let payload = match body {
            HarBody::Whole(bytes) => &bytes[..],
            HarBody::Lossy(text) => text.as_bytes(),
            HarBody::Hash { .. } => return None,
        };
        if *status != StatusCode::CREATED {
            return None;
        }
        match JobPayload::parse(payload) {
            Ok(payload) => Some(payload.id),
            Err(error) => error.id,
        }
    }

    pub(super) fn job_status(&self) -> Option<&str> {
        match self {
            Self::With { headers, .. } => headers.get("job-status")?.to_str().ok(),
            Self::Lost | Self::Never => None,
        }
    }

    /// Whether it says more than that all is well.
    pub(super) fn is_news(&self) -> bool {
        let is_usual = matches!(self.status(), 200..=202 | 204);
        !is_usual || self.job_status().is_some_and(|status| status != "running")
    }
}

/// Headers that every client and proxy adds in its own way, that of the program's version, and a
/// random number.
const VOLATILE: &[&str] = &[
    "host",
    "content-length",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "accept-encoding",
    "user-agent",
    "x-request-id",
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
];

/// Headers of a reply that speak of how it travelled.
const OF_THE_WAY: &[&str] = &[
    "content-length",
    "content-encoding",
    "connection",
    "keep-alive",
    "transfer-encoding",
];

impl Asked {
    pub(super) fn of(request: &Request<Bytes>) -> Self {
        let headers = request.headers().iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), value.into_owned())
        });
        Self {
            method: request.method().to_string(),
            uri: request.uri().clone(),
            headers: sorted(headers),
            body: Some(HarBody::Whole(request.body().clone())),
            size: Some(request.body().len() as u64),
        }
    }

    fn read(entry: &HarEntry, uri: Uri) -> Result<Self, &'static str> {
        let request = &entry.request;
        let headers = request.headers.iter();
        let headers = headers.map(|pair| (pair.name.to_ascii_lowercase(), pair.value.clone()));
        let body = match &request.post_data {
            Some(data) => {
                let body = data.body(request.body_size);
                Some(body.map_err(|_| "the body of its request is no base64")?)
            }
            None if request.body_size > 0 => None,
            None => Some(HarBody::Whole(Bytes::new())),
        };
        // Some programs write an empty text for a body that they did not keep.
        let is_lost = |body: &HarBody| {
            request.body_size > 0 && matches!(body, HarBody::Whole(bytes) if bytes.is_empty())
        };
        Ok(Self {
            method: request.method.clone(),
            uri,
            headers: sorted(headers),
            body: body.filter(|body| !is_lost(body)),
            size: u64::try_from(request.body_size)
                .ok()
                .filter(|size| *size > 0),
        })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(it, _)| it == name);
        found.map(|(_, value)| value.as_str())
    }

    /// As far as it is known.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.body {
            Some(HarBody::Whole(bytes) | HarBody::Hash { head: bytes, .. }) => bytes,
            Some(HarBody::Lossy(text)) => text.as_bytes(),
            None => &[],
        }
    }
}

fn sorted(headers: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut headers: Vec<_> = headers
        // Of HTTP/2, where they are no headers.
        .filter(|(name, _)| !name.starts_with(':') && !VOLATILE.contains(&name.as_str()))
        .collect();
    headers.sort();
    headers
}

/// Why an archive cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayError {
    /// Which entry, from 0; `None` if it is about all of them.
    pub entry: Option<usize>,
    /// What is wrong.
    pub what: &'static str,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry {
            Some(entry) => write!(
                f,
                "entry {entry} of the archive cannot be replayed: {}",
                self.what
            ),
            None => write!(f, "the archive cannot be replayed: {}", self.what),
        }
    }
}

impl Error for ReplayError {}

/// What a runner asked GitLab, and where GitLab sent it. All else in the archive is left out.
pub(super) fn exchanges(har: &Har) -> Result<Vec<Exchange>, ReplayError> {
    let mut exchanges = Vec::new();
    let mut targets = BTreeSet::new();
    for (number, entry) in har.log.entries.iter().enumerate() {
        let bad = |what| ReplayError {
            entry: Some(number),
            what,
        };
        let Ok(uri) = entry.request.url.parse::<Uri>() else {
            return Err(bad("its URL is none"));
        };
        if Method::from_bytes(entry.request.method.as_bytes()).is_err() {
            return Err(bad("its method is none"));
        }
        let post_data = entry.request.post_data.as_ref();
        let body = post_data.map_or(&[][..], |data| data.text.as_bytes());
        let key = Key::of(&entry.request.method, uri.path(), body);
        if !key.is_api() && !targets.contains(&uri.to_string()) {
            continue;
        }
        let reply = reply(entry).map_err(bad)?;
        if let Replied::With { headers, .. } = &reply
            && let Some(target) = headers.get("location").and_then(|it| it.to_str().ok())
        {
            targets.insert(target.to_owned());
        }
        exchanges.push(Exchange {
            number,
            key,
            started: entry.started(),
            duration: entry.duration(),
            request: Asked::read(entry, uri).map_err(bad)?,
            reply,
        });
    }
    if exchanges.is_empty() {
        return Err(ReplayError {
            entry: None,
            what: "no entry of it is a request of a runner to GitLab",
        });
    }
    Ok(exchanges)
}

fn reply(entry: &HarEntry) -> Result<Replied, &'static str> {
    let response = &entry.response;
    if response.given_up {
        return Ok(Replied::Never);
    }
    if response.status <= 0 {
        return Ok(Replied::Lost);
    }
    let status = u16::try_from(response.status).ok();
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or("its status is none")?;
    let mut headers = HeaderMap::new();
    for pair in &response.headers {
        let name = pair.name.to_ascii_lowercase();
        if OF_THE_WAY.contains(&name.as_str()) {
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(pair.value.as_bytes());
        // A client would not have let it through either.
        if let (Ok(name), Ok(value)) = (name, value) {
            headers
                .try_append(name, value)
                .map_err(|_| "it has too many headers")?;
        }
    }
    let body = response
        .body()
        .map_err(|_| "the body of its reply is no base64")?;
    Ok(Replied::With {
        status,
        headers,
        body,
        is_cut: !response.error.is_empty(),
    })
}
