//! The recorder around an adapter is an adapter like any other.

use std::sync::Arc;

use futures::future::BoxFuture;
use gitlab_runner::adapter::{
    Adapter, Recording, TokioHyper,
    conformance::{self, Subject},
};

use crate::runner;

struct Recorded;

impl Subject for Recorded {
    fn adapter(&self, authorities: &[String]) -> Arc<dyn Adapter> {
        let mut builder = TokioHyper::builder();
        for pem in authorities {
            builder = builder.ca_pem(pem.as_str());
        }
        Arc::new(Recording::new(Arc::new(builder.build().unwrap())))
    }

    fn block_on(&self, case: BoxFuture<'_, ()>) {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(case);
    }
}

gitlab_runner::adapter_conformance!(Recorded);

#[test]
fn a_runner_runs_jobs() {
    conformance::run(&Recorded, |subject| Box::pin(runner::runs_jobs(subject)));
}
