//! What a job wants of its sources: the `GIT_*` variables, as GitLab documents them.

use gitlab_runner::protocol::GitInfo;

/// How the sources get here. A job always begins in an empty directory, so that `Clone` and `Fetch`
/// differ in words only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    Clone,
    Fetch,
    /// Not at all.
    None,
    /// Not at all, and nothing else is to be there either.
    Empty,
}

/// Which submodules to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Submodules {
    None,
    Normal,
    Recursive,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) strategy: Strategy,
    /// How many commits; 0 for all.
    pub(crate) depth: u64,
    pub(crate) fetch_flags: Vec<String>,
    pub(crate) checkout: bool,
    /// For `git clean`; none if it is not to run.
    pub(crate) clean_flags: Option<Vec<String>>,
    pub(crate) submodules: Submodules,
    pub(crate) submodule_depth: u64,
    pub(crate) submodule_paths: Vec<String>,
    pub(crate) submodule_update_flags: Vec<String>,
    /// Whether to ask GitLab by HTTP for submodules that are said to be there by SSH.
    pub(crate) submodule_force_https: bool,
    /// How often to try, 1 to 10.
    pub(crate) attempts: u32,
    /// What is odd about the variables, for the log.
    pub(crate) warnings: Vec<String>,
}

impl Options {
    /// Reads them from variables; `value` gives an empty text for one that is not there.
    pub(crate) fn read(value: impl Fn(&str) -> String, git: &GitInfo, allow_fetch: bool) -> Self {
        let mut warnings = Vec::new();
        let mut odd = |key: &str, value: &str, instead: &str| {
            warnings.push(format!("{key} is {value:?}: {instead}"));
        };
        let some = |key: &str| Some(value(key).trim().to_owned()).filter(|it| !it.is_empty());
        let words = |text: String| text.split_whitespace().map(str::to_owned).collect();
        let flags = |key: &str, default: &str| match some(key).as_deref() {
            Some("none") => None,
            Some(flags) => Some(words(flags.to_owned())),
            None => Some(words(default.to_owned())),
        };
        let mut switch = |key: &str, default: bool| {
            let Some(text) = some(key) else {
                return default;
            };
            match text.to_ascii_lowercase().as_str() {
                "true" | "t" | "1" => true,
                "false" | "f" | "0" => false,
                _ => {
                    odd(key, &text, "it counts as not set");
                    default
                }
            }
        };
        let checkout = switch("GIT_CHECKOUT", true);
        let submodule_force_https = switch("GIT_SUBMODULE_FORCE_HTTPS", false);

        let default = if allow_fetch {
            Strategy::Fetch
        } else {
            Strategy::Clone
        };
        let strategy = match some("GIT_STRATEGY").as_deref() {
            None => default,
            Some("clone") => Strategy::Clone,
            Some("fetch") => Strategy::Fetch,
            Some("none") => Strategy::None,
            Some("empty") => Strategy::Empty,
            Some(other) => {
                odd("GIT_STRATEGY", other, "it counts as not set");
                default
            }
        };
        let submodules = match some("GIT_SUBMODULE_STRATEGY").as_deref() {
            None | Some("none") => Submodules::None,
            Some("normal") => Submodules::Normal,
            Some("recursive") => Submodules::Recursive,
            Some(other) => {
                odd(
                    "GIT_SUBMODULE_STRATEGY",
                    other,
                    "no submodules are looked at",
                );
                Submodules::None
            }
        };
        let attempts = match some("GET_SOURCES_ATTEMPTS").map(|it| (it.parse::<i64>(), it)) {
            None => 1,
            Some((Ok(number), text)) => {
                let attempts = number.clamp(1, 10);
                if attempts != number {
                    let instead = format!("it counts as {attempts}");
                    odd("GET_SOURCES_ATTEMPTS", &text, &instead);
                }
                u32::try_from(attempts).unwrap_or(1)
            }
            Some((Err(_), text)) => {
                odd("GET_SOURCES_ATTEMPTS", &text, "it counts as 1");
                1
            }
        };
        let number = |key: &str| some(key)?.parse::<u64>().ok();
        // GitLab has read the variable already.
        let depth =
            number("GIT_DEPTH").unwrap_or_else(|| u64::try_from(git.depth).unwrap_or_default());
        Self {
            strategy,
            depth,
            fetch_flags: flags("GIT_FETCH_EXTRA_FLAGS", "--prune --quiet").unwrap_or_default(),
            checkout,
            clean_flags: flags("GIT_CLEAN_FLAGS", "-ffdx"),
            submodules,
            submodule_depth: number("GIT_SUBMODULE_DEPTH").unwrap_or(depth),
            submodule_paths: some("GIT_SUBMODULE_PATHS").map(words).unwrap_or_default(),
            submodule_update_flags: flags("GIT_SUBMODULE_UPDATE_FLAGS", "").unwrap_or_default(),
            submodule_force_https,
            attempts,
            warnings,
        }
    }
}
