//! The adapter on smol and hyper.

use gitlab_runner::adapter::{SmolHyper, conformance};

use crate::{options::for_each_option, runner, subjects::OnSmol};

gitlab_runner::adapter_conformance!(OnSmol);

for_each_option!(SmolHyper, OnSmol);

#[test]
fn a_runner_runs_jobs() {
    conformance::run(&OnSmol, |subject| Box::pin(runner::runs_jobs(subject)));
}
