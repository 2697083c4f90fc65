//! One upload or download of any size: where it goes, and how often it is tried.
//!
//! GitLab may send it elsewhere (to object storage, say), so this is the one place that follows
//! redirects. Each further try begins at GitLab again: addresses of storage are good for a short
//! time only.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode, Uri};

use super::{
    backoff::{Backoff, Setback},
    core::{Core, redirect_display, trouble},
    hidden::Hidden,
    output::{Doing, Notice, Trouble},
};
use crate::{
    ids::{JobId, RequestId},
    protocol::{loses_encryption, redirect_target, same_origin},
    time::Time,
    transport::{TransportError, TransportErrorKind},
};

const MAX_REDIRECTS: u32 = 5;
/// So often the server may say that it could not deal with this very request. With the growing
/// pauses that is about two minutes.
const TRIES: u32 = 8;
/// Tries in all, those counted in with a server that is overloaded or cannot be reached: about ten
/// minutes.
const ALL_TRIES: u32 = 16;
/// So often the connection may break in a [heavy](HEAVY) upload. It may be a server, or a
/// proxy, that finds it too large and closes before that can be heard.
const BREAKS: u32 = 5;
/// The pause after the first of them; it doubles each time.
const BREAK_PAUSE: Duration = Duration::from_secs(15);
/// An upload of more bytes is heavy.
const HEAVY: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Transfer {
    job: JobId,
    doing: Doing,
    method: Method,
    home: Uri,
    /// Where GitLab does not send elsewhere from.
    proxied: Option<Uri>,
    target: Uri,
    redirects: u32,
    /// In all.
    failures: u32,
    /// Those in which the server failed at this very request.
    errors: u32,
    /// Those in which a connection broke.
    breaks: u32,
    /// Whether it costs much to send all of it once more.
    is_heavy: bool,
    backoff: Backoff,
    in_flight: Option<RequestId>,
    hold_until: Time,
}

/// What an answer means for it.
#[derive(Debug)]
pub(super) enum Verdict {
    Done,
    /// It goes on, at once or later.
    Again,
    /// It will not work.
    Failed(Trouble),
}

impl Transfer {
    pub(super) fn new(job: JobId, doing: Doing, method: Method, home: Uri) -> Self {
        Self {
            job,
            doing,
            method,
            target: home.clone(),
            home,
            proxied: None,
            redirects: 0,
            failures: 0,
            errors: 0,
            breaks: 0,
            is_heavy: false,
            backoff: Backoff::default(),
            in_flight: None,
            hold_until: Time::ZERO,
        }
    }

    /// The same, of a body of so many bytes.
    pub(super) fn of_len(self, len: u64) -> Self {
        Self {
            is_heavy: len > HEAVY,
            ..self
        }
    }

    /// The same, of what can be had at `proxied` if it cannot be had where GitLab sends to.
    pub(super) fn or_proxied(self, proxied: Uri) -> Self {
        Self {
            proxied: Some(proxied),
            ..self
        }
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn target(&self) -> &Uri {
        &self.target
    }

    /// Whether it goes to GitLab, so that a token may go along.
    pub(super) fn is_at_home(&self) -> bool {
        same_origin(&self.home, &self.target)
    }

    /// Whether a request is to be sent now.
    pub(super) fn is_due(&self, core: &Core) -> bool {
        self.deadline(core).is_some_and(|due| due <= core.now)
    }

    /// When a request is to be sent, if none is in flight.
    pub(super) fn deadline(&self, core: &Core) -> Option<Time> {
        let hold = self.hold_until.max(core.shared_hold(Some(self.job)));
        self.in_flight.is_none().then_some(hold)
    }

    pub(super) fn sent(&mut self, request: RequestId) {
        self.in_flight = Some(request);
    }

    pub(super) fn owns(&self, request: RequestId) -> bool {
        self.in_flight == Some(request)
    }

    /// Expects no answer any more.
    pub(super) fn end(&mut self, core: &mut Core) {
        if let Some(request) = self.in_flight.take() {
            core.forget(request);
        }
    }

    /// The answer to the request in flight. What is `hidden` must not be quoted.
    pub(super) fn on_answer(
        &mut self,
        core: &mut Core,
        answer: Result<&Response<Bytes>, TransportError>,
        hidden: Hidden<'_>,
    ) -> Verdict {
        self.in_flight = None;
        let response = match answer {
            Ok(response) => response,
            // The disk here is at fault, and the next try would find it as it is.
            Err(error)
                if matches!(
                    error.kind(),
                    TransportErrorKind::Body | TransportErrorKind::Store
                ) =>
            {
                return Verdict::Failed(Trouble::Transport(error));
            }
            Err(error) => {
                let mut wait = self.backoff.after(Setback::Trouble, &mut core.rng);
                if error.kind() == TransportErrorKind::Broken && self.is_heavy {
                    wait = wait.max(BREAK_PAUSE * (1 << self.breaks.min(BREAKS)));
                    self.breaks += 1;
                }
                return self.again(core, Trouble::Transport(error), wait);
            }
        };
        let status = response.status();
        if self.is_done(status) {
            return Verdict::Done;
        }
        let trouble = trouble(response, hidden.and_target(&self.target));
        if self.is_followed(status) {
            return match redirect_target(&self.target, response.headers()) {
                Some(target) if self.redirects < MAX_REDIRECTS => self.follow(core, target),
                _ => Verdict::Failed(trouble),
            };
        }
        self.errors += match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => 0,
            StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT => 1,
            // Addresses of storage that have run out are refused there; GitLab gives a new one.
            StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST if !self.is_at_home() => 1,
            // Something in between said that, not GitLab: a page to log in, say.
            status if status.is_server_error() || status.is_success() => 1,
            _ => return Verdict::Failed(trouble),
        };
        // A server that asks for short waits must not use up all tries in a short outage.
        let least = self.backoff.clone().after(Setback::Trouble, &mut core.rng);
        let wait = core.wait_after(&mut self.backoff, response).max(least);
        self.again(core, trouble, wait)
    }

    fn follow(&mut self, core: &mut Core, target: Uri) -> Verdict {
        self.redirects += 1;
        self.hold_until = core.now;
        if !loses_encryption(&self.target, &target) {
            self.target = target;
            return Verdict::Again;
        }
        let trouble = Trouble::Insecure(redirect_display(target.to_string().as_bytes()));
        // GitLab itself hands out what it need not send elsewhere for.
        let Some(proxied) = self.proxied.take() else {
            return Verdict::Failed(trouble);
        };
        self.home = proxied;
        self.target = self.home.clone();
        self.tell(core, trouble, Duration::ZERO);
        Verdict::Again
    }

    fn again(&mut self, core: &mut Core, trouble: Trouble, wait: Duration) -> Verdict {
        self.failures += 1;
        if self.errors >= TRIES || self.failures >= ALL_TRIES || self.breaks >= BREAKS {
            return Verdict::Failed(trouble);
        }
        self.target = self.home.clone();
        self.redirects = 0;
        self.hold_until = core.now + wait;
        self.tell(core, trouble, wait);
        Verdict::Again
    }

    fn tell(&self, core: &mut Core, trouble: Trouble, retry_in: Duration) {
        let (job, doing) = (self.job, self.doing);
        core.notice(Notice::JobTrouble {
            job,
            doing,
            trouble,
            retry_in,
        });
    }

    /// Whether this is the answer that says that all went well.
    fn is_done(&self, status: StatusCode) -> bool {
        status
            == match self.doing {
                Doing::Upload => StatusCode::CREATED,
                _ => StatusCode::OK,
            }
    }

    /// Whether a redirect with this status asks for the same request elsewhere.
    fn is_followed(&self, status: StatusCode) -> bool {
        match status {
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => {
                self.method == Method::GET
            }
            _ => false,
        }
    }
}
