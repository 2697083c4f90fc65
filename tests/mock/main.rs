//! The simulated GitLab, held against what GitLab's server does: bare requests in, answers out, in
//! virtual time. Nothing of the runner's side takes part.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests are not seen as such"
)]

mod artifact_download;
mod artifact_upload;
mod cancel;
mod dependencies;
mod early_reply;
mod job_auth;
mod job_request;
mod limits;
mod long_poll;
mod payload;
mod pipelines;
mod report;
mod runners;
mod storage;
mod trace;
mod two_phase;
mod update;
mod variants;
mod world;
