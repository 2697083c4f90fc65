//! Finds the strings of a JSON text, and which of them are secret by their place.
//!
//! It reads no further than it needs, so that a text that is cut, or is no JSON at all, is treated
//! like a good one as far as it goes; and what is rewritten keeps every other byte.

use std::ops::Range;

use super::places::is_secret_key;
use crate::protocol::TOKEN_VARIABLES;

/// A string of the text, or a number within a value: where it stands with its quotes, and what it says.
pub(super) struct Literal {
    pub(super) range: Range<usize>,
    pub(super) text: String,
    /// What its place says of it.
    pub(super) nature: Nature,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// A key, or a value like any other.
    Plain,
    /// The value of a variable that is not for everybody.
    Private,
    /// A token, a password, the value of a masked variable, the content of a file.
    Secret,
}

/// An object or array that is not closed yet.
#[derive(Default)]
struct Frame {
    is_object: bool,
    /// The latest key.
    key: Option<String>,
    /// Whether it stands within the value of what may be a variable.
    is_in_value: bool,
    /// Of what may be a variable: its name, its value (which of the literals), and its marks.
    name: Option<String>,
    value: Option<Range<usize>>,
    is_secret: bool,
    is_private: bool,
}

impl Frame {
    fn is_at_value(&self) -> bool {
        matches!(self.key.as_deref(), Some("value" | "content"))
    }

    /// What stood behind the latest key is over.
    fn end_value(&mut self, literals: usize) {
        if self.is_at_value()
            && let Some(value) = &mut self.value
        {
            value.end = literals;
        }
        self.key = None;
    }

    fn close(mut self, literals: &mut [Literal]) {
        self.end_value(literals.len());
        let value = self.value.and_then(|value| literals.get_mut(value));
        let Some(value) = value else {
            return;
        };
        let name = self.name.unwrap_or_default();
        let holds_token = TOKEN_VARIABLES.contains(&name.as_str());
        let nature = match (self.is_secret || holds_token, self.is_private) {
            (true, _) => Nature::Secret,
            // A URL with a password in it, which is known by itself.
            (false, true) if name != "CI_REPOSITORY_URL" => Nature::Private,
            _ => return,
        };
        for literal in value {
            if literal.nature != Nature::Secret {
                literal.nature = nature;
            }
        }
    }
}

/// All strings of `text` in order but keys.
pub(super) fn literals(text: &[u8]) -> Vec<Literal> {
    let mut literals = Vec::new();
    let mut frames: Vec<Frame> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                let end = end_of_string(text, at);
                string(text, at..end, &mut frames, &mut literals);
                at = end;
                continue;
            }
            b'{' | b'[' => frames.push(Frame {
                is_object: byte == b'{',
                is_in_value: is_in_value(&frames),
                ..Frame::default()
            }),
            b'}' | b']' => {
                if let Some(frame) = frames.pop() {
                    frame.close(&mut literals);
                }
            }
            b',' => {
                if let Some(frame) = frames.last_mut() {
                    frame.end_value(literals.len());
                }
            }
            b'-' | b'0'..=b'9' if is_in_value(&frames) => {
                let is_over = |c: &u8| !c.is_ascii_alphanumeric() && !b"+-.".contains(c);
                let len = text[at..].iter().position(is_over);
                let end = len.map_or(text.len(), |len| at + len);
                literals.push(Literal {
                    range: at..end,
                    text: String::from_utf8_lossy(&text[at..end]).into_owned(),
                    nature: Nature::Plain,
                });
                at = end;
                continue;
            }
            b't' if text[at..].starts_with(b"true") => mark(&mut frames, true),
            b'f' if text[at..].starts_with(b"false") => mark(&mut frames, false),
            _ => {}
        }
        at += 1;
    }
    // The marks of what is cut may be missing.
    while let Some(mut frame) = frames.pop() {
        frame.is_secret |= frame.value.is_some();
        frame.close(&mut literals);
    }
    literals
}

fn is_in_value(frames: &[Frame]) -> bool {
    let frame = frames.last();
    frame.is_some_and(|frame| frame.is_in_value || frame.is_at_value())
}

/// Behind the closing quote, or the end of the text.
fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn string(text: &[u8], range: Range<usize>, frames: &mut [Frame], literals: &mut Vec<Literal>) {
    let raw = &text[range.clone()];
    let said: String = serde_json::from_slice(raw).unwrap_or_else(|_| {
        // Cut short, or not UTF-8: as it stands.
        let inner = raw.strip_prefix(b"\"").unwrap_or(raw);
        let inner = inner.strip_suffix(b"\"").unwrap_or(inner);
        String::from_utf8_lossy(inner).into_owned()
    });
    let behind = text[range.end..].iter().find(|c| !c.is_ascii_whitespace());
    let mut nature = Nature::Plain;
    if let Some(frame) = frames.last_mut().filter(|frame| frame.is_object) {
        if frame.key.is_none() && (behind == Some(&b':') || behind.is_none()) {
            frame.key = Some(said);
            if frame.is_at_value() {
                frame.value = Some(literals.len()..literals.len());
            }
            return;
        }
        match frame.key.as_deref() {
            Some("key" | "name") => frame.name = Some(said.clone()),
            // A reference to a variable is none, and shows in what it stands for.
            Some(key) if is_secret_key(key) && !is_reference(key, &said) => {
                nature = Nature::Secret;
            }
            _ => {}
        }
    }
    literals.push(Literal {
        range,
        text: said,
        nature,
    });
}

/// `$NAME` and `${NAME}`. GitLab sends tokens and passwords themselves, whatever they begin with.
fn is_reference(key: &str, value: &str) -> bool {
    let Some(name) = value.strip_prefix('$') else {
        return false;
    };
    let braced = name
        .strip_prefix('{')
        .and_then(|name| name.strip_suffix('}'));
    let name = braced.unwrap_or(name);
    let is_name = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    is_name && !matches!(key, "token" | "password")
}

/// A `true` or `false` behind the latest key.
fn mark(frames: &mut [Frame], value: bool) {
    let Some(frame) = frames.last_mut() else {
        return;
    };
    match (frame.key.as_deref(), value) {
        (Some("masked" | "file" | "sensitive"), true) => frame.is_secret = true,
        (Some("public"), false) => frame.is_private = true,
        _ => {}
    }
}
