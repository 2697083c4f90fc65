//! Payloads as other GitLabs send them.

use gitlab_runner::mock::{ArtifactSpec, FieldForm, JobSpec, PayloadVariant};
use serde_json::{Value, json};

use crate::world::{World, job};

fn payload(spec: JobSpec) -> Value {
    let mut world = World::new();
    world.gitlab.enqueue(spec);
    let reply = world.ask_plainly();
    assert_eq!(reply.status(), 201);
    reply.body()
}

/// All that the path names, with what is not there as `None`.
fn found<'a>(value: &'a Value, path: &str) -> Vec<Option<&'a Value>> {
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    let inner: Vec<Option<&Value>> = if step == "*" {
        value.as_object().unwrap().values().map(Some).collect()
    } else if let Some(list) = step.strip_suffix("[]") {
        value[list].as_array().unwrap().iter().map(Some).collect()
    } else {
        vec![value.get(step)]
    };
    if rest.is_empty() {
        return inner;
    }
    // Only one of the secrets comes from each provider.
    let inner = inner.into_iter().flatten();
    inner.flat_map(|value| found(value, rest)).collect()
}

/// Also where the job has nothing that could be odd.
#[test]
fn every_variant_is_in_the_payload() {
    for variant in PayloadVariant::all() {
        let payload = payload(job().payload_variant(variant));
        let found = found(&payload, variant.field());
        assert!(!found.is_empty(), "{variant}");
        for value in found {
            match variant.form() {
                FieldForm::Absent => assert_eq!(value, None, "{variant}"),
                FieldForm::Null => assert_eq!(value, Some(&Value::Null), "{variant}"),
                FieldForm::Json(text) => {
                    let expected: Value = serde_json::from_str(text).unwrap();
                    assert_eq!(value, Some(&expected), "{variant}");
                }
                _ => assert!(value.is_some_and(|value| !value.is_null()), "{variant}"),
            }
        }
    }
}

/// The rest of the payload stays as it is, and what the job has is not replaced by an example.
#[test]
fn a_variant_changes_one_field() {
    let null = PayloadVariant::of("artifacts[].name", FieldForm::Null).unwrap();
    let spec = || job().artifact(ArtifactSpec::archive(["a"]).name("named"));
    let mut plain = payload(spec());
    let odd = payload(spec().payload_variant(null));
    assert_ne!(plain, odd);
    for artifact in plain["artifacts"].as_array_mut().unwrap() {
        artifact["name"] = json!(null);
    }
    assert_eq!(plain, odd);
}

#[test]
fn there_is_no_variant_that_no_gitlab_sends() {
    assert_eq!(PayloadVariant::of("id", FieldForm::Null), None);
    assert_eq!(PayloadVariant::of("no.such_field", FieldForm::Absent), None);
    let all: Vec<_> = PayloadVariant::all().collect();
    for variant in &all {
        let again = PayloadVariant::of(variant.field(), variant.form());
        assert_eq!(again, Some(*variant));
    }
    let text: Vec<_> = all.iter().map(ToString::to_string).collect();
    assert!(text.contains(&"image null".to_owned()));
    assert!(text.contains(&"job_info.pipeline_id absent".to_owned()));
}
