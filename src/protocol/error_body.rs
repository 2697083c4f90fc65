//! What the body of an error reply says.

use serde_json::Value;

const MAX_CHARS: usize = 200;
/// Reading a body takes many times its length in memory.
const MAX_BODY: usize = 64 << 10;

/// GitLab's own words in the body of an error reply, on one line and at most 200 characters; empty
/// if there are none.
///
/// GitLab says `{"message": "…"}`, `{"message": {"<field>": ["…", …]}}`, `{"error": "…"}` or, for
/// rate limits, `{"message": {"error": "…"}}`. Object storage, to which GitLab redirects downloads,
/// says `<Error><Code>…</Code><Message>…</Message></Error>`. Pages of proxies and everything else
/// give the empty text.
///
/// A body of more than 64 KiB is no message, and is not looked at.
pub fn error_message(body: &[u8]) -> String {
    tidy(&error_words(body))
}

/// The same with all of its lines, and as long as it is.
pub(crate) fn error_words(body: &[u8]) -> String {
    if body.len() > MAX_BODY {
        return String::new();
    }
    let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
        return storage_message(body);
    };
    ["message", "error"]
        .iter()
        .filter_map(|key| body.get(*key))
        .map(message)
        .find(|message| !message.trim().is_empty())
        .unwrap_or_default()
}

/// Two elements are all that counts, so no XML reader is needed; entities stay as they are.
fn storage_message(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let Some((_, error)) = text.split_once("<Error>") else {
        return String::new();
    };
    let element = |open: &str, close: &str| {
        let (_, rest) = error.split_once(open)?;
        let (content, _) = rest.split_once(close)?;
        Some(content.trim()).filter(|content| !content.is_empty())
    };
    let code = element("<Code>", "</Code>");
    let said = element("<Message>", "</Message>");
    let parts: Vec<&str> = code.into_iter().chain(said).collect();
    parts.join(": ")
}

fn message(value: &Value) -> String {
    let Value::Object(fields) = value else {
        return words(value);
    };
    let said: Vec<String> = fields
        .iter()
        .map(|(field, value)| (field, words(value)))
        .filter(|(_, words)| !words.is_empty())
        .map(|(field, words)| match field.as_str() {
            "error" => words,
            _ => format!("{field}: {words}"),
        })
        .collect();
    said.join(", ")
}

/// A text, or a list of texts.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let texts: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            texts.join("; ")
        }
        _ => String::new(),
    }
}

/// On one line, and not too long.
pub(crate) fn tidy(text: &str) -> String {
    let mut chars = text
        .trim_matches(|c: char| c.is_whitespace() || c.is_control())
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    let mut tidy: String = chars.by_ref().take(MAX_CHARS).collect();
    if chars.next().is_some() {
        tidy.pop();
        tidy.push('…');
    }
    tidy
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    #[test]
    fn a_long_body_is_not_looked_at() {
        for (len, wanted) in [(MAX_BODY, "no"), (MAX_BODY + 1, "")] {
            let mut body = r#"{"error":"no"}"#.to_owned();
            body += &" ".repeat(len - body.len());
            assert_eq!(error_message(body.as_bytes()), wanted);
        }
    }

    #[test]
    fn gitlabs_words_are_found() {
        for (body, wanted) in [
            (
                r#"{"message":"403 Forbidden - Job has been erased!"}"#,
                "403 Forbidden - Job has been erased!",
            ),
            (
                r#"{"message":{"tags_list":["a","b"],"x":["c"]}}"#,
                "tags_list: a; b, x: c",
            ),
            (r#"{"message":{"base":"too many"}}"#, "base: too many"),
            (r#"{"error":"token is missing"}"#, "token is missing"),
            (
                r#"{"message":{"error":"too many requests"}}"#,
                "too many requests",
            ),
            (r#"{"message":null,"error":"e"}"#, "e"),
            (r#"{"message":" a\n\u001b[31mb\u0000 "}"#, "a  [31mb"),
            (r#"{"message":[{"deep":1},"a"]}"#, "a"),
            (r#"{"message":{"a":{"b":1}}}"#, ""),
            (
                "<?xml version='1.0'?>\n<Error><Code>NoSuchKey</Code>\
                 <Message>The key does not exist.</Message><Key>x</Key></Error>",
                "NoSuchKey: The key does not exist.",
            ),
            ("<Error><Code> A </Code></Error>", "A"),
            ("<Error><Message>", ""),
            (r#"{"other":1}"#, ""),
            (r#"["message"]"#, ""),
            (r#"{"message":"cut"#, ""),
            ("200", ""),
            ("<html>502</html>", ""),
            ("", ""),
        ] {
            assert_eq!(error_message(body.as_bytes()), wanted, "{body}");
        }
    }

    #[test]
    fn long_words_are_cut() {
        let body = |len: usize| format!(r#"{{"message":"{}"}}"#, "ü".repeat(len));
        assert_eq!(error_message(body(200).as_bytes()), "ü".repeat(200));
        let cut = error_message(body(201).as_bytes());
        assert_eq!(cut, format!("{}…", "ü".repeat(199)));
        assert_eq!(error_message("[".repeat(100_000).as_bytes()), "");
    }

    quickcheck! {
        fn any_body_is_an_answer(body: Vec<u8>) -> bool {
            error_message(&body).chars().count() <= MAX_CHARS
        }

        fn any_message_is_short_and_clean(text: String) -> bool {
            let message = error_message(&serde_json::to_vec(&serde_json::json!({"error": text})).unwrap());
            message.chars().count() <= MAX_CHARS && !message.chars().any(char::is_control)
        }
    }
}
