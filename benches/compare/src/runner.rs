//! The client on a crate with the interface of collabora's: the same program for both.

/// A module with the client on `$runner`.
macro_rules! client {
    ($name:ident, $runner:ident) => {
        pub mod $name {
            use std::{
                borrow::Cow,
                path::Path,
                sync::{
                    Arc,
                    atomic::{AtomicUsize, Ordering},
                },
            };

            use tokio::{sync::Notify, task::yield_now, time::sleep};
            use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};
            use $runner::{
                GitlabLayer, JobHandler, JobResult, Phase, RunnerBuilder, UploadableFile, job::Job,
            };

            use crate::{
                BoxError,
                content::{Made, MadeData},
                server::TOKEN,
                usage::Outcome,
                work::{Line, Work, texts},
            };

            struct Handler {
                work: Work,
                job: Job,
                texts: Arc<Vec<String>>,
                outcome: Arc<Outcome>,
            }

            #[async_trait::async_trait]
            impl UploadableFile for Made {
                type Data<'a> = MadeData;

                fn get_path(&self) -> Cow<'_, str> {
                    self.path()
                }

                async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
                    Ok(self.data())
                }
            }

            #[async_trait::async_trait]
            impl JobHandler<Made> for Handler {
                async fn step(&mut self, _script: &[String], _phase: Phase) -> JobResult {
                    if let Work::Downloads { .. } = self.work {
                        for dependency in self.job.dependencies() {
                            let downloaded = dependency.download().await;
                            if !downloaded.is_ok_and(|it| it.is_some_and(|it| it.len() == 1)) {
                                self.outcome.failed();
                            }
                        }
                    }
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

                async fn get_uploadable_files(
                    &mut self,
                ) -> Result<Box<dyn Iterator<Item = Made> + Send>, ()> {
                    Ok(Box::new(Made::of(self.work).into_iter()))
                }
            }

            pub async fn run(
                server: &str,
                work: Work,
                build_dir: &Path,
                outcome: &Arc<Outcome>,
            ) -> Result<(), BoxError> {
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
                    let outcome = Arc::clone(outcome);
                    move |job: Job| {
                        outcome.started();
                        if started.fetch_add(1, Ordering::Relaxed) + 1 == work.jobs() {
                            all_started.notify_one();
                        }
                        let handler = Handler {
                            work,
                            job,
                            texts: Arc::clone(&texts),
                            outcome: Arc::clone(&outcome),
                        };
                        async move { Ok::<_, ()>(handler) }
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
