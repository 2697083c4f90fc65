//! Hundreds of jobs against a server that fails: over real sockets, and in the simulator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod campaign;
mod endings;
mod fast;
mod simulated;
mod sockets;
