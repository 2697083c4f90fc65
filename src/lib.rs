//! Build your own GitLab CI runner.
//!
//! You write one [`JobHandler`]: what to do with a script in your lab, your queue, your cloud. A
//! [`Runner`] does everything between it and GitLab: it asks for jobs, streams and masks the log,
//! honours cancels and timeouts, reports the result, and repeats itself until GitLab has heard it.
//!
//! ```toml
//! [dependencies]
//! gitlab-runner = { path = "../gitlab_runner" }
//! async-trait = "0.1"
//! tokio = { version = "1", features = ["macros", "process", "rt-multi-thread"] }
//! ```
//!
//! ```no_run
//! use gitlab_runner::{Failure, JobHandler, JobResult, Phase, Runner, job::Job};
//! use tokio::process::Command;
//!
//! struct Shell(Job);
//!
//! #[async_trait::async_trait]
//! impl JobHandler for Shell {
//!     async fn step(&mut self, script: &[String], _phase: Phase) -> JobResult {
//!         let mut bash = Command::new("bash");
//!         bash.arg("-ec").arg(script.join("\n")).kill_on_drop(true);
//!         let output = bash.output().await.map_err(|error| {
//!             self.0.trace(format!("bash cannot be run: {error}\n"));
//!         })?;
//!         self.0.trace(output.stdout);
//!         self.0.trace_stderr(output.stderr);
//!         match output.status.code() {
//!             Some(0) => Ok(()),
//!             code => self.0.fail(Failure::exit_code(code.unwrap_or(1))),
//!         }
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let token = std::env::var("GITLAB_RUNNER_TOKEN")?;
//! let mut runner = Runner::new("https://gitlab.example.com".parse()?, token, "builds".into());
//! runner.run(|job| async { Ok(Shell(job)) }, 4).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The example `shell_runner` is this with environment, live output and an end in good order.
//!
//! What the runner does, and its trouble with GitLab, are events of the `tracing` crate (target
//! `gitlab_runner`). Install a subscriber to see them: without one, a wrong host looks like a runner
//! that waits for jobs.
//!
//! # What a handler may rely on
//!
//! * `step` is called for each step of the job that is to run, in GitLab's order, and `cleanup` once
//!   behind the last, also after a failure, a cancel, a timeout or a panic.
//! * What it logs reaches GitLab in this order, with every secret of the job masked.
//! * A cancelled step is dropped where it stands; a [`CancellableJobHandler`] is told and may come
//!   to an end by itself.
//! * What goes wrong in one job, up to a panic, ends that job and harms no other.
//!
//! # Where to find what
//!
//! | to | see |
//! |---|---|
//! | set options | [`Runner::builder`], [`RunnerBuilder`] |
//! | read variables, start processes, fold the log | [`Job`](job::Job): `env`, `expand`, `section` |
//! | say why a job failed | [`Job::fail`](job::Job::fail) |
//! | upload files of a job | [`JobHandler::get_uploadable_files`], [`artifact::DirectoryFiles`] |
//! | take files of earlier jobs | [`Dependency::download`](job::Dependency::download) |
//! | be told of a cancel | [`CancellableJobHandler`] |
//! | stop in good order | [`Runner::handle`], [`RunnerHandle::drain`] |
//! | look after the token | [`Runner::verify`], [`RunnerBuilder::on_token_rotated`] |
//! | tell errors apart | [`RunErrorKind`] |
//! | choose a proxy, certificates, a runtime | [`adapter`] |
//! | test a handler | [`sim`], [`mock`] |
//!
//! Programs written for collabora's crate of this name build unchanged; the guide is
//! `docs/coming-from-collabora.md` in the repository.
//!
//! # The layers
//!
//! | module | what it is | needs |
//! |---|---|---|
//! | [`protocol`] | what GitLab and a runner say to each other | nothing |
//! | [`trace`] | the log of a job: masking, checksum, ranges | nothing |
//! | [`machine`] | the runner as a pure state machine | nothing |
//! | [`artifact`] | files that go into a job and come out of it | an adapter |
//! | [`Runner`], [`job`] | handlers, and the driver between them and the machine | an adapter |
//! | [`adapter`] | HTTP, time, tasks and files of one runtime | its feature |
//! | [`mock`] | a simulated GitLab, pure or served on loopback | `mock` |
//! | [`sim`] | an adapter in virtual time, for tests of handlers | `sim` |
//! | [`har`] | recorded sessions, written and replayed | `har` |
//!
//! Features are additive. `default-features = false` leaves the first three rows: a core that knows
//! no runtime, no HTTP client, no clock and no randomness.
//!
//! # Without a runtime
//!
//! [`RunnerMachine`](machine::RunnerMachine) is all of the protocol, and a driver of it is a loop:
//! do what it asks for, tell it what came of that, else wait until its next deadline. Here time is
//! a number and the server one line that never has a job:
//!
//! ```
//! use bytes::Bytes;
//! use gitlab_runner::{
//!     Secret, Time,
//!     machine::{Input, MachineConfig, Output, RunnerMachine, StopMode},
//!     protocol::ServerUrl,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = ServerUrl::parse("https://gitlab.example.com")?;
//! let config = MachineConfig::new(server, Secret::from("glrt-example"), "s_0123456789ab");
//! let mut machine = RunnerMachine::new(config, 42);
//! let mut now = Time::ZERO;
//! let mut paths = Vec::new();
//!
//! machine.handle_input(now, Input::SetCapacity(4));
//! 'driver: loop {
//!     while let Some(output) = machine.poll_output() {
//!         match output {
//!             Output::Send { request, http, .. } => {
//!                 paths.push(http.uri().path().to_owned());
//!                 let mut response = http::Response::new(Bytes::new());
//!                 *response.status_mut() = match http.uri().path() {
//!                     "/api/v4/jobs/request" => http::StatusCode::NO_CONTENT,
//!                     _ => http::StatusCode::OK,
//!                 };
//!                 machine.handle_input(now, Input::Reply { request, response });
//!             }
//!             Output::Stopped(_) => break 'driver,
//!             // Calls of job handlers and notices for the operator.
//!             _ => {}
//!         }
//!     }
//!     if paths.len() == 3 {
//!         machine.handle_input(now, Input::Stop(StopMode::Drain));
//!     } else if let Some((deadline, _reason)) = machine.poll_timeout() {
//!         now = deadline;
//!         machine.handle_input(now, Input::Timeout);
//!     }
//! }
//! assert_eq!(paths, [
//!     "/api/v4/runners/verify",
//!     "/api/v4/jobs/request",
//!     "/api/v4/jobs/request",
//! ]);
//! # Ok(())
//! # }
//! ```
//!
//! The example `machine_by_hand` runs a whole job like that.
//!
// Where a module is not built, its name in the table above leads back to that.
#![cfg_attr(not(feature = "mock"), doc = "[`mock`]: #the-layers")]
#![cfg_attr(not(feature = "sim"), doc = "[`sim`]: #the-layers")]
#![cfg_attr(not(feature = "har"), doc = "[`har`]: #the-layers")]
#![cfg_attr(
    not(all(feature = "runner", feature = "tracing")),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "the tour names what is not built"
    )
)]

pub mod ids;
pub mod machine;
pub mod protocol;
mod redact;
pub mod secret;
pub mod time;
pub mod trace;
pub mod transport;

#[cfg(feature = "runner")]
pub mod adapter;
#[cfg(feature = "runner")]
pub mod artifact;
#[cfg(feature = "runner")]
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "runner")]
mod handler;
#[cfg(feature = "har")]
pub mod har;
#[cfg(feature = "mock")]
pub mod mock;
#[cfg(feature = "runner")]
mod runner;
#[cfg(feature = "sim")]
#[path = "../adapters/sim/mod.rs"]
pub mod sim;
#[cfg(feature = "runner")]
mod spool;
#[cfg(feature = "runner")]
mod sync;

#[cfg(feature = "runner")]
pub use error::{RunError, RunErrorKind};
#[cfg(feature = "runner")]
#[doc(inline)]
pub use handler::{
    CancellableJobHandler, JobHandler, JobResult, JobRunList, NoFiles, Phase, UploadableFile, job,
};
#[cfg(all(feature = "runner", feature = "tracing"))]
pub use handler::{GitlabFilter, GitlabLayer};
#[doc(inline)]
pub use ids::{ArtifactId, DownloadId, JobId, RequestId};
#[doc(inline)]
pub use protocol::{Failure, FailureReason};
#[cfg(feature = "runner")]
pub use runner::{Runner, RunnerBuilder, RunnerHandle, registration};
#[doc(inline)]
pub use secret::Secret;
#[doc(inline)]
pub use time::{Time, WallTime};

// Users need not depend on a crate for what our signatures name.
#[cfg(feature = "runner")]
pub use ::{tokio_util::sync::CancellationToken, url::Url};
#[cfg(feature = "tracing")]
#[doc(hidden)]
pub use ::tracing;

/// What [`outputln!`] expands to.
#[cfg(feature = "runner")]
#[doc(hidden)]
pub mod __private {
    pub use crate::handler::{in_job, output_line};
    #[cfg(feature = "tracing")]
    pub use crate::handler::{stray_line_begins, stray_line_ends};
}

/// The programs of the README, so that they are compiled.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// Those of the guides.
#[cfg(all(doctest, feature = "tokio", feature = "tracing", feature = "sim"))]
#[doc = include_str!("../docs/coming-from-collabora.md")]
struct ComingFromCollabora;

#[cfg(all(doctest, feature = "tokio", feature = "har", feature = "sim"))]
#[doc = include_str!("../docs/record-and-replay.md")]
struct RecordAndReplay;
