//! One table of deadlines: at most one for the runner and one for each job.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{ids::JobId, time::Time};

/// What the next deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Ask for a job.
    JobRequest,
    /// Give up waiting for a job request after an abort.
    AbortPatience,
    /// Tell GitLab that the job is taken.
    Commit,
    /// Send a part of the log.
    Patch,
    /// Keep the job alive.
    KeepAlive,
    /// The job has run out of time.
    JobTimeout,
    /// A step was told to end and has not.
    CancelGrace,
    /// The clean-up has run out of time.
    CleanUp,
    /// Upload an artifact once more.
    Upload,
    /// Download the artifacts of a dependency once more.
    Download,
    /// Report the last of the log and the final state.
    FinalUpdate,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::JobRequest => "job request",
            Self::AbortPatience => "abort patience",
            Self::Commit => "commit",
            Self::Patch => "patch",
            Self::KeepAlive => "keep-alive",
            Self::JobTimeout => "job timeout",
            Self::CancelGrace => "cancel grace",
            Self::CleanUp => "clean-up limit",
            Self::Upload => "upload",
            Self::Download => "download",
            Self::FinalUpdate => "final update",
        })
    }
}

/// Who has a deadline, or waits for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    Runner,
    Job(JobId),
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Timers {
    armed: BTreeMap<Owner, (Time, Reason)>,
    queue: BTreeSet<(Time, Owner)>,
}

impl Timers {
    /// Replaces the deadline of `owner`.
    pub(super) fn set(&mut self, owner: Owner, deadline: Option<(Time, Reason)>) {
        let old = match deadline {
            Some(deadline) => self.armed.insert(owner, deadline),
            None => self.armed.remove(&owner),
        };
        if old.map(|(time, _)| time) != deadline.map(|(time, _)| time) {
            if let Some((time, _)) = old {
                self.queue.remove(&(time, owner));
            }
            if let Some((time, _)) = deadline {
                self.queue.insert((time, owner));
            }
        }
    }

    /// The next deadline.
    pub(super) fn next(&self) -> Option<(Time, Reason)> {
        let (_, owner) = self.queue.first()?;
        self.armed.get(owner).copied()
    }

    /// Takes one owner whose deadline has come.
    pub(super) fn take_due(&mut self, now: Time) -> Option<Owner> {
        let (time, owner) = *self.queue.first()?;
        if time > now {
            return None;
        }
        self.set(owner, None);
        Some(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_comes_first_and_can_be_moved() {
        let mut timers = Timers::default();
        let (a, b) = (Owner::Job(JobId(1)), Owner::Job(JobId(2)));
        timers.set(a, Some((Time::from_secs(5), Reason::Patch)));
        timers.set(b, Some((Time::from_secs(3), Reason::KeepAlive)));
        assert_eq!(timers.next(), Some((Time::from_secs(3), Reason::KeepAlive)));
        timers.set(b, Some((Time::from_secs(9), Reason::JobTimeout)));
        assert_eq!(timers.next(), Some((Time::from_secs(5), Reason::Patch)));
        timers.set(a, Some((Time::from_secs(5), Reason::FinalUpdate)));
        assert_eq!(
            timers.next(),
            Some((Time::from_secs(5), Reason::FinalUpdate))
        );
        assert_eq!(timers.take_due(Time::from_secs(4)), None);
        assert_eq!(timers.take_due(Time::from_secs(9)), Some(a));
        assert_eq!(timers.take_due(Time::from_secs(9)), Some(b));
        assert_eq!(timers.next(), None);
    }
}
