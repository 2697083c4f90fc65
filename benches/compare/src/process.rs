//! One client and its server, each in a process of its own, so that neither counts for the other.

use std::{
    env, fmt, fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    BoxError,
    adapters::On,
    server::Seen,
    usage::{Usage, number_in},
    work::Work,
};

/// Who does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Floor,
    Ours,
    Theirs,
    /// Ours once more, on this adapter.
    On(On),
}

impl Who {
    /// Those that can be measured in this build.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Floor, Self::Ours];
        if cfg!(feature = "collabora") {
            all.push(Self::Theirs);
        }
        all
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Floor, Self::Ours, Self::Theirs]
            .into_iter()
            .chain(On::ALL.map(Self::On))
            .find(|who| who.to_string() == name)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Floor => "floor",
            Self::Ours => "ours",
            Self::Theirs => "collabora",
            Self::On(on) => on.name(),
        })
    }
}

/// What came of one run.
#[derive(Clone, Debug)]
pub struct Run {
    pub usage: Usage,
    pub seen: Seen,
    /// The most threads at a time that were seen.
    pub threads: u64,
}

/// Lets `who` do `work`.
pub fn measure(who: Who, work: Work) -> Result<Run, BoxError> {
    run(who, work, None)
}

/// The instructions of all that `who` does from start to end for `work`; needs valgrind.
pub fn instructions(who: Who, work: Work) -> Result<f64, BoxError> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind");
    profile(who, work, &out)?;
    let profile = fs::read_to_string(out)?;
    let total = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))
        .ok_or("valgrind wrote no totals")?;
    Ok(total.trim().parse()?)
}

/// Writes a profile for `callgrind_annotate`; needs valgrind.
pub fn profile(who: Who, work: Work, out: &Path) -> Result<(), BoxError> {
    run(who, work, Some(out)).map(drop)
}

/// Under valgrind, with its profile in `profile`, if there is one.
fn run(who: Who, work: Work, profile: Option<&Path>) -> Result<Run, BoxError> {
    let me = env::current_exe()?;
    let mut server = Command::new(&me)
        .args(["server", &work.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut from_server = BufReader::new(server.stdout.take().ok_or("no output")?);
    let mut url = String::new();
    from_server.read_line(&mut url)?;

    let mut command = match profile {
        None => Command::new(&me),
        Some(profile) => {
            let mut valgrind = Command::new("valgrind");
            valgrind
                .args(["-q", "--tool=callgrind"])
                .arg(format!("--callgrind-out-file={}", profile.display()))
                .arg(&me);
            valgrind
        }
    };
    let mut client = command
        .args(["client", &who.to_string(), &work.to_string(), url.trim()])
        .stdout(Stdio::piped())
        .spawn()?;
    let threads = watch_threads(&client);
    let mut said = String::new();
    client
        .stdout
        .take()
        .ok_or("no output")?
        .read_to_string(&mut said)?;
    let status = client.wait()?;
    let threads = threads.stop();

    drop(server.stdin.take());
    let mut seen = String::new();
    from_server.read_to_string(&mut seen)?;
    server.wait()?;
    if !status.success() {
        return Err(format!("{who} could not do {work}").into());
    }
    let run = Run {
        usage: serde_json::from_str(&said)?,
        seen: serde_json::from_str(&seen)?,
        threads,
    };
    if run.seen.intact != work.jobs() {
        eprintln!(
            "!! {who}, {work}: only {} of {} jobs succeeded with all that they made !!",
            run.seen.intact,
            work.jobs()
        );
    }
    if run.usage.failed > 0 {
        eprintln!("!! {who}, {work}: {} downloads failed !!", run.usage.failed);
    }
    Ok(run)
}

struct ThreadWatch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    watcher: thread::JoinHandle<()>,
}

fn watch_threads(child: &Child) -> ThreadWatch {
    let path = format!("/proc/{}/status", child.id());
    let (stop, most) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let watcher = {
        let (stop, most) = (Arc::clone(&stop), Arc::clone(&most));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let status = fs::read_to_string(&path).unwrap_or_default();
                let threads = number_in(&status, "Threads").unwrap_or(0);
                most.fetch_max(threads, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        })
    };
    ThreadWatch {
        stop,
        most,
        watcher,
    }
}

impl ThreadWatch {
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        // It cannot panic, and without it the number is what was seen so far.
        let _ = self.watcher.join();
        self.most.load(Ordering::Relaxed)
    }
}
