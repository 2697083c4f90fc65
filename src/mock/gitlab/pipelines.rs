//! Pipelines: which job waits for which, and when its turn comes.

use std::{collections::BTreeSet, error::Error, fmt};

use super::{MockGitlab, jobs::Job};
use crate::{
    JobId,
    mock::{
        job::{JobSpec, PipelineSpec},
        report::JobStatus,
    },
};

/// A pipeline that GitLab would refuse: a job needs one that is not there, or that does not come
/// before it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PipelineError {
    /// The job that needs it.
    pub job: String,
    /// The name of what it needs or depends on.
    pub need: String,
    /// There is such a job, but it does not come before the other.
    pub too_late: bool,
}

impl fmt::Display for PipelineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = if self.too_late {
            "does not come before it"
        } else {
            "is not in the pipeline"
        };
        write!(
            f,
            "job {:?} needs {:?}, which {problem}",
            self.job, self.need
        )
    }
}

impl Error for PipelineError {}

impl MockGitlab {
    /// Queues a job in a pipeline of its own. Its [`needs`](JobSpec::needs) and
    /// [`dependencies`](JobSpec::dependencies) are ignored.
    pub fn enqueue(&mut self, spec: JobSpec) -> JobId {
        let pipeline = self.pipelines.len();
        let id = self.create_job(spec, pipeline);
        self.pipelines.push(vec![id]);
        self.advance_pipeline(pipeline);
        id
    }

    /// Queues a pipeline; the numbers are in the order of its jobs.
    ///
    /// # Errors
    ///
    /// When a job needs one that the pipeline does not have, when jobs wait for each other, or when
    /// one depends on another that it does not wait for. Nothing is queued then.
    pub fn enqueue_pipeline(&mut self, spec: PipelineSpec) -> Result<Vec<JobId>, PipelineError> {
        let after = order(&spec)?;
        let pipeline = self.pipelines.len();
        let ids: Vec<JobId> = spec
            .jobs
            .into_iter()
            .map(|job| self.create_job(job, pipeline))
            .collect();
        for (id, after) in ids.iter().zip(after) {
            let after: Vec<JobId> = after
                .into_iter()
                .filter_map(|index| ids.get(index).copied())
                .collect();
            let Some(job) = self.jobs.get(id) else {
                continue;
            };
            let wanted = job.spec.dependencies.as_ref();
            let name = |id: &JobId| self.jobs.get(id).map(|job| &job.spec.name);
            let depends = |id: &JobId| {
                wanted.is_none_or(|wanted| name(id).is_some_and(|name| wanted.contains(name)))
            };
            let dependencies = after.iter().copied().filter(depends).collect();
            if let Some(job) = self.jobs.get_mut(id) {
                job.after = after;
                job.dependencies = dependencies;
            }
        }
        self.pipelines.push(ids.clone());
        self.advance_pipeline(pipeline);
        Ok(ids)
    }

    /// Queues or skips the jobs whose turn has come, until nothing changes any more.
    pub(super) fn advance_pipeline(&mut self, pipeline: usize) {
        loop {
            let jobs = self.pipelines.get(pipeline).into_iter().flatten();
            let changes: Vec<(JobId, JobStatus)> = jobs
                .filter_map(|id| Some((*id, self.turn_of(*id)?)))
                .collect();
            if changes.is_empty() {
                return;
            }
            for (id, status) in changes {
                self.set_status(id, status);
            }
        }
    }

    fn turn_of(&self, id: JobId) -> Option<JobStatus> {
        let job = self
            .jobs
            .get(&id)
            .filter(|job| job.status() == JobStatus::Created)?;
        let earlier = || job.after.iter().filter_map(|id| self.jobs.get(id));
        let let_through = |job: &Job| match job.status() {
            JobStatus::Failed => job.spec.allow_failure,
            status => status == JobStatus::Success,
        };
        if earlier().all(let_through) {
            Some(JobStatus::Pending)
        } else if earlier().any(|job| job.report.is_finished() && !let_through(job)) {
            Some(JobStatus::Skipped)
        } else {
            None
        }
    }
}

/// For each job of a pipeline, the places of those it waits for.
fn order(spec: &PipelineSpec) -> Result<Vec<Vec<usize>>, PipelineError> {
    let error = |job: &JobSpec, need: &str, too_late| PipelineError {
        job: job.name.clone(),
        need: need.to_owned(),
        too_late,
    };
    let mut stages: Vec<&str> = spec.stages.iter().map(String::as_str).collect();
    for job in &spec.jobs {
        if !stages.contains(&job.stage.as_str()) {
            stages.push(&job.stage);
        }
    }
    let stage_of = |job: &JobSpec| stages.iter().position(|stage| *stage == job.stage);
    let waits_for = |job: &JobSpec, other: &JobSpec| match &job.needs {
        Some(needs) => needs.contains(&other.name),
        None => stage_of(other) < stage_of(job),
    };
    let mut after = Vec::with_capacity(spec.jobs.len());
    for job in &spec.jobs {
        let needs = job.needs.iter().flatten();
        for need in needs {
            if !spec.jobs.iter().any(|other| other.name == *need) {
                return Err(error(job, need, false));
            }
        }
        let others = spec.jobs.iter().enumerate();
        let places: Vec<usize> = others
            .filter(|(_, other)| waits_for(job, other))
            .map(|(place, _)| place)
            .collect();
        after.push(places);
    }
    // Whoever is left when nobody else can go waits for somebody who waits for them.
    let mut stuck: BTreeSet<usize> = (0..after.len()).collect();
    loop {
        let before = stuck.len();
        for (place, places) in after.iter().enumerate() {
            if !places.iter().any(|place| stuck.contains(place)) {
                stuck.remove(&place);
            }
        }
        if stuck.len() == before {
            break;
        }
    }
    for job in stuck.iter().filter_map(|place| spec.jobs.get(*place)) {
        let needs = job.needs.iter().flatten();
        for need in needs {
            let mut others = stuck.iter().filter_map(|place| spec.jobs.get(*place));
            if others.any(|other| other.name == *need) {
                return Err(error(job, need, true));
            }
        }
    }
    for (job, places) in spec.jobs.iter().zip(&after) {
        for name in job.dependencies.iter().flatten() {
            let named = |other: &&JobSpec| other.name == *name;
            let mut before = places.iter().filter_map(|place| spec.jobs.get(*place));
            if !before.any(|other| named(&other)) {
                return Err(error(
                    job,
                    name,
                    spec.jobs.iter().any(|other| named(&other)),
                ));
            }
        }
    }
    Ok(after)
}
