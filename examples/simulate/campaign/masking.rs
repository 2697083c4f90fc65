//! What a log must look like at GitLab, worked out from the whole of it at once.
//!
//! Written from the rules alone, slowly and simply, so that a mistake of the crate's streaming
//! masker does not find its twin here.

use std::collections::BTreeMap;

const MASK: &[u8] = b"[MASKED]";

/// GitLab's own tokens.
const PREFIXES: [&str; 14] = [
    "glpat-",
    "gloas-",
    "gldt-",
    "glrt-",
    "glcbt-",
    "glrtr-",
    "glptt-",
    "glft-",
    "glimt-",
    "glagent-",
    "glsoat-",
    "glffct-",
    "_gitlab_session=",
    "gltok-",
];

const PARAMETERS: [&str; 6] = [
    "private_token",
    "authenticity_token",
    "rss_token",
    "x-amz-signature",
    "x-amz-credential",
    "x-amz-security-token",
];

/// What must not be seen in a log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hidden {
    pub(crate) values: Vec<String>,
    pub(crate) prefixes: Vec<String>,
}

/// Bytes from `start` to `end` are hidden. It is one with a span before that reaches over `reach`.
struct Span {
    reach: usize,
    start: usize,
    end: usize,
}

/// `raw` as it is stored: valid UTF-8, masked, and cut at `limit`.
pub(crate) fn stored(raw: &[u8], hidden: &Hidden, limit: Option<usize>) -> Vec<u8> {
    let mut log = mask(&repair(raw), hidden);
    if let Some(limit) = limit.filter(|limit| log.len() >= *limit) {
        let text = String::from_utf8_lossy(&log).into_owned();
        let mut cut = limit;
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        log.truncate(cut);
        log.extend_from_slice(
            format!(
                "\n\x1b[33;1mJob's log exceeded limit of {limit} bytes.\nJob execution will \
                 continue but no more output will be collected.\x1b[0;m\n"
            )
            .as_bytes(),
        );
    }
    log
}

/// Each byte that belongs to no character becomes U+FFFD.
fn repair(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [first, others @ ..] = rest {
        if first.is_ascii() {
            out.push(*first);
            rest = others;
            continue;
        }
        let whole = (2..=rest.len().min(4)).find(|len| {
            std::str::from_utf8(&rest[..*len]).is_ok_and(|text| text.chars().count() == 1)
        });
        match whole {
            Some(len) => out.extend_from_slice(&rest[..len]),
            None => out.extend_from_slice("\u{FFFD}".as_bytes()),
        }
        rest = &rest[whole.unwrap_or(1)..];
    }
    out
}

fn mask(text: &[u8], hidden: &Hidden) -> Vec<u8> {
    // Of those that start at the same place: the least reach, the furthest end.
    let mut starts: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for Span { reach, start, end } in spans(text, hidden) {
        let known = starts.entry(start).or_insert((reach, end));
        *known = (known.0.min(reach), known.1.max(end));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut done = 0;
    let mut furthest = 0;
    for (start, (reach, end)) in starts {
        if start > done {
            out.extend_from_slice(&text[done..start]);
        }
        if furthest <= reach {
            out.extend_from_slice(MASK);
        }
        done = done.max(end);
        furthest = furthest.max(end);
    }
    out.extend_from_slice(&text[done..]);
    out
}

fn spans(text: &[u8], hidden: &Hidden) -> Vec<Span> {
    let mut spans = Vec::new();
    let plain = |start, end| Span {
        reach: start,
        start,
        end,
    };
    for value in &hidden.values {
        let value = value.trim().as_bytes();
        if !value.is_empty() {
            spans.extend(places(text, value).map(|at| plain(at, at + value.len())));
        }
    }
    let prefixes = hidden.prefixes.iter().map(String::as_str);
    for prefix in prefixes.chain(PREFIXES).filter(|it| !it.is_empty()) {
        for at in places(text, prefix.as_bytes()) {
            let from = at + prefix.len();
            let in_token = |byte: &&u8| byte.is_ascii_alphanumeric() || b"._=-".contains(byte);
            let len = text[from..].iter().take_while(in_token).count();
            if len > 0 {
                spans.push(plain(from, from + len));
            }
        }
    }
    for (at, _) in text.iter().enumerate().filter(|(_, byte)| **byte == b'=') {
        let before = &text[..at];
        let named = PARAMETERS.iter().any(|name| {
            let from = before.len().checked_sub(name.len() + 1);
            from.is_some_and(|from| {
                matches!(before[from], b'?' | b'&')
                    && before[from + 1..].eq_ignore_ascii_case(name.as_bytes())
            })
        });
        if named {
            let inside = |byte: &&u8| {
                !byte.is_ascii_whitespace() && !byte.is_ascii_control() && !b"?&".contains(byte)
            };
            let len = text[at + 1..].iter().take_while(inside).count();
            spans.push(Span {
                reach: at,
                start: at + 1,
                end: at + 1 + len,
            });
        }
    }
    spans
}

/// Where `what` stands in `text`, overlapping ones included.
fn places<'a>(text: &'a [u8], what: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let windows = text.windows(what.len()).enumerate();
    windows
        .filter(move |(_, window)| window[0] == what[0] && *window == what)
        .map(|(at, _)| at)
}
