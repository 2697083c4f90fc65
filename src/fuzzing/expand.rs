//! References to variables in texts, against a reference that knows no limits.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Result, Unstructured};
use serde_json::json;

use crate::protocol::JobPayload;

const FRAGMENTS: &[&str] = &[
    "$a", "${b}", "%c%", "$d", "${a", "}", "$", "$$", "%", "${", "$1", "$@", "$ ", "x", "a", "ü",
    "_", "${d.e}", "%x%", "\n",
];
const KEYS: &[&str] = &["a", "b", "c", "d", "d.e", "a"];
/// References that the reference follows before it gives up.
const FUEL: u32 = 2000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    Raw,
    File,
}

struct Case {
    variables: Vec<(&'static str, String, Kind)>,
    text: String,
}

/// `data` makes up variables and a text.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    let variables: Vec<_> = case
        .variables
        .iter()
        .map(|(key, value, kind)| {
            let (raw, file) = (*kind == Kind::Raw, *kind == Kind::File);
            json!({ "key": key, "value": value, "raw": raw, "file": file })
        })
        .collect();
    let payload = json!({ "id": 1, "token": "t", "variables": variables }).to_string();
    let payload = JobPayload::parse(payload.as_bytes()).unwrap();
    let expanded = payload.expand(&case.text, |key| format!("/$a/{key}"));
    assert!(expanded.len() <= 1 << 20);

    let mut reference = Reference {
        variables: BTreeMap::new(),
        open: Vec::new(),
        fuel: FUEL,
    };
    for (key, value, kind) in &case.variables {
        reference.variables.insert(key, (value, *kind));
    }
    if let Some(wanted) = reference.expand(&case.text) {
        assert_eq!(expanded, wanted, "{:?} {:?}", case.text, case.variables);
    }
}

struct Reference<'a> {
    variables: BTreeMap<&'a str, (&'a str, Kind)>,
    open: Vec<String>,
    fuel: u32,
}

impl Reference<'_> {
    /// `None` when it takes too long.
    fn expand(&mut self, text: &str) -> Option<String> {
        let chars: Vec<char> = text.chars().collect();
        let mut out = String::new();
        let mut at = 0;
        while at < chars.len() {
            let rest = &chars[at + 1..];
            let name: String = rest.iter().take_while(|c| is_name(**c)).collect();
            at += match (chars[at], rest.first()) {
                ('$', Some('$')) => {
                    out.push('$');
                    2
                }
                ('$', Some('{')) if rest.contains(&'}') => {
                    let name: String = rest[1..].iter().take_while(|c| **c != '}').collect();
                    match name.as_str() {
                        "$" => out.push('$'),
                        name => out += &self.value(name)?,
                    }
                    name.chars().count() + 3
                }
                ('$', Some('{')) => 2,
                ('$', Some(c)) if c.is_ascii_digit() || "*#@!?-".contains(*c) => 2,
                ('$', _) if !name.is_empty() => {
                    out += &self.value(&name)?;
                    name.len() + 1
                }
                ('%', _)
                    if rest.get(name.len()) == Some(&'%')
                        && self.variables.contains_key(name.as_str()) =>
                {
                    out += &self.value(&name)?;
                    name.len() + 2
                }
                (c, _) => {
                    out.push(c);
                    1
                }
            };
        }
        Some(out)
    }

    fn value(&mut self, name: &str) -> Option<String> {
        self.fuel = self.fuel.checked_sub(1)?;
        let Some((value, kind)) = self.variables.get(name).copied() else {
            return Some(String::new());
        };
        match kind {
            Kind::Raw => Some(value.to_owned()),
            Kind::File => Some(format!("/$a/{name}")),
            Kind::Plain if self.open.iter().any(|open| open == name) => Some(String::new()),
            Kind::Plain => {
                self.open.push(name.to_owned());
                let expanded = self.expand(value);
                self.open.pop();
                expanded
            }
        }
    }
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(source: &mut Unstructured<'a>) -> Result<Self> {
        let mut variables = Vec::new();
        for _ in 0..source.int_in_range(0..=6)? {
            let key = *source.choose(KEYS)?;
            let kind = match u8::arbitrary(source)? % 8 {
                0 => Kind::Raw,
                1 => Kind::File,
                _ => Kind::Plain,
            };
            variables.push((key, text(source)?, kind));
        }
        let text = text(source)?;
        Ok(Self { variables, text })
    }
}

/// A text with many references.
fn text(source: &mut Unstructured<'_>) -> Result<String> {
    let mut text = String::new();
    for _ in 0..source.int_in_range(0..=12)? {
        match u8::arbitrary(source)? {
            byte @ 0..128 => text.push(char::from(byte)),
            byte => text.push_str(FRAGMENTS[usize::from(byte) % FRAGMENTS.len()]),
        }
    }
    Ok(text)
}
