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
#[cfg(feature = "mock")]
pub mod mock;

pub use ids::{JobId, RequestId};
pub use secret::Secret;
pub use time::{Time, WallTime};
