//! What the recorder writes down, and what it does not.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use gitlab_runner::{
    Time,
    adapter::{Adapter, Body, Recording, TransportError, TransportErrorKind},
    har::{Har, HarBody, Mode, Secrets},
    mock::{ArtifactSpec, JobSpec},
    sim::Sim,
};
use http::{Request, Response};
use sha2::{Digest, Sha256};

use crate::{
    make,
    world::{Stage, TOKEN, recording, replay, replay_many, run, run_many},
};

/// Answers each request with these pieces, or not at all.
#[derive(Debug)]
struct Canned {
    pieces: Vec<&'static [u8]>,
    breaks: bool,
    fails: bool,
}

impl Adapter for Canned {
    fn now(&self) -> Time {
        Time::from_secs(5)
    }

    fn sleep_until(&self, _: Time) -> BoxFuture<'static, ()> {
        futures::future::pending().boxed()
    }

    fn spawn(&self, _: BoxFuture<'static, ()>) {}

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        async { work() }.boxed()
    }

    fn send(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let mut pieces: Vec<io::Result<Bytes>> = self
            .pieces
            .iter()
            .map(|piece| Ok(Bytes::from_static(piece)))
            .collect();
        if self.breaks {
            pieces.push(Err(io::Error::other("the line broke: glrt-of-the-error")));
        }
        let fails = self.fails;
        async move {
            if let Body::Stream { mut chunks, .. } = request.into_body() {
                while chunks.next().await.is_some() {}
            }
            if fails {
                let kind = TransportErrorKind::Connect;
                return Err(TransportError::new(kind, false, "refused"));
            }
            let len = None;
            let chunks = stream::iter(pieces).boxed();
            Ok(Response::new(Body::Stream { len, chunks }))
        }
        .boxed()
    }
}

fn canned(pieces: &[&'static [u8]]) -> Canned {
    Canned {
        pieces: pieces.to_vec(),
        breaks: false,
        fails: false,
    }
}

/// Sends one request and reads the reply to its end.
fn exchange(recording: &Recording, request: Request<Body>) -> Vec<u8> {
    async {
        let Ok(reply) = recording.send(request).await else {
            return Vec::new();
        };
        let Body::Stream { mut chunks, .. } = reply.into_body() else {
            panic!("not what was sent");
        };
        let mut all = Vec::new();
        while let Some(Ok(chunk)) = chunks.next().await {
            all.extend_from_slice(&chunk);
        }
        all
    }
    .now_or_never()
    .unwrap()
}

fn post(path: &str, pieces: &[&'static str]) -> Request<Body> {
    let chunks: Vec<_> = pieces
        .iter()
        .map(|it| Ok(Bytes::from_static(it.as_bytes())))
        .collect();
    let body = Body::Stream {
        len: None,
        chunks: stream::iter(chunks).boxed(),
    };
    let uri = format!("https://gitlab.example.test/api/v4/{path}");
    let content_type = "multipart/form-data; boundary=abc";
    let request = Request::post(uri).header("content-type", content_type);
    request.body(body).unwrap()
}

fn get() -> Request<Body> {
    let uri = "https://gitlab.example.test/api/v4/jobs/1/artifacts?job_token=planted-token";
    Request::get(uri).body(Body::Empty).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

const FORM: [&str; 3] = [
    "--abc\r\nContent-Disposition: form-data; name=\"file\"; file",
    "name=\"a.zip\"\r\n\r\nPLANTED CONT",
    "ENT\r\n--abc--\r\n",
];

#[test]
fn artifacts_are_written_down_by_hash_and_length() {
    let recording = Recording::new(Arc::new(canned(&[b"PLANTED ", b"CONTENT"])));
    assert_eq!(exchange(&recording, get()), b"PLANTED CONTENT");
    assert_eq!(recording.har().log.entries.len(), 1);
    let uploads = Recording::new(Arc::new(canned(&[b"{}"])));
    exchange(&uploads, post("jobs/1/artifacts", &FORM));
    let mut har = recording.har();
    har.log.entries.extend(uploads.har().log.entries);
    assert!(!har.to_json().contains("PLANTED CONT"));
    assert!(!har.to_json().contains("planted-token"));
    let [download, upload] = &har.log.entries[..] else {
        panic!("{har:?}");
    };
    let known = HarBody::Hash {
        len: Some(15),
        sha256: hex(b"PLANTED CONTENT"),
        head: Bytes::new(),
    };
    assert_eq!(download.response.body().unwrap(), known);
    let whole = FORM.concat();
    assert_eq!(upload.request.body_size, whole.len() as i64);
    let data = upload.request.post_data.as_ref().unwrap();
    assert_eq!(data.sha256, hex(whole.as_bytes()));
    assert!(data.text.ends_with("\"a.zip\"\r\n\r\n"), "{}", data.text);

    let keeping = Recording::new(Arc::new(canned(&[b"PLANTED CONTENT"]))).keep_artifacts(1 << 10);
    exchange(&keeping, get());
    exchange(&keeping, post("jobs/1/artifacts", &FORM));
    let har = keeping.har();
    assert_eq!(har.log.entries[0].response.content.text, "PLANTED CONTENT");
    let data = har.log.entries[1].request.post_data.as_ref().unwrap();
    assert_eq!(data.text, whole);
}

#[test]
fn what_stands_before_the_file_of_an_upload_is_redacted() {
    let recording = Recording::new(Arc::new(canned(&[b"{}"])));
    recording.secret("planted-name");
    let form = [
        "--abc\r\nContent-Disposition: form-data; name=\"file\"; filename=\"planted-",
        "name.zip\"\r\n\r\nPLANTED CONTENT\r\n--abc--\r\n",
    ];
    exchange(&recording, post("jobs/1/artifacts", &form));
    let har = recording.har();
    let data = har.log.entries[0].request.post_data.as_ref().unwrap();
    assert!(
        data.text.ends_with("\"redacted-1.zip\"\r\n\r\n"),
        "{}",
        data.text
    );
}

#[test]
fn what_goes_wrong_is_written_down() {
    let breaks = Canned {
        breaks: true,
        ..canned(&[b"{\"token\":\"glrt-of-the-error\""])
    };
    let recording = Recording::new(Arc::new(breaks));
    exchange(&recording, post("jobs/request", &["{}"]));
    let entry = recording.har().log.entries.remove(0);
    assert_eq!(entry.response.status, 200);
    assert_eq!(entry.response.error, "the line broke: glrt-redacted-1");

    let fails = Canned {
        fails: true,
        ..canned(&[])
    };
    let recording = Recording::new(Arc::new(fails));
    exchange(&recording, post("jobs/request", &["{}"]));
    let entry = recording.har().log.entries.remove(0);
    assert_eq!(
        (entry.response.status, entry.response.error.as_str()),
        (0, "refused")
    );
    assert!(!entry.response.given_up);

    // Nobody waits for the answer.
    let recording = Recording::new(Arc::new(canned(&[])));
    drop(recording.send(get()));
    assert!(recording.har().log.entries.is_empty());
}

#[test]
fn memory_is_bounded() {
    let big: &[u8] = &[b'x'; 100_000];
    let recording = Recording::new(Arc::new(canned(&[big]))).limit(250_000);
    for _ in 0..5 {
        assert_eq!(
            exchange(&recording, post("jobs/request", &["{}"])).len(),
            100_000
        );
    }
    let har = recording.har();
    let kept = har
        .log
        .entries
        .iter()
        .filter(|it| !it.response.content.text.is_empty());
    assert_eq!((kept.count(), har.log.entries.len()), (2, 5));
    assert_eq!(har.log.entries[4].response.content.size, 100_000);
    assert_eq!(har.log.entries[4].response.content.sha256, hex(big));

    let recording = Recording::new(Arc::new(canned(&[]))).limit(2000);
    for _ in 0..50 {
        exchange(&recording, get());
    }
    let har = recording.har();
    assert!(har.log.entries.len() < 5);
    assert!(
        har.log
            .comment
            .contains("further requests were not recorded")
    );
    // Without a body, without a limit: no request is changed.
    assert!(format!("{recording:?}").contains("requests"));
}

/// Runs a job with secrets in every place, and gives all that was written down of it.
fn planted(secrets: Secrets) -> (Har, Vec<String>) {
    let stage = Stage::new();
    let recording = recording(&stage.sim).secrets(secrets);
    recording.secret("planted-by-hand");
    let script = [
        "show MASKED",
        "show FILE",
        "echo planted-by-hand",
        "file out/a in-the-artifact",
    ];
    let spec = JobSpec::script(script)
        .masked_variable("MASKED", "planted-masked")
        .file_variable("FILE", "planted-file\nwith \"two\" lines")
        .artifact(ArtifactSpec::archive(["out/"]))
        .payload_override(|payload| {
            payload["credentials"] = serde_json::json!([
                { "type": "registry", "url": "https://registry.test", "username": "me",
                  "password": "planted-password" }
            ]);
        });
    let job = stage.enqueue(spec);
    let har = run(&stage.sim, &recording, TOKEN, stage.finished(job)).har;
    let token = stage
        .gitlab
        .with(|it, _| it.job_token(job).unwrap().expose().to_owned());
    let others = [
        "planted-masked",
        "planted-password",
        "planted-by-hand",
        TOKEN,
    ];
    let mut all: Vec<String> = others.map(str::to_owned).into();
    all.push(token);
    (har, all)
}

#[test]
fn no_secret_is_in_an_archive() {
    let (har, secrets) = planted(Secrets::Redacted);
    let text = har.to_json();
    for secret in &secrets {
        assert!(!text.contains(secret.as_str()), "{secret}");
    }
    assert!(
        !text.contains("planted-file"),
        "the content of a file variable"
    );
    // The same one everywhere: in the payload, in headers, in bodies.
    let tokens: Vec<&str> = text
        .match_indices("glcbt-redacted-")
        .map(|(at, _)| text[at..].split(['"', '\\', '@']).next().unwrap())
        .collect();
    assert!(
        tokens.len() > 3 && tokens.iter().all(|token| token == &tokens[0]),
        "{tokens:?}"
    );

    let (har, secrets) = planted(Secrets::Kept);
    let text = har.to_json();
    for secret in &secrets {
        assert!(text.contains(secret.as_str()), "{secret}");
    }
}

#[test]
fn a_recording_of_our_own_is_replayed_without_its_artifacts() {
    let stage = Stage::new();
    let recording = recording(&stage.sim);
    let har = run(&stage.sim, &recording, TOKEN, make::dependency(&stage)).har;
    assert!(har.to_json().contains("_sha256"));
    let replayed = replay(&har, Mode::Strict);
    if let Err(mismatch) = replayed.verdict {
        panic!("{mismatch}");
    }
}

#[test]
fn jobs_side_by_side_are_replayed_each_by_its_own() {
    let stage = Stage::new();
    let recording = recording(&stage.sim);
    let jobs = [10, 4, 7].map(|seconds| {
        let script = [
            "echo begins".to_owned(),
            format!("sleep {seconds}"),
            "echo ends".to_owned(),
        ];
        stage.enqueue(JobSpec::script(script))
    });
    let over = async {
        for job in jobs {
            stage.finished(job).await;
        }
    };
    let har = run_many(&stage.sim, &recording, TOKEN, 3, over).har;
    for mode in [Mode::Strict, Mode::Lenient] {
        let replayed = replay_many(&har, mode, "glrt-another", 3);
        if let Err(mismatch) = replayed.verdict {
            panic!("{mismatch}");
        }
        assert_eq!(replayed.differences, [""; 0]);
    }
}

#[test]
fn an_adapter_is_what_it_was() {
    let sim = Sim::new(1);
    let recording = recording(&sim);
    assert_eq!(recording.now(), sim.now());
    let error = sim.block_on(async {
        recording.sleep_until(Time::from_secs(3)).await;
        recording.send(get()).await.unwrap_err()
    });
    assert_eq!(sim.now(), Time::from_secs(3));
    assert_eq!(error.kind(), TransportErrorKind::Connect);
    assert!(
        recording.har().log.entries[0]
            .response
            .error
            .contains("no server")
    );
}
