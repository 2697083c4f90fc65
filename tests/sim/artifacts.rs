//! Files that go out of a job.

use std::{borrow::Cow, io::Read};

use async_trait::async_trait;
use futures::io::{AsyncRead, Cursor};
use gitlab_runner::{
    JobHandler, JobResult, Phase, UploadableFile,
    job::Job,
    mock::{ArtifactSpec, Endpoint, JobReport, JobSpec, JobStatus, Override},
    outputln,
};

use crate::world::World;

/// A file in memory.
#[derive(Clone)]
pub(crate) struct Memory {
    path: String,
    content: Option<Vec<u8>>,
}

#[async_trait]
impl UploadableFile for Memory {
    type Data<'a> = Box<dyn AsyncRead + Send + Unpin + 'a>;

    fn get_path(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.path)
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        outputln!("reading {}", self.path);
        match &self.content {
            Some(content) => Ok(Box::new(Cursor::new(content))),
            None => Err(()),
        }
    }
}

pub(crate) fn memory(path: &str, content: &str) -> Memory {
    Memory {
        path: path.to_owned(),
        content: Some(content.as_bytes().to_vec()),
    }
}

/// Offers these files, and fails where it is told to.
pub(crate) struct Maker {
    files: Vec<Memory>,
    result: JobResult,
    offer: Result<(), ()>,
}

#[async_trait]
impl JobHandler<Memory> for Maker {
    async fn step(&mut self, _: &[String], phase: Phase) -> JobResult {
        match phase {
            Phase::Script => self.result,
            Phase::AfterScript => Ok(()),
        }
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = Memory> + Send>, ()> {
        self.offer?;
        Ok(Box::new(self.files.clone().into_iter()))
    }
}

pub(crate) fn maker(files: &[Memory]) -> Maker {
    Maker {
        files: files.to_vec(),
        result: Ok(()),
        offer: Ok(()),
    }
}

/// Runs one job that makes files.
fn make(world: &World, spec: JobSpec, maker: Maker) -> JobReport {
    let job = world.enqueue(spec);
    let mut runner = world.runner();
    world.sim.block_on(async {
        let had_one = runner.request_job(|_| async { Ok(maker) }).await.unwrap();
        assert!(had_one);
        runner.drain().await;
    });
    assert!(world.is_empty());
    world.report(job)
}

fn names(content: &[u8]) -> Vec<String> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(content)).unwrap();
    (0..zip.len())
        .map(|at| zip.by_index(at).unwrap().name().unwrap().into_owned())
        .collect()
}

fn unzip(content: &[u8], name: &str) -> String {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(content)).unwrap();
    let mut text = String::new();
    zip.by_name(name)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    text
}

fn gunzip(content: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(content)
        .read_to_string(&mut text)
        .unwrap();
    text
}

#[test]
fn an_archive_is_packed_and_uploaded() {
    let world = World::new(1);
    let spec = JobSpec::script(["make"]).artifact(
        ArtifactSpec::archive(["out/", "*.txt"])
            .exclude(["out/**/*.o"])
            .name("$CI_JOB_NAME-files")
            .expire_in("1 week"),
    );
    let files = [
        memory("./out/b/prog", "program"),
        memory("out/a.o", "object"),
        memory("notes.txt", "notes"),
        memory("deep/notes.txt", "not these"),
    ];
    let report = make(&world, spec.name("build"), maker(&files));
    assert_eq!(report.status, JobStatus::Success, "{}", report.log_text());
    let archive = report.artifact("archive").unwrap();
    assert_eq!(archive.filename, "build-files.zip");
    assert_eq!(archive.expire_in.as_deref(), Some("1 week"));
    assert_eq!(names(&archive.content), ["notes.txt", "out/b/prog"]);
    assert_eq!(unzip(&archive.content, "out/b/prog"), "program");
    // Files are read on behalf of the job.
    assert_eq!(
        report.log_text(),
        "reading notes.txt\nreading ./out/b/prog\n"
    );
}

/// Where the scripts see the project, `CI_PROJECT_DIR` says; that is what its files are below.
#[test]
fn paths_may_begin_with_the_directory_of_the_project() {
    for seen in [None, Some("/builds/group/project")] {
        let world = World::new(1);
        let spec = JobSpec::script(["make"]).artifact(
            ArtifactSpec::archive(["$CI_PROJECT_DIR/out/", "$CI_BUILDS_DIR/elsewhere/"])
                .name("of ${CI_RUNNER_SHORT_TOKEN}"),
        );
        let job = world.enqueue(spec);
        let mut runner = world.runner();
        world.sim.block_on(async {
            let process = move |job: Job| async move {
                if let Some(seen) = seen {
                    job.set_dirs(seen, "/tmp");
                }
                Ok(maker(&[
                    memory("out/prog", "program"),
                    memory("elsewhere/prog", "not this"),
                ]))
            };
            assert!(runner.request_job(process).await.unwrap());
            runner.drain().await;
        });
        let report = world.report(job);
        let archive = report.artifact("archive");
        let archive = archive.unwrap_or_else(|| panic!("{}", report.log_text()));
        assert_eq!(names(&archive.content), ["out/prog"]);
        assert_eq!(archive.filename, "of simulated.zip");
    }
}

#[test]
fn the_log_tells_of_artifacts_if_it_is_to() {
    let world = World::new(16);
    let spec = JobSpec::script(["make"])
        .artifact(ArtifactSpec::archive(["out/", "nothing"]).exclude(["**/*.o"]))
        .artifact(ArtifactSpec::report("junit", ["*.xml"]));
    let files = [
        memory("out/a", "a"),
        memory("out/b.o", "b"),
        memory("j.xml", "<j/>"),
    ];
    let job = world.enqueue(spec);
    let mut runner = world.build(world.builder().artifact_log(true));
    world.sim.block_on(async {
        let maker = maker(&files);
        assert!(runner.request_job(|_| async { Ok(maker) }).await.unwrap());
        runner.drain().await;
    });
    assert_eq!(
        world.log(job),
        "reading out/a\n\
         Uploading artifacts...\n\
         out/: found 1 matching artifact files and directories\n\
         \u{1b}[0;33mWARNING: nothing: no matching files. Ensure that the artifact path is relative to the working directory\u{1b}[0;m\n\
         **/*.o: excluded 1 files\n\
         Uploading artifacts as \"archive\" to coordinator... 201 Created\n\
         reading j.xml\n\
         Uploading artifacts...\n\
         *.xml: found 1 matching artifact files and directories\n\
         Uploading artifacts as \"junit\" to coordinator... 201 Created\n"
    );
}

#[test]
fn reports_are_gzip_or_raw() {
    let world = World::new(2);
    let spec = JobSpec::script(["make"])
        .artifact(ArtifactSpec::report("junit", ["r/*.xml"]))
        .artifact(ArtifactSpec::report("codequality", ["quality.json"]));
    let files = [
        memory("r/one.xml", "<one/>"),
        memory("r/two.xml", "<two/>"),
        memory("quality.json", "[]"),
    ];
    let report = make(&world, spec, maker(&files));
    assert_eq!(report.status, JobStatus::Success, "{}", report.log_text());
    let junit = report.artifact("junit").unwrap();
    assert_eq!(junit.artifact_format, "gzip");
    assert_eq!(gunzip(&junit.content), "<one/><two/>");
    let quality = report.artifact("codequality").unwrap();
    assert_eq!(quality.artifact_format, "raw");
    assert_eq!(&quality.content[..], b"[]");
}

/// Says how many files without a name there are when it is asked for its files.
#[cfg(target_os = "linux")]
struct Tidy {
    job: Job,
    dir: std::path::PathBuf,
}

#[cfg(target_os = "linux")]
#[async_trait]
impl JobHandler<Memory> for Tidy {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        Ok(())
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = Memory> + Send>, ()> {
        self.job.sleep(std::time::Duration::from_secs(1)).await;
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let unnamed = open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        let unnamed = unnamed.filter(|target| target.starts_with(&self.dir));
        outputln!("{} are there", unnamed.count());
        Ok(Box::new([memory("a", "one")].into_iter()))
    }
}

/// The disk need not have room for more than one of them.
#[test]
#[cfg(target_os = "linux")]
fn what_was_uploaded_is_gone_before_the_next_is_packed() {
    let world = World::new(9);
    let dir = world.dir.path().canonicalize().unwrap();
    let spec = JobSpec::script(["make"])
        .artifact(ArtifactSpec::archive(["a"]))
        .artifact(ArtifactSpec::report("junit", ["a"]));
    let process = |job| async move { Ok(Tidy { job, dir }) };
    let report = world.run_process(spec, process);
    assert_eq!(report.artifacts.len(), 2);
    let found = "0 are there\nreading a\n";
    assert_eq!(report.log_text(), found.repeat(2));
}

#[test]
fn what_does_not_match_is_said_and_is_no_failure() {
    let world = World::new(3);
    let spec = JobSpec::script(["make"]).artifact_paths(["nothing/here"]);
    let report = make(&world, spec, maker(&[memory("a", "a")]));
    assert_eq!(report.status, JobStatus::Success);
    assert!(report.artifact("archive").is_none());
    let log = report.log_text();
    assert!(log.contains("nothing/here: no matching files"), "{log}");
    assert!(log.contains("no files to upload as \"archive\""), "{log}");
}

#[test]
fn failures_to_pack_fail_the_job_and_say_why() {
    let raw = || JobSpec::script(["make"]).artifact(ArtifactSpec::report("codequality", ["*"]));
    let zip = || JobSpec::script(["make"]).artifact_paths(["*"]);
    let unreadable = Memory {
        path: "unreadable".to_owned(),
        content: None,
    };
    let mut no_list = maker(&[]);
    no_list.offer = Err(());
    for (spec, maker, words) in [
        (
            raw(),
            maker(&[memory("a", "a"), memory("b", "b")]),
            "one file",
        ),
        (zip(), maker(&[unreadable]), "unreadable"),
        (
            // It may be there to keep a secret out.
            JobSpec::script(["make"])
                .artifact(ArtifactSpec::archive(["*"]).exclude(["good", "*.{key,pem"])),
            maker(&[memory("a.key", "secret")]),
            "not known what is to be left out: the pattern `*.{key,pem`",
        ),
        (zip(), no_list, "the runner could not list"),
    ] {
        let world = World::new(4);
        let report = make(&world, spec, maker);
        assert_eq!(report.status, JobStatus::Failed, "{words}");
        assert_eq!(report.failure_reason.as_deref(), Some("script_failure"));
        let log = report.log_text();
        assert!(log.contains("ERROR: "), "{log}");
        assert!(log.contains(words), "{log}");
    }
}

#[test]
fn names_that_lead_out_of_the_job_are_refused() {
    let world = World::new(5);
    let spec = JobSpec::script(["make"]).artifact_paths(["**"]);
    let files = [
        memory("../../../etc/cron.d/evil", "x"),
        memory("/etc/passwd", "x"),
        memory("good", "x"),
        memory("./good", "twice"),
        memory("", "x"),
        memory(".", "x"),
        memory("nul\0", "x"),
    ];
    let report = make(&world, spec, maker(&files));
    assert_eq!(report.status, JobStatus::Success, "{}", report.log_text());
    let archive = report.artifact("archive").unwrap();
    assert_eq!(names(&archive.content), ["good"]);
    assert_eq!(unzip(&archive.content, "good"), "x");
    assert!(report.log_text().contains("WARNING: "));
}

#[test]
fn artifacts_go_by_how_the_job_went() {
    let spec = || {
        JobSpec::script(["make"])
            .after_script(["true"])
            .artifact(ArtifactSpec::archive(["log"]).when("on_failure"))
            .artifact(ArtifactSpec::report("junit", ["log"]))
    };
    for failed in [false, true] {
        let world = World::new(6);
        let mut maker = maker(&[memory("log", "it went wrong")]);
        if failed {
            maker.result = Err(());
        }
        let report = make(&world, spec(), maker);
        assert_eq!(report.artifact("archive").is_some(), failed);
        assert!(report.artifact("junit").is_some());
        assert_eq!(report.exit_code, failed.then_some(1));
    }
}

#[test]
fn trouble_with_an_upload_is_outlasted() {
    let world = World::new(7);
    let spec = JobSpec::script(["make"]).artifact_paths(["a"]);
    world.gitlab.with(|gitlab, _| {
        gitlab.plan(Endpoint::ArtifactUpload, 1, Override::Status(500));
        gitlab.plan(Endpoint::ArtifactUpload, 2, Override::CloseAfter);
        gitlab.plan(Endpoint::ArtifactUpload, 3, Override::Status(503));
    });
    let report = make(&world, spec, maker(&[memory("a", "a")]));
    assert_eq!(report.status, JobStatus::Success, "{}", report.log_text());
    assert_eq!(report.uploads("archive").count(), 4);
    assert_eq!(report.log_text(), "reading a\n");
}

#[test]
fn an_artifact_that_is_too_large_fails_the_job_with_advice() {
    let world = World::new(8);
    world
        .gitlab
        .with(|gitlab, _| gitlab.settings_mut().max_artifact_size = 50);
    let spec = JobSpec::script(["make"]).artifact_paths(["a"]);
    let report = make(&world, spec, maker(&[memory("a", "long enough")]));
    assert_eq!(report.status, JobStatus::Failed);
    assert_eq!(report.uploads("archive").count(), 1);
    assert!(report.log_text().contains("maximum artifacts size"));
}
