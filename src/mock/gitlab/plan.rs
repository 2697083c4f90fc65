//! Single faults, planned by a test.

use bytes::Bytes;
use http::{Response, StatusCode};

use super::reply::{self, Reply};
use crate::{
    JobId,
    mock::{Answer, Trickle},
};

/// Requests that a planned fault looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// Every request, known route or not.
    Any,
    /// `POST runners`.
    Register,
    /// `POST runners/verify`.
    Verify,
    /// `DELETE runners` and `DELETE runners/managers`.
    Unregister,
    /// `POST runners/reset_authentication_token`.
    ResetToken,
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
    /// `POST jobs/:id/artifacts`.
    ArtifactUpload,
    /// `GET jobs/:id/artifacts`.
    ArtifactDownload,
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
    /// Processed; the connection is closed after this many bytes of the answer's body. An answer
    /// that is no longer than that is whole.
    CutBody(usize),
    /// Processed; the body of the answer comes slowly. An answer without a body is as it is.
    Trickle(Trickle),
}

pub(in crate::mock) struct Planned {
    pub(in crate::mock) endpoint: Endpoint,
    pub(in crate::mock) job: Option<JobId>,
    /// How many matching requests there are to come, this one included.
    pub(in crate::mock) nth: u64,
    pub(in crate::mock) fault: Override,
}

/// Whether the next such request has a fault that keeps it from being processed.
pub(super) fn will_skip(
    plans: &[Planned],
    matches: impl Fn(Endpoint) -> bool,
    job: Option<JobId>,
) -> bool {
    let next = plans
        .iter()
        .find(|plan| plan.nth <= 1 && plan.concerns(&matches, job));
    next.is_some_and(|plan| {
        !matches!(
            plan.fault,
            Override::CloseAfter
                | Override::ReplyAfter(_)
                | Override::CutBody(_)
                | Override::Trickle(_)
        )
    })
}

/// Counts a request at the plans it matches and takes out the one that is due, if any.
///
/// Two plans for one request: the older one goes first, the other waits for the next request.
pub(in crate::mock) fn due(
    plans: &mut Vec<Planned>,
    matches: impl Fn(Endpoint) -> bool,
    job: Option<JobId>,
) -> Option<Override> {
    let mut due = None;
    for (index, plan) in plans.iter_mut().enumerate() {
        if !plan.concerns(&matches, job) {
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

impl Planned {
    fn concerns(&self, matches: impl Fn(Endpoint) -> bool, job: Option<JobId>) -> bool {
        matches(self.endpoint) && (self.job.is_none() || self.job == job)
    }
}

/// What a fault makes of a request.
pub(in crate::mock) enum Effect {
    /// Do not process.
    Instead(Reply),
    /// Do not process, close.
    Close,
    /// Process, then spoil the answer.
    After(Spoil),
}

/// What becomes of the answer to a request that was processed.
pub(in crate::mock) enum Spoil {
    Close,
    Replace(Reply),
    Cut(usize),
    Slow(Trickle),
}

impl Spoil {
    /// Whether the client gets the answer, however late.
    pub(super) fn delivers(&self) -> bool {
        matches!(self, Self::Slow(_))
    }

    pub(in crate::mock) fn apply(self, mut lost: Reply) -> Answer {
        match self {
            Self::Close => Answer::Close,
            Self::Replace(reply) => Answer::Reply(reply),
            Self::Cut(len) => Answer::Reply(reply::cut(lost, len)),
            Self::Slow(trickle) => {
                lost.extensions_mut().insert(trickle);
                Answer::Reply(lost)
            }
        }
    }
}

impl Override {
    pub(in crate::mock) fn effect(self) -> Effect {
        let status = |code| StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match self {
            Self::Status(code) => Effect::Instead(reply::usual(status(code))),
            Self::Html(code) => Effect::Instead(reply::html(status(code))),
            Self::RetryAfter(seconds) => Effect::Instead(reply::rate_limited(seconds)),
            Self::Reply(reply) => Effect::Instead(reply),
            Self::CloseBefore => Effect::Close,
            Self::CloseAfter => Effect::After(Spoil::Close),
            Self::ReplyAfter(reply) => Effect::After(Spoil::Replace(reply)),
            Self::CutBody(len) => Effect::After(Spoil::Cut(len)),
            Self::Trickle(trickle) => Effect::After(Spoil::Slow(trickle)),
        }
    }
}
