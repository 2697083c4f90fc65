//! Parts of a log that GitLab's viewer can fold.

use std::sync::Arc;

use super::log::JobLog;
use crate::trace::TraceStream;

/// A section that has not begun; see [`Job::section`](crate::job::Job::section).
#[derive(Debug)]
#[must_use = "a section begins with `start`"]
pub struct SectionBuilder {
    log: Arc<JobLog>,
    /// Whether GitLab understands the markers; it says so with the job.
    understood: bool,
    name: String,
    title: Option<String>,
    options: Vec<&'static str>,
}

/// A section of a job's log, which ends when this is dropped.
#[derive(Debug)]
#[must_use = "a section ends when it is dropped"]
pub struct Section {
    log: Arc<JobLog>,
    understood: bool,
    name: String,
}

impl SectionBuilder {
    pub(super) fn new(log: Arc<JobLog>, understood: bool, name: &str) -> Self {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let clean = |c: char| if allowed(c) { c } else { '_' };
        let name: String = name.chars().map(clean).collect();
        Self {
            log,
            understood,
            name: if name.is_empty() {
                "_".to_owned()
            } else {
                name
            },
            title: None,
            options: Vec::new(),
        }
    }

    /// The line that stays visible when the section is folded.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = Some(title.into());
        self
    }

    /// Shows the section folded at first.
    pub fn collapsed(self) -> Self {
        self.option("collapsed=true")
    }

    /// Does not show how long it took.
    pub fn hide_duration(self) -> Self {
        self.option("hide_duration=true")
    }

    fn option(mut self, option: &'static str) -> Self {
        if !self.options.contains(&option) {
            self.options.push(option);
        }
        self
    }

    /// Begins it. A server that does not understand sections gets the title alone.
    pub fn start(self) -> Section {
        let Self {
            log,
            understood,
            name,
            title,
            options,
        } = self;
        if understood {
            let options = match options.as_slice() {
                [] => String::new(),
                some => format!("[{}]", some.join(",")),
            };
            marker(&log, "section_start", &format!("{name}{options}"));
        }
        if let Some(title) = title {
            let line = format!("\x1b[0K\x1b[36;1m{title}\x1b[0;m\x1b[0;m\n");
            log.write(TraceStream::Stdout, line.as_bytes());
        }
        Section {
            log,
            understood,
            name,
        }
    }
}

impl Section {
    /// Ends it. The same as to drop it.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        if self.understood {
            marker(&self.log, "section_end", &self.name);
        }
    }
}

/// In one write, so that it has a line of its own where there are timestamps.
fn marker(log: &JobLog, what: &str, name: &str) {
    let seconds = log.now().0.as_secs();
    let marker = format!("{what}:{seconds}:{name}\r\x1b[0K");
    log.write(TraceStream::Stdout, marker.as_bytes());
}
