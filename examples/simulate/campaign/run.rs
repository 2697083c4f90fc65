//! Runs a plan: the runners of the crate against the simulated GitLab, in virtual time.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{Either, join_all, select},
};
use gitlab_runner::{
    JobId, RunError, Runner, RunnerHandle, Time,
    mock::{
        Faulty, JobReport, JobStatus, MockGitlab, ObjectStore, PipelineSpec, RunnerNumber,
        StorageRequest,
    },
    protocol::RunnerFeatures,
    sim::{ServerHandle, Sim},
};
use tempfile::TempDir;

use super::{
    actor::{ORIGIN, Stage, make},
    overhear,
    plan::{Deed, Plan, RunnerPlan, Stop},
    record::{Book, Notes},
    weather::{Outside, Seen},
    written::{Pens, Written},
};

pub(crate) const HOST: &str = "gitlab.example.test";
pub(crate) const STORAGE: &str = "storage.example.test";

/// Whoever takes longer than this is stuck.
const LONGEST: Duration = Duration::from_secs(40 * 3600);

type Gitlab = Outside<Faulty<MockGitlab>>;

/// What there is to judge by.
pub(crate) struct Evidence {
    pub(crate) pages: BTreeMap<u64, Vec<Notes>>,
    /// In the order of the plan.
    pub(crate) reports: Vec<JobReport>,
    pub(crate) job_tokens: Vec<String>,
    pub(crate) deeds: Vec<Done>,
    pub(crate) runs: Vec<Ran>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) storage: Vec<StorageRequest>,
    /// All that was said in Debug, errors, events and panics.
    pub(crate) overheard: String,
    /// Of those that write.
    pub(crate) written: Option<Written>,
    /// All that is left, and should not be.
    pub(crate) left: Vec<String>,
    pub(crate) end: Time,
}

/// A deed, and the status of its job after it.
pub(crate) struct Done {
    pub(crate) at: Time,
    pub(crate) deed: Deed,
    pub(crate) before: Option<JobStatus>,
    pub(crate) status: Option<JobStatus>,
}

/// How a runner fared.
#[derive(Default)]
pub(crate) struct Ran {
    pub(crate) errors: Vec<String>,
    /// When it was told to ask for no more jobs.
    pub(crate) stopped: Option<Time>,
    /// What it was given in the place of its token.
    pub(crate) tokens: Vec<String>,
    /// How many jobs it may have since it was told so.
    pub(crate) capacity: Option<usize>,
    /// When its jobs were aborted.
    pub(crate) aborted: Option<Time>,
    pub(crate) over: Option<Time>,
}

pub(super) struct World {
    pub(super) plan: Arc<Plan>,
    pub(super) sim: Sim,
    pub(super) gitlab: ServerHandle<Gitlab>,
    storage: Option<ObjectStore>,
    pub(super) ids: Vec<JobId>,
    /// Of the runners, as GitLab counts them.
    pub(super) numbers: Vec<RunnerNumber>,
    book: Book,
    pens: Option<Pens>,
    stage: Arc<Stage>,
    pub(super) runs: Arc<[Mutex<Ran>]>,
    pub(super) handles: Vec<Mutex<Option<RunnerHandle>>>,
    pub(super) done: Mutex<Vec<Done>>,
}

pub(crate) fn run(plan: &Arc<Plan>, dir: &TempDir) -> Result<Evidence, String> {
    let overheard = plan.is_overheard.then(overhear::Ear::default);
    let world = World::new(plan, overheard.is_some())?;
    let evidence = match &overheard {
        Some(ear) => ear.listen(|| world.run(dir.path())),
        None => world.run(dir.path()),
    };
    evidence.map(|mut evidence| {
        if let Some(ear) = overheard {
            evidence.overheard.push_str(&ear.heard());
        }
        evidence
    })
}

impl World {
    fn new(plan: &Arc<Plan>, is_overheard: bool) -> Result<Self, String> {
        let (fast, slow) = plan.latency;
        let sim = Sim::builder(plan.seed).latency(fast..=slow).build();
        let mut gitlab = MockGitlab::new(plan.seed);
        plan.server.apply(gitlab.settings_mut());
        let storage = plan.server.object_storage.then(|| gitlab.object_store());
        let (mut tokens, mut numbers): (Vec<&str>, Vec<_>) = Default::default();
        for runner in &plan.runners {
            if !tokens.contains(&&*runner.token) {
                tokens.push(&runner.token);
                let number = gitlab.add_runner(runner.token.clone());
                numbers.push(number);
                if let Some(life) = runner.token_life {
                    gitlab.set_token_expiry(number, Some(Time::from_secs(life)));
                    gitlab.settings_mut().runner_token_life = Some(Duration::from_secs(life));
                }
            }
        }
        let specs = plan
            .jobs
            .iter()
            .map(|job| job.spec(&format!("stage-{}", job.stage)));
        let ids = gitlab
            .enqueue_pipeline(PipelineSpec::new(specs))
            .map_err(|error| format!("the plan makes no pipeline: {error}"))?;
        for (id, job) in ids.iter().zip(&plan.jobs) {
            gitlab.watch(*id, job.watched);
        }
        let faulty = Faulty::new(gitlab, plan.faults.clone());
        let gitlab = sim.serve(HOST, Outside::new(faulty, plan.weather.clone()));
        if let Some(storage) = &storage {
            sim.serve(STORAGE, storage.clone());
        }
        Ok(Self {
            pens: Pens::of(plan, &sim),
            sim,
            gitlab,
            storage,
            ids,
            numbers,
            book: Book::default(),
            stage: Arc::new(Stage {
                plan: Arc::clone(plan),
                overheard: is_overheard.then(Mutex::default),
                is_faulty: plan.is_faulty || plan.server.rate.is_some() || !plan.deeds.is_empty(),
            }),
            runs: plan.runners.iter().map(|_| Mutex::default()).collect(),
            handles: plan.runners.iter().map(|_| Mutex::default()).collect(),
            done: Mutex::default(),
            plan: Arc::clone(plan),
        })
    }

    fn run(self, dir: &Path) -> Result<Evidence, String> {
        let mut overheard = String::new();
        let left = self.sim.block_on(async {
            let mut runners = Vec::new();
            for (number, plan) in self.plan.runners.iter().enumerate() {
                let runner = self.runner(plan, number, dir)?;
                overheard.push_str(&format!("{runner:?} {:?}\n", runner.handle()));
                set(&self.handles[number], Some(runner.handle()));
                runners.push(runner);
            }
            let runs = join_all(
                runners
                    .into_iter()
                    .enumerate()
                    .map(|(number, runner)| self.live(number, runner)),
            );
            let work = async {
                futures::join!(self.do_deeds(), self.wait_for_the_end(), runs);
            };
            let limit = self.sim.sleep(LONGEST);
            if let Either::Right(_) = select(Box::pin(work), limit).await {
                return Err(format!("the run does not end: {}", self.state()));
            }
            // What is to be thrown away is thrown away by tasks, and some tasks of handlers go on.
            self.sim.sleep(Duration::from_secs(3 * 3600)).await;
            Ok(self.left(dir))
        })?;
        let (reports, job_tokens, seen) = self.gitlab.with(|outside, _| {
            let gitlab = outside.server.server();
            let reports: Option<Vec<JobReport>> = self
                .ids
                .iter()
                .map(|id| gitlab.report(*id).cloned())
                .collect();
            let tokens = self.ids.iter().filter_map(|id| gitlab.job_token(*id));
            let tokens = tokens.map(|token| token.expose().to_owned()).collect();
            (reports, tokens, std::mem::take(&mut outside.seen))
        });
        if let Some(text) = self.stage.overheard.as_ref().and_then(|it| it.lock().ok()) {
            overheard.push_str(&text);
        }
        let take = |run: &Mutex<Ran>| {
            run.lock()
                .map_or_else(|_| Ran::default(), |mut it| std::mem::take(&mut it))
        };
        Ok(Evidence {
            pages: self.book.pages(),
            reports: reports.ok_or("a job is lost")?,
            job_tokens,
            deeds: self
                .done
                .lock()
                .map(|mut it| std::mem::take(&mut *it))
                .unwrap_or_default(),
            runs: self.runs.iter().map(take).collect(),
            seen,
            storage: self
                .storage
                .as_ref()
                .map(|it| it.requests())
                .unwrap_or_default(),
            overheard,
            written: self.pens.as_ref().map(Pens::written),
            left,
            end: self.sim.now(),
        })
    }

    fn runner(&self, plan: &RunnerPlan, number: usize, dir: &Path) -> Result<Runner, String> {
        let url = format!("https://{HOST}{}", self.plan.server.root);
        let url = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let dir = match plan.shares_dir {
            true => dir.join("builds"),
            false => dir.join(format!("builds-{number}")),
        };
        let mut features = RunnerFeatures::default();
        features.cancel_gracefully &= plan.is_graceful;
        let (patch_limit, keep_alive) = (plan.patch_limit, plan.keep_alive);
        let adapter = self.pens.as_ref().map(Pens::adapter);
        let mut builder = Runner::builder(url, plan.token.clone(), dir)
            .adapter(adapter.unwrap_or_else(|| self.sim.adapter()))
            .system_id(plan.system_id.clone())
            .seed(self.plan.seed ^ number as u64)
            .verify(plan.verify)
            .two_phase_commit(plan.commit)
            .features(features)
            .tune(move |config| {
                config.wall_origin = ORIGIN;
                config.patch_limit = patch_limit;
            });
        if plan.token_life.is_some() {
            let (runs, adapter) = (Arc::clone(&self.runs), self.sim.adapter());
            builder = builder.on_token_rotated(move |new| {
                if let Ok(mut run) = runs[number].lock() {
                    run.tokens.push(new.token.expose().to_owned());
                }
                let stored = adapter.sleep_until(adapter.now() + Duration::from_millis(300));
                async move {
                    stored.await;
                    Ok::<(), String>(())
                }
            });
        }
        if let Some(every) = keep_alive {
            builder = builder.keep_alive(every);
        }
        if let Some(limit) = self.plan.trace_limit {
            builder = builder.trace_limit(limit as u64);
        }
        if let Some(pens) = &self.pens {
            builder = pens.record(builder, number);
        }
        builder
            .build()
            .now_or_never()
            .ok_or("the builder waits".to_owned())
    }

    /// The life of one runner.
    async fn live(&self, number: usize, mut runner: Runner) {
        let plan = &self.plan.runners[number];
        let (book, stage) = (self.book.clone(), Arc::clone(&self.stage));
        let process = move |job: gitlab_runner::job::Job| {
            let page = book.open(job.id(), number, job.now());
            make(job, page, Arc::clone(&stage))
        };
        let handle = runner.handle();
        let end = match plan.stop {
            Some((at, Stop::DropRun | Stop::RunAgain(_) | Stop::DropRunner)) => {
                self.sleep_until(at)
            }
            _ => futures::future::pending().boxed(),
        };
        let work = self.work(number, &mut runner, process.clone());
        let dropped = matches!(select(Box::pin(work), end).await, Either::Right(_));
        let mut drains = dropped || plan.one_by_one;
        match plan.stop {
            Some((_, Stop::DropRunner)) if dropped => {
                let now = self.sim.now();
                self.note(number, |run| {
                    run.stopped = Some(now);
                    run.aborted = Some(now);
                });
                drop(runner);
                // Its jobs are reported in the background.
                self.note(number, |run| run.over = Some(now));
                return;
            }
            Some((_, Stop::RunAgain(pause))) if dropped => {
                self.sim.sleep(pause).await;
                self.work(number, &mut runner, process).await;
                drains = plan.one_by_one;
            }
            _ if dropped => {
                self.note(number, |run| run.stopped = Some(self.sim.now()));
            }
            _ => {}
        }
        if drains {
            runner.drain().await;
        }
        if runner.running() != 0 {
            let text = format!("{} jobs run after the end", runner.running());
            self.note(number, |run| run.errors.push(text));
        }
        drop(runner);
        if !handle.is_stopped() && !drains {
            self.note(number, |run| {
                run.errors.push("it has not stopped".to_owned())
            });
        }
        self.note(number, |run| run.over = Some(self.sim.now()));
        set(&self.handles[number], None);
    }

    /// Runs jobs until it is stopped.
    async fn work<F, Ret>(&self, number: usize, runner: &mut Runner, process: F)
    where
        F: Fn(gitlab_runner::job::Job) -> Ret + Clone + Send + Sync + 'static,
        Ret: Future<Output = Result<super::actor::Troupe, ()>> + Send + 'static,
    {
        let plan = &self.plan.runners[number];
        if plan.one_by_one {
            self.ask_one_by_one(number, runner, process).await;
        } else if let Err(error) = runner.run(process, plan.capacity).await {
            self.error(number, &error);
        }
    }

    async fn ask_one_by_one<F, Ret>(&self, number: usize, runner: &mut Runner, process: F)
    where
        F: Fn(gitlab_runner::job::Job) -> Ret + Clone + Send + Sync + 'static,
        Ret: Future<Output = Result<super::actor::Troupe, ()>> + Send + 'static,
    {
        while self.ran(number, |run| run.stopped).is_none() {
            runner
                .wait_for_space(self.plan.runners[number].capacity)
                .await;
            if self.ran(number, |run| run.stopped).is_some() {
                return;
            }
            let request = runner.request_job(process.clone());
            let asked = match self.plan.runners[number].patience {
                None => request.await,
                Some(patience) => {
                    let request = Box::pin(request);
                    match select(request, self.sim.sleep(patience)).await {
                        Either::Left((asked, _)) => asked,
                        // If it brings a job all the same, that is run.
                        Either::Right(_) => continue,
                    }
                }
            };
            match asked {
                Ok(true) => {}
                Ok(false) => self.sim.sleep(Duration::from_secs(3)).await,
                Err(error) => {
                    if self.stage.overheard.is_some() {
                        self.say(&error);
                    }
                    self.sim.sleep(Duration::from_secs(5)).await;
                }
            }
        }
    }

    /// Stops the runners when all jobs are over.
    async fn wait_for_the_end(&self) {
        loop {
            self.sim.sleep(Duration::from_secs(20)).await;
            let idle = self.gitlab.with(|outside, now| {
                outside.server.server_mut().advance(now);
                outside.server.server().is_idle()
            });
            let all_over =
                (0..self.runs.len()).all(|number| self.ran(number, |it| it.over).is_some());
            if all_over {
                return;
            }
            if idle {
                break;
            }
        }
        for number in 0..self.runs.len() {
            if let Some(handle) = get(&self.handles[number]) {
                let now = self.sim.now();
                self.note(number, |run| _ = run.stopped.get_or_insert(now));
                if !self.plan.runners[number].one_by_one {
                    handle.drain();
                }
            }
        }
    }

    pub(super) fn sleep_until(&self, at: Time) -> futures::future::BoxFuture<'static, ()> {
        self.sim.sleep(at.since(self.sim.now()))
    }

    pub(super) fn note(&self, number: usize, change: impl FnOnce(&mut Ran)) {
        if let Ok(mut run) = self.runs[number].lock() {
            change(&mut run);
        }
    }

    fn ran<T>(&self, number: usize, look: impl FnOnce(&Ran) -> Option<T>) -> Option<T> {
        self.runs[number].lock().ok().and_then(|run| look(&run))
    }

    fn error(&self, number: usize, error: &RunError) {
        self.say(error);
        self.note(number, |run| run.errors.push(error.to_string()));
    }

    fn say(&self, error: &RunError) {
        if let Some(Ok(mut text)) = self.stage.overheard.as_ref().map(|it| it.lock()) {
            text.push_str(&format!("{error} {error:?}\n"));
        }
    }

    fn state(&self) -> String {
        self.gitlab.with(|outside, _| {
            let gitlab = outside.server.server();
            let states = self.ids.iter().filter_map(|id| gitlab.report(*id));
            let states: Vec<_> = states.map(|it| (it.id, it.status)).collect();
            format!("{:?} {states:?}", self.sim)
        })
    }

    /// What is there after the end: tasks, requests, files with and without a name.
    fn left(&self, dir: &Path) -> Vec<String> {
        let mut left = Vec::new();
        let tasks = self.sim.tasks();
        if tasks > 0 {
            left.push(format!("{tasks} tasks"));
        }
        let held = self.gitlab.with(|outside, _| outside.held());
        if held > 0 {
            left.push(format!("{held} requests without an answer"));
        }
        for builds in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            for entry in std::fs::read_dir(builds.path())
                .into_iter()
                .flatten()
                .flatten()
            {
                left.push(format!("{:?}", entry.path()));
            }
        }
        // Those of other runs, in other threads, are elsewhere.
        for open in std::fs::read_dir("/proc/self/fd")
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Ok(target) = std::fs::read_link(open.path())
                && target.starts_with(dir)
            {
                left.push(format!("an open file {target:?}"));
            }
        }
        left
    }
}

pub(super) fn get<T: Clone>(of: &Mutex<Option<T>>) -> Option<T> {
    of.lock().ok().and_then(|it| it.clone())
}

fn set<T>(of: &Mutex<Option<T>>, value: Option<T>) {
    if let Ok(mut of) = of.lock() {
        *of = value;
    }
}
