//! What a runner was told, and what becomes of it when it is first awaited.

use std::{
    fmt, fs,
    path::{self, Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use url::Url;

use super::{life::StoreToken, shared::Shared, system_id};
#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
use crate::adapter::{AdapterError, AdapterErrorKind};
use crate::{
    adapter::{Adapter, unblock},
    error::{RunError, RunErrorKind},
    handler::{Context, JobRunList},
    machine::{MachineConfig, transcript::Secrets},
    protocol::{Info, ServerUrl},
    secret::Secret,
    time::WallTime,
};

const WRITE_CHECK: &str = ".runner_write_check";

/// Takes the lines of a transcript.
pub(super) type Sink = Arc<dyn Fn(&str) + Send + Sync>;

pub(super) type Tune = Arc<dyn Fn(&mut MachineConfig) + Send + Sync>;

#[derive(Clone)]
pub(super) struct Settings {
    pub(super) server: Url,
    pub(super) token: Secret,
    pub(super) build_dir: PathBuf,
    pub(super) adapter: Option<Arc<dyn Adapter>>,
    pub(super) system_id: Option<String>,
    pub(super) info: Info,
    pub(super) user_agent: Option<String>,
    pub(super) verify: bool,
    pub(super) store_token: Option<StoreToken>,
    pub(super) token_obtained_at: Option<WallTime>,
    pub(super) commit: bool,
    pub(super) jobs: JobRunList,
    /// In bytes.
    pub(super) trace_limit: u64,
    /// In bytes.
    pub(super) max_artifact_size: Option<u64>,
    /// In bytes.
    pub(super) max_download_size: Option<u64>,
    pub(super) timestamps: bool,
    pub(super) variables: Vec<(String, String)>,
    pub(super) keep_raw_payload: bool,
    pub(super) seed: u64,
    pub(super) tune: Vec<Tune>,
    pub(super) transcript: Option<(Secrets, Sink)>,
}

impl Settings {
    /// Looks at everything that can be wrong. What a driver before has left in `shared` counts.
    pub(super) async fn prepare(
        &self,
        context: &Context,
        shared: &Shared,
    ) -> Result<(Arc<dyn Adapter>, MachineConfig, PathBuf), RunError> {
        let (adapter, _) = self.config(String::new())?;
        let (dir, system_id) = (self.build_dir.clone(), self.system_id.clone());
        let context = context.clone();
        let prepared = unblock(&*adapter, move || {
            context.run(|| {
                let dir = prepare_dir(&dir)?;
                let system_id = system_id.unwrap_or_else(|| system_id::find(&dir));
                Ok((dir, system_id))
            })
        });
        let (dir, system_id) = prepared
            .await
            .unwrap_or_else(|| Err(RunError::driver_gone()))?;
        let (adapter, mut config) = self.config(system_id)?;
        if let Some(new) = shared.new_token() {
            config.token = new.token;
            config.token_obtained_at = Some(new.obtained_at);
        }
        for tune in &self.tune {
            tune(&mut config);
        }
        Ok((adapter, config, dir))
    }

    /// What needs no directory, without the user's tuning.
    pub(super) fn config(
        &self,
        system_id: String,
    ) -> Result<(Arc<dyn Adapter>, MachineConfig), RunError> {
        let server = server_url(&self.server)?;
        check_token(&self.token)?;
        let adapter = match &self.adapter {
            Some(adapter) => Arc::clone(adapter),
            None => default_adapter()?,
        };
        let mut config = MachineConfig::new(server, self.token.clone(), system_id);
        config.info = self.info.clone();
        config.verify = self.verify;
        config.rotate = self.store_token.is_some();
        config.token_obtained_at = self.token_obtained_at;
        config.commit = self.commit;
        config.keep_raw_payload = self.keep_raw_payload;
        // GitLab waits for the commit of a runner that claims it.
        config.info.features.two_phase_job_commit &= self.commit;
        if let Some(prefix) = &self.user_agent {
            config.user_agent = format!("{prefix} {}", config.user_agent);
        }
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        config.wall_origin = WallTime(since_1970.saturating_sub(adapter.now().since_origin()));
        Ok((adapter, config))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("server", &self.server.host_str())
            .field("token", &self.token)
            .field("build_dir", &self.build_dir)
            .field("system_id", &self.system_id)
            .finish_non_exhaustive()
    }
}

fn server_url(url: &Url) -> Result<ServerUrl, RunError> {
    ServerUrl::parse(url.as_str()).map_err(|error| {
        let detail = "the address of GitLab cannot be used";
        RunError::new(RunErrorKind::InvalidUrl, detail).with_cause(error)
    })
}

/// What cannot stand in a header would be left out there, and GitLab would say that it is missing.
/// Whether what can is a token is for GitLab to say.
fn check_token(token: &Secret) -> Result<(), RunError> {
    let token = token.expose();
    let is_sendable = token.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_sendable && !token.trim().is_empty() && token.trim() == token {
        return Ok(());
    }
    let detail = "the runner token is empty, or holds characters that no token has: was it read from \
                  a file with its line end?";
    Err(RunError::new(RunErrorKind::InvalidToken, detail))
}

#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
fn default_adapter() -> Result<Arc<dyn Adapter>, RunError> {
    crate::adapter::default_adapter().map_err(no_adapter)
}

/// Why there is none.
#[cfg(any(feature = "tokio", feature = "smol", feature = "async-std"))]
fn no_adapter(error: AdapterError) -> RunError {
    let (kind, detail) = match error.kind() {
        AdapterErrorKind::NoRuntime => (
            RunErrorKind::NoRuntime,
            "found no runtime for the runner to run on",
        ),
        AdapterErrorKind::Certificate | AdapterErrorKind::Proxy => (
            RunErrorKind::Connection,
            "no connection to GitLab can be set up",
        ),
    };
    RunError::new(kind, detail).with_cause(error)
}

#[cfg(not(any(feature = "tokio", feature = "smol", feature = "async-std")))]
fn default_adapter() -> Result<Arc<dyn Adapter>, RunError> {
    Err(RunError::new(
        RunErrorKind::NoRuntime,
        "the runner was given no adapter, and this build has none of its own: enable the feature \
         `tokio`, `smol` or `async-std`, or hand one over",
    ))
}

/// Makes the build directory and sees that it can be written to. Gives its absolute path.
fn prepare_dir(dir: &Path) -> Result<PathBuf, RunError> {
    let absolute = path::absolute(dir)
        .map_err(|error| RunError::build_dir("find the directory", dir, error))?;
    fs::create_dir_all(&absolute)
        .map_err(|error| RunError::build_dir("make the directory", &absolute, error))?;
    let check = absolute.join(WRITE_CHECK);
    fs::write(&check, b"")
        .map_err(|error| RunError::build_dir("write to the directory", &absolute, error))?;
    // Another runner with the same directory may have been faster.
    let _ = fs::remove_file(check);
    Ok(absolute)
}

#[cfg(all(test, any(feature = "tokio", feature = "smol", feature = "async-std")))]
mod tests {
    use super::*;

    #[test]
    fn a_bad_proxy_is_no_missing_runtime() {
        let error = AdapterError::new(AdapterErrorKind::Proxy, "HTTP_PROXY: this is no URL");
        let error = no_adapter(error);
        assert_eq!(error.kind(), RunErrorKind::Connection);
        assert_eq!(
            error.to_string(),
            "no connection to GitLab can be set up: HTTP_PROXY: this is no URL"
        );
        let error = AdapterError::new(AdapterErrorKind::NoRuntime, "not inside of tokio");
        assert_eq!(no_adapter(error).kind(), RunErrorKind::NoRuntime);
    }
}
