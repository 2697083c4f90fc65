//! What a secret looks like in percent-encoding, of which there are many: which characters are encoded,
//! and in which letters, is up to whoever writes it.

use std::ops::Range;

use aho_corasick::AhoCorasick;
use memchr::memchr;

/// Longer words are looked at in pieces, in bytes, ...
const LONGEST: usize = 64 << 10;
/// ... of which so much is looked at twice: three signs for each byte of a secret.
const OVERLAP: usize = 16 << 10;

/// `text` with the placeholders in the place of what `finder` finds in its words once they are decoded;
/// `None` if that is nothing.
pub(super) fn replaced(
    text: &[u8],
    finder: &AhoCorasick,
    placeholders: &[String],
) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut done, mut at) = (0, 0);
    while let Some(word) = word(text, at) {
        at = match word.len() >= LONGEST {
            true => word.end - OVERLAP,
            false => word.end,
        };
        let Some((decoded, places)) = decoded(&text[word.clone()]) else {
            continue;
        };
        for found in finder.find_iter(&decoded) {
            let start = word.start + places[found.start()];
            out.extend_from_slice(&text[done..start]);
            out.extend_from_slice(placeholders[found.pattern()].as_bytes());
            done = word.start + places[found.end()];
        }
        at = at.max(done);
    }
    (done > 0).then(|| {
        out.extend_from_slice(&text[done..]);
        out
    })
}

/// The next word with a percent sign in it.
fn word(text: &[u8], from: usize) -> Option<Range<usize>> {
    let is_outside =
        |byte: &u8| !byte.is_ascii_graphic() && byte.is_ascii() || b"\"\\<>".contains(byte);
    let sign = from + memchr(b'%', &text[from..])?;
    let before = text[from..sign].iter().rposition(is_outside);
    let start = before.map_or(from, |at| from + at + 1);
    let rest = &text[sign..];
    let len = rest.iter().position(is_outside).unwrap_or(rest.len());
    Some(start..(sign + len).min(sign + LONGEST))
}

/// What a word says, and where each of its bytes stands, and its end; `None` if it says itself.
fn decoded(word: &[u8]) -> Option<(Vec<u8>, Vec<usize>)> {
    let (mut decoded, mut places) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(&byte) = word.get(at) {
        places.push(at);
        let digits = word.get(at + 1..at + 3).filter(|_| byte == b'%');
        match digits.and_then(value) {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    places.push(at);
    (decoded.len() < word.len()).then_some((decoded, places))
}

/// Of two hexadecimal digits.
fn value(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let [high, low] = digits else { return None };
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}
