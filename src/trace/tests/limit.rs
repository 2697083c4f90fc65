//! The checksums of GitLab's own runner's buffer, which masks nothing.

use super::{log_of, masker, text};
use crate::trace::{DEFAULT_TRACE_LIMIT, Masker, TraceMark, TraceSpool};

fn unmasked(limit: u64) -> TraceSpool {
    TraceSpool::new(Masker::none(), limit)
}

fn repeated(text: &str, limit: u64) -> TraceSpool {
    let mut spool = unmasked(limit);
    for _ in 0..100 {
        spool.write(text.as_bytes());
    }
    spool
}

#[test]
fn short_logs() {
    let cases = [
        ("", 0, 0),
        ("This is a basic log line", 24, 0x367d_feeb),
        (
            "Build trace with secret and multi-byte ü character",
            51,
            0x0d7c_f601,
        ),
    ];
    for (text, len, crc32) in cases {
        let mut spool = unmasked(DEFAULT_TRACE_LIMIT);
        spool.write(text.as_bytes());
        assert_eq!(spool.finish(), TraceMark { len, crc32 }, "{text}");
        assert!(!spool.is_limited());
    }
}

#[test]
fn logs_that_reach_the_limit() {
    let cases = [
        ("This is the long message", 10, "This is th", 0x2959_21ca),
        ("0123456789", 10, "0123456789", 0xd4b9_9d81),
        ("ǲ", 5, "ǲǲ", 0x318d_2180),
        ("ǲ", 6, "ǲǲǲ", 0x8c2a_1eda),
        ("─", 20, "──────", 0xf187_099c),
        ("─", 1, "", 0x9e26_1b5f),
        ("🐤", 23, "🐤🐤🐤🐤🐤", 0x10e3_2ecd),
        ("🐤", 24, "🐤🐤🐤🐤🐤🐤", 0x26e4_3372),
    ];
    for (text, limit, kept, crc32) in cases {
        let mut spool = repeated(text, limit);
        assert!(spool.is_limited());
        let notice = format!(
            "\n\u{1b}[33;1mJob's log exceeded limit of {limit} bytes.\nJob execution will continue \
             but no more output will be collected.\u{1b}[0;m\n"
        );
        let log = log_of(&mut spool);
        assert_eq!(String::from_utf8(log).unwrap(), format!("{kept}{notice}"));
        let len = (kept.len() + notice.len()) as u64;
        assert_eq!(spool.finish(), TraceMark { len, crc32 }, "{text} {limit}");
    }
    let mut spool = repeated("This is the long message", 10);
    assert_eq!(spool.finish().len, 127);
}

/// However many pieces of it come after that.
#[test]
fn the_limit_is_told_of_once() {
    let notices = |spool: &mut TraceSpool| {
        spool.finish();
        let log = text(&log_of(spool));
        log.matches("exceeded limit").count()
    };
    let limited = |limit| TraceSpool::new(masker(&["secret"], &[]), limit);
    let mut spool = limited(10);
    spool.write(b"0123456789 secret, another secret, and half of a sec");
    assert_eq!(notices(&mut spool), 1);
    let mut spool = limited(1);
    spool.write(b"0123456789 and a bad byte: \xFF\xFF, and half of a char: \xC3");
    assert_eq!(notices(&mut spool), 1);
    // Not before there is something to be left out.
    let mut spool = limited(0);
    spool.write(b"");
    spool.write(b"sec");
    assert_eq!(spool.mark().len, 0);
    assert_eq!(notices(&mut spool), 1);
}

/// As GitLab's own runner does it, which does not wait for more.
#[test]
fn a_log_of_just_the_limit_has_reached_it() {
    for (limit, reached) in [(9, true), (10, true), (11, false)] {
        let mut spool = unmasked(limit);
        spool.write(b"0123456789");
        assert_eq!(spool.is_limited(), reached, "{limit}");
        assert_eq!(spool.finish().len > 10, reached, "{limit}");
    }
}

#[test]
fn the_rest_of_a_write_is_cut() {
    let mut spool = unmasked(20);
    spool.write(b"data before limit\n");
    assert!(!spool.is_limited());
    spool.write(b"data after limit\n");
    assert!(log_of(&mut spool).starts_with(b"data before limit\nda\n\x1b[33;1m"));
    assert_eq!(spool.mark().crc32, 0x559a_a46f);
}

#[test]
fn one_write_or_many_are_cut_alike() {
    for limit in 0..70 {
        let mut many = repeated("🐤 tweet ü\n", limit);
        let mut one = unmasked(limit);
        one.write("🐤 tweet ü\n".repeat(100).as_bytes());
        assert_eq!(log_of(&mut one), log_of(&mut many), "{limit}");
        assert_eq!(one.finish(), many.finish());
    }
}

#[test]
fn a_log_below_the_limit_is_whole() {
    let mut spool = unmasked(25);
    spool.write(b"This is a basic log line");
    assert_eq!(spool.finish().len, 24);
    assert!(!spool.is_limited());
}

#[test]
fn the_limit_counts_what_is_left_after_masking() {
    let masker = Masker::new(["a very long secret value"], ["x"; 0]);
    let mut spool = TraceSpool::new(masker, 30);
    spool.write(b"a very long secret value\na very long secret value\n");
    assert_eq!(log_of(&mut spool), b"[MASKED]\n[MASKED]\n");
    assert!(!spool.is_limited());
    spool.write(b"\xFF\xFF\xFF\xFF\xFF");
    assert!(spool.is_limited());
    assert!(
        log_of(&mut spool)
            .starts_with("[MASKED]\n[MASKED]\n\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\n".as_bytes())
    );
}

#[test]
fn the_default_limit_is_just_below_gitlabs() {
    assert_eq!(DEFAULT_TRACE_LIMIT, 99 * 1024 * 1024);
}
