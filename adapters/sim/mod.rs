//! A runner in virtual time: the adapter for tests of handlers, and of this crate.
//!
//! Everything runs on one thread. The clock moves only when nothing can run, straight to the next
//! moment at which something happens, so hours take no time. The seed decides which of several
//! tasks runs next and how long each message travels: the same seed gives the same run.
//!
//! A handler, and what stands in its test:
//!
//! ```
//! use std::time::Duration;
//! use gitlab_runner::{
//!     JobHandler, JobResult, Phase, Runner,
//!     job::Job,
//!     mock::{JobSpec, JobStatus, MockGitlab},
//!     outputln,
//!     sim::Sim,
//! };
//!
//! struct Lab(Job);
//!
//! #[async_trait::async_trait]
//! impl JobHandler for Lab {
//!     async fn step(&mut self, _script: &[String], _phase: Phase) -> JobResult {
//!         self.0.sleep(Duration::from_secs(1800)).await; // the board boots
//!         outputln!("booted");
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sim = Sim::new(7);
//! let mut gitlab = MockGitlab::new(7);
//! gitlab.add_runner("glrt-lab");
//! let job = gitlab.enqueue(JobSpec::script(["boot"]));
//! let gitlab = sim.serve("gitlab.lab", gitlab);
//!
//! let url = "https://gitlab.lab".parse()?;
//! let builds = std::env::temp_dir().join("lab-builds");
//! let mut runner = Runner::with_adapter(url, "glrt-lab".into(), builds, sim.adapter());
//! let there_was_one = sim.block_on(async {
//!     let there_was_one = runner.request_job(|job| async { Ok(Lab(job)) }).await;
//!     runner.drain().await;
//!     there_was_one
//! })?;
//! assert!(there_was_one);
//!
//! gitlab.with(|gitlab, _now| {
//!     let report = gitlab.report(job).expect("the job is known");
//!     assert_eq!(report.status, JobStatus::Success);
//!     assert_eq!(report.log_text(), "booted\n");
//! });
//! # Ok(())
//! # }
//! ```
//!
//! A handler under test must not use a runtime's own timers, sockets or processes: use
//! [`Job::sleep`](crate::job::Job::sleep), [`Job::spawn`](crate::job::Job::spawn), and
//! [`Job::unblock`](crate::job::Job::unblock) with `std::process`. Use a plain `#[test]`, not
//! `#[tokio::test]`. What needs tokio is tested over
//! [`Loopback`](crate::mock::http::Loopback).

mod executor;

use std::{
    collections::BTreeMap,
    fmt,
    future::{self, Future},
    io,
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, future::BoxFuture, stream};
use http::{Request, Response, header::CONTENT_LENGTH};

use self::executor::{Executor, lock};
use crate::{
    Time,
    adapter::{Adapter, Body, TransportError, TransportErrorKind},
    mock::{Answer, HoldId, Server, Trickle},
};

/// A simulated world: tasks, servers and a clock. Dropping it drops every task.
pub struct Sim {
    world: Arc<World>,
}

impl Sim {
    /// A world with this seed, in which a message takes 1 to 20 ms.
    pub fn new(seed: u64) -> Self {
        Self::builder(seed).build()
    }

    /// A world with options.
    pub fn builder(seed: u64) -> SimBuilder {
        SimBuilder {
            seed,
            latency: Duration::from_millis(1)..=Duration::from_millis(20),
        }
    }

    /// The adapter for [`Runner::with_adapter`](crate::Runner::with_adapter).
    pub fn adapter(&self) -> Arc<dyn Adapter> {
        Arc::new(SimAdapter {
            world: Arc::clone(&self.world),
        })
    }

    /// Puts `server` behind `host` (as in a URL, with the port if it has one); `*` is every host
    /// that has no server of its own. A second server for the same host replaces the first.
    pub fn serve<S: Server>(&self, host: &str, server: S) -> ServerHandle<S> {
        let site = Arc::new(Site {
            server: Mutex::new(server),
            holds: Mutex::default(),
        });
        lock(&self.world.sites).insert(host.to_ascii_lowercase(), Arc::clone(&site) as _);
        ServerHandle {
            site,
            world: Arc::clone(&self.world),
        }
    }

    /// Runs `future`, and beside it every task that was spawned, until `future` is done. Other
    /// tasks stay where they are, and go on with the next call.
    ///
    /// # Panics
    /// When nothing can run and nothing is waited for (a deadlock), and when tasks wake each other
    /// without end. The message names the seed.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let world = &self.world;
        world
            .executor
            .block_on(future, || world.next_deadline(), |now| world.pump(now))
    }

    /// The time in this world.
    pub fn now(&self) -> Time {
        self.world.executor.now()
    }

    /// Completes after `duration` of virtual time.
    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let deadline = self.now() + duration;
        Box::pin(self.world.executor.sleep_until(deadline))
    }

    /// How many spawned tasks have not come to their end: none, once a runner is through and its
    /// handlers leave nothing behind.
    pub fn tasks(&self) -> usize {
        self.world.executor.tasks()
    }

    /// The seed of this world.
    pub fn seed(&self) -> u64 {
        self.world.executor.seed()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // Tasks hold the world that holds them.
        self.world.executor.close();
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sim").field(&self.world.executor).finish()
    }
}

/// Options of a [`Sim`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SimBuilder {
    seed: u64,
    latency: RangeInclusive<Duration>,
}

impl SimBuilder {
    /// How long a request takes to the server, and its reply back; each time anew within this
    /// range. An empty range counts as its start.
    pub fn latency(mut self, latency: RangeInclusive<Duration>) -> Self {
        self.latency = latency;
        self
    }

    /// The world.
    pub fn build(self) -> Sim {
        Sim {
            world: Arc::new(World {
                executor: Arc::new(Executor::new(self.seed)),
                latency: self.latency,
                sites: Mutex::default(),
            }),
        }
    }
}

/// Reaches a server that is at work in a [`Sim`].
pub struct ServerHandle<S> {
    site: Arc<Site<S>>,
    world: Arc<World>,
}

impl<S: Server> ServerHandle<S> {
    /// Looks at the server or changes it, between two of its requests. Requests on hold are
    /// answered if they can be now.
    pub fn with<R>(&self, work: impl FnOnce(&mut S, Time) -> R) -> R {
        let now = self.world.executor.now();
        let result = work(&mut lock(&self.site.server), now);
        self.site.pump(now);
        result
    }
}

impl<S> Clone for ServerHandle<S> {
    fn clone(&self) -> Self {
        Self {
            site: Arc::clone(&self.site),
            world: Arc::clone(&self.world),
        }
    }
}

impl<S> fmt::Debug for ServerHandle<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle").finish_non_exhaustive()
    }
}

struct World {
    executor: Arc<Executor>,
    latency: RangeInclusive<Duration>,
    sites: Mutex<BTreeMap<String, Arc<dyn AnySite>>>,
}

impl World {
    fn sites(&self) -> Vec<Arc<dyn AnySite>> {
        lock(&self.sites).values().cloned().collect()
    }

    fn next_deadline(&self) -> Option<Time> {
        let sites = self.sites();
        sites.iter().filter_map(|site| site.poll_timeout()).min()
    }

    fn pump(&self, now: Time) {
        for site in self.sites() {
            site.pump(now);
        }
    }

    fn site(&self, host: &str) -> Option<Arc<dyn AnySite>> {
        let sites = lock(&self.sites);
        let site = sites.get(&host.to_ascii_lowercase());
        site.or_else(|| sites.get("*")).cloned()
    }

    async fn travel(&self) {
        let (start, end) = (*self.latency.start(), *self.latency.end());
        let spread = u64::try_from(end.saturating_sub(start).as_micros()).unwrap_or(u64::MAX - 1);
        let extra = self.executor.random_below(spread + 1);
        let arrival = self.executor.now() + start + Duration::from_micros(extra);
        self.executor.sleep_until(arrival).await;
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<Body>, TransportError> {
        let (parts, body) = request.into_parts();
        let authority = parts
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        let site = self.site(authority).ok_or_else(|| {
            let detail = format!("no server stands behind {authority} in this simulation");
            TransportError::new(TransportErrorKind::Connect, false, detail)
        })?;
        let body = collect(body).await?;
        self.travel().await;
        let now = self.executor.now();
        let answer = match site.handle(now, Request::from_parts(parts, body)) {
            Answer::Hold(hold) => {
                let mut held = Held {
                    site,
                    hold: Some(hold),
                };
                future::poll_fn(|cx| held.poll(cx.waker())).await
            }
            answer => answer,
        };
        match answer {
            Answer::Reply(response) => {
                self.travel().await;
                Ok(self.reply(response))
            }
            Answer::Close | Answer::Hold(_) => Err(TransportError::new(
                TransportErrorKind::Broken,
                true,
                "the server closed the connection without a reply",
            )),
        }
    }

    /// What the runner hears of an answer: one whose body is shorter than it says breaks off, and
    /// one that trickles takes its time.
    fn reply(&self, response: Response<Bytes>) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        let len = body.len() as u64;
        let claimed = parts.headers.get(CONTENT_LENGTH);
        let claimed = claimed.and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
        let longer = claimed.filter(|claimed| *claimed > len);
        let trickle = parts.extensions.remove::<Trickle>();
        let trickle = trickle.filter(|_| !body.is_empty());
        if trickle.is_none() && longer.is_none() {
            return Response::from_parts(parts, Body::Full(body));
        }
        let trickle = trickle.unwrap_or(Trickle::new(body.len(), Duration::ZERO));
        let executor = Arc::clone(&self.executor);
        let sent = stream::iter(trickle.pieces(body)).then(move |piece| {
            let executor = Arc::clone(&executor);
            async move {
                if !trickle.every.is_zero() {
                    let due = executor.now() + trickle.every;
                    executor.sleep_until(due).await;
                }
                Ok(piece)
            }
        });
        let end = longer.map(|_| {
            let end = "the server closed the connection in the middle of the reply";
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, end))
        });
        let body = Body::Stream {
            len: Some(longer.unwrap_or(len)),
            chunks: sent.chain(stream::iter(end)).boxed(),
        };
        Response::from_parts(parts, body)
    }
}

async fn collect(body: Body) -> Result<Bytes, TransportError> {
    let mut chunks = match body {
        Body::Empty => return Ok(Bytes::new()),
        Body::Full(bytes) => return Ok(bytes),
        Body::Stream { chunks, .. } => chunks,
    };
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| {
            let detail = "the body of the request cannot be read";
            TransportError::new(TransportErrorKind::Body, false, detail).with_source(error)
        })?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// A server with the requests that it has put on hold.
struct Site<S> {
    server: Mutex<S>,
    holds: Mutex<BTreeMap<HoldId, Waiting>>,
}

#[derive(Default)]
struct Waiting {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

trait AnySite: Send + Sync {
    fn handle(&self, now: Time, request: Request<Bytes>) -> Answer;
    fn pump(&self, now: Time);
    fn poll_timeout(&self) -> Option<Time>;
    fn poll_hold(&self, hold: HoldId, waker: &Waker) -> Poll<Answer>;
    fn drop_hold(&self, hold: HoldId);
}

impl<S: Server> AnySite for Site<S> {
    fn handle(&self, now: Time, request: Request<Bytes>) -> Answer {
        let answer = lock(&self.server).handle(now, request);
        if let Answer::Hold(hold) = &answer {
            lock(&self.holds).insert(*hold, Waiting::default());
        }
        self.pump(now);
        answer
    }

    fn pump(&self, now: Time) {
        loop {
            let Some((hold, answer)) = lock(&self.server).poll_answer(now) else {
                return;
            };
            let waker = match lock(&self.holds).get_mut(&hold) {
                Some(waiting) => {
                    waiting.answer = Some(answer);
                    waiting.waker.take()
                }
                None => None,
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        lock(&self.server).poll_timeout()
    }

    fn poll_hold(&self, hold: HoldId, waker: &Waker) -> Poll<Answer> {
        let mut holds = lock(&self.holds);
        let Some(waiting) = holds.get_mut(&hold) else {
            return Poll::Ready(Answer::Close);
        };
        match waiting.answer.take() {
            Some(answer) => {
                holds.remove(&hold);
                Poll::Ready(answer)
            }
            None => {
                waiting.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    fn drop_hold(&self, hold: HoldId) {
        let waiting = lock(&self.holds).remove(&hold);
        if waiting.is_some_and(|waiting| waiting.answer.is_none()) {
            lock(&self.server).drop_hold(hold);
        }
    }
}

/// One request on hold; dropping it tells the server that the client has gone.
struct Held {
    site: Arc<dyn AnySite>,
    hold: Option<HoldId>,
}

impl Held {
    fn poll(&mut self, waker: &Waker) -> Poll<Answer> {
        let Some(hold) = self.hold else {
            return Poll::Ready(Answer::Close);
        };
        let poll = self.site.poll_hold(hold, waker);
        if poll.is_ready() {
            self.hold = None;
        }
        poll
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            self.site.drop_hold(hold);
        }
    }
}

struct SimAdapter {
    world: Arc<World>,
}

impl Adapter for SimAdapter {
    fn now(&self) -> Time {
        self.world.executor.now()
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        Box::pin(self.world.executor.sleep_until(deadline))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.world.executor.spawn(task);
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async move { work() })
    }

    fn send(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let world = Arc::clone(&self.world);
        Box::pin(async move { world.exchange(request).await })
    }
}

impl fmt::Debug for SimAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimAdapter")
            .field(&self.world.executor)
            .finish()
    }
}
