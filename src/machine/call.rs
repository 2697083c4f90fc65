//! What has to do with the runner as a whole: calls of the operator, and news of its token.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::output::Trouble;
use crate::{
    protocol::{Registration, RunnerDetails},
    secret::Secret,
    time::WallTime,
};

/// Something to do with the runner as a whole.
///
/// Calls are made one after the other. What does no harm twice is repeated for up to
/// [`call_limit`](crate::machine::MachineConfig::call_limit); a registration and a reset only if
/// GitLab certainly has not seen them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunnerCall {
    /// Ask GitLab whether the runner token is good (`POST runners/verify`).
    Verify,
    /// Make a runner (`POST runners`). The machine goes on with the token that it has.
    Register(Box<Registration>),
    /// Delete the runner, for all that share its token (`DELETE runners`).
    Unregister,
    /// Delete only what GitLab knows of this runner manager (`DELETE runners/managers`).
    UnregisterManager,
    /// Change the token (`POST runners/reset_authentication_token`). The old one is dead at once,
    /// for all that share it; [`PersistToken`](crate::machine::Output::PersistToken) comes before
    /// the answer.
    ResetToken,
}

impl RunnerCall {
    /// Whether a second one finds the same as the first one.
    pub(super) fn is_idempotent(&self) -> bool {
        match self {
            Self::Verify | Self::Unregister | Self::UnregisterManager => true,
            Self::Register(_) | Self::ResetToken => false,
        }
    }

    /// That it came to nothing.
    pub(super) fn failed(&self, trouble: Trouble) -> CallOutcome {
        match self {
            Self::Verify => CallOutcome::VerifyFailed(trouble),
            Self::Register(_) => CallOutcome::RegisterFailed(trouble),
            Self::Unregister | Self::UnregisterManager => CallOutcome::UnregisterFailed(trouble),
            Self::ResetToken => CallOutcome::ResetFailed(trouble),
        }
    }

    /// That it is done.
    pub(super) fn done(&self, details: RunnerDetails, wall: WallTime) -> CallOutcome {
        let id = details.id;
        match (self, NewToken::of(&details, wall)) {
            (Self::Verify, _) => CallOutcome::Verified(details),
            (Self::Unregister | Self::UnregisterManager, _) => CallOutcome::Unregistered,
            (Self::Register(_), Some(token)) => CallOutcome::Registered { id, token },
            (Self::ResetToken, Some(token)) => CallOutcome::TokenReset(token),
            (Self::Register(_) | Self::ResetToken, None) => {
                self.failed(Trouble::Unreadable("it holds no token".to_owned()))
            }
        }
    }
}

/// What came of one `Call`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallOutcome {
    /// The token is good.
    Verified(RunnerDetails),
    /// The token is not good (403), or GitLab could not be asked.
    VerifyFailed(Trouble),
    /// There is a new runner.
    Registered {
        /// GitLab's number of it.
        id: Option<u64>,
        /// What it is known by.
        token: NewToken,
    },
    /// GitLab refused, or could not be asked. If the answer was lost there may be a runner of whose
    /// token nobody knows.
    RegisterFailed(Trouble),
    /// The runner, or its manager, is gone.
    Unregistered,
    /// GitLab refused, or could not be asked.
    UnregisterFailed(Trouble),
    /// The runner has this token now; the machine uses it already.
    TokenReset(NewToken),
    /// GitLab refused, or could not be asked. If the answer was lost, so may be the token.
    ResetFailed(Trouble),
}

/// A runner token that GitLab has just given: to a new runner, or in the place of another one,
/// which is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewToken {
    /// The token.
    pub token: Secret,
    /// When GitLab gave it, by GitLab's clock where that is known. Keep it with the token:
    /// [`MachineConfig::token_obtained_at`](crate::machine::MachineConfig::token_obtained_at) wants
    /// it at the next start.
    pub obtained_at: WallTime,
    /// When it expires, if it does.
    pub expires_at: Option<WallTime>,
}

impl NewToken {
    pub(super) fn of(details: &RunnerDetails, obtained_at: WallTime) -> Option<Self> {
        Some(Self {
            token: details.token.clone()?,
            obtained_at,
            expires_at: details.token_expires_at,
        })
    }
}

/// News of the runner's token.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TokenNotice {
    /// The token will expire, and nobody is there to take a new one: it is not rotated.
    Expires {
        /// How long it still is good.
        left: Duration,
    },
    /// The runner has a new token, and it was stored.
    Rotated {
        /// How long it is good, if it expires.
        life: Option<Duration>,
    },
    /// The runner has a new token which could not be stored. The runner goes on with it, but does
    /// not find it when it is started again.
    NotPersisted {
        /// What was said of the reason.
        why: String,
    },
    /// The token could not be verified or changed; the old one is still the one.
    RotationFailed {
        /// What happened.
        trouble: Trouble,
        /// How long until the next try.
        retry_in: Duration,
    },
    /// The token was to be changed and the answer is lost: if GitLab has changed it, nobody knows
    /// the new one. The old one is verified before anything else is tried.
    MaybeLost {
        /// What happened.
        trouble: Trouble,
    },
    /// The old token is refused after an answer was lost that may have held the new one.
    Lost(Trouble),
}

impl TokenNotice {
    /// Whether somebody has to do something, or the runner is gone.
    pub fn is_severe(&self) -> bool {
        matches!(
            self,
            Self::NotPersisted { .. } | Self::MaybeLost { .. } | Self::Lost(_)
        )
    }
}

impl fmt::Display for TokenNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expires { left } => write!(
                f,
                "the runner token expires in {} and is not rotated, since nobody is there to store \
                 a new one",
                Rough(*left)
            ),
            Self::Rotated { life: None } => f.write_str("the runner token was changed"),
            Self::Rotated { life: Some(life) } => {
                let life = Rough(*life);
                write!(
                    f,
                    "the runner token was changed; the new one expires in {life}"
                )
            }
            Self::NotPersisted { why } => write!(
                f,
                "THE NEW RUNNER TOKEN COULD NOT BE STORED ({why}): the old one is dead, this \
                 process goes on with the new one, and no other start of this runner will find \
                 it; change the token in GitLab or make a new runner before this process ends"
            ),
            Self::RotationFailed { trouble, retry_in } => write!(
                f,
                "the runner token could not be verified or changed ({trouble}); next try in \
                 {retry_in:.1?}"
            ),
            Self::MaybeLost { trouble } => write!(
                f,
                "the runner token was to be changed and the answer is lost ({trouble}): if GitLab \
                 has changed it, nobody knows the new one; the old one is verified before another \
                 try"
            ),
            Self::Lost(trouble) => write!(
                f,
                "the runner token is lost: GitLab refuses the old one ({trouble}), and the answer \
                 with the new one never came; change the token in GitLab, or make a new runner"
            ),
        }
    }
}

/// Days, or hours, or seconds: who plans needs no more.
struct Rough(Duration);

impl fmt::Display for Rough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            172_800.. => write!(f, "{} days", seconds / 86_400),
            7200.. => write!(f, "{} hours", seconds / 3600),
            _ => write!(f, "{seconds} seconds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severe_is_what_somebody_has_to_look_after() {
        let trouble = || Trouble::Stopped;
        for (news, wanted) in [
            (
                TokenNotice::Expires {
                    left: Duration::ZERO,
                },
                false,
            ),
            (TokenNotice::Rotated { life: None }, false),
            (
                TokenNotice::RotationFailed {
                    trouble: trouble(),
                    retry_in: Duration::ZERO,
                },
                false,
            ),
            (TokenNotice::NotPersisted { why: String::new() }, true),
            (TokenNotice::MaybeLost { trouble: trouble() }, true),
            (TokenNotice::Lost(trouble()), true),
        ] {
            assert_eq!(news.is_severe(), wanted, "{news}");
        }
    }
}
