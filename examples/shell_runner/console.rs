//! Shows logs of several jobs on one screen, line by line.

use std::io::{self, IsTerminal, Write};

use gitlab_runner::mock::{JobReport, JobStatus};

/// Lines of one log that are shown; of the rest only the numbers.
const SHOWN_LINES: usize = 30;

/// What was shown of one job so far.
pub(crate) struct View {
    prefix: String,
    status: Option<JobStatus>,
    /// Bytes of the log, up to the last whole line.
    seen: usize,
    lines: usize,
    hidden: Hidden,
    colours: bool,
}

#[derive(Default)]
struct Hidden {
    lines: usize,
    bytes: usize,
}

impl View {
    pub(crate) fn new(name: &str, width: usize) -> Self {
        Self {
            prefix: format!("{name:>width$} | "),
            status: None,
            seen: 0,
            lines: 0,
            hidden: Hidden::default(),
            colours: io::stdout().is_terminal(),
        }
    }

    /// Appends to `screen` what is new in the report.
    pub(crate) fn update(&mut self, report: &JobReport, screen: &mut String) {
        let new = report.log.get(self.seen..).unwrap_or_default();
        // A last line without its end is shown when the job is over.
        let end = match report.is_finished() {
            true => new.len(),
            false => new
                .iter()
                .rposition(|&byte| byte == b'\n')
                .map_or(0, |last| last + 1),
        };
        self.seen += end;
        for line in String::from_utf8_lossy(&new[..end]).lines() {
            self.lines += 1;
            if self.lines <= SHOWN_LINES {
                self.line(line, screen);
            } else {
                self.hidden.lines += 1;
                self.hidden.bytes += line.len() + 1;
            }
        }
        if self.hidden.lines > 0 {
            let Hidden { lines, bytes } = std::mem::take(&mut self.hidden);
            let s = if lines == 1 { "" } else { "s" };
            self.line(
                &format!("({lines} more line{s} came, {bytes} bytes)"),
                screen,
            );
        }
        if self.status != Some(report.status) {
            self.status = Some(report.status);
            self.line(&format!("--- {} ---", report.status), screen);
        }
    }

    fn line(&self, line: &str, screen: &mut String) {
        screen.push_str(&self.prefix);
        let line = &without_markers(line);
        match self.colours {
            true => screen.push_str(line),
            false => screen.extend(without_escapes(line)),
        }
        screen.push('\n');
    }
}

/// Prints to stdout; that nobody reads it is no reason to stop.
pub(crate) fn print(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

/// The line without the markers of sections, which GitLab's viewer does not show either.
fn without_markers(line: &str) -> String {
    const END: &str = "\r\u{1b}[0K";
    line.split_inclusive(END)
        .filter_map(|part| match part.find("section_") {
            Some(at) if part.ends_with(END) => part.get(..at),
            _ => Some(part),
        })
        .collect()
}

/// The text without colours and the like (`ESC [ ... letter`).
fn without_escapes(line: &str) -> impl Iterator<Item = char> {
    let mut inside = false;
    let mut before = ' ';
    line.chars().filter(move |&c| {
        let last = std::mem::replace(&mut before, c);
        match inside {
            _ if c == '\u{1b}' => inside = true,
            true if c == '[' && last == '\u{1b}' => {}
            true if ('@'..='~').contains(&c) => {
                inside = false;
                return false;
            }
            _ => {}
        }
        !inside
    })
}
