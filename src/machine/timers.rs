//! One table of deadlines: at most two for the runner and one for each job.

use std::{collections::BTreeMap, fmt};

use crate::{ids::JobId, time::Time};

/// What the next deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Ask for a job.
    JobRequest,
    /// Give up waiting for a job request after an abort.
    AbortPatience,
    /// Try a call of the operator once more.
    RunnerCall,
    /// Verify the runner's token, or change it because of its age.
    TokenRotation,
    /// Give up waiting for a new token to be stored.
    PersistToken,
    /// A drain has lasted long enough: abort.
    DrainLimit,
    /// Tell GitLab that the job is taken.
    Commit,
    /// Send a part of the log.
    Patch,
    /// Keep the job alive.
    KeepAlive,
    /// The job has run out of time.
    JobTimeout,
    /// A step has run out of its own time.
    StepTimeout,
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
            Self::RunnerCall => "runner call",
            Self::TokenRotation => "token rotation",
            Self::PersistToken => "token persistence",
            Self::DrainLimit => "drain limit",
            Self::Commit => "commit",
            Self::Patch => "patch",
            Self::KeepAlive => "keep-alive",
            Self::JobTimeout => "job timeout",
            Self::StepTimeout => "step timeout",
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
    Account,
    Job(JobId),
}

/// What an owner has in the table. It keeps that itself, so that it need not be looked up at each
/// event: most change nothing.
pub(super) type Armed = Option<(Time, Reason)>;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeMap<(Time, Owner), Reason>);

impl Timers {
    /// Replaces the deadline of `owner`.
    pub(super) fn set(&mut self, owner: Owner, armed: &mut Armed, deadline: Armed) {
        if *armed == deadline {
            return;
        }
        if let Some((time, _)) = *armed {
            self.0.remove(&(time, owner));
        }
        if let Some((time, reason)) = deadline {
            self.0.insert((time, owner), reason);
        }
        *armed = deadline;
    }

    /// The next deadline.
    pub(super) fn next(&self) -> Option<(Time, Reason)> {
        let ((time, _), reason) = self.0.first_key_value()?;
        Some((*time, *reason))
    }

    /// Takes one owner whose deadline has come, and who is no longer armed then.
    pub(super) fn take_due(&mut self, now: Time) -> Option<Owner> {
        let first = self.0.first_entry()?;
        let (time, owner) = *first.key();
        if time > now {
            return None;
        }
        first.remove();
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
        let (mut of_a, mut of_b) = (None, None);
        timers.set(a, &mut of_a, Some((Time::from_secs(5), Reason::Patch)));
        timers.set(b, &mut of_b, Some((Time::from_secs(3), Reason::KeepAlive)));
        assert_eq!(timers.next(), Some((Time::from_secs(3), Reason::KeepAlive)));
        timers.set(b, &mut of_b, Some((Time::from_secs(9), Reason::JobTimeout)));
        assert_eq!(timers.next(), Some((Time::from_secs(5), Reason::Patch)));
        timers.set(
            a,
            &mut of_a,
            Some((Time::from_secs(5), Reason::FinalUpdate)),
        );
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
