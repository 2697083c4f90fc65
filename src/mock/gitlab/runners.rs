//! Runners, their managers, and `POST runners/verify`.

use std::{collections::BTreeMap, fmt, time::Duration};

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    MockGitlab,
    params::Params,
    reply::{self, Refused, Reply},
    settings::VerifyMode,
};
use crate::{Secret, Time};

/// The longest `system_id` in characters.
const MAX_SYSTEM_ID: usize = 64;
/// The manager of all requests without a `system_id`.
const LEGACY_MANAGER: &str = "<legacy>";
/// The executors that GitLab knows.
const EXECUTORS: &[&str] = &[
    "custom",
    "shell",
    "docker",
    "docker-windows",
    "docker-ssh",
    "ssh",
    "parallels",
    "virtualbox",
    "docker+machine",
    "docker-ssh+machine",
    "kubernetes",
    "docker-autoscaler",
    "instance",
];

/// GitLab's number of a runner (`id` in the answer to `verify`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunnerNumber(pub(super) u64);

impl fmt::Display for RunnerNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(super) struct Runner {
    pub(super) token: Secret,
    pub(super) token_expires: Option<Time>,
    pub(super) paused: bool,
    pub(super) description: Option<String>,
    /// The longest time of its jobs in seconds, if it limits them.
    pub(super) maximum_timeout: Option<u64>,
    /// When it was last changed, which what it was heard of is not.
    pub(super) changed_at: Time,
    /// The queue value: whoever knows it has seen the queue as it is. It belongs to the token.
    pub(super) last_update: String,
    pub(super) managers: BTreeMap<String, Manager>,
}

/// One process, or host, that uses a runner's token.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Manager {
    /// Its `system_id`; `<legacy>` when it sends none.
    pub system_id: String,
    /// Its `info` as stored, without what GitLab does not keep: `shell`, and all of `config` but
    /// `gpus`; an executor that GitLab does not know is `unknown`. The server stores it on the
    /// first contact and then only after 40 to 55 minutes, so this may be older than what was
    /// sent last.
    pub info: Value,
    /// When it was first heard of.
    pub first_contact: Time,
    /// When it was last heard of.
    pub last_contact: Time,
    /// When `info` was stored.
    pub stored_at: Time,
    next_store: Time,
}

impl Manager {
    /// Whether the stored details say that it has this feature.
    pub fn has_feature(&self, name: &str) -> bool {
        self.info
            .get("features")
            .is_some_and(|features| is_true(features.get(name)))
    }
}

/// Forms can only say `"true"`.
pub(super) fn is_true(flag: Option<&Value>) -> bool {
    match flag {
        Some(Value::Bool(flag)) => *flag,
        Some(Value::String(text)) => text == "true",
        _ => false,
    }
}

impl MockGitlab {
    /// A runner with this authentication token, which takes every job.
    pub fn add_runner(&mut self, token: impl Into<Secret>) -> RunnerNumber {
        let number = RunnerNumber(
            self.runners
                .keys()
                .next_back()
                .map_or(11, |last| last.0 + 1),
        );
        let runner = Runner {
            token: token.into(),
            token_expires: self.token_expiry(),
            paused: false,
            description: None,
            maximum_timeout: None,
            changed_at: self.now,
            last_update: self.random.hex32(),
            managers: BTreeMap::new(),
        };
        self.runners.insert(number, runner);
        number
    }

    /// Deletes a runner: its token is unknown from now on.
    pub fn remove_runner(&mut self, runner: RunnerNumber) {
        self.runners.remove(&runner);
    }

    /// Sets when the token of a runner ends, or that it does not.
    pub fn set_token_expiry(&mut self, runner: RunnerNumber, at: Option<Time>) {
        if let Some(runner) = self.runners.get_mut(&runner) {
            runner.token_expires = at;
            runner.changed_at = self.now;
        }
    }

    /// Pauses a runner, or lets it go on. A paused runner gets no jobs.
    pub fn set_paused(&mut self, runner: RunnerNumber, paused: bool) {
        if let Some(runner) = self.runners.get_mut(&runner) {
            runner.paused = paused;
            runner.changed_at = self.now;
        }
        self.bump_queue(runner);
    }

    /// Forgets the managers of a runner, as when a user deletes them.
    pub fn forget_managers(&mut self, runner: RunnerNumber) {
        if let Some(runner) = self.runners.get_mut(&runner) {
            runner.managers.clear();
        }
    }

    /// The authentication token of a runner: after a reset through the API it is another one.
    pub fn runner_token(&self, runner: RunnerNumber) -> Option<&Secret> {
        self.runners.get(&runner).map(|runner| &runner.token)
    }

    /// The managers of a runner.
    pub fn managers(&self, runner: RunnerNumber) -> impl Iterator<Item = &Manager> {
        let runner = self.runners.get(&runner);
        runner
            .into_iter()
            .flat_map(|runner| runner.managers.values())
    }

    /// The runner's queue value, which `X-GitLab-Last-Update` tells.
    pub fn last_update(&self, runner: RunnerNumber) -> Option<&str> {
        let runner = self.runners.get(&runner)?;
        Some(&runner.last_update)
    }

    /// Gives the runner's queue a new value, as if a job had been queued that another runner
    /// then took. It releases the requests on hold.
    pub fn bump_queue(&mut self, runner: RunnerNumber) {
        let value = self.random.hex32();
        if let Some(runner) = self.runners.get_mut(&runner) {
            runner.last_update = value;
        }
    }

    pub(super) fn bump_queues(&mut self) {
        let numbers: Vec<_> = self.runners.keys().copied().collect();
        for number in numbers {
            self.bump_queue(number);
        }
    }

    pub(super) fn runner_with(&self, token: &str) -> Option<RunnerNumber> {
        self.runners
            .iter()
            .find(|(_, runner)| {
                let is_good = runner.token_expires.is_none_or(|end| end > self.now);
                !token.is_empty() && runner.token.expose() == token && is_good
            })
            .map(|(number, _)| *number)
    }

    pub(super) fn verify(&mut self, params: Result<Params, Refused>) -> Result<Reply, Refused> {
        if self.settings.verify == VerifyMode::Missing {
            return Ok(reply::error(StatusCode::NOT_FOUND, "404 Not Found"));
        }
        self.check_migration()?;
        let params = params?;
        let mut check = params.check();
        let token = check.required_string("token");
        let system_id = check.string("system_id");
        let info = check.hash("info").cloned();
        check.finish()?;
        let (number, _) = self.authenticate_runner(&token, system_id, info.as_ref())?;
        if self.settings.verify == VerifyMode::PlainText {
            return Ok(reply::text(StatusCode::OK, "200"));
        }
        Ok(self.runner_details(StatusCode::OK, number))
    }

    /// The runner and the `system_id` of its manager, which has now been heard of.
    pub(super) fn authenticate_runner(
        &mut self,
        token: &str,
        system_id: Option<String>,
        info: Option<&Map<String, Value>>,
    ) -> Result<(RunnerNumber, String), Refused> {
        let Some(number) = self.runner_with(token) else {
            return Err(reply::message(StatusCode::FORBIDDEN).into());
        };
        let system_id = system_id
            .filter(|id| !id.is_empty())
            .unwrap_or_else(|| LEGACY_MANAGER.to_owned());
        if system_id.chars().count() > MAX_SYSTEM_ID {
            let body =
                json!({ "message": { "system_xid": ["is too long (maximum is 64 characters)"] } });
            return Err(reply::json(StatusCode::BAD_REQUEST, &body).into());
        }
        let now = self.now;
        let lease = Duration::from_secs(self.random.between(40 * 60, 55 * 60));
        let info = info.map(stored).unwrap_or_default();
        if let Some(runner) = self.runners.get_mut(&number) {
            let manager = runner
                .managers
                .entry(system_id.clone())
                .or_insert_with(|| Manager {
                    system_id: system_id.clone(),
                    info: Value::Object(Map::new()),
                    first_contact: now,
                    last_contact: now,
                    stored_at: now,
                    next_store: now,
                });
            manager.last_contact = now;
            if now >= manager.next_store {
                // A contact without details is stored too: it changes nothing but takes the turn.
                if !info.is_empty() {
                    manager.info = Value::Object(info);
                }
                manager.stored_at = now;
                manager.next_store = now + lease;
            }
        }
        Ok((number, system_id))
    }
}

/// What is kept of an `info`.
fn stored(info: &Map<String, Value>) -> Map<String, Value> {
    let mut info = info.clone();
    info.remove("shell");
    if let Some(Value::Object(config)) = info.get_mut("config") {
        config.retain(|key, _| key == "gpus");
    }
    if let Some(executor) = info.get_mut("executor") {
        let known = executor
            .as_str()
            .is_some_and(|name| EXECUTORS.contains(&name));
        if !known {
            *executor = "unknown".into();
        }
    }
    info
}
