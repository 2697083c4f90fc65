//! `dependencies[]`: which earlier jobs a job gets the archives of.

use gitlab_runner::{
    JobId,
    mock::{JobSpec, JobStatus, PipelineSpec},
};
use serde_json::{Value, json};

use crate::world::{Running, World, job};

const ZIP: &[u8] = b"PK archive of an earlier job";

fn named(name: &str, stage: &str) -> JobSpec {
    job().name(name).stage(stage)
}

fn queue(world: &mut World, jobs: Vec<JobSpec>) -> Vec<JobId> {
    world
        .gitlab
        .enqueue_pipeline(PipelineSpec::new(jobs))
        .unwrap()
}

fn next(world: &mut World) -> (Running, Value) {
    let payload = world.ask_plainly().body();
    let job = Running {
        id: JobId(payload["id"].as_u64().unwrap()),
        token: payload["token"].as_str().unwrap().to_owned(),
    };
    (job, payload)
}

/// Takes the next job, uploads an archive if it is to have one, and ends it.
fn run_next(world: &mut World, archive: bool, state: &str) {
    let (job, _) = next(world);
    if archive {
        assert_eq!(world.upload_archive(&job, ZIP).status(), 201);
    }
    assert_eq!(world.put(&job, state).status(), 200);
}

fn names(payload: &Value) -> Vec<&str> {
    let dependencies = payload["dependencies"].as_array().unwrap();
    let name = |at: usize| dependencies[at]["name"].as_str().unwrap();
    (0..dependencies.len()).map(name).collect()
}

/// All jobs of earlier stages, each with the token of this job; the file only where there is one.
#[test]
fn the_jobs_of_earlier_stages() {
    let mut world = World::new();
    let jobs = queue(
        &mut world,
        vec![
            named("compile", "build"),
            named("lint", "build"),
            named("unit", "test"),
        ],
    );
    run_next(&mut world, true, "success");
    run_next(&mut world, false, "success");
    let (unit, payload) = next(&mut world);
    assert_eq!(
        payload["dependencies"],
        json!([
            {
                "id": jobs[0].0,
                "name": "compile",
                "token": unit.token,
                "artifacts_file": { "filename": "artifacts.zip", "size": ZIP.len() },
            },
            { "id": jobs[1].0, "name": "lint", "token": unit.token },
        ])
    );
    let reply = world.download(&unit, jobs[0], "");
    assert_eq!((reply.status(), &reply.0.body()[..]), (200, ZIP));
}

/// `needs` replace the stages, `dependencies` choose among those; none of them is none.
#[test]
fn needs_and_dependencies() {
    let mut world = World::new();
    queue(
        &mut world,
        vec![
            named("a", "build"),
            named("b", "build"),
            named("c", "test").needs(["b"]),
            named("d", "test").dependencies(["a"]),
            named("e", "test").needs(["a", "b"]).dependencies(["b"]),
            named("f", "test").dependencies(Vec::<String>::new()),
        ],
    );
    run_next(&mut world, false, "success");
    run_next(&mut world, false, "success");
    for expected in [vec!["b"], vec!["a"], vec!["b"], vec![]] {
        let (job, payload) = next(&mut world);
        assert_eq!(names(&payload), expected, "{}", job.id);
    }
}

/// A dependency that is not there, or that the job does not wait for, is refused.
#[test]
fn impossible_dependencies_are_refused() {
    let mut world = World::new();
    let mut refused = |jobs: Vec<JobSpec>| {
        let spec = PipelineSpec::new(jobs);
        let error = world.gitlab.enqueue_pipeline(spec).unwrap_err();
        assert!(error.to_string().contains(&error.need));
        (error.job, error.need, error.too_late)
    };
    let missing = vec![named("a", "build").dependencies(["x"])];
    assert_eq!(refused(missing), ("a".into(), "x".into(), false));
    let same_stage = vec![named("a", "build"), named("b", "build").dependencies(["a"])];
    assert_eq!(refused(same_stage), ("b".into(), "a".into(), true));
    let not_needed = vec![
        named("a", "build"),
        named("b", "build"),
        named("c", "test").needs(["a"]).dependencies(["b"]),
    ];
    assert_eq!(refused(not_needed), ("c".into(), "b".into(), true));
    assert_eq!(world.gitlab.reports().count(), 0);
}

/// A failed job that may fail leaves its archive; one that may not leaves nobody to want it.
#[test]
fn a_failed_dependency() {
    let mut world = World::new();
    let jobs = queue(
        &mut world,
        vec![named("a", "build").allow_failure(), named("b", "test")],
    );
    run_next(&mut world, true, "failed");
    let (_, payload) = next(&mut world);
    assert_eq!(
        payload["dependencies"][0]["artifacts_file"]["size"],
        ZIP.len()
    );
    assert_eq!(world.status(jobs[0]), JobStatus::Failed);
    let jobs = queue(
        &mut world,
        vec![named("a", "build"), named("b", "test").needs(["a"])],
    );
    run_next(&mut world, true, "failed");
    assert_eq!(world.status(jobs[1]), JobStatus::Skipped);
}

/// What has expired is not offered any more. A job that names what it depends on is failed as
/// `missing_dependency_failure` instead of given to a runner.
#[test]
fn an_expired_dependency() {
    for (loss, offered) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut world = World::new();
        let second = match offered {
            true => named("b", "test"),
            false => named("b", "test").dependencies(["a"]),
        };
        let jobs = queue(&mut world, vec![named("a", "build"), second]);
        run_next(&mut world, true, "success");
        match loss {
            true => world.gitlab.expire_artifacts(jobs[0]),
            false => world.gitlab.erase(jobs[0]),
        }
        if offered {
            let (_, payload) = next(&mut world);
            assert_eq!(payload["dependencies"][0].get("artifacts_file"), None);
        } else {
            assert_eq!(world.ask_plainly().status(), 204);
            let report = world.report(jobs[1]);
            assert_eq!(
                report.failure_reason.as_deref(),
                Some("missing_dependency_failure")
            );
        }
    }
}

/// A dependency that never had an archive is no loss.
#[test]
fn a_dependency_without_archive_is_no_loss() {
    let mut world = World::new();
    queue(
        &mut world,
        vec![named("a", "build"), named("b", "test").needs(["a"])],
    );
    run_next(&mut world, false, "success");
    let (_, payload) = next(&mut world);
    assert_eq!(names(&payload), ["a"]);
    assert_eq!(payload["dependencies"][0].get("artifacts_file"), None);
}

/// Old servers give each dependency its own token, which opens its archive.
#[test]
fn old_servers_give_each_its_own_token() {
    let mut world = World::new();
    world.gitlab.settings_mut().own_dependency_tokens = true;
    let jobs = queue(&mut world, vec![named("a", "build"), named("b", "test")]);
    run_next(&mut world, true, "success");
    let (_, payload) = next(&mut world);
    let own = world.gitlab.job_token(jobs[0]).unwrap().expose().to_owned();
    assert_eq!(payload["dependencies"][0]["token"], own);
    let reader = Running {
        id: jobs[0],
        token: own,
    };
    assert_eq!(world.download(&reader, jobs[0], "").status(), 200);
}
