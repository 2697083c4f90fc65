//! The example program as its users meet it: a process with arguments, signals and an exit code,
//! between a simulated GitLab on loopback and real shells.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    env, fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command as StdCommand, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use gitlab_runner::{
    JobId, Time,
    mock::{Answer, HoldId, JobReport, JobSpec, JobStatus, MockGitlab, Server, http::Loopback},
};
use http::Request;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

const TOKEN: &str = "glrt-only-GitLab-may-see-this";

/// What the program can run on.
const ADAPTERS: &[&str] = &[
    #[cfg(feature = "tokio")]
    "tokio",
    #[cfg(feature = "smol")]
    "smol",
    #[cfg(feature = "async-std")]
    "async-std",
    "threads",
];

/// Nothing here takes nearly as long; a hang ends here.
const LIMIT: Duration = Duration::from_secs(60);

/// The program, built by `cargo test` next to this test. Never sees the variables of this process.
fn program() -> StdCommand {
    let deps = env::current_exe().unwrap();
    let file = deps
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/shell_runner");
    assert!(
        file.is_file(),
        "{} is missing: run `cargo build --example shell_runner` first",
        file.display()
    );
    let mut command = StdCommand::new(file);
    command
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// The simulated GitLab, which may keep the answers to job requests to itself for a while.
struct Gitlab {
    inner: MockGitlab,
    slow: bool,
    late: Option<Answer>,
}

const LATE: HoldId = HoldId::new(u64::MAX);

impl Server for Gitlab {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        let slow = self.slow && request.uri().path().ends_with("/jobs/request");
        let answer = self.inner.handle(now, request);
        if slow {
            assert!(
                self.late.replace(answer).is_none(),
                "two requests at a time"
            );
            return Answer::Hold(LATE);
        }
        answer
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        let late = if self.slow { None } else { self.late.take() };
        late.map(|answer| (LATE, answer))
            .or_else(|| self.inner.poll_answer(now))
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.inner.poll_timeout()
    }

    fn drop_hold(&mut self, hold: HoldId) {
        match hold {
            LATE => self.late = None,
            _ => self.inner.drop_hold(hold),
        }
    }
}

/// The program at work for a simulated GitLab.
struct Serving {
    gitlab: Loopback<Gitlab>,
    child: Child,
    stderr: UnboundedReceiver<String>,
    events: String,
    dir: TempDir,
}

impl Serving {
    fn start(change: impl FnOnce(&mut MockGitlab)) -> Self {
        Self::start_with(&[], change)
    }

    fn start_with(options: &[&str], change: impl FnOnce(&mut MockGitlab)) -> Self {
        let mut gitlab = MockGitlab::new(1);
        gitlab.add_runner(TOKEN);
        change(&mut gitlab);
        let gitlab = Loopback::start(Gitlab {
            inner: gitlab,
            slow: false,
            late: None,
        })
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut command = program();
        command
            .args(["--url", &gitlab.url(), "--build-dir"])
            .arg(dir.path().join("builds"))
            .args(options)
            .env("GITLAB_RUNNER_TOKEN", TOKEN)
            .env("RUST_LOG", "trace")
            .stderr(Stdio::piped())
            // Signals of a terminal are not for it.
            .process_group(0);
        let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (said, stderr) = unbounded_channel();
        // Always read: a full pipe would hold the program up.
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let _ = said.send(line);
            }
        });
        Self {
            gitlab,
            child,
            stderr,
            events: String::new(),
            dir,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn enqueue(&self, spec: JobSpec) -> JobId {
        self.gitlab.with(|Gitlab { inner: gitlab, .. }, _| {
            let job = gitlab.enqueue(spec);
            // Somebody looks at the log, so it is sent every 3 seconds.
            gitlab.watch(job, true);
            job
        })
    }

    fn report(&self, job: JobId) -> JobReport {
        self.gitlab
            .with(|gitlab, _| gitlab.inner.report(job).unwrap().clone())
    }

    /// Waits for something to be so at GitLab.
    fn until(&self, what: &str, look: impl Fn(&mut MockGitlab) -> bool) {
        self.gitlab
            .wait_until(LIMIT, |gitlab| look(&mut gitlab.inner).then_some(()))
            .unwrap_or_else(|| panic!("never came: {what}"));
    }

    fn report_at_the_end(&self, job: JobId) -> JobReport {
        self.until("the end of the job", |gitlab| {
            gitlab.report(job).unwrap().is_finished()
        });
        self.report(job)
    }

    /// Waits until a script has made the file `started`, which is sooner known than its log.
    async fn until_started(&self) {
        let started = self.path("started");
        let there = async {
            while !started.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LIMIT, there).await.expect("it never started");
    }

    /// Hears of it when all processes are gone that have run the [`Self::hold_line`]: each holds the
    /// writing end open, and the last one to go closes it.
    fn fifo_of_the_living(&self) -> mpsc::Receiver<io::Result<String>> {
        let alive = self.path("alive");
        let made = StdCommand::new("mkfifo").arg(&alive).status().unwrap();
        assert!(made.success());
        let (gone, all_gone) = mpsc::channel();
        thread::spawn(move || gone.send(fs::read_to_string(alive)));
        all_gone
    }

    fn hold_line(&self) -> String {
        format!("exec 9>'{}'", self.path("alive").display())
    }

    /// A line of a script that makes it.
    fn start_line(&self) -> String {
        format!("touch '{}'", self.path("started").display())
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().unwrap().try_into().unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// Waits for a line on stderr.
    async fn until_said(&mut self, text: &str) {
        loop {
            let line = timeout(LIMIT, self.stderr.recv()).await.ok().flatten();
            let line = line.unwrap_or_else(|| panic!("never said: {text}\n{}", self.events));
            self.events += &line;
            self.events.push('\n');
            if line.contains(text) {
                return;
            }
        }
    }

    /// Waits for the program's end; gives how it ended and all it said.
    async fn ended(mut self) -> (ExitStatus, String) {
        while let Some(line) = timeout(LIMIT, self.stderr.recv()).await.unwrap() {
            self.events += &line;
            self.events.push('\n');
        }
        (
            timeout(LIMIT, self.child.wait()).await.unwrap().unwrap(),
            self.events,
        )
    }
}

/// A line of a script that waits until `path` is there.
fn wait_for(path: &Path) -> String {
    format!("until [ -e '{}' ]; do sleep 0.05; done", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_signal_lets_running_jobs_finish() {
    let mut serving = Serving::start(|_| {});
    let go = serving.path("go");
    let job = serving.enqueue(JobSpec::script([
        &serving.start_line(),
        &wait_for(&go),
        "echo ended",
    ]));
    serving.until_started().await;

    serving.signal(Signal::TERM);
    serving.until_said("SIGTERM: asking for no more jobs").await;
    fs::write(go, "").unwrap();
    let report = serving.report_at_the_end(job);
    let (status, _) = serving.ended().await;
    assert!(status.success(), "{status}");
    assert_eq!(report.status, JobStatus::Success);
    assert!(
        report.log_text().contains(" 01O ended\n"),
        "{}",
        report.log_text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_request_on_its_way_is_awaited_and_its_job_is_run() {
    let mut serving = Serving::start(|_| {});
    serving.gitlab.with(|gitlab, _| gitlab.slow = true);
    let job = serving.enqueue(JobSpec::script(["echo just in time"]));
    serving
        .gitlab
        .wait_until(LIMIT, |gitlab| gitlab.late.is_some().then_some(()))
        .expect("a job request");

    serving.signal(Signal::INT);
    serving.until_said("SIGINT: asking for no more jobs").await;
    serving.gitlab.with(|gitlab, _| gitlab.slow = false);
    let report = serving.report_at_the_end(job);
    let (status, _) = serving.ended().await;
    assert!(status.success(), "{status}");
    assert_eq!(report.status, JobStatus::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_signal_cancels_running_jobs_and_reports_them() {
    for adapter in ADAPTERS {
        cancels_running_jobs(Serving::start_with(&["--adapter", adapter], |_| {})).await;
    }
}

async fn cancels_running_jobs(mut serving: Serving) {
    let all_gone = serving.fifo_of_the_living();
    let job = serving.enqueue(JobSpec::script([
        &serving.hold_line(),
        "trap '' TERM",
        "sleep 600 &",
        &serving.start_line(),
        "sleep 600",
    ]));
    serving.until_started().await;
    assert!(all_gone.try_recv().is_err());

    serving.signal(Signal::INT);
    serving.until_said("SIGINT: asking").await;
    serving.signal(Signal::INT);
    serving.until_said("SIGINT: cancelling").await;
    let report = serving.report_at_the_end(job);
    let (status, _) = serving.ended().await;
    assert!(status.success(), "{status}");
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(report.failure_reason.as_deref(), Some("runner_interrupted"));
    assert_eq!(report.checksum_matches(), Some(true));
    let all_gone = all_gone.recv_timeout(LIMIT);
    assert!(all_gone.is_ok(), "processes are left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_are_not_over_at_the_limit_are_reported() {
    let mut serving = Serving::start_with(&["--drain-limit", "0"], |_| {});
    let job = serving.enqueue(JobSpec::script([&serving.start_line(), "sleep 600"]));
    serving.until_started().await;
    serving.signal(Signal::TERM);
    serving.until_said("running ones have 0 seconds").await;
    let report = serving.report_at_the_end(job);
    let (status, _) = serving.ended().await;
    assert!(status.success(), "{status}");
    assert_eq!(report.failure_reason.as_deref(), Some("runner_interrupted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigquit_knows_no_limit() {
    let mut serving = Serving::start_with(&["--drain-limit", "0"], |_| {});
    let go = serving.path("go");
    let job = serving.enqueue(JobSpec::script([serving.start_line(), wait_for(&go)]));
    serving.until_started().await;
    serving.signal(Signal::QUIT);
    serving
        .until_said("SIGQUIT: asking for no more jobs, running ones may finish")
        .await;
    fs::write(go, "").unwrap();
    let report = serving.report_at_the_end(job);
    let (status, _) = serving.ended().await;
    assert!(status.success(), "{status}");
    assert_eq!(report.status, JobStatus::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_on_behind_the_third_signal() {
    for adapter in ADAPTERS {
        exits_at_once(Serving::start_with(&["--adapter", adapter], |_| {})).await;
    }
}

async fn exits_at_once(mut serving: Serving) {
    let gone = serving.fifo_of_the_living();
    serving.enqueue(JobSpec::script([
        &serving.hold_line(),
        "trap '' TERM",
        &serving.start_line(),
        "sleep 600",
    ]));
    serving.until_started().await;
    // Nothing can be reported any more, so that an abort alone would take an hour.
    serving
        .gitlab
        .with(|gitlab, _| gitlab.inner.settings_mut().migration_backoff = true);
    for (signal, said) in [
        (Signal::TERM, "SIGTERM: asking"),
        (Signal::QUIT, "SIGQUIT: cancelling"),
        (Signal::INT, "SIGINT: exiting"),
    ] {
        serving.signal(signal);
        serving.until_said(said).await;
    }
    let (status, _) = serving.ended().await;
    assert_eq!(status.code(), Some(1), "{status}");
    let gone = gone.recv_timeout(LIMIT);
    assert!(gone.is_ok(), "processes are left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_seen_by_gitlab_only() {
    let mut serving = Serving::start(|_| {});
    let job = serving.enqueue(
        JobSpec::script(["env", "echo $SECRET", "echo \"status: $CI_JOB_STATUS\""])
            .masked_variable("SECRET", "an-open-secret"),
    );
    serving.until("the end of the job", |gitlab| {
        gitlab.report(job).unwrap().is_finished()
    });
    let token = serving
        .gitlab
        .with(|gitlab, _| gitlab.inner.job_token(job).unwrap().clone());
    serving.signal(Signal::TERM);
    serving.until_said("SIGTERM").await;
    let report = serving.report(job);
    let (status, events) = serving.ended().await;

    assert!(status.success(), "{status}");
    let log = report.log_text();
    assert!(
        log.contains(" 01O status: running\n") && log.contains(" 01O SECRET=[MASKED]\n"),
        "{log}"
    );
    assert!(events.contains("gitlab_runner"), "no events: {events}");
    for (where_, text) in [("the log", &*log), ("the events", &*events)] {
        for secret in [TOKEN, "an-open-secret", token.expose()] {
            assert!(
                !text.contains(secret),
                "a secret shows in {where_}:\n{text}"
            );
        }
    }
    assert!(!log.contains("GITLAB_RUNNER_TOKEN"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_ends_it() {
    let serving = Serving::start(|gitlab| *gitlab = MockGitlab::new(2));
    let (status, said) = serving.ended().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("GitLab refused the runner token"), "{said}");
    assert!(!said.contains(TOKEN), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_said_at_once() {
    let url = "http://127.0.0.1:9";
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--url", "https://h h"], 2, "is not a URL"),
        (&["--url", "gitlab.example.com"], 2, "write https://"),
        (&["--token", TOKEN], 2, "--url"),
        (&["--url", url, "--concurrency", "0"], 2, "must be a number"),
        (&["--url", url, "--drain-limit", "soon"], 2, "whole seconds"),
        (&["--url", url, "--nonsense"], 2, "unknown option"),
        (&["--adapter", "none"], 2, "there is no such adapter"),
        (&["--url", url, "--token"], 2, "needs a value"),
        (&["--url", "ftp://127.0.0.1"], 1, "use `https://`"),
        (
            &["--url", url, "--build-dir", "/dev/null/builds"],
            1,
            "/dev/null/builds",
        ),
        (&["--url", url, "--ca-file", "/dev/null"], 1, "/dev/null"),
    ];
    for (args, code, text) in cases {
        let mut command = program();
        command.args(*args).env("GITLAB_RUNNER_TOKEN", TOKEN);
        let output = Command::from(command).kill_on_drop(true).output();
        let output = timeout(LIMIT, output).await.unwrap().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {said}");
        assert!(said.contains(text), "{args:?}: {said}");
        assert!(
            !said.contains(TOKEN) && !said.contains("panicked"),
            "{args:?}: {said}"
        );
    }
}
