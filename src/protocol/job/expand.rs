//! References to variables in texts: `$NAME`, `${NAME}` and `%NAME%`.

use super::JobPayload;

/// Variables that refer to each other are followed this far.
const MAX_DEPTH: usize = 64;
/// A text does not grow beyond this: variables that double each other would.
const MAX_LEN: usize = 1 << 20;
/// So many references are followed in all: empty variables that double each other would go on for
/// ever.
const MAX_STEPS: u32 = 100_000;

impl JobPayload {
    /// `text` with all references to variables replaced by their values.
    ///
    /// The rules are those of GitLab's own runner, but references in values are followed too (not in
    /// those of raw variables):
    ///
    /// - `$NAME` and `${NAME}`, with letters, digits and underscores: the last value of that name,
    ///   or nothing if there is none. There are no operators as in a shell: `${NAME:-x}` is nothing.
    /// - `%NAME%`: the same, but left alone if there is no such variable.
    /// - `$$` is `$`; `$` before `*#@!?-` or a digit goes with that character, and any other `$`
    ///   stays.
    /// - A variable that leads back to itself is empty there.
    /// - What is to be a file stands for its path, which `file_path` makes from the key.
    ///
    /// The result is cut at 1 MiB, and beyond 100,000 references those that are left stand for nothing.
    pub fn expand(&self, text: &str, file_path: impl Fn(&str) -> String) -> String {
        let mut expansion = Expansion {
            payload: self,
            file_path: &file_path,
            open: Vec::new(),
            steps: 0,
            out: String::new(),
        };
        expansion.text(text);
        expansion.out
    }
}

struct Expansion<'a> {
    payload: &'a JobPayload,
    file_path: &'a dyn Fn(&str) -> String,
    /// The variables that are being expanded, each inside of the one before.
    open: Vec<&'a str>,
    steps: u32,
    out: String,
}

impl<'a> Expansion<'a> {
    fn text(&mut self, mut text: &str) {
        while let Some(at) = text.find(['$', '%']) {
            self.push(&text[..at]);
            let (sign, rest) = text[at..].split_at(1);
            let used = if sign == "$" {
                self.dollar(rest)
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
    fn dollar(&mut self, rest: &str) -> Option<usize> {
        if let Some(inner) = rest.strip_prefix('{') {
            let end = inner.find('}')?;
            self.variable(&inner[..end]);
            return Some(end + 2);
        }
        let first = rest.chars().next()?;
        if first == '$' {
            self.push("$");
            return Some(1);
        }
        if "*#@!?-".contains(first) || first.is_ascii_digit() {
            return Some(1);
        }
        let len = name_len(rest);
        (len > 0).then(|| {
            self.variable(&rest[..len]);
            len
        })
    }

    fn percent(&mut self, rest: &str) -> Option<usize> {
        let len = name_len(rest);
        let name = &rest[..len];
        (len > 0 && rest[len..].starts_with('%') && self.payload.variable(name).is_some()).then(
            || {
                self.variable(name);
                len + 1
            },
        )
    }

    fn variable(&mut self, name: &str) {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return;
        }
        let Some(variable) = self.payload.variable(name) else {
            return;
        };
        if variable.file {
            let path = (self.file_path)(&variable.key);
            self.push(&path);
        } else if variable.raw {
            self.push(&variable.value);
        } else if self.open.len() < MAX_DEPTH && !self.open.contains(&variable.key.as_str()) {
            self.open.push(&variable.key);
            self.text(&variable.value);
            self.open.pop();
        }
    }

    fn push(&mut self, text: &str) {
        let mut end = text.len().min(MAX_LEN - self.out.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.out.push_str(&text[..end]);
    }
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
            ("${a", "${a"),
            ("100% of %", "100% of %"),
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
