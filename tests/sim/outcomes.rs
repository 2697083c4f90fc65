//! How a job can end, by what its handler does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use gitlab_runner::{
    Failure, FailureReason, JobHandler, JobResult, NoFiles, Phase, UploadableFile,
    job::Job,
    mock::{JobSpec, JobStatus},
    outputln,
};

use crate::world::{Steps, World};

const RED: &str = "\u{1b}[31;1mERROR: ";

#[test]
fn a_job_succeeds() {
    let world = World::new(1);
    let spec = JobSpec::script(["echo hello"]).after_script(["echo bye"]);
    let report = world.run_job(spec, |job, phase| async move {
        assert_eq!(
            job.current_step().as_deref(),
            Some(if phase == Phase::Script {
                "script"
            } else {
                "after_script"
            })
        );
        assert!(job.build_dir().is_dir() && job.build_dir().is_absolute());
        outputln!("{phase:?}");
        Ok(())
    });
    assert_eq!(report.status, JobStatus::Success);
    assert_eq!(report.log_text(), "Script\nAfterScript\n");
    assert_eq!(report.system_id.as_deref(), Some("s_0123456789ab"));
}

#[test]
fn a_step_says_why_it_failed() {
    let world = World::new(2);
    let spec = JobSpec::script(["exit 3"]).after_script(["true"]);
    let report = world.run_job(spec, |job, phase| async move {
        match phase {
            Phase::Script => job.fail(Failure::exit_code(3)),
            Phase::AfterScript => Ok(()),
        }
    });
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(report.failure_reason.as_deref(), Some("script_failure"));
    assert_eq!(report.exit_code, Some(3));
}

#[test]
fn a_step_fails_without_a_word() {
    let world = World::new(3);
    let report = world.run_job(JobSpec::script(["false"]), |_, _| async { Err(()) });
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(report.failure_reason.as_deref(), Some("script_failure"));
    assert_eq!(report.exit_code, Some(1));
}

#[test]
fn what_was_said_counts_only_if_the_step_fails() {
    let world = World::new(4);
    let report = world.run_job(JobSpec::script(["true"]), |job, _| async move {
        let _ = job.fail(Failure::exit_code(9));
        Ok(())
    });
    assert_eq!(report.status, JobStatus::Success);

    // Nor does it count for the next step.
    let report = world.run_job(with_release(), |job, _| async move {
        if job.current_step().as_deref() == Some("script") {
            let _ = job.fail(Failure::exit_code(9));
            return Ok(());
        }
        Err(())
    });
    assert_eq!(report.exit_code, Some(1));
}

/// The server hands out the step although the runner does not claim it.
fn with_release() -> JobSpec {
    JobSpec::script(["true"]).payload_override(|payload| {
        let release = serde_json::json!({
            "name": "release", "script": ["false"], "timeout": 3600, "when": "on_success",
            "allow_failure": false,
        });
        payload["steps"].as_array_mut().unwrap().push(release);
    })
}

#[test]
fn a_panic_in_a_step_fails_the_job_and_cleans_up() {
    struct Panics(Arc<AtomicUsize>);

    #[async_trait]
    impl JobHandler for Panics {
        async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
            panic!("out of cheese");
        }

        async fn cleanup(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
            outputln!("cleaned up");
        }
    }

    let world = World::new(5);
    let cleaned = Arc::new(AtomicUsize::new(0));
    let handler = Panics(Arc::clone(&cleaned));
    let spec = JobSpec::script(["true"]).after_script(["true"]);
    let report = world.run_process(spec, |_| async { Ok(handler) });
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(
        report.failure_reason.as_deref(),
        Some("runner_system_failure")
    );
    let log = report.log_text();
    assert!(
        log.contains(RED) && log.contains("panicked: out of cheese"),
        "{log}"
    );
    assert!(log.ends_with("cleaned up\n"), "{log}");
    assert_eq!(cleaned.load(Ordering::Relaxed), 1);
}

#[test]
fn a_panic_while_files_are_listed_is_a_broken_runner() {
    struct Panics;

    #[async_trait]
    impl JobHandler for Panics {
        async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
            Ok(())
        }

        async fn get_uploadable_files(
            &mut self,
        ) -> Result<Box<dyn Iterator<Item = NoFiles> + Send>, ()> {
            panic!("the shelf fell down");
        }

        async fn cleanup(&mut self) {
            outputln!("cleaned up");
        }
    }

    let world = World::new(21);
    let spec = JobSpec::script(["true"]).artifact_paths(["*"]);
    let report = world.run_process(spec, |_| async { Ok(Panics) });
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(
        report.failure_reason.as_deref(),
        Some("runner_system_failure")
    );
    let log = report.log_text();
    assert!(log.contains("panicked: the shelf fell down"), "{log}");
    assert!(log.ends_with("cleaned up\n"), "{log}");
}

#[test]
fn a_panic_in_the_clean_up_changes_nothing_but_the_log() {
    struct Panics;

    #[async_trait]
    impl JobHandler for Panics {
        async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
            Ok(())
        }

        async fn cleanup(&mut self) {
            panic!("{} mops", 7);
        }
    }

    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    let world = World::new(6);
    let report = world.run_process(JobSpec::script(["true"]), |_| async { Ok(Panics) });
    assert_eq!(report.status, JobStatus::Success);
    let log = report.log_text();
    assert!(
        log.contains("panicked: 7 mops") && log.contains("panicked: dropped"),
        "{log}"
    );
}

#[test]
fn no_handler_no_job_and_the_log_says_so() {
    let world = World::new(7);
    let failed = |report: gitlab_runner::mock::JobReport, wanted: &str| {
        assert_eq!(report.status, JobStatus::Failed);
        assert_eq!(
            report.failure_reason.as_deref(),
            Some("runner_system_failure")
        );
        let log = report.log_text();
        assert!(log.contains(RED) && log.contains(wanted), "{log}");
    };
    let report = world.run_process(JobSpec::script(["true"]), |_| async {
        outputln!("no machine is free");
        Err::<Steps, ()>(())
    });
    assert!(report.log_text().starts_with("no machine is free\n"));
    failed(report, "could not prepare this job");

    let report = world.run_process(JobSpec::script(["true"]), |job| async move {
        job.trace("half a line");
        assert!(job.id() == 0, "no such luck");
        Err::<Steps, ()>(())
    });
    // On a line of its own.
    assert!(
        report.log_text().starts_with("half a line\n\u{1b}"),
        "{}",
        report.log_text()
    );
    failed(report, "panicked: no such luck");

    let report = world.run_process(JobSpec::script(["true"]), |job| {
        assert!(job.id() == 0, "at once");
        async { Err::<Steps, ()>(()) }
    });
    failed(report, "panicked: at once");
}

#[test]
fn who_cannot_prepare_a_job_can_say_why() {
    let world = World::new(8);
    let report = world.run_process(JobSpec::script(["true"]), |job| async move {
        let why = Failure::new(FailureReason::RunnerConfigurationError);
        job.fail(why)?;
        Ok(Steps::new(job, |_, _| async { Ok(()) }))
    });
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(
        report.failure_reason.as_deref(),
        Some("runner_configuration_error")
    );
}

#[test]
fn a_build_directory_that_cannot_be_made_fails_the_job() {
    let world = World::new(9);
    let mut runner = world.runner();
    let job = world.sim.block_on(async {
        let process = |_: Job| async { Err::<Steps, ()>(()) };
        assert!(!runner.request_job(process).await.unwrap());
        // Where the build directory was, there is a file now.
        std::fs::remove_dir_all(world.dir.path()).unwrap();
        std::fs::write(world.dir.path(), b"").unwrap();
        let job = world.enqueue(JobSpec::script(["true"]));
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
        job
    });
    std::fs::remove_file(world.dir.path()).unwrap();
    let report = world.report(job);
    assert_eq!(
        report.failure_reason.as_deref(),
        Some("runner_system_failure")
    );
    let log = report.log_text();
    assert!(
        log.contains("could not make the job's build directory"),
        "{log}"
    );
}

#[test]
fn jobs_of_the_same_number_have_directories_of_their_own() {
    // Of another GitLab, or left by a runner that was killed.
    let world = World::new(9);
    let other = world.dir.path().join("4001");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("theirs"), b"").unwrap();
    let job = world.enqueue(JobSpec::script(["true"]));
    assert_eq!(job.to_string(), "4001");
    let mut runner = world.runner();
    world.sim.block_on(async {
        let process = |job: Job| async {
            outputln!("{}", job.build_dir().display());
            std::fs::write(job.build_dir().join("mine"), b"").unwrap();
            Ok(Steps::new(job, |_, _| async { Ok(()) }))
        };
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
    });
    assert!(world.log(job).ends_with("/4001-1\n"), "{}", world.log(job));
    let left: Vec<_> = std::fs::read_dir(world.dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert!(other.join("theirs").exists() && !other.join("mine").exists());
}

/// What it holds may still be at work on the files.
#[test]
fn the_build_directory_outlives_the_handler() {
    struct Last(Job);

    #[async_trait]
    impl JobHandler for Last {
        async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
            std::fs::write(self.0.build_dir().join("file"), b"x").map_err(|_| ())
        }
    }

    impl Drop for Last {
        fn drop(&mut self) {
            let file = self.0.build_dir().join("file");
            outputln!("dropped beside {:?}", std::fs::read_to_string(file).ok());
        }
    }

    let world = World::new(13);
    let report = world.run_process(JobSpec::script(["true"]), |job| async { Ok(Last(job)) });
    assert_eq!(report.status, JobStatus::Success);
    assert_eq!(report.log_text(), "dropped beside Some(\"x\")\n");
}

#[test]
fn a_job_that_takes_too_long_is_ended() {
    let world = World::new(10);
    let spec = JobSpec::script(["sleep 7200"]).timeout(60);
    let start = world.sim.now();
    let report = world.run_job(spec, |job, _| async move {
        outputln!("sleeping");
        job.sleep(Duration::from_secs(7200)).await;
        outputln!("not reached");
        Ok(())
    });
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(
        report.failure_reason.as_deref(),
        Some("job_execution_timeout")
    );
    let log = report.log_text();
    assert!(log.contains("took longer than 60 seconds"), "{log}");
    assert!(!log.contains("not reached"), "{log}");
    let took = world.sim.now().since(start);
    assert!(took < Duration::from_secs(120), "{took:?}");
}

#[test]
fn a_further_step_runs_between_script_and_after_script() {
    let world = World::new(11);
    let spec = with_release().after_script(["true"]);
    let report = world.run_job(spec, |job, phase| async move {
        outputln!("{} {phase:?}", job.current_step().unwrap());
        Ok(())
    });
    assert_eq!(
        report.log_text(),
        "script Script\nrelease Script\nafter_script AfterScript\n"
    );
}

#[test]
fn no_files_are_harmless() {
    let world = World::new(12);
    world.sim.block_on(async {
        let none = NoFiles::default();
        assert_eq!(none.get_path(), "");
        assert!(none.get_data().await.is_err());
    });
}

#[test]
fn the_clean_up_knows_how_the_job_went() {
    struct Tells {
        job: Job,
        step: JobResult,
        files: Result<(), ()>,
    }

    #[async_trait]
    impl JobHandler for Tells {
        async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
            outputln!("{}", self.job.status().as_str());
            self.step
        }

        async fn get_uploadable_files(
            &mut self,
        ) -> Result<Box<dyn Iterator<Item = NoFiles> + Send>, ()> {
            self.files?;
            Ok(Box::new(std::iter::empty()))
        }

        async fn cleanup(&mut self) {
            outputln!("{}", self.job.status().as_str());
        }
    }

    for (step, files, status) in [
        (Ok(()), Ok(()), "success"),
        (Err(()), Ok(()), "failed"),
        // The script went well, but the job does not.
        (Ok(()), Err(()), "failed"),
    ] {
        let world = World::new(17);
        let spec = JobSpec::script(["make"]).artifact_paths(["a"]);
        let report = world.run_process(
            spec,
            move |job| async move { Ok(Tells { job, step, files }) },
        );
        assert_eq!(report.status.as_str(), status);
        let log = report.log_text();
        assert!(log.starts_with("running\n"), "{log}");
        assert!(log.ends_with(&format!("{status}\n")), "{log}");
    }
}
