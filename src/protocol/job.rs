//! A job as GitLab hands it out.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use memchr::memmem;
use serde_json::{
    Value,
    de::{Deserializer, Read},
};

use crate::{ids::JobId, secret::Secret};

#[macro_use]
mod lenient;

mod error;
mod expand;
mod files;
mod number;
mod raw;
mod reader;
mod secrets;
mod work;

pub(crate) use self::expand::has_references;
#[cfg(feature = "runner")]
pub(crate) use self::expand::{Expander, Meaning};
pub(crate) use self::reader::PayloadReader;
pub use self::{
    error::PayloadError,
    files::{
        ArtifactFormat, ArtifactSpec, ArtifactWhen, ArtifactsFile, CachePolicy, CacheSpec,
        DependencyInfo,
    },
    raw::RawPayload,
    secrets::{
        AkeylessSecret, AkeylessServer, AwsSecret, AwsServer, AzureSecret, AzureServer, GcpSecret,
        GcpServer, GitlabSecret, GitlabSecretServer, InlineAuth, SecretEngine, SecretSpec,
        VaultAuth, VaultAuthData, VaultSecret, VaultServer,
    },
    work::{
        Credential, DockerOptions, ExecutorOptions, Features, GcpOidcAuth, GitInfo, Hook, Image,
        InputInfo, InputKind, InputValue, JobInfo, JobVariable, KubernetesOptions, OtelAuth,
        OtelEndpoint, PolicyOptions, Port, PullPolicy, RunnerInfo, Service, Step, StepWhen,
        SuspendOptions, TracingInfo,
    },
};
use self::{
    error::{good_id, good_token},
    lenient::Lenient,
};

objects! {
    /// A job: the body of the 201 that answers a job request.
    ///
    /// It is read leniently, since servers differ by version and licence: whatever is missing, null
    /// or an empty list is empty here, unknown fields are skipped, and unknown words are kept as
    /// `Other`. Printing it shows no token and no value of a variable.
    #[derive(Debug)]
    pub struct JobPayload {
        /// The number of the job, never 0.
        pub id: JobId,
        /// The job token, of any length; visible ASCII, never empty.
        pub token: Secret,
        /// Whether sources may be fetched into what an earlier job left, instead of cloned.
        pub allow_git_fetch: bool,
        /// Where the job comes from.
        pub job_info: JobInfo,
        /// What to check out.
        pub git_info: GitInfo,
        /// What GitLab says of the runner.
        pub runner_info: RunnerInfo,
        /// Parameters of the job.
        pub inputs: Vec<InputInfo>,
        /// Variables, of which the last one of a key counts; see [`variable`](Self::variable). Those
        /// that are the same in many jobs of a server are shared by them.
        pub variables: Vec<Arc<JobVariable>>,
        /// What to run, in this order. Empty where `run` is given.
        pub steps: Vec<Step>,
        /// Native steps: a text that holds JSON, as it came.
        pub run: Option<String>,
        /// Commands around getting the sources.
        pub hooks: Vec<Hook>,
        /// The image to run in.
        pub image: Option<Image>,
        /// Images to run beside it.
        pub services: Vec<Service>,
        /// Files to upload when the job is over.
        pub artifacts: Vec<ArtifactSpec>,
        /// Files to keep between jobs.
        pub cache: Vec<CacheSpec>,
        /// Access to registries.
        pub credentials: Vec<Credential>,
        /// What the server can do. Jobs of one server share it.
        pub features: Arc<Features>,
        /// Earlier jobs whose files this one may want.
        pub dependencies: Vec<DependencyInfo>,
        /// External secrets, by the name of the variable that each is for.
        pub secrets: BTreeMap<String, SecretSpec>,
        /// The security policy that the job belongs to.
        pub policy_options: Option<PolicyOptions>,
        /// What to do with the environment when the job is over.
        pub suspend_options: Option<SuspendOptions>,
        /// All of it as it came, if it was kept; no field of the body.
        pub raw: RawPayload as "",
    }
}

impl JobPayload {
    /// Reads the body of a 201.
    ///
    /// # Errors
    ///
    /// The body is cut short, is not JSON, has a value of a wrong type, or lacks id or token. The
    /// error holds id and token if they can be found all the same, so that the job can be reported
    /// as failed.
    pub fn parse(body: &[u8]) -> Result<Self, PayloadError> {
        let read = match std::str::from_utf8(body) {
            // Checked as a whole, it need not be checked text by text.
            Ok(text) => Self::read_all(Deserializer::from_str(text)),
            Err(_) => Self::read_all(Deserializer::from_slice(body)),
        };
        match read {
            Ok(Some(payload)) => payload.checked(body),
            Ok(None) => Err(PayloadError::at(
                body,
                "the body".to_owned(),
                "expected an object".to_owned(),
            )),
            Err(error) => Err(PayloadError::unreadable(body, &error)),
        }
    }

    /// The payload, which was read from `body`, if it has what every job has.
    fn checked(self, body: &[u8]) -> Result<Self, PayloadError> {
        let bad = |place: &str, problem: &str| {
            Err(PayloadError::at(body, place.to_owned(), problem.to_owned()))
        };
        if good_id(self.id).is_none() {
            return bad("id", "expected the number of a job");
        }
        if good_token(self.token.clone()).is_none() {
            return bad("token", "expected a token in visible ASCII");
        }
        Ok(self)
    }

    fn read_all<'de, R: Read<'de>>(mut body: Deserializer<R>) -> serde_json::Result<Option<Self>> {
        let payload = Self::read(&mut body)?;
        body.end()?;
        Ok(payload)
    }

    /// The variable with this key: the last one, if there are several.
    pub fn variable(&self, key: &str) -> Option<&JobVariable> {
        self.variables
            .iter()
            .rev()
            .find(|variable| variable.key == key)
            .map(Arc::as_ref)
    }

    /// Every text of the payload that must be kept out of the log, each once, without blanks around
    /// it.
    ///
    /// These are the job token and those of dependencies, passwords (of registries and in the URLs
    /// to clone from), the variables that GitLab fills with tokens, all masked variables (unexpanded,
    /// and also those that a later one of the same key hides) and sensitive parameters.
    pub fn mask_values(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.secrets()
            .map(|secret| secret.trim().to_owned())
            .filter(|value| !value.is_empty() && seen.insert(value.clone()))
            .collect()
    }

    /// The same as they come, some of them several times.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let repository = password(self.git_info.repo_url.expose());
        // As whoever uses it may print it.
        let decoded = repository.and_then(percent_decoded);
        let variables = self
            .variables
            .iter()
            .flat_map(|variable| variable.secrets());
        let inputs = self.inputs.iter().filter(|input| input.value.sensitive);
        let inputs = inputs.flat_map(|input| texts(&input.value.content));
        let stores = self.secrets.values().flat_map(|spec| spec.tokens());
        // What a reference stands for is masked where it comes from.
        let stores = stores.filter(|token| self.refers_to_nothing(token.expose()));
        let tokens = self.dependencies.iter().map(|dependency| &dependency.token);
        let passwords = self
            .credentials
            .iter()
            .map(|credential| &credential.password);
        let secrets = [&self.token].into_iter().chain(tokens).chain(passwords);
        secrets
            .chain(stores)
            .map(|secret| Some(secret.expose()))
            .chain([repository])
            .flatten()
            .chain(variables)
            .map(Cow::Borrowed)
            .chain(inputs)
            .chain(decoded.map(Cow::Owned))
    }

    /// Whether expansion leaves a text as it is.
    fn refers_to_nothing(&self, text: &str) -> bool {
        !has_references(text) || self.expand(text, |_| String::new()) == text
    }

    /// The time that the job may take: `default` if GitLab names none, or none above zero.
    pub fn time_limit(&self, default: Duration) -> Duration {
        match self.runner_info.timeout.map(u64::try_from) {
            Some(Ok(seconds)) if seconds > 0 => Duration::from_secs(seconds),
            _ => default,
        }
    }

    /// Whether the user asked for a log that may show more than usual (`CI_DEBUG_TRACE` or
    /// `CI_DEBUG_SERVICES`). GitLab then restricts who may read it.
    pub fn is_debug_trace(&self) -> bool {
        ["CI_DEBUG_TRACE", "CI_DEBUG_SERVICES"]
            .iter()
            .any(|key| self.switch(key) == Some(true))
    }

    /// What a variable says that switches something on or off, by GitLab's own runner's rules: `true`,
    /// `t` or a number that is 1 is on, `false`, `f` or 0 is off. None if it is missing or says
    /// anything else. References in it are followed.
    pub fn switch(&self, key: &str) -> Option<bool> {
        is_on(&self.setting(key)?)
    }

    /// What a variable says that is meant for the runner, without blanks around it: its references are
    /// followed, unless it is raw. None if it is missing or says nothing.
    pub(crate) fn setting(&self, key: &str) -> Option<String> {
        let JobVariable { value, raw, .. } = self.variable(key)?;
        let value = match raw {
            true => Cow::Borrowed(value.as_str()),
            // The path of a file is no setting.
            false => Cow::Owned(self.expand(value, |_| String::new())),
        };
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }
}

/// What a setting says that is a switch; see [`JobPayload::switch`].
pub(crate) fn is_on(value: &str) -> Option<bool> {
    let is = |words: [&str; 2]| words.iter().any(|word| value.eq_ignore_ascii_case(word));
    match value.parse() {
        _ if is(["true", "t"]) => Some(true),
        _ if is(["false", "f"]) => Some(false),
        Ok(1) => Some(true),
        Ok(0) => Some(false),
        _ => None,
    }
}

/// All texts in a value, and its numbers but for those that are in every log.
fn texts(value: &Value) -> Vec<Cow<'_, str>> {
    match value {
        Value::String(text) => vec![Cow::Borrowed(text)],
        Value::Number(number) if number.to_string().len() > 3 => {
            vec![Cow::Owned(number.to_string())]
        }
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// Variables that GitLab itself fills with tokens, whether it marks them as masked or not.
pub(crate) const TOKEN_VARIABLES: [&str; 4] = [
    "CI_JOB_TOKEN",
    "CI_REGISTRY_PASSWORD",
    "CI_DEPENDENCY_PROXY_PASSWORD",
    "CI_DEPLOY_PASSWORD",
];

impl JobVariable {
    /// What of its value has to be masked.
    fn secrets(&self) -> impl Iterator<Item = &str> {
        let key = self.key.as_str();
        let is_secret = self.masked || TOKEN_VARIABLES.contains(&key);
        let password = (key == "CI_REPOSITORY_URL").then(|| password(&self.value));
        let value = is_secret.then_some(self.value.as_str());
        [value, password.flatten()].into_iter().flatten()
    }
}

/// The password in front of the host of a URL.
fn password(url: &str) -> Option<&str> {
    let rest = url.get(memmem::find(url.as_bytes(), b"://")? + 3..)?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user_info, _) = authority.rsplit_once('@')?;
    user_info.split_once(':').map(|(_, password)| password)
}

/// The text that percent signs in a part of a URL stand for, if there are any.
pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    let mut found = false;
    for part in parts {
        let digits = part.get(..2).filter(|it| !it.starts_with('+'));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                found = true;
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    found.then(|| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
