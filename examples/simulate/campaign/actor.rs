//! The handler: does what the plan of its job says, and takes down what it did.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, Either, pending, select},
};
use gitlab_runner::{
    CancellableJobHandler, CancellationToken, JobHandler, JobResult, Phase, Time, WallTime,
    job::{DownloadError, Job},
    outputln,
};

use super::{
    files::FilePlan,
    job_plan::{Act, End, JobPlan, Manner, Offer},
    plan::Plan,
    record::{Entry, Page},
};

/// The wall clock at the origin of the simulation.
pub(crate) const ORIGIN: WallTime = WallTime(std::time::Duration::from_secs(1_735_689_600));

/// What the handlers of one run share.
pub(crate) struct Stage {
    pub(crate) plan: Arc<Plan>,
    /// What `Debug` of things in the hands of a handler said.
    pub(crate) overheard: Option<Mutex<String>>,
    pub(crate) is_faulty: bool,
}

/// Makes the handler of a job, as its plan says.
pub(crate) async fn make(job: Job, page: Page, stage: Arc<Stage>) -> Result<Troupe, ()> {
    let begun = job.now();
    let jobs = &stage.plan.jobs;
    let Some(number) = jobs.iter().position(|plan| plan.name == job.name()) else {
        page.note(begun, Entry::Complains(format!("unknown job {job:?}")));
        return Err(());
    };
    let mut actor = Actor {
        job: Arc::new(job),
        page,
        number,
        stage: Arc::clone(&stage),
        next: 0,
        made: false,
    };
    if let Some(overheard) = &stage.overheard {
        let variables: Vec<_> = actor.job.variables().collect();
        let said = format!(
            "{:?}\n{variables:?}\n{:?}\n{:?}\n",
            actor.job,
            actor.job.payload(),
            actor.job.dependencies().collect::<Vec<_>>()
        );
        if let Ok(mut text) = overheard.lock() {
            text.push_str(&said);
        }
    }
    let mut guard = Guard::new(&actor, Entry::MakingDropped);
    let making = &actor.plan().making;
    if !making.delay.is_zero() {
        actor.job.sleep(making.delay).await;
    }
    let made = actor.end(&making.end).await;
    guard.disarm();
    drop(guard);
    actor.note(match made {
        Ok(()) => Entry::Made,
        Err(()) => Entry::NotMade {
            told: actor.job.cancel_token().is_cancelled(),
        },
    });
    made?;
    actor.made = true;
    Ok(match actor.plan().manner {
        Manner::Plain => Troupe::Plain(Plain(actor)),
        _ => Troupe::Aware(Aware(actor)),
    })
}

/// A handler of either trait.
pub(crate) enum Troupe {
    Plain(Plain),
    Aware(Aware),
}

/// Does not hear of a cancel: its step is dropped.
pub(crate) struct Plain(Actor);
/// Hears of it.
pub(crate) struct Aware(Actor);

pub(crate) struct Actor {
    job: Arc<Job>,
    page: Page,
    stage: Arc<Stage>,
    /// Which of the jobs it is.
    number: usize,
    /// Number of the next step.
    next: usize,
    made: bool,
}

impl Actor {
    fn plan(&self) -> &JobPlan {
        &self.stage.plan.jobs[self.number]
    }

    fn now(&self) -> Time {
        self.job.now()
    }

    fn note(&self, entry: Entry) {
        self.page.note(self.now(), entry);
    }

    fn pen(&self) -> Pen {
        Pen {
            job: Arc::clone(&self.job),
            page: self.page.clone(),
        }
    }

    /// Which step this is; complains if it makes no sense.
    fn begin(&mut self, phase: Phase) -> usize {
        let name = self.job.current_step();
        let name = name.as_deref().unwrap_or_default();
        let steps = &self.plan().steps;
        let at = steps.iter().position(|step| step.name == name);
        let at = at.unwrap_or(0);
        let is_after = name == "after_script";
        if at < self.next || is_after != (phase == Phase::AfterScript) {
            let text = format!("step {name} ({phase:?}) after step {}", self.next);
            self.note(Entry::Complains(text));
        }
        self.next = at + 1;
        self.note(Entry::Begun(at));
        at
    }

    async fn play(&self, at: usize) -> JobResult {
        if at == 0 && self.plan().downloads {
            self.download().await;
        }
        let step = &self.plan().steps[at];
        self.pen().act(step.acts.clone()).await;
        self.end(&step.end).await
    }

    async fn end(&self, end: &End) -> JobResult {
        match end {
            End::Ok => Ok(()),
            End::Fail => Err(()),
            End::FailWith(failure) => self.job.fail(failure.clone()),
            #[expect(clippy::panic, reason = "the runner has to live with it")]
            End::Panic(words) if self.number % 2 == 1 => {
                self.note(Entry::Panics(words.clone()));
                let words = words.clone();
                self.job.unblock(move || panic!("{words}")).await
            }
            End::Panic(words) => self.panic(words),
            End::Never => pending().await,
        }
    }

    #[expect(clippy::panic, reason = "the runner has to live with it")]
    fn panic(&self, words: &str) -> ! {
        self.note(Entry::Panics(words.to_owned()));
        panic!("{words}");
    }

    /// What the dependencies left behind has to be what their plans say.
    async fn download(&self) {
        for dependency in self.job.dependencies() {
            let complain = |what: String| {
                let text = format!("dependency {}: {what}", dependency.name());
                self.note(Entry::Complains(text));
            };
            let offered = dependency.artifact_size().is_some();
            // One that is let go of, beside it or before it.
            let other = dependency.download();
            if self.number % 2 == 1 {
                let soon = self.job.sleep(std::time::Duration::from_millis(7));
                drop(select(Box::pin(other), soon).await);
            } else {
                drop(other.now_or_never());
            }
            match dependency.download().await {
                Ok(None) if !offered => {}
                Ok(None) => complain("nothing came of what there is".to_owned()),
                Ok(Some(mut artifact)) => {
                    let jobs = &self.stage.plan.jobs;
                    let of = jobs.iter().find(|plan| plan.name == dependency.name());
                    let Some(of) = of else {
                        return complain("of no known job".to_owned());
                    };
                    let archive = of.artifacts.iter().find(|it| it.kind == "archive");
                    let wanted = archive.map(|it| it.select(&of.files)).unwrap_or_default();
                    if artifact.len() != wanted.len() {
                        complain(format!("{} files", artifact.len()));
                    }
                    for (path, file) in wanted {
                        let mut content = Vec::new();
                        let read = artifact
                            .file(path)
                            .map(|mut it| std::io::Read::read_to_end(&mut it, &mut content));
                        if !matches!(read, Some(Ok(_))) || content != file.content {
                            complain(format!("{path} is not what it was"));
                        }
                    }
                }
                Err(DownloadError::Unreadable(error)) => complain(format!("unreadable: {error}")),
                Err(_) if self.stage.is_faulty => {}
                // Its job is over at GitLab.
                Err(DownloadError::Stopped | DownloadError::Refused(_)) => {}
                Err(error) => complain(error.to_string()),
            }
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.note(Entry::Gone);
        if let Some(words) = &self.plan().panics_at_the_end
            && self.made
            && !std::thread::panicking()
        {
            self.panic(words);
        }
    }
}

/// Writes into the log, and takes it down.
#[derive(Clone)]
struct Pen {
    job: Arc<Job>,
    page: Page,
}

impl Pen {
    fn wrote(&self, bytes: impl Into<Bytes>) {
        self.page.note(self.job.now(), Entry::Wrote(bytes.into()));
    }

    fn act(&self, acts: Vec<Act>) -> BoxFuture<'static, ()> {
        let pen = self.clone();
        async move {
            for act in acts {
                pen.do_one(act).await;
            }
        }
        .boxed()
    }

    async fn do_one(&self, act: Act) {
        match act {
            Act::Write(bytes) => {
                self.wrote(bytes.clone());
                self.job.trace(bytes);
            }
            Act::WriteError(bytes) => {
                self.wrote(bytes.clone());
                self.job.trace_stderr(bytes);
            }
            Act::Line(line) => {
                self.wrote(format!("{line}\n"));
                outputln!("{line}");
            }
            Act::BlockingLine(line) => {
                let pen = self.clone();
                let work = move || {
                    pen.wrote(format!("{line}\n"));
                    outputln!(line);
                };
                self.job.unblock(work).await;
            }
            Act::Pause(duration) => self.job.sleep(duration).await,
            Act::Spawn(acts) => self.job.spawn(self.act(acts)),
            #[expect(clippy::panic, reason = "the runner has to live with it")]
            Act::Panic(words) => panic!("{words}"),
            Act::Section(title, acts) => {
                let marker = |what: &str| {
                    let seconds = (ORIGIN + self.job.now()).0.as_secs();
                    let marker = format!("section_{what}:{seconds}:part_1\r\x1b[0K");
                    self.wrote(marker);
                };
                marker("start");
                self.wrote(format!("\x1b[0K\x1b[36;1m{title}\x1b[0;m\x1b[0;m\n"));
                let section = self.job.section("part 1").title(title).start();
                // Dropped half-way, it ends all the same.
                let end = OnDrop(Some(|| {
                    marker("end");
                    drop(section);
                }));
                self.act(acts).await;
                drop(end);
            }
            Act::Environment => match self.job.env().await {
                Ok(environment) => self.look_at(&environment),
                Err(error) => self.complain(format!("no environment: {error}")),
            },
            Act::Token => {
                let token = self.job.variable("CI_JOB_TOKEN").map(|it| it.value());
                let token = token.unwrap_or_default().as_bytes();
                for piece in token.chunks(token.len() / 2 + 1) {
                    let piece = Bytes::copy_from_slice(piece);
                    self.wrote(piece.clone());
                    self.job.trace(piece);
                }
            }
            Act::RemoveDir => {
                let _ = std::fs::remove_dir_all(self.job.build_dir());
            }
            Act::Litter => {
                // A task that outlives its job has no directory any more, and must not make one.
                let dir = self.job.build_dir().join("litter");
                let _ = std::fs::create_dir(&dir);
                let _ = std::fs::write(dir.join("file"), b"litter");
            }
        }
    }

    fn look_at(&self, environment: &gitlab_runner::job::Environment) {
        let path = environment.get("CA_KEY");
        let content = path.map(std::fs::read_to_string);
        let wanted = self.job.variable("CA_KEY").map(|it| it.value().to_owned());
        if content.and_then(Result::ok) != wanted {
            self.complain("the file variable is not what it should be".to_owned());
        }
    }

    fn complain(&self, text: String) {
        self.page.note(self.job.now(), Entry::Complains(text));
    }
}

struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            work();
        }
    }
}

/// Takes down that something was dropped before its end.
struct Guard<'a> {
    actor: &'a Actor,
    entry: Option<Entry>,
}

impl<'a> Guard<'a> {
    fn new(actor: &'a Actor, entry: Entry) -> Self {
        Self {
            actor,
            entry: Some(entry),
        }
    }

    fn disarm(&mut self) {
        self.entry = None;
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // A panic has said so itself.
        if let Some(entry) = self.entry.take().filter(|_| !std::thread::panicking()) {
            self.actor.note(entry);
        }
    }
}

#[async_trait]
impl JobHandler<FilePlan> for Plain {
    async fn step(&mut self, _: &[String], phase: Phase) -> JobResult {
        let at = self.0.begin(phase);
        let mut guard = Guard::new(&self.0, Entry::Dropped(at));
        let result = self.0.play(at).await;
        guard.disarm();
        self.0.note(Entry::Ended(at));
        result
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = FilePlan> + Send>, ()> {
        self.0.offer().await
    }

    async fn cleanup(&mut self) {
        self.0.clean_up().await;
    }
}

#[async_trait]
impl CancellableJobHandler<FilePlan> for Aware {
    async fn step(&mut self, _: &[String], phase: Phase, token: &CancellationToken) -> JobResult {
        let at = self.0.begin(phase);
        let mut guard = Guard::new(&self.0, Entry::Dropped(at));
        if token.is_cancelled() {
            self.0
                .note(Entry::Complains("told before its begin".to_owned()));
        }
        let result = {
            let told = std::pin::pin!(token.cancelled());
            let play = self.0.play(at).boxed();
            match (select(play, told).await, self.0.plan().manner) {
                (Either::Left((result, _)), _) => result,
                (Either::Right(((), play)), Manner::Deaf) => {
                    self.0.note(Entry::Told(at));
                    play.await
                }
                (Either::Right(((), play)), manner) => {
                    self.0.note(Entry::Told(at));
                    drop(play);
                    if let Manner::Polite(time) = manner {
                        self.0.pen().act(vec![Act::Line("ending".to_owned())]).await;
                        self.0.job.sleep(time).await;
                    }
                    Ok(())
                }
            }
        };
        guard.disarm();
        self.0.note(Entry::Ended(at));
        result
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = FilePlan> + Send>, ()> {
        self.0.offer().await
    }

    async fn cleanup(&mut self) {
        self.0.clean_up().await;
    }
}

impl Actor {
    async fn offer(&self) -> Result<Box<dyn Iterator<Item = FilePlan> + Send>, ()> {
        self.note(Entry::AskedForFiles);
        match &self.plan().offer {
            Offer::Ok => Ok(Box::new(self.plan().files.clone().into_iter())),
            Offer::Fails => Err(()),
            Offer::Panics(words) => self.panic(words),
            Offer::Hangs => pending().await,
        }
    }

    async fn clean_up(&self) {
        self.note(Entry::CleanUp);
        let mut guard = Guard::new(self, Entry::CleanUpDropped);
        self.pen().act(self.plan().cleanup.acts.clone()).await;
        let _ = self.end(&self.plan().cleanup.end).await;
        guard.disarm();
        self.note(Entry::CleanUpEnded);
    }
}

#[async_trait]
impl CancellableJobHandler<FilePlan> for Troupe {
    async fn step(
        &mut self,
        script: &[String],
        phase: Phase,
        token: &CancellationToken,
    ) -> JobResult {
        match self {
            Self::Plain(plain) => CancellableJobHandler::step(plain, script, phase, token).await,
            Self::Aware(aware) => aware.step(script, phase, token).await,
        }
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = FilePlan> + Send>, ()> {
        match self {
            Self::Plain(Plain(actor)) | Self::Aware(Aware(actor)) => actor.offer().await,
        }
    }

    async fn cleanup(&mut self) {
        match self {
            Self::Plain(Plain(actor)) | Self::Aware(Aware(actor)) => actor.clean_up().await,
        }
    }
}
