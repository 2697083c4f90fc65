//! What is left of a job payload that cannot be read.

use std::{error::Error, fmt};

use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, error::Category};

use super::lenient::Lenient;
use crate::{ids::JobId, secret::Secret};

/// A job payload that cannot be understood, and what could be read all the same.
///
/// With `id` and `token` the job can still be reported as failed. The message names the place and
/// what was expected there; it never repeats the content, which may be secret. For that reason there
/// is no source either.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PayloadError {
    /// The number of the job, if it could be read.
    pub id: Option<JobId>,
    /// The job token, if it could be read.
    pub token: Option<Secret>,
    place: String,
    problem: String,
}

impl PayloadError {
    /// Where the payload stops making sense: the path of names and indices, such as
    /// `variables[3].value`, or `the body` for the payload as a whole.
    pub fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn unreadable(body: &[u8], error: &serde_json::Error) -> Self {
        let problem = match error.classify() {
            Category::Eof => "it ends too early".to_owned(),
            Category::Data => match expectation(&error.to_string()) {
                Some(expectation) => format!("expected {expectation}"),
                None => "it is not what was expected".to_owned(),
            },
            Category::Syntax | Category::Io => "it is not JSON that can be read".to_owned(),
        };
        let (line, column) = (error.line(), error.column());
        let problem = format!("{problem}, line {line} column {column}");
        Self::at(body, path(before(body, line, column)), problem)
    }

    pub(super) fn at(body: &[u8], place: String, problem: String) -> Self {
        let Salvage { id, token } = Salvage::from(body);
        Self {
            id,
            token,
            place,
            problem,
        }
    }
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, problem, .. } = self;
        write!(f, "cannot read the job payload at {place} ({problem})")
    }
}

impl Error for PayloadError {}

/// A job number that GitLab may have given out.
pub(super) fn good_id(id: JobId) -> Option<JobId> {
    (id.0 != 0).then_some(id)
}

/// A token that can be sent in a header.
pub(super) fn good_token(token: Secret) -> Option<Secret> {
    let text = token.expose();
    let is_good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_good.then_some(token)
}

/// What the crate's own visitors expect, cut from between what serde found and where: the last
/// `expected` of a message is ours, since none of our words contains one.
fn expectation(message: &str) -> Option<&str> {
    const EXPECTED: &str = ", expected ";
    let start = message.rfind(EXPECTED)? + EXPECTED.len();
    let rest = message.get(start..)?;
    Some(rest.rfind(" at line ").map_or(rest, |end| &rest[..end]))
}

#[derive(Default)]
struct Salvage {
    id: Option<JobId>,
    token: Option<Secret>,
}

/// Reads on where only syntax matters, up to where even that fails.
impl From<&[u8]> for Salvage {
    fn from(body: &[u8]) -> Self {
        let mut salvage = Self::default();
        let body = String::from_utf8_lossy(body);
        // A number that the end has cut would be another number.
        let body = body.trim_end_matches(|c: char| c.is_ascii_digit() || "+-.eE".contains(c));
        // Whatever the end is like, what was found before it is good.
        let _ = serde_json::Deserializer::from_str(body).deserialize_map(&mut salvage);
        salvage
    }
}

impl<'de> Visitor<'de> for &mut Salvage {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "id" => {
                    let id = JobId::read(map.next_value::<Value>()?);
                    self.id = id.ok().flatten().and_then(good_id).or(self.id);
                }
                "token" => {
                    let token = Secret::read(map.next_value::<Value>()?);
                    let token = token.ok().flatten().and_then(good_token);
                    self.token = token.or_else(|| self.token.take());
                }
                _ => {
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// The body up to a place that serde_json names: lines count from 1, columns are bytes.
fn before(body: &[u8], line: usize, column: usize) -> &[u8] {
    let mut start = 0;
    for _ in 1..line {
        match body[start..].iter().position(|byte| *byte == b'\n') {
            Some(end) => start += end + 1,
            None => return body,
        }
    }
    &body[..start.saturating_add(column).min(body.len())]
}

/// The most names in a path: enough to find the place, too few to reach into free-form content.
const MAX_NAMES: usize = 3;
/// The most names and indices together.
const MAX_LEVELS: usize = 6;

enum Level {
    /// The name of the value being read, once it is known.
    Object(Option<String>),
    List(usize),
}

/// The path to the end of `json`, which is the beginning of something that is JSON up to there.
fn path(json: &[u8]) -> String {
    let mut levels = Vec::new();
    let mut text: Option<Vec<u8>> = None;
    let mut last_text = Vec::new();
    let mut bytes = json.iter().copied();
    while let Some(byte) = bytes.next() {
        if let Some(open) = &mut text {
            match byte {
                b'"' => last_text = text.take().unwrap_or_default(),
                b'\\' => open.extend(bytes.next()),
                _ => open.push(byte),
            }
            continue;
        }
        match byte {
            b'"' => text = Some(Vec::new()),
            b'{' => levels.push(Level::Object(None)),
            b'[' => levels.push(Level::List(0)),
            b'}' | b']' => {
                levels.pop();
            }
            b':' => {
                // A second colon makes no name of the value before it.
                if let Some(Level::Object(name @ None)) = levels.last_mut() {
                    *name = Some(shown(&last_text));
                }
            }
            b',' => match levels.last_mut() {
                Some(Level::Object(name)) => *name = None,
                Some(Level::List(index)) => *index += 1,
                None => {}
            },
            _ => {}
        }
    }
    let mut path = String::new();
    let mut names = 0;
    for level in levels.into_iter().take(MAX_LEVELS) {
        match level {
            Level::Object(Some(name)) if names < MAX_NAMES => {
                names += 1;
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&name);
            }
            Level::List(index) if !path.is_empty() => path.push_str(&format!("[{index}]")),
            _ => break,
        }
    }
    if path.is_empty() {
        path.push_str("the body");
    }
    path
}

/// GitLab's names are short and in lower case; any other key is content.
fn shown(name: &[u8]) -> String {
    let is_name = (1..=48).contains(&name.len())
        && name
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || *byte == b'_');
    match std::str::from_utf8(name) {
        Ok(name) if is_name => name.to_owned(),
        _ => "?".to_owned(),
    }
}
