//! Recordings of GitLab's own runner, and handlers that do something else than then.

use std::time::Duration;

use gitlab_runner::har::{Har, HarEntry, Mode};
use serde_json::Value;

use crate::world::{Replayed, SECOND, replay, session};

fn official(name: &str) -> Replayed {
    let replayed = replay(&session(name), Mode::Lenient);
    replayed.verdict.clone().unwrap();
    replayed
}

/// What was sent with this method to a path that ends so.
fn sent<'a>(har: &'a Har, method: &str, end: &str) -> Vec<&'a HarEntry> {
    let entries = har.log.entries.iter();
    entries
        .filter(|entry| {
            let path = entry.request.url.split('?').next().unwrap();
            entry.request.method == method && path.ends_with(end)
        })
        .collect()
}

fn json(entry: &HarEntry) -> Value {
    serde_json::from_str(&entry.request.post_data.as_ref().unwrap().text).unwrap()
}

fn last_update(har: &Har, job: &str) -> Value {
    json(sent(har, "PUT", job).last().unwrap())
}

#[test]
fn a_failure_that_the_official_runner_reported() {
    let replayed = official("official-failure");
    assert_eq!(replayed.differences, [""; 0]);
    let update = last_update(&replayed.ran.har, "jobs/91");
    assert_eq!(
        (update["state"].as_str(), update["exit_code"].as_i64()),
        (Some("failed"), Some(3))
    );
    assert_eq!(update["output"]["bytesize"], "hello\n".len());
    // The first of ours is its first: the reply says what came, not what was recorded.
    let patches = sent(&replayed.ran.har, "PATCH", "trace");
    let range = patches[0]
        .response
        .headers
        .iter()
        .find(|pair| pair.name == "range");
    assert_eq!(range.unwrap().value, "0-6");
}

#[test]
fn a_cancel_comes_when_the_job_is_as_old_as_it_was() {
    let replayed = official("official-cancel");
    let har = &replayed.ran.har;
    let updates = sent(har, "PUT", "jobs/92");
    let heard = updates.iter().find(|entry| {
        let mut headers = entry.response.headers.iter();
        headers.any(|pair| pair.name == "job-status" && pair.value == "canceling")
    });
    let heard = heard.unwrap().started().unwrap();
    let started = updates[0].started().unwrap();
    let age = heard.since(started);
    assert!((88 * SECOND..130 * SECOND).contains(&age), "{age:?}");
    let log: String = sent(har, "PATCH", "trace")
        .iter()
        .map(|entry| entry.request.post_data.as_ref().unwrap().text.as_str())
        .collect();
    assert!(log.ends_with("cancelled\ntidy\n"), "{log}");
    // Ours says in other words why.
    assert!(
        replayed.differences.len() <= 1,
        "{:?}",
        replayed.differences
    );
    assert!(
        replayed.took < Duration::from_secs(300),
        "{:?}",
        replayed.took
    );
}

#[test]
fn a_refusal_while_polling_is_the_end_of_a_recording() {
    let replayed = official("official-refused");
    assert_eq!(replayed.left, [0; 0]);
    assert_eq!(sent(&replayed.ran.har, "POST", "jobs/request").len(), 1);
}

#[test]
fn a_handler_that_does_something_else_is_told_of() {
    let mut text = session("official-failure").to_json();
    text = text.replace("exit 3", "echo all is well");
    let replayed = replay(&Har::parse(text.as_bytes()).unwrap(), Mode::Lenient);
    replayed.verdict.unwrap();
    let told = replayed.differences.join("\n");
    assert!(
        told.contains("PUT jobs/91: state is \"success\", recorded was \"failed\""),
        "{told}"
    );
    assert!(
        told.contains("exit_code is missing, recorded was 3"),
        "{told}"
    );
}

#[test]
fn an_archive_without_times_is_replayed_in_its_order() {
    let mut har: Value = serde_json::from_str(&session("official-failure").to_json()).unwrap();
    for entry in har["log"]["entries"].as_array_mut().unwrap() {
        for field in ["startedDateTime", "time", "timings"] {
            entry.as_object_mut().unwrap().remove(field);
        }
    }
    let har = Har::parse(har.to_string().as_bytes()).unwrap();
    let replayed = replay(&har, Mode::Lenient);
    replayed.verdict.unwrap();
    assert_eq!(replayed.differences, [""; 0]);
}

#[test]
fn another_runner_is_another_one_for_who_is_strict() {
    let mismatch = replay(&session("official-cancel"), Mode::Strict)
        .verdict
        .unwrap_err();
    let shown = mismatch.to_string();
    // Ours asks whether its token is good, first of all.
    assert!(
        shown.contains("POST runners/verify is not recorded"),
        "{shown}"
    );
    assert!(!shown.contains("glrt-t3_official_example"), "{shown}");
}
