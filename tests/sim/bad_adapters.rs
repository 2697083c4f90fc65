//! Adapters that do not keep what they promise harm the request that they were given, and no other.

use std::{
    fmt,
    future::{pending, poll_fn, ready},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use gitlab_runner::{
    Time,
    adapter::{Adapter, Body, TransportError, TransportErrorKind},
    job::Job,
    mock::{JobSpec, JobStatus},
    outputln,
};
use http::{Request, Response};

use crate::world::{Steps, World};

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
enum Fault {
    PanicsAtOnce,
    PanicsWhenPolled,
    /// It never comes to its end, and panics when it is given up.
    PanicsWhenDropped,
    /// It asks to be polled again and again, until another task has had its turn.
    Impatient,
    /// The adapter is done with it when it is asked for the first time.
    FailsAtOnce,
    /// The body of its reply comes in pieces of nothing, until another task has had its turn.
    Empty,
}

/// Has a fault at the request of this number.
struct Faulty {
    inner: Arc<dyn Adapter>,
    fault: Fault,
    at: usize,
    sent: AtomicUsize,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a bomb");
        }
    }
}

impl Adapter for Faulty {
    fn now(&self) -> Time {
        self.inner.now()
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        self.inner.sleep_until(deadline)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.inner.spawn(task);
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        self.inner.unblock(work)
    }

    fn send(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let inner = Arc::clone(&self.inner);
        if self.sent.fetch_add(1, Ordering::Relaxed) != self.at {
            return inner.send(request);
        }
        match self.fault {
            Fault::PanicsAtOnce => panic!("on purpose"),
            Fault::PanicsWhenPolled => async { panic!("on purpose") }.boxed(),
            Fault::PanicsWhenDropped => {
                let bomb = Bomb;
                async move {
                    let _bomb = bomb;
                    pending().await
                }
                .boxed()
            }
            Fault::Impatient => {
                let had_turn = Arc::new(AtomicBool::new(false));
                let turn = Arc::clone(&had_turn);
                inner.spawn(Box::pin(async move { turn.store(true, Ordering::Relaxed) }));
                async move {
                    poll_fn(|cx| match had_turn.load(Ordering::Relaxed) {
                        true => Poll::Ready(()),
                        false => {
                            cx.waker().wake_by_ref();
                            Poll::Pending
                        }
                    })
                    .await;
                    inner.send(request).await
                }
                .boxed()
            }
            Fault::FailsAtOnce => {
                let kind = TransportErrorKind::Connect;
                let error = TransportError::new(kind, false, "on purpose");
                async { Err(error) }.boxed()
            }
            Fault::Empty => {
                let had_turn = Arc::new(AtomicBool::new(false));
                let turn = Arc::clone(&had_turn);
                inner.spawn(Box::pin(async move { turn.store(true, Ordering::Relaxed) }));
                let more = move || !had_turn.load(Ordering::Relaxed);
                let chunks = stream::repeat_with(more)
                    .take_while(|more| ready(*more))
                    .map(|_| Ok(Bytes::new()))
                    .boxed();
                let body = Body::Stream { len: None, chunks };
                let reply = Response::builder().status(503).body(body).unwrap();
                async { Ok(reply) }.boxed()
            }
        }
    }
}

async fn process(job: Job) -> Result<Steps, ()> {
    Ok(Steps::new(job, |_, _| async {
        outputln!("done");
        Ok(())
    }))
}

#[test]
fn a_request_that_goes_wrong_in_the_adapter_is_one_that_failed() {
    for fault in [
        Fault::PanicsAtOnce,
        Fault::PanicsWhenPolled,
        Fault::PanicsWhenDropped,
        Fault::Impatient,
        Fault::FailsAtOnce,
        Fault::Empty,
    ] {
        // The first verifies the runner, the second asks for a job, and the others are about that.
        for at in 0..6 {
            let world = World::new(at);
            let adapter = Arc::new(Faulty {
                inner: world.sim.adapter(),
                fault,
                at: usize::try_from(at).unwrap(),
                sent: AtomicUsize::new(0),
            });
            let asked = Arc::clone(&adapter);
            let mut runner = world.build(world.builder().adapter(adapter));
            let job = world.enqueue(JobSpec::script(["true"]));
            let handle = runner.handle();
            world
                .sim
                .block_on(async {
                    let ends = async {
                        world.until(|| world.report(job).status.is_finished()).await;
                        handle.drain();
                    };
                    futures::future::join(runner.run(process, 1), ends).await.0
                })
                .unwrap();
            let report = world.report(job);
            assert_eq!(report.status, JobStatus::Success, "{fault:?} at {at}");
            assert_eq!(report.log_text(), "done\n", "{fault:?} at {at}");
            assert!(
                asked.sent.load(Ordering::Relaxed) > asked.at,
                "{fault:?} at {at}"
            );
            assert!(world.is_empty());
        }
    }
}
