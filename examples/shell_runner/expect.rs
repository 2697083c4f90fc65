//! What GitLab must have in the end, put together without the crate's own masker, log or checksum.

use std::{
    fmt::Write,
    io::{Cursor, Read},
};

use flate2::read::MultiGzDecoder;
use gitlab_runner::{
    JobId,
    mock::{ArtifactReport, JobReport, JobStatus},
};

/// What must be stored of one job.
pub(crate) struct Expected {
    pub(crate) status: JobStatus,
    pub(crate) exit_code: Option<i64>,
    pub(crate) failure_reason: Option<&'static str>,
    /// In the order in which they come.
    pub(crate) artifacts: Vec<Artifact>,
    /// The log, which may depend on how often a line that starts with `tick ` has come.
    pub(crate) log: Box<dyn Fn(usize) -> Log>,
}

impl Expected {
    pub(crate) fn success(log: Log) -> Self {
        Self {
            status: JobStatus::Success,
            exit_code: None,
            failure_reason: None,
            artifacts: Vec::new(),
            log: Box::new(move |_| log.clone()),
        }
    }

    /// The same with the number of a job where its name stands in parentheses.
    pub(crate) fn numbered(self, name: &'static str, job: JobId) -> Self {
        let log = self.log;
        let number = move |ticks| log(ticks).mask(&format!("({name})"), &format!("({job})"));
        Self {
            log: Box::new(number),
            ..self
        }
    }

    /// All differences between this and what GitLab has; none is what we hope for.
    pub(crate) fn differences(&self, report: &JobReport) -> Vec<String> {
        let ticks = report
            .log_text()
            .lines()
            .filter(|line| line.starts_with("tick "))
            .count();
        let log = (self.log)(ticks).0.into_bytes();
        let mut found = Vec::new();
        let mut compare = |what: &str, is: &dyn std::fmt::Debug, should: &dyn std::fmt::Debug| {
            let (is, should) = (format!("{is:?}"), format!("{should:?}"));
            if is != should {
                found.push(format!("{what} is {is}, should be {should}"));
            }
        };
        compare("state", &report.status, &self.status);
        compare("exit code", &report.exit_code, &self.exit_code);
        compare(
            "failure reason",
            &report.failure_reason.as_deref(),
            &self.failure_reason,
        );
        let checksum = format!("crc32:{:08x}", crc32(&report.log));
        compare(
            "checksum",
            &report.reported_checksum.as_deref(),
            &Some(checksum.as_str()),
        );
        compare("size", &report.reported_bytesize, &Some(report.log.len()));
        compare("number of final updates", &report.final_updates, &1);
        let artifacts: Vec<Artifact> = report.artifacts.iter().map(Artifact::read).collect();
        compare("list of artifacts", &artifacts, &self.artifacts);
        let stored = without_times(&report.log_text());
        if stored.as_bytes() != log {
            found.push(difference(stored.as_bytes(), &log));
        }
        found
    }
}

/// The log with 0 for the times in the markers of its sections.
fn without_times(log: &str) -> String {
    let mut text = String::new();
    let mut rest = log;
    while let Some(at) = rest.find("section_") {
        let (before, marker) = rest.split_at(at);
        text += before;
        let kind = ["section_start:", "section_end:"]
            .into_iter()
            .find(|kind| marker.starts_with(kind))
            .unwrap_or("section_");
        text += kind;
        rest = &marker[kind.len()..];
        if kind.ends_with(':') {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            text.push('0');
        }
    }
    text + rest
}

/// What must be stored of one artifact.
#[derive(Debug)]
#[expect(dead_code, reason = "they are compared as they are printed")]
pub(crate) struct Artifact {
    kind: String,
    file_name: String,
    /// The names in an archive, the text of a report.
    content: String,
}

impl Artifact {
    pub(crate) fn zip(file_name: &str, names: &[&str]) -> Self {
        Self::new("archive", file_name, &names.join(" "))
    }

    pub(crate) fn gzip(kind: &str, file_name: &str, text: &str) -> Self {
        Self::new(kind, file_name, text)
    }

    pub(crate) fn raw(kind: &str, file_name: &str, text: &str) -> Self {
        Self::new(kind, file_name, text)
    }

    fn new(kind: &str, file_name: &str, content: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            file_name: file_name.to_owned(),
            content: content.to_owned(),
        }
    }

    /// What GitLab has, read without the crate.
    fn read(report: &ArtifactReport) -> Self {
        let bytes = &report.content[..];
        let content = match report.artifact_format.as_str() {
            "zip" => zip_names(bytes).unwrap_or_else(|error| error.to_string()),
            "gzip" => {
                let mut text = String::new();
                match MultiGzDecoder::new(bytes).read_to_string(&mut text) {
                    Ok(_) => text,
                    Err(error) => error.to_string(),
                }
            }
            _ => String::from_utf8_lossy(bytes).into_owned(),
        };
        Self::new(&report.artifact_type, &report.filename, &content)
    }
}

fn zip_names(bytes: &[u8]) -> Result<String, zip::result::ZipError> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes))?;
    let names: Result<Vec<String>, _> = (0..archive.len())
        .map(|at| Ok::<_, zip::result::ZipError>(archive.by_index(at)?.name()?.into_owned()))
        .collect();
    Ok(names?.join(" "))
}

/// The text of a log.
#[derive(Clone, Default)]
pub(crate) struct Log(String);

impl Log {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The runner prints a command before it runs: in green.
    pub(crate) fn command(mut self, command: &str) -> Self {
        let mut lines = command.lines();
        let first = lines.next().unwrap_or_default();
        let more = if lines.next().is_some() {
            " # collapsed multi-line command"
        } else {
            ""
        };
        let _ = writeln!(self.0, "\u{1b}[32;1m$ {first}{more}\u{1b}[0;m");
        self
    }

    /// What the command prints.
    pub(crate) fn output(mut self, text: &str) -> Self {
        self.0.push_str(text);
        self
    }

    /// The beginning of a part that can be folded.
    pub(crate) fn section(mut self, name: &str, title: &str) -> Self {
        let _ = write!(self.0, "section_start:0:{name}\r\u{1b}[0K");
        let _ = writeln!(self.0, "\u{1b}[0K\u{1b}[36;1m{title}\u{1b}[0;m\u{1b}[0;m");
        self
    }

    /// Its end.
    pub(crate) fn end(mut self, name: &str) -> Self {
        let _ = write!(self.0, "section_end:0:{name}\r\u{1b}[0K");
        self
    }

    /// The beginning of the script.
    pub(crate) fn script(self) -> Self {
        let title = "Executing \"step_script\" stage of the job script";
        self.section("step_script", title)
    }

    pub(crate) fn end_of_script(self) -> Self {
        self.end("step_script")
    }

    pub(crate) fn after_script(self) -> Self {
        self.section("after_script", "Running after_script")
            .info("Running after script...")
    }

    pub(crate) fn end_of_after_script(self) -> Self {
        self.end("after_script")
    }

    /// A line of the runner that is nothing special.
    pub(crate) fn plain(self, text: &str) -> Self {
        self.output(&format!("\u{1b}[0K{text}\u{1b}[0;m\n"))
    }

    /// A line of the runner in green.
    pub(crate) fn info(self, text: &str) -> Self {
        self.output(&format!("\u{1b}[32;1m{text}\u{1b}[0;m\n"))
    }

    /// What the runner says of an artifact: what its patterns found, and that it was uploaded.
    pub(crate) fn uploaded(mut self, kind: &str, found: &[&str]) -> Self {
        self.0.push_str("Uploading artifacts...\n");
        for found in found {
            let what = match found.contains("excluded") {
                true => "files",
                false => "matching artifact files and directories",
            };
            let _ = writeln!(self.0, "{found} {what}");
        }
        let line = format!("Uploading artifacts as \"{kind}\" to coordinator... 201 Created\n");
        self.output(&line)
    }

    pub(crate) fn succeeded(self) -> Self {
        self.cleaned_up().info("Job succeeded")
    }

    pub(crate) fn failed(self, why: &str) -> Self {
        self.cleaned_up().error(why)
    }

    pub(crate) fn cleaned_up(self) -> Self {
        let title = "Cleaning up project directory and file based variables";
        self.section("cleanup_file_variables", title)
            .end("cleanup_file_variables")
    }

    pub(crate) fn error(self, why: &str) -> Self {
        self.output(&format!("\u{1b}[31;1mERROR: Job failed: {why}\u{1b}[0;m\n"))
    }

    /// Masks the plain way.
    pub(crate) fn mask(self, secret: &str, mask: &str) -> Self {
        Self(self.0.replace(secret, mask))
    }
}

/// CRC-32 as of IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes
        .iter()
        .fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

/// Where the two logs part.
fn difference(is: &[u8], should: &[u8]) -> String {
    let at = is
        .iter()
        .zip(should)
        .take_while(|(is, should)| is == should)
        .count();
    let from = |log: &[u8]| {
        let rest = &log[at.min(log.len())..];
        let text = String::from_utf8_lossy(&rest[..rest.len().min(60)]).into_owned();
        format!("{text:?} ({} bytes in all)", log.len())
    };
    format!(
        "log parts at byte {at}: is {}, should be {}",
        from(is),
        from(should)
    )
}
