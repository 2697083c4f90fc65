//! References to variables in texts: `$NAME`, `${NAME}` and `%NAME%`.
#![cfg_attr(
    not(feature = "runner"),
    allow(dead_code, reason = "environments are made for handlers")
)]

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use super::{JobPayload, JobVariable};

/// Variables that refer to each other are followed this far.
const MAX_DEPTH: usize = 64;
/// A text does not grow beyond this: variables that double each other would.
const MAX_LEN: usize = 1 << 20;
/// So many references are followed in all: empty variables that double each other would go on for
/// ever.
const MAX_STEPS: u32 = 100_000;
/// All values together that hold references do not grow beyond this.
const MAX_TOTAL: usize = 16 << 20;
/// But each has this much, whatever the others take: references and length.
const FOR_EACH: (u32, usize) = (1000, 4 << 10);

impl JobPayload {
    /// `text` with all references to variables replaced by their values.
    ///
    /// The rules are those of GitLab's own runner, but references in values are followed too (not in
    /// those of raw variables):
    ///
    /// - `$NAME` and `${NAME}`, with letters, digits and underscores: the last value of that name,
    ///   or nothing if there is none. There are no operators as in a shell: `${NAME:-x}` is nothing.
    /// - `%NAME%`: the same, but left alone if there is no such variable.
    /// - `$$` is `$`; `$` before `*#@!?-` or a digit goes with that character, `${` that nothing closes
    ///   goes, and any other `$` stays.
    /// - A variable that leads back to itself is empty there.
    /// - What is to be a file stands for its path, which `file_path` makes from the key.
    ///
    /// The result is cut at 1 MiB, and beyond 100,000 references those that are left stand for nothing.
    pub fn expand(&self, text: &str, file_path: impl Fn(&str) -> String) -> String {
        if !has_references(text) {
            return cut(text, MAX_LEN).to_owned();
        }
        Expander::new(self.meanings(file_path)).text(text).0
    }

    /// What references to the variables stand for, in GitLab's order.
    pub(crate) fn meanings<'a, P: Fn(&str) -> String>(
        &'a self,
        file_path: P,
    ) -> impl Iterator<Item = (&'a str, Meaning<'a>)> + use<'a, P> {
        self.variables.iter().map(Arc::as_ref).map(move |variable| {
            let meaning = match variable {
                JobVariable { file: true, .. } => Meaning::File {
                    path: file_path(&variable.key),
                    variable,
                },
                JobVariable { raw: true, .. } => Meaning::Literal(Cow::Borrowed(&variable.value)),
                _ => Meaning::Text(&variable.value),
            };
            (variable.key.as_str(), meaning)
        })
    }
}

/// Whether expansion may change a text.
pub(crate) fn has_references(text: &str) -> bool {
    text.contains(['$', '%'])
}

/// What a reference to a variable stands for.
#[derive(Clone)]
pub(crate) enum Meaning<'a> {
    /// This text, as it is.
    Literal(Cow<'a, str>),
    /// This text, with its own references followed.
    Text(&'a str),
    /// The path of the file that the value of the variable is in.
    File {
        path: String,
        variable: &'a JobVariable,
    },
}

/// Variables by name, and how much may still be expanded.
pub(crate) struct Expander<'a> {
    meanings: BTreeMap<&'a str, Meaning<'a>>,
    steps: u32,
    room: usize,
}

impl<'a> Expander<'a> {
    /// Of several variables with a name, the last one counts.
    pub(crate) fn new(variables: impl IntoIterator<Item = (&'a str, Meaning<'a>)>) -> Self {
        Self {
            meanings: variables.into_iter().collect(),
            steps: MAX_STEPS,
            room: MAX_TOTAL,
        }
    }

    /// The variables that count, by name.
    pub(crate) fn variables(&self) -> Vec<(&'a str, Meaning<'a>)> {
        let variables = self.meanings.iter();
        variables
            .map(|(name, meaning)| (*name, meaning.clone()))
            .collect()
    }

    /// `text` expanded, and whether that is all of it.
    pub(crate) fn text(&mut self, text: &str) -> (String, bool) {
        self.expand(None, text)
    }

    /// The value `text` of the variable `name`, which is empty in itself, expanded, and whether that
    /// is all of it.
    pub(crate) fn value(&mut self, name: &'a str, text: &str) -> (String, bool) {
        self.expand(Some(name), text)
    }

    fn expand(&mut self, within: Option<&'a str>, text: &str) -> (String, bool) {
        if !has_references(text) {
            return (text.to_owned(), true);
        }
        let steps = self.steps.max(FOR_EACH.0);
        let mut expansion = Expansion {
            meanings: &self.meanings,
            open: Vec::from_iter(within),
            steps,
            room: self.room.clamp(FOR_EACH.1, MAX_LEN),
            full: false,
            lost: false,
            out: String::new(),
        };
        expansion.text(text);
        self.steps = self.steps.saturating_sub(steps - expansion.steps);
        self.room = self.room.saturating_sub(expansion.out.len());
        (expansion.out, !expansion.full && !expansion.lost)
    }
}

struct Expansion<'a, 'm> {
    meanings: &'m BTreeMap<&'a str, Meaning<'a>>,
    /// The variables that are being expanded, each inside of the one before.
    open: Vec<&'a str>,
    /// References that may still be followed.
    steps: u32,
    /// How long the result may be.
    room: usize,
    /// Whether there was more than that.
    full: bool,
    /// Whether a reference was not followed.
    lost: bool,
    out: String,
}

impl Expansion<'_, '_> {
    fn text(&mut self, mut text: &str) {
        // Looked for no more once there is none: this may be a megabyte of opening ones.
        let mut has_brace = true;
        while let Some(at) = text.find(['$', '%']) {
            self.push(&text[..at]);
            if self.full {
                return;
            }
            let (sign, rest) = text[at..].split_at(1);
            let used = if sign == "$" {
                self.dollar(rest, &mut has_brace)
            } else {
                self.percent(rest)
            };
            text = match used {
                Some(used) => &rest[used..],
                None => {
                    self.push(sign);
                    rest
                }
            };
        }
        self.push(text);
    }

    /// What follows a `$`: how much of it was used, if it was a reference.
    fn dollar(&mut self, rest: &str, has_brace: &mut bool) -> Option<usize> {
        if let Some(inner) = rest.strip_prefix('{') {
            // Looked for only once, if there is none.
            let end = has_brace.then(|| inner.find('}')).flatten();
            let Some(end) = end else {
                *has_brace = false;
                // As Go's `os.Expand` has it.
                return Some(1);
            };
            match &inner[..end] {
                "$" => self.push("$"),
                name => self.reference(name),
            }
            return Some(end + 2);
        }
        let first = rest.chars().next()?;
        if first == '$' {
            self.push("$");
            return Some(1);
        }
        if "*#@!?-".contains(first) || first.is_ascii_digit() {
            self.step();
            return Some(1);
        }
        let len = name_len(rest);
        (len > 0).then(|| {
            self.reference(&rest[..len]);
            len
        })
    }

    fn percent(&mut self, rest: &str) -> Option<usize> {
        let len = name_len(rest);
        let name = &rest[..len];
        (len > 0 && rest[len..].starts_with('%') && self.meanings.contains_key(name)).then(|| {
            self.reference(name);
            len + 1
        })
    }

    /// Whether another reference may be followed.
    fn step(&mut self) -> bool {
        let left = self.steps.checked_sub(1);
        self.lost |= left.is_none();
        self.steps = left.unwrap_or(0);
        left.is_some()
    }

    fn reference(&mut self, name: &str) {
        if !self.step() {
            return;
        }
        let meanings = self.meanings;
        let Some((&name, meaning)) = meanings.get_key_value(name) else {
            return;
        };
        match meaning {
            Meaning::Literal(text) => self.push(text),
            Meaning::File { path, .. } => self.push(path),
            Meaning::Text(_) if self.open.contains(&name) => {}
            Meaning::Text(_) if self.open.len() >= MAX_DEPTH => self.lost = true,
            Meaning::Text(text) => {
                self.open.push(name);
                self.text(text);
                self.open.pop();
            }
        }
    }

    fn push(&mut self, text: &str) {
        if !self.full {
            let pushed = cut(text, self.room - self.out.len());
            self.full = pushed.len() < text.len();
            self.out.push_str(pushed);
        }
    }
}

/// At most `len` bytes of `text`, and no half characters.
fn cut(text: &str, len: usize) -> &str {
    let mut end = text.len().min(len);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn name_len(text: &str) -> usize {
    text.bytes()
        .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        .count()
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;
    use serde_json::{Value, json};

    use super::*;

    fn payload(variables: Value) -> JobPayload {
        let payload = json!({ "id": 1, "token": "t", "variables": variables });
        JobPayload::parse(payload.to_string().as_bytes()).unwrap()
    }

    fn expand(payload: &JobPayload, text: &str) -> String {
        payload.expand(text, |key| format!("/files/{key}"))
    }

    #[test]
    fn references_are_replaced() {
        let payload = payload(json!([
            { "key": "a", "value": "old" },
            { "key": "a", "value": "1" },
            { "key": "b", "value": "<$a>" },
            { "key": "c", "value": "${b}%a%" },
            { "key": "raw", "value": "$a$$", "raw": true },
            { "key": "file", "value": "content", "file": true },
            { "key": "me", "value": "x${me}y" },
            { "key": "ping", "value": "i$pong" },
            { "key": "pong", "value": "o$ping" },
            { "key": "dots.in", "value": "d" },
            { "key": "", "value": "nameless" },
        ]));
        for (text, wanted) in [
            ("", ""),
            ("plain", "plain"),
            ("$a-${a}-%a%", "1-1-1"),
            ("$ab", ""),
            ("$a.b", "1.b"),
            ("$b $c", "<1> <1>1"),
            ("$raw", "$a$$"),
            ("$file", "/files/file"),
            ("$$a $$$a", "$a $1"),
            ("$nothing|${nothing}|%nothing%", "||%nothing%"),
            ("${a:-x}", ""),
            ("${dots.in}", "d"),
            ("aa$@bb $1x", "aabb x"),
            ("$/dsa $", "$/dsa $"),
            ("${a", "a"),
            ("$ ${a ${b", "$ a b"),
            ("${$}", "$"),
            ("100% of %", "100% of %"),
            ("%%", "%%"),
            ("$me", "xy"),
            ("$ping", "io"),
            ("ü$aü", "ü1ü"),
        ] {
            assert_eq!(expand(&payload, text), wanted, "{text}");
        }
    }

    #[test]
    fn variables_that_double_each_other_end() {
        for (first, wanted) in [("", 0), (&*"x".repeat(100), MAX_LEN)] {
            let mut variables = vec![json!({ "key": "v0", "value": first })];
            for n in 1..100 {
                let value = format!("${{v{}}}${{v{}}}", n - 1, n - 1);
                variables.push(json!({ "key": format!("v{n}"), "value": value }));
            }
            let payload = payload(json!(variables));
            assert_eq!(expand(&payload, "$v40").len(), wanted);
            assert_eq!(expand(&payload, "$v99"), "");
        }
    }

    #[test]
    fn long_texts_end_between_characters() {
        let long = format!("x{}", "ü".repeat(MAX_LEN));
        let payload = payload(json!([{ "key": "long", "value": long }]));
        for text in [&*long, "$long"] {
            let expanded = expand(&payload, text);
            assert_eq!(expanded.len(), MAX_LEN - 1);
            assert!(long.starts_with(&expanded));
        }
        // Without references none of it is lost.
        let mut expander = Expander::new([]);
        assert_eq!(expander.text(&long), (long, true));
    }

    #[test]
    fn the_last_variable_of_a_name_counts() {
        let payload = payload(json!([
            { "key": "b", "value": "old" },
            { "key": "b", "value": "new", "raw": true },
            { "key": "a", "value": "content", "file": true },
        ]));
        let variables = Expander::new(payload.meanings(|key| format!("/{key}"))).variables();
        let names: Vec<_> = variables.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(matches!(&variables[0].1, Meaning::File { path, .. } if path == "/a"));
        assert!(matches!(&variables[1].1, Meaning::Literal(text) if text == "new"));
    }

    #[test]
    fn nothing_takes_long() {
        // Each of these would be read billions of times.
        let (braces, specials) = ("${".repeat(500_000), "$1".repeat(500_000));
        let plain = "x".repeat(1 << 20);
        let payload = payload(json!([
            { "key": "braces", "value": braces },
            { "key": "specials", "value": specials },
            { "key": "plain", "value": plain },
        ]));
        assert_eq!(expand(&payload, "$braces"), "");
        assert_eq!(expand(&payload, &"$specials".repeat(100_000)), "");
        assert_eq!(expand(&payload, &"$plain".repeat(100_000)), plain);
    }

    #[test]
    fn what_is_not_whole_is_told() {
        let long = "x".repeat(MAX_LEN);
        let variables = || {
            [
                ("long", Meaning::Text(&long)),
                ("me", Meaning::Text("a$me")),
                ("a", Meaning::Text("$long")),
            ]
        };
        let mut expander = Expander::new(variables());
        assert_eq!(expander.value("me", "a$me"), ("a".to_owned(), true));
        assert_eq!(expander.text("$long"), (long.clone(), true));
        assert_eq!(expander.text("$a!"), (long.clone(), false));
        // All texts together.
        for _ in 0..13 {
            assert!(expander.text("$a").1);
        }
        let (last, whole) = expander.text("$a");
        assert!(!whole && last.len() < long.len(), "{}", last.len());
        // But for a little for each.
        let rest = |len| "x".repeat(len) + "$none";
        assert_eq!(expander.text(&rest(4096)), ("x".repeat(4096), true));
        assert_eq!(expander.text(&rest(4097)), ("x".repeat(4096), false));
        // A reference too many.
        let mut expander = Expander::new(variables());
        assert!(!expander.text(&"$none".repeat(MAX_STEPS as usize + 1)).1);
        // Those that were followed are left to the others.
        let mut expander = Expander::new(variables());
        for _ in 0..MAX_STEPS / 2000 {
            assert!(expander.text(&"$none".repeat(2000)).1);
        }
        assert!(!expander.text(&"$none".repeat(1001)).1);
        // All is used up, but for a little for each.
        assert_eq!(expander.text("$me"), ("a".to_owned(), true));
        assert!(!expander.text(&"$none".repeat(1001)).1);
    }

    quickcheck! {
        fn any_text_is_expanded(values: Vec<String>, text: String) -> bool {
            let variables: Vec<Value> = values
                .iter()
                .enumerate()
                .map(|(n, value)| json!({ "key": format!("{}", n % 10), "value": value }))
                .collect();
            expand(&payload(json!(variables)), &text).len() <= MAX_LEN
        }
    }
}
