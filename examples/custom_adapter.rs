//! The handler of `any_runtime/handler.rs` on an adapter that is not of this crate: plain threads and
//! a blocking HTTP client, in `custom_adapter/adapter.rs`.
//!
//! `cargo run --example custom_adapter`

#[path = "custom_adapter/adapter.rs"]
mod adapter;
#[path = "any_runtime/handler.rs"]
mod handler;

use std::sync::Arc;

use gitlab_runner::{Runner, mock::http::Loopback};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (gitlab, job) = handler::gitlab("plain threads");
    let gitlab = Loopback::start(gitlab)?;
    let builds = tempfile::tempdir()?;
    let runner = Runner::with_adapter(
        gitlab.url().parse()?,
        handler::TOKEN.to_owned(),
        builds.path().into(),
        Arc::new(adapter::Threads::new(&[])?),
    );
    futures::executor::block_on(handler::run_a_job(runner))?;
    gitlab.with(|gitlab, _| handler::print(gitlab, job))
}
