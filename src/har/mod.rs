//! HTTP archives: what passed between a runner and GitLab, recorded and replayed.
//!
//! HAR 1.2 is what browsers, `mitmproxy` and this crate write. [`Har::parse`] reads all of them
//! leniently: whatever is missing, null or of another type is empty, unknown fields are skipped, and
//! an archive that a program wrote in a hurry (no `version`, no `timings`, characters that are none)
//! is read all the same. [`Har::to_json`] writes one that all of them open.
//!
//! * [`Recording`](crate::adapter::Recording) wraps any adapter and writes down what passes.
//! * [`HarServer`] answers a runner as the recording says (with the feature `mock`), and
//!   [`replay_machine`] lets a bare machine run through it.
//!
//! What HAR has no place for stands in fields that begin with an underscore, as its authors wish:
//! `_error` is why there was no reply (`mitmproxy` writes it too), `_sha256` stands for a body that
//! was left out, `_encoding` for one that is no text.
//!
#![cfg_attr(
    not(feature = "mock"),
    doc = "[`HarServer`]: crate::har\n[`replay_machine`]: crate::har"
)]

mod body;
#[cfg(feature = "mock")]
mod compare;
mod date;
#[cfg(feature = "mock")]
mod exchange;
#[cfg(feature = "mock")]
mod machine;
mod read;
#[cfg(feature = "mock")]
mod recorded;
#[cfg(feature = "mock")]
mod rewrite;
#[cfg(feature = "mock")]
mod script;
#[cfg(feature = "mock")]
mod server;

use std::{error::Error, fmt, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::body::{HarBody, HarBodyError};
use self::read::{lenient, list, milliseconds, number, places, text};
#[cfg(feature = "mock")]
pub use self::{
    compare::Mismatch,
    exchange::ReplayError,
    machine::replay_machine,
    server::{HarServer, Mode},
};
pub use crate::redact::Secrets;
use crate::time::WallTime;

/// The longest archive that is read, in bytes.
pub const MAX_ARCHIVE: usize = 512 << 20;

/// An archive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Har {
    /// What there is in it.
    pub log: HarLog,
}

/// The content of an archive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HarLog {
    /// `1.2`.
    #[serde(deserialize_with = "text")]
    pub version: String,
    /// Which program wrote it.
    #[serde(deserialize_with = "lenient")]
    pub creator: HarCreator,
    /// What passed, mostly in the order in which it began. What cannot be read is an empty entry, so
    /// that each stays in its place.
    #[serde(deserialize_with = "places")]
    pub entries: Vec<HarEntry>,
    /// A word of whoever wrote it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "text")]
    pub comment: String,
}

/// The program that wrote an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HarCreator {
    /// Its name.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// Its version.
    #[serde(deserialize_with = "text")]
    pub version: String,
}

/// One request and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct HarEntry {
    /// When it began, as in RFC 3339.
    #[serde(deserialize_with = "text")]
    pub started_date_time: String,
    /// How long it took in all, in milliseconds.
    #[serde(deserialize_with = "milliseconds")]
    pub time: f64,
    /// What was asked.
    #[serde(deserialize_with = "lenient")]
    pub request: HarRequest,
    /// What was answered.
    #[serde(deserialize_with = "lenient")]
    pub response: HarResponse,
    /// HAR wants it; it is empty.
    #[serde(deserialize_with = "lenient")]
    pub cache: HarCache,
    /// Where the time went.
    #[serde(deserialize_with = "lenient")]
    pub timings: HarTimings,
    /// A word of whoever wrote it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "text")]
    pub comment: String,
}

/// What was asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct HarRequest {
    /// `GET` and the like.
    #[serde(deserialize_with = "text")]
    pub method: String,
    /// Absolute.
    #[serde(deserialize_with = "text")]
    pub url: String,
    /// `HTTP/1.1` and the like.
    #[serde(deserialize_with = "text")]
    pub http_version: String,
    /// HAR wants them; a runner has none.
    #[serde(deserialize_with = "list")]
    pub cookies: Vec<HarPair>,
    /// In their order.
    #[serde(deserialize_with = "list")]
    pub headers: Vec<HarPair>,
    /// What the URL says behind the question mark.
    #[serde(deserialize_with = "list")]
    pub query_string: Vec<HarPair>,
    /// The body, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub post_data: Option<HarPostData>,
    /// In bytes; -1 if it is not known.
    #[serde(deserialize_with = "number")]
    pub headers_size: i64,
    /// In bytes; -1 if it is not known.
    #[serde(deserialize_with = "number")]
    pub body_size: i64,
}

/// A name and its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HarPair {
    /// The name.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// The value.
    #[serde(deserialize_with = "text")]
    pub value: String,
}

/// The body of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct HarPostData {
    /// What it is.
    #[serde(deserialize_with = "text")]
    pub mime_type: String,
    /// The body, or of an upload what stands before the file. Programs but this one write what is no
    /// text as if it were.
    #[serde(deserialize_with = "text")]
    pub text: String,
    /// `base64`, if `text` is that.
    #[serde(
        rename = "_encoding",
        alias = "encoding",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "text"
    )]
    pub encoding: String,
    /// Of the whole body, where `text` is not all of it.
    #[serde(
        rename = "_sha256",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "text"
    )]
    pub sha256: String,
}

/// What was answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct HarResponse {
    /// 0 if there was no reply.
    #[serde(deserialize_with = "number")]
    pub status: i64,
    /// The words behind it.
    #[serde(deserialize_with = "text")]
    pub status_text: String,
    /// `HTTP/1.1` and the like.
    #[serde(deserialize_with = "text")]
    pub http_version: String,
    /// HAR wants them; GitLab sets none for a runner.
    #[serde(deserialize_with = "list")]
    pub cookies: Vec<HarPair>,
    /// In their order.
    #[serde(deserialize_with = "list")]
    pub headers: Vec<HarPair>,
    /// The body.
    #[serde(deserialize_with = "lenient")]
    pub content: HarContent,
    /// Where a redirect leads to.
    #[serde(rename = "redirectURL", deserialize_with = "text")]
    pub redirect_url: String,
    /// In bytes; -1 if it is not known.
    #[serde(deserialize_with = "number")]
    pub headers_size: i64,
    /// In bytes; -1 if it is not known.
    #[serde(deserialize_with = "number")]
    pub body_size: i64,
    /// Why there was no reply, or not all of it.
    #[serde(
        rename = "_error",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "text"
    )]
    pub error: String,
    /// The runner gave the request up before there was a reply.
    #[serde(
        rename = "_givenUp",
        skip_serializing_if = "std::ops::Not::not",
        deserialize_with = "lenient"
    )]
    pub given_up: bool,
}

/// The body of a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[non_exhaustive]
pub struct HarContent {
    /// In bytes, uncompressed.
    #[serde(deserialize_with = "number")]
    pub size: i64,
    /// What it is.
    #[serde(deserialize_with = "text")]
    pub mime_type: String,
    /// The body.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "text")]
    pub text: String,
    /// `base64`, if `text` is that.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "text")]
    pub encoding: String,
    /// Of the whole body, where it was left out.
    #[serde(
        rename = "_sha256",
        skip_serializing_if = "String::is_empty",
        deserialize_with = "text"
    )]
    pub sha256: String,
}

/// HAR wants it; a runner has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HarCache {}

/// Where the time went, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HarTimings {
    /// To send the request.
    #[serde(deserialize_with = "milliseconds")]
    pub send: f64,
    /// Until the head of the reply.
    #[serde(deserialize_with = "milliseconds")]
    pub wait: f64,
    /// Until the end of its body.
    #[serde(deserialize_with = "milliseconds")]
    pub receive: f64,
}

impl Har {
    /// Reads an archive.
    ///
    /// # Errors
    /// When it is no JSON, is too long, or has no list of entries.
    pub fn parse(archive: &[u8]) -> Result<Self, HarError> {
        read::archive(archive)
    }

    /// When the first of the entries began, if any of them says so. A replay at the clock of then
    /// (`wall_origin` of the machine's configuration) makes of dates, and of times in artifacts, what
    /// they were.
    pub fn began(&self) -> Option<WallTime> {
        self.log.entries.iter().filter_map(HarEntry::started).min()
    }

    /// The archive as JSON, one field a line.
    pub fn to_json(&self) -> String {
        // Texts and numbers: a number that JSON has no form for is written as null.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl HarPair {
    pub(crate) fn new(name: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            value: value.to_owned(),
        }
    }
}

impl HarEntry {
    /// How long it took in all: `time`, or the sum of the timings where that is missing. What is
    /// negative counts as zero, and so does what is longer than a year.
    pub fn duration(&self) -> Duration {
        let HarTimings {
            send,
            wait,
            receive,
        } = self.timings;
        let sum: f64 = [send, wait, receive]
            .iter()
            .filter(|part| **part > 0.0)
            .sum();
        let millis = if self.time > 0.0 { self.time } else { sum };
        let is_sensible = millis.is_finite() && (0.0..3.2e10).contains(&millis);
        let nanos = if is_sensible { millis * 1e6 } else { 0.0 };
        Duration::from_nanos(nanos.round() as u64)
    }

    /// When it began, if that can be read.
    pub fn started(&self) -> Option<WallTime> {
        date::parse(&self.started_date_time)
    }
}

/// Why an archive cannot be read. It repeats nothing of the archive, which may hold tokens.
#[derive(Debug)]
pub struct HarError {
    what: String,
    line: usize,
    column: usize,
}

impl fmt::Display for HarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no HTTP archive: {}", self.what)?;
        match (self.line, self.column) {
            (0, _) => Ok(()),
            (line, column) => write!(f, " (line {line}, column {column})"),
        }
    }
}

impl Error for HarError {}

#[cfg(test)]
mod tests;
