//! Random runs of the whole crate against a simulated GitLab in virtual time, each held against a
//! model that was written without looking at the crate.
//!
//! A seed decides on everything: jobs, handlers, server, faults, people. [`simulate`] runs it and
//! says what is wrong, and [`shrink`] finds out which ingredients it takes.

mod actor;
mod check;
mod dice;
mod fate;
mod files;
mod job_plan;
mod leaks;
mod log;
mod masking;
mod model;
mod overhear;
mod people;
mod plan;
mod record;
mod requests;
mod run;
mod text;
mod weather;
mod written;

use std::{
    any::Any,
    cell::Cell,
    collections::BTreeSet,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Once},
};

pub(crate) use self::dice::Without;
use self::plan::Plan;

/// What a run was like.
pub(crate) struct Outcome {
    /// The ingredients that were in.
    pub(crate) parts: BTreeSet<String>,
    pub(crate) jobs: usize,
    pub(crate) requests: usize,
    /// The same for each run of the same seed.
    pub(crate) fingerprint: u64,
    /// All that is wrong.
    pub(crate) wrong: Vec<String>,
}

thread_local! {
    /// Which seed this thread runs, or ran last.
    static RUNNING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs this seed without some of its ingredients.
pub(crate) fn simulate(seed: u64, without: &Without) -> Outcome {
    quiet_panics();
    RUNNING.set(Some(seed));
    let plan = Arc::new(Plan::draw(seed, without));
    let mut outcome = Outcome {
        parts: plan.parts.clone(),
        jobs: plan.jobs.len(),
        requests: 0,
        fingerprint: 0,
        wrong: Vec::new(),
    };
    let dir = match tempfile::tempdir() {
        Ok(dir) => dir,
        Err(error) => {
            outcome
                .wrong
                .push(format!("no directory to work in: {error}"));
            return outcome;
        }
    };
    let run = panic::catch_unwind(AssertUnwindSafe(|| {
        run::run(&plan, &dir).map(|evidence| (check::check(&plan, &evidence), evidence))
    }));
    match run {
        Ok(Ok((wrong, evidence))) => {
            outcome.requests = evidence.seen.len();
            outcome.fingerprint = fingerprint(&evidence);
            outcome.wrong = wrong;
        }
        Ok(Err(text)) => outcome.wrong.push(text),
        Err(panic) => outcome.wrong.push(format!("panic: {}", words(&*panic))),
    }
    outcome
}

/// The fewest ingredients with which this seed still fails: all others are left out.
pub(crate) fn shrink(seed: u64, without: &Without) -> (Without, Outcome) {
    let mut without = without.clone();
    let mut outcome = simulate(seed, &without);
    loop {
        let before = without.len();
        // Whole jobs and runners first: they take their ingredients along.
        let mut parts: Vec<String> = outcome.parts.iter().cloned().collect();
        parts.sort_by_key(|part| part.matches('/').count());
        for part in parts {
            if !outcome.parts.contains(&part) {
                continue;
            }
            let mut fewer = without.clone();
            fewer.insert(part);
            let smaller = simulate(seed, &fewer);
            if !smaller.wrong.is_empty() {
                (without, outcome) = (fewer, smaller);
            }
        }
        if without.len() == before {
            return (without, outcome);
        }
    }
}

/// The ingredients of this seed.
pub(crate) fn parts(seed: u64, without: &Without) -> BTreeSet<String> {
    Plan::draw(seed, without).parts
}

/// The plan of this seed, for people.
pub(crate) fn describe(seed: u64, without: &Without) -> String {
    format!("{:#?}", Plan::draw(seed, without))
}

fn fingerprint(evidence: &run::Evidence) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |text: &str| {
        for byte in text.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for seen in &evidence.seen {
        add(&format!(
            "{} {:?} {:?} {:?}",
            seen.at, seen.what, seen.range, seen.answer
        ));
    }
    for report in &evidence.reports {
        add(&format!("{:?} {}", report.changes, report.log_text()));
        for artifact in &report.artifacts {
            add(&String::from_utf8_lossy(&artifact.content));
        }
    }
    hash
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_default()
}

/// Panics of handlers are part of the plan, and nobody wants to read them.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !words(info.payload()).starts_with("on purpose") {
                hook(info);
                // Nobody else tells if the process ends by it.
                if let Some(seed) = RUNNING.get() {
                    eprintln!("in the run of seed {seed}");
                }
            }
        }));
    });
}
