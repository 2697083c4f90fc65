//! A job in each form in which one GitLab or another may send it.

use gitlab_runner::{
    JobId,
    mock::{JobSpec, JobStatus, PayloadVariant},
    outputln,
    protocol::RunnerFeatures,
};

use crate::world::{Steps, World};

/// A job that fills what is empty by default: more than one step, variables of every kind.
fn spec() -> JobSpec {
    JobSpec::script(["make"])
        .after_script(["clean"])
        .variable("PLAIN", "value")
        .file_variable("FILE", "content")
        .raw_variable("RAW", "$PLAIN")
        .masked_variable("MASKED", "long-enough-to-mask")
}

/// Each runs to success with its log complete, one after the other on one runner.
#[test]
fn every_variant_of_the_payload_is_run_to_success() {
    let world = World::new(1);
    let jobs: Vec<(PayloadVariant, JobId)> = PayloadVariant::all()
        .map(|variant| (variant, world.enqueue(spec().payload_variant(variant))))
        .collect();
    assert!(jobs.len() > 100, "{}", jobs.len());
    // Where `run` takes the place of the steps it needs a runner that knows it.
    let mut features = RunnerFeatures::default();
    features.native_steps_integration = true;
    let mut runner = world.build(world.builder().features(features));
    world.sim.block_on(async {
        for _ in &jobs {
            let took = runner.request_job(|job| async {
                Ok(Steps::new(job, |job, _| async move {
                    // A job can be asked for all it has, however little that is.
                    match job.env().await {
                        Ok(_) => outputln!("job {} has an environment", job.id()),
                        Err(error) => outputln!("no environment: {error}"),
                    }
                    Ok(())
                }))
            });
            assert!(took.await.unwrap());
            runner.drain().await;
        }
    });
    for (variant, job) in jobs {
        let report = world.report(job);
        let log = report.log_text();
        assert_eq!(report.status, JobStatus::Success, "{variant}: {log}");
        assert_eq!(report.checksum_matches(), Some(true), "{variant}");
        assert!(
            log.contains(&format!("job {job} has an")),
            "{variant}: {log}"
        );
    }
}
