//! The adapter on smol and hyper.

use std::sync::Arc;

use futures::future::BoxFuture;
use gitlab_runner::adapter::{
    Adapter, AdapterBuilder, AdapterError, SmolHyper,
    conformance::{self, Subject},
};

use crate::{options::for_each_option, runner};

struct OnSmol;

impl Subject for OnSmol {
    fn adapter(&self, authorities: &[String]) -> Arc<dyn Adapter> {
        let mut builder = SmolHyper::builder();
        for pem in authorities {
            builder = builder.ca_pem(pem.as_str());
        }
        Arc::new(builder.build().unwrap())
    }

    fn block_on(&self, case: BoxFuture<'_, ()>) {
        smol::block_on(case);
    }
}

gitlab_runner::adapter_conformance!(OnSmol);

for_each_option!(SmolHyper, OnSmol);

#[test]
fn a_runner_runs_jobs() {
    conformance::run(&OnSmol, |subject| Box::pin(runner::runs_jobs(subject)));
}
