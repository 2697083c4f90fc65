//! One thing that the runner wants from GitLab for itself, and how its answer is read.

use bytes::Bytes;
use http::{Method, Response, StatusCode};

use super::{
    backoff::{Backoff, Setback},
    call::{NewToken, RunnerCall},
    core::{Core, trouble},
    hidden::Hidden,
    output::Trouble,
};
use crate::{
    ids::RequestId,
    protocol::{RunnerDetails, headers, manager_body, register_body, token_body, verify_body},
    time::{Time, WallTime},
    transport::TransportError,
};

/// How often it is tried at the most.
const TRIES: u32 = 5;

#[derive(Debug)]
pub(super) struct Errand {
    pub(super) purpose: Purpose,
    pub(super) state: State,
    begun: Time,
    tries: u32,
    backoff: Backoff,
    /// An earlier try may have done it.
    maybe_done: bool,
}

#[derive(Debug)]
pub(super) enum Purpose {
    /// The poller asks whether the token is good, before its first request.
    Start,
    /// The life of the token is asked for.
    Ask,
    /// The token is changed because of its age.
    Rotate,
    /// The operator wants it.
    Call(RunnerCall),
}

#[derive(Debug)]
pub(super) enum State {
    InFlight(RequestId),
    /// For the next try.
    Waiting(Time),
    /// A new token is being stored.
    Persisting {
        token: NewToken,
        /// The longest wait.
        until: Time,
    },
}

/// What came of one request.
pub(super) struct Answer {
    pub(super) result: Result<RunnerDetails, Trouble>,
    /// GitLab's clock if it told, else ours.
    pub(super) wall: WallTime,
    /// Why another try may do; `None` if none will.
    pub(super) setback: Option<Setback>,
}

impl Answer {
    /// Whether GitLab may have done it, although the answer does not say so.
    pub(super) fn maybe_done(&self) -> bool {
        self.result
            .as_ref()
            .err()
            .is_some_and(Trouble::is_lost_reply)
    }
}

impl Errand {
    pub(super) fn begin(core: &mut Core, purpose: Purpose) -> Self {
        let mut errand = Self {
            purpose,
            state: State::Waiting(core.now),
            begun: core.now,
            tries: 0,
            backoff: Backoff::default(),
            maybe_done: false,
        };
        errand.send(core);
        errand
    }

    /// Sends its request, for the first time or once more.
    pub(super) fn send(&mut self, core: &mut Core) {
        let config = &core.config;
        let own = config.token.clone();
        let verify = || verify_body(&config.token, &config.system_id, &config.info);
        let (method, path, token, body) = match &self.purpose {
            Purpose::Start | Purpose::Ask | Purpose::Call(RunnerCall::Verify) => {
                (Method::POST, "runners/verify", Some(own), verify())
            }
            Purpose::Call(RunnerCall::Register(registration)) => {
                let token = registration.token.clone();
                let body = register_body(registration);
                (Method::POST, "runners", Some(token), body)
            }
            Purpose::Call(RunnerCall::Unregister) => {
                let body = token_body(&own);
                (Method::DELETE, "runners", Some(own), body)
            }
            Purpose::Call(RunnerCall::UnregisterManager) => {
                let body = manager_body(&own, &config.system_id);
                (Method::DELETE, "runners/managers", Some(own), body)
            }
            Purpose::Rotate | Purpose::Call(RunnerCall::ResetToken) => {
                core.token_held = true;
                let path = "runners/reset_authentication_token";
                // GitLab's own runner leaves the header out here.
                (Method::POST, path, None, token_body(&own))
            }
        };
        self.tries += 1;
        self.state = State::InFlight(core.send_account_call(method, path, token.as_ref(), body));
    }

    /// Whether it changes nothing at GitLab.
    pub(super) fn is_question(&self) -> bool {
        matches!(
            self.purpose,
            Purpose::Start | Purpose::Ask | Purpose::Call(RunnerCall::Verify)
        )
    }

    fn is_deletion(&self) -> bool {
        matches!(
            self.purpose,
            Purpose::Call(RunnerCall::Unregister | RunnerCall::UnregisterManager)
        )
    }

    /// Reads the answer to its request.
    pub(super) fn judge(
        &mut self,
        core: &Core,
        answer: Result<Response<Bytes>, TransportError>,
    ) -> Answer {
        let ours = core.config.wall_origin + core.now;
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                return Answer {
                    result: Err(Trouble::Transport(error)),
                    wall: ours,
                    setback: Some(Setback::Trouble),
                };
            }
        };
        let status = response.status();
        let wall = headers::date(response.headers()).unwrap_or(ours);
        let answer = |result| Answer {
            result,
            wall,
            setback: None,
        };
        // Old servers answer in plain text; a web page is none of GitLab's answers.
        let is_web_page = headers::is_web_page(response.headers());
        if self.is_question() && status == StatusCode::OK && !is_web_page {
            return answer(Ok(RunnerDetails::parse(response.body())));
        }
        if self.is_deletion() {
            let is_gone = matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
            // What an earlier try has deleted is not there any more.
            if status.is_success() || is_gone && self.maybe_done {
                return answer(Ok(RunnerDetails::default()));
            }
        } else if !self.is_question() && status.is_success() {
            let details = RunnerDetails::parse(response.body());
            if details.token.is_some() {
                return answer(Ok(details));
            }
            let what = "it holds no token";
            return answer(Err(Trouble::Unreadable(what.to_owned())));
        }
        let is_transient = status.is_server_error()
            || matches!(
                status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
            );
        let secret = match &self.purpose {
            Purpose::Call(RunnerCall::Register(registration)) => &registration.token,
            _ => &core.config.token,
        };
        Answer {
            setback: is_transient.then(|| Setback::of_status(status, response.headers(), ours)),
            ..answer(Err(trouble(&response, Hidden::token(secret))))
        }
    }

    /// Whether there will be another try, and when.
    pub(super) fn repeats(&mut self, core: &mut Core, answer: &Answer) -> bool {
        let Purpose::Call(call) = &self.purpose else {
            return false;
        };
        let Some(setback) = answer.setback else {
            return false;
        };
        self.maybe_done |= answer.maybe_done();
        let at = core.now + self.backoff.after(setback, &mut core.rng);
        let may = call.is_idempotent() || !answer.maybe_done();
        if !may || self.tries >= TRIES || at > self.begun + core.config.call_limit {
            return false;
        }
        self.state = State::Waiting(at);
        true
    }
}
