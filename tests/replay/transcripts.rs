//! The exact record of a runner's machine, replayed.

use std::sync::{Arc, Mutex};

use futures::FutureExt;
use gitlab_runner::{
    Runner,
    machine::transcript::{Entry, Secrets, Transcript},
    mock::{ArtifactSpec, Endpoint, JobSpec, Override},
};

use crate::{
    handler::Actor,
    world::{Stage, TOKEN},
};

pub(crate) fn record(secrets: Secrets) -> String {
    let stage = Stage::new();
    let written = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&written);
    let dir = tempfile::tempdir().unwrap();
    let url = "https://gitlab.example.test".parse().unwrap();
    let builder = Runner::builder(url, TOKEN, dir.path())
        .adapter(stage.sim.adapter())
        .system_id("s_0123456789ab")
        .seed(3)
        .transcript(secrets, move |line| sink.lock().unwrap().push_str(line));
    let mut runner = builder.build().now_or_never().unwrap();
    stage.gitlab.with(|gitlab, _| {
        gitlab.plan(Endpoint::Trace, 1, Override::Html(502));
        gitlab.plan(Endpoint::ArtifactUpload, 1, Override::CloseAfter);
        gitlab.plan(Endpoint::FinalUpdate, 1, Override::Status(429));
    });
    let spec = JobSpec::script([
        "echo a",
        "show MASKED",
        "sleep 40",
        "file out/a b",
        "exit 7",
    ])
    .masked_variable("MASKED", "planted-masked")
    .file_variable("FILE", "planted-file")
    .artifact(ArtifactSpec::archive(["out/"]).when("always"));
    let job = stage.enqueue(spec);
    let handle = runner.handle();
    stage.sim.block_on(async {
        let over = async {
            stage.finished(job).await;
            handle.drain();
        };
        let run = runner.run(|job| async { Ok(Actor::new(job)) }, 1);
        futures::join!(run, over).0.unwrap();
    });
    let text = written.lock().unwrap().clone();
    let token = stage
        .gitlab
        .with(|it, _| it.job_token(job).unwrap().expose().to_owned());
    let is_kept = secrets == Secrets::Kept;
    for secret in [TOKEN, &token, "planted-masked", "planted-file"] {
        assert_eq!(text.contains(secret), is_kept, "{secret}");
    }
    text
}

#[test]
fn a_transcript_of_a_runner_is_replayed_exactly() {
    for secrets in [Secrets::Redacted, Secrets::Kept] {
        let text = record(secrets);
        let transcript = Transcript::parse(text.as_bytes()).unwrap();
        let outputs = transcript
            .entries()
            .iter()
            .filter(|it| matches!(it, Entry::Output(_)));
        assert!(outputs.count() > 20);
        let machine = match transcript.replay() {
            Ok(machine) => machine,
            Err(divergence) => panic!("{divergence}"),
        };
        assert_eq!(machine.stats().jobs, 0);
        // Written once more, it is the same.
        assert!(transcript.to_lines(Secrets::Kept) == text);
    }
}

#[test]
fn a_machine_that_would_do_something_else_is_found_out() {
    let text = record(Secrets::Redacted);
    for (from, to) in [
        ("PUT https", "PUT http"),
        ("log 0..", "log 1.."),
        ("\"exit_code\\\":7", "\"exit_code\\\":8"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let divergence = Transcript::parse(changed.as_bytes())
            .unwrap()
            .replay()
            .unwrap_err();
        assert!(divergence.to_string().contains("^ here"), "{divergence}");
    }
}
