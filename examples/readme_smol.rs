//! The program of the README on smol.

#![allow(
    clippy::unwrap_used,
    reason = "a wrong URL or token shall end this program"
)]
#![allow(missing_docs, reason = "the README shows it as short as it can be")]

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
fn main() {
    smol::block_on(async {
        let mut runner = Runner::new(
            "https://gitlab.example.com".try_into().unwrap(),
            "runner token".to_owned(),
            PathBuf::from("builds"),
        );
        runner
            .run(move |_job| async move { Ok(Run {}) }, 16)
            .await
            .unwrap();
    });
}
