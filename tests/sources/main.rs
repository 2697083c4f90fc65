//! How the example program gets the sources of jobs: with git, from a repository on loopback. The
//! clocks go fast, so that the pauses between attempts are short.
#![cfg(all(unix, feature = "tokio"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// The program's own modules, which know each other by these names.
#[path = "../../examples/shell_runner/bash.rs"]
mod bash;
#[path = "../../examples/shell_runner/environment.rs"]
mod environment;
#[path = "../faults/fast.rs"]
mod fast;
#[path = "../../examples/shell_runner/log.rs"]
mod log;
#[path = "../../examples/shell_runner/process.rs"]
#[allow(dead_code, reason = "the end of the program is not ours")]
mod process;
#[path = "../../examples/shell_runner/repository.rs"]
mod repository;
#[path = "../../examples/shell_runner/shell.rs"]
mod shell;
#[path = "../../examples/shell_runner/sources/mod.rs"]
mod sources;

mod options;
mod secrets;
mod strategies;
mod trouble;
mod world;
