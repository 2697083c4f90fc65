//! The exact record of a machine: what it was told, when, and what it said to that.
//!
//! A transcript is JSON lines: first the configuration and the seed, then inputs with their times and
//! the outputs that were taken. [`RecordedMachine`] writes one, secrets left out;
//! [`Transcript::replay`] tells a new machine the same and compares what it says. It is the form for
//! regressions and for seeds of a fuzzer; the portable form is HAR.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use gitlab_runner::{
//!     Secret, Time,
//!     machine::{
//!         Input, MachineConfig,
//!         transcript::{RecordedMachine, Secrets, Transcript},
//!     },
//!     protocol::ServerUrl,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let written = Arc::new(Mutex::new(String::new()));
//! let sink = Arc::clone(&written);
//! let server = ServerUrl::parse("https://gitlab.example.com")?;
//! let config = MachineConfig::new(server, Secret::from("glrt-example"), "s_0123456789ab");
//! let mut machine = RecordedMachine::new(config, 42, Secrets::Redacted, move |line| {
//!     sink.lock().expect("no panic").push_str(line);
//! });
//! machine.handle_input(Time::ZERO, Input::SetCapacity(4));
//! while machine.poll_output().is_some() {}
//!
//! let written = written.lock().expect("no panic");
//! assert!(!written.contains("glrt-example"));
//! let machine = Transcript::parse(written.as_bytes())?.replay()?;
//! assert_eq!(machine.stats().requests_in_flight, 1);
//! # Ok(())
//! # }
//! ```

mod line;
mod render;

use std::{
    error::Error,
    fmt,
    panic::{self, AssertUnwindSafe},
};

use self::line::Line;
pub(super) use self::line::{failure, reply};
use super::{Input, MachineConfig, Output, Reason, RunnerMachine, Stats};
pub use crate::redact::Secrets;
use crate::{ids::JobId, protocol::ScriptStatus, redact::Redactor, time::Time};

/// The longest line that is read, in bytes.
pub const MAX_LINE: usize = 64 << 20;
/// The most lines that are read.
pub const MAX_LINES: usize = 4 << 20;

/// A machine that writes down what it is told and what it says.
pub struct RecordedMachine {
    machine: RunnerMachine,
    pen: Option<Pen>,
}

struct Pen {
    redactor: Redactor,
    sink: Box<dyn FnMut(&str) + Send>,
}

impl RecordedMachine {
    /// A machine at rest whose transcript goes to `sink`: one call for each line, with its line end.
    /// A sink that panics is not called again.
    pub fn new(
        config: MachineConfig,
        seed: u64,
        secrets: Secrets,
        sink: impl FnMut(&str) + Send + 'static,
    ) -> Self {
        let mut pen = Pen {
            redactor: secrets.redactor(),
            sink: Box::new(sink),
        };
        let alive = pen.write(&Line::header(&config, seed));
        Self {
            machine: RunnerMachine::new(config, seed),
            pen: alive.then_some(pen),
        }
    }

    /// A machine of which nothing is written down.
    pub fn unrecorded(config: MachineConfig, seed: u64) -> Self {
        Self {
            machine: RunnerMachine::new(config, seed),
            pen: None,
        }
    }

    /// See [`RunnerMachine::handle_input`].
    pub fn handle_input(&mut self, now: Time, input: Input) {
        if let Some(pen) = &mut self.pen {
            let line = Line::input(now, &input, &mut pen.redactor);
            if !pen.write(&line) {
                self.pen = None;
            }
        }
        self.machine.handle_input(now, input);
    }

    /// See [`RunnerMachine::poll_output`].
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.machine.poll_output()?;
        if let Some(pen) = &mut self.pen {
            let line = Line::output(&output, &mut pen.redactor);
            if !pen.write(&line) {
                self.pen = None;
            }
        }
        Some(output)
    }

    /// See [`RunnerMachine::poll_timeout`].
    pub fn poll_timeout(&self) -> Option<(Time, Reason)> {
        self.machine.poll_timeout()
    }

    /// See [`RunnerMachine::script_status`].
    pub fn script_status(&self, job: JobId) -> Option<ScriptStatus> {
        self.machine.script_status(job)
    }

    /// See [`RunnerMachine::stats`].
    pub fn stats(&self) -> Stats {
        self.machine.stats()
    }
}

impl Pen {
    /// False when this was the last line.
    fn write(&mut self, line: &Line) -> bool {
        let Ok(line) = serde_json::to_vec(line) else {
            return false;
        };
        let mut line = String::from_utf8_lossy(&self.redactor.json(&line)).into_owned();
        if self.redactor.is_full() {
            return false;
        }
        line.push('\n');
        let sink = &mut self.sink;
        panic::catch_unwind(AssertUnwindSafe(|| sink(&line))).is_ok()
    }
}

impl fmt::Debug for RecordedMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedMachine")
            .field("machine", &self.machine)
            .field("recorded", &self.pen.is_some())
            .finish()
    }
}

/// What a machine was told, and what it said to that.
#[derive(Clone, Debug)]
pub struct Transcript {
    config: MachineConfig,
    seed: u64,
    entries: Vec<Entry>,
}

/// One line of a transcript behind the first.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Entry {
    /// The machine was told this.
    Input {
        /// When.
        at: Time,
        /// What.
        input: Input,
    },
    /// This was taken from the machine. The words are this crate's, and no format.
    Output(String),
}

impl Transcript {
    /// A transcript of nothing yet.
    pub fn new(config: MachineConfig, seed: u64) -> Self {
        Self {
            config,
            seed,
            entries: Vec::new(),
        }
    }

    /// Adds an entry at the end.
    pub fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Reads a transcript: the first one of `text`, if several follow each other. Blank lines are
    /// skipped; a last line that was cut off is an error.
    ///
    /// # Errors
    /// With the line: what stands there is not what a transcript has.
    pub fn parse(text: &[u8]) -> Result<Self, TranscriptError> {
        let mut lines = text
            .split(|byte| *byte == b'\n')
            .enumerate()
            .map(|(number, line)| (number + 1, line.trim_ascii()))
            .filter(|(_, line)| !line.is_empty());
        let (number, first) = lines
            .next()
            .ok_or_else(|| TranscriptError::new(1, "there is no transcript"))?;
        let Line::Transcript(header) = line::parse(number, first)? else {
            let what = "a transcript begins with its header";
            return Err(TranscriptError::new(number, what));
        };
        let (config, seed) = header.open(number)?;
        let mut transcript = Self::new(config, seed);
        for (number, line) in lines {
            if number > MAX_LINES {
                return Err(TranscriptError::new(number, "there are too many lines"));
            }
            match line::parse(number, line)? {
                Line::Transcript(_) => break,
                Line::Input(input) => {
                    let (at, input) = input.open(number)?;
                    transcript.push(Entry::Input { at, input });
                }
                Line::Output(output) => transcript.push(Entry::Output(output)),
            }
        }
        Ok(transcript)
    }

    /// The configuration of the machine.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// The seed of the machine.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What happened, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Tells a new machine the same inputs at the same times, and gives it back.
    ///
    /// # Errors
    /// Where it says something else than was recorded. A transcript without a single output is not
    /// compared, and what is said to its last inputs is not, where no output stands behind them.
    pub fn replay(&self) -> Result<RunnerMachine, Divergence> {
        let mut machine = RunnerMachine::new(self.config.clone(), self.seed);
        let mut inputs = 0;
        let is_compared = self.has_outputs();
        for (at, entry) in self.entries.iter().enumerate() {
            match entry {
                Entry::Input { at, input } => {
                    inputs += 1;
                    machine.handle_input(*at, input.clone());
                    while !is_compared && machine.poll_output().is_some() {}
                }
                Entry::Output(recorded) => {
                    let replayed = machine.poll_output().map(|output| render::output(&output));
                    if replayed.as_ref() != Some(recorded) {
                        return Err(Divergence {
                            entry: at,
                            inputs,
                            recorded: Some(recorded.clone()),
                            replayed,
                        });
                    }
                }
            }
        }
        if let Some(Entry::Output(_)) = self.entries.last()
            && let Some(more) = machine.poll_output()
        {
            return Err(Divergence {
                entry: self.entries.len(),
                inputs,
                recorded: None,
                replayed: Some(render::output(&more)),
            });
        }
        Ok(machine)
    }

    /// The same inputs with what a new machine says to each of them.
    #[must_use]
    pub fn rerecorded(&self) -> Self {
        let mut again = Self::new(self.config.clone(), self.seed);
        let mut machine = RunnerMachine::new(self.config.clone(), self.seed);
        for entry in &self.entries {
            let Entry::Input { at, input } = entry else {
                continue;
            };
            machine.handle_input(*at, input.clone());
            again.push(entry.clone());
            while let Some(output) = machine.poll_output() {
                again.push(Entry::Output(render::output(&output)));
            }
        }
        again
    }

    fn has_outputs(&self) -> bool {
        self.entries
            .iter()
            .any(|entry| matches!(entry, Entry::Output(_)))
    }

    /// The JSON lines, with secrets as they are in this transcript or without them.
    pub fn to_lines(&self, secrets: Secrets) -> String {
        let mut text = String::new();
        let mut redactor = secrets.redactor();
        let header = Line::header(&self.config, self.seed);
        let lines = std::iter::once(header).chain(self.entries.iter().map(Line::of));
        for line in lines {
            let line = line.redacted(&mut redactor);
            // A machine's inputs have no value that JSON lacks.
            let line = serde_json::to_vec(&line).unwrap_or_default();
            text.push_str(&String::from_utf8_lossy(&redactor.json(&line)));
            text.push('\n');
        }
        text
    }
}

/// Where a replay says something else than was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Divergence {
    /// Which entry of the transcript, from 0.
    pub entry: usize,
    /// How many inputs the machine was told until then.
    pub inputs: usize,
    /// What was recorded; `None` if nothing more was.
    pub recorded: Option<String>,
    /// What was said; `None` if nothing was.
    pub replayed: Option<String>,
}

/// Both outputs one below the other, and a mark where they part.
impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recorded = self.recorded.as_deref().unwrap_or("(nothing)");
        let replayed = self.replayed.as_deref().unwrap_or("(nothing)");
        let same = recorded
            .chars()
            .zip(replayed.chars())
            .take_while(|(one, other)| one == other)
            .count();
        let (entry, inputs) = (self.entry, self.inputs);
        writeln!(f, "entry {entry}, after {inputs} inputs, is another one:")?;
        writeln!(f, "  recorded: {recorded}")?;
        writeln!(f, "  replayed: {replayed}")?;
        write!(f, "            {:same$}^ here", "")
    }
}

impl Error for Divergence {}

/// Why a text is no transcript. It repeats nothing of the text, which may hold a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranscriptError {
    line: usize,
    what: String,
}

impl TranscriptError {
    fn new(line: usize, what: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
        }
    }

    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }
}

impl fmt::Display for TranscriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl Error for TranscriptError {}

#[cfg(test)]
mod tests;
