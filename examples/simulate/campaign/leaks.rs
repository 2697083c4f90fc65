//! Looks for secrets in what was written down, in whatever form they stand there.

use std::collections::{BTreeMap, BTreeSet};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{GeneralPurpose, general_purpose::NO_PAD},
};

/// A text within a text within a text is read as well.
const DEEPEST: u32 = 3;
/// Shorter runs of the characters of base64 say too little.
const SHORTEST_RUN: usize = 12;
/// Shorter ones are found in every other word.
const SHORTEST: usize = 6;

/// What `text` tells of `secrets`, and what stands around it. Of several lines, as keys are, each counts
/// by itself.
pub(crate) fn leaks<'a>(
    text: &str,
    secrets: impl IntoIterator<Item = &'a str>,
) -> BTreeMap<&'a str, String> {
    let secrets: BTreeSet<&str> = secrets.into_iter().flat_map(parts).collect();
    let secrets: Vec<&str> = secrets.into_iter().collect();
    let finder = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(&secrets);
    let mut found = BTreeMap::new();
    let Ok(finder) = finder else {
        found.insert("", "there is too much to look for".to_owned());
        return found;
    };
    for reading in readings(text) {
        for place in finder.find_iter(&reading) {
            let around = place.start().saturating_sub(100)..reading.len().min(place.end() + 100);
            let around = || String::from_utf8_lossy(&reading[around]).into_owned();
            let secret = secrets[place.pattern().as_usize()];
            found.entry(secret).or_insert_with(around);
        }
    }
    found
}

/// What is looked for of a secret.
pub(crate) fn parts(secret: &str) -> impl Iterator<Item = &str> {
    let whole = std::iter::once(secret.trim());
    let parts = whole.chain(secret.lines().map(str::trim));
    parts.filter(|part| part.len() >= SHORTEST && !part.starts_with("-----"))
}

/// The text, and all that it can be read as.
fn readings(text: &str) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    let mut todo = vec![(0, text.as_bytes().to_vec())];
    while let Some((depth, text)) = todo.pop() {
        if text.is_empty() || all.contains(&text) {
            continue;
        }
        if depth < DEEPEST {
            let (texts, bytes) = base64_decoded(&text);
            all.insert(bytes);
            let more = [
                unescaped(&text),
                percent_decoded(&text),
                latin1(&text),
                texts,
            ];
            todo.extend(more.map(|text| (depth + 1, text)));
        }
        all.insert(text);
    }
    all
}

/// What stands in strings of JSON, and in those that `Debug` writes.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, others @ ..] = rest {
        rest = others;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let [escape, others @ ..] = rest else { break };
        rest = others;
        match escape {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let len = match rest.first() {
                    Some(b'{') => rest
                        .iter()
                        .position(|it| *it == b'}')
                        .map_or(0, |it| it + 1),
                    _ => 4.min(rest.len()),
                };
                let (digits, others) = rest.split_at(len);
                let digits = String::from_utf8_lossy(digits);
                let code = u32::from_str_radix(digits.trim_matches(['{', '}']), 16);
                let read = char::from_u32(code.unwrap_or(0xfffd)).unwrap_or('\u{fffd}');
                out.extend_from_slice(read.encode_utf8(&mut [0; 4]).as_bytes());
                rest = others;
            }
            other => out.push(*other),
        }
    }
    out
}

/// What stands in URLs and forms.
fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, others @ ..] = rest {
        rest = others;
        let digits = match (first, rest) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        if let Some(byte) = digits {
            out.push(byte);
            rest = &rest[2..];
        } else {
            out.push(*first);
        }
    }
    out
}

/// All that may be base64, of either alphabet, wherever it begins: first what is text.
fn base64_decoded(text: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let engine = GeneralPurpose::new(&STANDARD, NO_PAD);
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    let (mut texts, mut bytes) = (Vec::new(), Vec::new());
    for run in text.split(|byte| !is_base64(byte)) {
        if run.len() < SHORTEST_RUN {
            continue;
        }
        let standard = run.iter().map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        });
        let standard: Vec<u8> = standard.collect();
        for from in 0..4 {
            let whole = &standard[from..];
            let whole = &whole[..whole.len() / 4 * 4];
            let decoded = engine.decode(whole).unwrap_or_default();
            let out = match std::str::from_utf8(&decoded) {
                Ok(_) => &mut texts,
                Err(_) => &mut bytes,
            };
            out.extend(decoded);
            out.push(b'\n');
        }
    }
    (texts, bytes)
}

/// Bytes that were written as the characters of their numbers.
fn latin1(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let is_byte = |c: char| ('\u{80}'..='\u{ff}').contains(&c);
    if !text.contains(is_byte) {
        return Vec::new();
    }
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(byte) => out.push(byte),
            Err(_) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}
