//! What happens in one run: the server, the runners, the jobs, the faults and what people do.

use std::{collections::BTreeSet, time::Duration};

use gitlab_runner::{
    Time,
    mock::{Fault, FaultPlan, Settings, VerifyMode},
};

use super::{
    dice::{Dice, Random, Without},
    job_plan::{JobPlan, Style},
    weather::Weather,
};

/// Everything that a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// The ingredients that are in.
    pub(crate) parts: BTreeSet<String>,
    /// How long a message travels, at least and at most.
    pub(crate) latency: (Duration, Duration),
    pub(crate) server: ServerPlan,
    pub(crate) jobs: Vec<JobPlan>,
    pub(crate) runners: Vec<RunnerPlan>,
    /// In order of time.
    pub(crate) deeds: Vec<(Time, Deed)>,
    pub(crate) faults: FaultPlan,
    pub(crate) weather: Weather,
    /// There are faults, of either kind.
    pub(crate) is_faulty: bool,
    /// Logs are cut at so many bytes.
    pub(crate) trace_limit: Option<usize>,
    /// Everything that is said is listened to.
    pub(crate) is_overheard: bool,
    /// An archive and transcripts are written.
    pub(crate) is_recorded: bool,
}

/// How GitLab is set up.
#[derive(Clone, Debug)]
pub(crate) struct ServerPlan {
    pub(crate) long_poll: Option<Duration>,
    pub(crate) two_phase: bool,
    pub(crate) is_old: bool,
    pub(crate) verify: VerifyMode,
    pub(crate) incremental: Option<Duration>,
    pub(crate) jwt: bool,
    pub(crate) root: &'static str,
    pub(crate) object_storage: bool,
    pub(crate) own_dependency_tokens: bool,
    /// Requests about one job in a minute.
    pub(crate) rate: Option<u32>,
    /// Seconds after which a job that is out of time is failed there.
    pub(crate) grace: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct RunnerPlan {
    pub(crate) token: String,
    pub(crate) system_id: String,
    pub(crate) capacity: usize,
    /// Asks for each job by itself instead of `run`.
    pub(crate) one_by_one: bool,
    /// Then, for how long it waits for an answer before it lets go of it and asks anew.
    pub(crate) patience: Option<Duration>,
    /// Its token ends after so many seconds, and so does each one that it gets for it.
    pub(crate) token_life: Option<u64>,
    /// Told to GitLab that it can be cancelled gracefully.
    pub(crate) is_graceful: bool,
    pub(crate) verify: bool,
    pub(crate) commit: bool,
    /// In bytes.
    pub(crate) patch_limit: u64,
    pub(crate) keep_alive: Option<Duration>,
    /// From when on it may have another number of jobs at a time.
    pub(crate) capacity_later: Option<(Time, usize)>,
    /// Shares the build directory of the first one.
    pub(crate) shares_dir: bool,
    pub(crate) stop: Option<(Time, Stop)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    Drain,
    DrainWithin(Duration),
    Abort,
    /// The future of `run` is dropped, and the runner drained.
    DropRun,
    /// The same, and it runs again some time later.
    RunAgain(Duration),
    /// The runner itself is dropped.
    DropRunner,
}

/// What somebody, or GitLab itself, does to a job, or to all.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    Cancel(usize),
    ForceCancel(usize),
    Fail(usize),
    Erase(usize),
    DeleteProject(usize),
    ExpireToken(usize),
    /// The log loses so many hundredths.
    Shrink(usize, u64),
    Lock(usize, u32),
    Watch(usize, bool),
    Conflict(u32),
    Migration(bool),
    BumpQueue,
    ExpireLinks,
    /// Pauses all runners, or lets them go on.
    Pause(bool),
    /// The managers of all runners are deleted.
    ForgetManagers,
}

impl Deed {
    pub(crate) fn job(self) -> Option<usize> {
        match self {
            Self::Cancel(job)
            | Self::ForceCancel(job)
            | Self::Fail(job)
            | Self::Erase(job)
            | Self::DeleteProject(job)
            | Self::ExpireToken(job)
            | Self::Shrink(job, _)
            | Self::Lock(job, _)
            | Self::Watch(job, _) => Some(job),
            _ => None,
        }
    }
}

impl Plan {
    /// The plan of this seed, without some of its ingredients.
    pub(crate) fn draw(seed: u64, without: &Without) -> Self {
        let mut dice = Dice::new(seed, without);
        let trace_limit = dice
            .has("trace-limit", 10)
            .then(|| dice.stream("trace-limit").between(1, 3000) as usize);
        let runners = runners(&mut dice);
        let style = Style {
            with_artifacts: trace_limit.is_none(),
            with_big_logs: runners.iter().all(|it| it.patch_limit > 1024),
        };
        let count = dice.stream("jobs").between(1, 5) as usize;
        let stages = dice.has("stages", 55);
        let mut jobs = Vec::new();
        for number in 0..count {
            if number == 0 || dice.has(&format!("job-{number}"), 100) {
                let stage = if stages { number / 2 } else { 0 };
                jobs.push(JobPlan::draw(&mut dice, number, stage, &style));
            }
        }
        let deeds = deeds(&mut dice, jobs.len());
        let troubled = dice.has("trouble", 70);
        let (faults, has_faults) = faults(&mut dice, seed, troubled);
        if let Some(limit) = trace_limit
            && dice.has("exact-limit", 40)
        {
            // Not a byte more, nor less.
            let all = bytes::Bytes::from(vec![b'x'; limit]);
            jobs[0].steps[0].acts = vec![super::job_plan::Act::Write(all)];
        }
        let server = ServerPlan::draw(&mut dice);
        // A server that seems to be too old for it is told of no job that is taken.
        let is_old = server.verify == VerifyMode::Missing;
        let repeats = runners.len() == 1 && runners[0].commit && !is_old;
        let weather = Weather::draw(&mut dice, troubled, repeats);
        let is_faulty = has_faults || weather.is_bad();
        let mut random = dice.stream("latency");
        let latency = match dice.has("slow-network", 20) {
            true => (
                Duration::from_millis(random.between(1, 50)),
                Duration::from_millis(random.between(50, 3000)),
            ),
            false => (Duration::from_millis(1), Duration::from_millis(20)),
        };
        let mut plan = Self {
            seed,
            latency,
            server,
            jobs,
            runners,
            deeds,
            faults,
            is_faulty,
            weather,
            trace_limit,
            is_overheard: dice.has("overheard", 15),
            is_recorded: dice.has("recorded", 1),
            parts: dice.into_parts(),
        };
        // An answer that is lost costs the token, a second runner loses its own by it, and an old server
        // does not tell of its end.
        let told = plan.server.verify == VerifyMode::Json;
        if !plan.is_calm() || !told || plan.runners.len() > 1 {
            plan.runners.iter_mut().for_each(|it| it.token_life = None);
        }
        // Three quarters of it pass before another is asked for, and so may two requests there and back.
        let shortest = (16 * plan.slowest()).as_secs() + 1;
        let lives = plan
            .runners
            .iter_mut()
            .filter_map(|it| it.token_life.as_mut());
        lives.for_each(|life| *life = shortest.max(*life));
        plan
    }

    /// Nothing keeps a runner from hearing of its jobs.
    pub(crate) fn is_calm(&self) -> bool {
        let harmless = |deed: &Deed| {
            !matches!(
                deed,
                Deed::Lock(..) | Deed::Conflict(_) | Deed::Migration(_) | Deed::Shrink(..)
            )
        };
        let mut deeds = self.deeds.iter();
        !self.is_faulty && self.server.rate.is_none() && deeds.all(|(_, it)| harmless(it))
    }

    /// The longest that a message travels.
    pub(crate) fn slowest(&self) -> Duration {
        self.latency.1
    }
}

impl ServerPlan {
    fn draw(dice: &mut Dice<'_>) -> Self {
        let mut random = dice.stream("server");
        Self {
            long_poll: match dice.has("short-poll", 25) {
                true => random.pick(&[None, Some(Duration::from_nanos(50))]),
                false => Some(Duration::from_secs(50)),
            },
            two_phase: dice.has("two-phase", 50),
            is_old: dice.has("old-server", 20),
            verify: match dice.has("old-verify", 20) {
                true => random.pick(&[VerifyMode::PlainText, VerifyMode::Missing]),
                false => VerifyMode::Json,
            },
            incremental: dice.has("incremental-logging", 30).then(|| {
                let seconds = random.pick(&[0, 1, 10, 100]);
                match random.chance(5) {
                    true => Duration::MAX,
                    false => Duration::from_secs(seconds),
                }
            }),
            jwt: dice.has("jwt", 20),
            root: match dice.has("relative-root", 15) {
                true => "/gitlab",
                false => "",
            },
            object_storage: dice.has("object-storage", 40),
            own_dependency_tokens: dice.has("dependency-tokens", 20),
            rate: dice
                .has("rate-limit", 8)
                .then(|| random.between(4, 40) as u32),
            grace: dice
                .has("server-timeout", 8)
                .then(|| random.between(20, 120)),
        }
    }

    /// All but what needs the mock's own store.
    pub(crate) fn apply(&self, settings: &mut Settings) {
        settings.long_poll = self.long_poll;
        settings.two_phase_commit = self.two_phase;
        settings.job_status_on_update = !self.is_old;
        settings.verify = self.verify;
        settings.incremental_logging = self.incremental.is_some();
        settings.chunk_persist_delay = self.incremental.unwrap_or_default();
        settings.jwt_job_tokens = self.jwt;
        settings.relative_root = self.root.to_owned();
        settings.own_dependency_tokens = self.own_dependency_tokens;
        settings.no_updates_timeout = Some(Duration::from_secs(1500));
        settings.server_timeout_grace = self.grace.map(Duration::from_secs);
        if let Some(rate) = self.rate {
            settings.update_limit = rate;
            settings.trace_limit = rate;
            settings.job_request_limit = rate * 2;
        }
        if self.object_storage {
            settings.object_storage = Some(format!("https://{}", super::run::STORAGE));
        }
    }
}

fn runners(dice: &mut Dice<'_>) -> Vec<RunnerPlan> {
    let mut runners: Vec<RunnerPlan> = Vec::new();
    for number in 0..3 {
        let name = format!("runner-{number}");
        if number > 0 && !dice.has(&name, 25) {
            continue;
        }
        let mut random = dice.stream(&name);
        let shares_token = number > 0 && random.chance(50);
        let token = format!("glrt-t1_{}", random.word(16));
        let mut has = |part: &str, per_cent| dice.has(&format!("{name}/{part}"), per_cent);
        let stop = has("stop", 20).then(|| {
            let latest = random.pick(&[5_000, 60_000, 600_000]);
            let at = moment(random.between(1_000_000, latest * 1000));
            let stop = match random.below(6) {
                0 => Stop::Drain,
                1 => Stop::DrainWithin(Duration::from_millis(random.between(0, 100_000))),
                2 => Stop::Abort,
                3 => Stop::RunAgain(Duration::from_millis(random.between(0, 100_000))),
                4 => Stop::DropRunner,
                _ => Stop::DropRun,
            };
            (at, stop)
        });
        runners.push(RunnerPlan {
            token: match shares_token {
                true => runners[0].token.clone(),
                false => token,
            },
            system_id: format!("s_{}", random.word(12)),
            capacity: random.between(1, 4) as usize,
            one_by_one: has("one-by-one", 15),
            patience: has("patience", 40).then(|| Duration::from_millis(random.between(1, 60_000))),
            token_life: has("rotation", 15).then(|| random.between(8, 400)),
            is_graceful: !has("no-grace", 15),
            verify: !has("no-verify", 10),
            commit: !has("no-commit", 15),
            patch_limit: match has("small-patches", 15) {
                true => 1024,
                false => 1 << 20,
            },
            keep_alive: has("keep-alive", 15).then(|| Duration::from_secs(random.between(1, 20))),
            capacity_later: has("new-capacity", 12).then(|| {
                let at = moment(random.between(0, 120_000_000));
                (at, random.between(1, 4) as usize)
            }),
            shares_dir: has("shared-dir", 50),
            stop,
        });
    }
    runners
}

/// Half a microsecond later: nothing of a handler happens in the same moment.
fn moment(micros: u64) -> Time {
    Time::ZERO + Duration::from_nanos(micros * 1000 + 500)
}

fn deeds(dice: &mut Dice<'_>, jobs: usize) -> Vec<(Time, Deed)> {
    let mut deeds = Vec::new();
    let count = dice.stream("deeds").below(7);
    for number in 0..count {
        let name = format!("deed-{number}");
        if !dice.has(&name, 55) {
            continue;
        }
        let mut random = dice.stream(&format!("{name}-what"));
        let latest = random.pick(&[1_000, 5_000, 20_000, 120_000, 900_000]);
        let at = moment(random.between(0, latest * 1000));
        let job = random.below(jobs);
        let deed = match random.below(26) {
            0..7 => Deed::Cancel(job),
            7 | 8 => Deed::ForceCancel(job),
            9 => Deed::Fail(job),
            10 => match random.below(3) {
                0 => Deed::Erase(job),
                1 => Deed::DeleteProject(job),
                _ => Deed::ExpireToken(job),
            },
            11..15 => Deed::Shrink(job, random.pick(&[0, 50, 99])),
            15..17 => Deed::Lock(job, random.between(1, 6) as u32),
            17 => Deed::Watch(job, random.chance(50)),
            18 => Deed::Conflict(random.between(1, 8) as u32),
            19 => {
                let end = at + Duration::from_secs(random.between(1, 200));
                deeds.push((end, Deed::Migration(false)));
                Deed::Migration(true)
            }
            20 => Deed::ExpireLinks,
            21 => Deed::BumpQueue,
            22 => {
                let end = at + Duration::from_secs(random.between(1, 200));
                deeds.push((end, Deed::Pause(false)));
                Deed::Pause(true)
            }
            23 => Deed::ForgetManagers,
            _ => {
                // Cancelled, and then for good.
                let later = Duration::from_micros(random.between(0, 60_000_000));
                deeds.push((at + later, Deed::ForceCancel(job)));
                Deed::Cancel(job)
            }
        };
        deeds.push((at, deed));
    }
    deeds.sort_by_key(|(at, _)| *at);
    deeds
}

fn faults(dice: &mut Dice<'_>, seed: u64, troubled: bool) -> (FaultPlan, bool) {
    let mut plan = FaultPlan::new(seed);
    if !troubled {
        return (plan, false);
    }
    let mut any = false;
    let often = dice.stream("faults").pick(&[10, 50, 100, 150]);
    for fault in Fault::ALL {
        let mut random = dice.stream(&format!("fault-{fault:?}-rate"));
        if dice.has(&format!("fault-{fault:?}"), 20) {
            any = true;
            plan = plan.with(fault, random.between(1, often) as u16);
        }
    }
    if dice.has("very-late", 8) {
        // Longer than a runner waits for most answers.
        plan = plan.with_latest(Duration::from_secs(100));
    }
    for number in 0..3 {
        let mut random: Random = dice.stream(&format!("storm-{number}-when"));
        if dice.has(&format!("storm-{number}"), 8) {
            any = true;
            let from = Time::from_millis(random.between(0, 300_000));
            plan = plan.with_storm(from, Duration::from_secs(random.between(1, 240)));
        }
    }
    (plan, any)
}
