//! Single faults, planned by a test.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::reply::{self, Reply};
use crate::JobId;

/// Requests that a planned fault looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// Every request, known route or not.
    Any,
    /// `POST runners/verify`.
    Verify,
    /// `POST jobs/request`.
    JobRequest,
    /// Every `PUT jobs/:id`.
    Update,
    /// `PUT jobs/:id` with `state=running`.
    KeepAlive,
    /// `PUT jobs/:id` with `state=success` or `state=failed`.
    FinalUpdate,
    /// `PATCH jobs/:id/trace`.
    Trace,
}

/// What happens instead of the usual answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Override {
    /// Not processed; answered with this status, in the shape the API gives it (429 comes with
    /// `Retry-After: 60`). A number that is no HTTP status counts as 500.
    Status(u16),
    /// Not processed; answered with the HTML page of a proxy, usually 502 or 503.
    Html(u16),
    /// Not processed; answered with 429 and `Retry-After` with this number of seconds.
    RetryAfter(u64),
    /// Not processed; answered with this reply.
    Reply(Response<Bytes>),
    /// Not processed; the connection is closed: a lost request.
    CloseBefore,
    /// Processed, but the connection is closed instead of an answer: a lost reply.
    CloseAfter,
    /// Processed, but answered with this reply, as when a proxy gives up on a slow server.
    ReplyAfter(Response<Bytes>),
}

pub(super) struct Planned {
    pub(super) endpoint: Endpoint,
    pub(super) job: Option<JobId>,
    /// How many matching requests there are to come, this one included.
    pub(super) nth: u64,
    pub(super) fault: Override,
}

/// Counts a request at the plans it matches and takes out the one that is due, if any.
///
/// Two plans for one request: the older one goes first, the other waits for the next request.
pub(super) fn due(
    plans: &mut Vec<Planned>,
    matches: impl Fn(Endpoint) -> bool,
    job: Option<JobId>,
) -> Option<Override> {
    let mut due = None;
    for (index, plan) in plans.iter_mut().enumerate() {
        if !matches(plan.endpoint) || (plan.job.is_some() && plan.job != job) {
            continue;
        }
        if plan.nth > 1 {
            plan.nth -= 1;
        } else if due.is_none() {
            due = Some(index);
        }
    }
    due.map(|index| plans.remove(index).fault)
}

/// What a fault makes of a request.
pub(super) enum Effect {
    /// Do not process.
    Instead(Reply),
    /// Do not process, close.
    Close,
    /// Process, then answer this, or close.
    After(Option<Reply>),
}

impl Override {
    pub(super) fn effect(self) -> Effect {
        let status = |code| StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match self {
            Self::Status(code) => Effect::Instead(reply::usual(status(code))),
            Self::Html(code) => Effect::Instead(reply::html(status(code))),
            Self::RetryAfter(seconds) => Effect::Instead(reply::rate_limited(seconds)),
            Self::Reply(reply) => Effect::Instead(reply),
            Self::CloseBefore => Effect::Close,
            Self::CloseAfter => Effect::After(None),
            Self::ReplyAfter(reply) => Effect::After(Some(reply)),
        }
    }
}
