//! The variables of a job as its processes see them.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use gitlab_runner::{
    Failure, FailureReason, JobHandler, JobResult, Phase,
    job::{Environment, Job, SkipReason},
    mock::{JobReport, JobSpec, JobStatus},
    outputln,
    protocol::RunnerFeatures,
};
use serde_json::json;

use crate::world::{Steps, World};

const SCRIPT: [&str; 1] = ["true"];

/// Runs one job, and gives the environment of each of its steps.
fn environments(world: &World, spec: JobSpec) -> (Vec<Environment>, JobReport) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&seen);
    let report = world.run_job(spec, move |job, _| {
        let keep = Arc::clone(&keep);
        async move {
            let env = job.env().await.map_err(|error| outputln!("{error}"))?;
            keep.lock().unwrap().push(env);
            Ok(())
        }
    });
    (Arc::into_inner(seen).unwrap().into_inner().unwrap(), report)
}

fn environment(world: &World, spec: JobSpec) -> Environment {
    let (mut environments, _) = environments(world, spec);
    assert_eq!(environments.len(), 1);
    environments.remove(0)
}

#[test]
fn a_runner_adds_its_own_variables() {
    let world = World::new(1000);
    let spec = JobSpec::script(SCRIPT)
        .image("ruby:$VERSION")
        .variable("VERSION", "3.4")
        .timeout(1234);
    let env = environment(&world, spec.clone());
    let builds = world.dir.path().to_str().unwrap();
    let wanted = [
        ("CI_BUILDS_DIR", builds.to_owned()),
        ("CI_PROJECT_DIR", format!("{builds}/4001")),
        ("RUNNER_TEMP_PROJECT_DIR", format!("{builds}/4001.tmp")),
        ("CI_CONCURRENT_ID", "0".to_owned()),
        ("CI_CONCURRENT_PROJECT_ID", "0".to_owned()),
        ("CI_SERVER", "yes".to_owned()),
        ("CI_JOB_STATUS", "running".to_owned()),
        ("CI_JOB_TIMEOUT", "1234".to_owned()),
        ("CI_JOB_IMAGE", "ruby:3.4".to_owned()),
        ("CI_RUNNER_SHORT_TOKEN", "simulated".to_owned()),
        ("CI_DISPOSABLE_ENVIRONMENT", "true".to_owned()),
        // And GitLab's.
        ("CI_JOB_STAGE", "test".to_owned()),
        ("CI_JOB_STARTED_AT", String::new()),
    ];
    for (key, value) in &wanted {
        assert_eq!(env.get(key), Some(value.as_str()), "{key}");
    }
    for key in [
        "CI_SHARED_ENVIRONMENT",
        "CI_RUNNER_VERSION",
        "CI_RUNNER_REVISION",
        "CI_RUNNER_EXECUTABLE_ARCH",
    ] {
        assert_eq!(env.get(key), None, "{key}");
    }

    let mut features = RunnerFeatures::default();
    features.shared = true;
    let builder = world
        .builder()
        .features(features)
        .version("1.2")
        .revision("abc");
    let builder = builder.platform("linux").architecture("arm64");
    let job = world.enqueue(spec);
    let mut runner = world.build(builder);
    world.sim.block_on(async {
        let process = |job: Job| async move {
            Ok(Steps::new(job, |job, _| async move {
                for key in [
                    "CI_SHARED_ENVIRONMENT",
                    "CI_DISPOSABLE_ENVIRONMENT",
                    "CI_RUNNER_VERSION",
                    "CI_RUNNER_REVISION",
                    "CI_RUNNER_EXECUTABLE_ARCH",
                ] {
                    let env = job.env().await.map_err(drop)?;
                    outputln!("{key} {:?}", env.get(key));
                    // These are not GitLab's.
                    assert!(job.variable(key).is_none());
                }
                Ok(())
            }))
        };
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
    });
    assert_eq!(
        world.log(job),
        "CI_SHARED_ENVIRONMENT Some(\"true\")\nCI_DISPOSABLE_ENVIRONMENT None\n\
         CI_RUNNER_VERSION Some(\"1.2\")\nCI_RUNNER_REVISION Some(\"abc\")\n\
         CI_RUNNER_EXECUTABLE_ARCH Some(\"linux/arm64\")\n"
    );
}

#[test]
fn later_sources_take_the_place_of_earlier_ones() {
    let world = World::new(1001);
    let spec = JobSpec::script(SCRIPT)
        .variable("CI_SERVER", "no")
        .variable("CI_PROJECT_DIR", "/mine")
        .variable("CI_JOB_STATUS", "mine")
        .variable("CI_DISPOSABLE_ENVIRONMENT", "false")
        .variable("RUNNER_TEMP_PROJECT_DIR", "/mine")
        .file_variable("CI_RUNNER_VERSION", "a file")
        .variable("PROXY", "of the job")
        .variable("TWICE", "first")
        .variable("TWICE", "last")
        .after_script(SCRIPT);
    let builder = world
        .builder()
        .version("1.2")
        .variable("PROXY", "of the runner");
    let builder = builder.variable("ALL", "$CI_JOB_STAGE $PROXY $NONE.");
    let job = world.enqueue(spec);
    let mut runner = world.build(builder);
    world.sim.block_on(async {
        let process = |job: Job| async move {
            Ok(Steps::new(job, |job, _| async move {
                let env = job.env().await.map_err(drop)?;
                for key in [
                    "CI_SERVER",
                    "CI_PROJECT_DIR",
                    "CI_JOB_STATUS",
                    "CI_DISPOSABLE_ENVIRONMENT",
                    "CI_RUNNER_VERSION",
                    "PROXY",
                    "TWICE",
                    "ALL",
                ] {
                    outputln!("{key} {}", env.get(key).unwrap());
                }
                let temp = env.get("RUNNER_TEMP_PROJECT_DIR").unwrap();
                assert!(temp.ends_with("/4001.tmp"), "{temp}");
                // What is no file any more gets none.
                assert!(!Path::new(temp).exists());
                Ok(())
            }))
        };
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
    });
    let rest = "CI_DISPOSABLE_ENVIRONMENT true\nCI_RUNNER_VERSION 1.2\nPROXY of the job\n\
                TWICE last\nALL test of the job .\n";
    let first = "CI_SERVER no\nCI_PROJECT_DIR /mine\n";
    assert_eq!(
        world.log(job),
        format!("{first}CI_JOB_STATUS mine\n{rest}{first}CI_JOB_STATUS success\n{rest}")
    );
}

#[test]
fn references_are_followed() {
    let world = World::new(1002);
    let spec = JobSpec::script(SCRIPT)
        .variable("CACHE", "$CI_PROJECT_DIR/.cache/${DEEP}")
        .variable("DEEP", "%DEEPER%")
        .variable("DEEPER", "bottom")
        .variable("LOOP", "<$POOL>")
        .variable("POOL", "($LOOP)")
        .variable("SELF", "$SELF:more")
        .variable("DOLLAR", "a$$b")
        .raw_variable("RAW", "$DEEP$$")
        .variable("OF_RAW", "[$RAW]")
        .file_variable("FILE", "content")
        .variable("OF_FILE", "--config=$FILE")
        .variable("UNKNOWN", "$NOBODY ${NOBODY:-x} %NOBODY%")
        .variable("STATUS", "it is $CI_JOB_STATUS");
    let env = environment(&world, spec.clone());
    let dir = world.dir.path().join("4001").display().to_string();
    for (key, value) in [
        ("CACHE", format!("{dir}/.cache/bottom")),
        ("LOOP", "<()>".to_owned()),
        ("POOL", "(<>)".to_owned()),
        ("SELF", ":more".to_owned()),
        ("DOLLAR", "a$b".to_owned()),
        ("RAW", "$DEEP$$".to_owned()),
        ("OF_RAW", "[$DEEP$$]".to_owned()),
        ("OF_FILE", format!("--config={dir}.tmp/FILE")),
        ("UNKNOWN", "  %NOBODY%".to_owned()),
        ("STATUS", "it is running".to_owned()),
    ] {
        assert_eq!(env.get(key), Some(&*value), "{key}");
    }
    // The same for a text.
    let report = world.run_job(spec, |job, _| async move {
        outputln!(
            "{}",
            job.expand("$CACHE|%OF_RAW%|$LOOP|$OF_FILE|$$|$CI_SERVER")
        );
        outputln!("{}", job.expand("nothing in it"));
        assert_eq!(
            job.variable("CACHE").unwrap().value(),
            "$CI_PROJECT_DIR/.cache/${DEEP}"
        );
        Ok(())
    });
    let dir = world.dir.path().join("4002").display().to_string();
    assert_eq!(
        report.log_text(),
        format!(
            "{dir}/.cache/bottom|[$DEEP$$]|<()>|--config={dir}.tmp/FILE|$|yes\nnothing in it\n"
        )
    );
}

#[test]
fn after_script_knows_how_the_script_went() {
    let timeout = || Failure::new(FailureReason::JobExecutionTimeout);
    for (failure, status) in [
        (None, "success"),
        (Some(Failure::exit_code(3)), "failed"),
        (Some(timeout()), "timedout"),
    ] {
        let world = World::new(1003);
        let spec = JobSpec::script(SCRIPT).after_script(SCRIPT);
        let report = world.run_job(spec, move |job, phase| {
            let failure = failure.clone();
            async move {
                let env = job.env().await.map_err(drop)?;
                outputln!("{}", env.get("CI_JOB_STATUS").unwrap());
                outputln!("{}", job.expand("$CI_JOB_STATUS"));
                match failure {
                    Some(failure) if phase == Phase::Script => job.fail(failure),
                    _ => Ok(()),
                }
            }
        });
        assert_eq!(
            report.log_text(),
            format!("running\nrunning\n{status}\n{status}\n")
        );
    }
}

#[test]
fn after_script_knows_that_the_script_was_out_of_time() {
    let world = World::new(1016);
    let spec = JobSpec::script(SCRIPT)
        .variable("RUNNER_SCRIPT_TIMEOUT", "5s")
        .after_script(SCRIPT);
    let report = world.run_job(spec, |job, phase| async move {
        if phase == Phase::Script {
            job.sleep(std::time::Duration::from_secs(60)).await;
        }
        outputln!("{phase:?}: {}", job.expand("$CI_JOB_STATUS"));
        Ok(())
    });
    let log = report.log_text();
    assert!(log.ends_with("\nAfterScript: timedout\n"), "{log}");
    assert!(!log.contains("Script: running"), "{log}");
}

#[test]
fn references_in_a_release_are_followed_and_in_a_script_they_are_not() {
    struct Lines(Job);

    #[async_trait]
    impl JobHandler for Lines {
        async fn step(&mut self, script: &[String], _: Phase) -> JobResult {
            let name = self.0.current_step();
            outputln!(
                "{}: {}",
                name.as_deref().unwrap_or("none"),
                script.join("; ")
            );
            Ok(())
        }
    }

    let lines = [
        "release --name \"$TITLE\" --at $(date) --for $$ $NOBODY.",
        "plain",
    ];
    let world = World::new(1017);
    let spec = JobSpec::script(lines)
        .release(lines)
        .after_script(lines)
        .variable("TITLE", "Version ${NUMBER}")
        .variable("NUMBER", "3");
    let report = world.run_process(spec, |job| async { Ok(Lines(job)) });
    let as_they_are = lines.join("; ");
    assert_eq!(
        report.log_text(),
        format!(
            "script: {as_they_are}\n\
             release: release --name \"Version 3\" --at $(date) --for $ .; plain\n\
             after_script: {as_they_are}\n"
        )
    );
}

#[test]
fn what_no_process_can_be_given_is_left_out_and_told_once() {
    let world = World::new(1009);
    let long = "x".repeat(600_000);
    let spec = JobSpec::script(SCRIPT)
        .variable("dots.in", "1")
        .variable("da-sh", "2")
        .variable("1ST", "3")
        .variable("", "4")
        .variable("new\nline", "5")
        .variable("ümlaut", "6")
        .variable("NUL", "a\0b")
        .variable("OF_NUL", "$NUL")
        .file_variable("../../outside", "7")
        .file_variable("NUL_FILE", "a\0b")
        .variable("OF_ODD", "<${dots.in}|${../../outside}>")
        .variable("LONG", long.as_str())
        .variable("LONGER", "$LONG$LONG")
        .variable("_fine1", "8")
        .after_script(SCRIPT);
    let (environments, report) = environments(&world, spec);
    for env in &environments {
        let skipped = env.skipped().iter();
        let skipped: Vec<_> = skipped.map(|it| (&*it.key, it.reason)).collect();
        assert_eq!(
            skipped,
            [
                ("", SkipReason::Name),
                ("../../outside", SkipReason::Name),
                ("1ST", SkipReason::Name),
                ("LONGER", SkipReason::TooLong),
                ("NUL", SkipReason::Nul),
                ("OF_NUL", SkipReason::Nul),
                ("da-sh", SkipReason::Name),
                ("dots.in", SkipReason::Name),
                ("new\nline", SkipReason::Name),
                ("ümlaut", SkipReason::Name),
            ]
        );
        assert!(env.skipped().iter().all(|it| env.get(&it.key).is_none()));
        assert_eq!(env.get("OF_ODD"), Some("<1|>"));
        assert_eq!(env.get("_fine1"), Some("8"));
        assert!(env.get("NUL_FILE").unwrap().ends_with("/NUL_FILE"));
        assert_eq!(env.get("LONG"), Some(&*long));
    }
    assert_eq!(environments.len(), 2);
    assert_eq!(
        report.log_text(),
        "\u{1b}[0;33mWARNING: variables that no shell can be given are left out: \
         \"\" (no name for a shell), \"../../outside\" (no name for a shell), \
         \"1ST\" (no name for a shell), \"LONGER\" (too long), \"NUL\" (NUL in its value), \
         \"OF_NUL\" (NUL in its value), \"da-sh\" (no name for a shell), \
         \"dots.in\" (no name for a shell), \"new\\nline\" (no name for a shell), \
         \"ümlaut\" (no name for a shell)\u{1b}[0;m\n"
    );
}

#[test]
fn a_thousand_odd_names_are_one_line() {
    let world = World::new(1010);
    let spec = (0..1000).fold(JobSpec::script(SCRIPT), |spec, number| {
        spec.variable(format!("{number}{}", "-".repeat(1000)), "x")
    });
    let (environments, report) = environments(&world, spec);
    assert_eq!(environments[0].skipped().len(), 1000);
    let log = report.log_text();
    assert!(log.contains("and 990 more") && log.len() < 1500, "{log}");
}

#[test]
fn expanded_values_are_masked_too() {
    let world = World::new(1011);
    let spec = JobSpec::script(SCRIPT)
        .variable("USER", "somebody")
        .masked_variable("LOGIN", "$USER:hunter-2")
        .masked_variable("PRICE", "ten$$bucks")
        .masked_variable("PLACE", "$CI_PROJECT_DIR/hidden")
        .payload_override(|payload| {
            payload["variables"].as_array_mut().unwrap().extend([
                json!({
                    "key": "RAW", "value": "$USER-raw", "masked": true, "raw": true,
                }),
                json!({
                    "key": "FILE", "value": " for $USER only\n", "masked": true, "file": true,
                }),
            ]);
        });
    let report = world.run_job(spec, |job, _| async move {
        let env = job.env().await.map_err(drop)?;
        for key in ["LOGIN", "PRICE", "PLACE", "RAW"] {
            outputln!(
                "{} {}",
                env.get(key).unwrap(),
                job.variable(key).unwrap().value()
            );
        }
        outputln!(
            "{}",
            fs::read_to_string(env.get("FILE").unwrap()).unwrap().trim()
        );
        // What a raw variable would be if it were none is no secret, nor are parts.
        outputln!("somebody-raw somebody bucks");
        Ok(())
    });
    assert_eq!(
        report.log_text(),
        "[MASKED] [MASKED]\n[MASKED] [MASKED]\n[MASKED] [MASKED]\n[MASKED] [MASKED]\n\
         [MASKED]\nsomebody-raw somebody bucks\n"
    );
}

#[test]
fn masked_variables_that_double_each_other_hide_no_other() {
    let world = World::new(1015);
    let spec = JobSpec::script(SCRIPT).masked_variable("V0", "0123456789".repeat(10));
    let spec = (1..40).fold(spec, |spec, number| {
        let before = number - 1;
        spec.masked_variable(format!("V{number}"), format!("$V{before}$V{before}"))
    });
    let spec = spec
        .variable("USER", "somebody")
        .variable("Z", "$USER")
        .masked_variable("LOGIN", "$USER:hunter-2");
    let report = world.run_job(spec, |job, _| async move {
        let env = job.env().await.map_err(drop)?;
        assert_eq!(env.get("V3").unwrap().len(), 800);
        assert_eq!(env.get("V39"), None);
        assert_eq!(env.get("Z"), Some("somebody"));
        outputln!("{}", env.get("LOGIN").unwrap());
        Ok(())
    });
    let log = report.log_text();
    assert!(log.ends_with("m\n[MASKED]\n"), "{log}");
}

#[test]
fn a_container_has_other_directories() {
    let world = World::new(1012);
    let spec = JobSpec::script(SCRIPT)
        .file_variable("CONFIG", "content")
        .variable("CACHE", "$CI_PROJECT_DIR/cache");
    let report = world.run_process(spec, |job| async {
        job.set_dirs("/builds/group/project", "/builds/group/project.tmp");
        Ok(Steps::new(job, |job, _| async move {
            let env = job.env().await.map_err(drop)?;
            for key in ["CI_BUILDS_DIR", "CI_PROJECT_DIR", "CACHE", "CONFIG"] {
                outputln!("{}", env.get(key).unwrap());
            }
            let temp = job.temp_dir().await.map_err(drop)?;
            outputln!("{}", fs::read_to_string(temp.join("CONFIG")).unwrap());
            assert!(job.build_dir().is_dir());
            Ok(())
        }))
    });
    assert_eq!(
        report.log_text(),
        "/builds/group\n/builds/group/project\n/builds/group/project/cache\n\
         /builds/group/project.tmp/CONFIG\ncontent\n"
    );
}

#[test]
fn jobs_at_the_same_time_have_different_numbers() {
    let world = World::new(1013);
    let elsewhere = |spec: JobSpec| {
        spec.payload_override(|payload| payload["job_info"]["project_id"] = 7.into())
    };
    let spec = || JobSpec::script(SCRIPT);
    let jobs = [spec(), elsewhere(spec()), spec(), elsewhere(spec())].map(|it| world.enqueue(it));
    let mut runner = world.runner();
    world.sim.block_on(async {
        let process = |job: Job| async move {
            Ok::<_, ()>(Steps::new(job, |job, _| async move {
                outputln!(
                    "{}",
                    job.expand("$CI_CONCURRENT_ID $CI_CONCURRENT_PROJECT_ID")
                );
                job.sleep(std::time::Duration::from_secs(60)).await;
                Ok(())
            }))
        };
        for _ in &jobs[1..] {
            assert!(runner.request_job(process).await.unwrap());
        }
        runner.drain().await;
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
    });
    let logs = jobs.map(|job| world.log(job));
    assert_eq!(logs, ["0 0\n", "1 0\n", "2 1\n", "0 0\n"]);
}

#[test]
fn the_payload_can_be_asked() {
    let world = World::new(1014);
    let spec = JobSpec::script(SCRIPT)
        .stage("deploy")
        .timeout(99)
        .payload_override(|payload| {
            payload["inputs"] = json!([
                { "key": "env", "value": { "type": "string", "content": "prod" } },
            ]);
            payload["hooks"] = json!([
                { "name": "pre_get_sources_script", "script": ["echo before"] },
            ]);
            payload["brand_new"] = json!("what no version of this crate knows");
        });
    let check = |job: Arc<Job>| -> JobResult {
        assert_eq!(job.stage(), "deploy");
        assert_eq!(job.timeout().as_secs(), 99);
        assert_eq!(job.input("env").unwrap().content, "prod");
        assert!(job.input("other").is_none());
        assert_eq!(job.hook("pre_get_sources_script"), ["echo before"]);
        assert!(job.hook("post_get_sources_script").is_empty());
        Ok(())
    };
    let report = world.run_job(spec.clone(), move |job, _| async move {
        assert!(job.raw_payload().is_none());
        check(job)
    });
    assert_eq!(report.status, JobStatus::Success, "{}", report.log_text());

    let job = world.enqueue(spec);
    let mut runner = world.build(world.builder().keep_raw_payload(true));
    world.sim.block_on(async {
        let process = |job: Job| async move {
            Ok(Steps::new(job, |job, _| async move {
                let raw: serde_json::Value =
                    serde_json::from_slice(job.raw_payload().unwrap()).unwrap();
                outputln!("{} {}", raw["id"], raw["brand_new"]);
                Ok(())
            }))
        };
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
    });
    assert_eq!(
        world.log(job),
        format!("{job} \"what no version of this crate knows\"\n")
    );
}
