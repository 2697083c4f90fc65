//! UTF-8 repair, marks, the end of a log, and reading.

use super::{log_of, masker, text};
use crate::trace::{DEFAULT_TRACE_LIMIT, TraceMark, TraceSpool};

fn spool(values: &[&str]) -> TraceSpool {
    TraceSpool::new(masker(values, &[]), DEFAULT_TRACE_LIMIT)
}

#[test]
fn each_bad_byte_becomes_one_replacement() {
    let cases: &[(&[u8], &str)] = &[
        (b"\xE2\x82A", "\u{FFFD}\u{FFFD}A"),
        (
            b"\xF0\x9F\x90\xF0\x9F\x90\xA4",
            "\u{FFFD}\u{FFFD}\u{FFFD}🐤",
        ),
        (b"a\xC3", "a\u{FFFD}"),
        (b"\xE2\x82", "\u{FFFD}\u{FFFD}"),
        (b"\xF0\x9F\x90", "\u{FFFD}\u{FFFD}\u{FFFD}"),
        (b"\xC3\xC3\xBC", "\u{FFFD}ü"),
        (b"\xED\xA0\x80", "\u{FFFD}\u{FFFD}\u{FFFD}"),
        (b"\xC0\x80|\xFF\xFE", "\u{FFFD}\u{FFFD}|\u{FFFD}\u{FFFD}"),
        (
            b"\x80ok\xF4\x90\x80\x80",
            "\u{FFFD}ok\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}",
        ),
        ("─ü🐤".as_bytes(), "─ü🐤"),
        (b"", ""),
    ];
    for (input, expected) in cases {
        for first in 0..=input.len() {
            for second in first..=input.len() {
                let mut spool = spool(&[]);
                spool.write(&input[..first]);
                spool.write(&input[first..second]);
                spool.write(&input[second..]);
                spool.finish();
                assert_eq!(text(&log_of(&mut spool)), *expected, "{first} {second}");
            }
        }
        let mut spool = spool(&[]);
        for byte in *input {
            spool.write(&[*byte]);
        }
        spool.finish();
        assert_eq!(text(&log_of(&mut spool)), *expected);
    }
}

#[test]
fn an_unfinished_character_waits() {
    let mut spool = spool(&[]);
    spool.write(b"a\xE2\x82");
    assert_eq!(spool.mark().len, 1);
    spool.write(b"");
    assert_eq!(spool.mark().len, 1);
    spool.write(b"\xAC");
    assert_eq!(text(&log_of(&mut spool)), "a€");
}

#[test]
fn repair_comes_before_masking() {
    let mut spool = spool(&["a\u{FFFD}b"]);
    spool.write(b"<a\xFF");
    spool.write(b"b>");
    spool.finish();
    assert_eq!(text(&log_of(&mut spool)), "<[MASKED]>");
}

#[test]
fn held_bytes_are_not_in_the_mark() {
    let mut spool = spool(&["secret"]);
    spool.write(b"a secre");
    assert_eq!(text(&log_of(&mut spool)), "a ");
    assert_eq!(spool.read(0..3), None);
    spool.write(b"t");
    assert_eq!(text(&log_of(&mut spool)), "a [MASKED]");
    spool.write(b"secrexsec");
    assert_eq!(text(&log_of(&mut spool)), "a [MASKED]secrex");
    let mark = spool.finish();
    assert_eq!(text(&log_of(&mut spool)), "a [MASKED]secrexsec");
    assert_eq!(mark.crc32, crc32fast::hash(b"a [MASKED]secrexsec"));
}

#[test]
fn streams_and_stages_are_one() {
    let mut spool = spool(&["stdout+stderr"]);
    for write in ["stdout", "+", "stderr"] {
        spool.write(write.as_bytes());
    }
    assert_eq!(text(&log_of(&mut spool)), "[MASKED]");
}

#[test]
fn the_end_is_final() {
    let mut spool = spool(&["secret"]);
    spool.write(b"a sec\xC3");
    let mark = spool.finish();
    assert_eq!(text(&log_of(&mut spool)), "a sec\u{FFFD}");
    assert_eq!(spool.dropped_bytes(), 0);
    spool.write(b"late");
    spool.write(b"r");
    assert_eq!(spool.dropped_bytes(), 5);
    assert_eq!((spool.finish(), spool.mark()), (mark, mark));
    assert_eq!(text(&log_of(&mut spool)), "a sec\u{FFFD}");
}

#[test]
fn what_cannot_be_read() {
    let mut spool = spool(&[]);
    assert_eq!(spool.mark(), TraceMark::default());
    assert_eq!(spool.read(0..0), Some(Vec::new()));
    assert_eq!(spool.read(0..1), None);
    spool.write(b"12345");
    assert_eq!(spool.read(5..5), Some(Vec::new()));
    assert_eq!(spool.read(6..6), None);
    assert_eq!(spool.read(3..6), None);
    #[expect(clippy::reversed_empty_ranges, reason = "a range that goes backwards")]
    let backwards = spool.read(4..2);
    assert_eq!(backwards, None);
    assert_eq!(spool.read(0..u64::MAX), None);
    assert_eq!(spool.read(1..4).unwrap().concat(), b"234");
}

#[test]
fn reading_copies_nothing() {
    let mut spool = spool(&[]);
    for n in 0..3000 {
        spool.write(format!("line {n} of a log that takes several blocks of memory\n").as_bytes());
    }
    let len = spool.mark().len;
    let once = spool.read(0..len).unwrap();
    let again = spool.read(10..len - 10).unwrap();
    assert_eq!(once[0][10..].as_ptr(), again[0].as_ptr());
    for (once, again) in once.iter().zip(&again).skip(1) {
        assert_eq!(once.as_ptr(), again.as_ptr());
    }
    // The next line goes on in the block from which the last chunk was cut.
    spool.write(b"more");
    let more = spool.read(len..len + 4).unwrap();
    let last = once.last().unwrap().as_ptr_range();
    assert_eq!(last.end, more[0].as_ptr());
}

#[test]
fn a_range_may_end_where_a_chunk_does() {
    let mut spool = spool(&[]);
    spool.write(b"one");
    assert_eq!(spool.read(0..3).unwrap(), ["one"]);
    spool.write(b"two");
    assert_eq!(spool.read(3..6).unwrap(), ["two"]);
    assert_eq!(spool.read(0..3).unwrap(), ["one"]);
    assert_eq!(spool.read(0..6).unwrap(), ["one", "two"]);
}

#[test]
fn frequent_reads_leave_few_chunks() {
    let mut spool = spool(&[]);
    let mut whole = Vec::new();
    for n in 0..20_000 {
        let line = format!("{n}\n");
        let from = spool.mark().len;
        spool.write(line.as_bytes());
        let read = spool.read(from..spool.mark().len).unwrap();
        assert_eq!(read.concat(), line.as_bytes());
        whole.extend_from_slice(line.as_bytes());
    }
    let chunks = spool.read(0..whole.len() as u64).unwrap();
    assert_eq!(chunks.concat(), whole);
    assert!(chunks.len() < 500, "{} chunks", chunks.len());
    assert_eq!(spool.mark().crc32, crc32fast::hash(&whole));
}

#[test]
fn cold_bytes_can_go_elsewhere() {
    let mut spool = spool(&[]);
    let (mut whole, mut elsewhere) = (Vec::new(), Vec::new());
    for n in 0..50_000_u32 {
        let line = format!("line {n}\n");
        spool.write(line.as_bytes());
        whole.extend_from_slice(line.as_bytes());
        let len = whole.len() as u64;
        if n % 7 == 0 {
            let last = spool.read(len - 1..len).unwrap();
            assert_eq!(last.concat(), b"\n");
        }
        if n % 5000 == 0 {
            assert_eq!(spool.start(), elsewhere.len() as u64);
            elsewhere.extend(spool.cold(10_000).concat());
            spool.forget(elsewhere.len() as u64);
            assert_eq!(spool.start(), elsewhere.len() as u64);
            assert!(spool.in_memory() >= 10_000.min(len));
            assert!(spool.in_memory() < 10_000 + (128 << 10));
        }
    }
    let (start, len) = (spool.start(), whole.len() as u64);
    assert!(start > len / 2);
    let rest = spool.read(start..len).unwrap().concat();
    elsewhere.extend_from_slice(&rest);
    assert_eq!(elsewhere, whole);
    assert_eq!(spool.mark().crc32, crc32fast::hash(&whole));
    assert_eq!(spool.read(start - 1..len), None);
    assert_eq!(spool.read(0..0), Some(Vec::new()));
    // In the middle of a chunk, or beyond what is cold, nothing more is dropped than whole chunks.
    spool.forget(start + 1);
    assert_eq!(spool.start(), start);
    spool.forget(u64::MAX);
    assert_eq!(spool.start() + spool.in_memory(), len);
    assert!(spool.cold(0).is_empty());
}

#[test]
fn blocks_grow_to_64_kib() {
    let mut spool = spool(&[]);
    let line = [b'x'; 100];
    for _ in 0..20_000 {
        spool.write(&line);
    }
    let chunks = spool.read(0..2_000_000).unwrap();
    assert_eq!(chunks[0].len(), 1024);
    assert!(chunks.len() < 45, "{} chunks", chunks.len());
    assert!(chunks.iter().all(|chunk| chunk.len() <= 64 << 10));
}

#[test]
fn debug_shows_no_log() {
    let mut spool = spool(&["hidden"]);
    spool.write(b"visible hid");
    let shown = format!("{spool:?}");
    assert!(
        !shown.contains("hid") && !shown.contains("visible"),
        "{shown}"
    );
    let shown = format!("{spool:?}");
    assert!(shown.starts_with("TraceSpool { mark: "), "{shown}");
    assert!(!spool.has_timestamps() && spool.with_timestamps().has_timestamps());
}

#[test]
fn a_mark_survives_serde() {
    let mark = TraceMark { len: 3, crc32: 7 };
    let json = serde_json::to_string(&mark).unwrap();
    assert_eq!(json, r#"{"len":3,"crc32":7}"#);
    assert_eq!(serde_json::from_str::<TraceMark>(&json).unwrap(), mark);
}
