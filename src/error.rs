//! What can go wrong for who runs a runner.

use std::{error::Error, fmt, io, path::Path, sync::Arc};

use crate::machine::Trouble;

/// Why a call of a [`Runner`](crate::Runner) did not do what it is for.
///
/// Prints what was tried, what can be done about it and, behind a colon, what led to it.
/// [`kind`](Self::kind) and [`cause`](Self::cause) are for programs. It has no
/// [`source`](Error::source): who follows that would print the same once more. Holds no token.
#[derive(Clone, Debug)]
pub struct RunError {
    kind: RunErrorKind,
    detail: Arc<str>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

/// What went wrong, by who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunErrorKind {
    /// The server's URL cannot be used: not `http` or `https`, or no host. Often the scheme was
    /// forgotten.
    InvalidUrl,
    /// The runner's token is empty or holds characters that no token has: a line end, mostly.
    /// GitLab was not asked.
    InvalidToken,
    /// The call was not awaited inside of a runtime that an enabled adapter can use. Await it in
    /// one, or give the runner an adapter.
    NoRuntime,
    /// Connections cannot be set up as the environment wants it: `HTTPS_PROXY` or `HTTP_PROXY` is not
    /// the URL of an HTTP proxy. GitLab was not asked.
    Connection,
    /// The build directory cannot be made, or nothing can be written below it.
    BuildDir,
    /// GitLab refused the runner's token, or the registration token (403).
    TokenRefused,
    /// This GitLab, or the group, makes no runners with registration tokens any more (410). Make the
    /// runner there, and use its authentication token.
    RegistrationDisallowed,
    /// GitLab does not take what it was told of the runner (400, 422); its words name the fields.
    Rejected,
    /// GitLab answered, but not with what was asked for: an error status or something unreadable.
    /// Try again; the runner waits longer before each further request by itself.
    Server,
    /// GitLab could not be reached, or its answer got lost. Try again.
    Network,
    /// The runner was stopped, and asks for no more jobs.
    Stopped,
    /// The runtime that the runner's jobs ran on is gone, and the jobs with it. The next call
    /// starts anew.
    DriverGone,
}

impl RunError {
    pub(crate) fn new(kind: RunErrorKind, detail: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            cause: None,
        }
    }

    pub(crate) fn with_cause(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.cause = Some(Arc::new(cause));
        self
    }

    pub(crate) fn build_dir(doing: &str, path: &Path, error: io::Error) -> Self {
        let detail = format!(
            "could not {doing} {path:?}: the runner needs a build directory that it can write to"
        );
        Self::new(RunErrorKind::BuildDir, detail).with_cause(error)
    }

    pub(crate) fn token_refused(trouble: &Trouble) -> Self {
        let detail = format!(
            "GitLab refused the runner token ({trouble}): check that it is an authentication token \
             (`glrt-…`) of this GitLab instance, and that the runner was not deleted and its token \
             not reset or expired"
        );
        Self::new(RunErrorKind::TokenRefused, detail)
    }

    pub(crate) fn job_request(trouble: Trouble) -> Self {
        if trouble.is_refusal() {
            return Self::token_refused(&trouble);
        }
        Self::of_trouble("could not ask GitLab for a job", trouble)
    }

    pub(crate) fn verify(trouble: Trouble) -> Self {
        if trouble.is_refusal() {
            return Self::token_refused(&trouble);
        }
        Self::of_account(
            "could not ask GitLab whether the runner token is good",
            trouble,
        )
    }

    pub(crate) fn unregister(trouble: Trouble) -> Self {
        if trouble.is_refusal() {
            return Self::token_refused(&trouble);
        }
        let what = match status(&trouble) {
            Some(404) => {
                "could not unregister the runner: this GitLab knows no such runner manager, or is \
                 older than them"
            }
            _ => "could not unregister the runner",
        };
        Self::of_account(what, trouble)
    }

    pub(crate) fn reset(trouble: Trouble) -> Self {
        if trouble.is_refusal() {
            return Self::token_refused(&trouble);
        }
        let what = if trouble.is_lost_reply() {
            "could not change the runner token: the answer is lost, and with it perhaps the token; \
             see whether the old one is still good, else change it in GitLab"
        } else {
            "could not change the runner token"
        };
        Self::of_account(what, trouble)
    }

    pub(crate) fn register(trouble: Trouble) -> Self {
        match status(&trouble) {
            Some(403) => {
                let detail = format!(
                    "GitLab refused the registration token ({trouble}): check that it is the \
                     registration token of this GitLab instance, or of one of its groups or \
                     projects, that it was not reset, and that this instance lets groups and \
                     projects register runners"
                );
                Self::new(RunErrorKind::TokenRefused, detail)
            }
            Some(410) => {
                let detail = format!(
                    "registration tokens are switched off here ({trouble}): make a runner in GitLab \
                     (Settings > CI/CD > Runners), and use its authentication token (`glrt-…`)"
                );
                Self::new(RunErrorKind::RegistrationDisallowed, detail)
            }
            _ if trouble.is_lost_reply() => Self::of_account(
                "could not register the runner: the answer is lost, so GitLab may have made one of \
                 whose token nobody knows; look at its list of runners before another try",
                trouble,
            ),
            _ => Self::of_account("could not register the runner", trouble),
        }
    }

    /// About what was said of the runner itself.
    fn of_account(what: &str, trouble: Trouble) -> Self {
        match status(&trouble) {
            Some(400 | 422) => Self::new(RunErrorKind::Rejected, format!("{what} ({trouble})")),
            _ => Self::of_trouble(what, trouble),
        }
    }

    fn of_trouble(what: &str, trouble: Trouble) -> Self {
        let detail = format!("{what} ({trouble})");
        match trouble {
            Trouble::Stopped => Self::stopped(),
            // The cause says what the detail would repeat.
            Trouble::Transport(error) => Self::new(RunErrorKind::Network, what).with_cause(error),
            Trouble::Status { .. } | Trouble::Insecure(_) | Trouble::Unreadable(_) => {
                Self::new(RunErrorKind::Server, detail)
            }
        }
    }

    pub(crate) fn stopped() -> Self {
        Self::new(
            RunErrorKind::Stopped,
            "the runner was stopped: it asks for no more jobs",
        )
    }

    pub(crate) fn driver_gone() -> Self {
        Self::new(
            RunErrorKind::DriverGone,
            "the runtime that the runner ran on is gone, or lacks its drivers (tokio's `enable_all`), \
             and its jobs are lost: keep the runtime alive as long as the runner; the next call \
             starts anew",
        )
    }

    /// What went wrong.
    pub fn kind(&self) -> RunErrorKind {
        self.kind
    }

    /// The error that led to this one, such as an [`io::Error`] of the build directory.
    pub fn cause(&self) -> Option<&(dyn Error + 'static)> {
        self.cause
            .as_deref()
            .map(|cause| cause as &(dyn Error + 'static))
    }
}

fn status(trouble: &Trouble) -> Option<u16> {
    match trouble {
        Trouble::Status { status, .. } => Some(status.as_u16()),
        _ => None,
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        match &self.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl Error for RunError {}
