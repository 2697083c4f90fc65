//! What can go wrong between a request and its reply.

use std::{error::Error, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Why a request got no reply.
///
/// An adapter says what it knows and never retries: the machine decides what happens next.
#[derive(Clone, Debug)]
pub struct TransportError {
    kind: TransportErrorKind,
    maybe_delivered: bool,
    detail: Arc<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What failed, as far as the adapter could tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// No connection: name not found, refused, unreachable. Check the URL and the network.
    Connect,
    /// TLS could not be agreed on: unknown certificate authority, expired or wrong certificate.
    Tls,
    /// The connection broke, or what came was not HTTP.
    Broken,
    /// No reply within the time that the request was given.
    Timeout,
    /// The request could not even be built or sent by this adapter.
    Request,
    /// The body to be sent could not be read.
    Body,
    /// The body of the reply could not be stored: the disk is full, say, or it is longer than a
    /// limit.
    Store,
}

impl TransportError {
    /// An error of `kind`; `maybe_delivered` tells whether the server may have seen and processed
    /// the request (a lost reply) or certainly has not (a lost request).
    ///
    /// `detail` says what was tried. It must hold no token and no request body.
    pub fn new(
        kind: TransportErrorKind,
        maybe_delivered: bool,
        detail: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            kind,
            maybe_delivered,
            detail: detail.into(),
            source: None,
        }
    }

    /// The same error with the error that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// What failed.
    pub fn kind(&self) -> TransportErrorKind {
        self.kind
    }

    /// Whether the server may have processed the request all the same.
    pub fn maybe_delivered(&self) -> bool {
        self.maybe_delivered
    }
}

/// The detail and, behind colons, every error below it: HTTP stacks hide the cause that counts
/// (a refused certificate, say) several levels down.
impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        let mut below = self.source();
        while let Some(error) = below {
            write!(f, ": {error}")?;
            below = error.source();
        }
        Ok(())
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn Error + 'static))
    }
}
