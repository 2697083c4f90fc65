//! Reads what programs write that are not strict with the format.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use super::{Har, HarError, MAX_ARCHIVE};

pub(super) fn archive(archive: &[u8]) -> Result<Har, HarError> {
    let plain = |what: &str| HarError {
        what: what.to_owned(),
        line: 0,
        column: 0,
    };
    if archive.len() > MAX_ARCHIVE {
        return Err(plain("it is too long"));
    }
    let archive = archive.strip_prefix(b"\xef\xbb\xbf").unwrap_or(archive);
    let text = String::from_utf8_lossy(archive);
    let text = without_surrogates(&text);
    let value: Value = serde_json::from_str(&text).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Eof => "it is cut short",
            _ => "it is no JSON",
        };
        HarError {
            line: error.line(),
            column: error.column(),
            ..plain(what)
        }
    })?;
    if !value
        .get("log")
        .and_then(|log| log.get("entries"))
        .is_some_and(Value::is_array)
    {
        return Err(plain("it has no log.entries"));
    }
    // All of it is lenient from here, so nothing is left to go wrong.
    Har::deserialize(value).map_err(|_| plain("its log is no log"))
}

/// Some programs write bytes that are no character as halves of a pair (`\udc80`), which are none
/// either: each becomes U+FFFD.
fn without_surrogates(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let half = |at: usize| {
        let escape = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let escape = std::str::from_utf8(escape).ok()?;
        let value = u16::from_str_radix(escape, 16).ok()?;
        (0xd800..0xe000).contains(&value).then_some(value)
    };
    let mut mended = String::new();
    let (mut done, mut at) = (0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        match half(at) {
            Some(high @ ..=0xdbff) if half(at + 6).is_some_and(|low| low > 0xdbff) => {
                debug_assert!(high >= 0xd800);
                at += 12;
            }
            Some(_) => {
                mended.push_str(&text[done..at]);
                mended.push_str("\\ufffd");
                at += 6;
                done = at;
            }
            // What is escaped, even another backslash, is one character; a longer one goes on.
            None => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    mended.push_str(&text[done..]);
    Cow::Owned(mended)
}

/// Whatever it is, or its default.
pub(super) fn lenient<'de, D, T>(value: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let value = Value::deserialize(value)?;
    Ok(T::deserialize(value).unwrap_or_default())
}

/// The items that can be read.
pub(super) fn list<'de, D, T>(value: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let Value::Array(items) = Value::deserialize(value)? else {
        return Ok(Vec::new());
    };
    let items = items.into_iter();
    Ok(items.filter_map(|item| T::deserialize(item).ok()).collect())
}

/// All items, those that cannot be read as their default.
pub(super) fn places<'de, D, T>(value: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let Value::Array(items) = Value::deserialize(value)? else {
        return Ok(Vec::new());
    };
    let items = items.into_iter();
    Ok(items
        .map(|item| T::deserialize(item).unwrap_or_default())
        .collect())
}

/// A text; a number is what it looks like.
pub(super) fn text<'de, D: Deserializer<'de>>(value: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(value)? {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        // Some write what went wrong as an object.
        Value::Object(fields) => match fields.get("msg") {
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        },
        _ => String::new(),
    })
}

/// A whole number; some write it as a text, or with a fraction.
pub(super) fn number<'de, D: Deserializer<'de>>(value: D) -> Result<i64, D::Error> {
    Ok(match Value::deserialize(value)? {
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => number,
            (None, Some(number)) => number as i64,
            (None, None) => 0,
        },
        Value::String(text) => text.trim().parse().unwrap_or(0),
        _ => 0,
    })
}

pub(super) fn milliseconds<'de, D: Deserializer<'de>>(value: D) -> Result<f64, D::Error> {
    Ok(match Value::deserialize(value)? {
        Value::Number(number) => number.as_f64().unwrap_or(0.0),
        Value::String(text) => text.trim().parse().unwrap_or(0.0),
        _ => 0.0,
    })
}
