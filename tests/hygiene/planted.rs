//! The secrets, and a GitLab that has them in every place and echoes them in every form.

use std::sync::OnceLock;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use gitlab_runner::{
    adapter::conformance::support::Authority,
    mock::{ArtifactSpec, Endpoint, JobSpec, MockGitlab, Override, PipelineSpec},
};
use http::{Response, header::LOCATION};
use serde_json::json;

pub(crate) const RUNNER_TOKEN: &str = "glrt-t1_hygiene0runner0token";
pub(crate) const WRONG_TOKEN: &str = "glrt-t1_hygiene0wrong0token0";
pub(crate) const MASKED: &str = "hygiene-masked-value";
/// Another text in JSON, in URLs and for `Debug`.
const QUOTED: &str = "hygiene \"quoted\" \\value\\ 100% clé";
pub(crate) const REFERRED: &str = "hygiene-referred-value";
const IN_FILE: &str = "hygiene-file-variable";
const PASSWORD: &str = "hygiene/url+password";
/// Parameters of the URL of a redirect, and of a URL in one of them.
const SIGNATURE: &str = "hygiene+signature/of=storage";
const NESTED: &str = "hygiene-nested-token";

/// The private key of an authority, as a file variable has it.
pub(crate) fn ca_key() -> &'static str {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| {
        let key = Authority::new("someone").server(&["127.0.0.1"]).key_pem;
        format!("{}{IN_FILE}\n", String::from_utf8(key).unwrap())
    })
}

/// Those that travel whatever happens.
pub(crate) fn known() -> Vec<String> {
    let texts = [
        RUNNER_TOKEN,
        WRONG_TOKEN,
        MASKED,
        QUOTED,
        IN_FILE,
        PASSWORD,
        SIGNATURE,
        NESTED,
        ca_key(),
    ];
    texts.map(str::to_owned).into()
}

/// The job whose payload cannot be read, and those whose artifacts are refused.
const BROKEN: usize = 5;
const UPLOADING: [usize; 3] = [1, 2, 6];

fn job(name: &str) -> JobSpec {
    let url = format!("https://somebody:{}@registry.test/", percent(PASSWORD));
    JobSpec::script(["gossip"])
        .name(name)
        .allow_failure()
        .variable("INNER", REFERRED)
        .variable("REGISTRY", url)
        .masked_variable("SECRET", MASKED)
        .masked_variable("QUOTED", QUOTED)
        .masked_variable("REFERRING", "<${INNER}>")
        .file_variable("CA_KEY", ca_key())
}

fn percent(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encoded = text.bytes().map(|byte| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    encoded.collect()
}

fn wholly_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// What one says that echoes what it was sent: as its message, and in other forms beside it.
fn echo(status: u16, texts: &[&str]) -> Override {
    let text = texts.join(" ");
    let body = json!({
        "message": format!("no: {text}"),
        "request": json!({ "body": json!({ "said": texts }).to_string() }).to_string(),
        "debug": format!("{texts:?}"),
        "url": texts.iter().map(|it| format!("/?q={}", wholly_encoded(it))).collect::<Vec<_>>(),
        "encoded": BASE64_STANDARD.encode(format!("user:{text}")),
    });
    let mut reply = Response::new(Bytes::from(body.to_string()));
    *reply.status_mut() = http::StatusCode::from_u16(status).unwrap();
    Override::Reply(reply)
}

fn redirect(to: &str) -> Override {
    let mut reply = Response::new(Bytes::from(format!("<a href=\"{to}\">moved</a>")));
    *reply.status_mut() = http::StatusCode::FOUND;
    reply.headers_mut().insert(LOCATION, to.parse().unwrap());
    Override::Reply(reply)
}

/// Gives it jobs, artifacts at `storage`, and a lot to echo.
pub(crate) fn plant(gitlab: &mut MockGitlab, storage: &str) {
    gitlab.settings_mut().object_storage = Some(storage.to_owned());
    gitlab.add_runner(RUNNER_TOKEN);
    let jobs = [
        job("made").artifact_paths(["*.txt"]),
        job("first").artifact_paths(["*.txt"]),
        job("second").stage("later").artifact_paths(["*.txt"]),
        job("panics").stage("later"),
        job("waits").stage("later"),
        job("broken").stage("later").payload_override(|payload| {
            payload["steps"] = json!({ "script": MASKED });
            let variables = payload["variables"].as_array_mut().unwrap();
            let file = variables.iter_mut().find(|it| it["key"] == "CA_KEY");
            file.unwrap()["value"] = json!([ca_key()]);
        }),
        job("uploads in vain")
            .stage("later")
            .artifact(ArtifactSpec::report("codequality", ["a.txt"])),
    ];
    let ids = gitlab.enqueue_pipeline(PipelineSpec::new(jobs)).unwrap();
    for (number, id) in ids.iter().enumerate() {
        let token = gitlab.job_token(*id).unwrap().expose().to_owned();
        let mut all = vec![&*token, MASKED, QUOTED, ca_key()];
        // Of what cannot be read nobody knows what is secret.
        if number == BROKEN {
            all.truncate(1);
        }
        for endpoint in [Endpoint::Trace, Endpoint::FinalUpdate] {
            gitlab.plan_for_job(*id, endpoint, 1, echo(500, &all));
        }
        if UPLOADING.contains(&number) {
            gitlab.plan_for_job(*id, Endpoint::ArtifactUpload, 1, echo(400, &all));
        }
    }
    gitlab.plan(Endpoint::JobRequest, 2, echo(500, &[RUNNER_TOKEN]));
    plan_downloads(gitlab, storage);
}

/// Downloads are refused, sent to where nobody may send them, and sent to the storage, which echoes.
fn plan_downloads(gitlab: &mut MockGitlab, storage: &str) {
    let signature = percent(SIGNATURE);
    let back = percent(&format!("https://h.test/?private_token={NESTED}&n=1"));
    let query = format!("X-Amz-Signature={signature}&back={back}");
    let user = format!("https://somebody:{}@h.test/?{query}", percent(PASSWORD));
    let downloads = [
        echo(403, &[MASKED, QUOTED, ca_key()]),
        redirect(&user),
        redirect(&format!("{storage}/missing?{query}")),
    ];
    for (number, fault) in downloads.into_iter().enumerate() {
        gitlab.plan(Endpoint::ArtifactDownload, number as u64 + 1, fault);
    }
    let body = format!(
        "<Error><Code>Denied</Code><Message>no {SIGNATURE} and {signature}</Message></Error>"
    );
    let mut denied = Response::new(Bytes::from(body));
    *denied.status_mut() = http::StatusCode::BAD_REQUEST;
    gitlab.object_store().plan(1, Override::Reply(denied));
}
