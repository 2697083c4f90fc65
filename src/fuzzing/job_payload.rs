//! Payloads of jobs: whatever comes, the job runs or is failed at GitLab, and no secret shows.

use bytes::Bytes;
use http::{Response, StatusCode};
use memchr::memmem;
use serde_json::Value;

use crate::{
    Secret, Time,
    machine::{
        Collected, Input, JobInput, JobOutput, MachineConfig, Output, RunnerMachine, StepResult,
        StopMode,
    },
    protocol::{JobPayload, PayloadReader, ServerUrl},
    trace::{Masker, TraceMark},
};

/// So many outputs are more than any job needs.
const MAX_OUTPUTS: usize = 100_000;

/// `data` is the body of a 201.
pub fn run(data: &[u8]) {
    match JobPayload::parse(data) {
        Ok(payload) => {
            secrets_are_masked(&payload);
            no_secret_shows(data);
        }
        Err(error) => {
            let shown = error.to_string();
            assert!(shown.len() < 1000, "{shown}");
        }
    }
    reading_one_after_another_changes_nothing(data);
    live(data);
}

/// What was kept of one payload must not show in the next one.
fn reading_one_after_another_changes_nothing(data: &[u8]) {
    let mut reader = PayloadReader::default();
    let (mut shorter, mut other) = (data.to_vec(), data.to_vec());
    for _ in 0..3 {
        for data in [data, &shorter, &other] {
            match (reader.read(data), JobPayload::parse(data)) {
                (Ok(read), Ok(parsed)) => assert_eq!(read, parsed),
                (read, parsed) => assert_eq!(
                    read.map_err(|error| format!("{error:?}")).err(),
                    parsed.map_err(|error| format!("{error:?}")).err()
                ),
            }
        }
        without_a_variable(&mut shorter);
        with_other_values(&mut other);
    }
}

/// What looks like the value of a variable is longer, all over.
fn with_other_values(data: &mut Vec<u8>) {
    let start = b"\"value\":\"";
    let ends: Vec<usize> = memmem::find_iter(data, start)
        .map(|at| at + start.len())
        .collect();
    for at in ends.into_iter().rev() {
        data.insert(at, b'x');
    }
}

/// Without the first one, as far as one can be told.
fn without_a_variable(data: &mut Vec<u8>) {
    let start = memmem::find(data, b"[{\"key\"");
    if let Some(start) = start.map(|at| at + 1)
        && let Some(len) = memmem::find(&data[start..], b"},")
    {
        data.drain(start..start + len + 2);
    }
}

fn secrets_are_masked(payload: &JobPayload) {
    let values = payload.mask_values();
    assert!(values.contains(&payload.token.expose().trim().to_owned()));
    let mut masker = Masker::new(&values, [""; 0]);
    for value in &values {
        let mut out = Vec::new();
        masker.write(value.as_bytes(), |bytes| out.extend_from_slice(bytes));
        masker.finish(|bytes| out.extend_from_slice(bytes));
        assert_eq!(out, b"[MASKED]", "a value of {} bytes", value.len());
    }
}

/// With other secrets of the same lengths it looks the same.
fn no_secret_shows(data: &[u8]) {
    let Ok(original) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let mut other = original.clone();
    hide(other.get_mut("token"));
    for (list, field) in [
        ("variables", "value"),
        ("dependencies", "token"),
        ("credentials", "password"),
    ] {
        let items = other.get_mut(list).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            hide(item.get_mut(field));
        }
    }
    let read = |value: &Value| JobPayload::parse(value.to_string().as_bytes()).ok();
    if let (Some(original), Some(other)) = (read(&original), read(&other)) {
        assert_eq!(format!("{original:?}"), format!("{other:?}"));
    }
}

fn hide(secret: Option<&mut Value>) {
    if let Some(Value::String(text)) = secret {
        *text = "x".repeat(text.len());
    }
}

/// A machine is given the job, and all goes well.
fn live(data: &[u8]) {
    let server = ServerUrl::parse("https://h").unwrap();
    let mut config = MachineConfig::new(server, Secret::from("glrt-x"), "s_1");
    config.verify = false;
    let mut machine = RunnerMachine::new(config, 1);
    let mut now = Time::ZERO;
    machine.handle_input(now, Input::PollOnce);
    machine.handle_input(now, Input::Stop(StopMode::Drain));
    let mut job_body = Some(Bytes::copy_from_slice(data));
    for _ in 0..MAX_OUTPUTS {
        let Some(output) = machine.poll_output() else {
            let (at, _) = machine.poll_timeout().expect("nothing more to wait for");
            now = now.max(at);
            machine.handle_input(now, Input::Timeout);
            continue;
        };
        let input = match output {
            Output::Send { request, http, .. } => {
                let is_poll = http.uri().path().ends_with("jobs/request");
                let body = job_body.take_if(|_| is_poll);
                let status = match (is_poll, &body) {
                    (true, Some(_)) => StatusCode::CREATED,
                    (true, None) => StatusCode::NO_CONTENT,
                    (false, _) => StatusCode::OK,
                };
                let mut response = Response::new(body.unwrap_or_default());
                *response.status_mut() = status;
                Input::Reply { request, response }
            }
            Output::Job { job, output } => {
                let trace = TraceMark::default();
                let input = match output {
                    JobOutput::Start(_) => JobInput::Accepted,
                    JobOutput::Step { .. } => JobInput::StepFinished {
                        result: StepResult::Ok,
                        trace,
                    },
                    JobOutput::Collect(artifact) => JobInput::Collected {
                        artifact,
                        outcome: Collected::Nothing,
                    },
                    JobOutput::CleanUp => JobInput::CleanedUp { trace },
                    _ => continue,
                };
                Input::Job { job, input }
            }
            Output::Stopped(_) => return,
            _ => continue,
        };
        machine.handle_input(now, input);
    }
    panic!("no end: {machine:?}");
}
