//! How runners come, go and change their token: `runners`, `runners/managers`,
//! `runners/reset_authentication_token` and `runners/router/discovery`.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use serde_json::{Value, json};

use super::{
    MockGitlab, RunnerNumber,
    params::{Params, header_text},
    reply::{self, Refused, Reply},
};
use crate::Time;

/// The longest note about a runner, in characters.
const MAX_NOTE: usize = 1024;
/// The shortest limit that a runner may put on the time of its jobs, in seconds.
const MIN_MAXIMUM_TIMEOUT: i64 = 600;
/// The end of the year 9999, after which there is no HTTP date.
const LAST_DATE: Duration = Duration::from_secs(253_402_300_799);
/// The values of `access_level`.
const ACCESS_LEVELS: &[&str] = &["not_protected", "ref_protected"];

impl MockGitlab {
    /// `POST runners`, the deprecated way with a registration token.
    pub(super) fn register(&mut self, params: Result<Params, Refused>) -> Result<Reply, Refused> {
        self.check_migration()?;
        let params = params?;
        let mut check = params.check();
        let token = check.required_string("token");
        let description = check.string("description");
        let note = check.either("maintenance_note", "maintainer_note", |check, name| {
            check.string(name)
        });
        let inactive = check.either("paused", "active", |check, name| {
            let flag = check.boolean(name)?;
            Some(if name == "paused" { flag } else { !flag })
        });
        check.boolean("locked");
        check.one_of("access_level", ACCESS_LEVELS);
        let run_untagged = check.boolean("run_untagged").unwrap_or(true);
        let tags = check.words("tag_list");
        let maximum_timeout = check.integer("maximum_timeout");
        check.hash("info");
        check.finish()?;
        self.check_registration(&token)?;

        let invalid = |field: &str, text: &str| {
            let mut errors = serde_json::Map::new();
            errors.insert(field.to_owned(), json!([text]));
            let body = json!({ "message": errors });
            Err(reply::json(StatusCode::BAD_REQUEST, &body).into())
        };
        if note.is_some_and(|note| note.chars().count() > MAX_NOTE) {
            let text = "is too long (maximum is 1024 characters)";
            return invalid("maintenance_note", text);
        }
        if !run_untagged && tags.is_empty() {
            let text = "can not be empty when runner is not allowed to pick untagged jobs";
            return invalid("tags_list", text);
        }
        if maximum_timeout.is_some_and(|seconds| seconds < MIN_MAXIMUM_TIMEOUT) {
            return invalid("maximum_timeout", "needs to be at least 10 minutes");
        }
        let token = format!("t3_{}", self.random.word(20));
        let number = self.add_runner(token.as_str());
        if let Some(runner) = self.runners.get_mut(&number) {
            runner.paused = inactive.unwrap_or(false);
            runner.description = description.filter(|text| !text.is_empty());
            runner.maximum_timeout =
                maximum_timeout.and_then(|seconds| u64::try_from(seconds).ok());
        }
        Ok(self.runner_details(StatusCode::CREATED, number))
    }

    /// `DELETE runners`: the token is unknown from now on, to all that share it.
    pub(super) fn unregister(
        &mut self,
        request: &Request<Bytes>,
        params: Result<Params, Refused>,
    ) -> Result<Reply, Refused> {
        self.check_migration()?;
        let params = params?;
        let mut check = params.check();
        let token = check.required_string("token");
        check.finish()?;
        let number = self.known_runner(&token)?;
        let changed = self.runners.get(&number).map(|runner| runner.changed_at);
        self.check_unmodified(request, changed)?;
        self.remove_runner(number);
        Ok(reply::no_content())
    }

    /// `DELETE runners/managers`: only one of those that share the token.
    pub(super) fn unregister_manager(
        &mut self,
        request: &Request<Bytes>,
        params: Result<Params, Refused>,
    ) -> Result<Reply, Refused> {
        self.check_migration()?;
        let params = params?;
        let mut check = params.check();
        let token = check.required_string("token");
        let system_id = check.required_string("system_id");
        check.finish()?;
        let number = self.known_runner(&token)?;
        let runner = self.runners.get(&number);
        let Some(manager) = runner.and_then(|runner| runner.managers.get(&system_id)) else {
            return Err(reply::message(StatusCode::NOT_FOUND).into());
        };
        self.check_unmodified(request, Some(manager.stored_at))?;
        if let Some(runner) = self.runners.get_mut(&number) {
            runner.managers.remove(&system_id);
        }
        Ok(reply::no_content())
    }

    /// `POST runners/reset_authentication_token`: the old token is dead at once.
    pub(super) fn reset_token(
        &mut self,
        params: Result<Params, Refused>,
    ) -> Result<Reply, Refused> {
        self.check_migration()?;
        let params = params?;
        let mut check = params.check();
        let token = check.required_string("token");
        let system_id = check.string("system_id");
        check.finish()?;
        let (number, _) = self.authenticate_runner(&token, system_id, None)?;
        if !self.settings.token_reset_allowed {
            let text = "The authentication token could not be reset";
            return Err(reply::error(StatusCode::UNPROCESSABLE_ENTITY, text).into());
        }
        let prefix = if token.starts_with("glrt-") {
            "glrt-"
        } else {
            ""
        };
        let token = format!("{prefix}t3_{}", self.random.word(20));
        let expires = self.token_expiry();
        let queue_value = self.random.hex32();
        if let Some(runner) = self.runners.get_mut(&number) {
            runner.token = token.as_str().into();
            runner.token_expires = expires;
            runner.last_update = queue_value;
            runner.changed_at = self.now;
        }
        Ok(self.tell_token(StatusCode::CREATED, json!({ "token": token }), expires))
    }

    /// `GET runners/router/discovery`: the one route that wants the token in a header.
    pub(super) fn discover_router(&mut self, request: &Request<Bytes>) -> Result<Reply, Refused> {
        self.check_migration()?;
        let token = request.headers().get("Runner-Token");
        let token = token.map(|token| String::from_utf8_lossy(token.as_bytes()));
        self.known_runner(&token.unwrap_or_default())?;
        match &self.settings.job_router_url {
            Some(url) => Ok(reply::json(StatusCode::OK, &json!({ "server_url": url }))),
            None => Err(reply::message(StatusCode::NOT_IMPLEMENTED).into()),
        }
    }

    /// 412 for what was changed after the time that the request names, if it names one.
    fn check_unmodified(
        &self,
        request: &Request<Bytes>,
        changed: Option<Time>,
    ) -> Result<(), Refused> {
        let since = header_text(request.headers(), header::IF_UNMODIFIED_SINCE.as_str());
        let since = since.and_then(|since| httpdate::parse_http_date(&since).ok());
        let since = since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        match (since, changed) {
            (Some(since), Some(changed)) if (self.settings.wall_origin + changed).0 > since => {
                Err(reply::message(StatusCode::PRECONDITION_FAILED).into())
            }
            _ => Ok(()),
        }
    }

    /// Whether a runner may be registered with this token.
    fn check_registration(&self, token: &str) -> Result<(), Refused> {
        if !self.settings.registration_allowed && !token.is_empty() {
            let reason = "runner registration disallowed";
            return Err(reply::message_because(StatusCode::GONE, reason).into());
        }
        let known = self.settings.registration_token.as_ref();
        if known.is_some_and(|known| !token.is_empty() && known.expose() == token) {
            return Ok(());
        }
        Err(reply::message_because(StatusCode::FORBIDDEN, "invalid token supplied").into())
    }

    /// The runner with this token, which does not count as heard of.
    fn known_runner(&self, token: &str) -> Result<RunnerNumber, Refused> {
        self.runner_with(token)
            .ok_or_else(|| reply::message(StatusCode::FORBIDDEN).into())
    }

    /// What registration and `verify` tell of a runner.
    pub(super) fn runner_details(&self, status: StatusCode, number: RunnerNumber) -> Reply {
        let runner = self.runners.get(&number);
        let body = json!({
            "id": number.0,
            "token": runner.map_or("", |runner| runner.token.expose()),
        });
        self.tell_token(status, body, runner.and_then(|runner| runner.token_expires))
    }

    fn tell_token(&self, status: StatusCode, mut body: Value, expires: Option<Time>) -> Reply {
        if self.settings.token_expiry_told {
            body["token_expires_at"] = self.date(expires).into();
        }
        self.dated(reply::json(status, &body))
    }

    /// When a token ends that is given now.
    pub(super) fn token_expiry(&self) -> Option<Time> {
        Some(self.now + self.settings.runner_token_life?)
    }

    fn date(&self, at: Option<Time>) -> Option<String> {
        let seconds = (self.settings.wall_origin + at?).0.as_secs();
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        let [hour, minute, second] = [second / 3600, second / 60 % 60, second % 60];
        Some(format!(
            "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z"
        ))
    }

    fn dated(&self, reply: Reply) -> Reply {
        let wall = (self.settings.wall_origin + self.now).0.min(LAST_DATE);
        reply::with(reply, "Date", &httpdate::fmt_http_date(UNIX_EPOCH + wall))
    }
}

/// Year, month and day, so many days after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, in eras of 400 years.
    let days = days.saturating_add(719_468);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (19_782, (2024, 2, 29)),
            (20_089, (2025, 1, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), date);
        }
    }
}
