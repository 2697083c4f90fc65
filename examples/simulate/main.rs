//! Runs random pipelines with random faults through the runner and a simulated GitLab, in virtual
//! time, and checks each against a model:
//!
//! ```text
//! cargo run --release --example simulate -- --seeds 100000
//! cargo run --release --example simulate -- --seed 4711            once more, and shrunk
//! cargo run --release --example simulate -- --seed 4711 --without storm-0,deed-2
//! ```

#[allow(dead_code, reason = "only the test compares runs and looks at parts")]
mod campaign;

use std::{
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use campaign::{Outcome, Without};

const USAGE: &str = "\
usage: simulate [--seeds N] [--from SEED] [--threads N] [--keep-going]
       simulate --seed SEED [--without PART,PART…] [--show]

  --seeds N      so many seeds, one after the other; 1000 by default
  --from SEED    the first of them; 0 by default
  --threads N    so many at a time; one for each core by default
  --keep-going   goes on after a failure
  --seed SEED    only this one; if it fails, shows what it takes to fail
  --without      leaves out these ingredients
  --show         prints the whole plan as well
";

/// A run takes milliseconds. One that takes longer than this is a loop in which no time passes.
const LONG: Duration = Duration::from_secs(30);

struct Options {
    seeds: u64,
    from: u64,
    threads: usize,
    keep_going: bool,
    seed: Option<u64>,
    without: Without,
    show: bool,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprint!("{why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let right = match options.seed {
        Some(seed) => one(seed, &options),
        None => many(&options),
    };
    match right {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn options(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        seeds: 1000,
        from: 0,
        threads: thread::available_parallelism().map_or(1, Into::into),
        keep_going: false,
        seed: None,
        without: Without::new(),
        show: false,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text} is no number"));
        match &*word {
            "--seeds" => options.seeds = number(value()?)?,
            "--from" => options.from = number(value()?)?,
            "--threads" => options.threads = number(value()?)?.max(1) as usize,
            "--seed" => options.seed = Some(number(value()?)?),
            "--without" => {
                let parts = value()?;
                options.without.extend(parts.split(',').map(str::to_owned));
            }
            "--keep-going" => options.keep_going = true,
            "--show" => options.show = true,
            _ => return Err(format!("{word} is no option")),
        }
    }
    Ok(options)
}

/// One seed, and what it takes to fail.
fn one(seed: u64, options: &Options) -> bool {
    if options.show {
        println!("{}", campaign::describe(seed, &options.without));
    }
    let outcome = campaign::simulate(seed, &options.without);
    print(seed, &outcome);
    if outcome.wrong.is_empty() {
        let Outcome { jobs, requests, .. } = outcome;
        println!("{jobs} jobs, {requests} requests: all is well");
        return true;
    }
    println!("\nleaving out what it does not take …\n");
    let (without, smallest) = campaign::shrink(seed, &options.without);
    print(seed, &smallest);
    let without: Vec<&str> = without.iter().map(String::as_str).collect();
    println!(
        "\nthe smallest: --seed {seed} --without {}",
        without.join(",")
    );
    false
}

fn print(seed: u64, outcome: &Outcome) {
    let parts: Vec<&str> = outcome.parts.iter().map(String::as_str).collect();
    println!("seed {seed}, with {}", parts.join(", "));
    for wrong in &outcome.wrong {
        println!("  {wrong}");
    }
}

/// Many seeds, on several threads.
fn many(options: &Options) -> bool {
    let next = AtomicU64::new(0);
    let (done, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let (jobs, requests) = (AtomicU64::new(0), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    let output = Mutex::new(());
    let begun = Instant::now();
    // What each thread does, and since when.
    let at_work: Vec<Mutex<Option<(u64, Instant)>>> =
        Vec::from_iter(std::iter::repeat_with(Mutex::default).take(options.threads));
    let set = |thread: usize, seed: Option<u64>| {
        if let Ok(mut at) = at_work[thread].lock() {
            *at = seed.map(|seed| (seed, Instant::now()));
        }
    };
    let work = |thread: usize| {
        while !over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= options.seeds {
                return;
            }
            let seed = options.from.wrapping_add(number);
            set(thread, Some(seed));
            let outcome = campaign::simulate(seed, &options.without);
            set(thread, None);
            done.fetch_add(1, Ordering::Relaxed);
            jobs.fetch_add(outcome.jobs as u64, Ordering::Relaxed);
            requests.fetch_add(outcome.requests as u64, Ordering::Relaxed);
            if !outcome.wrong.is_empty() {
                failed.fetch_add(1, Ordering::Relaxed);
                let _output = output.lock();
                print(seed, &outcome);
                println!("once more, and shrunk: --seed {seed}\n");
                if !options.keep_going {
                    over.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    let progress = || {
        let (done, failed) = (done.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
        let seconds = begun.elapsed().as_secs_f64();
        let rate = done as f64 / seconds.max(1e-9);
        let _output = output.lock();
        println!(
            "{done} seeds, {failed} failed, {} jobs, {} requests, {seconds:.0} s, {rate:.0} seeds a second",
            jobs.load(Ordering::Relaxed),
            requests.load(Ordering::Relaxed),
        );
        let at_work = at_work.iter().filter_map(|at| *at.lock().ok()?);
        for (seed, since) in at_work.filter(|(_, since)| since.elapsed() >= LONG) {
            let seconds = since.elapsed().as_secs();
            println!("  seed {seed} has been at work for {seconds} s: does it end?");
        }
    };
    thread::scope(|scope| {
        let work = &work;
        let workers = (0..options.threads).map(|thread| scope.spawn(move || work(thread)));
        let workers: Vec<_> = workers.collect();
        let mut told = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(Duration::from_millis(50));
            if told.elapsed() >= Duration::from_secs(10) {
                told = Instant::now();
                progress();
            }
        }
    });
    progress();
    failed.load(Ordering::Relaxed) == 0
}
