//! The client on a crate with the interface of collabora's: the same program for both.

/// A module with the client on `$runner`.
macro_rules! client {
    ($name:ident, $runner:ident) => {
        pub mod $name {
            use std::{
                path::Path,
                sync::{
                    Arc,
                    atomic::{AtomicUsize, Ordering},
                },
            };

            use tokio::{sync::Notify, task::yield_now, time::sleep};
            use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};
            use $runner::{GitlabLayer, JobHandler, JobResult, Phase, RunnerBuilder};

            use crate::{
                BoxError,
                server::TOKEN,
                work::{Line, Work, texts},
            };

            struct Handler {
                work: Work,
                texts: Arc<Vec<String>>,
            }

            #[async_trait::async_trait]
            impl JobHandler for Handler {
                async fn step(&mut self, _script: &[String], _phase: Phase) -> JobResult {
                    let texts = &self.texts;
                    for number in 0..self.work.lines() {
                        if let Some(pause) = self.work.pause() {
                            sleep(pause).await;
                        } else if number % 1000 == 999 {
                            // As a handler that reads its lines from somewhere.
                            yield_now().await;
                        }
                        $runner::outputln!("{}", Line { texts, number });
                    }
                    Ok(())
                }
            }

            pub async fn run(server: &str, work: Work, build_dir: &Path) -> Result<(), BoxError> {
                let (layer, jobs) = GitlabLayer::new();
                tracing_subscriber::registry().with(layer).init();
                let mut runner = RunnerBuilder::new(server.parse()?, TOKEN, build_dir, jobs)
                    .build()
                    .await;
                let (started, all_started) =
                    (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
                let texts = Arc::new(texts());
                let process = {
                    let all_started = Arc::clone(&all_started);
                    move |_job: $runner::job::Job| {
                        if started.fetch_add(1, Ordering::Relaxed) + 1 == work.jobs() {
                            all_started.notify_one();
                        }
                        let texts = Arc::clone(&texts);
                        async move { Ok::<_, ()>(Handler { work, texts }) }
                    }
                };
                let over = async {
                    match work.idle() {
                        Some(time) => sleep(time).await,
                        None => all_started.notified().await,
                    }
                };
                tokio::select! {
                    ended = runner.run(process, work.capacity()) => ended?,
                    () = over => {}
                }
                if work.idle().is_none() {
                    runner.drain().await;
                }
                Ok(())
            }
        }
    };
}

client!(ours, gitlab_runner);
#[cfg(feature = "collabora")]
client!(theirs, collabora);
