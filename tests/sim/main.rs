//! The whole runner in virtual time against a simulated GitLab.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests are not seen as such"
)]

mod artifacts;
mod bad_adapters;
mod control;
mod dependencies;
mod endings;
#[cfg(feature = "tracing")]
mod events;
mod file_variables;
mod life;
mod logs;
mod mishaps;
mod outages;
mod outcomes;
mod payload_variants;
mod requests;
mod scale;
mod secrets;
mod sections;
mod simulator;
mod slow_bodies;
mod start;
mod transfers;
mod user_code;
mod variables;
mod world;
