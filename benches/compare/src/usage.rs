//! What a process has used.

use std::{
    alloc::System,
    fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Instant, SystemTime},
};

use cpu_time::ProcessTime;
use serde::{Deserialize, Serialize};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts, for all clients alike.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What the work of a client has cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// In seconds, of all threads.
    pub cpu: f64,
    /// In seconds.
    pub wall: f64,
    pub allocations: usize,
    /// Resident memory before, in bytes.
    pub before: u64,
    /// The most memory that was ever resident, in bytes.
    pub peak: u64,
    /// When each job was begun, in seconds since 1970.
    pub started: Vec<f64>,
    /// Downloads that failed.
    pub failed: usize,
}

/// What a client notes about its jobs.
#[derive(Default)]
pub struct Outcome {
    started: Mutex<Vec<f64>>,
    failed: AtomicUsize,
}

impl Outcome {
    /// The job's own code begins.
    pub fn started(&self) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.push(since_1970());
    }

    /// A download failed.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// In seconds.
pub fn since_1970() -> f64 {
    SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap_or_default()
        .as_secs_f64()
}

pub struct Meter {
    cpu: f64,
    wall: Instant,
    allocations: usize,
    before: u64,
}

impl Meter {
    pub fn start() -> Self {
        Self {
            before: status("VmRSS").unwrap_or(0) * 1024,
            allocations: allocations(),
            cpu: cpu_time(),
            wall: Instant::now(),
        }
    }

    pub fn stop(self, outcome: &Outcome) -> Usage {
        let started = outcome
            .started
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Usage {
            started: started.clone(),
            failed: outcome.failed.load(Ordering::Relaxed),
            cpu: cpu_time() - self.cpu,
            wall: self.wall.elapsed().as_secs_f64(),
            allocations: allocations() - self.allocations,
            before: self.before,
            peak: status("VmHWM").unwrap_or(0) * 1024,
        }
    }
}

fn allocations() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

/// Of this process so far, in seconds.
pub fn cpu_time() -> f64 {
    ProcessTime::now().as_duration().as_secs_f64()
}

/// A number from the status of this process.
fn status(name: &str) -> Option<u64> {
    number_in(&fs::read_to_string("/proc/self/status").ok()?, name)
}

/// The number behind `name` in the text of a `/proc/…/status`.
pub fn number_in(status: &str, name: &str) -> Option<u64> {
    let rest = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}
