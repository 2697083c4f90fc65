//! Looks for secrets in what was written down, in whatever form they stand there.

use std::collections::{BTreeMap, BTreeSet};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{GeneralPurpose, general_purpose::NO_PAD},
};
use memchr::{memchr, memchr2};

/// A text within a text within a text within a text is read as well.
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
            if is_within_escape(&reading, place.start()) {
                continue;
            }
            let around = place.start().saturating_sub(100)..reading.len().min(place.end() + 100);
            let around = || String::from_utf8_lossy(&reading[around]).into_owned();
            let secret = secrets[place.pattern().as_usize()];
            found.entry(secret).or_insert_with(around);
        }
    }
    found
}

/// Whether the byte there belongs to a `\n` or the like: not the first one of what follows it.
fn is_within_escape(text: &[u8], at: usize) -> bool {
    let before = text[..at].iter().rev();
    let is_escaped = before.take_while(|byte| **byte == b'\\').count() % 2 == 1;
    is_escaped && b"nrtu".contains(&text[at])
}

/// What is looked for of a secret.
pub(crate) fn parts(secret: &str) -> impl Iterator<Item = &str> {
    let whole = std::iter::once(secret.trim());
    let parts = whole.chain(secret.lines().map(str::trim));
    parts.filter(|part| part.len() >= SHORTEST && !part.starts_with("-----"))
}

/// The text, and all that it can be read as.
fn readings(text: &str) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut runs = BTreeSet::new();
    let mut texts = vec![text.as_bytes().to_vec()];
    for _ in 0..=DEEPEST {
        let mut more = Vec::new();
        for text in texts {
            let (encoded, bytes) = base64_decoded(&text, &mut runs);
            let unescaped = percent_decoded(&unescaped(&text));
            if unescaped != text {
                more.push(unescaped);
            }
            more.push(encoded);
            all.extend([latin1(&text), text, bytes]);
        }
        texts = more;
    }
    all
}

/// What stands in strings of JSON, and in those that `Debug` writes.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
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
    out.extend_from_slice(rest);
    out
}

/// What stands in URLs and forms.
fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr(b'%', rest) {
        out.extend_from_slice(&rest[..at]);
        let digits = rest.get(at + 1..at + 3);
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(byte.unwrap_or(b'%'));
        rest = &rest[at + if byte.is_some() { 3 } else { 1 }..];
    }
    out.extend_from_slice(rest);
    out
}

/// All that may be base64, of either alphabet, wherever it begins, but for what is in `known` already:
/// first what is text.
fn base64_decoded(text: &[u8], known: &mut BTreeSet<Vec<u8>>) -> (Vec<u8>, Vec<u8>) {
    let engine = GeneralPurpose::new(&STANDARD, NO_PAD);
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    let (mut texts, mut bytes) = (Vec::new(), Vec::new());
    for run in text.split(|byte| !is_base64(byte)) {
        if run.len() < SHORTEST_RUN || !known.insert(run.to_vec()) {
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
    // How they begin in UTF-8.
    if memchr2(0xc2, 0xc3, text).is_none() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(text);
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match u8::try_from(c) {
            Ok(byte) => out.push(byte),
            Err(_) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}
