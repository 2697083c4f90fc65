//! What must come of a job, worked out from what its handler saw and what happened when.
//!
//! It knows the rules of a job's life and nothing of the crate: how long things take, what ends what,
//! what then is the state at GitLab, and what stands in the log.

use std::time::Duration;

use gitlab_runner::{Failure, FailureReason, Time};

use super::{
    fate::{Fate, Outer, Story, error, stopped, warning},
    job_plan::{End, JobPlan, Manner},
    record::{Entry, Notes},
};

/// How long a step may go on after its time.
const TIMEOUT_GRACE: Duration = Duration::from_secs(30);
/// How long one may that was cancelled.
const CANCEL_GRACE: Duration = Duration::from_secs(600);
const CLEAN_UP: Duration = Duration::from_secs(300);
const AFTER_SCRIPT: u64 = 300;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Canceling,
    TimedOut,
    Interrupted,
    Ended,
}

struct Judge<'a> {
    plan: &'a JobPlan,
    outer: Outer,
    deadline: Time,
    script_deadline: Option<Time>,
    failure: Option<Failure>,
    why: Option<Why>,
    story: Story,
    uploads: Option<bool>,
    uploads_stopped: bool,
    upload_failure: Option<Failure>,
}

/// The main entries: their numbers, times, and what they are.
type Entries<'a> = std::iter::Peekable<std::vec::IntoIter<(usize, Time, &'a Entry)>>;

/// What must come of the job that had this life.
pub(crate) fn fate(plan: &JobPlan, notes: &Notes, outer: Outer) -> Result<Fate, String> {
    let mut judge = Judge {
        plan,
        outer,
        deadline: notes.begun + Duration::from_secs(plan.timeout),
        script_deadline: None,
        failure: None,
        why: None,
        story: Story::default(),
        uploads: None,
        uploads_stopped: false,
        upload_failure: None,
    };
    let main: Vec<_> = notes
        .entries
        .iter()
        .enumerate()
        .filter(|(_, (_, entry))| !matches!(entry, Entry::Wrote(_) | Entry::Complains(_)))
        .map(|(number, (at, entry))| (number, *at, entry))
        .collect();
    judge.judge(notes.begun, &mut main.into_iter().peekable())?;
    Ok(Fate {
        failure: judge.failure,
        ended: judge.why == Some(Why::Ended),
        uploads: judge.uploads,
        uploads_stopped: judge.uploads_stopped,
        upload_failure: judge.upload_failure,
        story: judge.story,
    })
}

fn system() -> Failure {
    Failure::new(FailureReason::RunnerSystemFailure)
}

fn timeout() -> Failure {
    Failure::new(FailureReason::JobExecutionTimeout)
}

/// How a step that returned this way failed.
fn result(end: &End) -> Option<Failure> {
    match end {
        End::Fail => Some(Failure::exit_code(1)),
        End::FailWith(failure) => Some(failure.clone()),
        _ => None,
    }
}

impl Judge<'_> {
    fn judge(&mut self, begun: Time, entries: &mut Entries<'_>) -> Result<(), String> {
        let limits = [
            ("RUNNER_SCRIPT_TIMEOUT", self.plan.script_timeout),
            (
                "RUNNER_AFTER_SCRIPT_TIMEOUT",
                self.plan.after_script_timeout,
            ),
        ];
        for (key, limit) in limits {
            if limit.is_some_and(|limit| limit > self.plan.timeout) {
                self.story.first.push(warning(&format!(
                    "{key} is longer than the job may take: it counts as {} seconds",
                    self.plan.timeout
                )));
            }
        }
        let Some(made) = self.making(begun, entries)? else {
            return self.end(entries);
        };
        let (mut last, mut last_number) = (made, 0);
        let mut panicked = false;
        let mut at = None;
        while let Some((number, begun, Entry::Begun(step))) = next_if_begun(entries) {
            let wanted = self.next_step(at);
            if wanted != Some(*step) || panicked {
                return Err(format!("step {step} has begun instead of {wanted:?}"));
            }
            if begun != last {
                return Err(format!("step {step} begins at {begun}, not at {last}"));
            }
            last_number = number;
            (last, panicked) = self.step(*step, begun, entries)?;
            at = Some(*step);
        }
        let may_go_on = !panicked && self.why <= Some(Why::Canceling);
        if may_go_on && let Some(step) = self.next_step(at) {
            // Before its first step a job may have been cancelled while nobody could hear it.
            let canceled = self.outer.canceling.is_some_and(|it| it <= last) && at.is_none();
            let ended = self.is_gone(last);
            if !canceled && !ended {
                return Err(format!("step {step} has not begun"));
            }
            self.why = Some(if canceled { Why::Canceling } else { Why::Ended });
            self.failure = Some(Failure::new(FailureReason::JobCanceled));
        } else if may_go_on && at.is_some() {
            self.upload(last, last_number, entries)?;
        } else if !panicked && at.is_some() {
            self.miss_artifacts(last);
        }
        self.clean_up(entries)?;
        self.end(entries)
    }

    /// When the handler was there; `None` if there is none.
    fn making(&mut self, begun: Time, entries: &mut Entries<'_>) -> Result<Option<Time>, String> {
        let Some((number, at, entry)) = entries.next() else {
            return Err("the making of the handler has no end".to_owned());
        };
        let aborted = self.outer.aborted.filter(|it| *it <= at);
        let late = self.deadline <= at;
        match entry {
            Entry::Made | Entry::NotMade { .. } | Entry::Panics(_) if late || aborted.is_some() => {
                Err(format!("the handler is made at {at}, after the job's end"))
            }
            Entry::Made => Ok(Some(at)),
            Entry::NotMade { told: true } => {
                if self.outer.canceling.is_none_or(|it| it > at) && !self.is_gone(at) {
                    return Err(format!("the making was stopped before {at} for no reason"));
                }
                self.failure = Some(system());
                let text = "Job failed: canceled";
                self.story.behind.push((number, error(text)));
                Ok(None)
            }
            Entry::NotMade { told: false } => {
                self.hears(false, None, begun, at)?;
                let (failure, text) = match &self.plan.making.end {
                    End::FailWith(failure) => (failure.clone(), "Job failed"),
                    _ => (system(), "Job failed (system failure)"),
                };
                self.failure = Some(failure);
                let text = format!("{text}: the runner could not prepare this job");
                self.story.behind.push((number, error(&text)));
                Ok(None)
            }
            Entry::Panics(words) => {
                self.panicked(number, "the preparation of the job", words);
                Ok(None)
            }
            Entry::MakingDropped if aborted == Some(at) => {
                self.interrupt(at);
                Ok(None)
            }
            Entry::MakingDropped if self.deadline == at => {
                self.time_out(at);
                Ok(None)
            }
            Entry::MakingDropped => {
                let canceled = self.outer.canceling.map(|it| it + CANCEL_GRACE);
                let forced = canceled.is_some_and(|forced| forced <= at);
                if !forced && !self.is_gone(at) {
                    return Err(format!(
                        "the making of the handler was dropped at {at} for no reason, begun at {begun}"
                    ));
                }
                self.why = Some(Why::Ended);
                Ok(None)
            }
            other => Err(format!("{other:?} before there is a handler")),
        }
    }

    fn is_gone(&self, at: Time) -> bool {
        self.outer.gone.is_some_and(|gone| gone <= at) || self.outer.maybe_missing
    }

    /// The step that has to follow.
    fn next_step(&self, last: Option<usize>) -> Option<usize> {
        if self.why > Some(Why::Canceling) {
            return None;
        }
        let from = last.map_or(0, |last| last + 1);
        (from..self.plan.steps.len()).find(|step| {
            self.is_after_script(*step) || self.why.is_none() && self.failure.is_none()
        })
    }

    fn is_after_script(&self, step: usize) -> bool {
        self.plan.steps[step].name == "after_script"
    }

    /// When it ended, and whether by a panic.
    fn step(
        &mut self,
        step: usize,
        begun: Time,
        entries: &mut Entries<'_>,
    ) -> Result<(Time, bool), String> {
        let is_after = self.is_after_script(step);
        let told = match entries.peek() {
            Some((_, at, Entry::Told(_))) => Some(*at),
            _ => None,
        };
        if told.is_some() {
            entries.next();
        }
        let Some((number, end, how)) = entries.next() else {
            return Err(format!("step {step} has no end"));
        };
        let dropped = matches!(how, Entry::Dropped(_));
        let limit = self.step_limit(is_after, begun);

        // All that may have wanted it to stop, in order.
        let mut events = vec![(self.deadline, Event::Deadline)];
        events.extend(limit.map(|limit| (limit, Event::Limit)));
        events.extend(self.outer.aborted.map(|at| (at, Event::Abort)));
        events.retain(|(at, _)| (begun..=end).contains(at) && *at > begun);
        let known = |events: &[(Time, Event)], at| events.iter().any(|(known, _)| *known == at);
        let stop = told.or(dropped.then_some(end));
        if let Some(stop) = stop.filter(|stop| !known(&events, *stop)) {
            events.push((stop, Event::Heard));
        }
        events.sort();

        self.hears(is_after, stop, begun, end)?;

        let mut force: Option<Time> = None;
        let mut stopped = false;
        let sooner = |force: Option<Time>, at: Time| Some(force.map_or(at, |it| it.min(at)));
        for (at, event) in events {
            match event {
                Event::Abort => {
                    force = sooner(force, at);
                    match is_after {
                        true => self.why = Some(Why::Interrupted),
                        false => self.interrupt(at),
                    }
                }
                Event::Deadline if self.why < Some(Why::TimedOut) => {
                    force = sooner(force, at + TIMEOUT_GRACE);
                    stopped = true;
                    match is_after {
                        true => {
                            self.why = Some(Why::TimedOut);
                            let text = format!(
                                "after_script ended: execution took longer than {} seconds",
                                self.plan.timeout
                            );
                            self.story.at.push((at, warning(&text)));
                        }
                        false => self.time_out(at),
                    }
                }
                Event::Limit
                    if self.why.is_none() || is_after && self.why < Some(Why::TimedOut) =>
                {
                    force = sooner(force, at + TIMEOUT_GRACE);
                    stopped = true;
                    self.time_out_step(is_after, at);
                }
                Event::Heard => {
                    let canceling = self.outer.canceling.is_some_and(|it| it <= at);
                    // Late news of a cancel, while the job is gone already.
                    let goes_on = matches!(
                        entries.peek(),
                        Some((_, _, Entry::Begun(_) | Entry::AskedForFiles))
                    );
                    let graceful = canceling && !is_after && self.why.is_none();
                    let forced = dropped && at == end && self.is_gone(at);
                    if graceful && (!forced || goes_on) {
                        force = sooner(force, at + CANCEL_GRACE);
                        stopped = true;
                        self.why = Some(Why::Canceling);
                        self.failure = Some(Failure::new(FailureReason::JobCanceled));
                    } else if forced {
                        self.why = Some(Why::Ended);
                        force = Some(at);
                    } else {
                        return Err(format!("step {step} was stopped at {at} for no reason"));
                    }
                }
                Event::Deadline | Event::Limit => {}
            }
        }
        let forced = force.is_some_and(|force| force <= end);
        let plain = self.plan.manner == Manner::Plain;
        if !dropped && forced {
            return Err(format!(
                "step {step} goes on to {end}, though it was to end at {force:?}"
            ));
        }
        if plain && stopped && !dropped {
            return Err(format!(
                "step {step} goes on to {end}, though it was stopped"
            ));
        }
        if dropped && !forced && !(plain && stopped) {
            // Told, and then ended by GitLab.
            if !self.is_gone(end) {
                return Err(format!("step {step} was dropped at {end} for no reason"));
            }
            self.why = Some(Why::Ended);
        }
        match how {
            Entry::Panics(words) => {
                self.panicked(number, "a step of the job", words);
                return Ok((end, true));
            }
            Entry::Ended(_) => {
                let polite = matches!(self.plan.manner, Manner::Polite(_));
                let failed = match told.is_some() && polite {
                    true => None,
                    false => result(&self.plan.steps[step].end),
                };
                if self.failure.is_none() && (!is_after || self.plan.after_script_counts) {
                    self.failure = failed;
                }
            }
            Entry::Dropped(_) => {}
            other => return Err(format!("{other:?} in step {step}")),
        }
        Ok((end, false))
    }

    /// A step does not go on for long when GitLab wants it to stop.
    fn hears(
        &self,
        is_after: bool,
        stop: Option<Time>,
        begun: Time,
        end: Time,
    ) -> Result<(), String> {
        let Some(within) = self.outer.hears_within else {
            return Ok(());
        };
        let canceling = self
            .outer
            .canceling
            .filter(|_| !is_after && self.why.is_none());
        let told = [
            (canceling, stop.unwrap_or(end)),
            // Nothing is told then, it is dropped.
            (self.outer.gone, end),
        ];
        for (wanted, heard) in told {
            if wanted.is_some_and(|it| heard > it.max(begun) + within) {
                return Err(format!(
                    "it goes on to {heard}, though it was to stop at {wanted:?}"
                ));
            }
        }
        Ok(())
    }

    fn step_limit(&mut self, is_after: bool, begun: Time) -> Option<Time> {
        let seconds = |time: u64| Duration::from_secs(time.min(self.plan.timeout));
        if is_after {
            let limit = self.plan.after_script_timeout.map(seconds);
            return Some(begun + limit.unwrap_or(Duration::from_secs(AFTER_SCRIPT)));
        }
        // All but after_script share it.
        let limit = self.plan.script_timeout.map(seconds);
        let limit = limit.map(|limit| begun + limit);
        self.script_deadline = self.script_deadline.or(limit);
        self.script_deadline
    }

    fn time_out(&mut self, at: Time) {
        self.why = Some(Why::TimedOut);
        self.failure = Some(timeout());
        let text = self.late();
        self.story.at.push((at, text));
    }

    fn late(&self) -> String {
        let seconds = self.plan.timeout;
        error(&format!(
            "Job failed: execution took longer than {seconds} seconds"
        ))
    }

    fn time_out_step(&mut self, is_after: bool, at: Time) {
        let (what, key, limit) = match is_after {
            true => (
                "after_script",
                "RUNNER_AFTER_SCRIPT_TIMEOUT",
                self.plan.after_script_timeout,
            ),
            false => (
                "the script",
                "RUNNER_SCRIPT_TIMEOUT",
                self.plan.script_timeout,
            ),
        };
        let limit = limit.map_or(AFTER_SCRIPT, |limit| limit.min(self.plan.timeout));
        let text = format!("{what} took longer than {limit} seconds ({key})");
        let note = if !is_after || self.plan.after_script_counts {
            self.failure.get_or_insert(timeout());
            error(&format!("Job failed: {text}"))
        } else {
            warning(&text)
        };
        self.story.at.push((at, note));
    }

    fn interrupt(&mut self, at: Time) {
        self.why = Some(Why::Interrupted);
        self.failure = Some(Failure::new(FailureReason::RunnerInterrupted));
        self.story.at.push((at, stopped()));
    }

    fn panicked(&mut self, number: usize, what: &str, words: &str) {
        let text = format!("Job failed (system failure): {what} panicked: {words}");
        self.story.behind.push((number, error(&text)));
        self.failure.get_or_insert(system());
    }

    /// What ended the job left no time for its artifacts.
    fn miss_artifacts(&mut self, at: Time) {
        let failure = match self.why {
            Some(Why::TimedOut) => timeout(),
            Some(Why::Interrupted) => Failure::new(FailureReason::RunnerInterrupted),
            _ => return,
        };
        let due = self.plan.artifacts.iter().any(|it| it.when != "on_failure");
        if due && self.failure.is_none() {
            self.failure = Some(failure);
            let text = "Job failed: it was ended before its artifacts were uploaded";
            self.story.at.push((at, error(text)));
        }
    }

    fn upload(
        &mut self,
        from: Time,
        from_number: usize,
        entries: &mut Entries<'_>,
    ) -> Result<(), String> {
        let failed = self.failure.is_some();
        self.uploads = Some(failed);
        let mut panicked = false;
        while let Some((_, _, entry)) = entries.next_if(|it| !matches!(it.2, Entry::CleanUp)) {
            match entry {
                Entry::AskedForFiles if !panicked => {}
                Entry::Panics(words) => {
                    panicked = true;
                    let what = "the handler of the job, asked for its files,";
                    let text = format!("Job failed (system failure): {what} panicked: {words}");
                    self.story.told.push(error(&text));
                }
                other => return Err(format!("{other:?} among the uploads")),
            }
        }
        let Some((number, end, _)) = entries.peek() else {
            return Err("no clean-up after the uploads".to_owned());
        };
        let (number, end) = (*number, *end);
        self.story.uploads = Some((from_number, number));
        if panicked {
            self.stop_uploads(system());
        }
        let late = Some(self.deadline).filter(|at| *at > from && *at <= end);
        let aborted = self.outer.aborted.filter(|at| *at > from && *at <= end);
        let late = late.filter(|late| aborted.is_none_or(|at| at > *late));
        if late.is_some() {
            self.stop_uploads(timeout());
            self.why = Some(Why::TimedOut);
            let text = self.late();
            self.story.told.push(text);
        } else if aborted.is_some() {
            // Said only if the job has not failed by then.
            self.stop_uploads(Failure::new(FailureReason::RunnerInterrupted));
            self.why = Some(Why::Interrupted);
        }
        if self.is_gone(end) {
            self.uploads_stopped = true;
        }
        Ok(())
    }

    fn stop_uploads(&mut self, failure: Failure) {
        self.uploads_stopped = true;
        self.upload_failure.get_or_insert(failure);
    }

    fn clean_up(&mut self, entries: &mut Entries<'_>) -> Result<(), String> {
        let Some((_, begun, Entry::CleanUp)) = entries.next() else {
            return Err("no clean-up".to_owned());
        };
        match (entries.next(), &self.plan.cleanup.end) {
            (Some((number, at, Entry::CleanUpDropped)), _) if at == begun + CLEAN_UP => {
                let text = warning("the clean-up took too long and was stopped");
                self.story.behind.push((number, text));
                Ok(())
            }
            (Some((number, _, Entry::Panics(words))), End::Panic(_)) => {
                let failure = self.failure.clone();
                self.panicked(number, "the clean-up of the job", words);
                // What the job came to stands.
                self.failure = failure;
                Ok(())
            }
            (Some((_, at, Entry::CleanUpEnded)), End::Ok) if at < begun + CLEAN_UP => Ok(()),
            (other, _) => Err(format!("{other:?} in the clean-up begun at {begun}")),
        }
    }

    /// The handler is dropped, and nothing comes after that.
    fn end(&mut self, entries: &mut Entries<'_>) -> Result<(), String> {
        let Some((number, at, Entry::Gone)) = entries.next() else {
            return Err("the handler was not dropped".to_owned());
        };
        self.story.closed = Some((number, at));
        if let Some((number, _, Entry::Panics(words))) =
            entries.next_if(|(_, _, entry)| matches!(entry, Entry::Panics(_)))
        {
            let failure = self.failure.clone();
            self.panicked(number, "the end of the job's handler", words);
            self.failure = failure;
        }
        match entries.next() {
            None => Ok(()),
            Some(more) => Err(format!("{more:?} after the end")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    // Of both at once the job's own counts.
    Deadline,
    Limit,
    Abort,
    /// It was stopped, and nothing here has wanted that.
    Heard,
}

fn next_if_begun<'a>(entries: &mut Entries<'a>) -> Option<(usize, Time, &'a Entry)> {
    entries.next_if(|(_, _, entry)| matches!(entry, Entry::Begun(_)))
}
