//! The crate on each of its adapters: the same runner and the same handler, which know no runtime,
//! for 2,000 short jobs.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::future::{BoxFuture, Either, select};
use gitlab_runner::{
    JobHandler, JobResult, Phase, Runner,
    adapter::{Adapter, AsyncStdIsahc, SmolHyper, TokioHyper},
    job::Job,
    outputln,
};

use crate::{
    BoxError,
    process::{Run, Who, measure},
    server::TOKEN,
    usage::{Meter, Outcome, Usage},
    work::{Line, Work, texts},
};

/// An adapter with its runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Tokio,
    Smol,
    AsyncStd,
}

impl On {
    pub const ALL: [Self; 3] = [Self::Tokio, Self::Smol, Self::AsyncStd];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tokio => "on-tokio",
            Self::Smol => "on-smol",
            Self::AsyncStd => "on-async-std",
        }
    }

    /// Does the work there.
    pub fn client(self, work: Work, server: &str, build_dir: &Path) -> Result<Usage, BoxError> {
        let client = async {
            let adapter: Arc<dyn Adapter> = match self {
                Self::Tokio => Arc::new(TokioHyper::new()?),
                Self::Smol => Arc::new(SmolHyper::new()?),
                Self::AsyncStd => Arc::new(AsyncStdIsahc::new()?),
            };
            run(adapter, work, server, build_dir).await
        };
        let client: BoxFuture<'_, Result<Usage, BoxError>> = Box::pin(client);
        match self {
            Self::Tokio => tokio::runtime::Runtime::new()?.block_on(client),
            Self::Smol => smol::block_on(client),
            Self::AsyncStd => async_std::task::block_on(client),
        }
    }
}

struct Handler {
    work: Work,
    texts: Arc<Vec<String>>,
}

#[async_trait::async_trait]
impl JobHandler for Handler {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        let texts = &self.texts;
        for number in 0..self.work.lines() {
            outputln!("{}", Line { texts, number });
        }
        Ok(())
    }
}

async fn run(
    adapter: Arc<dyn Adapter>,
    work: Work,
    server: &str,
    build_dir: &Path,
) -> Result<Usage, BoxError> {
    let outcome = Outcome::default();
    let meter = Meter::start();
    let url = server.parse()?;
    let mut runner = Runner::with_adapter(url, TOKEN.to_owned(), build_dir.to_owned(), adapter);
    let texts = Arc::new(texts());
    let started = Arc::new(AtomicUsize::new(0));
    let (tell, all_started) = futures::channel::mpsc::unbounded();
    let process = move |_: Job| {
        if started.fetch_add(1, Ordering::Relaxed) + 1 == work.jobs() {
            let _ = tell.unbounded_send(());
        }
        let texts = Arc::clone(&texts);
        async move { Ok::<_, ()>(Handler { work, texts }) }
    };
    {
        let run = Box::pin(runner.run(process, work.capacity()));
        let all_started = Box::pin(futures::StreamExt::into_future(all_started));
        if let Either::Left((ended, _)) = select(run, all_started).await {
            ended?;
        }
    }
    runner.drain().await;
    Ok(meter.stop(&outcome))
}

/// Measures each in turn, and prints what came of it.
pub fn report(repetitions: usize) -> Result<(), BoxError> {
    let work = Work::Short { jobs: 2000 };
    println!("\n2,000 short jobs on each adapter ({repetitions} times in turn, medians)");
    println!("  budget: smol 0.75, async-std 0.35 of the jobs a second on tokio");
    println!(
        "  {:<14} {:>8} {:>6} {:>8} {:>7} {:>8} {:>12} {:>9}",
        "", "jobs/s", "x", "CPU s", "MB", "threads", "connections", "server s"
    );
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); On::ALL.len()];
    for _ in 0..repetitions {
        for (on, runs) in On::ALL.iter().zip(&mut runs) {
            runs.push(measure(Who::On(*on), work)?);
        }
    }
    let mut first = None;
    for (on, runs) in On::ALL.iter().zip(&runs) {
        let median = |number: &dyn Fn(&Run) -> f64| {
            let mut numbers: Vec<f64> = runs.iter().map(number).collect();
            numbers.sort_by(f64::total_cmp);
            numbers[numbers.len() / 2]
        };
        let rate = work.jobs() as f64 / median(&|run| run.usage.wall);
        println!(
            "  {:<14} {rate:>8.0} {:>6.2} {:>8.3} {:>7.1} {:>8} {:>12} {:>9.3}",
            on.name(),
            rate / *first.get_or_insert(rate),
            median(&|run| run.usage.cpu),
            median(&|run| run.usage.peak as f64) / 1e6,
            median(&|run| run.threads as f64),
            median(&|run| run.seen.connections as f64),
            median(&|run| run.seen.cpu),
        );
    }
    Ok(())
}
