//! What the scripts of a job find in their environment beside the variables of the job.

use std::env;

use gitlab_runner::{RunnerBuilder, protocol::RunnerFeatures};

/// All that the scripts get to see of the environment of this program. The rest is none of their
/// business, least of all the runner's token.
const PASSED_ON: &[&str] = &["HOME", "LANG", "PATH", "TERM", "USER"];

/// A runner whose jobs share this machine, and some of the variables of this program.
pub(crate) fn shared(builder: RunnerBuilder) -> RunnerBuilder {
    let mut features = RunnerFeatures::default();
    features.shared = true;
    let passed_on = PASSED_ON
        .iter()
        .filter_map(|&key| Some((key, env::var(key).ok()?)));
    passed_on.fold(builder.features(features), |builder, (key, value)| {
        // A dollar is no reference there.
        builder.variable(key, value.replace('$', "$$"))
    })
}
