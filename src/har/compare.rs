//! Whether a request is the recorded one, and if not, where they part.

use std::{collections::BTreeSet, error::Error, fmt};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{HarBody, exchange::Asked};
use crate::redact::Redactor;

/// How wide each column is, in characters.
const COLUMN: usize = 58;
/// So many lines of each request are shown.
const MAX_LINES: usize = 80;
/// Of a body, at most so many bytes.
const MAX_SHOWN: usize = 16 << 10;
/// And of those so many from before the place where two bodies part.
const SHOWN_BEFORE: usize = 1 << 10;

/// A request that is not the recorded one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mismatch {
    /// The recorded request that is nearest: its place in the archive, from 0.
    pub entry: Option<usize>,
    /// Where the two part, in words.
    pub at: String,
    /// The recorded request, line by line, without secrets; empty if there is none.
    pub expected: Vec<String>,
    /// The request that came, line by line, without secrets.
    pub actual: Vec<String>,
}

/// Both requests side by side, with a mark before each line that is another one.
impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry {
            Some(entry) => writeln!(f, "not the request of entry {entry}: {}", self.at)?,
            None => writeln!(f, "no recorded request is like this one: {}", self.at)?,
        }
        writeln!(f, "  {:COLUMN$} | actual", "expected")?;
        for line in 0..self.expected.len().max(self.actual.len()) {
            let line_of = |lines: &[String]| lines.get(line).cloned().unwrap_or_default();
            let (expected, actual) = (line_of(&self.expected), line_of(&self.actual));
            let mark = if expected == actual { ' ' } else { '>' };
            let (expected, actual) = window(&expected, &actual);
            writeln!(f, "{mark} {expected:COLUMN$} | {actual}")?;
        }
        Ok(())
    }
}

impl Error for Mismatch {}

/// What fits of two lines: from shortly before the place where they part.
fn window(one: &str, other: &str) -> (String, String) {
    let same = one
        .chars()
        .zip(other.chars())
        .take_while(|(a, b)| a == b)
        .count();
    let longest = one.chars().count().max(other.chars().count());
    let start = if longest <= COLUMN {
        0
    } else {
        same.saturating_sub(COLUMN / 3)
    };
    let cut = |text: &str| {
        let mut shown: String = text.chars().skip(start).take(COLUMN).collect();
        if start > 0 && !shown.is_empty() {
            shown = format!("…{}", shown.chars().skip(1).collect::<String>());
        }
        if text.chars().count() > start + COLUMN {
            shown.pop();
            shown.push('…');
        }
        shown
    };
    (cut(one), cut(other))
}

/// `actual` against the recorded one at `entry`.
pub(super) fn mismatch(
    entry: Option<usize>,
    at: String,
    expected: Option<&Asked>,
    actual: &Asked,
) -> Mismatch {
    let mut redactor = Redactor::new();
    for asked in expected.into_iter().chain([actual]) {
        redactor.learn_url(&asked.uri.to_string());
        if asked.bytes().starts_with(b"{") {
            redactor.learn_json(asked.bytes());
        }
        for (name, value) in &asked.headers {
            redactor.header(name, value);
        }
    }
    let bodies = [expected.map_or(&[][..], shown_body), shown_body(actual)];
    let bodies = bodies.map(|body| redactor.bytes(body).into_owned());
    let start = match bodies.iter().any(|body| body.len() > MAX_SHOWN) {
        true => common(&bodies[0], &bodies[1]).saturating_sub(SHOWN_BEFORE),
        false => 0,
    };
    let mut lines = |asked: &Asked, body: &[u8]| -> Vec<String> {
        let lines = lines(asked, start, body.get(start..).unwrap_or_default());
        let lines = lines.into_iter().take(MAX_LINES);
        lines
            .map(|line| redactor.text(&line).into_owned())
            .collect()
    };
    let actual = lines(actual, &bodies[1]);
    let expected = expected.map_or_else(Vec::new, |expected| lines(expected, &bodies[0]));
    Mismatch {
        entry,
        at: redactor.text(&at).into_owned(),
        expected,
        actual,
    }
}

/// What can be read: of a form, what stands before the file.
fn shown_body(asked: &Asked) -> &[u8] {
    let bytes = asked.bytes();
    match boundary(asked) {
        Some(_) => &bytes[..bytes.len().min(SHOWN_BEFORE)],
        None => bytes,
    }
}

/// How much two bodies have in common at their beginning.
fn common(one: &[u8], other: &[u8]) -> usize {
    let both = one.iter().zip(other);
    both.take_while(|(one, other)| one == other).count()
}

fn lines(asked: &Asked, start: usize, body: &[u8]) -> Vec<String> {
    let mut lines = vec![format!("{} {}", asked.method, path_and_query(asked))];
    let headers = asked.headers.iter();
    lines.extend(headers.map(|(name, value)| format!("{name}: {value}")));
    lines.push(String::new());
    if start > 0 {
        lines.push(format!("(from byte {start} on)"));
    }
    match &asked.body {
        None => lines.push("(the archive does not have the body)".to_owned()),
        Some(HarBody::Hash { len, sha256, .. }) => {
            let len = len.map_or("?".to_owned(), |len| len.to_string());
            lines.extend(text_lines(body));
            lines.push(format!("({len} bytes in all, SHA-256 {sha256})"));
        }
        Some(HarBody::Whole(_) | HarBody::Lossy(_)) => lines.extend(text_lines(body)),
    }
    lines
}

/// A field a line, if it is JSON.
fn text_lines(body: &[u8]) -> Vec<String> {
    let body = &body[..body.len().min(MAX_SHOWN)];
    let pretty = serde_json::from_slice::<Value>(body)
        .ok()
        .filter(|value| value.is_object())
        .and_then(|value| serde_json::to_string_pretty(&value).ok());
    let text = pretty.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.lines().map(without_controls).collect()
}

/// What would steer a terminal is shown as what it is.
fn without_controls(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        match c {
            c if c.is_control() => shown.extend(c.escape_debug()),
            c => shown.push(c),
        }
    }
    shown
}

fn path_and_query(asked: &Asked) -> &str {
    asked.uri.path_and_query().map_or("/", |path| path.as_str())
}

/// Where they part, if they do. `actual` has the recorded tokens in the place of its own.
pub(super) fn difference(expected: &Asked, actual: &Asked) -> Option<String> {
    if expected.method != actual.method {
        return Some(format!("the method is {}", actual.method));
    }
    let (path, query) = (expected.uri.path(), expected.uri.query());
    if path != actual.uri.path() {
        return Some(format!("the path is {}", actual.uri.path()));
    }
    if query != actual.uri.query() {
        return Some(format!(
            "the query is {}",
            actual.uri.query().unwrap_or("none")
        ));
    }
    let boundaries = [expected, actual].map(boundary);
    let names = |asked: &Asked| -> BTreeSet<String> {
        asked.headers.iter().map(|(name, _)| name.clone()).collect()
    };
    for name in names(expected).union(&names(actual)) {
        let values = |asked: &Asked, boundary: &Option<String>| -> Vec<String> {
            let values = asked.headers.iter().filter(|(it, _)| it == name);
            values
                .map(|(_, value)| neutral(value, boundary.as_deref()))
                .collect()
        };
        let (recorded, sent) = (
            values(expected, &boundaries[0]),
            values(actual, &boundaries[1]),
        );
        if recorded != sent {
            return Some(match (recorded.is_empty(), sent.is_empty()) {
                (true, _) => format!("the header {name} is not recorded"),
                (_, true) => format!("the header {name} is missing"),
                _ => format!("the header {name} has another value"),
            });
        }
    }
    body_difference(expected, actual, &boundaries)
}

/// What parts the pieces of a form.
fn boundary(asked: &Asked) -> Option<String> {
    let (_, boundary) = asked.header("content-type")?.split_once("boundary=")?;
    let boundary = boundary.split(';').next()?.trim().trim_matches('"');
    (!boundary.is_empty()).then(|| boundary.to_owned())
}

/// The same text whatever the boundary is: that is a random number.
fn neutral(text: &str, boundary: Option<&str>) -> String {
    match boundary {
        Some(boundary) => text.replace(boundary, "(boundary)"),
        None => text.to_owned(),
    }
}

fn body_difference(
    expected: &Asked,
    actual: &Asked,
    boundaries: &[Option<String>; 2],
) -> Option<String> {
    let sent = actual.bytes();
    let Some(recorded) = &expected.body else {
        return None;
    };
    let at = |recorded: &[u8], sent: &[u8]| {
        let same = common(recorded, sent);
        let (recorded, sent) = (recorded.len(), sent.len());
        (recorded != sent || same < sent).then(|| {
            format!(
                "the body is another one from byte {same} ({recorded} bytes recorded, {sent} sent)"
            )
        })
    };
    let is_form = boundaries.iter().all(Option::is_some);
    let is_same_boundary = boundaries[0] == boundaries[1];
    if is_form {
        let heads = [(expected.bytes(), &boundaries[0]), (sent, &boundaries[1])]
            .map(|(form, boundary)| neutral(&form_head(form), boundary.as_deref()));
        if let Some(difference) = at(heads[0].as_bytes(), heads[1].as_bytes()) {
            return Some(format!("before the file, {difference}"));
        }
    }
    match recorded {
        // What was no character has another length there, so the text says nothing of the file.
        HarBody::Whole(bytes) if is_form && is_same_boundary && is_complete(bytes, expected) => {
            at(bytes, sent)
        }
        HarBody::Whole(_) | HarBody::Lossy(_) if is_form => {
            let len = expected.size.filter(|len| *len != sent.len() as u64)?;
            Some(format!(
                "the form has {} bytes, {len} are recorded",
                sent.len()
            ))
        }
        HarBody::Whole(bytes) => at(bytes, sent),
        HarBody::Lossy(text) => at(text.as_bytes(), String::from_utf8_lossy(sent).as_bytes()),
        HarBody::Hash { len, sha256, .. } => {
            let len = len.filter(|len| *len != sent.len() as u64);
            let is_comparable = !sha256.is_empty() && is_same_boundary;
            match len {
                Some(len) => Some(format!(
                    "the body has {} bytes, {len} are recorded",
                    sent.len()
                )),
                None if is_comparable && *sha256 != hex(sent) => {
                    Some("the body has another SHA-256".to_owned())
                }
                None => None,
            }
        }
    }
}

/// Whether that is all of the recorded body.
fn is_complete(bytes: &[u8], expected: &Asked) -> bool {
    expected.size.is_none_or(|size| size == bytes.len() as u64)
}

/// What stands before the file in a form.
fn form_head(form: &[u8]) -> String {
    let text = String::from_utf8_lossy(form);
    let end = text.find("filename=").and_then(|name| {
        let end = text[name..].find("\r\n\r\n")?;
        Some(name + end + 4)
    });
    text[..end.unwrap_or(text.len())].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
