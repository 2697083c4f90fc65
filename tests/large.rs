//! Artifacts with many files and of many bytes, all the way: packed, uploaded over a socket, read by
//! the tools that people have, downloaded and extracted by the next job.
//!
//! They take minutes and up to 20 GiB of disk and 5 GiB of memory (the simulated GitLab keeps
//! artifacts there), so they are run by hand:
//! `cargo test --release --test large -- --ignored --nocapture --test-threads 1`.

#![cfg(all(feature = "tokio", unix))]
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are not seen as such"
)]

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use gitlab_runner::{
    JobHandler, JobResult, Phase, Runner,
    artifact::{DirectoryFiles, DiskFile, ExtractLimits},
    job::Job,
    mock::{Endpoint, JobSpec, JobStatus, MockGitlab, Override, PipelineSpec, http::Loopback},
    outputln,
};

const TOKEN: &str = "glrt-large";

/// Offers a directory, or extracts what another job has offered into one.
struct Files {
    job: Job,
    dir: Arc<Path>,
}

#[async_trait]
impl JobHandler<DiskFile> for Files {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        for dependency in self.job.dependencies() {
            let Ok(Some(mut artifact)) = dependency.download().await else {
                return Err(());
            };
            let dir = Arc::clone(&self.dir);
            let extract = move || artifact.extract(&dir, ExtractLimits::default());
            match self.job.unblock(extract).await {
                Ok(extracted) => outputln!("{} files", extracted.files),
                Err(error) => {
                    outputln!("{error}");
                    return Err(());
                }
            }
        }
        Ok(())
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = DiskFile> + Send>, ()> {
        let files = DirectoryFiles::walk(&self.dir).map_err(drop)?;
        Ok(Box::new(files))
    }
}

/// A directory for all, with what is made and what is extracted in it.
struct World {
    dir: tempfile::TempDir,
    made: PathBuf,
    taken: PathBuf,
    archive: PathBuf,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (made, taken, archive) = (path("made"), path("taken"), path("artifacts.zip"));
        fs::create_dir(&made).unwrap();
        fs::create_dir(&taken).unwrap();
        Self {
            dir,
            made,
            taken,
            archive,
        }
    }

    /// One job uploads all of `made` and the next extracts it to `taken`, from a server with a `plan`.
    /// The archive is there then, too.
    fn make_and_take(&self, level: &str, plan: impl FnOnce(&mut MockGitlab)) {
        let mut gitlab = MockGitlab::new(1);
        gitlab.add_runner(TOKEN);
        gitlab.settings_mut().max_artifact_size = u64::MAX / 2;
        let make = JobSpec::script(["make"]).stage("build");
        let make = make.variable("ARTIFACT_COMPRESSION_LEVEL", level);
        let take = JobSpec::script(["take"]).stage("test");
        let jobs = [make.artifact_paths(["**"]), take];
        let jobs = PipelineSpec::new(jobs).stages(["build", "test"]);
        let jobs = gitlab.enqueue_pipeline(jobs).unwrap();
        plan(&mut gitlab);
        let server = Loopback::start(gitlab).unwrap();
        let url = server.url().parse().unwrap();
        let build_dir = self.dir.path().join("builds");
        let mut runner = Runner::new(url, TOKEN.to_owned(), build_dir);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for (number, dir) in [&self.made, &self.taken].into_iter().enumerate() {
            let begun = Instant::now();
            let dir: Arc<Path> = dir.as_path().into();
            let files = |job| async { Ok(Files { job, dir }) };
            assert!(runtime.block_on(runner.request_job(files)).unwrap());
            runtime.block_on(runner.drain());
            let report = server.with(|gitlab, _| gitlab.report(jobs[number]).cloned());
            let report = report.unwrap();
            assert_eq!(report.status, JobStatus::Success, "{}", report.log_text());
            eprintln!("job {number} took {:.1?}", begun.elapsed());
            if let Some(artifact) = report.artifact("archive") {
                let mut archive = File::create(&self.archive).unwrap();
                archive.write_all(&artifact.content).unwrap();
                eprintln!("the archive has {} bytes", artifact.content.len());
            }
        }
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(program);
        let output = command.args(arguments).arg(&self.archive).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What unzip and Python say of the archive: no error, and as many entries and bytes.
    fn check(&self, entries: usize, bytes: u64) {
        let tested = self.run("unzip", &["-tqq"]);
        assert!(!tested.contains("rror"), "{tested}");
        let program = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); \
                       assert z.testzip() is None; \
                       print(len(z.infolist()), sum(i.file_size for i in z.infolist()))";
        let counted = self.run("python3", &["-c", program]);
        assert_eq!(counted.trim(), format!("{entries} {bytes}"));
    }
}

#[test]
#[ignore = "takes a minute; see above"]
fn a_hundred_thousand_small_files() {
    const DIRS: usize = 100;
    const EACH: usize = 1000;

    let world = World::new();
    let content = |dir: usize, file: usize| format!("file {file} of {dir}\n").repeat(file % 50);
    let mut bytes = 0;
    for dir in 0..DIRS {
        let path = world.made.join(format!("dir-{dir}"));
        fs::create_dir(&path).unwrap();
        for file in 0..EACH {
            let content = content(dir, file);
            bytes += content.len() as u64;
            fs::write(path.join(format!("{file}.txt")), content).unwrap();
        }
    }
    let script = world.made.join("dir-7/7.txt");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o750)).unwrap();
    world.make_and_take("default", |_| ());

    world.check(DIRS * EACH + DIRS, bytes);
    for dir in 0..DIRS {
        let path = world.taken.join(format!("dir-{dir}"));
        for file in 0..EACH {
            let taken = fs::read_to_string(path.join(format!("{file}.txt"))).unwrap();
            assert_eq!(taken, content(dir, file));
        }
    }
    let metadata = fs::metadata(world.taken.join("dir-7/7.txt")).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o750);
    let made = fs::metadata(script).unwrap();
    assert_eq!(metadata.mtime(), made.mtime());
}

/// Each way in which a transfer can fail, with pauses as long as they are.
#[test]
#[ignore = "takes a minute or two; see above"]
fn a_quarter_of_a_gibibyte_arrives_through_faults() {
    let world = World::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let content: Vec<u8> = noise.take(32 << 20).flatten().collect();
    fs::write(world.made.join("noise.bin"), &content).unwrap();
    world.make_and_take("default", |gitlab| {
        use Endpoint::{ArtifactDownload, ArtifactUpload};
        use Override::{CloseAfter, CloseBefore, CutBody, Html, Status};

        for (nth, fault) in [(1, CloseBefore), (2, Html(503)), (3, CloseAfter)] {
            gitlab.plan(ArtifactUpload, nth, fault);
        }
        let faults = [
            CutBody(100 << 20),
            Status(502),
            CloseBefore,
            CutBody(255 << 20),
        ];
        for (nth, fault) in (1..).zip(faults) {
            gitlab.plan(ArtifactDownload, nth, fault);
        }
    });
    let taken = fs::read(world.taken.join("noise.bin")).unwrap();
    assert!(taken == content);
    world.check(1, content.len() as u64);
}

/// Both the lengths of a file and the places of those behind it need more than 32 bits.
#[test]
#[ignore = "takes minutes, 15 GiB of disk and 5 GiB of memory; see above"]
fn more_than_four_gibibytes() {
    const LEN: u64 = (4 << 30) + (200 << 20);

    let world = World::new();
    let marks = [0, 1 << 31, (4 << 30) - 3, LEN - 6];
    let mut large = File::create(world.made.join("large.bin")).unwrap();
    for at in marks {
        large.seek(SeekFrom::Start(at)).unwrap();
        large.write_all(b"a mark").unwrap();
    }
    fs::write(world.made.join("z.txt"), "behind it").unwrap();
    world.make_and_take("fastest", |_| ());
    assert!(fs::metadata(&world.archive).unwrap().len() > LEN);

    let mut taken = File::open(world.taken.join("large.bin")).unwrap();
    assert_eq!(taken.metadata().unwrap().len(), LEN);
    for at in marks {
        let mut mark = [0; 6];
        taken.seek(SeekFrom::Start(at)).unwrap();
        taken.read_exact(&mut mark).unwrap();
        assert_eq!(&mark, b"a mark", "{at}");
    }
    let behind = fs::read_to_string(world.taken.join("z.txt")).unwrap();
    assert_eq!(behind, "behind it");
    fs::remove_dir_all(&world.taken).unwrap();
    world.check(2, LEN + 9);
}
