//! The job of `handler.rs` over sockets on loopback.

use std::error::Error;

use gitlab_runner::{Runner, mock::http::Loopback};

use crate::handler::{self, TOKEN};

/// Runs the job on the runtime that this is awaited in.
pub(crate) async fn run(runtime: &str) -> Result<(), Box<dyn Error>> {
    let (gitlab, job) = handler::gitlab(runtime);
    let gitlab = Loopback::start(gitlab)?;
    let builds = tempfile::tempdir()?;
    let url = gitlab.url().parse()?;
    let runner = Runner::new(url, TOKEN.to_owned(), builds.path().into());
    handler::run_a_job(runner).await?;
    gitlab.with(|gitlab, _| handler::print(gitlab, job))
}
