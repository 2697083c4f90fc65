//! Finds the log of a job by its number.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, Weak},
};

use super::log::JobLog;
use crate::{ids::JobId, sync::lock};

/// The running jobs of one or more runners, for a [`GitlabLayer`](crate::GitlabLayer) to write to
/// their logs.
///
/// Clones are the same list. It may serve several runners, also if different GitLab instances give
/// them jobs with the same number.
#[derive(Clone, Default)]
pub struct JobRunList {
    logs: Arc<Mutex<BTreeMap<JobId, Vec<Weak<JobLog>>>>>,
}

impl JobRunList {
    pub(crate) fn insert(&self, job: JobId, log: &Arc<JobLog>) {
        lock(&self.logs)
            .entry(job)
            .or_default()
            .push(Arc::downgrade(log));
    }

    pub(crate) fn remove(&self, job: JobId, log: &Arc<JobLog>) {
        let mut logs = lock(&self.logs);
        if let Some(of_job) = logs.get_mut(&job) {
            of_job.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(log)));
            if of_job.is_empty() {
                logs.remove(&job);
            }
        }
    }

    /// The log of a job of this list: the one that `is`, if that is known.
    #[cfg(feature = "tracing")]
    pub(super) fn find(&self, job: JobId, is: Option<&Weak<JobLog>>) -> Option<Arc<JobLog>> {
        let logs = lock(&self.logs);
        let mut of_job = logs.get(&job)?.iter();
        let found = match is {
            Some(is) => of_job.find(|log| log.ptr_eq(is)),
            None => of_job.next(),
        };
        found?.upgrade()
    }
}

impl fmt::Debug for JobRunList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(lock(&self.logs).keys()).finish()
    }
}
