//! The adapter on async-std and isahc.

use gitlab_runner::adapter::{AsyncStdIsahc, conformance};

use crate::{options::for_each_option, runner, subjects::OnAsyncStd};

gitlab_runner::adapter_conformance!(OnAsyncStd);

for_each_option!(AsyncStdIsahc, OnAsyncStd);

#[test]
fn a_runner_runs_jobs() {
    conformance::run(&OnAsyncStd, |subject| Box::pin(runner::runs_jobs(subject)));
}
