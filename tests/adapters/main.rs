//! The adapters and the loopback server, against each other and against servers that misbehave,
//! over real sockets on 127.0.0.1.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests, too"
)]

#[cfg(feature = "async-std")]
mod async_std_isahc;
#[cfg(feature = "tokio")]
mod bad;
mod custom;
#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
mod environment;
#[cfg(feature = "tokio")]
mod loopback;
#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
mod options;
#[cfg(feature = "tokio")]
mod recording;
mod runner;
#[cfg(feature = "smol")]
mod smol_hyper;
mod subjects;
#[cfg(feature = "tokio")]
mod tokio_hyper;
