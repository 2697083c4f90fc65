//! The live adapters, each with its runtime.

use std::sync::Arc;

use futures::future::BoxFuture;
use gitlab_runner::adapter::{Adapter, conformance::Subject};

/// The adapter on tokio and hyper.
#[cfg(feature = "tokio")]
pub(crate) struct OnTokio;

#[cfg(feature = "tokio")]
impl Subject for OnTokio {
    fn adapter(&self, authorities: &[String]) -> Arc<dyn Adapter> {
        let builder = gitlab_runner::adapter::TokioHyper::builder();
        let builder = authorities
            .iter()
            .fold(builder, |it, pem| it.ca_pem(pem.as_str()));
        Arc::new(builder.build().unwrap())
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

/// The adapter on smol and hyper.
#[cfg(feature = "smol")]
pub(crate) struct OnSmol;

#[cfg(feature = "smol")]
impl Subject for OnSmol {
    fn adapter(&self, authorities: &[String]) -> Arc<dyn Adapter> {
        let builder = gitlab_runner::adapter::SmolHyper::builder();
        let builder = authorities
            .iter()
            .fold(builder, |it, pem| it.ca_pem(pem.as_str()));
        Arc::new(builder.build().unwrap())
    }

    fn block_on(&self, case: BoxFuture<'_, ()>) {
        smol::block_on(case);
    }
}

/// The adapter on async-std and isahc.
#[cfg(feature = "async-std")]
pub(crate) struct OnAsyncStd;

#[cfg(feature = "async-std")]
impl Subject for OnAsyncStd {
    fn adapter(&self, authorities: &[String]) -> Arc<dyn Adapter> {
        let builder = gitlab_runner::adapter::AsyncStdIsahc::builder();
        let builder = authorities
            .iter()
            .fold(builder, |it, pem| it.ca_pem(pem.as_str()));
        Arc::new(builder.build().unwrap())
    }

    fn block_on(&self, case: BoxFuture<'_, ()>) {
        async_std::task::block_on(case);
    }

    fn is_exempt(&self, exemption: gitlab_runner::adapter::conformance::Exemption) -> bool {
        use gitlab_runner::adapter::conformance::Exemption as It;
        matches!(
            exemption,
            It::RepeatsWithoutBody
                | It::NoticesDropLate
                | It::HidesLateRefusal
                | It::HidesEarlyAnswer
        )
    }
}
