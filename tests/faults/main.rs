//! Hundreds of jobs against a server that fails: over real sockets on each adapter, and in the
//! simulator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
mod artifacts;
mod campaign;
#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
mod endings;
mod fast;
mod simulated;
#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
mod sockets;
#[path = "../adapters/subjects.rs"]
mod subjects;
