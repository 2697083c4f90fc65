//! The executor of the simulator: tasks, timers and a clock that only moves when nothing can run.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    panic::{self, AssertUnwindSafe},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::future::BoxFuture;

use crate::Time;

/// So many polls without any time passing are taken for a loop that never ends.
const POLLS_PER_MOMENT: u64 = 10_000_000;

/// One thread, virtual time, and an order of polls that the seed decides.
pub(super) struct Executor {
    seed: u64,
    ready: Arc<Ready>,
    state: Mutex<State>,
}

struct State {
    now: Time,
    rng: Rng,
    next: u64,
    /// A task that is being polled is out of its slot.
    tasks: BTreeMap<u64, Task>,
    timers: BTreeMap<(Time, u64), Waker>,
    polls: u64,
    closed: bool,
}

struct Task {
    future: Option<BoxFuture<'static, ()>>,
    waker: Arc<TaskWaker>,
}

#[derive(Default)]
struct Ready {
    queue: Mutex<Vec<u64>>,
}

struct TaskWaker {
    id: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Executor {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            ready: Arc::default(),
            state: Mutex::new(State {
                now: Time::ZERO,
                rng: Rng(seed),
                next: 0,
                tasks: BTreeMap::new(),
                timers: BTreeMap::new(),
                polls: 0,
                closed: false,
            }),
        }
    }

    pub(super) fn now(&self) -> Time {
        self.state().now
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn tasks(&self) -> usize {
        self.state().tasks.len()
    }

    /// A number below `bound`, which is not zero.
    pub(super) fn random_below(&self, bound: u64) -> u64 {
        self.state().rng.below(bound)
    }

    pub(super) fn spawn(&self, future: BoxFuture<'static, ()>) {
        let mut state = self.state();
        if state.closed {
            drop(state);
            // Outside of the lock: what is dropped may call back.
            drop(future);
            return;
        }
        let id = state.next_id();
        let waker = self.waker(id);
        state.tasks.insert(
            id,
            Task {
                future: Some(future),
                waker: Arc::clone(&waker),
            },
        );
        drop(state);
        waker.wake();
    }

    pub(super) fn sleep_until(self: &Arc<Self>, deadline: Time) -> Sleep {
        Sleep {
            executor: Arc::clone(self),
            deadline,
            key: None,
        }
    }

    /// Runs `main` and every task until `main` is done. When nothing can run, `next_deadline` tells
    /// what else there is to wait for, and `on_time` is called whenever the clock has moved.
    pub(super) fn block_on<F: Future>(
        &self,
        main: F,
        next_deadline: impl Fn() -> Option<Time>,
        on_time: impl Fn(Time),
    ) -> F::Output {
        let mut main = pin!(main);
        let main_id = self.state().next_id();
        let main_waker = self.waker(main_id);
        Arc::clone(&main_waker).wake();
        let waker = Waker::from(Arc::clone(&main_waker));
        loop {
            while let Some(id) = self.pick() {
                if id != main_id {
                    self.poll_task(id);
                    continue;
                }
                main_waker.queued.store(false, Ordering::Relaxed);
                if let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return output;
                }
            }
            let now = self.advance(next_deadline());
            on_time(now);
        }
    }

    /// Drops every task and timer, and takes no more.
    pub(super) fn close(&self) {
        let (tasks, timers) = {
            let mut state = self.state();
            state.closed = true;
            (
                std::mem::take(&mut state.tasks),
                std::mem::take(&mut state.timers),
            )
        };
        drop((tasks, timers));
    }

    /// Takes one of the tasks that can run, by the seed.
    fn pick(&self) -> Option<u64> {
        let mut state = self.state();
        let mut queue = lock(&self.ready.queue);
        if queue.is_empty() {
            return None;
        }
        state.polls += 1;
        assert!(
            state.polls < POLLS_PER_MOMENT,
            "simulation with seed {} stands still at {}: tasks wake each other without end",
            self.seed,
            state.now
        );
        let at = state.rng.below(queue.len() as u64);
        Some(queue.swap_remove(usize::try_from(at).unwrap_or(0)))
    }

    fn poll_task(&self, id: u64) {
        let Some((mut future, task_waker)) = ({
            let mut state = self.state();
            state
                .tasks
                .get_mut(&id)
                .and_then(|task| Some((task.future.take()?, Arc::clone(&task.waker))))
        }) else {
            return;
        };
        task_waker.queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(task_waker);
        // As with every adapter, a panic ends its task and no other. The hook has printed it.
        let poll = panic::catch_unwind(AssertUnwindSafe(|| {
            future
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        }));
        let mut state = self.state();
        let left_over = match state.tasks.get_mut(&id) {
            Some(task) if matches!(poll, Ok(true)) => {
                task.future = Some(future);
                None
            }
            _ => {
                state.tasks.remove(&id);
                Some(future)
            }
        };
        drop(state);
        // Outside of the lock: what is dropped may call back, or panic.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(left_over)));
    }

    /// Moves the clock to the next moment at which something happens.
    #[expect(
        clippy::panic,
        reason = "a test tool: a deadlock is a failed test, and this is how to say so"
    )]
    fn advance(&self, other: Option<Time>) -> Time {
        let mut due = Vec::new();
        let mut state = self.state();
        // A deadline that has passed already has had its chance.
        let other = other.filter(|time| *time > state.now);
        let timer = state.timers.first_key_value().map(|((time, _), _)| *time);
        let Some(next) = timer.into_iter().chain(other).min() else {
            panic!(
                "deadlock in the simulation with seed {} at {}: nothing can run, and nothing is \
                 waited for ({} tasks)",
                self.seed,
                state.now,
                state.tasks.len()
            );
        };
        state.now = state.now.max(next);
        state.polls = 0;
        while let Some(entry) = state.timers.first_entry() {
            if entry.key().0 > next {
                break;
            }
            due.push(entry.remove());
        }
        let now = state.now;
        drop(state);
        due.into_iter().for_each(Waker::wake);
        now
    }

    fn waker(&self, id: u64) -> Arc<TaskWaker> {
        Arc::new(TaskWaker {
            id,
            queued: AtomicBool::new(false),
            ready: Arc::clone(&self.ready),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Executor")
            .field("seed", &self.seed)
            .field("now", &state.now)
            .field("tasks", &state.tasks.len())
            .field("timers", &state.timers.len())
            .finish()
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            lock(&self.ready.queue).push(self.id);
        }
    }
}

/// Completes at a moment of virtual time; dropped before, it holds the clock no more.
pub(super) struct Sleep {
    executor: Arc<Executor>,
    deadline: Time,
    key: Option<(Time, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.executor.state();
        if let Some(key) = this.key.take() {
            state.timers.remove(&key);
        }
        if state.now >= this.deadline {
            return Poll::Ready(());
        }
        let key = (this.deadline, state.next_id());
        if this.deadline < Time::MAX {
            state.timers.insert(key, cx.waker().clone());
            this.key = Some(key);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.executor.state().timers.remove(&key);
        }
    }
}

/// SplitMix64: a few lines, and good enough to shuffle tasks.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
