//! A simulated GitLab, a pipeline, a real runner, and a look at what came of it.

use std::{error::Error, sync::Arc, time::Duration};

use futures::future::{Either, select, try_join};
use gitlab_runner::{
    JobId, Runner, RunnerHandle,
    adapter::Adapter,
    mock::{JobReport, MockGitlab, PipelineError, PipelineSpec, http::Loopback},
};

use crate::{
    console::{self, View},
    environment,
    expect::Expected,
    pipeline::{self, TOKEN},
    repository::{Repository, WithRepository},
    shell::Shell,
    signals::Signals,
};

const SEED: u64 = 1;

/// As many jobs as can run side by side.
const CONCURRENCY: usize = 8;

/// How often the screen is brought up to date.
const REFRESH: Duration = Duration::from_millis(50);

/// It takes seconds; this is for the case that something is broken.
const PATIENCE: Duration = Duration::from_secs(120);

struct Job {
    id: JobId,
    name: &'static str,
    expected: Expected,
    cancel_at: Option<&'static str>,
    view: View,
}

/// Runs the demo. Gives whether everything is at GitLab as it should be.
pub(crate) async fn run(
    signals: Signals,
    adapter: Arc<dyn Adapter>,
) -> Result<bool, Box<dyn Error>> {
    let repository = Repository::new()?;
    if repository.is_none() {
        console::print(
            "!!! There is no git on this machine: the jobs run without sources, and the job that is \
             about them is left out.\n\n",
        );
    }
    let mut gitlab = MockGitlab::new(SEED);
    gitlab.add_runner(TOKEN);
    let gitlab = Loopback::start(WithRepository {
        server: gitlab,
        repository: repository.clone(),
    })?;
    let url = gitlab.url();
    let jobs = gitlab.with(|gitlab, _| enqueue(&mut gitlab.server, &url, repository.as_ref()));
    let mut jobs = jobs?;
    let build_dir = tempfile::tempdir()?;
    console::print(&format!(
        "A simulated GitLab is at {}, with {} jobs in its queue.\n\
         Below is what it gets to know of them, as it comes.\n\n",
        gitlab.url(),
        jobs.len()
    ));

    let builder = Runner::builder(gitlab.url().parse()?, TOKEN, build_dir.path());
    let mut runner = environment::shared(builder)
        .adapter(adapter.clone())
        .artifact_log(true)
        .build()
        .await;
    let handle = runner.handle();
    let run = async { Ok::<_, Box<dyn Error>>(runner.run(Shell::start, CONCURRENCY).await?) };
    let watch = async {
        match watch(&gitlab, &mut jobs, &handle, &*adapter).await {
            true => handle.drain(),
            // Something is broken. The table will tell.
            false => handle.abort(),
        }
        Ok(())
    };
    let both = Box::pin(try_join(run, watch));
    let stop = Box::pin(signals.stop(handle.clone()));
    match select(both, stop).await {
        Either::Left((result, _)) => drop(result?),
        Either::Right(_) => return Ok(false),
    }

    Ok(gitlab.with(|gitlab, _| summary(&gitlab.server, &jobs)))
}

fn enqueue(
    gitlab: &mut MockGitlab,
    url: &str,
    repository: Option<&Repository>,
) -> Result<Vec<Job>, PipelineError> {
    let cases = pipeline::cases(repository);
    let specs = cases.iter().map(|(name, case)| {
        let spec = case.spec.clone().name(*name);
        match repository.cloned() {
            Some(repository) => {
                let url = url.to_owned();
                spec.payload_override(move |payload| repository.tell(&url, payload))
            }
            None => spec.variable("GIT_STRATEGY", "none"),
        }
    });
    let ids = gitlab.enqueue_pipeline(PipelineSpec::new(specs))?;
    let width = cases.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    let numbers: Vec<_> = names.into_iter().zip(ids).collect();
    let jobs = cases
        .into_iter()
        .zip(&numbers)
        .map(|((name, case), (_, id))| {
            let id = *id;
            // Somebody looks at the log, so GitLab wants it every 3 seconds instead of every minute.
            gitlab.watch(id, true);
            Job {
                id,
                name,
                expected: numbers.iter().fold(case.expected, |expected, (name, id)| {
                    expected.numbered(name, *id)
                }),
                cancel_at: case.cancel_at,
                view: View::new(name, width),
            }
        });
    Ok(jobs.collect())
}

/// Shows what happens, and cancels what is to be cancelled, until all jobs are finished (true) or
/// there is no point in waiting any longer.
async fn watch(
    gitlab: &Loopback<WithRepository<MockGitlab>>,
    jobs: &mut [Job],
    runner: &RunnerHandle,
    adapter: &dyn Adapter,
) -> bool {
    let deadline = adapter.now() + PATIENCE;
    loop {
        let mut screen = String::new();
        let idle = gitlab.with(|gitlab, _| {
            let gitlab = &mut gitlab.server;
            for job in &mut *jobs {
                let Some(report) = gitlab.report(job.id) else {
                    continue;
                };
                job.view.update(report, &mut screen);
                if job
                    .cancel_at
                    .is_some_and(|line| report.log_text().contains(line))
                {
                    job.cancel_at = None;
                    gitlab.cancel(job.id);
                }
            }
            gitlab.is_idle()
        });
        console::print(&screen);
        if idle || runner.is_stopped() || adapter.now() > deadline {
            return idle;
        }
        adapter.sleep_until(adapter.now() + REFRESH).await;
    }
}

/// Prints the table, and gives whether all is well.
fn summary(gitlab: &MockGitlab, jobs: &[Job]) -> bool {
    let mut text = format!(
        "\n{:<10} {:<9} {:>4}  {:<22} {:>9} {:>7}  check\n",
        "job", "state", "exit", "reason", "log bytes", "took"
    );
    let mut differences = String::new();
    for job in jobs {
        let Some(report) = gitlab.report(job.id) else {
            continue;
        };
        let found = job.expected.differences(report);
        text += &row(report, found.is_empty());
        for difference in found {
            differences += &format!("{}: {difference}\n", job.name);
        }
    }
    let well = differences.is_empty();
    text += match well {
        true => {
            "\nGitLab has every state, exit code, reason and log byte as computed beforehand.\n"
        }
        false => "\nThis is not what GitLab should have:\n",
    };
    console::print(&(text + &differences));
    well
}

fn row(report: &JobReport, ok: bool) -> String {
    let exit_code = report
        .exit_code
        .map_or_else(|| "-".to_owned(), |code| code.to_string());
    let took = report.started_at.zip(report.finished_at).map_or_else(
        || "-".to_owned(),
        |(from, to)| format!("{:.1} s", to.since(from).as_secs_f64()),
    );
    format!(
        "{:<10} {:<9} {:>4}  {:<22} {:>9} {:>7}  {}\n",
        report.name,
        report.status.as_str(),
        exit_code,
        report.failure_reason.as_deref().unwrap_or("-"),
        report.log.len(),
        took,
        if ok { "ok" } else { "MISMATCH" }
    )
}
