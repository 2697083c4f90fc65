//! The program git, and who it says it is.
//!
//! The password of a repository is in the environment of git alone: in no argument, which everybody
//! on the machine could read, and in no file. Git asks for it through a helper that is bound to the
//! repository's scheme, host and port, so that it never goes to another one, also when a redirect
//! or a submodule leads there.

use std::{collections::BTreeMap, fmt, io, path::Path, process::Command};

use gitlab_runner::{Secret, job::Job};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::process;

const USERNAME: &str = "RUNNER_GIT_USERNAME";
const PASSWORD: &str = "RUNNER_GIT_PASSWORD";

/// Answers git's question for a password from the environment.
const HELPER: &str = "!f() { test \"$1\" != get || \
     printf 'username=%s\\npassword=%s\\n' \"$RUNNER_GIT_USERNAME\" \"$RUNNER_GIT_PASSWORD\"; }; f";

/// A repository, without its password, and the environment for git to reach it.
pub(crate) struct Git {
    /// Where it is; no user information in it.
    pub(crate) url: Url,
    environment: BTreeMap<String, String>,
}

/// Why git did not do what it should.
#[derive(Debug)]
pub(crate) enum GitError {
    /// It ended with this exit code. Why is in the log.
    Failed { what: String, code: i32 },
    /// It cannot be run.
    NotRun(io::Error),
}

impl Git {
    /// For the repository at `url`; `None` if that is no URL. `environment` is that of the job.
    pub(crate) fn new(
        job: &Job,
        url: &Secret,
        force_https: bool,
        mut environment: BTreeMap<String, String>,
    ) -> Option<Self> {
        let mut url = Url::parse(url.expose()).ok()?;
        let username = decoded(url.username());
        let password = decoded(url.password().unwrap_or_default());
        // They fail for URLs without a host only, which have no user information.
        let _ = url.set_username("");
        let _ = url.set_password(None);

        let mut config = Vec::new();
        if matches!(url.scheme(), "http" | "https")
            && let Some(host) = url.host_str()
        {
            let port = url.port().map(|port| format!(":{port}"));
            let base = format!("{}://{host}{}", url.scheme(), port.unwrap_or_default());
            if !password.is_empty() {
                let helper = format!("credential.{base}.helper");
                // Those of the machine's user are not for it: they might keep the password.
                config.push((helper.clone(), String::new()));
                config.push((helper, HELPER.to_owned()));
                environment.insert(USERNAME.to_owned(), username);
                environment.insert(PASSWORD.to_owned(), password);
            }
            let ca_file = job.expand("$CI_SERVER_TLS_CA_FILE");
            if !ca_file.is_empty() {
                config.push((format!("http.{base}.sslCAInfo"), ca_file));
            }
            if force_https {
                let instead = format!("url.{base}/.insteadOf");
                config.push((instead.clone(), format!("git@{host}:")));
                config.push((instead, format!("ssh://git@{host}/")));
            }
        }
        // Nobody is there to be asked, and a job must not make git show the password.
        let fixed = [
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "true"),
            ("GIT_TRACE_REDACT", "1"),
        ];
        environment.extend(fixed.map(|(key, value)| (key.to_owned(), value.to_owned())));
        add_config(&mut environment, config);
        Some(Self { url, environment })
    }

    /// The environment of the job with what git needs beside it, for scripts that use git too.
    pub(crate) fn environment(
        &self,
        mut job: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let ours = |key: &str| key.starts_with("GIT_") || key.starts_with("RUNNER_GIT_");
        let ours = self.environment.iter().filter(|(key, _)| ours(key));
        job.extend(ours.map(|(key, value)| (key.clone(), value.clone())));
        job
    }

    /// Runs git in `dir`. What it says goes to the log.
    pub(crate) async fn run<'a>(
        &self,
        job: &Job,
        dir: &Path,
        arguments: impl IntoIterator<Item = &'a str>,
        cancel: &CancellationToken,
    ) -> Result<(), GitError> {
        let arguments: Vec<&str> = arguments.into_iter().collect();
        let mut git = Command::new(process::find("git"));
        git.args(&arguments)
            .current_dir(dir)
            .env_clear()
            .envs(&self.environment);
        let ended = process::run(job, git, cancel, |output| job.trace(output)).await;
        match ended.map_err(GitError::NotRun)? {
            0 => Ok(()),
            code => {
                let command = arguments.iter().find(|it| !it.starts_with('-'));
                let what = format!("git {}", command.unwrap_or(&""));
                Err(GitError::Failed { what, code })
            }
        }
    }
}

impl fmt::Debug for Git {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Git").finish_non_exhaustive()
    }
}

impl fmt::Display for GitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { what, code } => write!(f, "{what} ended with exit code {code}"),
            Self::NotRun(error) => write!(f, "git cannot be run: {error}"),
        }
    }
}

/// Puts settings for git into its environment, behind those that the job has there.
fn add_config(environment: &mut BTreeMap<String, String>, config: Vec<(String, String)>) {
    const COUNT: &str = "GIT_CONFIG_COUNT";
    let known = environment.get(COUNT).and_then(|it| it.parse().ok());
    // More is nonsense, and adding to it might not be possible.
    let mut count = known.filter(|known| *known < 10_000).unwrap_or(0_usize);
    for (key, value) in config {
        environment.insert(format!("GIT_CONFIG_KEY_{count}"), key);
        environment.insert(format!("GIT_CONFIG_VALUE_{count}"), value);
        count += 1;
    }
    environment.insert(COUNT.to_owned(), count.to_string());
}

/// Text from a URL, without its percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('%') {
        bytes.extend_from_slice(plain.as_bytes());
        let digits = escaped.get(..2).filter(|it| !it.starts_with('+'));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &escaped[2..];
            }
            None => {
                bytes.push(b'%');
                rest = escaped;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}
