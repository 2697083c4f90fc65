//! What a log costs on its way through a spool, against the least that its work can cost.
//!
//! The spool takes the log in lines of 100 bytes, with no, few and many masked values. The yardstick
//! beside it looks for the same patterns with aho-corasick (which finds, but masks nothing), takes
//! the CRC-32 and makes a copy, each over the whole log at once. Both in turn, many times; what
//! counts is their ratio.

use std::{env, hint::black_box, time::Instant};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use gitlab_runner::trace::{DEFAULT_TOKEN_PREFIXES, Masker, TraceSpool};

const LINE: usize = 100;
const LINES: usize = 160_000;
const VALUES: [usize; 3] = [0, 10, 100];
const REPETITIONS: usize = 15;
const BUDGET: f64 = 1.3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Anything else is `cargo test --benches`: whether it works at all.
    let real = env::args().any(|argument| argument == "--bench");
    let (lines, repetitions) = if real { (LINES, REPETITIONS) } else { (200, 1) };
    if real {
        println!("spool: time over that of the yardstick, {repetitions} times in turn");
        println!("  values    ns a line   yardstick   ratio (lowest, median, highest)");
    }
    for count in VALUES {
        let values: Vec<String> = (0..count).map(secret).collect();
        let log = log(lines, &values);
        let patterns = values
            .iter()
            .map(String::as_str)
            .chain(DEFAULT_TOKEN_PREFIXES.iter().copied());
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .prefilter(false)
            // Its fastest kind; with 100 values it would not be chosen by itself.
            .kind(Some(AhoCorasickKind::DFA))
            .build(patterns)?;
        let mut pairs = Vec::new();
        for _ in 0..repetitions {
            let yard = timed(|| yardstick(&finder, &log));
            let spool = timed(|| spooled(&values, &log));
            pairs.push((spool / yard, spool, yard));
        }
        pairs.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (median, spool, yard) = pairs[repetitions / 2];
        if real {
            let per_line = |seconds: f64| seconds * 1e9 / lines as f64;
            let verdict = if median <= BUDGET { "ok" } else { "ABOVE" };
            println!(
                "  {count:>6} {:>12.0} {:>11.0}   {:.2}, {median:.2}, {:.2}   budget {BUDGET}: {verdict}",
                per_line(spool),
                per_line(yard),
                pairs[0].0,
                pairs[repetitions - 1].0,
            );
        }
    }
    Ok(())
}

/// In seconds.
fn timed<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    let result = black_box(work());
    let taken = start.elapsed().as_secs_f64();
    drop(result);
    taken
}

fn yardstick(finder: &AhoCorasick, log: &[u8]) -> (usize, u32, Vec<u8>) {
    let found = finder.find_iter(log).count();
    (found, crc32fast::hash(log), log.to_vec())
}

fn spooled(values: &[String], log: &[u8]) -> TraceSpool {
    let masker = Masker::new(values, [] as [&str; 0]);
    let mut spool = TraceSpool::new(masker, u64::MAX);
    for line in log.chunks(LINE) {
        spool.write(line);
    }
    spool.finish();
    spool
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// 20 characters, as of a generated password.
fn secret(number: usize) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15 ^ (number as u64 + 1));
    (0..20)
        .map(|_| char::from(LETTERS[numbers.below(LETTERS.len())]))
        .collect()
}

/// Lines as of a build, every 500th with one of the values in it.
fn log(lines: usize, values: &[String]) -> Vec<u8> {
    const WORDS: &[&str] = &[
        "Compiling",
        "serde",
        "v1.0.219",
        "warning:",
        "unused",
        "variable",
        "src/main.rs:42:17",
        "test",
        "result:",
        "ok.",
        "passed;",
        "failed;",
        "[INFO]",
        "Downloading",
        "from",
        "central:",
        "https://repo.example.com/maven2/org/apache/",
        "100%",
        "=",
        "target/release",
        "-O2",
        "-Wall",
        "gcc",
        "-c",
        "\x1b[32;1m$ make",
        "\x1b[0;m",
        "job",
        "token",
        "password",
        "glib",
        "100/200",
    ];
    let mut numbers = Numbers(42);
    let mut log = Vec::with_capacity(lines * LINE);
    for number in 0..lines {
        let end = (number + 1) * LINE - 1;
        if number % 500 == 499
            && let Some(value) = values.get(number / 500 % values.len().max(1))
        {
            log.extend_from_slice(value.as_bytes());
        }
        while log.len() < end {
            log.extend_from_slice(WORDS[numbers.below(WORDS.len())].as_bytes());
            log.push(b' ');
        }
        log.truncate(end);
        log.push(b'\n');
    }
    log
}
