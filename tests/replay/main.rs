//! Recorded sessions between a runner and GitLab, replayed: the runner has to ask what it asked then,
//! byte for byte.
//!
//! The archives in `sessions/` were made by `make.rs` against the simulated GitLab, some of them in
//! the words of `mitmproxy`; those whose name begins with `official` were written by hand after what
//! GitLab's own runner sends. To make them again after a change that is meant:
//! `cargo test --test replay -- --ignored make_the_sessions`, and look at the difference before you
//! commit it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod damaged;
mod dialects;
mod foreign;
mod handler;
mod lenient;
mod machine;
mod make;
mod mismatches;
mod mitmproxy;
mod recorder;
mod sessions;
mod transcripts;
mod world;
