//! Nothing secret is shown by `Debug`.

use std::sync::{Arc, Mutex};

use gitlab_runner::mock::JobSpec;

use crate::world::{TOKEN, World};

#[test]
fn debug_shows_no_secret() {
    let world = World::new(70);
    let shown = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&shown);
    let spec = JobSpec::script(["true"])
        .variable("SHOWN", "public-value")
        .masked_variable("HIDDEN", "masked-value")
        .payload_override(|payload| {
            payload["dependencies"] = serde_json::json!([
                { "id": 1, "name": "build", "token": "dependency-token" }
            ]);
            payload["credentials"] = serde_json::json!([
                { "type": "registry", "url": "https://registry.test", "username": "me",
                  "password": "registry-password" }
            ]);
        });
    let report = world.run_job(spec, move |job, _| {
        let keep = Arc::clone(&keep);
        async move {
            let variables: Vec<_> = job.variables().collect();
            let dependencies: Vec<_> = job.dependencies().collect();
            let text = format!("{job:?} {variables:?} {dependencies:?} {:?}", job.payload());
            keep.lock().unwrap().push(text);
            Ok(())
        }
    });
    let mut shown = Arc::into_inner(shown).unwrap().into_inner().unwrap();
    assert_eq!(shown.len(), 1);
    assert!(shown[0].contains("SHOWN") && shown[0].contains("HIDDEN"));
    let runner = world.runner();
    shown.push(format!(
        "{runner:?} {:?} {:?} {:?}",
        runner.handle(),
        world.builder(),
        world.sim
    ));
    let token = world
        .gitlab
        .with(|it, _| it.job_token(report.id).unwrap().expose().to_owned());
    for text in shown {
        let others = ["masked-value", "dependency-token", "registry-password"];
        for secret in others.into_iter().chain([TOKEN, &*token]) {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[test]
fn the_last_definition_of_a_variable_counts() {
    let world = World::new(71);
    let spec = JobSpec::script(["true"])
        .variable("TWICE", "first")
        .file_variable("FILE", "content")
        .raw_variable("RAW", "$TWICE")
        .variable("TWICE", "last");
    world.run_job(spec, |job, _| async move {
        let twice = {
            let variable = job.variable("TWICE").unwrap();
            // Lives as long as the job.
            variable.value()
        };
        assert_eq!(twice, "last");
        let keys: Vec<_> = job.variables().map(|variable| variable.key()).collect();
        assert_eq!(keys.iter().filter(|key| **key == "TWICE").count(), 1);
        let ours = ["FILE", "RAW", "TWICE"];
        let ours: Vec<_> = keys.into_iter().filter(|it| ours.contains(it)).collect();
        assert_eq!(ours, ["FILE", "RAW", "TWICE"]);
        assert!(job.variable("FILE").unwrap().file() && !job.variable("RAW").unwrap().file());
        assert!(job.variable("RAW").unwrap().raw());
        assert_eq!(job.variable("RAW").unwrap().to_string(), "$TWICE");
        assert!(job.variable("NONE").is_none());
        Ok(())
    });
}
