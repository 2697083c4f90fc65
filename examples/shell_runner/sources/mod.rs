//! Gets the sources of a job with the program git, as GitLab's own runner does with a shell: by
//! refspecs, in a directory of the job's own.

mod git;
mod options;

use std::{
    collections::BTreeMap, error::Error, fs, io, net::ToSocketAddrs, path::Path, time::Duration,
};

use futures::future::{Either, select};
use gitlab_runner::{Failure, FailureReason, job::Job};
use tokio_util::sync::CancellationToken;
use url::Url;

use self::git::GitError;
pub(crate) use self::{
    git::Git,
    options::{Options, Strategy, Submodules},
};
use crate::{bash, log};

/// The pause after the first failure. It doubles with each, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Hosts that are no real ones, as their names are kept for examples: simulated GitLabs say that
/// their repositories are there.
const NOWHERE: [&str; 6] = [
    "test",
    "example",
    "invalid",
    "example.com",
    "example.net",
    "example.org",
];

/// Puts the sources of the job into `project`. Gives what git needs to reach the repository again,
/// for the scripts; `None` if the job has no sources.
///
/// # Errors
/// Everything that is to be said is in the log, and said to the job.
pub(crate) async fn get(job: &Job, project: &Path) -> Result<Option<Git>, ()> {
    let variable = |key: &str| job.expand(&format!("${{{key}}}"));
    let payload = job.payload();
    let options = Options::read(variable, &payload.git_info, payload.allow_git_fetch);
    for warning in &options.warnings {
        log::warning(job, warning);
    }
    let mut sources = Sources {
        job,
        project,
        options,
        environment: BTreeMap::new(),
        cancel: job.cancel_token(),
    };
    match sources.get().await {
        Ok(git) => Ok(git),
        Err(_) if sources.cancel.is_cancelled() => Err(()),
        Err(problem) => {
            log::error(job, &format!("the sources are not there: {problem}"));
            let failure = match problem {
                Problem::Git(GitError::Failed { .. }) | Problem::Hook { .. } => {
                    Failure::exit_code(1)
                }
                _ => Failure::new(FailureReason::RunnerSystemFailure),
            };
            job.fail(failure).map(|()| None)
        }
    }
}

struct Sources<'a> {
    job: &'a Job,
    project: &'a Path,
    options: Options,
    /// That of the job.
    environment: BTreeMap<String, String>,
    cancel: CancellationToken,
}

enum Problem {
    Git(GitError),
    Hook { name: &'static str, code: i32 },
    Other(Box<dyn Error + Send + Sync>),
}

impl Sources<'_> {
    async fn get(&mut self) -> Result<Option<Git>, Problem> {
        self.environment = self.job.env().await.map_err(Problem::other)?.into_values();
        match self.options.strategy {
            Strategy::None => {
                self.say("Skipping Git repository setup");
                self.say("Skipping Git checkout");
                self.say("Skipping Git submodules setup");
                return Ok(None);
            }
            Strategy::Empty => {
                self.say("Skipping Git repository setup and creating an empty build directory");
                return Ok(None);
            }
            Strategy::Clone | Strategy::Fetch => {}
        }
        let url = &self.job.payload().git_info.repo_url;
        if url.is_empty() {
            self.say("Skipping Git repository setup, as there is no repository");
            return Ok(None);
        }
        let force_https = self.options.submodule_force_https;
        let git = Git::new(self.job, url, force_https, self.environment.clone());
        // What is wrong with it is not said: there is a password in it.
        let git = git.ok_or_else(|| Problem::other("the address of the repository is no URL"))?;
        if let Some(host) = nowhere(self.job, &git.url).await {
            let text = format!("there is no host {host}: the job runs without its sources");
            log::warning(self.job, &text);
            return Ok(None);
        }
        self.try_often(&git).await?;
        Ok(Some(git))
    }

    async fn try_often(&self, git: &Git) -> Result<(), Problem> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let problem = match self.once(git).await {
                Ok(()) => return Ok(()),
                Err(problem) => problem,
            };
            if attempt == self.options.attempts || self.cancel.is_cancelled() {
                return Err(problem);
            }
            attempt += 1;
            let text = format!(
                "{problem}; attempt {attempt} of {} follows in {} seconds",
                self.options.attempts,
                pause.as_secs()
            );
            log::warning(self.job, &text);
            let cancelled = Box::pin(self.cancel.cancelled());
            if let Either::Right(_) = select(self.job.sleep(pause), cancelled).await {
                return Err(problem);
            }
            pause = LONGEST_PAUSE.min(pause * 2);
            let project = self.project.to_owned();
            let cleared = self.job.unblock(move || clear(&project)).await;
            cleared.map_err(Problem::other)?;
        }
    }

    async fn once(&self, git: &Git) -> Result<(), Problem> {
        self.hook("pre_get_sources_script").await?;
        self.fetch(git).await?;
        if self.options.checkout {
            self.check_out(git).await?;
        } else {
            self.say("Skipping Git checkout");
        }
        self.submodules(git).await?;
        self.hook("post_get_sources_script").await
    }

    async fn hook(&self, name: &'static str) -> Result<(), Problem> {
        let lines = self.job.hook(name);
        if lines.is_empty() {
            return Ok(());
        }
        let environment = self.environment.clone();
        let ended = bash::run(self.job, self.project, lines, environment, &self.cancel).await;
        match ended.map_err(Problem::Other)? {
            0 => Ok(()),
            code => Err(Problem::Hook { name, code }),
        }
    }

    async fn fetch(&self, git: &Git) -> Result<(), Problem> {
        let Options {
            strategy, depth, ..
        } = self.options;
        let what = match strategy {
            Strategy::Clone => "Cloning repository",
            _ => "Fetching changes",
        };
        match depth {
            0 => self.say(&format!("{what}...")),
            depth => self.say(&format!("{what} with git depth set to {depth}...")),
        }
        let info = &self.job.payload().git_info;
        let mut init = vec!["init", "--quiet", "--template="];
        if info.repo_object_format == "sha256" {
            init.push("--object-format=sha256");
        }
        self.git(
            git,
            ["-c", "init.defaultBranch=none"].into_iter().chain(init),
        )
        .await?;
        self.git(git, ["config", "remote.origin.url", git.url.as_str()])
            .await?;
        const BRANCHES: &str = "+refs/heads/*:refs/remotes/origin/*";
        self.git(git, ["config", "remote.origin.fetch", BRANCHES])
            .await?;
        self.say("Created fresh repository.");

        let depth = format!("--depth={depth}");
        let mut fetch = vec!["fetch", "--no-recurse-submodules"];
        if depth != "--depth=0" {
            fetch.push(&depth);
        }
        fetch.extend(self.options.fetch_flags.iter().map(String::as_str));
        fetch.extend(["--", "origin"]);
        if info.refspecs.is_empty() {
            fetch.extend([BRANCHES, "+refs/tags/*:refs/tags/*"]);
        }
        fetch.extend(info.refspecs.iter().map(String::as_str));
        self.git(git, fetch).await
    }

    async fn check_out(&self, git: &Git) -> Result<(), Problem> {
        let info = &self.job.payload().git_info;
        let sha = info.sha.as_str();
        if sha.len() < 8 || !sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Problem::other("the commit is no number of one"));
        }
        self.say(&format!(
            "Checking out {} as detached HEAD (ref is {})...",
            &sha[..8],
            info.ref_name
        ));
        let checkout = ["checkout", "--force", "--quiet", "--detach", sha];
        self.git(
            git,
            ["-c", "submodule.recurse=false"]
                .into_iter()
                .chain(checkout),
        )
        .await?;
        match &self.options.clean_flags {
            // The hook may have left something.
            Some(flags) => {
                let flags = flags.iter().map(String::as_str);
                self.git(git, ["clean"].into_iter().chain(flags)).await
            }
            None => Ok(()),
        }
    }

    async fn submodules(&self, git: &Git) -> Result<(), Problem> {
        let recursive = match self.options.submodules {
            Submodules::None => {
                self.say("Skipping Git submodules setup");
                return Ok(());
            }
            Submodules::Normal => None,
            Submodules::Recursive => Some("--recursive"),
        };
        let (how, depth) = (
            recursive.map_or("", |_| " recursively"),
            self.options.submodule_depth,
        );
        match depth {
            0 => self.say(&format!("Updating/initializing submodules{how}...")),
            depth => self.say(&format!(
                "Updating/initializing submodules{how} with git depth set to {depth}..."
            )),
        }
        let paths = &self.options.submodule_paths;
        let paths = paths.iter().map(String::as_str);
        let sync = ["submodule", "--quiet", "sync"]
            .into_iter()
            .chain(recursive);
        self.git(git, sync.chain(["--"]).chain(paths.clone()))
            .await?;
        let depth = (depth > 0).then(|| format!("--depth={depth}"));
        let update = ["submodule", "update", "--init"]
            .into_iter()
            .chain(recursive);
        let flags = self.options.submodule_update_flags.iter();
        let update = update
            .chain(depth.as_deref())
            .chain(flags.map(String::as_str))
            .chain(["--"])
            .chain(paths);
        self.git(git, update).await
    }

    async fn git<'a>(
        &self,
        git: &Git,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Problem> {
        let ran = git.run(self.job, self.project, arguments, &self.cancel);
        ran.await.map_err(Problem::Git)
    }

    fn say(&self, text: &str) {
        log::info(self.job, text);
    }
}

impl Problem {
    fn other(problem: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other(problem.into())
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Git(error) => error.fmt(f),
            Self::Hook { name, code } => write!(f, "the hook {name} ended with exit code {code}"),
            Self::Other(error) => error.fmt(f),
        }
    }
}

/// The host of this URL, if its name is none of a real host, and it cannot be found either.
async fn nowhere<'a>(job: &Job, url: &'a Url) -> Option<&'a str> {
    let host = url.host_str()?;
    let is_reserved = NOWHERE.iter().any(|domain| {
        let before = host.strip_suffix(domain);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    });
    if !is_reserved {
        return None;
    }
    let port = url.port_or_known_default()?;
    let place = (host.to_owned(), port);
    let known = job.unblock(move || place.to_socket_addrs().is_ok()).await;
    (!known).then_some(host)
}

/// Removes everything in a directory.
fn clear(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}
