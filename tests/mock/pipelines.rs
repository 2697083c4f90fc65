//! Pipelines: when a job's turn comes.

use gitlab_runner::{
    JobId,
    mock::{JobSpec, JobStatus, PipelineSpec},
};
use serde_json::Value;

use crate::world::{Running, World, job};

use JobStatus::{Created, Failed, Pending, Running as OnRunner, Skipped, Success};

fn named(name: &str, stage: &str) -> JobSpec {
    job().name(name).stage(stage)
}

fn queue(world: &mut World, spec: PipelineSpec) -> Vec<JobId> {
    world.gitlab.enqueue_pipeline(spec).unwrap()
}

fn statuses(world: &World, jobs: &[JobId]) -> Vec<JobStatus> {
    jobs.iter().map(|job| world.status(*job)).collect()
}

/// Takes the next job and ends it; what it was given comes back.
fn run_next(world: &mut World, state: &str) -> Value {
    let payload = world.ask_plainly().body();
    let job = Running {
        id: JobId(payload["id"].as_u64().unwrap()),
        token: payload["token"].as_str().unwrap().to_owned(),
    };
    assert_eq!(world.put(&job, state).status(), 200);
    payload
}

/// Stages go one after the other, the jobs of a stage side by side.
#[test]
fn stages_go_one_after_the_other() {
    let mut world = World::new();
    let jobs = queue(
        &mut world,
        PipelineSpec::new([
            named("compile", "build"),
            named("lint", "build"),
            named("unit", "test"),
        ]),
    );
    assert_eq!(statuses(&world, &jobs), [Pending, Pending, Created]);
    run_next(&mut world, "success");
    assert_eq!(statuses(&world, &jobs), [Success, Pending, Created]);
    world.wait(9);
    run_next(&mut world, "success");
    assert_eq!(statuses(&world, &jobs), [Success, Success, Pending]);
    assert_eq!(world.report(jobs[2]).queued_at, Some(world.now));
    assert!(!world.gitlab.is_idle());
    run_next(&mut world, "success");
    assert!(world.gitlab.is_idle());
    assert_eq!(world.ask_plainly().status(), 204);
}

/// The order of the stages can be given; stages that are not named there come last.
#[test]
fn the_order_of_stages_can_be_given() {
    let mut world = World::new();
    let jobs = queue(
        &mut world,
        PipelineSpec::new([named("a", "last"), named("b", "test"), named("c", "build")])
            .stages(["build", "test"]),
    );
    assert_eq!(statuses(&world, &jobs), [Created, Created, Pending]);
    run_next(&mut world, "success");
    assert_eq!(statuses(&world, &jobs), [Created, Pending, Success]);
}

/// A failure skips what comes after, all the way; a job that may fail does not.
#[test]
fn a_failure_skips_what_comes_after() {
    let mut world = World::new();
    let spec = || {
        [
            named("a", "build"),
            named("b", "test"),
            named("c", "deploy"),
        ]
    };
    let jobs = queue(&mut world, PipelineSpec::new(spec()));
    run_next(&mut world, "failed");
    assert_eq!(statuses(&world, &jobs), [Failed, Skipped, Skipped]);
    assert!(world.gitlab.is_idle());

    let [a, b, c] = spec();
    let jobs = queue(&mut world, PipelineSpec::new([a.allow_failure(), b, c]));
    run_next(&mut world, "failed");
    assert_eq!(statuses(&world, &jobs), [Failed, Pending, Created]);
}

/// A cancelled job skips what comes after, too.
#[test]
fn a_cancelled_job_skips_what_comes_after() {
    let mut world = World::new();
    let jobs = queue(
        &mut world,
        PipelineSpec::new([named("a", "build"), named("b", "test")]),
    );
    world.gitlab.cancel(jobs[0]);
    assert_eq!(world.status(jobs[1]), Skipped);
}

/// A job with `needs` waits for those alone, whatever the stages; with none of them for nobody.
#[test]
fn needs_replace_the_stages() {
    let mut world = World::new();
    let jobs = queue(
        &mut world,
        PipelineSpec::new([
            named("a", "build"),
            named("b", "build"),
            named("c", "test").needs(["b"]),
            named("d", "deploy").needs(Vec::<String>::new()),
        ]),
    );
    assert_eq!(
        statuses(&world, &jobs),
        [Pending, Pending, Created, Pending]
    );
    let a = world.ask_plainly().body();
    assert_eq!(a["id"], jobs[0].0);
    run_next(&mut world, "success");
    assert_eq!(
        statuses(&world, &jobs),
        [OnRunner, Success, Pending, Pending]
    );
}

/// A need that is not there, or that waits for the job itself, is refused, and nothing is queued.
#[test]
fn impossible_needs_are_refused() {
    let mut world = World::new();
    let refused = |world: &mut World, jobs: Vec<JobSpec>| {
        let error = world.gitlab.enqueue_pipeline(PipelineSpec::new(jobs));
        let error = error.unwrap_err();
        assert!(error.to_string().contains(&error.need));
        (error.job, error.need, error.too_late)
    };
    let missing = vec![named("a", "test").needs(["b"])];
    assert_eq!(
        refused(&mut world, missing),
        ("a".into(), "b".into(), false)
    );
    let itself = vec![named("a", "test").needs(["a"])];
    assert_eq!(refused(&mut world, itself), ("a".into(), "a".into(), true));
    let each_other = vec![
        named("x", "test"),
        named("a", "test").needs(["b"]),
        named("b", "test").needs(["a"]),
    ];
    assert_eq!(
        refused(&mut world, each_other),
        ("a".into(), "b".into(), true)
    );
    let through_stages = vec![named("a", "build").needs(["b"]), named("b", "test")];
    assert_eq!(
        refused(&mut world, through_stages),
        ("a".into(), "b".into(), true)
    );
    assert_eq!(world.gitlab.reports().count(), 0);
    assert!(world.gitlab.is_idle());
}

/// Jobs of one pipeline share its number; the next pipeline has the next one.
#[test]
fn a_pipeline_has_a_number() {
    let mut world = World::new();
    queue(&mut world, PipelineSpec::new([job(), job()]));
    world.gitlab.enqueue(job());
    let number = |payload: Value| payload["job_info"]["pipeline_id"].as_u64().unwrap();
    let first = number(world.ask_plainly().body());
    assert_eq!(number(world.ask_plainly().body()), first);
    assert_eq!(number(world.ask_plainly().body()), first + 1);
}

/// A new stage wakes a runner that knows the queue as it was.
#[test]
fn the_next_stage_changes_the_queue_value() {
    let mut world = World::with_long_poll();
    queue(
        &mut world,
        PipelineSpec::new([named("a", "build"), named("b", "test")]),
    );
    let payload = world.ask_plainly().body();
    let job = Running {
        id: JobId(payload["id"].as_u64().unwrap()),
        token: payload["token"].as_str().unwrap().to_owned(),
    };
    let value = world.queue_value();
    world.hold(&value);
    assert!(world.released().is_none());
    world.put(&job, "success");
    assert!(world.released().is_some());
}
