//! Bodies in an archive.

use std::{error::Error, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;

use super::{HarContent, HarPostData, HarResponse};

/// What an archive has of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HarBody {
    /// All of it.
    Whole(Bytes),
    /// A text in which what was no character is U+FFFD: its length, and what it says between them,
    /// are not those of the body.
    Lossy(String),
    /// Not the body, but how long it is, its SHA-256 in hex (empty if it is not known: then the
    /// archive says only that there was one), and what it began with.
    Hash {
        /// In bytes, if it is known.
        len: Option<u64>,
        /// In hex.
        sha256: String,
        /// The first bytes.
        head: Bytes,
    },
}

/// A body in base64 that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HarBodyError;

impl fmt::Display for HarBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a body that says it is base64 is none")
    }
}

impl Error for HarBodyError {}

impl HarPostData {
    /// The body; `size` is what the request says of its length, or -1.
    ///
    /// # Errors
    /// See [`HarBodyError`].
    pub fn body(&self, size: i64) -> Result<HarBody, HarBodyError> {
        body(&self.text, &self.encoding, &self.sha256, size)
    }

    /// A body as a whole.
    pub(crate) fn whole(mime_type: &str, bytes: &[u8]) -> Self {
        let (text, encoding) = written(bytes);
        Self {
            mime_type: mime_type.to_owned(),
            text,
            encoding,
            sha256: String::new(),
        }
    }
}

impl HarResponse {
    /// The body.
    ///
    /// # Errors
    /// See [`HarBodyError`].
    pub fn body(&self) -> Result<HarBody, HarBodyError> {
        let HarContent {
            size,
            text,
            encoding,
            sha256,
            ..
        } = &self.content;
        let body = body(text, encoding, sha256, *size)?;
        Ok(match (body, u64::try_from(*size)) {
            // Programs leave out what they did not keep.
            (HarBody::Whole(bytes), Ok(len @ 1..)) if bytes.is_empty() => HarBody::Hash {
                len: Some(len),
                sha256: String::new(),
                head: bytes,
            },
            (body, _) => body,
        })
    }
}

impl HarContent {
    /// A body as a whole.
    pub(crate) fn whole(mime_type: &str, bytes: &[u8]) -> Self {
        let (text, encoding) = written(bytes);
        Self {
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            mime_type: mime_type.to_owned(),
            text,
            encoding,
            sha256: String::new(),
        }
    }
}

fn written(bytes: &[u8]) -> (String, String) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), String::new()),
        Err(_) => (BASE64_STANDARD.encode(bytes), "base64".to_owned()),
    }
}

fn body(text: &str, encoding: &str, sha256: &str, size: i64) -> Result<HarBody, HarBodyError> {
    let is_base64 = encoding.eq_ignore_ascii_case("base64");
    let bytes = if is_base64 {
        // Some wrap the lines.
        let text: Vec<u8> = text.bytes().filter(|c| !c.is_ascii_whitespace()).collect();
        Bytes::from(BASE64_STANDARD.decode(text).map_err(|_| HarBodyError)?)
    } else {
        Bytes::from(text.to_owned())
    };
    if !sha256.is_empty() {
        return Ok(HarBody::Hash {
            len: u64::try_from(size).ok(),
            sha256: sha256.to_ascii_lowercase(),
            head: bytes,
        });
    }
    if !is_base64 && text.contains('\u{fffd}') {
        return Ok(HarBody::Lossy(text.to_owned()));
    }
    Ok(HarBody::Whole(bytes))
}
