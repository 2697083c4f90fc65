//! What a runner tells GitLab of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeStruct};
use serde_json::value::{RawValue, to_raw_value};

use crate::secret::Secret;

/// The `info` of a runner: GitLab shows it, and reads off it what the runner can do.
///
/// GitLab stores it at most once in 40 to 55 minutes per runner manager, so the very first request
/// should carry all of it. Empty texts are not sent. A long `info` may be refused: the body of a job
/// request must not exceed 32 KiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Info {
    /// What kind of runner it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its version, at most 2048 bytes. GitLab compares it with the versions of its own runner and
    /// offers upgrades for low ones.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its revision, at most 255 bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Its operating system in Go's words (`linux`, `darwin`, `windows`), at most 255 bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// Its processor in Go's words (`amd64`, `arm64`), at most 255 bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// How it runs jobs, in the words of GitLab's own runner; `custom` is the one for all others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub executor: String,
    /// The shell that jobs are run with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub shell: String,
    /// What it can do.
    pub features: RunnerFeatures,
    /// Its graphics processors (`config.gpus`).
    #[serde(
        default,
        rename = "config",
        serialize_with = "as_config",
        deserialize_with = "from_config"
    )]
    pub gpus: String,
    /// Labels of the runner manager; at most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Info {
    /// The same runner in as few bytes as possible, for a server that found the request too large
    /// (413): name, executor and features.
    pub fn minimal(&self) -> Self {
        Self {
            name: self.name.clone(),
            executor: self.executor.clone(),
            features: self.features.clone(),
            ..Self::blank()
        }
    }

    fn blank() -> Self {
        Self {
            name: String::new(),
            version: String::new(),
            revision: String::new(),
            platform: String::new(),
            architecture: String::new(),
            executor: String::new(),
            shell: String::new(),
            features: RunnerFeatures::none(),
            gpus: String::new(),
            labels: BTreeMap::new(),
        }
    }
}

/// A runner made with this crate, of which nothing else is known.
impl Default for Info {
    fn default() -> Self {
        Self {
            name: "gitlab-runner-rs".to_owned(),
            executor: "custom".to_owned(),
            features: RunnerFeatures::default(),
            ..Self::blank()
        }
    }
}

fn as_config<S: Serializer>(gpus: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let mut config = serializer.serialize_struct("config", 1)?;
    config.serialize_field("gpus", gpus)?;
    config.end()
}

fn from_config<'de, D: Deserializer<'de>>(config: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        gpus: String,
    }
    Config::deserialize(config).map(|config| config.gpus)
}

macro_rules! features {
    ($( $(#[$meta:meta])* $name:ident = $default:literal, )*) => {
        /// What a runner can do; all of it is sent, true or false.
        ///
        /// GitLab does not route around what is missing: a job that needs a feature which the runner
        /// does not claim is failed with `runner_unsupported`. A claim that is not true breaks jobs.
        /// [`Default`] claims what this crate does whatever the handler does; the rest depends on
        /// the handler.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[non_exhaustive]
        #[serde(default)]
        pub struct RunnerFeatures {
            $( $(#[$meta])* pub $name: bool, )*
        }

        impl RunnerFeatures {
            /// Claims nothing.
            pub const fn none() -> Self {
                Self { $( $name: false, )* }
            }
        }

        impl Default for RunnerFeatures {
            fn default() -> Self {
                Self { $( $name: $default, )* }
            }
        }
    };
}

features! {
    /// Job variables reach the job.
    variables = true,
    /// Jobs run in the image that they name.
    image = false,
    /// Services run beside the job.
    services = false,
    /// Artifacts are uploaded and those of other jobs downloaded.
    artifacts = true,
    /// Caches are kept between jobs.
    cache = false,
    /// `cache:fallback_keys`; jobs that use it need this.
    fallback_cache_keys = false,
    /// Jobs share one environment.
    shared = false,
    /// `artifacts:reports`; jobs that use it need this.
    upload_multiple_artifacts = true,
    /// Artifacts in the format `raw`.
    upload_raw_artifacts = true,
    /// Sessions (interactive terminal, proxy).
    session = false,
    /// The interactive terminal.
    terminal = false,
    /// Sources are fetched by `git_info.refspecs`; jobs of merge requests need this.
    refspecs = true,
    /// Masked values are kept out of the log.
    masking = true,
    /// Services can be reached through the session.
    proxy = false,
    /// Raw variables are not expanded.
    raw_variables = true,
    /// `artifacts:exclude`; jobs that use it need this.
    artifacts_exclude = true,
    /// Steps beyond `script` and `after_script`; jobs with `release` need this.
    multi_build_steps = true,
    /// The log can be sent again from any byte that the server asks for.
    trace_reset = true,
    /// The final update carries the checksum of the log.
    trace_checksum = true,
    /// The final update carries the size of the log.
    trace_size = true,
    /// External secrets are resolved; jobs with `secrets` need this.
    vault_secrets = false,
    /// A job that was cancelled at GitLab is stopped.
    cancelable = true,
    /// Exit codes are reported; `allow_failure:exit_codes` and `retry:exit_codes` need this.
    return_exit_code = true,
    /// Services get their own variables.
    service_variables = false,
    /// Services may have several aliases.
    service_multiple_aliases = false,
    /// `image:docker` and `image:kubernetes` options.
    image_executor_opts = false,
    /// `services:docker` and `services:kubernetes` options.
    service_executor_opts = false,
    /// A job being cancelled comes to its end and is reported; GitLab waits for that.
    cancel_gracefully = true,
    /// Jobs with `run:`.
    native_steps_integration = false,
    /// A job is taken by an update to `running`, not by the reply that hands it out.
    two_phase_job_commit = true,
    /// Job inputs are interpolated.
    job_inputs = false,
}

/// The JSON body of `POST jobs/request`.
///
/// `last_update` is what [`last_update`](crate::protocol::headers::last_update) found in an earlier
/// reply; an empty `system_id` or `last_update` is left out.
pub fn job_request_body(
    token: &Secret,
    system_id: &str,
    last_update: Option<&str>,
    info: &Info,
) -> Vec<u8> {
    body(token, system_id, last_update, info)
}

/// The bodies of many job requests, for which `info` becomes JSON only once.
#[derive(Debug)]
pub(crate) struct JobRequests(Box<RawValue>);

impl JobRequests {
    pub(crate) fn new(info: &Info) -> Self {
        #[expect(clippy::expect_used, reason = "as in to_json")]
        Self(to_raw_value(info).expect("an info is JSON"))
    }

    /// As [`job_request_body`].
    pub(crate) fn body(
        &self,
        token: &Secret,
        system_id: &str,
        last_update: Option<&str>,
    ) -> Vec<u8> {
        body(token, system_id, last_update, &*self.0)
    }
}

fn body(
    token: &Secret,
    system_id: &str,
    last_update: Option<&str>,
    info: &(impl Serialize + ?Sized),
) -> Vec<u8> {
    to_json(&RequestBody {
        token,
        system_id,
        last_update: last_update.filter(|last_update| !last_update.is_empty()),
        info,
    })
}

/// The JSON body of `POST runners/verify`; an empty `system_id` is left out.
pub fn verify_body(token: &Secret, system_id: &str, info: &Info) -> Vec<u8> {
    job_request_body(token, system_id, None, info)
}

#[derive(Serialize)]
struct RequestBody<'a, I: ?Sized> {
    token: &'a Secret,
    #[serde(skip_serializing_if = "str::is_empty")]
    system_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_update: Option<&'a str>,
    info: &'a I,
}

/// Enough for most bodies.
const ROOM: usize = 1 << 10;

/// `body` as JSON. Only for the bodies of this module and its siblings.
pub(super) fn to_json(body: &impl Serialize) -> Vec<u8> {
    let mut json = Vec::with_capacity(ROOM);
    #[expect(
        clippy::expect_used,
        reason = "a Vec takes every write, and our bodies are texts, numbers, booleans, structs and \
                  maps with text keys, none of which serialises with an error"
    )]
    serde_json::to_writer(&mut json, body).expect("a body of texts and numbers is JSON");
    json
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TOKEN: &str = "glrt-t1_EXAMPLErunnertoken";

    fn parse(body: Vec<u8>) -> Value {
        serde_json::from_slice(&body).unwrap()
    }

    fn example() -> Info {
        let mut info = Info {
            name: "my-custom-runner".into(),
            version: "0.3.0".into(),
            revision: "a1b2c3d4".into(),
            platform: "linux".into(),
            architecture: "amd64".into(),
            shell: "bash".into(),
            ..Info::default()
        };
        info.labels.insert("zone".into(), "lab-3".into());
        let features = &mut info.features;
        for claim in [
            &mut features.image,
            &mut features.services,
            &mut features.service_variables,
            &mut features.cache,
            &mut features.fallback_cache_keys,
        ] {
            *claim = true;
        }
        features.two_phase_job_commit = false;
        info
    }

    #[test]
    fn a_job_request_has_the_fields_of_the_example() {
        let mut wanted: Value =
            serde_json::from_str(include_str!("../../tests/payloads/request_job.json")).unwrap();
        // Sessions are not offered.
        wanted.as_object_mut().unwrap().remove("session").unwrap();
        let body = parse(job_request_body(
            &TOKEN.into(),
            "s_0a1b2c3d4e5f",
            Some("5f2d9c1e7b3a48609d1c2b3a4f5e6d7c"),
            &example(),
        ));
        assert_eq!(body, wanted);
        let bodies = JobRequests::new(&example());
        let last_update = Some("5f2d9c1e7b3a48609d1c2b3a4f5e6d7c");
        let body = parse(bodies.body(&TOKEN.into(), "s_0a1b2c3d4e5f", last_update));
        assert_eq!(body, wanted);
    }

    #[test]
    fn what_is_empty_is_left_out() {
        let mut features = serde_json::Map::new();
        for name in [
            "image",
            "services",
            "cache",
            "fallback_cache_keys",
            "shared",
            "session",
            "terminal",
            "proxy",
            "vault_secrets",
            "service_variables",
            "service_multiple_aliases",
            "image_executor_opts",
            "service_executor_opts",
            "native_steps_integration",
            "job_inputs",
        ] {
            features.insert(name.into(), false.into());
        }
        for name in [
            "variables",
            "raw_variables",
            "refspecs",
            "return_exit_code",
            "multi_build_steps",
            "artifacts_exclude",
            "upload_raw_artifacts",
            "upload_multiple_artifacts",
            "artifacts",
            "masking",
            "trace_reset",
            "trace_checksum",
            "trace_size",
            "cancelable",
            "cancel_gracefully",
            "two_phase_job_commit",
        ] {
            features.insert(name.into(), true.into());
        }
        assert_eq!(features.len(), 31);
        let wanted = json!({
            "token": TOKEN,
            "info": {
                "name": "gitlab-runner-rs",
                "executor": "custom",
                "features": features,
                "config": { "gpus": "" },
            },
        });
        let info = Info::default();
        assert_eq!(
            parse(job_request_body(&TOKEN.into(), "", Some(""), &info)),
            wanted
        );
        assert_eq!(parse(verify_body(&TOKEN.into(), "", &info)), wanted);
    }

    #[test]
    fn a_verify_request_names_the_manager() {
        let body = parse(verify_body(&TOKEN.into(), "r_0a1b2c3d4e5f", &example()));
        assert_eq!(body["token"], TOKEN);
        assert_eq!(body["system_id"], "r_0a1b2c3d4e5f");
        assert_eq!(body["info"]["labels"]["zone"], "lab-3");
        assert_eq!(body.as_object().unwrap().len(), 3);
    }

    #[test]
    fn a_minimal_info_keeps_the_features() {
        let mut info = example();
        info.version = "1".repeat(40_000);
        let body = job_request_body(&TOKEN.into(), "s_0a1b2c3d4e5f", None, &info.minimal());
        assert!(body.len() < 2048);
        let body = parse(body);
        assert_eq!(body["info"]["name"], "my-custom-runner");
        assert_eq!(body["info"]["executor"], "custom");
        assert_eq!(body["info"]["features"]["image"], true);
        assert_eq!(body["info"]["config"], json!({ "gpus": "" }));
        assert_eq!(body["info"].as_object().unwrap().len(), 4);
    }

    #[test]
    fn no_feature_is_claimed_by_none() {
        let none = serde_json::to_value(RunnerFeatures::none()).unwrap();
        let none = none.as_object().unwrap();
        assert_eq!(none.len(), 31);
        assert!(none.values().all(|claim| *claim == false));
    }

    #[test]
    fn odd_texts_are_still_json() {
        let mut info = example();
        info.name = "quote \" back \\ nul \0 \u{2028}".into();
        info.labels.insert("k\"".into(), "\u{1f600}".into());
        let body = parse(job_request_body(&"t\"".into(), "s\n", None, &info));
        assert_eq!(body["info"]["name"], info.name);
        assert_eq!(body["token"], "t\"");
    }
}
