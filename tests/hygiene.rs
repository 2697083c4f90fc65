//! What a whole run over real sockets says, and what it leaves behind: no secret, and nothing. The same
//! in the simulator, for many runs, is a part of `campaign`.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "faults/fast.rs"]
mod fast;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    error::Error,
    fmt::Debug,
    io, panic,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::Cursor;
use gitlab_runner::{
    CancellableJobHandler, CancellationToken, JobResult, Phase, Runner, UploadableFile,
    adapter::{TokioHyper, conformance::support::Authority},
    job::Job,
    mock::{
        ArtifactSpec, Endpoint, JobSpec, JobStatus, MockGitlab, Override, PipelineSpec,
        http::Loopback,
    },
    outputln,
};
use tracing_subscriber::fmt::{MakeWriter, format::FmtSpan};

use fast::{Fast, FastServer};

const RUNNER_TOKEN: &str = "glrt-t1_hygiene0runner0token";
const WRONG_TOKEN: &str = "glrt-t1_hygiene0wrong0token0";
const MASKED: &str = "hygiene-masked-value";
const REFERRED: &str = "hygiene-referred-value";
const IN_FILE: &str = "hygiene-file-variable";
/// What a handler says in its own panics is its own business, everywhere but in the log.
const OWN_WORDS: &str = "the handler's own words";

/// Everything that is said.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<u8>>>);

impl Ear {
    /// The one of this process: events of all threads and panics go there.
    fn of_the_process() -> &'static Self {
        static EAR: OnceLock<Ear> = OnceLock::new();
        EAR.get_or_init(|| {
            let ear = Self::default();
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::TRACE)
                .with_span_events(FmtSpan::FULL)
                .with_ansi(false)
                .with_writer(ear.clone())
                .init();
            let (hearing, hook) = (ear.clone(), panic::take_hook());
            panic::set_hook(Box::new(move |info| {
                let text = info.to_string();
                if !text.contains(OWN_WORDS) {
                    hearing.hear(&text);
                    hook(info);
                }
            }));
            ear
        })
    }

    fn hear(&self, text: &str) {
        let mut heard = self.heard();
        heard.extend_from_slice(text.as_bytes());
        heard.push(b'\n');
    }

    fn look_at(&self, what: &dyn Debug) {
        self.hear(&format!("{what:?} {what:#?}"));
    }

    fn error(&self, error: &dyn Error) {
        self.hear(&format!("{error} {error:?}"));
        if let Some(source) = error.source() {
            self.error(source);
        }
    }

    fn heard(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(|error| error.into_inner())
    }
}

impl io::Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.heard().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Ear {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Says all it can of what it was given.
struct Gossip(Job);

impl Gossip {
    async fn new(job: Job) -> Result<Self, ()> {
        Ok(Self(job))
    }
}

struct Memory(&'static str);

#[async_trait]
impl UploadableFile for Memory {
    type Data<'a> = Cursor<&'a [u8]>;

    fn get_path(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.0)
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        Ok(Cursor::new(b"content"))
    }
}

#[async_trait]
impl CancellableJobHandler<Memory> for Gossip {
    async fn step(&mut self, _: &[String], _: Phase, token: &CancellationToken) -> JobResult {
        let (job, ear) = (&self.0, Ear::of_the_process());
        let environment = job.env().await.unwrap();
        ear.look_at(&environment);
        ear.look_at(job);
        ear.look_at(job.payload());
        ear.look_at(&job.raw_payload().map(<[u8]>::len));
        for variable in job.variables() {
            ear.look_at(&variable);
            if variable.masked() {
                ear.hear(&variable.to_string());
            }
        }
        for dependency in job.dependencies() {
            ear.look_at(&dependency);
            match dependency.download().await {
                Ok(artifact) => ear.look_at(&artifact.map(|it| it.len())),
                Err(error) => ear.error(&error),
            }
        }
        // All that is masked, whole and in two pieces.
        for key in ["SECRET", "REFERRING", "CI_JOB_TOKEN", "CI_REPOSITORY_URL"] {
            let value = environment.get(key).unwrap();
            outputln!("{key} is {value}");
            let (first, second) = value.split_at(value.len() / 2);
            job.trace(first);
            job.sleep(Duration::from_millis(1)).await;
            job.trace(second);
        }
        job.trace(format!("\nrunner {RUNNER_TOKEN}\n"));
        let path = environment.get("CA_KEY").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), ca_key());
        match job.name() {
            "panics" => panic!("{OWN_WORDS}: {MASKED}"),
            "waits" => {
                token.cancelled().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = Memory> + Send>, ()> {
        Ok(Box::new([Memory("a.txt"), Memory("b.txt")].into_iter()))
    }

    async fn cleanup(&mut self) {
        if self.0.name() == "panics" {
            panic!("{OWN_WORDS} again: {MASKED}");
        }
    }
}

/// The private key of an authority, as a file variable has it.
fn ca_key() -> &'static str {
    static KEY: OnceLock<String> = OnceLock::new();
    KEY.get_or_init(|| {
        let key = Authority::new("someone").server(&["127.0.0.1"]).key_pem;
        format!("{}{IN_FILE}\n", String::from_utf8(key).unwrap())
    })
}

fn job(name: &str) -> JobSpec {
    JobSpec::script(["gossip"])
        .name(name)
        .allow_failure()
        .variable("INNER", REFERRED)
        .masked_variable("SECRET", MASKED)
        .masked_variable("REFERRING", "<${INNER}>")
        .file_variable("CA_KEY", ca_key())
}

/// One that echoes what it was sent.
fn echo(status: u16, text: String) -> Override {
    let mut reply = http::Response::new(Bytes::from(format!(r#"{{"message":"no: {text}"}}"#)));
    *reply.status_mut() = http::StatusCode::from_u16(status).unwrap();
    Override::Reply(reply)
}

fn gitlab() -> MockGitlab {
    let mut gitlab = MockGitlab::new(9);
    gitlab.add_runner(RUNNER_TOKEN);
    let jobs = [
        job("first").artifact_paths(["*.txt"]),
        job("second").stage("later").artifact_paths(["*.txt"]),
        job("panics").stage("later"),
        job("waits").stage("later"),
        job("broken").stage("later").payload_override(|payload| {
            payload["steps"] = serde_json::json!({ "script": MASKED });
            payload["variables"][0]["value"] = serde_json::json!([IN_FILE]);
        }),
        job("uploads in vain")
            .stage("later")
            .artifact(ArtifactSpec::report("codequality", ["*.txt"])),
    ];
    let ids = gitlab.enqueue_pipeline(PipelineSpec::new(jobs)).unwrap();
    for id in &ids {
        let token = gitlab.job_token(*id).unwrap().expose().to_owned();
        for endpoint in [Endpoint::Trace, Endpoint::FinalUpdate] {
            gitlab.plan_for_job(*id, endpoint, 1, echo(500, token.clone()));
        }
        gitlab.plan_for_job(*id, Endpoint::ArtifactUpload, 1, echo(400, token.clone()));
    }
    gitlab.plan(Endpoint::JobRequest, 2, echo(500, RUNNER_TOKEN.to_owned()));
    gitlab.plan(Endpoint::ArtifactDownload, 1, echo(403, MASKED.to_owned()));
    gitlab
}

/// A runner from its first request to its end, and what went wrong on the way. Gives the secrets.
async fn live(dir: &Path) -> Vec<String> {
    let ear = Ear::of_the_process();
    let authority = Authority::new("ours");
    let tls = authority.server(&["127.0.0.1"]);
    let key = String::from_utf8(tls.key_pem.clone()).unwrap();
    let gitlab = Loopback::start_tls(FastServer(gitlab()), tls).unwrap();
    let adapter = TokioHyper::builder().ca_pem(authority.pem());
    let adapter = Arc::new(Fast(Arc::new(adapter.build().unwrap())));
    ear.look_at(&*adapter);
    let url: url::Url = gitlab.url().parse().unwrap();
    let builder = |token: &str| {
        Runner::builder(url.clone(), token, dir)
            .adapter(Arc::clone(&adapter) as _)
            .keep_raw_payload(true)
            .keep_alive(Duration::from_secs(1))
    };

    let mut refused = builder(WRONG_TOKEN).build().await;
    ear.error(&refused.verify().await.unwrap_err());
    ear.error(&refused.run(Gossip::new, 1).await.unwrap_err());
    let request = refused.request_job(Gossip::new).await;
    ear.error(&request.unwrap_err());

    ear.look_at(&builder(RUNNER_TOKEN));
    let mut runner = builder(RUNNER_TOKEN).build().await;
    ear.look_at(&runner);
    ear.look_at(&runner.verify().await.unwrap());
    let handle = runner.handle();
    ear.look_at(&handle);
    let new = {
        let watch = async {
            let waits = |gitlab: &MockGitlab, status| {
                gitlab
                    .reports()
                    .any(|it| it.name == "waits" && it.status == status)
            };
            until(&gitlab, |it| waits(it, JobStatus::Running)).await;
            gitlab.with(|it, _| {
                let id = it.0.reports().find(|it| it.name == "waits").unwrap().id;
                it.0.cancel(id);
            });
            until(&gitlab, MockGitlab::is_idle).await;
            let new = handle.reset_token().await.unwrap();
            ear.look_at(&new);
            handle.drain();
            new.token.expose().to_owned()
        };
        let (run, new) = tokio::join!(runner.run(Gossip::new, 10), watch);
        run.unwrap();
        new
    };
    ear.look_at(&runner);
    gitlab.with(|FastServer(gitlab), _| {
        ear.look_at(gitlab);
        let mut secrets = vec![key, new];
        for report in gitlab.reports() {
            ear.look_at(report);
            ear.hear(&report.log_text());
            secrets.push(gitlab.job_token(report.id).unwrap().expose().to_owned());
        }
        let status = |name: &str| gitlab.reports().find(|it| it.name == name).unwrap().status;
        assert_eq!(status("first"), JobStatus::Failed, "its upload was refused");
        assert_eq!(status("panics"), JobStatus::Failed);
        assert_eq!(status("broken"), JobStatus::Failed);
        assert_eq!(status("waits"), JobStatus::Canceled);
        secrets
    })
}

async fn until(gitlab: &Loopback<FastServer<MockGitlab>>, holds: impl Fn(&MockGitlab) -> bool) {
    let begun = Instant::now();
    while !gitlab.with(|it, _| holds(&it.0)) {
        assert!(
            begun.elapsed() < Duration::from_secs(50),
            "it does not come"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn run(dir: &Path) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(live(dir))
}

/// What the process has, as far as the system tells: threads, and open files by what they are.
fn belongings() -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for open in std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        let Ok(target) = std::fs::read_link(open.path()) else {
            continue;
        };
        // Without the numbers of sockets and pipes.
        let target = target.display().to_string();
        let kind = target.split(":[").next().unwrap_or_default().to_owned();
        *found.entry(kind).or_default() += 1;
    }
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    found.insert("threads".to_owned(), threads.count());
    found
}

#[test]
fn a_run_tells_no_secret_and_leaves_nothing_behind() {
    let ear = Ear::of_the_process();
    let dir = tempfile::tempdir().unwrap();
    // What is made once for the whole process.
    run(dir.path());
    ear.heard().clear();

    let before = belongings();
    let secrets = run(dir.path());
    let begun = Instant::now();
    // The system may list a thread for an instant after it was joined.
    while belongings() != before && begun.elapsed() < Duration::from_secs(10) {
        std::thread::yield_now();
    }
    assert_eq!(belongings(), before);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
    let left: Vec<_> = left
        .iter()
        .filter(|it| it.file_name() != ".runner_system_id")
        .collect();
    assert!(left.is_empty(), "{left:?}");

    let heard = String::from_utf8_lossy(&ear.heard()).into_owned();
    for word in [
        "SECRET is [MASKED]",
        "CA_KEY",
        "gitlab.job",
        "handed out",
        "panicked",
    ] {
        assert!(
            heard.contains(word),
            "nothing was heard of {word:?}: {heard}"
        );
    }
    let known = [RUNNER_TOKEN, WRONG_TOKEN, MASKED, IN_FILE].map(str::to_owned);
    for secret in known
        .into_iter()
        .chain(secrets)
        .chain([ca_key().to_owned()])
    {
        // Of keys, each line that has something of it.
        for line in secret
            .lines()
            .filter(|it| it.len() > 15 && !it.contains("-----"))
        {
            if let Some(at) = heard.find(line) {
                let from = heard[..at].rfind('\n').unwrap_or(0);
                let said: String = heard[from..].chars().take(400).collect();
                panic!("{line:?} was said: {said}");
            }
        }
    }
    // Public, but not where a masked variable refers to it.
    let referred = heard.matches(&format!("<{REFERRED}>")).count();
    assert_eq!(referred, 0);
}
