//! The adapter on async-std and isahc.

use std::sync::Arc;

use futures::future::BoxFuture;
use gitlab_runner::adapter::{
    Adapter, AdapterBuilder, AdapterError, AsyncStdIsahc,
    conformance::{self, Exemption, Subject},
};

use crate::{options::for_each_option, runner};

struct OnAsyncStd;

impl Subject for OnAsyncStd {
    fn adapter(&self, authorities: &[String]) -> Arc<dyn Adapter> {
        let mut builder = AsyncStdIsahc::builder();
        for pem in authorities {
            builder = builder.ca_pem(pem.as_str());
        }
        Arc::new(builder.build().unwrap())
    }

    fn block_on(&self, case: BoxFuture<'_, ()>) {
        async_std::task::block_on(case);
    }

    fn is_exempt(&self, exemption: Exemption) -> bool {
        matches!(
            exemption,
            Exemption::RepeatsWithoutBody
                | Exemption::NoticesDropLate
                | Exemption::HidesLateRefusal
                | Exemption::HidesEarlyAnswer
        )
    }
}

gitlab_runner::adapter_conformance!(OnAsyncStd);

for_each_option!(AsyncStdIsahc, OnAsyncStd);

#[test]
fn a_runner_runs_jobs() {
    conformance::run(&OnAsyncStd, |subject| Box::pin(runner::runs_jobs(subject)));
}
