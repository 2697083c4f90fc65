//! Holds what GitLab has against what the model says.

use std::{collections::BTreeMap, time::Duration};

use gitlab_runner::{
    Failure, FailureReason, Time,
    mock::{JobReport, JobStatus},
};

use super::{
    fate::{Fate, Outer, stopped},
    files::Format,
    job_plan::{JobPlan, Offer},
    log::{Log, Much},
    masking::Hidden,
    model,
    plan::{Deed, Plan, RunnerPlan},
    record::{Entry, Notes},
    requests,
    run::{Done, Evidence},
    weather::What,
    written,
};

/// So long after its end a job's log is sent, if that is all there is to wait for.
const FLUSH: Duration = Duration::from_secs(1800);

/// What is wrong, all of it.
pub(crate) fn check(plan: &Plan, evidence: &Evidence) -> Vec<String> {
    let mut wrong = evidence
        .left
        .iter()
        .map(|it| format!("left: {it}"))
        .collect::<Vec<_>>();
    for (number, ran) in evidence.runs.iter().enumerate() {
        wrong.extend(ran.errors.iter().map(|it| format!("runner {number}: {it}")));
    }
    requests::check(plan, evidence, &mut wrong);
    overlap(plan, evidence, &mut wrong);
    secrets(plan, evidence, &mut wrong);
    for (number, (job, report)) in plan.jobs.iter().zip(&evidence.reports).enumerate() {
        let pages = evidence.pages.get(&report.id.0);
        let case = Case {
            plan,
            evidence,
            number,
            job,
            report,
            wrong: Vec::new(),
        };
        wrong.extend(case.check(pages.map_or(&[], |pages| &pages[..])));
    }
    wrong
}

/// One job.
struct Case<'a> {
    plan: &'a Plan,
    evidence: &'a Evidence,
    number: usize,
    job: &'a JobPlan,
    report: &'a JobReport,
    wrong: Vec<String>,
}

impl Case<'_> {
    fn check(mut self, pages: &[Notes]) -> Vec<String> {
        let finished = |status: &JobStatus| status.is_finished();
        let ends = self.report.statuses().into_iter().filter(finished).count();
        if ends > 1 {
            self.complain(format!("ended {ends} times"));
        }
        let stopped = self.evidence.runs.iter().all(|run| run.stopped.is_some());
        let waits = matches!(self.report.status, JobStatus::Pending | JobStatus::Created);
        if ends == 0 && !(waits && stopped) {
            self.complain("has not ended".to_owned());
        }
        match pages {
            [] => self.check_without_handler(),
            [notes] => self.check_with_handler(notes),
            several => self.complain(format!("has {} handlers", several.len())),
        }
        self.wrong
    }

    fn complain(&mut self, text: String) {
        let (id, name, report) = (self.report.id, &self.job.name, self.report);
        self.wrong.push(format!(
            "{name} ({id}, {} {:?} {:?}): {text}",
            report.status, report.failure_reason, report.exit_code
        ));
    }

    fn deeds(&self) -> impl Iterator<Item = &Done> {
        let number = self.number;
        let deeds = self.evidence.deeds.iter();
        deeds.filter(move |done| done.deed.job() == Some(number))
    }

    /// Since when GitLab hears nothing of the job, but by its own end.
    fn gone(&self) -> Option<Time> {
        let deeds = self.deeds().filter(|done| {
            let alive = done.before.is_some_and(|it| !it.is_finished());
            let ends = done.status.is_some_and(JobStatus::is_finished);
            let refuses = matches!(
                done.deed,
                Deed::Erase(_) | Deed::DeleteProject(_) | Deed::ExpireToken(_)
            );
            alive && (ends || refuses)
        });
        let swept = self.swept().then_some(self.report.finished_at).flatten();
        deeds.map(|done| done.at).chain(swept).min()
    }

    /// GitLab itself has ended the job.
    fn swept(&self) -> bool {
        let by_itself = [
            "no_updates_running",
            "no_updates_canceling",
            "server_timeout_running",
            "server_timeout_canceling",
            "runner_provisioning_timeout",
            "job_token_expired",
        ];
        let reason = self.report.failure_reason.as_deref();
        reason.is_some_and(|reason| by_itself.contains(&reason))
    }

    fn check_without_handler(&mut self) {
        if !self.report.artifacts.is_empty() {
            self.complain("has artifacts without a handler".to_owned());
        }
        let reason = self.report.failure_reason.as_deref().unwrap_or_default();
        let aborted = self.evidence.runs.iter().any(|run| run.aborted.is_some());
        let faulty = self.plan.is_faulty || self.plan.server.rate.is_some();
        // While it is parked, a job can be cancelled, and deeds change how the commit goes.
        let touched = !self.plan.deeds.is_empty();
        let fine = match self.report.status {
            JobStatus::Created | JobStatus::Pending => true,
            JobStatus::Skipped | JobStatus::Canceled => touched || !self.plan.deeds.is_empty(),
            JobStatus::Failed
                if self.job.unusable && reason == self.stored("runner_configuration_error") =>
            {
                return self.check_unusable_log();
            }
            JobStatus::Failed => {
                let interrupted = self.stored("runner_interrupted");
                let system = self.stored("runner_system_failure");
                self.gone().is_some() && (faulty || touched || self.swept() && aborted)
                    || aborted && reason == interrupted
                    || aborted && reason == "unknown_failure" && self.may_be_cut()
                    || (faulty || touched) && reason == system
                    || self.gone().is_some() && self.plan.server.grace.is_some()
            }
            _ => false,
        };
        if !fine {
            self.complain("has no handler for no reason".to_owned());
        }
        let text = self.report.log_text();
        let note = "\x1b[31;1mERROR: Job failed: the job that GitLab handed out cannot";
        let tells = text.starts_with(note) && text.lines().count() == 1 || note.starts_with(&*text);
        let fine = text.is_empty() || self.job.unusable || tells && self.may_be_cut();
        if !fine {
            self.complain("has a log without a handler".to_owned());
        }
    }

    /// Only the first half of its payload may have come, which does not tell the known reasons.
    fn may_be_cut(&self) -> bool {
        self.plan.parts.contains("fault-Truncated")
    }

    fn check_unusable_log(&mut self) {
        let wanted =
            "\x1b[31;1mERROR: Job failed: this job cannot be run: it has no script\x1b[0;m\n";
        if self.report.log != wanted.as_bytes() && self.shrunk_too_late().is_none() {
            self.complain(format!("wrong log: {:?}", self.report.log_text()));
        }
    }

    fn check_with_handler(&mut self, notes: &Notes) {
        for (at, entry) in &notes.entries {
            if let Entry::Complains(text) = entry {
                self.complain(format!("{at}: {text}"));
            }
        }
        if self.job.unusable {
            return self.complain("has a handler, but nothing to run".to_owned());
        }
        let ran = &self.evidence.runs[notes.runner];
        let stopped = ran.stopped.unwrap_or(Time::MAX);
        let latest = ran.aborted.unwrap_or(stopped + Duration::from_secs(260));
        if notes.begun > latest {
            self.complain(format!(
                "begun at {}, after the runner was stopped",
                notes.begun
            ));
        }
        let mut changes = self.report.changes.iter();
        let canceling = changes.find(|it| it.status == JobStatus::Canceling);
        let outer = Outer {
            canceling: canceling.map(|change| change.at),
            gone: self.gone(),
            aborted: ran.aborted,
            maybe_missing: self.seems_missing(),
            // Old servers tell of a cancel only when there is log to send.
            hears_within: (self.plan.is_calm() && !self.plan.server.is_old).then(|| {
                // A keep-alive waits for a patch that is about to go, and each travels to and fro.
                Duration::from_secs(34) + 4 * self.plan.slowest()
            }),
        };
        match model::fate(self.job, notes, outer) {
            Err(text) => {
                let entries = notes.entries.iter();
                let main = entries.filter(|(_, it)| !matches!(it, Entry::Wrote(_)));
                let main: Vec<String> = main.map(|(at, it)| format!("{at} {it:?}")).collect();
                self.complain(format!(
                    "{text}; {outer:?}, begun {}: {main:?}",
                    notes.begun
                ));
            }
            Ok(fate) => self.check_fate(notes, &fate, outer),
        }
    }

    fn check_fate(&mut self, notes: &Notes, fate: &Fate, outer: Outer) {
        // What was reported counts, unless GitLab was faster.
        let reported = !self.swept()
            && self
                .gone()
                .is_none_or(|gone| self.was_reported_before(gone));
        let hidden = self.hidden();
        let log = Log {
            entries: &notes.entries,
            story: &fate.story,
            hidden: &hidden,
            limit: self.plan.trace_limit,
        };
        let ended = fate.ended || outer.maybe_missing;
        let whole =
            reported && !ended && self.shrunk_too_late().is_none() && !self.flushed_in_vain(notes);
        let much = if whole { Much::All } else { Much::Some };
        let told = match log.check(&self.report.log, much) {
            Ok(told) => told,
            Err(text) => return self.complain(text),
        };
        if whole {
            let matches = [
                self.report.checksum_matches(),
                self.report.bytesize_matches(),
            ];
            if matches.contains(&Some(false)) {
                self.complain("was reported with the checksum of another log".to_owned());
            }
        }
        self.check_sweep();
        if !reported || ended {
            // What GitLab did stands; requests are looked at elsewhere.
            let known = outer.canceling.or(outer.gone).is_some() || outer.maybe_missing;
            if reported && !known {
                self.complain("was given up for no reason".to_owned());
            }
            return;
        }
        let failed = |it: &String| it.contains("ERROR: Uploading artifacts as");
        // With a part of the log it may be lost what was said of that.
        let failed = whole.then(|| told.iter().any(failed));
        self.check_uploads(fate, &told, failed);
        self.check_status(fate, outer, failed);
    }

    fn check_status(&mut self, fate: &Fate, outer: Outer, upload_failed: Option<bool>) {
        if outer.canceling.is_some() {
            if self.report.status != JobStatus::Canceled {
                self.complain("was cancelled, and is not".to_owned());
            }
            return;
        }
        let mut allowed = vec![fate.failure.clone()];
        if fate.failure.is_none() && fate.uploads.is_some() {
            allowed = vec![fate.upload_failure.clone()];
            if upload_failed != Some(false) {
                allowed.push(Some(Failure::exit_code(1)));
            }
            if upload_failed == Some(true) {
                allowed.retain(Option::is_some);
            }
        }
        let is = (
            self.report.status,
            self.report.failure_reason.clone(),
            self.report.exit_code,
        );
        let wanted: Vec<_> = allowed
            .iter()
            .map(|failure| match failure {
                None => (JobStatus::Success, None, None),
                Some(failure) => (
                    JobStatus::Failed,
                    Some(self.stored(failure.reason().as_str()).to_owned()),
                    failure
                        .code()
                        .filter(|code| *code != 0)
                        .map(|code| i64::from(code.clamp(0, 32767))),
                ),
            })
            .collect();
        if !wanted.contains(&is) {
            self.complain(format!("should be {wanted:?}"));
        }
    }

    /// Looks at the artifacts. `failed`: whether the log says of one that it could not be uploaded,
    /// if that is known.
    fn check_uploads(&mut self, fate: &Fate, told: &[String], failed: Option<bool>) {
        let interrupted = fate.upload_failure.as_ref().map(Failure::reason)
            == Some(&FailureReason::RunnerInterrupted)
            && fate.failure.is_none();
        let stopped = (interrupted && failed == Some(false)).then(stopped);
        let required = fate
            .story
            .told
            .iter()
            .filter(|_| failed.is_some())
            .cloned()
            .chain(stopped);
        let hidden = self.hidden();
        for note in required {
            let note = super::masking::stored(note.as_bytes(), &hidden, None);
            if !told.iter().any(|it| it.as_bytes() == note) {
                let note = String::from_utf8_lossy(&note).into_owned();
                self.complain(format!("the log does not tell {note:?}"));
            }
        }
        let mut due = false;
        let is_faulty =
            self.plan.is_faulty || self.plan.server.rate.is_some() || !self.plan.deeds.is_empty();
        let artifacts: BTreeMap<&str, _> = self
            .report
            .artifacts
            .iter()
            .map(|it| (&*it.artifact_type, it))
            .collect();
        for artifact in &self.job.artifacts {
            let files = artifact.select(&self.job.files);
            let wanted = fate
                .uploads
                .is_some_and(|failed| artifact.is_wanted(failed));
            let fails = wanted
                && (matches!(self.job.offer, Offer::Fails)
                    || files.values().any(|it| it.broken)
                    // Also if only one of them is still there when it is to be read.
                    || artifact.format == Format::Raw
                        && artifact.matching(&self.job.files).nth(1).is_some());
            due |= fails;
            let possible =
                wanted && !files.is_empty() && !fails && matches!(self.job.offer, Offer::Ok);
            if fails && failed == Some(false) && !fate.uploads_stopped {
                self.complain(format!("{} was not said to fail", artifact.kind));
            }
            match artifacts.get(artifact.kind) {
                None if possible
                    && !fate.uploads_stopped
                    && !(failed != Some(false) && is_faulty) =>
                {
                    self.complain(format!("{} is missing", artifact.kind));
                }
                None => {}
                Some(_) if !possible => self.complain(format!("{} should not be", artifact.kind)),
                Some(found) => {
                    if let Err(text) = artifact.check(&found.content, &self.job.files) {
                        self.complain(format!("{} {text}", artifact.kind));
                    }
                }
            }
        }
        if failed == Some(true) && !due && !is_faulty {
            self.complain(format!("uploads failed for no reason: {told:?}"));
        }
    }

    /// A final state of its own came before this.
    fn was_reported_before(&self, gone: Time) -> bool {
        let status = self.report.status;
        let finished = self.report.finished_at.is_some_and(|at| at < gone);
        finished && status.is_finished()
    }

    /// Whether the job was answered with 404 often enough.
    fn seems_missing(&self) -> bool {
        let mut row = 0;
        let seen = self
            .evidence
            .seen
            .iter()
            .filter(|it| it.job == Some(self.report.id.0));
        for seen in seen.filter(|it| matches!(it.what, What::Patch | What::Update)) {
            row = match seen.answer {
                Some((_, 404)) => row + 1,
                _ => 0,
            };
            if row >= 5 {
                return true;
            }
        }
        false
    }

    /// There was so much trouble that the rest of the log was given up for the sake of the result.
    fn flushed_in_vain(&self, notes: &Notes) -> bool {
        let id = self.report.id.0;
        // What a handler has begun may write on when the job is over.
        let mut entries = notes.entries.iter().rev();
        let last = entries.find(|(_, it)| !matches!(it, Entry::Wrote(_) | Entry::Complains(_)));
        let ended = last.map_or(notes.begun, |(at, _)| *at);
        let mut seen = self.evidence.seen.iter();
        seen.any(|it| it.job == Some(id) && it.is_final() && it.at >= ended + FLUSH)
    }

    /// A part of the log was lost when no more of it was sent.
    fn shrunk_too_late(&self) -> Option<Time> {
        let id = self.report.id.0;
        let patches = self
            .evidence
            .seen
            .iter()
            .filter(|it| it.job == Some(id) && it.what == What::Patch)
            // That was no more of it: GitLab knew of the job's end, and only the answer was lost.
            .filter(|it| !matches!(it.answer, Some((_, 403))));
        let last = patches.map(|it| it.at).max().unwrap_or(Time::ZERO);
        let shrunk = self
            .deeds()
            .filter(|done| matches!(done.deed, Deed::Shrink(..) | Deed::Erase(_)));
        shrunk.map(|done| done.at).filter(|at| *at >= last).max()
    }

    /// GitLab hears nothing of a job for long only if it cannot.
    fn check_sweep(&mut self) {
        let reason = self.report.failure_reason.as_deref().unwrap_or_default();
        let refused = |done: &Done| {
            let deed = done.deed;
            matches!(
                deed,
                Deed::Erase(_) | Deed::DeleteProject(_) | Deed::ExpireToken(_)
            )
        };
        if !reason.starts_with("no_updates") || self.deeds().any(refused) || self.seems_missing() {
            return;
        }
        let id = Some(self.report.id.0);
        let seen = self.evidence.seen.iter().filter(|it| it.job == id);
        let last = seen.map(|it| it.at).max().unwrap_or(Time::ZERO);
        let end = self.report.finished_at.unwrap_or(Time::MAX);
        if end.since(last) > Duration::from_secs(150) {
            self.complain(format!(
                "was forgotten: nothing was sent for it after {last}"
            ));
        }
    }

    /// What this GitLab makes of a reason.
    fn stored(&self, reason: &str) -> &'static str {
        let known: &[&'static str] = match self.job.knows_few_reasons {
            true => &["unknown_failure", "script_failure"],
            false => &[
                "unknown_failure",
                "script_failure",
                "runner_system_failure",
                "job_execution_timeout",
                "runner_configuration_error",
                "runner_external_dependency_failure",
                "runner_interrupted",
            ],
        };
        let known = |reason: &str| known.iter().find(|it| **it == reason).copied();
        let sent = match reason {
            "script_failure" | "runner_system_failure" | "job_execution_timeout" => reason,
            _ if known(reason).is_some() => reason,
            "image_pull_failure" | "runner_external_dependency_failure" => "runner_system_failure",
            "runner_configuration_error" => "script_failure",
            _ => "unknown_failure",
        };
        known(sent).unwrap_or("unknown_failure")
    }

    fn hidden(&self) -> Hidden {
        let mut values = self.job.secrets.clone();
        values.push(self.evidence.job_tokens[self.number].clone());
        // Those of its dependencies may be their own.
        values.extend(self.evidence.job_tokens.iter().cloned());
        Hidden {
            values,
            prefixes: self.job.prefixes.clone(),
        }
    }
}

/// No runner has more jobs at a time than it may.
fn overlap(plan: &Plan, evidence: &Evidence, wrong: &mut Vec<String>) {
    // One that was let go of may bring its job beside that of the next.
    let strict = |it: &(usize, &RunnerPlan)| !(it.1.one_by_one && it.1.patience.is_some());
    for (number, runner) in plan.runners.iter().enumerate().filter(strict) {
        let mut changes: Vec<(Time, i32)> = Vec::new();
        let pages = evidence.pages.values().flatten();
        for page in pages.filter(|page| page.runner == number) {
            let end = page.entries.iter().rev().find(|it| it.1 == Entry::Gone);
            changes.push((page.begun, 1));
            changes.push((end.map_or(Time::MAX, |it| it.0), -1));
        }
        changes.sort();
        let mut now = 0;
        for (at, change) in changes {
            now += change;
            // More of them go on to their end.
            let later = evidence.runs[number].capacity.unwrap_or(0);
            if now > runner.capacity.max(later) as i32 {
                wrong.push(format!("runner {number} has {now} jobs at {at}"));
                return;
            }
        }
    }
}

/// No secret is where it does not belong.
fn secrets(plan: &Plan, evidence: &Evidence, wrong: &mut Vec<String>) {
    let mut everywhere: Vec<&str> = evidence.job_tokens.iter().map(String::as_str).collect();
    everywhere.extend(plan.runners.iter().map(|it| &*it.token));
    everywhere.extend(
        evidence
            .runs
            .iter()
            .flat_map(|it| &it.tokens)
            .map(String::as_str),
    );
    for (job, report) in plan.jobs.iter().zip(&evidence.reports) {
        let own = job.secrets.iter().map(|it| it.trim());
        let file = job.file_secret.as_deref();
        for secret in everywhere.iter().copied().chain(own).chain(file) {
            let mut windows = report.log.windows(secret.len());
            if windows.any(|it| it[0] == secret.as_bytes()[0] && it == secret.as_bytes()) {
                wrong.push(format!("{}: {secret:?} is in the log", job.name));
            }
        }
    }
    let long = |secret: &&str| secret.len() > 5;
    let of_jobs = plan.jobs.iter().flat_map(|job| {
        let own = job.secrets.iter().map(|it| it.trim());
        own.chain(job.file_secret.as_deref())
    });
    everywhere.extend(of_jobs.filter(long));
    written::check(&everywhere, evidence, wrong);
    for secret in everywhere {
        if let Some(at) = evidence.overheard.find(secret) {
            let from = evidence.overheard[..at].rfind('\n').unwrap_or(0);
            let text = evidence.overheard[from..].chars().take(300);
            wrong.push(format!(
                "{secret:?} was said: {:?}",
                text.collect::<String>()
            ));
        }
    }
}
