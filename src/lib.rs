//! Build your own GitLab CI runner.

pub mod ids;
pub mod machine;
pub mod protocol;
pub mod secret;
pub mod time;
pub mod trace;
pub mod transport;

#[cfg(feature = "runner")]
pub mod adapter;
#[cfg(feature = "runner")]
mod error;
#[cfg(feature = "runner")]
mod handler;
#[cfg(feature = "mock")]
pub mod mock;
#[cfg(feature = "runner")]
mod runner;
#[cfg(feature = "sim")]
#[path = "../adapters/sim/mod.rs"]
pub mod sim;
#[cfg(feature = "runner")]
mod sync;

#[cfg(feature = "runner")]
pub use error::{RunError, RunErrorKind};
#[cfg(feature = "runner")]
pub use handler::{
    CancellableJobHandler, JobHandler, JobResult, NoFiles, Phase, UploadableFile, job,
};
pub use ids::{JobId, RequestId};
pub use protocol::{Failure, FailureReason};
#[cfg(feature = "runner")]
pub use runner::{Runner, RunnerBuilder, RunnerHandle};
pub use secret::Secret;
pub use time::{Time, WallTime};

#[cfg(feature = "tracing")]
#[doc(hidden)]
pub use ::tracing;

/// What [`outputln!`] expands to.
#[cfg(feature = "runner")]
#[doc(hidden)]
pub mod __private {
    pub use crate::handler::{in_job, output_line};
}
