//! What a whole run over real sockets says and writes down, and what it leaves behind: no secret, and
//! nothing. The same in the simulator, for many runs, is a part of `campaign`.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod ear;
#[path = "../faults/fast.rs"]
mod fast;
mod gossip;
#[path = "../../examples/simulate/campaign/leaks.rs"]
mod leaks;
mod planted;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use gitlab_runner::{
    Runner,
    adapter::{Recording, TokioHyper, conformance::support::Authority},
    har::{Har, HarEntry, Secrets},
    machine::transcript::Transcript,
    mock::{JobReport, JobStatus, MockGitlab, http::Loopback},
};

use ear::Ear;
use fast::{Fast, FastServer};
use gossip::Gossip;
use leaks::{leaks, parts};
use planted::{REFERRED, RUNNER_TOKEN, WRONG_TOKEN};

/// What there is of a run.
struct Ran {
    /// Secrets that went over the wire.
    sent: Vec<String>,
    /// Secrets that never do.
    own: Vec<String>,
    /// The jobs that were handed out.
    jobs: usize,
    har: Har,
    transcript: String,
}

/// A runner from its first request to its end, and what went wrong on the way.
async fn live(dir: &Path, secrets: Secrets) -> Ran {
    let ear = Ear::of_the_process();
    let authority = Authority::new("ours");
    let tls = authority.server(&["127.0.0.1"]);
    let client = authority.server(&["runner.test"]);
    let own = [&tls.key_pem, &client.key_pem].map(|key| String::from_utf8(key.clone()).unwrap());
    let mut gitlab = MockGitlab::new(9);
    let storage = FastServer(gitlab.object_store());
    let storage = Loopback::start_tls(storage, authority.server(&["127.0.0.1"])).unwrap();
    planted::plant(&mut gitlab, &storage.url());
    let gitlab = Loopback::start_tls(FastServer(gitlab), tls).unwrap();
    let adapter = TokioHyper::builder()
        .ca_pem(authority.pem())
        .client_certificate_pem(client.cert_chain_pem, client.key_pem);
    let adapter = Arc::new(Fast(Arc::new(adapter.build().unwrap())));
    ear.look_at(&*adapter);
    let recording = Recording::new(adapter).secrets(secrets);
    let transcript = Arc::new(Mutex::new(String::new()));
    let url: url::Url = gitlab.url().parse().unwrap();
    let builder = |token: &str| {
        let sink = Arc::clone(&transcript);
        Runner::builder(url.clone(), token, dir)
            .adapter(Arc::new(recording.clone()))
            .transcript(secrets, move |line| sink.lock().unwrap().push_str(line))
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
            // It has said all that it has to say.
            let waits = |it: &JobReport| it.name == "waits" && it.log_text().contains("runner ");
            until(&gitlab, |it| it.reports().any(waits)).await;
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
    drop(runner);
    ear.look_at(&recording);
    let mut sent = planted::known();
    sent.push(new);
    let jobs = gitlab.with(|FastServer(gitlab), _| {
        ear.look_at(gitlab);
        for report in gitlab.reports() {
            ear.look_at(report);
            ear.hear(&report.log_text());
            sent.push(gitlab.job_token(report.id).unwrap().expose().to_owned());
        }
        let status = |name: &str| gitlab.reports().find(|it| it.name == name).unwrap().status;
        assert_eq!(status("made"), JobStatus::Success);
        assert_eq!(status("first"), JobStatus::Failed, "its upload was refused");
        assert_eq!(status("panics"), JobStatus::Failed);
        assert_eq!(status("broken"), JobStatus::Failed);
        assert_eq!(status("waits"), JobStatus::Canceled);
        assert_eq!(gitlab.pending_plans(), 0, "not all was echoed");
        gitlab.reports().count()
    });
    let transcript = transcript.lock().unwrap().clone();
    Ran {
        sent,
        own: own.into(),
        jobs,
        har: recording.har(),
        transcript,
    }
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

fn run(dir: &Path, secrets: Secrets) -> Ran {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(live(dir, secrets))
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
    // What is made once for the whole process; and there is something to be found.
    let kept = run(dir.path(), Secrets::Kept);
    replays(&kept.transcript, kept.jobs);
    for text in [kept.har.to_json(), kept.transcript] {
        let found = leaks(&text, kept.sent.iter().chain(&kept.own).map(String::as_str));
        let is_found = |secret: &String| parts(secret).any(|part| found.contains_key(part));
        for secret in &kept.sent {
            assert!(is_found(secret), "{secret:?} is not");
        }
        assert!(!kept.own.iter().any(is_found), "{found:#?}");
    }
    ear.heard().clear();

    let before = belongings();
    let ran = run(dir.path(), Secrets::Redacted);
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
        "QUOTED is [MASKED]",
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
    all_is_recorded(&ran.har, ran.jobs);
    replays(&ran.transcript, ran.jobs);
    for (what, text) in [
        ("said", &heard),
        ("in the archive", &ran.har.to_json()),
        ("in the transcript", &ran.transcript),
    ] {
        let secrets = ran.sent.iter().chain(&ran.own).map(String::as_str);
        let leaks = leaks(text, secrets);
        assert!(leaks.is_empty(), "{what}: {leaks:#?}");
        // Public, but not where a masked variable refers to it.
        assert!(!text.contains(&format!("<{REFERRED}>")), "{what}");
    }
}

/// The archive holds each request that such a run takes, and has placeholders where secrets stood.
fn all_is_recorded(har: &Har, jobs: usize) {
    let entries = &har.log.entries;
    let count = |method: &str, path: &str, status: i64| {
        let is = |it: &&HarEntry| {
            let url = it.request.url.split('?').next().unwrap_or_default();
            it.request.method == method && url.contains(path) && it.response.status == status
        };
        entries.iter().filter(is).count()
    };
    let handlers = jobs - 1;
    for (method, path, status, at_least) in [
        ("POST", "/runners/verify", 200, 1),
        ("POST", "/runners/verify", 403, 1),
        ("POST", "/runners/reset_authentication_token", 201, 1),
        ("POST", "/jobs/request", 201, jobs),
        ("POST", "/jobs/request", 500, 1),
        ("PATCH", "/trace", 500, handlers),
        ("PATCH", "/trace", 202, handlers),
        ("PUT", "/api/v4/jobs/", 500, jobs),
        ("PUT", "/api/v4/jobs/", 200, jobs),
        ("POST", "/artifacts", 400, 3),
        ("POST", "/artifacts", 201, 1),
        ("GET", "/artifacts", 302, 2),
        ("GET", "/artifacts", 403, 1),
        ("GET", "/missing", 400, 1),
    ] {
        let found = count(method, path, status);
        assert!(
            found >= at_least,
            "{method} {path} was answered {status} {found} times, not {at_least}"
        );
    }
    assert_eq!(har.log.comment, "", "all of it");
    let text = har.to_json();
    for mark in ["glrt-redacted-", "glcbt-redacted-", "SECRET is [MASKED]"] {
        assert!(text.contains(mark), "{mark}");
    }
    assert!(!text.contains("redacted-redacted"), "{text}");
    assert_eq!(Har::parse(text.as_bytes()).unwrap(), *har);
}

/// The transcripts hold each job, and a new machine says the same to the same inputs.
fn replays(text: &str, jobs: usize) {
    let sessions = text.match_indices("{\"transcript\"").map(|(at, _)| at);
    let mut ends = sessions.clone().skip(1).chain([text.len()]);
    let mut started = 0;
    for start in sessions {
        let session = &text[start..ends.next().unwrap()];
        let transcript = Transcript::parse(session.as_bytes()).unwrap();
        if let Err(divergence) = transcript.replay() {
            // Where a payload breaks depends on how long placeholders are.
            let shown = divergence.to_string();
            let is_redacted = !session.contains(RUNNER_TOKEN) && shown.contains(" column ");
            assert!(is_redacted, "{shown}");
        }
        started += session.matches(": Start(").count();
    }
    assert_eq!(started, jobs - 1, "jobs with a handler");
}

/// A scan that finds nothing would be worth nothing.
#[test]
fn each_form_of_a_secret_is_found() {
    let secret = "a \"secret\" \\ of clé\nin two lines";
    let json = serde_json::json!({ "text": secret }).to_string();
    let twice = serde_json::json!({ "text": json }).to_string();
    let latin1: String = secret.bytes().map(char::from).collect();
    let percent: String = secret.bytes().map(|it| format!("%{it:02x}")).collect();
    let base64 = |text: &str| BASE64_STANDARD.encode(text);
    for text in [
        secret.to_owned(),
        format!("{secret:?}"),
        json.clone(),
        twice.clone(),
        format!("{twice:?}"),
        latin1,
        percent.clone(),
        serde_json::json!({ "url": percent }).to_string(),
        base64(secret),
        base64(&json),
        base64(&format!("user:{secret}\u{fe}")),
        BASE64_URL_SAFE_NO_PAD.encode(format!("??{secret}")),
        format!("data:{},", base64(&base64(&twice))),
        "only \\u0061 \\\"secret\\\" \\\\ of cl\\u{e9} in one".to_owned(),
    ] {
        let found = leaks(&text, [secret]);
        assert!(parts(secret).any(|it| found.contains_key(it)), "{text}");
    }
    for text in ["", "\\", "\\u", "\\u{", "%", "%e", "a \"secret\"", "in two"] {
        assert!(leaks(text, [secret]).is_empty(), "{text}");
    }
    // What an escape is written with belongs to it.
    assert!(leaks("line\\network", ["network"]).is_empty());
    assert!(!leaks("line\\\\network", ["network"]).is_empty());
}
