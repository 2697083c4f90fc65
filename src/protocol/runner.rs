//! How a runner comes, goes and changes its token.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{
    date::rfc3339,
    request::{Info, to_json},
};
use crate::{secret::Secret, time::WallTime};

wire_enum! {
    /// Which branches' and tags' jobs a runner takes.
    pub enum AccessLevel {
        /// Those of all.
        NotProtected = "not_protected",
        /// Those of protected ones only.
        RefProtected = "ref_protected",
    }
}

/// A runner to be made with a registration token, which GitLab has deprecated: runners are made in
/// its user interface or by its API today, and come with an authentication token (`glrt-…`).
///
/// `Debug` shows no token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Registration {
    /// The registration token of an instance, a group or a project (`GR1348941…`, `glrtr-…`).
    pub token: Secret,
    /// What GitLab calls the runner.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// A note for other administrators; GitLab takes at most 1024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub maintenance_note: String,
    /// The tags by which jobs choose the runner; none of them may hold a comma.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "joined",
        deserialize_with = "split"
    )]
    pub tag_list: Vec<String>,
    /// Whose jobs it takes; GitLab's default if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_level: Option<AccessLevel>,
    /// The longest time of a job, in whole seconds; GitLab takes no less than 10 minutes.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "seconds",
        deserialize_with = "from_seconds"
    )]
    pub maximum_timeout: Option<Duration>,
    /// Whether it takes jobs without tags, which is the default. If not, it needs tags.
    pub run_untagged: bool,
    /// Whether it stays with its project. Not so by default.
    pub locked: bool,
    /// Whether it gets no jobs until somebody lets it go on. Not so by default.
    pub paused: bool,
    /// What it says of itself. Its executor is not known yet, and not sent by default.
    pub info: Info,
}

impl Registration {
    /// A runner without a name and tags.
    pub fn new(token: impl Into<Secret>) -> Self {
        Self {
            token: token.into(),
            description: String::new(),
            maintenance_note: String::new(),
            tag_list: Vec::new(),
            access_level: None,
            maximum_timeout: None,
            run_untagged: true,
            locked: false,
            paused: false,
            info: Info {
                executor: String::new(),
                ..Info::default()
            },
        }
    }
}

/// One text with commas: every server understands it.
fn joined<S: Serializer>(tags: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&tags.join(","))
}

fn seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs()).serialize(serializer)
}

fn split<'de, D: Deserializer<'de>>(tags: D) -> Result<Vec<String>, D::Error> {
    String::deserialize(tags).map(|tags| tags.split(',').map(str::to_owned).collect())
}

fn from_seconds<'de, D: Deserializer<'de>>(time: D) -> Result<Option<Duration>, D::Error> {
    Option::<u64>::deserialize(time).map(|seconds| seconds.map(Duration::from_secs))
}

/// The JSON body of `POST runners`.
pub fn register_body(registration: &Registration) -> Vec<u8> {
    to_json(registration)
}

/// The JSON body of `DELETE runners` and of `POST runners/reset_authentication_token`.
pub fn token_body(token: &Secret) -> Vec<u8> {
    to_json(&TokenBody {
        token,
        system_id: None,
    })
}

/// The JSON body of `DELETE runners/managers`; GitLab wants both.
pub fn manager_body(token: &Secret, system_id: &str) -> Vec<u8> {
    to_json(&TokenBody {
        token,
        system_id: Some(system_id),
    })
}

#[derive(Serialize)]
struct TokenBody<'a> {
    token: &'a Secret,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_id: Option<&'a str>,
}

/// What GitLab tells of a runner when it is registered or verified, or its token reset.
///
/// Old servers tell less, and the oldest answer `verify` in plain text: then all of it is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunnerDetails {
    /// GitLab's number of the runner; the reset of a token does not tell it.
    pub id: Option<u64>,
    /// The authentication token: a new one, or the one that was verified.
    pub token: Option<Secret>,
    /// When that token expires; `None` if it does not, or is not known to.
    pub token_expires_at: Option<WallTime>,
}

impl RunnerDetails {
    /// Reads the body of an answer. What is missing, or makes no sense, is unknown.
    pub fn parse(body: &[u8]) -> Self {
        let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
            return Self::default();
        };
        let text = |key| body.get(key).and_then(Value::as_str);
        let id = body.get("id").and_then(|id| match id {
            Value::String(digits) => digits.parse().ok(),
            id => id.as_u64(),
        });
        let token = text("token").filter(|token| {
            // Any other could not be sent.
            !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
        });
        Self {
            id: id.filter(|id| *id > 0),
            token: token.map(Secret::from),
            token_expires_at: text("token_expires_at").and_then(rfc3339),
        }
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;
    use serde_json::json;

    use super::*;

    fn value(body: Vec<u8>) -> Value {
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn a_registration_leaves_out_what_is_unset() {
        let mut registration = Registration::new("GR1348941secret");
        let mut body = value(register_body(&registration));
        let info = body.as_object_mut().unwrap().remove("info").unwrap();
        assert_eq!(info["name"], "gitlab-runner-rs");
        assert_eq!(info.get("executor"), None);
        assert_eq!(
            body,
            json!({
                "token": "GR1348941secret", "run_untagged": true, "locked": false, "paused": false,
            })
        );
        assert!(!format!("{registration:?}").contains("GR13"));

        registration.description = "lab".into();
        registration.maintenance_note = "ask me".into();
        registration.tag_list = vec!["arm".into(), "big iron".into()];
        registration.access_level = Some(AccessLevel::RefProtected);
        registration.maximum_timeout = Some(Duration::from_millis(3_600_500));
        registration.run_untagged = false;
        registration.locked = true;
        registration.paused = true;
        let mut body = value(register_body(&registration));
        body.as_object_mut().unwrap().remove("info");
        assert_eq!(
            body,
            json!({
                "token": "GR1348941secret", "description": "lab", "maintenance_note": "ask me",
                "tag_list": "arm,big iron", "access_level": "ref_protected",
                "maximum_timeout": 3600, "run_untagged": false, "locked": true, "paused": true,
            })
        );
        // As a transcript reads it.
        let again: Registration = serde_json::from_slice(&register_body(&registration)).unwrap();
        assert_eq!(again.tag_list, registration.tag_list);
        assert_eq!(again.maximum_timeout, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn a_token_is_all_that_most_need() {
        let token = Secret::from("glrt-x\"");
        assert_eq!(value(token_body(&token)), json!({ "token": "glrt-x\"" }));
        assert_eq!(
            value(manager_body(&token, "s_1")),
            json!({ "token": "glrt-x\"", "system_id": "s_1" })
        );
        // An empty one is for GitLab to refuse: without it, it would say that it is missing.
        assert_eq!(value(manager_body(&token, ""))["system_id"], "");
    }

    #[test]
    fn details_are_read_as_far_as_they_go() {
        let read = |body: Value| RunnerDetails::parse(body.to_string().as_bytes());
        let details = read(json!({
            "id": 7, "token": "glrt-new", "token_expires_at": "1970-01-02T00:00:00Z", "more": 1,
        }));
        assert_eq!(details.id, Some(7));
        assert_eq!(details.token, Some(Secret::from("glrt-new")));
        let day = WallTime(Duration::from_secs(86_400));
        assert_eq!(details.token_expires_at, Some(day));
        assert!(!format!("{details:?}").contains("glrt"));

        for body in [
            json!({}),
            json!({ "id": 0, "token": "", "token_expires_at": null }),
            json!({ "id": -1, "token": 7, "token_expires_at": 0 }),
            json!({ "id": 1.5, "token": "a b", "token_expires_at": "soon" }),
            json!({ "id": {}, "token": "a\n", "token_expires_at": "" }),
            json!([7]),
            json!("200"),
        ] {
            assert_eq!(read(body.clone()), RunnerDetails::default(), "{body}");
        }
        assert_eq!(read(json!({ "id": "12" })).id, Some(12));
    }

    quickcheck! {
        fn any_body_is_an_answer(body: Vec<u8>) -> bool {
            let details = RunnerDetails::parse(&body);
            details.token.is_none_or(|token| !token.is_empty())
        }
    }
}
