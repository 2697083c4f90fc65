//! The adapter on tokio and hyper.

use gitlab_runner::{
    JobHandler, JobResult, Phase, Runner,
    adapter::{
        TokioHyper,
        conformance::{self, support::*},
    },
    mock::http::Loopback,
};

use crate::{options::for_each_option, runner, subjects::OnTokio};

gitlab_runner::adapter_conformance!(OnTokio);

for_each_option!(TokioHyper, OnTokio);

#[test]
fn a_runner_runs_jobs() {
    conformance::run(&OnTokio, |subject| Box::pin(runner::runs_jobs(subject)));
}

#[test]
fn a_runtime_without_drivers_is_named_as_the_cause() {
    struct Never;

    #[async_trait::async_trait]
    impl JobHandler for Never {
        async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
            Ok(())
        }
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let url = "http://127.0.0.1:9".parse().unwrap();
    let mut runner = Runner::new(url, "glrt-any".to_owned(), dir.path().to_owned());
    let error = runtime.block_on(runner.request_job(|_| async { Err::<Never, ()>(()) }));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("enable_all"), "{error}");
}

#[tokio::test]
async fn certificates_are_read_when_they_are_needed() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    bounded(get(&adapter, &server.url())).await.unwrap();
    assert!(
        format!("{adapter:?}").contains("https_used: false"),
        "certificates were read for nothing"
    );
}

#[tokio::test]
async fn no_task_is_left_behind() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    bounded(async {
        get(&adapter, &server.url()).await.unwrap();
        let metrics = tokio::runtime::Handle::current().metrics();
        assert_ne!(metrics.num_alive_tasks(), 0, "nothing was kept");
        drop(adapter);
        while metrics.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
