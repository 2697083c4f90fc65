//! Which steps of a job run, in which order.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    ids::ArtifactId,
    protocol::{
        ArtifactWhen, Failure, FailureReason, GoDuration, JobPayload, Phase, RunnerFeatures, is_on,
    },
};

const AFTER_SCRIPT: &str = "after_script";
/// What after_script has if nothing else is said.
const AFTER_SCRIPT_LIMIT: Duration = Duration::from_secs(300);

/// The steps of a job in the order of running: all others as GitLab lists them, then after_script.
#[derive(Debug)]
pub(super) struct Plan {
    steps: Vec<Step>,
    /// The time that the job has.
    pub(super) limit: Duration,
    /// The time that all steps but after_script have together, if it is less.
    script_limit: Option<Duration>,
    /// The time that after_script has.
    after_script_limit: Duration,
    /// Whether an after_script that fails leaves the job as it is.
    ignores_after_script: bool,
    /// What is odd about the variables that were read, for the log.
    pub(super) warnings: Vec<String>,
}

#[derive(Clone)]
pub(super) struct Step {
    index: usize,
    pub(super) name: Arc<str>,
    pub(super) script: Arc<[String]>,
    pub(super) phase: Phase,
}

impl Plan {
    /// The plan for this job, or what to say in its log and to GitLab when it cannot be run.
    pub(super) fn new(
        payload: &JobPayload,
        features: &RunnerFeatures,
        default_limit: Duration,
    ) -> Result<Self, (String, Failure)> {
        let native = features.native_steps_integration && payload.run.is_some();
        if payload.run.is_some() && !native {
            return Err(unrunnable(
                "it uses the keyword `run`, which this runner does not support",
            ));
        }
        let (after, mut steps): (Vec<_>, Vec<_>) = payload
            .steps
            .iter()
            .map(|step| Step {
                index: 0,
                name: Arc::clone(&step.name),
                script: Arc::clone(&step.script),
                phase: if &*step.name == AFTER_SCRIPT {
                    Phase::AfterScript
                } else {
                    Phase::Script
                },
            })
            .partition(|step| step.phase == Phase::AfterScript);
        if steps.is_empty() && native {
            // The handler reads `run` from the payload itself.
            steps.push(Step {
                index: 0,
                name: "run".into(),
                script: Arc::new([]),
                phase: Phase::Script,
            });
        }
        if steps.is_empty() {
            return Err(unrunnable("it has no script"));
        }
        steps.extend(after.into_iter().filter(|step| !step.script.is_empty()));
        for (index, step) in steps.iter_mut().enumerate() {
            step.index = index;
        }
        let limit = payload.time_limit(default_limit);
        let mut warnings = Vec::new();
        let ignores_after_script = ignores_after_script(payload, &mut warnings);
        let mut time = |key| step_limit(payload, key, limit, &mut warnings);
        Ok(Self {
            steps,
            limit,
            script_limit: time("RUNNER_SCRIPT_TIMEOUT"),
            after_script_limit: time("RUNNER_AFTER_SCRIPT_TIMEOUT").unwrap_or(AFTER_SCRIPT_LIMIT),
            ignores_after_script,
            warnings,
        })
    }

    /// The time that the steps of a phase have together.
    pub(super) fn phase_limit(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::Script => self.script_limit,
            Phase::AfterScript => Some(self.after_script_limit),
        }
    }

    /// Whether the job fails if this step does. Its `allow_failure` is not asked, nor is its `when`:
    /// GitLab judges a failure by the exit code.
    pub(super) fn counts(&self, step: &Step) -> bool {
        step.phase == Phase::Script || !self.ignores_after_script
    }

    /// The step to run after `last`: only after_script once one has failed, or the job is `stopped`.
    pub(super) fn after(&self, last: Option<&Step>, failed: bool, stopped: bool) -> Option<Step> {
        let next = last.map_or(0, |step| step.index + 1);
        let runs = |step: &&Step| step.phase == Phase::AfterScript || !failed && !stopped;
        self.steps.get(next..)?.iter().find(runs).cloned()
    }
}

/// The artifacts of a job that are to be uploaded now, in GitLab's order.
pub(super) fn artifacts(payload: &JobPayload, failed: bool) -> impl Iterator<Item = ArtifactId> {
    payload
        .artifacts
        .iter()
        .enumerate()
        .filter(move |(_, artifact)| {
            let wanted = match artifact.when {
                ArtifactWhen::Always => true,
                ArtifactWhen::OnFailure => failed,
                _ => !failed,
            };
            wanted && (artifact.untracked || !artifact.paths.is_empty())
        })
        .map(|(index, _)| ArtifactId {
            job: payload.id,
            index,
        })
}

/// Scripts may hold anything, so only their length is shown.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Step({}: {}, {} lines)",
            self.index,
            self.name,
            self.script.len()
        )
    }
}

/// What a variable sets, if `read` can make something of it: else it is left out, with a warning of
/// why.
fn setting<T>(
    payload: &JobPayload,
    key: &str,
    warnings: &mut Vec<String>,
    read: impl FnOnce(&str) -> Result<T, &'static str>,
) -> Option<T> {
    let value = payload.setting(key)?;
    let odd = |why| warnings.push(format!("{key} {why}, and does not count"));
    read(&value).map_err(odd).ok()
}

/// The time that a variable gives, as GitLab's own runner reads it.
fn step_limit(
    payload: &JobPayload,
    key: &str,
    job: Duration,
    warnings: &mut Vec<String>,
) -> Option<Duration> {
    let limit = setting(payload, key, warnings, |value| {
        match GoDuration::parse(value) {
            Some(GoDuration::Forward(limit)) => Ok(limit),
            Some(GoDuration::Backward(_)) => Err("is negative"),
            None => Err("is no duration such as 90s or 1h30m"),
        }
    })?;
    if limit > job {
        let seconds = job.as_secs();
        warnings.push(format!(
            "{key} is longer than the job may take: it counts as {seconds} seconds"
        ));
    }
    (!limit.is_zero()).then(|| limit.min(job))
}

fn ignores_after_script(payload: &JobPayload, warnings: &mut Vec<String>) -> bool {
    let said = setting(payload, "AFTER_SCRIPT_IGNORE_ERRORS", warnings, |value| {
        is_on(value).ok_or("is neither true nor false")
    });
    said.unwrap_or(true)
}

fn unrunnable(why: &str) -> (String, Failure) {
    let text = format!("this job cannot be run: {why}");
    (text, Failure::new(FailureReason::RunnerConfigurationError))
}
