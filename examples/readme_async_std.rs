//! The program of the README on async-std.

#![allow(
    clippy::unwrap_used,
    reason = "a wrong URL or token shall end this program"
)]
#![allow(missing_docs, reason = "the README shows it as short as it can be")]

/// async-std with its feature `attributes`, which is this crate's macro.
mod async_std {
    pub(crate) use ::async_std::task;
    pub(crate) use async_attributes::main;
}

use gitlab_runner::{JobHandler, JobResult, Phase, Runner, outputln};
use std::path::PathBuf;
#[derive(Debug)]
struct Run {}
#[async_trait::async_trait]
impl JobHandler for Run {
    async fn step(&mut self, script: &[String], phase: Phase) -> JobResult {
        outputln!("Running script for phase {:?}", phase);
        for s in script {
            outputln!("Step: {}", s);
        }
        Ok(())
    }
}
#[async_std::main]
async fn main() {
    let mut runner = Runner::new(
        "https://gitlab.example.com".try_into().unwrap(),
        "runner token".to_owned(),
        PathBuf::from("builds"),
    );
    runner
        .run(move |_job| async move { Ok(Run {}) }, 16)
        .await
        .unwrap();
}
