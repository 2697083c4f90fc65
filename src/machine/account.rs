//! The runner's account at GitLab: its token, and the calls that have to do with it.
//!
//! One errand at a time, so that none is made with a token that another one is about to change:
//! what the poller wants to know, what the operator asks for, and what the life of the token calls
//! for. From a reset on its way until the new token is stored, no other request of the runner is
//! sent ([`Core::token_held`]); jobs have tokens of their own and go on.
//!
//! A reset whose answer is lost may have cost the token. It is never repeated blindly: the old
//! token is verified first.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use http::Response;

use super::{
    backoff::{Backoff, Setback},
    call::{CallOutcome, NewToken, RunnerCall, TokenNotice},
    core::{Core, without},
    errand::{Answer, Errand, Purpose, State},
    output::{Notice, Output, Trouble},
    timers::Reason,
};
use crate::{
    protocol::RunnerDetails,
    time::{Time, WallTime},
    transport::TransportError,
};

/// Clocks drift, sleep and are set, and administrators change their minds: how long a token lives
/// is asked once a day.
const ASK_AGAIN: Duration = Duration::from_secs(86_400);

/// The part of the machine that is about the token.
#[derive(Debug)]
pub(super) struct Account {
    calls: VecDeque<RunnerCall>,
    /// The poller waits to hear whether the token is good.
    check: bool,
    errand: Option<Errand>,
    plan: Plan,
    /// No reset that nobody asked for before this.
    not_before: Time,
    /// Of the rotation.
    backoff: Backoff,
    /// An answer is lost that may have held a new token.
    in_doubt: bool,
    stopping: bool,
}

/// What the life of the token calls for next.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Nothing,
    /// Ask how long it lives.
    Ask(Time),
    Reset(Time),
}

impl Account {
    pub(super) fn new(core: &Core) -> Self {
        let config = &core.config;
        Self {
            calls: VecDeque::new(),
            check: false,
            errand: None,
            // If the poller does not ask, nobody else does.
            plan: match config.rotate && !config.verify {
                true => Plan::Ask(Time::ZERO),
                false => Plan::Nothing,
            },
            not_before: Time::ZERO,
            backoff: Backoff::default(),
            in_doubt: false,
            stopping: false,
        }
    }

    /// The operator wants something.
    pub(super) fn call(&mut self, core: &mut Core, call: RunnerCall) {
        if self.stopping {
            called(core, call.failed(Trouble::Stopped));
        } else {
            self.calls.push_back(call);
            self.advance(core);
        }
    }

    /// The poller wants to know whether the token is good.
    pub(super) fn check(&mut self, core: &mut Core) {
        self.check = true;
        self.advance(core);
    }

    /// Whether nothing is on its way that has to be awaited.
    pub(super) fn is_idle(&self) -> bool {
        self.errand.is_none()
    }

    /// Nothing new is begun. A change that is on its way is awaited, whatever the hurry: its answer
    /// may be all there is of the token.
    pub(super) fn stop(&mut self, core: &mut Core) {
        self.stopping = true;
        self.check = false;
        self.plan = Plan::Nothing;
        let ends = |errand: &mut Errand| match errand.state {
            State::InFlight(_) => errand.is_question(),
            State::Waiting(_) => true,
            State::Persisting { .. } => false,
        };
        if let Some(errand) = self.errand.take_if(ends) {
            if let State::InFlight(request) = errand.state {
                core.forget(request);
            }
            if let Purpose::Call(call) = errand.purpose {
                called(core, call.failed(Trouble::Stopped));
            }
        }
        for call in std::mem::take(&mut self.calls) {
            called(core, call.failed(Trouble::Stopped));
        }
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, core: &mut Core) {
        if let Some(errand) = &mut self.errand {
            match errand.state {
                State::Waiting(at) if at <= core.now => errand.send(core),
                State::Persisting { until, .. } if until <= core.now => {
                    let why = "nobody has said in time that it was";
                    self.on_persisted(core, Err(why.to_owned()));
                }
                _ => {}
            }
        }
        if self.errand.is_none()
            && !self.stopping
            && let Some(purpose) = self.next(core.now)
        {
            self.errand = Some(Errand::begin(core, purpose));
        }
    }

    fn next(&mut self, now: Time) -> Option<Purpose> {
        if std::mem::take(&mut self.check) {
            return Some(Purpose::Start);
        }
        if let Some(call) = self.calls.pop_front() {
            return Some(Purpose::Call(call));
        }
        let purpose = match self.plan {
            Plan::Ask(at) if at <= now => Purpose::Ask,
            Plan::Reset(at) if at <= now => Purpose::Rotate,
            _ => return None,
        };
        self.plan = Plan::Nothing;
        Some(purpose)
    }

    pub(super) fn deadline(&self) -> Option<(Time, Reason)> {
        match self.errand.as_ref().map(|errand| &errand.state) {
            Some(State::InFlight(_)) => None,
            Some(State::Waiting(at)) => Some((*at, Reason::RunnerCall)),
            Some(State::Persisting { until, .. }) => Some((*until, Reason::PersistToken)),
            None => match self.plan {
                Plan::Nothing => None,
                Plan::Ask(at) | Plan::Reset(at) => Some((at, Reason::TokenRotation)),
            },
        }
    }

    /// A reply or a failure; gives what the poller waits for.
    pub(super) fn on_answer(
        &mut self,
        core: &mut Core,
        answer: Result<Response<Bytes>, TransportError>,
    ) -> Option<Result<(), Trouble>> {
        let mut errand = self.errand.take()?;
        let answer = errand.judge(core, answer);
        if answer.result.is_err() && !self.stopping && errand.repeats(core, &answer) {
            core.token_held = false;
            self.errand = Some(errand);
            return None;
        }
        let mut verdict = None;
        match (&errand.purpose, answer.result.clone()) {
            (Purpose::Start, Ok(details)) => {
                self.learn(core, &details, answer.wall);
                verdict = Some(Ok(()));
            }
            (Purpose::Start, Err(trouble)) => {
                if core.config.rotate && !trouble.is_refusal() {
                    let wait = self.wait(core, answer.setback);
                    self.plan = Plan::Ask(core.now + wait);
                }
                verdict = Some(Err(trouble));
            }
            (Purpose::Ask, Ok(details)) => {
                self.in_doubt = false;
                self.learn(core, &details, answer.wall);
            }
            (Purpose::Ask, Err(trouble)) => {
                let retry_in = self.wait(core, answer.setback);
                self.plan = Plan::Ask(core.now + retry_in);
                let lost = self.in_doubt && trouble.is_refusal();
                token_notice(
                    core,
                    match lost {
                        true => TokenNotice::Lost(trouble),
                        false => TokenNotice::RotationFailed { trouble, retry_in },
                    },
                );
            }
            (Purpose::Rotate | Purpose::Call(RunnerCall::ResetToken), Ok(details)) => {
                self.in_doubt = false;
                // Without a token it were no success.
                if let Some(token) = NewToken::of(&details, answer.wall) {
                    errand.state = persist(core, token);
                    self.errand = Some(errand);
                }
            }
            (Purpose::Call(call), Ok(details)) => {
                match call {
                    RunnerCall::Verify => self.learn(core, &details, answer.wall),
                    RunnerCall::Unregister => self.plan = Plan::Nothing,
                    _ => {}
                }
                called(core, call.done(details, answer.wall));
            }
            (Purpose::Rotate, Err(trouble)) => self.on_reset_failed(core, trouble, &answer),
            (Purpose::Call(call), Err(trouble)) => {
                if *call == RunnerCall::ResetToken {
                    self.on_reset_failed(core, trouble.clone(), &answer);
                }
                called(core, call.failed(trouble));
            }
        }
        verdict
    }

    /// The new token was stored, or not. False if nobody has asked.
    pub(super) fn on_persisted(&mut self, core: &mut Core, result: Result<(), String>) -> bool {
        let is_persisting = |errand: &mut Errand| matches!(errand.state, State::Persisting { .. });
        let Some(errand) = self.errand.take_if(is_persisting) else {
            return false;
        };
        let State::Persisting { token, .. } = errand.state else {
            return false;
        };
        core.token_held = false;
        let (wall, end) = (token.obtained_at, token.expires_at);
        token_notice(
            core,
            match result {
                Ok(()) => TokenNotice::Rotated {
                    life: end.map(|end| end.since(wall)),
                },
                Err(why) => TokenNotice::NotPersisted {
                    why: without(&token.token, &why),
                },
            },
        );
        if !self.stopping {
            self.plan_rotation(core, end, wall);
            if matches!(self.plan, Plan::Reset(at) if at <= core.now) {
                // A token that is dead on arrival must not be changed again and again.
                self.not_before = core.now + self.wait(core, None);
                self.plan = Plan::Ask(self.not_before);
            } else {
                self.backoff.reset();
            }
        }
        if let Purpose::Call(_) = errand.purpose {
            called(core, CallOutcome::TokenReset(token));
        }
        true
    }

    fn on_reset_failed(&mut self, core: &mut Core, trouble: Trouble, answer: &Answer) {
        core.token_held = false;
        self.in_doubt |= answer.maybe_done();
        if self.in_doubt {
            let trouble = trouble.clone();
            token_notice(core, TokenNotice::MaybeLost { trouble });
        }
        if !core.config.rotate || self.stopping {
            return;
        }
        let retry_in = self.wait(core, answer.setback);
        self.not_before = core.now + retry_in;
        // Whether the token is good at all comes first.
        self.plan = Plan::Ask(self.not_before);
        if !self.in_doubt {
            token_notice(core, TokenNotice::RotationFailed { trouble, retry_in });
        }
    }

    /// GitLab has told how long the token lives.
    fn learn(&mut self, core: &mut Core, details: &RunnerDetails, wall: WallTime) {
        if let Some(end) = details.token_expires_at
            && !core.config.rotate
        {
            let left = end.since(wall);
            token_notice(core, TokenNotice::Expires { left });
        }
        self.plan_rotation(core, details.token_expires_at, wall);
    }

    /// A token is changed when three quarters of its life are over.
    fn plan_rotation(&mut self, core: &mut Core, end: Option<WallTime>, wall: WallTime) {
        self.plan = Plan::Nothing;
        let Some(end) = end.filter(|_| core.config.rotate) else {
            return;
        };
        // Who does not know counts from now on, and so does it well before the end.
        let obtained = core.config.token_obtained_at.get_or_insert(wall).0;
        let life = end.0.saturating_sub(obtained);
        let due = obtained.min(end.0).saturating_add(life / 4 * 3);
        let wait = due.saturating_sub(wall.0);
        self.plan = if wait > ASK_AGAIN {
            Plan::Ask(core.now + ASK_AGAIN)
        } else {
            Plan::Reset((core.now + wait).max(self.not_before))
        };
    }

    /// How long to wait after one more failure of the rotation.
    fn wait(&mut self, core: &mut Core, setback: Option<Setback>) -> Duration {
        let wait = self.backoff.after(Setback::Refused, &mut core.rng);
        match setback {
            Some(asked @ Setback::RateLimited(_)) => {
                wait.max(Backoff::default().after(asked, &mut core.rng))
            }
            _ => wait,
        }
    }
}

/// From the next request on the new token is used, and until it is stored there is none.
fn persist(core: &mut Core, token: NewToken) -> State {
    core.config.token = token.token.clone();
    core.config.token_obtained_at = Some(token.obtained_at);
    core.outbox.push_back(Output::PersistToken(token.clone()));
    State::Persisting {
        token,
        until: core.now + core.config.persist_limit,
    }
}

fn called(core: &mut Core, outcome: CallOutcome) {
    core.outbox.push_back(Output::Called(outcome));
}

fn token_notice(core: &mut Core, notice: TokenNotice) {
    core.notice(Notice::Token(notice));
}
