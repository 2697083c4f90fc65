//! The rules of masking, applied by brute force to a whole buffer.

use super::DEFAULT_TOKEN_PREFIXES;

const NAMES: [&str; 6] = [
    "private_token=",
    "authenticity_token=",
    "rss_token=",
    "x-amz-signature=",
    "x-amz-credential=",
    "x-amz-security-token=",
];

pub(crate) fn mask(values: &[&str], prefixes: &[&str], input: &[u8]) -> Vec<u8> {
    let mut spans = spans(values, prefixes, input);
    spans.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (start, is_value, end) in spans {
        let shared = if is_value { start } else { start - 1 };
        match merged.last_mut() {
            Some(last) if shared < last.1 || start == last.0 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    let mut output = Vec::new();
    let mut done = 0;
    for (start, end) in merged {
        output.extend_from_slice(&input[done..start]);
        output.extend_from_slice(b"[MASKED]");
        done = end;
    }
    output.extend_from_slice(&input[done..]);
    output
}

/// Each byte that belongs to no character replaced, character by character.
pub(crate) fn repaired(mut bytes: &[u8]) -> Vec<u8> {
    let mut text = String::new();
    while !bytes.is_empty() {
        let good = (1..=bytes.len().min(4)).find_map(|len| {
            let char = std::str::from_utf8(&bytes[..len]).ok()?;
            Some((char, len))
        });
        let (char, len) = good.unwrap_or(("\u{FFFD}", 1));
        text.push_str(char);
        bytes = &bytes[len..];
    }
    text.into_bytes()
}

/// Whether the end of `input` is the beginning of a value, but not all of it.
#[cfg(test)]
pub(crate) fn ends_inside_a_value(values: &[&str], input: &[u8]) -> bool {
    values.iter().any(|value| {
        let value = value.trim().as_bytes();
        (1..value.len()).any(|len| input.ends_with(&value[..len]))
    })
}

/// Start, whether it is no URL parameter, and end.
fn spans(values: &[&str], prefixes: &[&str], input: &[u8]) -> Vec<(usize, bool, usize)> {
    let mut spans = Vec::new();
    for start in 0..input.len() {
        let rest = &input[start..];
        for value in values {
            let value = value.trim().as_bytes();
            if !value.is_empty() && rest.starts_with(value) {
                spans.push((start, true, start + value.len()));
            }
        }
        for prefix in prefixes.iter().chain(DEFAULT_TOKEN_PREFIXES) {
            if !prefix.is_empty() && rest.starts_with(prefix.as_bytes()) {
                let from = start + prefix.len();
                let mut to = from;
                while to < input.len()
                    && (input[to].is_ascii_alphanumeric() || b"._=-".contains(&input[to]))
                {
                    to += 1;
                }
                if to > from {
                    spans.push((from, true, to));
                }
            }
        }
        if rest[0] == b'?' || rest[0] == b'&' {
            let lower = rest[1..rest.len().min(30)].to_ascii_lowercase();
            for name in NAMES {
                if lower.starts_with(name.as_bytes()) {
                    let from = start + 1 + name.len();
                    let mut to = from;
                    while to < input.len()
                        && input[to] > b' '
                        && input[to] != 0x7F
                        && input[to] != b'?'
                        && input[to] != b'&'
                    {
                        to += 1;
                    }
                    spans.push((from, false, to));
                }
            }
        }
    }
    spans
}
