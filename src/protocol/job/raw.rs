//! The body that a payload was read from.

use std::fmt;

use bytes::Bytes;
use serde::{Deserializer, de::IgnoredAny};

use super::lenient::Lenient;

/// The JSON of a job as GitLab sent it, for what this crate does not know of; none if it was not
/// kept.
///
/// It holds tokens and secrets. `Debug` shows its length only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RawPayload(Option<Bytes>);

impl RawPayload {
    /// Keeps `body`.
    pub fn new(body: Bytes) -> Self {
        Self(Some(body))
    }

    /// The JSON, if it was kept.
    pub fn get(&self) -> Option<&Bytes> {
        self.0.as_ref()
    }
}

/// No part of the body it is, so that whatever stands in its place there is skipped.
impl Lenient for RawPayload {
    fn absent() -> Self {
        Self::default()
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        deserializer.deserialize_ignored_any(IgnoredAny)?;
        Ok(None)
    }
}

impl fmt::Debug for RawPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(body) => write!(f, "RawPayload({} bytes)", body.len()),
            None => f.write_str("RawPayload(none)"),
        }
    }
}
