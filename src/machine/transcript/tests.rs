use std::sync::mpsc;

use bytes::Bytes;
use http::Response;
use serde_json::json;

use super::*;
use crate::{
    ids::{ArtifactId, DownloadId, JobId, RequestId},
    machine::{Collected, JobInput, RunnerCall, StepResult, StopMode},
    protocol::{Failure, Registration, ScriptStatus, ServerUrl},
    secret::Secret,
    trace::TraceMark,
    transport::{TransportError, TransportErrorKind},
};

fn config() -> MachineConfig {
    let server = ServerUrl::parse("https://gitlab.example.com/sub").unwrap();
    let mut config = MachineConfig::new(server, Secret::from("glrt-thesecret"), "s_0123456789ab");
    config.info.labels.insert("zone".into(), "lab".into());
    config.info.executor = String::new();
    config.info.gpus = "all".into();
    config
}

/// One of each kind.
fn inputs() -> Vec<Input> {
    let mut registration = Registration::new("GR1348941secret");
    registration.tag_list = vec!["a".into(), "b c".into()];
    registration.maximum_timeout = Some(std::time::Duration::from_secs(700));
    let job = JobId(7);
    let trace = TraceMark { len: 3, crc32: 9 };
    let reply = Response::builder()
        .status(201)
        .header("job-token", "abcdefgh")
        .header("x", &b"\xe9"[..])
        .body(Bytes::from_static(b"\xff\x00abcdefgh"))
        .unwrap();
    let artifact = ArtifactId { job, index: 1 };
    let jobs = [
        JobInput::Accepted,
        JobInput::Declined {
            failure: Failure::exit_code(3),
            trace,
        },
        JobInput::Traced(trace),
        JobInput::StepFinished {
            result: StepResult::Failed(Failure::new("odd_reason".into())),
            trace,
        },
        JobInput::Collected {
            artifact,
            outcome: Collected::Packed {
                len: 1,
                file_name: "a.zip".into(),
                files: 2,
            },
        },
        JobInput::Download {
            download: DownloadId(1),
            dependency: JobId(2),
        },
        JobInput::DropDownload(DownloadId(1)),
        JobInput::CleanedUp { trace },
    ];
    let mut inputs = vec![
        Input::Timeout,
        Input::Reply {
            request: RequestId(1),
            response: reply,
        },
        Input::Failed {
            request: RequestId(2),
            error: TransportError::new(TransportErrorKind::Broken, true, "a bad line"),
        },
        Input::Spooled {
            request: RequestId(3),
            len: 4,
        },
        Input::SetCapacity(2),
        Input::PollOnce,
        Input::WithdrawPoll,
        Input::Call(RunnerCall::Register(Box::new(registration))),
        Input::Call(RunnerCall::ResetToken),
        Input::TokenPersisted(Ok(())),
        Input::TokenPersisted(Err("disk full".into())),
        Input::Stop(StopMode::DrainWithin(std::time::Duration::from_secs(1))),
        Input::Stop(StopMode::Abort),
    ];
    inputs.extend(jobs.map(|input| Input::Job { job, input }));
    inputs
}

fn transcript() -> Transcript {
    let mut transcript = Transcript::new(config(), 5);
    for (second, input) in inputs().into_iter().enumerate() {
        let at = Time::from_secs(second as u64);
        transcript.push(Entry::Input { at, input });
    }
    transcript
}

#[test]
fn every_input_comes_back_as_it_was() {
    let whole = transcript();
    let text = whole.to_lines(Secrets::Kept);
    let again = Transcript::parse(text.as_bytes()).unwrap();
    assert_eq!(again.to_lines(Secrets::Kept), text);
    assert_eq!(again.entries().len(), inputs().len());
    assert_eq!(again.seed(), 5);
    assert_eq!(again.config().info, config().info);
    assert!(text.contains("glrt-thesecret"));
    // Nothing to compare, and nothing left to do.
    assert!(again.replay().unwrap().poll_output().is_none());
}

#[test]
fn a_replay_is_compared_and_says_where_it_parts() {
    let recorded = transcript().rerecorded();
    assert!(recorded.entries().len() > inputs().len());
    recorded.replay().unwrap();
    let text = recorded.to_lines(Secrets::Kept);
    let text = text.replace("runners/verify", "runners/verifY");
    let error = Transcript::parse(text.as_bytes())
        .unwrap()
        .replay()
        .unwrap_err();
    let told = |entry: &&Entry| matches!(entry, Entry::Input { .. });
    let before = &recorded.entries()[..error.entry];
    assert_eq!(error.inputs, before.iter().filter(told).count());
    assert!(error.inputs > 1);
    let shown = error.to_string();
    assert!(
        shown.contains("verifY") && shown.contains("verify |"),
        "{shown}"
    );
    let mark = shown.lines().last().unwrap().find('^').unwrap();
    let line = shown.lines().nth(1).unwrap();
    assert_eq!(&line[mark..mark + 1], "Y", "{shown}");

    let mut longer = transcript().rerecorded();
    longer.push(Entry::Output("more".into()));
    let error = longer.replay().unwrap_err();
    assert_eq!(error.replayed, None);
    assert_eq!(error.entry, longer.entries().len() - 1);
}

#[test]
fn a_recording_replays_without_its_secrets() {
    let (lines, written) = mpsc::channel();
    let write = move |line: &str| lines.send(line.to_owned()).unwrap();
    let mut machine = RecordedMachine::new(config(), 3, Secrets::Redacted, write);
    let mut now = Time::ZERO;
    machine.handle_input(now, Input::SetCapacity(1));
    let payload = json!({
        "id": 7, "token": "glcbt-jobsecret",
        "steps": [{ "name": "script", "script": ["true"] }],
        "variables": [{ "key": "A", "value": "planted-value", "masked": true, "public": false }],
    });
    for _ in 0..40 {
        while let Some(output) = machine.poll_output() {
            let Output::Send { request, http, .. } = output else {
                continue;
            };
            let is_poll = http.uri().path().ends_with("request");
            let body = match is_poll {
                true => payload.to_string(),
                false if http.uri().path().ends_with("verify") => "{}".to_owned(),
                false => r#"{"message":"403 planted-value glcbt-jobsecret"}"#.to_owned(),
            };
            let response = Response::builder().status(if is_poll { 201 } else { 400 });
            let response = response.body(Bytes::from(body)).unwrap();
            machine.handle_input(now, Input::Reply { request, response });
        }
        if let Some((at, _)) = machine.poll_timeout() {
            now = at;
            machine.handle_input(now, Input::Timeout);
        }
    }
    assert!(format!("{machine:?}").contains("recorded: true"));
    let text: String = written.try_iter().collect();
    for secret in ["thesecret", "jobsecret", "planted-value"] {
        assert!(!text.contains(secret), "{secret}");
    }
    assert!(text.contains("glcbt-redacted-"));
    let replayed = Transcript::parse(text.as_bytes())
        .unwrap()
        .replay()
        .unwrap();
    assert_eq!(replayed.stats(), machine.stats());
}

#[test]
fn what_is_no_transcript_is_refused_with_its_line() {
    let good = transcript().to_lines(Secrets::Redacted);
    let header = good.lines().next().unwrap();
    for (text, line, what) in [
        (String::new(), 1, "no transcript"),
        ("\n\n[]".into(), 3, "no line"),
        ("{\"output\":\"x\"}".into(), 1, "begins with"),
        (
            header.replace("\"version\":1", "\"version\":9"),
            1,
            "version 9",
        ),
        (format!("{header}\n{{\"inp"), 2, "no line"),
        (format!("{header}\n\n{{\"secret-word\":1}}"), 3, "no line"),
        (
            format!(
                "{header}\n{{\"input\":{{\"at\":{{\"secs\":1,\"nanos\":0}},\"told\":{{\"reply\":{{\"request\":1,\"response\":{{\"status\":9,\"body\":{{\"text\":\"\"}}}}}}}}}}}}"
            ),
            2,
            "status",
        ),
    ] {
        let error = Transcript::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.line(), line, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(!error.to_string().contains("secret-word"), "{error}");
    }
    // Cut anywhere, it is an error or shorter.
    for end in (0..good.len()).step_by(17) {
        let _ = Transcript::parse(&good.as_bytes()[..end]);
    }
    // A field that is younger than the transcript is as usual.
    let older = header.replace("\"artifact_log\":false,", "");
    assert_ne!(older, header);
    assert!(
        !Transcript::parse(older.as_bytes())
            .unwrap()
            .config()
            .artifact_log
    );
    // The second of two is another one.
    let two = format!("{good}{good}");
    assert_eq!(
        Transcript::parse(two.as_bytes()).unwrap().entries().len(),
        inputs().len()
    );
}

#[test]
fn a_sink_that_panics_is_left_alone() {
    let mut machine = RecordedMachine::new(config(), 3, Secrets::Redacted, |_| panic!("full"));
    machine.handle_input(Time::ZERO, Input::SetCapacity(1));
    assert!(machine.poll_output().is_some());
}

#[test]
fn a_recorded_machine_tells_what_the_machine_tells() {
    let mut config = config();
    config.verify = false;
    let mut machine = RecordedMachine::new(config, 3, Secrets::Redacted, |_| ());
    let job = JobId(7);
    assert_eq!(machine.poll_timeout(), None);
    machine.handle_input(Time::ZERO, Input::SetCapacity(1));
    let payload =
        json!({ "id": 7, "token": "t", "steps": [{ "name": "script", "script": ["a"] }] });
    for (status, body) in [(201, payload.to_string()), (200, String::new())] {
        let Some(Output::Send { request, .. }) = machine.poll_output() else {
            panic!("nothing is sent");
        };
        let response = Response::builder().status(status).body(Bytes::from(body));
        let response = response.unwrap();
        machine.handle_input(Time::ZERO, Input::Reply { request, response });
    }
    assert_eq!(machine.script_status(job), Some(ScriptStatus::Running));
    assert!(machine.poll_timeout().is_some());
    let result = StepResult::Failed(Failure::exit_code(1));
    let trace = TraceMark::default();
    for input in [JobInput::Accepted, JobInput::StepFinished { result, trace }] {
        machine.handle_input(Time::ZERO, Input::Job { job, input });
    }
    assert_eq!(machine.script_status(job), Some(ScriptStatus::Failed));
    assert_eq!(machine.script_status(JobId(8)), None);
}

#[test]
fn a_transcript_is_not_read_for_ever() {
    let header = transcript().to_lines(Secrets::Redacted);
    let header = header.lines().next().unwrap();
    for (number, what) in [(MAX_LINES, "no line"), (MAX_LINES + 1, "too many lines")] {
        let text = format!("{header}{}x", "\n".repeat(number - 1));
        let error = Transcript::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.line(), number);
        assert!(error.to_string().contains(what), "{error}");
    }
    for (len, what) in [(MAX_LINE, "no line"), (MAX_LINE + 1, "too long")] {
        let error = Transcript::parse(&vec![b'x'; len]).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
}
