//! What some runs write down of themselves: an archive and transcripts, in which there is no secret and
//! nothing is missing.

use std::sync::{Arc, Mutex};

use gitlab_runner::{
    RunnerBuilder,
    adapter::{Adapter, Recording},
    har::{Har, HarEntry, Secrets},
    machine::transcript::Transcript,
    sim::Sim,
};
use serde_json::Value;

use super::{actor::ORIGIN, leaks::leaks, plan::Plan, run::Evidence};

/// Takes down what passes, and what the machines are told.
pub(crate) struct Pens {
    archive: Recording,
    /// One for each runner, with its secrets, so that a replay is exact.
    transcripts: Vec<Arc<Mutex<String>>>,
}

pub(crate) struct Written {
    archive: Har,
    transcripts: Vec<String>,
}

impl Pens {
    pub(crate) fn of(plan: &Plan, sim: &Sim) -> Option<Self> {
        plan.is_recorded.then(|| Self {
            archive: Recording::new(sim.adapter()).wall_origin(ORIGIN),
            transcripts: plan.runners.iter().map(|_| Arc::default()).collect(),
        })
    }

    pub(crate) fn adapter(&self) -> Arc<dyn Adapter> {
        Arc::new(self.archive.clone())
    }

    pub(crate) fn record(&self, builder: RunnerBuilder, number: usize) -> RunnerBuilder {
        let transcript = Arc::clone(&self.transcripts[number]);
        builder.transcript(Secrets::Kept, move |line| {
            if let Ok(mut transcript) = transcript.lock() {
                transcript.push_str(line);
            }
        })
    }

    pub(crate) fn written(&self) -> Written {
        let text = |it: &Arc<Mutex<String>>| it.lock().map(|it| it.clone()).unwrap_or_default();
        Written {
            archive: self.archive.har(),
            transcripts: self.transcripts.iter().map(text).collect(),
        }
    }
}

pub(crate) fn check(secrets: &[&str], evidence: &Evidence, wrong: &mut Vec<String>) {
    let Some(Written {
        archive,
        transcripts,
    }) = &evidence.written
    else {
        return;
    };
    all_is_recorded(archive, evidence, wrong);
    let mut all = archive.to_json();
    for transcript in transcripts {
        replay(transcript, &mut all, wrong);
    }
    for (secret, around) in leaks(&all, secrets.iter().copied()) {
        wrong.push(format!("{secret:?} was written down: {around:?}"));
    }
}

/// The archive has each request that GitLab has seen, and the job that it handed out.
fn all_is_recorded(archive: &Har, evidence: &Evidence, wrong: &mut Vec<String>) {
    if !archive.log.comment.is_empty() {
        wrong.push(format!("the archive says: {}", archive.log.comment));
    }
    let entries = &archive.log.entries;
    if entries.len() < evidence.seen.len() {
        let (entries, asked) = (entries.len(), evidence.seen.len());
        wrong.push(format!("the archive has {entries} of {asked} requests"));
    }
    let handed_out = |id: u64| {
        move |entry: &HarEntry| {
            let payload = serde_json::from_str::<Value>(&entry.response.content.text);
            entry.response.status == 201 && payload.is_ok_and(|it| it["id"] == id)
        }
    };
    for id in evidence.pages.keys() {
        if !entries.iter().any(handed_out(*id)) {
            wrong.push(format!("the archive does not hand out job {id}"));
        }
    }
}

/// A new machine says the same to the same inputs. What would be written without secrets is added to
/// `all`.
fn replay(text: &str, all: &mut String, wrong: &mut Vec<String>) {
    // A runner that goes on after it was drained begins another one.
    let starts: Vec<usize> = text
        .match_indices("{\"transcript\"")
        .map(|it| it.0)
        .collect();
    if starts.is_empty() {
        wrong.push("a runner has no transcript".to_owned());
    }
    for (number, start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(text.len());
        let transcript = match Transcript::parse(&text.as_bytes()[*start..end]) {
            Ok(transcript) => transcript,
            Err(error) => {
                wrong.push(format!("a transcript cannot be read: {error}"));
                continue;
            }
        };
        if let Err(divergence) = transcript.replay() {
            wrong.push(format!("a replay parts from the transcript: {divergence}"));
        }
        all.push_str(&transcript.to_lines(Secrets::Redacted));
    }
}
