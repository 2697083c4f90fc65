//! Against a slow reference that sees the whole input at once, for every way to cut it.

use quickcheck::{Gen, QuickCheck};

use super::*;

/// One byte at a time over the whole input; knows nothing of streams.
fn reference(secrets: &[&str], prefixes: &[&str], input: &[u8]) -> Vec<u8> {
    let prefixes: Vec<&str> = DEFAULT_TOKEN_PREFIXES
        .iter()
        .chain(prefixes)
        .copied()
        .collect();
    let names = [
        "private_token",
        "authenticity_token",
        "rss_token",
        "x-amz-signature",
        "x-amz-credential",
        "x-amz-security-token",
    ];
    let mut found: Vec<(usize, usize)> = Vec::new();
    let mut values = Vec::new();
    for at in 0..input.len() {
        for secret in secrets
            .iter()
            .map(|secret| secret.trim())
            .filter(|s| !s.is_empty())
        {
            if input[at..].starts_with(secret.as_bytes()) {
                found.push((at, at + secret.len()));
            }
        }
        for name in names {
            let begin = at + 1 + name.len() + 1;
            if matches!(input[at], b'?' | b'&')
                && input.len() >= begin
                && input[at + 1..begin - 1].eq_ignore_ascii_case(name.as_bytes())
                && input[begin - 1] == b'='
            {
                let value = input[begin..]
                    .iter()
                    .take_while(|b| {
                        !matches!(b, b'?' | b'&')
                            && !b.is_ascii_whitespace()
                            && !b.is_ascii_control()
                    })
                    .count();
                found.push((begin, begin + value));
                values.push((begin, begin + value));
            }
        }
    }
    // Tokens: each tail belongs to the first prefix that opens it.
    let is_tail = |b: &u8| b.is_ascii_alphanumeric() || b"._=-".contains(b);
    let mut open_until = 0;
    for end in 1..=input.len() {
        let in_value = values.iter().any(|(from, to)| *from < end && end <= *to);
        if end >= open_until
            && !in_value
            && prefixes
                .iter()
                .any(|prefix| input[..end].ends_with(prefix.as_bytes()))
        {
            let tail = input[end..].iter().take_while(|b| is_tail(b)).count();
            if tail > 0 {
                found.push((end, end + tail));
                open_until = end + tail + 1;
            }
        }
    }
    // An empty value right behind something masked needs no mask of its own.
    let ends: Vec<usize> = found
        .iter()
        .filter(|(from, to)| from < to)
        .map(|(_, to)| *to)
        .collect();
    found.retain(|(from, to)| from < to || !ends.contains(from));
    found.sort_unstable();
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (from, to) in found {
        match merged.last_mut() {
            Some(last) if from < last.1 || from == last.0 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    let (mut out, mut at) = (Vec::new(), 0);
    for (from, to) in merged {
        out.extend_from_slice(&input[at..from]);
        out.extend_from_slice(b"[MASKED]");
        at = to;
    }
    out.extend_from_slice(&input[at..]);
    out
}

fn mask(secrets: &[&str], prefixes: &[&str], parts: &[&[u8]]) -> Vec<u8> {
    let mut masker = Masker::new(secrets, prefixes);
    let mut out = Vec::new();
    for part in parts {
        masker.write(part, |bytes| out.extend_from_slice(bytes));
    }
    masker.finish(|bytes| out.extend_from_slice(bytes));
    out
}

/// Every cut into two and three parts, and byte by byte.
fn assert_masks(secrets: &[&str], prefixes: &[&str], input: &str, expected: &str) {
    let bytes = input.as_bytes();
    let show = |out: Vec<u8>| String::from_utf8_lossy(&out).into_owned();
    assert_eq!(
        show(reference(secrets, prefixes, bytes)),
        expected,
        "reference for {input:?}"
    );
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(
        show(mask(secrets, prefixes, &single)),
        expected,
        "{input:?} byte by byte"
    );
    for a in 0..=bytes.len() {
        for b in a..=bytes.len() {
            let parts = [&bytes[..a], &bytes[a..b], &bytes[b..]];
            assert_eq!(
                show(mask(secrets, prefixes, &parts)),
                expected,
                "{input:?} at {a}, {b}"
            );
        }
    }
}

#[test]
fn values_are_masked_wherever_the_stream_is_cut() {
    let cases: &[(&[&str], &str, &str)] = &[
        (&["secrets"], "ssecrets", "s[MASKED]"),
        (&["secrets"], "secretssecrets", "[MASKED][MASKED]"),
        (
            &["mask", "prefix_mask"],
            "prefix_mask mask prefix_mask prefix_mask mask",
            "[MASKED] [MASKED] [MASKED] [MASKED] [MASKED]",
        ),
        (
            &["this is the end", "en foobar", "en"],
            "this is the en foobar",
            "this is the [MASKED]",
        ),
        (&["foo", "bar"], "ffooo bbarr", "f[MASKED]o b[MASKED]r"),
        (
            &["line one\nline two"],
            "a line one\nline two b",
            "a [MASKED] b",
        ),
        (&["abc", "bcd"], "xabcdx", "x[MASKED]x"),
        (&["aa"], "aaa", "[MASKED]"),
        (&["aa", "aaaa"], "aaaaaa b aa", "[MASKED] b [MASKED]"),
        (&["abcabcabd"], "abcabcabcabd", "abc[MASKED]"),
        (&[" trimmed ", "", "  "], "is trimmed.", "is [MASKED]."),
        (&["pässwörd"], "ä pässwörd ö", "ä [MASKED] ö"),
        (&["abcdef", "cd"], "abcdx", "ab[MASKED]x"),
        (&["abcdef", "cde"], "abcde", "ab[MASKED]"),
    ];
    for (secrets, input, expected) in cases {
        assert_masks(secrets, &[], input, expected);
    }
}

#[test]
fn where_the_official_masker_leaks_ours_does_not() {
    assert_masks(&["aab"], &[], "aaab", "a[MASKED]");
    assert_masks(&["abcabd"], &[], "abcabcabd", "abc[MASKED]");
    assert_masks(&["ab", "XYZ"], &[], "aXYZc", "a[MASKED]c");
    assert_masks(&[], &[], "ends with glpat-", "ends with glpat-");
    let many: Vec<String> = (0..40)
        .map(|n| format!("company-{}-", "x".repeat(n)))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let longest = many[39];
    let out = mask(&[], &many, &[format!("{longest}secret").as_bytes()]);
    assert_eq!(out, format!("{longest}[MASKED]").as_bytes());
}

#[test]
fn tokens_are_masked_behind_their_prefix() {
    let cases = [
        ("glpat-imperdiet_=-.x end", "glpat-[MASKED] end"),
        ("esseglpat-imperdiet=_-. end", "esseglpat-[MASKED] end"),
        ("glpat- x", "glpat- x"),
        ("glpat-impglpat-erdiet", "glpat-[MASKED]"),
        ("_gitlab_session=abc;x", "_gitlab_session=[MASKED];x"),
        (
            "glrtr-1 glrt-2 glptt-3",
            "glrtr-[MASKED] glrt-[MASKED] glptt-[MASKED]",
        ),
    ];
    for (input, expected) in cases {
        assert_masks(&[], &[], input, expected);
    }
    assert_masks(&[], &["acme-"], "acme-hidden!", "acme-[MASKED]!");
    // A masked value that is a token as well: all of it goes.
    assert_masks(&["glpat-abc"], &[], "x glpat-abc y", "x [MASKED] y");
    assert_masks(&["glpat-abc"], &[], "x glpat-abcdef y", "x [MASKED] y");
}

#[test]
fn secret_url_parameters_are_masked() {
    let cases = [
        (
            "https://x/?private_token=abc&a=b",
            "https://x/?private_token=[MASKED]&a=b",
        ),
        ("?X-AMZ-Signature=äöü x", "?X-AMZ-Signature=[MASKED] x"),
        (
            "?a=b&RSS_token=1?rss_token=2",
            "?a=b&RSS_token=[MASKED]?rss_token=[MASKED]",
        ),
        ("?rss_token=", "?rss_token=[MASKED]"),
        ("?rss_token=&x", "?rss_token=[MASKED]&x"),
        ("rss_token=x", "rss_token=x"),
        ("?xrss_token=x ?rss_tokens=x", "?xrss_token=x ?rss_tokens=x"),
        ("??rss_token=a\u{1}b", "??rss_token=[MASKED]\u{1}b"),
        (
            "?x-amz-security-token=1&x-amz-credential=2",
            "?x-amz-security-token=[MASKED]&x-amz-credential=[MASKED]",
        ),
    ];
    for (input, expected) in cases {
        assert_masks(&[], &[], input, expected);
    }
    assert_masks(&["abc"], &[], "?rss_token=xabcx y", "?rss_token=[MASKED] y");
}

#[test]
fn a_very_long_secret_is_found_across_writes() {
    let secret = "0123456789abcdef".repeat(1000);
    let (a, b) = secret.split_at(8000);
    assert_eq!(
        mask(&[&secret], &[], &[b"<", a.as_bytes(), b.as_bytes(), b">"]),
        b"<[MASKED]>"
    );
}

#[test]
fn any_secrets_any_input_any_cut() {
    fn law(secrets: Vec<Vec<u8>>, input: Vec<u8>, cuts: Vec<usize>) -> bool {
        const WORDS: [&str; 16] = [
            "a",
            "b",
            "ab",
            "ba",
            "aab",
            "?",
            "&",
            "=",
            "?rss_token=",
            "&RSS_TOKEN=",
            "glpat-",
            "acme-",
            " ",
            "-",
            "\n",
            "ä",
        ];
        let text = |indexes: &[u8]| -> String {
            indexes
                .iter()
                .map(|index| WORDS[usize::from(*index) % WORDS.len()])
                .collect()
        };
        let secrets: Vec<String> = secrets
            .iter()
            .map(|secret| text(&secret[..secret.len().min(4)]))
            // A secret that is a trigger itself is masked, and triggers nothing.
            .filter(|secret| !["?", "&", "acme-"].contains(&secret.trim()))
            .filter(|secret| !DEFAULT_TOKEN_PREFIXES.contains(&secret.trim()))
            .collect();
        let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
        let input = text(&input);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts
            .windows(2)
            .map(|pair| &input.as_bytes()[pair[0]..pair[1]])
            .collect();
        let (ours, theirs) = (
            mask(&secrets, &["acme-"], &parts),
            reference(&secrets, &["acme-"], input.as_bytes()),
        );
        if ours != theirs {
            eprintln!(
                "{secrets:?} {input:?}\n ours {:?}\n reference {:?}",
                String::from_utf8_lossy(&ours),
                String::from_utf8_lossy(&theirs)
            );
        }
        ours == theirs
    }
    QuickCheck::new()
        .tests(2_000)
        .rng(Gen::new(24))
        .quickcheck(law as fn(Vec<Vec<u8>>, Vec<u8>, Vec<usize>) -> bool);
}

fn spool(limit: u64) -> TraceSpool {
    TraceSpool::new(Masker::none(), limit)
}

fn content(spool: &mut TraceSpool) -> Vec<u8> {
    let len = spool.mark().len;
    spool.read(0..len).expect("the whole log").concat()
}

#[test]
fn the_limit_cuts_before_a_character_and_says_so_once() {
    let cases: &[(&[&str], u64, &str, u64, u32)] = &[
        (
            &["This is a basic log line"],
            1 << 20,
            "This is a basic log line",
            24,
            0x367d_feeb,
        ),
        (
            &["Build trace with secret and multi-byte ü character"],
            1 << 20,
            "Build trace with secret and multi-byte ü character",
            51,
            0x0d7c_f601,
        ),
        (
            &["This is the long message"; 3],
            10,
            "This is th",
            127,
            0x2959_21ca,
        ),
        (&["0123456789"; 3], 10, "0123456789", 0, 0xd4b9_9d81),
        (&["ǲ"; 9], 5, "ǲǲ", 0, 0x318d_2180),
        (&["ǲ"; 9], 6, "ǲǲǲ", 0, 0x8c2a_1eda),
        (&["─"; 9], 20, "──────", 0, 0xf187_099c),
        (&["─"; 9], 1, "", 0, 0x9e26_1b5f),
        (&["🐤"; 9], 23, "🐤🐤🐤🐤🐤", 0, 0x10e3_2ecd),
        (&["🐤"; 9], 24, "🐤🐤🐤🐤🐤🐤", 0, 0x26e4_3372),
        (
            &["data before limit\n", "data after limit\n"],
            20,
            "data before limit\nda",
            0,
            0x559a_a46f,
        ),
    ];
    for (writes, limit, kept, size, crc32) in cases {
        let mut spool = spool(*limit);
        for write in *writes {
            spool.write(write.as_bytes());
        }
        let mark = spool.finish();
        let log = content(&mut spool);
        assert!(
            log.starts_with(kept.as_bytes()),
            "{limit}: {:?}",
            String::from_utf8_lossy(&log)
        );
        assert_eq!(
            mark.crc32,
            *crc32,
            "{limit}: {:?}",
            String::from_utf8_lossy(&log)
        );
        assert_eq!(mark.len, log.len() as u64);
        assert!(*size == 0 || mark.len == *size);
    }
}

#[test]
fn an_empty_log_has_the_checksum_of_nothing() {
    assert_eq!(spool(100).finish(), TraceMark { len: 0, crc32: 0 });
}

#[test]
fn each_bad_byte_becomes_one_replacement_and_split_characters_are_whole() {
    let cases: &[(&[u8], &str)] = &[
        (b"\xE2\x82A", "\u{fffd}\u{fffd}A"),
        (b"\xFF\xFEok", "\u{fffd}\u{fffd}ok"),
        ("a ü 🐤 z".as_bytes(), "a ü 🐤 z"),
        (
            b"\xF0\x9F\x90\xF0\x9F\x90\xA4",
            "\u{fffd}\u{fffd}\u{fffd}🐤",
        ),
        (b"end \xE2\x82", "end \u{fffd}\u{fffd}"),
        (b"\xED\xA0\x80", "\u{fffd}\u{fffd}\u{fffd}"),
    ];
    for (input, expected) in cases {
        for cut in 0..=input.len() {
            let mut spool = spool(1 << 20);
            spool.write(&input[..cut]);
            spool.write(&input[cut..]);
            spool.finish();
            assert_eq!(
                String::from_utf8_lossy(&content(&mut spool)),
                *expected,
                "cut at {cut}"
            );
        }
    }
}

#[test]
fn held_bytes_are_not_in_the_mark() {
    let mut spool = TraceSpool::new(Masker::new(["password"], [""; 0]), 1 << 20);
    spool.write(b"the passw");
    assert_eq!(spool.mark().len, 4);
    spool.write(b"ord is");
    assert_eq!(content(&mut spool), b"the [MASKED] is");
    spool.write(b" pass");
    assert_eq!(spool.finish().len, "the [MASKED] is pass".len() as u64);
    spool.write(b"late");
    assert_eq!((spool.dropped_bytes(), spool.finish().len), (4, 20));
}

#[test]
fn every_range_can_be_read_again() {
    fn law(writes: Vec<Vec<u8>>, from: usize, len: usize) -> bool {
        let mut spool = spool(1 << 30);
        let mut whole = Vec::new();
        for write in &writes {
            let text: String = write.iter().map(|byte| char::from(*byte)).collect();
            for _ in 0..200 {
                spool.write(text.as_bytes());
                whole.extend_from_slice(text.as_bytes());
            }
            let _ = spool.read(0..spool.mark().len);
        }
        let mark = spool.mark();
        let from = from % (whole.len() + 1);
        let to = (from + len % (whole.len() + 1)).min(whole.len());
        let read = spool
            .read(from as u64..to as u64)
            .map(|parts| parts.concat());
        mark == TraceMark {
            len: whole.len() as u64,
            crc32: crc32fast::hash(&whole),
        } && read.as_deref() == Some(&whole[from..to])
            && spool.read(0..mark.len + 1).is_none()
    }
    QuickCheck::new()
        .tests(200)
        .quickcheck(law as fn(Vec<Vec<u8>>, usize, usize) -> bool);
}

#[test]
fn nothing_secret_prints() {
    let mut spool = TraceSpool::new(Masker::new(["hunter2!"], ["acme-"]), 100);
    spool.write(b"hunter2");
    let debug = format!("{spool:?}");
    assert!(
        !debug.contains("hunter2") && !debug.contains("acme"),
        "{debug}"
    );
}
