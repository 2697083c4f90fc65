//! The masker, in every way of cutting the log, against a reference that sees it as a whole.

use arbitrary::{Arbitrary, Result, Unstructured};

use crate::{
    time::WallTime,
    trace::{DEFAULT_TRACE_LIMIT, Masker, TraceSpool, TraceStream, reference},
};

const FRAGMENTS: &[&str] = &[
    "glpat-",
    "glrt-",
    "_gitlab_session=",
    "?rss_token=",
    "&Private_Token=",
    "?X-Amz-Signature=",
    "token",
    "=",
    "&",
    " ",
    "\n",
    "\r",
    "ü",
];

/// Secrets, and a log in writes.
#[derive(Debug)]
struct Case {
    values: Vec<String>,
    prefixes: Vec<String>,
    limit: Option<u8>,
    writes: Vec<Vec<u8>>,
}

/// `data` makes up secrets and a log that holds parts of them.
pub fn run(data: &[u8]) {
    let Ok(case) = Case::arbitrary(&mut Unstructured::new(data)) else {
        return;
    };
    let input = case.writes.concat();
    let expected = case.masked(&input);
    let writes = || case.writes.iter().map(Vec::as_slice);
    let mut masker = case.masker();
    assert_eq!(through(&mut masker, writes()), expected, "{case:?}");
    assert_eq!(through(&mut masker, [&*input]), expected, "whole: {case:?}");
    masker.use_fast();
    assert_eq!(through(&mut masker, writes()), expected, "fast: {case:?}");
    let mut slow = case.masker().without_prefilter();
    let bytes = through(&mut slow, input.chunks(1));
    assert_eq!(bytes, expected, "byte by byte: {case:?}");

    let expected = case.masked(&reference::repaired(&input));
    let limit = case.limit.map_or(DEFAULT_TRACE_LIMIT, u64::from);
    let mut spool = TraceSpool::new(case.masker(), limit);
    write(&mut spool, &case);
    let log = log_of(&mut spool);
    if expected.len() as u64 >= limit && !expected.is_empty() {
        let mut cut = usize::try_from(limit).unwrap();
        while std::str::from_utf8(&expected[..cut]).is_err() {
            cut -= 1;
        }
        let notice = b"\n\x1b[33;1mJob's log exceeded limit";
        assert!(
            spool.is_limited() && log.starts_with(&expected[..cut]),
            "{case:?}"
        );
        assert!(log[cut..].starts_with(notice), "{case:?}");
    } else {
        assert_eq!(log, expected, "{case:?}");
    }
    write(
        &mut TraceSpool::new(case.masker(), limit).with_timestamps(),
        &case,
    );
}

impl Case {
    fn masker(&self) -> Masker {
        Masker::new(&self.values, &self.prefixes)
    }

    fn masked(&self, input: &[u8]) -> Vec<u8> {
        let values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        let prefixes: Vec<&str> = self.prefixes.iter().map(String::as_str).collect();
        reference::mask(&values, &prefixes, input)
    }
}

fn through<'a>(masker: &mut Masker, writes: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut all = Vec::new();
    for write in writes {
        masker.write(write, |out| all.extend_from_slice(out));
    }
    masker.finish(|out| all.extend_from_slice(out));
    all
}

/// Writes all, to both streams. Marks never shrink, and what they cover never changes.
fn write(spool: &mut TraceSpool, case: &Case) {
    let mut before = Vec::new();
    for (number, write) in case.writes.iter().enumerate() {
        let stream = match number % 3 {
            0 => TraceStream::Stderr,
            _ => TraceStream::Stdout,
        };
        spool.write_from(stream, write, WallTime::default());
        let log = log_of(spool);
        assert!(log.starts_with(&before), "{case:?}");
        assert_eq!(spool.mark().crc32, crc32fast::hash(&log));
        before = log;
    }
    spool.finish();
    assert!(log_of(spool).starts_with(&before), "{case:?}");
}

fn log_of(spool: &mut TraceSpool) -> Vec<u8> {
    let len = spool.mark().len;
    spool.read(0..len).unwrap().concat()
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(source: &mut Unstructured<'a>) -> Result<Self> {
        let texts = |source: &mut Unstructured<'a>, most| -> Result<Vec<String>> {
            let count = source.int_in_range(0..=most)?;
            (0..count).map(|_| text(source)).collect()
        };
        let values = texts(source, 4)?;
        let prefixes = texts(source, 2)?;
        let limit = bool::arbitrary(source)?.then(|| u8::arbitrary(source));
        let limit = limit.transpose()?;
        let (mut writes, mut write) = (Vec::new(), Vec::new());
        while !source.is_empty() {
            match u8::arbitrary(source)? {
                byte @ 0..128 => write.push(byte),
                128..160 => writes.push(std::mem::take(&mut write)),
                160..176 => write.push(u8::arbitrary(source)?),
                byte @ 176..192 => {
                    let fragment = FRAGMENTS[usize::from(byte) % FRAGMENTS.len()];
                    write.extend_from_slice(fragment.as_bytes());
                }
                byte => {
                    // A part of a secret, since chance alone seldom meets them.
                    let all = values.iter().chain(&prefixes);
                    let secret = all.cycle().nth(usize::from(byte % 8)).map(String::as_bytes);
                    let secret = secret.unwrap_or_default();
                    let part = u8::arbitrary(source)?;
                    let from = usize::from(part >> 4).min(secret.len());
                    let to = secret.len() - usize::from(part & 15).min(secret.len() - from);
                    write.extend_from_slice(&secret[from..to]);
                }
            }
        }
        writes.push(write);
        Ok(Self {
            values,
            prefixes,
            limit,
            writes,
        })
    }
}

fn text(source: &mut Unstructured<'_>) -> Result<String> {
    let len = source.int_in_range(0..=12)?;
    let bytes = source.bytes(len)?;
    let mut text = String::new();
    for byte in bytes {
        match byte {
            0..224 => text.push(char::from(byte & 127)),
            _ => text.push_str(FRAGMENTS[usize::from(*byte) % FRAGMENTS.len()]),
        }
    }
    Ok(text)
}
