//! The bodies of the fuzz targets. Each takes any bytes, and panics if a law is broken.
//!
//! Three callers share them: the targets in `fuzz/`, with what libFuzzer makes up; `tests/corpus.rs`,
//! with the committed corpora; and its laws, with bytes by quickcheck. Nothing here belongs to the
//! public interface of the crate.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target says what it found"
)]

pub mod error_body;
pub mod expand;
pub mod extract;
pub mod glob;
pub mod har;
pub mod headers;
pub mod job_payload;
pub mod machine;
pub mod masker;
pub mod multipart;
pub mod transcript;
pub mod url;

/// What a target does with bytes.
pub type Body = fn(&[u8]);

/// Each target by its name, which is also that of its corpus.
pub const TARGETS: &[(&str, Body)] = &[
    ("error_body", error_body::run),
    ("expand", expand::run),
    ("extract", extract::run),
    ("glob", glob::run),
    ("har", har::run),
    ("headers", headers::run),
    ("job_payload", job_payload::run),
    ("machine", machine::run),
    ("masker", masker::run),
    ("multipart", multipart::run),
    ("transcript", transcript::run),
    ("url", url::run),
];
