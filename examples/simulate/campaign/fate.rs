//! What comes of a job: how it ends, and what its log is made of.

use std::time::Duration;

use gitlab_runner::{Failure, Time};

/// What happened to the job from outside.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outer {
    /// Since when GitLab wants it to stop.
    pub(crate) canceling: Option<Time>,
    /// Since when GitLab hears nothing of it.
    pub(crate) gone: Option<Time>,
    /// When its runner was aborted.
    pub(crate) aborted: Option<Time>,
    /// GitLab, or what stands before it, may have said that there is no such job.
    pub(crate) maybe_missing: bool,
    /// In calm weather: how soon the runner hears that GitLab wants the job to stop.
    pub(crate) hears_within: Option<Duration>,
}

/// What must come of it.
#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) failure: Option<Failure>,
    /// The runner has learnt that it is over at GitLab: it reports nothing.
    pub(crate) ended: bool,
    /// Whether it had failed when its artifacts were due, if they were.
    pub(crate) uploads: Option<bool>,
    /// Something kept the uploads from their end.
    pub(crate) uploads_stopped: bool,
    /// What that comes to, if all went well until then.
    pub(crate) upload_failure: Option<Failure>,
    pub(crate) story: Story,
}

/// Of what the log is made.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// In front of everything.
    pub(crate) first: Vec<String>,
    /// Behind the entry of this number.
    pub(crate) behind: Vec<(usize, String)>,
    /// At this time.
    pub(crate) at: Vec<(Time, String)>,
    /// The entries between which the artifacts were packed and sent; what they lead to is told there.
    pub(crate) uploads: Option<(usize, usize)>,
    /// What must be among that.
    pub(crate) told: Vec<String>,
    /// When the log took no more.
    pub(crate) closed: Option<(usize, Time)>,
}

pub(crate) fn error(text: &str) -> String {
    format!("\x1b[31;1mERROR: {text}\x1b[0;m\n")
}

pub(crate) fn warning(text: &str) -> String {
    format!("\x1b[0;33mWARNING: {text}\x1b[0;m\n")
}

/// What a job is told that was interrupted.
pub(crate) fn stopped() -> String {
    error("Job failed (system failure): the runner was stopped")
}
