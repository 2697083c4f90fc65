//! Variables that are files, and the directory that they are in.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use gitlab_runner::{
    Phase,
    job::{EnvError, Job},
    mock::{JobSpec, JobStatus},
    outputln,
};
use serde_json::json;

use crate::world::World;

const SCRIPT: [&str; 1] = ["true"];

/// The mode of a file or directory, without its type.
#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[cfg(unix)]
#[test]
fn file_variables_are_private_files_beside_the_project() {
    let world = World::new(1004);
    let spec = JobSpec::script(SCRIPT)
        .file_variable("PLAIN", "first line\nhost = $HOST\n")
        .file_variable("EMPTY", "")
        .variable("HOST", "example.test")
        .payload_override(|payload| {
            let raw = json!({
                "key": "RAW", "value": "$2y$10$hash", "public": false, "masked": false,
                "file": true, "raw": true,
            });
            payload["variables"].as_array_mut().unwrap().push(raw);
        })
        .after_script(SCRIPT);
    let report = world.run_job(spec, |job, phase| async move {
        let env = job.env().await.map_err(|error| outputln!("{error}"))?;
        let file = |key| PathBuf::from(env.get(key).unwrap());
        let read = |key| fs::read_to_string(file(key)).unwrap();
        // Written anew each time, also over what the script has made of it.
        assert_eq!(read("PLAIN"), "first line\nhost = example.test\n");
        assert_eq!(read("RAW"), "$2y$10$hash");
        assert_eq!(read("EMPTY"), "");
        assert_eq!(mode(&file("PLAIN")), 0o600);
        let temp = job.temp_dir().await.map_err(drop)?;
        assert_eq!(file("PLAIN"), temp.join("PLAIN"));
        assert_eq!(mode(&temp), 0o700);
        // Nothing of it is among the files of the project.
        assert_eq!(fs::read_dir(job.build_dir()).unwrap().count(), 0);
        if phase == Phase::Script {
            let elsewhere = job.build_dir().join("elsewhere");
            fs::write(&elsewhere, "mine").unwrap();
            fs::remove_file(file("PLAIN")).unwrap();
            std::os::unix::fs::symlink(&elsewhere, file("PLAIN")).unwrap();
            fs::remove_file(file("RAW")).unwrap();
            fs::create_dir_all(file("RAW").join("of the script")).unwrap();
        }
        if phase == Phase::Script {
            // Nobody is led astray by what the script puts there.
            job.env().await.map_err(drop)?;
            let elsewhere = job.build_dir().join("elsewhere");
            assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "mine");
            fs::remove_file(elsewhere).unwrap();
        }
        fs::write(temp.join("large file of the script"), "x").map_err(drop)
    });
    // `run_job` has seen that nothing is left.
    assert_eq!(report.status, JobStatus::Success, "{}", report.log_text());
}

#[test]
fn a_job_without_file_variables_has_no_further_directory() {
    let world = World::new(1005);
    let report = world.run_job(JobSpec::script(SCRIPT), |job, _| async move {
        let env = job.env().await.map_err(drop)?;
        let temp = PathBuf::from(env.get("RUNNER_TEMP_PROJECT_DIR").unwrap());
        assert!(!temp.exists());
        assert_eq!(job.temp_dir().await.unwrap(), temp);
        assert!(temp.is_dir());
        Ok(())
    });
    assert_eq!(report.status, JobStatus::Success);
}

#[test]
fn what_is_left_of_a_killed_runner_is_not_used() {
    let world = World::new(1006);
    let old = world.dir.path().join("4001.tmp");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("old"), "").unwrap();
    let report = world.run_job(JobSpec::script(SCRIPT), |job, _| async move {
        let temp = job.temp_dir().await.map_err(|error| outputln!("{error}"))?;
        assert_eq!(fs::read_dir(&temp).unwrap().count(), 0);
        Ok(())
    });
    assert_eq!(report.status, JobStatus::Success);
}

#[test]
fn what_cannot_be_written_is_an_error_that_says_so() {
    let world = World::new(1007);
    let spec = JobSpec::script(SCRIPT).file_variable("CONFIG", "s3cret");
    let report = world.run_job(spec, |job, _| async move {
        let temp = job.temp_dir().await.unwrap();
        fs::remove_dir(&temp).unwrap();
        let error = job.env().await.unwrap_err();
        assert!(matches!(&error, EnvError::File { key, .. } if key == "CONFIG"));
        assert!(std::error::Error::source(&error).is_some());
        assert!(!format!("{error:?}").contains("s3cret"));
        outputln!("{error}");
        Ok(())
    });
    assert!(
        report
            .log_text()
            .starts_with("the file of the variable CONFIG cannot be written: "),
        "{}",
        report.log_text()
    );
}

#[test]
fn nothing_is_written_for_a_job_that_is_over() {
    let world = World::new(1008);
    let kept: Arc<Mutex<Option<Arc<Job>>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let spec = JobSpec::script(SCRIPT).file_variable("CONFIG", "x");
    world.run_job(spec, move |job, _| {
        *keep.lock().unwrap() = Some(job);
        async { Ok(()) }
    });
    let job = kept.lock().unwrap().take().unwrap();
    let error = world.sim.block_on(async { job.env().await.unwrap_err() });
    assert!(matches!(error, EnvError::Stopped), "{error}");
    assert!(world.is_empty());
}
