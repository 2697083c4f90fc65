//! Options of a runner.

use std::{fmt, future::Future, path::PathBuf, sync::Arc, time::Duration};

use url::Url;

use super::{Runner, life, settings::Settings};
use crate::{
    adapter::Adapter,
    handler::JobRunList,
    machine::{MachineConfig, NewToken, transcript::Secrets},
    protocol::{Info, RunnerFeatures},
    secret::Secret,
    time::WallTime,
    trace::DEFAULT_TRACE_LIMIT,
};

/// Options of a [`Runner`]; see [`Runner::builder`].
///
/// `Debug` shows no token.
#[derive(Clone)]
#[must_use]
pub struct RunnerBuilder {
    settings: Settings,
}

impl RunnerBuilder {
    /// The same as [`Runner::builder`], with the list of jobs that came with a
    /// [`GitlabLayer`](crate::GitlabLayer).
    pub fn new(
        server: Url,
        token: impl Into<String>,
        build_dir: impl Into<PathBuf>,
        jobs: JobRunList,
    ) -> Self {
        Self::from_parts(server, token.into(), build_dir.into()).jobs(jobs)
    }

    pub(super) fn from_parts(server: Url, token: String, build_dir: PathBuf) -> Self {
        let mut seed = [0; 8];
        // Without entropy, jitter is the same for all: a pity, but no reason not to run.
        let _ = getrandom::fill(&mut seed);
        Self {
            settings: Settings {
                server,
                token: Secret::from(token),
                build_dir,
                adapter: None,
                system_id: None,
                info: Info::default(),
                user_agent: None,
                verify: true,
                store_token: None,
                token_obtained_at: None,
                commit: true,
                jobs: JobRunList::default(),
                trace_limit: DEFAULT_TRACE_LIMIT,
                max_artifact_size: None,
                max_download_size: None,
                timestamps: false,
                variables: Vec::new(),
                keep_raw_payload: false,
                seed: u64::from_le_bytes(seed),
                tune: Vec::new(),
                transcript: None,
            },
        }
    }

    /// Names this runner manager among those that share the token; cut to 64 bytes.
    ///
    /// By default an id of this machine; where it has none, one that is kept in the file
    /// `.runner_system_id` in the build directory.
    pub fn system_id(mut self, system_id: impl Into<String>) -> Self {
        self.settings.system_id = Some(cut(system_id.into(), 64));
        self
    }

    /// The version that GitLab shows; cut to 2048 bytes. Unset by default: GitLab takes it for that
    /// of its own runner, and advises to upgrade.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.settings.info.version = cut(version.into(), 2048);
        self
    }

    /// The revision that GitLab shows; cut to 255 bytes.
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.settings.info.revision = cut(revision.into(), 255);
        self
    }

    /// The platform that GitLab shows, such as `linux`; cut to 255 bytes.
    pub fn platform(mut self, platform: impl Into<String>) -> Self {
        self.settings.info.platform = cut(platform.into(), 255);
        self
    }

    /// The architecture that GitLab shows, such as `amd64`; cut to 255 bytes.
    pub fn architecture(mut self, architecture: impl Into<String>) -> Self {
        self.settings.info.architecture = cut(architecture.into(), 255);
        self
    }

    /// What this runner can do. GitLab gives it no job that needs more: declare what your handlers
    /// implement on top of [`RunnerFeatures::default`].
    pub fn features(mut self, features: RunnerFeatures) -> Self {
        self.settings.info.features = features;
        self
    }

    /// Whether to ask GitLab at the start if the token is good; on by default.
    pub fn verify(mut self, verify: bool) -> Self {
        self.settings.verify = verify;
        self
    }

    /// Lets the runner change its token before it expires, when three quarters of its life are over,
    /// and stores the new one with `store`. Without it the runner only warns that it will expire.
    ///
    /// The old token is dead as soon as GitLab has given the new one, so until `store` is done (or a
    /// minute has passed) the runner asks for nothing; its jobs go on. If `store` fails or panics,
    /// the runner says so loudly and goes on with a token that only it knows.
    ///
    /// Only for a token that nobody else uses: other runner managers are locked out by the change.
    ///
    /// ```no_run
    /// # fn example(builder: gitlab_runner::RunnerBuilder) -> gitlab_runner::RunnerBuilder {
    /// builder.on_token_rotated(|new| async move {
    ///     // To a file beside it first: half a token is worth nothing.
    ///     std::fs::write("runner.token.new", new.token.expose())?;
    ///     std::fs::rename("runner.token.new", "runner.token")
    /// })
    /// # }
    /// ```
    pub fn on_token_rotated<F, Ret, E>(mut self, store: F) -> Self
    where
        F: Fn(NewToken) -> Ret + Send + Sync + 'static,
        Ret: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + 'static,
    {
        self.settings.store_token = Some(life::erase(store));
        self
    }

    /// When the token was obtained ([`NewToken::obtained_at`]): its life is counted from there. By
    /// default from the start of the runner, which is on the safe side.
    pub fn token_obtained_at(mut self, at: WallTime) -> Self {
        self.settings.token_obtained_at = Some(at);
        self
    }

    /// Whether to tell GitLab that a job is taken before its handler starts; on by default. It
    /// costs one request for each job, and a job that was lost on its way is run elsewhere.
    ///
    /// It is left out at a server that answers the question for the [token](Self::verify) with 404:
    /// that is older than the commit by years, or simulates such a one.
    pub fn two_phase_commit(mut self, commit: bool) -> Self {
        self.settings.commit = commit;
        self
    }

    /// Enters the jobs of this runner into a list that others look at.
    pub fn jobs(mut self, jobs: JobRunList) -> Self {
        self.settings.jobs = jobs;
        self
    }

    /// After so many bytes, the log of a job is cut, and says so; just below GitLab's own limit by
    /// default.
    pub fn trace_limit(mut self, bytes: u64) -> Self {
        self.settings.trace_limit = bytes;
        self
    }

    /// No artifact that is packed for upload may become longer, in bytes; it fails then, and the log
    /// says why. By default only GitLab sets a limit, and tells it when all of it is packed.
    pub fn max_artifact_size(mut self, bytes: u64) -> Self {
        self.settings.max_artifact_size = Some(bytes);
        self
    }

    /// No artifact of another job that is downloaded may be longer, in bytes; the download fails
    /// then. By default the disk is the limit.
    pub fn max_download_size(mut self, bytes: u64) -> Self {
        self.settings.max_download_size = Some(bytes);
        self
    }

    /// Whether each line of a log begins with the time, the stream and whether it goes on, as GitLab's
    /// own runner does it and GitLab's viewer hides it. Off by default.
    pub fn timestamps(mut self, timestamps: bool) -> Self {
        self.settings.timestamps = timestamps;
        self
    }

    /// Whether the log of a job tells of each artifact: what each pattern found, and that it was
    /// uploaded, in the words of GitLab's own runner. Trouble is told in any case. Off by default.
    pub fn artifact_log(self, tells: bool) -> Self {
        self.tune(move |config| config.artifact_log = tells)
    }

    /// How long GitLab is left alone about a job of which there is nothing to say; 30 s by default, at
    /// least one second. It is in the answer that a cancel is heard of: shorter is quicker, and costs
    /// a request each time.
    pub fn keep_alive(self, every: Duration) -> Self {
        let every = every.max(Duration::from_secs(1));
        self.tune(move |config| config.keep_alive = every)
    }

    /// A variable for every job, such as `HTTPS_PROXY`; GitLab's own of that name takes its place.
    /// See [`Job::env`](crate::job::Job::env). References to other variables in it are followed.
    ///
    /// It is no place for secrets: it is not masked in logs.
    pub fn variable(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.variables.push((key.into(), value.into()));
        self
    }

    /// Whether [`Job::raw_payload`](crate::job::Job::raw_payload) gives the JSON of a job as GitLab
    /// sent it; off by default. It costs the memory for that, mostly 10 to 100 kB, as long as the job
    /// runs.
    pub fn keep_raw_payload(mut self, keep: bool) -> Self {
        self.settings.keep_raw_payload = keep;
        self
    }

    /// Decides all jitter and request ids, for tests; random by default.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// The adapter to run on; by default the one for the runtime in which the runner is awaited.
    pub fn adapter(mut self, adapter: Arc<dyn Adapter>) -> Self {
        self.settings.adapter = Some(adapter);
        self
    }

    /// Put before the crate's own name in the `User-Agent` header, as in `my-runner/1.2`.
    pub fn user_agent(mut self, prefix: impl Into<String>) -> Self {
        self.settings.user_agent = Some(prefix.into());
        self
    }

    /// Changes the machine's numbers: intervals, time limits. Called when the runner starts, with
    /// everything that the other options say already in place.
    pub fn tune(mut self, tune: impl Fn(&mut MachineConfig) + Send + Sync + 'static) -> Self {
        self.settings.tune.push(Arc::new(tune));
        self
    }

    /// Gives the lines of a [`transcript`](crate::machine::transcript) of all that the machine is told
    /// and says to `sink`, to be replayed exactly; off by default. It is called between two turns of
    /// the driver, so it must not wait: put a buffer before a file.
    ///
    /// A runner that goes on after its runtime is gone begins another transcript.
    pub fn transcript(
        mut self,
        secrets: Secrets,
        sink: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        self.settings.transcript = Some((secrets, Arc::new(sink)));
        self
    }

    /// The runner. Nothing is checked yet; see [`Runner`].
    ///
    /// Waits for nothing: it is async for programs written for collabora's crate, which await it.
    #[expect(
        clippy::unused_async,
        reason = "programs written for collabora's crate await it"
    )]
    pub async fn build(self) -> Runner {
        self.into_runner()
    }

    pub(super) fn into_runner(self) -> Runner {
        Runner::from_settings(self.settings)
    }
}

impl fmt::Debug for RunnerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

/// At most `limit` bytes of `text`, and no half characters.
fn cut(mut text: String, limit: usize) -> String {
    let end = (0..=limit.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_is_cut_in_half() {
        assert_eq!(cut(format!("a{}", "é".repeat(40)), 64).len(), 63);
        assert_eq!(cut("short".to_owned(), 64), "short");
        assert_eq!(cut("€€".to_owned(), 2), "");
    }
}
