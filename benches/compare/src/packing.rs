//! How fast a directory is packed, next to `zip`.
//!
//! All of it counts: for the runner, that is the whole job with its upload.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use gitlab_runner::{
    JobHandler, JobResult, Phase, Runner,
    artifact::{DirectoryFiles, DiskFile},
    mock::{JobSpec, JobStatus, MockGitlab},
    sim::Sim,
};

use crate::{BoxError, content::Made, usage::cpu_time, work::Content};

const TOKEN: &str = "glrt-benchmark";
/// Text in one file, in MiB.
const TEXT: usize = 128;
/// What cannot be compressed in one file, in MiB.
const RANDOM: usize = 64;
/// Small files with text.
const SMALL: usize = 20_000;

struct Files {
    dir: Arc<Path>,
}

#[async_trait::async_trait]
impl JobHandler<DiskFile> for Files {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        Ok(())
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = DiskFile> + Send>, ()> {
        let files = DirectoryFiles::walk(&self.dir).map_err(drop)?;
        Ok(Box::new(files))
    }
}

/// Measures each so many times and prints medians.
pub fn report(repetitions: usize) -> Result<(), BoxError> {
    println!(
        "\npacking {TEXT} MiB of text, {RANDOM} MiB of random bytes and {SMALL} small files \
         ({repetitions} times in turn, medians)"
    );
    println!("  {:<22} {:>8} {:>8} {:>8}", "", "CPU s", "wall s", "MiB");
    let dir = crate::build_dir()?;
    let made = dir.path().join("made");
    make(&made)?;
    let names = [
        "ours, level fast",
        "zip -1",
        "ours, level default",
        "zip -6",
    ];
    let mut runs = vec![Vec::new(); names.len()];
    for _ in 0..repetitions {
        for (name, runs) in names.iter().zip(&mut runs) {
            runs.push(match *name {
                "zip -1" => zip("-1", &made)?,
                "zip -6" => zip("-6", &made)?,
                "ours, level fast" => ours("fast", &made, dir.path())?,
                _ => ours("default", &made, dir.path())?,
            });
        }
    }
    for (name, runs) in names.iter().zip(&runs) {
        let median = |number: fn(&Run) -> f64| {
            let mut numbers: Vec<f64> = runs.iter().map(number).collect();
            numbers.sort_by(f64::total_cmp);
            numbers[numbers.len() / 2]
        };
        println!(
            "  {name:<22} {:>8.3} {:>8.3} {:>8.1}",
            median(|run| run.cpu),
            median(|run| run.wall),
            median(|run| run.len as f64 / f64::from(1 << 20)),
        );
    }
    Ok(())
}

#[derive(Clone)]
struct Run {
    cpu: f64,
    wall: f64,
    len: usize,
}

fn make(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    for (name, content, mib) in [
        ("text", Content::Text, TEXT),
        ("random", Content::Random, RANDOM),
    ] {
        let block = content.block();
        let len = mib << 20;
        let mut data = Made { block, len }.data();
        let mut file = fs::File::create(dir.join(name))?;
        loop {
            let piece = data.next(1 << 20);
            if piece.is_empty() {
                break;
            }
            file.write_all(&piece)?;
        }
    }
    let text = Content::Text.block();
    for number in 0..SMALL {
        let sub = dir.join(format!("dir-{}", number / 500));
        fs::create_dir_all(&sub)?;
        let start = number * 37 % (text.len() / 2);
        let content = &text[start..start + number % 8192];
        fs::write(sub.join(format!("{number}.txt")), content)?;
    }
    Ok(())
}

/// A job that does nothing but upload, in the simulator.
fn ours(level: &str, made: &Path, dir: &Path) -> Result<Run, BoxError> {
    let sim = Sim::new(1);
    let mut gitlab = MockGitlab::new(1);
    gitlab.add_runner(TOKEN);
    gitlab.settings_mut().max_artifact_size = 1 << 30;
    let job = JobSpec::script(["make"]).variable("ARTIFACT_COMPRESSION_LEVEL", level);
    let job = gitlab.enqueue(job.artifact_paths(["**"]));
    let gitlab = sim.serve("gitlab.example.test", gitlab);
    let url = "https://gitlab.example.test".parse()?;
    let runner = Runner::builder(url, TOKEN, dir.join("builds")).adapter(sim.adapter());
    let made: Arc<Path> = made.into();
    let (cpu, wall) = (cpu_time(), Instant::now());
    sim.block_on(async {
        let mut runner = runner.build().await;
        runner
            .request_job(|_| async { Ok(Files { dir: made }) })
            .await?;
        runner.drain().await;
        Ok::<_, BoxError>(())
    })?;
    let run = (cpu_time() - cpu, wall.elapsed().as_secs_f64());
    gitlab.with(|gitlab, _| {
        let report = gitlab
            .report(job)
            .filter(|job| job.status == JobStatus::Success);
        let archive = report.and_then(|report| report.artifact("archive"));
        Ok(Run {
            cpu: run.0,
            wall: run.1,
            len: archive.ok_or("the job failed")?.content.len(),
        })
    })
}

fn zip(level: &str, made: &Path) -> Result<Run, BoxError> {
    let out = made.with_extension("zip");
    // The shell tells what the program has used.
    let script = "TIMEFORMAT='%U %S'; time zip -q -r $0 $1 .";
    let wall = Instant::now();
    let output = Command::new("bash")
        .args(["-c", script, level])
        .arg(&out)
        .current_dir(made)
        .stdin(Stdio::null())
        .output()?;
    let wall = wall.elapsed().as_secs_f64();
    if !output.status.success() {
        return Err("zip is not installed, or failed".into());
    }
    let said = String::from_utf8(output.stderr)?;
    let times: Result<Vec<f64>, _> = said.split_ascii_whitespace().map(str::parse).collect();
    let len = fs::metadata(&out)?.len() as usize;
    fs::remove_file(out)?;
    Ok(Run {
        cpu: times?.iter().sum(),
        wall,
        len,
    })
}
