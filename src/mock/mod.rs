//! A simulated GitLab: what our tests, our demo and our users' tests run against.
//!
//! Everything here is pure but [`http`], which serves any [`Server`] on loopback.

use std::fmt;

use bytes::Bytes;

use crate::Time;

pub use artifact::ArtifactSpec;
pub use faults::{Fault, FaultPlan, Faulty};
pub use gitlab::{
    Endpoint, Manager, MockGitlab, Override, PipelineError, RunnerNumber, Settings, VerifyMode,
};
pub use job::{JobSpec, PipelineSpec};
pub use report::{ArtifactReport, JobReport, JobStatus, RequestRecord, StateChange};
pub use storage::{ObjectStore, StorageRequest};
pub use trickle::Trickle;
pub use variants::{FieldForm, PayloadVariant};

mod artifact;
mod faults;
mod gitlab;
pub mod http;
mod job;
pub(crate) mod multipart;
mod payload;
mod random;
mod report;
mod storage;
mod trickle;
mod variants;

/// An HTTP server as a pure state machine: requests and time in, answers out.
pub trait Server: Send + 'static {
    /// Takes one request, with its whole body unless [`body_limit`](Self::body_limit) says
    /// otherwise, and answers it now or later.
    ///
    /// The URI may be absolute or in origin form.
    fn handle(&mut self, now: Time, request: ::http::Request<Bytes>) -> Answer;

    /// How much of the body that follows this head is wanted. Asked before any of it is read, by
    /// those who can: [`http::Loopback`] does, a simulation in memory does not.
    ///
    /// `None` is the whole body, or a 413 when it is longer than [`http::MAX_REQUEST_BODY`].
    fn body_limit(&self, head: &::http::request::Parts) -> Option<BodyLimit> {
        let _ = head;
        None
    }

    /// The answer to a request that was put on hold, if it is due at `now`.
    ///
    /// Called after every [`handle`](Self::handle), after every change from outside and when
    /// [`poll_timeout`](Self::poll_timeout) has come, until it gives `None`. A server that answers
    /// all at once does without this and the next two.
    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        let _ = now;
        None
    }

    /// When to call [`poll_answer`](Self::poll_answer) at the latest.
    fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// The client of a request on hold has gone away.
    fn drop_hold(&mut self, hold: HoldId) {
        let _ = hold;
    }
}

/// How much of a request's body a server wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BodyLimit {
    /// Of a longer body [`Server::handle`] gets so many bytes, and the connection is closed after
    /// the answer.
    pub bytes: usize,
    /// The answer to a longer body is sent at once, while the client is still sending. If not,
    /// the rest is read first.
    pub early: bool,
}

impl BodyLimit {
    /// This many bytes; of a longer body, no more than that.
    pub const fn new(bytes: usize, early: bool) -> Self {
        Self { bytes, early }
    }
}

/// What a server does with a request.
#[derive(Debug)]
#[non_exhaustive]
pub enum Answer {
    /// Reply. With a [`Trickle`] among its extensions, slowly.
    Reply(::http::Response<Bytes>),
    /// Reply later, through [`Server::poll_answer`]. Never given by `poll_answer` itself.
    Hold(HoldId),
    /// Close the connection without a reply.
    Close,
}

/// Names a request on hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(pub(crate) u64);

impl HoldId {
    /// The hold with this number; the server that makes it keeps its own count.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

impl fmt::Display for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hold {}", self.0)
    }
}
