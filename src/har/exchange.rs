//! The entries of an archive that a runner has to do with, in a form to be compared.

use std::{collections::BTreeSet, error::Error, fmt, io::Read, time::Duration};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use serde_json::Value;

use super::{Har, HarBody, HarEntry, HarResponse};
use crate::{
    ids::JobId,
    protocol::{JobPayload, redirect_target},
    time::WallTime,
};

/// In the path of all that a runner asks.
const API: &str = "/api/v4/";

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
        let (path, job) = match path.split_once(API) {
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
        let is_final = is_update
            && field(body, "state").is_some_and(|state| !["running", "pending"].contains(&&*state));
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

    /// Whether the body of its answer is a file.
    pub(super) fn is_download(&self) -> bool {
        self.method == Method::GET.as_str()
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

/// The longest body that is unpacked, in bytes.
const MAX_UNPACKED: u64 = 64 << 20;

/// A body of text as it was before it was compressed for the way. Most programs write it so.
fn unpacked(body: HarBody, response: &HarResponse) -> Result<HarBody, &'static str> {
    let HarBody::Whole(bytes) = &body else {
        return Ok(body);
    };
    let is_encoding = |name: &str| name.eq_ignore_ascii_case("content-encoding");
    let encoded = response.headers.iter().any(|it| is_encoding(&it.name));
    if !encoded || std::str::from_utf8(bytes).is_ok() {
        return Ok(body);
    }
    let mut text = Vec::new();
    let mut gzip = MultiGzDecoder::new(&bytes[..]).take(MAX_UNPACKED + 1);
    match gzip.read_to_end(&mut text) {
        Ok(len) if len as u64 <= MAX_UNPACKED => Ok(HarBody::Whole(text.into())),
        Ok(_) => Err("the body of its reply is too long"),
        Err(_) => Err("the body of its reply is compressed, and cannot be unpacked"),
    }
}

/// What a runner asked GitLab, and where GitLab sent it, in the order in which it began: some programs
/// write each entry when it is over. All else in the archive is left out.
pub(super) fn exchanges(har: &Har) -> Result<Vec<Exchange>, ReplayError> {
    let mut exchanges = Vec::new();
    let mut targets = BTreeSet::new();
    for (number, entry) in in_order(&har.log.entries) {
        let bad = |what| ReplayError {
            entry: Some(number),
            what,
        };
        let url = &entry.request.url;
        let Some(uri) = parsed(url) else {
            if url.contains(API) {
                return Err(bad("its URL is none"));
            }
            continue;
        };
        let post_data = entry.request.post_data.as_ref();
        let body = post_data.map_or(&[][..], |data| data.text.as_bytes());
        let key = Key::of(&entry.request.method, uri.path(), body);
        if !key.is_api() && !targets.contains(&address(&uri)) {
            continue;
        }
        if Method::from_bytes(entry.request.method.as_bytes()).is_err() {
            return Err(bad("its method is none"));
        }
        let reply = reply(entry, &key).map_err(bad)?;
        if let Replied::With { headers, .. } = &reply
            && let Some(target) = redirect_target(&uri, headers)
        {
            targets.insert(address(&target));
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

/// Entries with their places, sorted by when they began. One that does not say stays behind the one
/// before it.
fn in_order(entries: &[HarEntry]) -> Vec<(usize, &HarEntry)> {
    let mut latest = WallTime::default();
    let mut order: Vec<_> = entries
        .iter()
        .enumerate()
        .map(|place| {
            latest = place.1.started().unwrap_or(latest);
            (latest, place)
        })
        .collect();
    order.sort_by_key(|(started, _)| *started);
    order.into_iter().map(|(_, place)| place).collect()
}

/// A URL; browsers write some with characters that have to be encoded on the wire.
fn parsed(url: &str) -> Option<Uri> {
    let encoded = || url::Url::parse(url).ok()?.as_str().parse().ok();
    url.parse().ok().or_else(encoded)
}

/// The same text for the same place, however its host is written.
fn address(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    let scheme = uri.scheme_str().unwrap_or_default();
    let usual = if scheme == "http" { 80 } else { 443 };
    let port = uri.port_u16().unwrap_or(usual);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    format!("{scheme}://{host}:{port}{path}")
}

fn reply(entry: &HarEntry, key: &Key) -> Result<Replied, &'static str> {
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
    // What is downloaded may be compressed by itself.
    let body = if key.is_download() {
        body
    } else {
        unpacked(body, response)?
    };
    let is_lost = matches!(&body, HarBody::Hash { sha256, .. } if sha256.is_empty());
    if key.is_poll() && status == StatusCode::CREATED && is_lost {
        return Err("the job that it hands out was not kept");
    }
    Ok(Replied::With {
        status,
        headers,
        body,
        is_cut: !response.error.is_empty(),
    })
}
