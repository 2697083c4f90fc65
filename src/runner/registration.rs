//! Making a runner with a registration token.
//!
//! GitLab has deprecated this, and newer instances refuse it (410): there, make a runner in GitLab
//! (*Settings › CI/CD › Runners*), and give its authentication token (`glrt-…`) to a
//! [`Runner`](crate::Runner).
//!
//! ```no_run
//! use gitlab_runner::registration::{self, Registration};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut wanted = Registration::new("GR1348941…");
//! wanted.description = "lab 3".to_owned();
//! wanted.tag_list = vec!["arm64".to_owned()];
//! let runner = registration::register("https://gitlab.example.com".parse()?, wanted, None).await?;
//! // GitLab tells the token once.
//! std::fs::write("runner.token", runner.token.token.expose())?;
//! # Ok(())
//! # }
//! ```

use std::{path::PathBuf, sync::Arc};

use url::Url;

use super::{
    RunnerBuilder,
    life::{Aside, ask, failure},
    shared::Shared,
};
use crate::{
    adapter::Adapter,
    error::{RunError, RunErrorKind},
    handler::Context,
    machine::{CallOutcome, RunnerCall},
};
pub use crate::{
    machine::NewToken,
    protocol::{AccessLevel, Registration, RunnerDetails},
};

/// A runner that GitLab has just made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisteredRunner {
    /// GitLab's number of it; old servers do not tell it.
    pub id: Option<u64>,
    /// Its authentication token, for [`Runner::builder`](crate::Runner::builder). Store it before
    /// anything else: nobody can ask for it again.
    pub token: NewToken,
}

/// Makes a runner at this server (`POST runners`), on this adapter or, without one, on that of the
/// runtime in which it is awaited.
///
/// If the token cannot be stored, [unregister](crate::Runner::unregister) the runner.
///
/// # Errors
/// `TokenRefused` for a registration token that GitLab does not know (403), `RegistrationDisallowed`
/// where they are switched off (410), `Rejected` with GitLab's own words about the fields (400),
/// `InvalidToken` for an authentication token, which needs no registration. If the answer is lost
/// there may be a runner of whose token nobody knows: the error says so, and it is not tried again.
pub async fn register(
    server: Url,
    registration: Registration,
    adapter: Option<Arc<dyn Adapter>>,
) -> Result<RegisteredRunner, RunError> {
    if registration.token.expose().starts_with("glrt-") {
        let detail = "this is the authentication token (`glrt-…`) of a runner that was made already: \
                      it needs no registration, give it to the runner";
        return Err(RunError::new(RunErrorKind::InvalidToken, detail));
    }
    let context = Context::current();
    let token = registration.token.expose().to_owned();
    // Nothing is ever written there.
    let mut builder = RunnerBuilder::from_parts(server, token, PathBuf::new());
    if let Some(adapter) = adapter {
        builder = builder.adapter(adapter);
    }
    let mut runner = builder.into_runner();
    let (adapter, config) = runner.settings.config(String::new())?;
    let aside = Aside(Arc::new(Shared::default()));
    let inbox = runner.start(&aside.0, &context, adapter, config, PathBuf::new());
    let inbox = inbox.ok_or_else(RunError::stopped)?;
    match ask(&inbox, RunnerCall::Register(Box::new(registration))).await {
        Some(CallOutcome::Registered { id, token }) => Ok(RegisteredRunner { id, token }),
        Some(other) => Err(failure(other)),
        None => Err(RunError::driver_gone()),
    }
}
