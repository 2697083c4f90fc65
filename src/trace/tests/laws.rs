//! Laws that hold for any secrets, any input and any cuts.

use quickcheck::{Arbitrary, Gen, QuickCheck};

use super::{log_of, reference, run};
use crate::trace::{DEFAULT_TRACE_LIMIT, Masker, TraceSpool};

const FRAGMENTS: &[&str] = &[
    "a",
    "a",
    "b",
    "b",
    "ab",
    "-",
    "?",
    "=",
    "&",
    " ",
    "\n",
    "ü",
    "glpat-",
    "glrt-",
    "_gitlab_session=",
    "?rss_token=",
    "&Private_Token=",
    "token",
    "pat",
];

/// A job's secrets and its log, in writes.
#[derive(Clone, Debug)]
struct Case {
    values: Vec<String>,
    prefixes: Vec<String>,
    writes: Vec<Vec<u8>>,
}

impl Arbitrary for Case {
    fn arbitrary(g: &mut Gen) -> Self {
        let values: Vec<String> = (0..below(g, 5)).map(|_| fragments(g, 5)).collect();
        let prefixes = (0..below(g, 3)).map(|_| fragments(g, 3)).collect();
        let mut input = String::new();
        for _ in 0..below(g, 12) {
            // Parts of secrets, since chance alone seldom meets them.
            match g.choose(&values) {
                Some(value) if bool::arbitrary(g) => {
                    let chars: Vec<char> = value.chars().collect();
                    let from = below(g, chars.len().max(1)) * usize::from(bool::arbitrary(g));
                    let to = from + below(g, chars.len() - from.min(chars.len()) + 1);
                    input.extend(&chars[from..to]);
                }
                _ => input.push_str(&fragments(g, 4)),
            }
        }
        let mut rest = input.as_bytes();
        let mut writes = Vec::new();
        while !rest.is_empty() {
            let (write, later) = rest.split_at(below(g, rest.len().min(9) + 1));
            writes.push(write.to_vec());
            rest = later;
        }
        Self {
            values,
            prefixes,
            writes,
        }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Self>> {
        let shrunk = (self.values.clone(), self.writes.clone()).shrink();
        let prefixes = self.prefixes.clone();
        Box::new(shrunk.map(move |(values, writes)| Self {
            values,
            prefixes: prefixes.clone(),
            writes,
        }))
    }
}

impl Case {
    fn input(&self) -> Vec<u8> {
        self.writes.concat()
    }

    fn masker(&self) -> Masker {
        Masker::new(&self.values, &self.prefixes)
    }

    fn expected(&self, input: &[u8]) -> Vec<u8> {
        reference::mask(&strs(&self.values), &strs(&self.prefixes), input)
    }
}

fn strs(strings: &[String]) -> Vec<&str> {
    strings.iter().map(String::as_str).collect()
}

fn below(g: &mut Gen, limit: usize) -> usize {
    usize::arbitrary(g) % limit
}

fn fragments(g: &mut Gen, most: usize) -> String {
    (0..=below(g, most))
        .filter_map(|_| g.choose(FRAGMENTS).copied())
        .collect()
}

fn check(law: fn(Case) -> bool) {
    QuickCheck::new().tests(500).max_tests(500).quickcheck(law);
}

#[test]
fn masking_does_not_depend_on_the_cuts() {
    fn law(case: Case) -> bool {
        let input = case.input();
        let expected = case.expected(&input);
        let mut masker = case.masker();
        let compact = run(&mut masker, case.writes.iter().map(Vec::as_slice));
        let whole = run(&mut masker, [input.as_slice()]);
        masker.use_fast();
        let fast = run(&mut masker, case.writes.iter().map(Vec::as_slice));
        let bytes = run(&mut masker, input.chunks(1));
        [compact, whole, fast, bytes] == [(); 4].map(|()| expected.clone())
    }
    check(law);
}

/// The same with secrets that are long enough for the prefilter, and more text between them.
#[test]
fn masking_does_not_depend_on_the_prefilter() {
    fn law(mut case: Case) -> bool {
        case.values.retain(|value| value.trim().len() >= 3);
        case.prefixes.retain(|prefix| prefix.len() >= 3);
        let between = "tok ".repeat(9);
        for (number, write) in case.writes.iter_mut().enumerate() {
            match number % 3 {
                0 => write.extend_from_slice(between.as_bytes()),
                1 => write.splice(0..0, between.bytes()).for_each(drop),
                _ => {}
            }
        }
        let input = case.input();
        let writes = || case.writes.iter().map(Vec::as_slice);
        let with = run(&mut case.masker(), writes());
        let without = run(&mut case.masker().without_prefilter(), writes());
        let whole = run(&mut case.masker(), [input.as_slice()]);
        // A long write, of which the automaton sees but a little.
        let long = [&input[..], &[b'-'; 300]].concat().repeat(10);
        let again = run(&mut case.masker(), [long.as_slice()]);
        [with, without, whole] == [(); 3].map(|()| case.expected(&input))
            && again == case.expected(&long)
    }
    check(law);
}

/// What came out is right whatever comes next, and nothing waits without a reason.
#[test]
fn held_bytes_are_those_that_may_become_a_secret() {
    fn law(case: Case) -> bool {
        let mut masker = case.masker();
        let (mut seen, mut shown) = (Vec::new(), Vec::new());
        let values = strs(&case.values);
        case.writes.iter().all(|write| {
            masker.write(write, |out| shown.extend_from_slice(out));
            seen.extend_from_slice(write);
            let completions = values.iter().flat_map(|value| {
                let value = value.trim().as_bytes();
                (0..value.len()).map(move |from| &value[from..])
            });
            let future = [b"".as_slice(), b"x", b" "];
            completions.chain(future).all(|next| {
                let all = [seen.as_slice(), next].concat();
                case.expected(&all).starts_with(&shown)
            }) && (reference::ends_inside_a_value(&values, &seen) || shown == case.expected(&seen))
        })
    }
    check(law);
}

#[test]
fn a_mark_is_what_can_be_read() {
    fn law(case: Case, garbage: Vec<u8>, ranges: Vec<(u16, u16)>) -> bool {
        let mut spool = TraceSpool::new(case.masker(), DEFAULT_TRACE_LIMIT);
        let mut last = 0;
        let writes = case.writes.iter().chain([&garbage]).chain(&case.writes);
        for (number, write) in writes.enumerate() {
            // Some of what is text is said to be.
            match number % 2 == 0 && std::str::from_utf8(write).is_ok() {
                true => spool.write_text(write),
                false => spool.write(write),
            }
            let mark = spool.mark();
            let log = log_of(&mut spool);
            if mark.crc32 != crc32fast::hash(&log) || mark.len < last {
                return false;
            }
            last = mark.len;
        }
        let written = [case.input(), garbage.clone(), case.input()].concat();
        let expected = case.expected(&reference::repaired(&written));
        let mark = spool.finish();
        let log = log_of(&mut spool);
        log == expected
            && mark.crc32 == crc32fast::hash(&log)
            && ranges.iter().all(|&(from, to)| {
                let (from, to) = (u64::from(from) % 300, u64::from(to) % 300);
                let read = spool.read(from..to).map(|chunks| chunks.concat());
                let slice = log.get(from as usize..to as usize);
                read.as_deref() == slice
            })
    }
    QuickCheck::new()
        .tests(1_000)
        .max_tests(1_000)
        .quickcheck(law as fn(Case, Vec<u8>, Vec<(u16, u16)>) -> bool);
}

#[test]
fn long_logs_read_the_same_in_any_pieces() {
    fn law(lines: Vec<u16>, reads: Vec<(u32, u32)>) -> bool {
        let mut spool = TraceSpool::new(Masker::none(), DEFAULT_TRACE_LIMIT);
        let mut whole = Vec::new();
        let mut reads = reads.into_iter().cycle();
        for (n, len) in lines.into_iter().enumerate() {
            let line = vec![b'0' + (n % 75) as u8; usize::from(len) % 5000];
            spool.write(&line);
            whole.extend_from_slice(&line);
            let Some((from, to)) = reads.next() else {
                continue;
            };
            let end = whole.len() + 1;
            let (from, to) = (from as usize % end, to as usize % end);
            let read = spool.read(from as u64..to as u64);
            if read.map(|chunks| chunks.concat()).as_deref() != whole.get(from..to) {
                return false;
            }
        }
        log_of(&mut spool) == whole && spool.mark().crc32 == crc32fast::hash(&whole)
    }
    QuickCheck::new()
        .tests(300)
        .quickcheck(law as fn(Vec<u16>, Vec<(u32, u32)>) -> bool);
}
