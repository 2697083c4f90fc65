//! The simulator itself.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::{Either, join, select};
use gitlab_runner::{
    Time,
    adapter::{Adapter, Body, TransportErrorKind},
    mock::{Answer, HoldId, Server},
    sim::Sim,
};

const SECOND: Duration = Duration::from_secs(1);

fn message(work: impl FnOnce()) -> String {
    let panic = panic::catch_unwind(AssertUnwindSafe(work)).unwrap_err();
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn hours_take_no_time_and_sleeps_end_in_order() {
    let sim = Sim::new(1);
    let order = Arc::new(Mutex::new(Vec::new()));
    for n in [3, 1, 2] {
        let (order, sleep) = (Arc::clone(&order), sim.sleep(n * 3600 * SECOND));
        sim.adapter().spawn(Box::pin(async move {
            sleep.await;
            order.lock().unwrap().push(n);
        }));
    }
    sim.block_on(sim.sleep(4 * 3600 * SECOND));
    assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
    assert_eq!(sim.now(), Time::from_secs(4 * 3600));
}

#[test]
fn a_sleep_that_was_dropped_does_not_move_the_clock() {
    let sim = Sim::new(2);
    sim.block_on(async {
        match select(sim.sleep(SECOND), sim.sleep(3600 * SECOND)).await {
            Either::Left(((), long)) => drop(long),
            Either::Right(_) => panic!("the long one came first"),
        }
    });
    assert_eq!(sim.now(), Time::from_secs(1));
}

#[test]
fn the_seed_decides_the_order_of_tasks() {
    let order = |seed| {
        let sim = Sim::new(seed);
        let order = Arc::new(Mutex::new(Vec::new()));
        for n in 0..20 {
            let order = Arc::clone(&order);
            sim.adapter()
                .spawn(Box::pin(async move { order.lock().unwrap().push(n) }));
        }
        sim.block_on(sim.sleep(SECOND));
        Arc::into_inner(order).unwrap().into_inner().unwrap()
    };
    assert_eq!(order(3), order(3));
    assert_ne!(order(3), order(4));
}

#[test]
fn a_deadlock_is_found_and_names_the_seed() {
    let sim = Sim::new(4711);
    let text = message(|| sim.block_on(std::future::pending()));
    assert!(text.contains("deadlock") && text.contains("4711"), "{text}");
}

#[test]
fn a_panic_ends_one_task_only() {
    let sim = Sim::new(5);
    sim.adapter()
        .spawn(Box::pin(async { panic!("a task gone wrong") }));
    sim.block_on(sim.sleep(SECOND));
}

#[test]
fn what_is_left_is_dropped_with_the_world() {
    struct Counts(Arc<AtomicUsize>);

    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    let dropped = Arc::new(AtomicUsize::new(0));
    let sim = Sim::new(6);
    let adapter = sim.adapter();
    let (counts, again) = (Counts(Arc::clone(&dropped)), Arc::clone(&adapter));
    adapter.spawn(Box::pin(async move {
        again.sleep_until(Time::MAX).await;
        drop(counts);
    }));
    sim.block_on(sim.sleep(SECOND));
    drop(sim);
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    let counts = Counts(Arc::clone(&dropped));
    adapter.spawn(Box::pin(async move { drop(counts) }));
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}

/// Holds each request until told to let go, or for a minute.
#[derive(Default)]
struct Slow {
    held: Vec<(HoldId, Time)>,
    let_go: bool,
    dropped: Vec<HoldId>,
    next: u64,
}

impl Server for Slow {
    fn handle(&mut self, now: Time, request: http::Request<Bytes>) -> Answer {
        match request.uri().path() {
            "/close" => return Answer::Close,
            "/echo" => return Answer::Reply(http::Response::new(request.into_body())),
            _ => {}
        }
        self.next += 1;
        self.held.push((HoldId::new(self.next), now + 60 * SECOND));
        Answer::Hold(HoldId::new(self.next))
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        let due = |(_, until): &(HoldId, Time)| self.let_go || *until <= now;
        let at = self.held.iter().position(due)?;
        let text = if self.let_go { "let go" } else { "timeout" };
        let (hold, _) = self.held.remove(at);
        Some((hold, Answer::Reply(http::Response::new(text.into()))))
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.held.iter().map(|(_, until)| *until).min()
    }

    fn drop_hold(&mut self, hold: HoldId) {
        self.held.retain(|(held, _)| *held != hold);
        self.dropped.push(hold);
    }
}

async fn get(adapter: &dyn Adapter, uri: &str) -> Result<Bytes, TransportErrorKind> {
    let request = http::Request::post(uri)
        .body(Body::Full("hello".into()))
        .unwrap();
    match adapter.send(request).await {
        Ok(response) => match response.into_body() {
            Body::Full(bytes) => Ok(bytes),
            _ => Ok(Bytes::new()),
        },
        Err(error) => Err(error.kind()),
    }
}

#[test]
fn servers_answer_now_later_or_never() {
    let sim = Sim::new(7);
    let slow = sim.serve("slow.test:8080", Slow::default());
    let adapter = &*sim.adapter();
    sim.block_on(async {
        let before = sim.now();
        assert_eq!(
            get(adapter, "http://SLOW.test:8080/echo").await,
            Ok("hello".into())
        );
        let took = sim.now().since(before);
        assert!(
            took >= Duration::from_millis(2) && took <= Duration::from_millis(40),
            "{took:?}"
        );

        let closed = get(adapter, "http://slow.test:8080/close").await;
        assert_eq!(closed, Err(TransportErrorKind::Broken));
        let nobody = get(adapter, "http://slow.test/echo").await;
        assert_eq!(nobody, Err(TransportErrorKind::Connect));

        // By time.
        let before = sim.now();
        assert_eq!(
            get(adapter, "http://slow.test:8080/").await,
            Ok("timeout".into())
        );
        assert!(sim.now().since(before) >= 60 * SECOND);

        // Given up.
        let give_up = sim.sleep(10 * SECOND);
        let get_slow = Box::pin(get(adapter, "http://slow.test:8080/"));
        assert!(matches!(select(get_slow, give_up).await, Either::Right(_)));
        slow.with(|slow, _| assert_eq!((slow.held.len(), slow.dropped.len()), (0, 1)));

        // From outside.
        let outside = async {
            sim.sleep(10 * SECOND).await;
            slow.with(|slow, _| slow.let_go = true);
        };
        let (answer, ()) = join(get(adapter, "http://slow.test:8080/"), outside).await;
        assert_eq!(answer, Ok("let go".into()));

        let any = sim.serve("*", Slow::default());
        assert_eq!(
            get(adapter, "https://any.test/echo").await,
            Ok("hello".into())
        );
        drop(any.clone());
    });
}
