//! The works that are measured, and the table of what came of them next to the budgets.

use std::process::{Command, Stdio};

use crate::{
    BoxError, adapters, packing,
    process::{Run, Who, instructions, measure},
    work::{Content, Work},
};

/// One row of the budgets.
struct Row {
    name: &'static str,
    title: &'static str,
    work: Work,
    repetitions: usize,
    /// Two sizes whose difference is counted in instructions, and what one unit of it is called.
    counted: Option<(Work, Work, &'static str)>,
    budget: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        name: "short",
        title: "2,000 short jobs of 20 lines, 64 at once",
        work: Work::Short { jobs: 2000 },
        repetitions: 5,
        counted: Some((Work::Short { jobs: 40 }, Work::Short { jobs: 240 }, "job")),
        budget: "1.5 x CPU, 1.2 x wall, 350,000 instructions and 150 allocations a job",
    },
    Row {
        name: "log",
        title: "64 MB of log in 100-byte lines, with 5 masked variables",
        work: Work::Log { lines: 640_000 },
        repetitions: 5,
        counted: Some((
            Work::Log { lines: 20_000 },
            Work::Log { lines: 80_000 },
            "line",
        )),
        budget: "3 x CPU, 12 MB resident, 900 instructions a line",
    },
    Row {
        name: "live",
        title: "500 live jobs, a line a second each, for 20 seconds",
        work: Work::Live {
            jobs: 500,
            seconds: 20,
        },
        repetitions: 3,
        counted: None,
        budget: "1.5 x CPU, 16 kB a job, threads = cores + a small bounded pool",
    },
    Row {
        name: "idle",
        title: "idle for 30 seconds, requests held for 50",
        work: Work::Idle { seconds: 30 },
        repetitions: 1,
        counted: None,
        budget: "1 long poll at a time",
    },
    Row {
        name: "random",
        title: "an artifact of 512 MiB of random bytes",
        work: Work::Upload {
            content: Content::Random,
            mib: 512,
        },
        repetitions: 5,
        counted: None,
        budget: "3 x CPU and wall",
    },
    Row {
        name: "text",
        title: "an artifact of 256 MiB of text, compressed",
        work: Work::Upload {
            content: Content::Text,
            mib: 256,
        },
        repetitions: 3,
        counted: None,
        budget: "1.2 x CPU",
    },
    Row {
        name: "downloads",
        title: "40 downloads of 16 MiB in one job",
        work: Work::Downloads { count: 40, mib: 16 },
        repetitions: 5,
        counted: None,
        budget: "1.5 x CPU, none fail",
    },
    Row {
        name: "pick-up",
        title: "15 jobs that come one by one, requests held for 50 seconds",
        work: Work::PickUp { jobs: 15 },
        repetitions: 1,
        counted: None,
        budget: "5 ms from the server's queue to the job's code, median",
    },
];

/// The row that needs no server.
const PACKING: &str = "packing";

/// Measures the rows that are named, or all; `--quick` does each once and counts nothing.
pub fn report(arguments: &[&str]) -> Result<(), BoxError> {
    let quick = arguments.contains(&"--quick");
    let names: Vec<&str> = arguments
        .iter()
        .copied()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    if let Some(unknown) = names.iter().find(|name| {
        ![PACKING, "adapters"].contains(name) && ROWS.iter().all(|row| row.name != **name)
    }) {
        return Err(format!("there is no `{unknown}`").into());
    }
    if !Who::all().contains(&Who::Theirs) {
        eprintln!("!! built WITHOUT collabora's crate: there is no comparison with it !!");
    }
    let count = !quick && have_valgrind();
    if !count && !quick {
        eprintln!("!! valgrind is not installed: NO INSTRUCTIONS are counted !!");
    }
    for row in ROWS {
        if names.is_empty() || names.contains(&row.name) {
            row.report(if quick { 1 } else { row.repetitions }, count)?;
        }
    }
    if names.is_empty() || names.contains(&PACKING) {
        packing::report(if quick { 1 } else { 3 })?;
    }
    if names.is_empty() || names.contains(&"adapters") {
        adapters::report(if quick { 1 } else { 5 })?;
    }
    Ok(())
}

fn have_valgrind() -> bool {
    let version = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

impl Row {
    fn report(&self, repetitions: usize, count: bool) -> Result<(), BoxError> {
        println!("\n{} ({repetitions} times in turn, medians)", self.title);
        println!("  budget: {}", self.budget);
        println!(
            "  {:<10} {:>8} {:>7} {:>8} {:>7} {:>7} {:>8} {:>9} {:>8} {:>9} {:>8}",
            "",
            "CPU s",
            "x",
            "wall s",
            "x",
            "MB",
            "kB/job",
            "allocs",
            "threads",
            "requests",
            "server s"
        );
        let all = Who::all();
        let mut runs: Vec<Vec<Run>> = vec![Vec::new(); all.len()];
        for _ in 0..repetitions {
            for (who, runs) in all.iter().zip(&mut runs) {
                runs.push(measure(*who, self.work)?);
            }
        }
        let floor = Summary::of(&runs[0], self.work);
        for (who, runs) in all.iter().zip(&runs) {
            let summary = Summary::of(runs, self.work);
            let counted = match self.counted {
                Some((less, more, unit)) if count => {
                    let cost = instructions(*who, more)? - instructions(*who, less)?;
                    let units = |work: Work| (work.jobs() * work.lines()) as f64;
                    let per_line = cost / (units(more) - units(less));
                    let each = match unit {
                        "job" => per_line * more.lines() as f64,
                        _ => per_line,
                    };
                    format!("{each:.0} instructions a {unit}")
                }
                _ => pick_up(runs),
            };
            println!(
                "  {:<10} {:>8.3} {:>7.2} {:>8.3} {:>7.2} {:>7.1} {:>8.1} {:>9.1} {:>8} {:>9} {:>8.3}  {counted}",
                who,
                summary.cpu,
                summary.cpu / floor.cpu,
                summary.wall,
                summary.wall / floor.wall,
                summary.peak / 1e6,
                summary.memory_of_job / 1e3,
                summary.allocations,
                summary.threads,
                summary.requests,
                summary.server,
            );
        }
        Ok(())
    }
}

/// How long jobs waited to be picked up, if that was measured.
fn pick_up(runs: &[Run]) -> String {
    let waits = runs
        .iter()
        .flat_map(|run| run.seen.offered.iter().zip(&run.usage.started));
    let mut waits: Vec<f64> = waits.map(|(offered, started)| started - offered).collect();
    waits.sort_by(f64::total_cmp);
    match waits.get(waits.len() / 2) {
        Some(median) => format!("picked up in {:.1} ms", median * 1e3),
        None => String::new(),
    }
}

/// Medians.
struct Summary {
    cpu: f64,
    wall: f64,
    peak: f64,
    memory_of_job: f64,
    /// For each job, or for each line if there is one job only.
    allocations: f64,
    threads: f64,
    requests: f64,
    server: f64,
}

impl Summary {
    fn of(runs: &[Run], work: Work) -> Self {
        let median = |number: &dyn Fn(&Run) -> f64| {
            let mut numbers: Vec<f64> = runs.iter().map(number).collect();
            numbers.sort_by(f64::total_cmp);
            numbers[numbers.len() / 2]
        };
        let jobs = work.jobs().max(1) as f64;
        Self {
            cpu: median(&|run| run.usage.cpu),
            wall: median(&|run| run.usage.wall),
            peak: median(&|run| run.usage.peak as f64),
            memory_of_job: median(&|run| {
                run.usage.peak.saturating_sub(run.usage.before) as f64 / jobs
            }),
            allocations: median(&|run| run.usage.allocations as f64 / jobs),
            threads: median(&|run| run.threads as f64),
            requests: median(&|run| run.seen.requests as f64),
            server: median(&|run| run.seen.cpu),
        }
    }
}
