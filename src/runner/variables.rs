//! The variables that all jobs of a runner have of it.

use crate::{handler::RunnerVariables, machine::MachineConfig, protocol::short_token};

/// What `config` says, and the variables of the runner's author.
pub(super) fn runner_variables(
    config: &MachineConfig,
    own: &[(String, String)],
) -> RunnerVariables {
    let info = &config.info;
    let environment = if info.features.shared {
        "CI_SHARED_ENVIRONMENT"
    } else {
        "CI_DISPOSABLE_ENVIRONMENT"
    };
    let arch = match (&*info.platform, &*info.architecture) {
        ("", _) | (_, "") => String::new(),
        (platform, architecture) => format!("{platform}/{architecture}"),
    };
    let told = [
        (environment, "true".to_owned()),
        ("CI_RUNNER_VERSION", info.version.clone()),
        ("CI_RUNNER_REVISION", info.revision.clone()),
        ("CI_RUNNER_EXECUTABLE_ARCH", arch),
    ];
    RunnerVariables {
        short_token: short_token(&config.token).to_owned(),
        own: own.to_vec(),
        after: told.into_iter().filter(|it| !it.1.is_empty()).collect(),
        time_limit: config.default_job_timeout,
    }
}
