//! The command line, by hand: a handful of options needs no crate.

use std::{ffi::OsString, num::NonZeroUsize, path::PathBuf, time::Duration};

use gitlab_runner::Secret;
use url::{ParseError, Url};

use crate::runtime::Runtime;

pub(crate) const TOKEN_VARIABLE: &str = "GITLAB_RUNNER_TOKEN";

pub(crate) const HELP: &str = "\
Runs the jobs of GitLab CI with bash on this machine.

Usage:
  shell_runner                    Demo: a simulated GitLab, a pipeline, real shells
  shell_runner --url URL [...]    Serve a real GitLab until Ctrl-C or SIGTERM

Options:
  --url URL          The GitLab instance, such as https://gitlab.example.com
  --token TOKEN      The runner authentication token (glrt-...). Other users of this machine can
                     see it in `ps`: better put it into the variable GITLAB_RUNNER_TOKEN
  --concurrency N    How many jobs may run at the same time [4]
  --build-dir DIR    Where the jobs run, each in a directory of its own [builds]
  --drain-limit SEC  How long running jobs may take to finish after the first Ctrl-C or SIGTERM
  --ca-file FILE     Trust the certificates in this PEM file besides those of the system
  --adapter NAME     What to run on, as far as it was built in (features tokio, smol, async-std):
                     tokio, smol, async-std, threads [the first of them], also for the demo
  --help             This text

The first Ctrl-C (or SIGTERM, or SIGQUIT, for which there is no limit) lets running jobs finish, the
second cancels them, the third exits.
Events are printed to stderr; RUST_LOG=debug shows more of them.

The sources of a job come with git, as its variables GIT_STRATEGY, GIT_DEPTH and so on say; jobs that
need none are quicker with GIT_STRATEGY=none.

Jobs run as the user who started this program: serve only projects that you trust.
";

/// What to do.
#[derive(Debug)]
pub(crate) enum Mode {
    Help,
    Demo(Runtime),
    Serve(Serve),
}

#[derive(Debug)]
pub(crate) struct Serve {
    pub(crate) runtime: Runtime,
    pub(crate) url: Url,
    pub(crate) token: Secret,
    pub(crate) concurrency: usize,
    pub(crate) build_dir: PathBuf,
    pub(crate) drain_limit: Option<Duration>,
    pub(crate) ca_file: Option<PathBuf>,
}

/// Reads the arguments, without the program's name.
///
/// # Errors
/// What is wrong with them, for people.
pub(crate) fn parse(
    args: impl IntoIterator<Item = OsString>,
    token_variable: Option<OsString>,
) -> Result<Mode, String> {
    let mut args = args.into_iter();
    let (mut url, mut token, mut adapter) = (None, None, None);
    let (mut concurrency, mut build_dir) = (None, None);
    let (mut drain_limit, mut ca_file) = (None, None);
    while let Some(arg) = args.next() {
        let arg = text(arg, "an argument")?;
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (arg.as_str(), None),
        };
        if matches!(name, "--help" | "-h") {
            return Ok(Mode::Help);
        }
        let slot = match name {
            "--url" => &mut url,
            "--token" => &mut token,
            "--concurrency" => &mut concurrency,
            "--build-dir" => &mut build_dir,
            "--drain-limit" => &mut drain_limit,
            "--ca-file" => &mut ca_file,
            "--adapter" => &mut adapter,
            // What does not look like an option may be a token in the wrong place.
            _ if name.starts_with("--") => return Err(format!("unknown option {name:?}")),
            _ => return Err("an argument is no option: see --help".to_owned()),
        };
        let value = value.or_else(|| args.next());
        let value = value.ok_or_else(|| format!("{name} needs a value"))?;
        if slot.replace(value).is_some() {
            return Err(format!("{name} was given twice"));
        }
    }

    let adapter = adapter.map(|name| text(name, "--adapter")).transpose()?;
    let runtime = Runtime::named(adapter.as_deref())?;
    let Some(url) = url else {
        let others = [token, concurrency, build_dir, drain_limit, ca_file];
        return match others.iter().any(Option::is_some) {
            true => Err("options need --url; without any there is a demo".to_owned()),
            false => Ok(Mode::Demo(runtime)),
        };
    };
    let url = text(url, "--url")?;
    let url = Url::parse(&url).map_err(|error| match error {
        ParseError::RelativeUrlWithoutBase => {
            "the value of --url is not a URL: write https:// in front".to_owned()
        }
        // It is not repeated: there may be a password in it.
        error => format!("the value of --url is not a URL: {error}"),
    })?;
    let token = token
        .or(token_variable)
        .ok_or_else(|| format!("--url needs a token: set {TOKEN_VARIABLE}, or use --token"))?;
    let token = text(token, "the token")?;
    if token.trim().is_empty() {
        return Err("the token is empty".to_owned());
    }
    let concurrency = match concurrency {
        None => 4,
        Some(number) => text(number, "--concurrency")?
            .parse::<NonZeroUsize>()
            .map_err(|_| "--concurrency must be a number, 1 or more".to_owned())?
            .get(),
    };
    let drain_limit = match drain_limit {
        None => None,
        Some(seconds) => {
            let seconds = text(seconds, "--drain-limit")?.parse();
            let seconds = seconds.map_err(|_| "--drain-limit must be whole seconds".to_owned())?;
            Some(Duration::from_secs(seconds))
        }
    };
    Ok(Mode::Serve(Serve {
        runtime,
        url,
        token: Secret::new(token.trim()),
        concurrency,
        build_dir: build_dir.map_or_else(|| PathBuf::from("builds"), PathBuf::from),
        drain_limit,
        ca_file: ca_file.map(PathBuf::from),
    }))
}

fn text(value: OsString, what: &str) -> Result<String, String> {
    // The value stays out of the message, as it may be a token.
    let text = value.into_string();
    text.map_err(|_| format!("{what} is not UTF-8"))
}
