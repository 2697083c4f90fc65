//! The adapter of `examples/custom_adapter`, as one from outside of the crate.

use std::sync::Arc;

use futures::future::BoxFuture;
use gitlab_runner::adapter::{
    Adapter,
    conformance::{self, Exemption, Subject},
};

use crate::runner;

#[path = "../../examples/custom_adapter/adapter.rs"]
mod adapter;

use adapter::Threads;

struct OnThreads;

impl Subject for OnThreads {
    fn adapter(&self, authorities: &[String]) -> Arc<dyn Adapter> {
        Arc::new(Threads::new(authorities).unwrap())
    }

    fn block_on(&self, case: BoxFuture<'_, ()>) {
        futures::executor::block_on(case);
    }

    fn is_exempt(&self, exemption: Exemption) -> bool {
        matches!(
            exemption,
            Exemption::NoticesDropLate
                | Exemption::HidesCutHandshake
                | Exemption::SendsAllFirst
                | Exemption::HidesEarlyAnswer
        )
    }
}

gitlab_runner::adapter_conformance!(OnThreads);

#[test]
fn a_runner_runs_jobs() {
    conformance::run(&OnThreads, |subject| Box::pin(runner::runs_jobs(subject)));
}
