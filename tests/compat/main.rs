//! Programs in the style of those that were written for collabora's `gitlab-runner` 0.3.2, and what
//! they rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod builds;
mod forwarding;
mod lab;
mod layer;
mod support;
mod surface;
mod timing;
