//! Time, tasks and blocking work.

use std::{thread, time::Duration};

use futures::{FutureExt, channel::oneshot, future};

use super::{Subject, support::*};
use crate::Time;

pub async fn time_goes_on_and_sleep_ends_on_time(subject: &dyn Subject) {
    let adapter = subject.adapter(&[]);
    let mut last = adapter.now();
    for micros in [0, 1, 999, 1000, 5000] {
        let deadline = last + Duration::from_micros(micros);
        adapter.sleep_until(deadline).await;
        let now = adapter.now();
        assert!(now >= deadline, "{now:?} is before {deadline:?}");
        assert!(now >= last, "time goes back");
        last = now;
    }
    // The clock starts when the future is made, not when it is polled.
    let (late, later) = (
        adapter.sleep_until(last + Duration::from_millis(2)),
        adapter.sleep_until(last + Duration::from_millis(4)),
    );
    future::join(later, late).await;
    assert!(adapter.now() >= last + Duration::from_millis(4));
}

pub async fn the_past_is_over_and_the_end_of_time_never_comes(subject: &dyn Subject) {
    let adapter = subject.adapter(&[]);
    adapter.sleep_until(Time::ZERO).await;
    adapter.sleep_until(adapter.now()).await;
    let mut never = adapter.sleep_until(Time::MAX);
    assert!((&mut never).now_or_never().is_none());
    let soon = adapter.sleep_until(adapter.now() + Duration::from_millis(1));
    match future::select(never, soon).await {
        future::Either::Left(_) => panic!("the end of time has come"),
        future::Either::Right(_) => {}
    }
}

pub async fn a_task_runs_by_itself_and_a_panic_stays_in_it(subject: &dyn Subject) {
    let adapter = subject.adapter(&[]);
    adapter.spawn(Box::pin(async { panic!("on purpose") }));
    let (ask, asked) = oneshot::channel::<()>();
    let waits = spawned(&*adapter, async { asked.await.is_ok() });
    // It has to come from another task, while the first one waits.
    let asks = spawned(&*adapter, async { ask.send(()).is_ok() });
    assert!(asks.await && waits.await);
    let inner = adapter.clone();
    let nested = spawned(
        &*adapter,
        async move { spawned(&*inner, async { 7 }).await },
    );
    assert_eq!(nested.await, 7);
}

pub async fn blocking_work_runs_elsewhere_and_a_panic_stays_there(subject: &dyn Subject) {
    let adapter = subject.adapter(&[]);
    let (send, there) = oneshot::channel();
    let work = adapter.unblock(Box::new(move || send.send(thread::current().id()).unwrap()));
    work.await;
    // It is done once `unblock` says so.
    let there = there.now_or_never().expect("not done").unwrap();
    assert_ne!(there, thread::current().id());
    adapter.unblock(Box::new(|| panic!("on purpose"))).await;

    // Work that blocks holds up neither tasks nor other work, and needs nobody to wait for it.
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let (done, finished) = oneshot::channel();
    drop(adapter.unblock(Box::new(move || {
        gate.recv().unwrap();
        done.send(()).unwrap();
    })));
    let other = adapter.clone();
    spawned(
        &*adapter,
        async move { other.unblock(Box::new(|| {})).await },
    )
    .await;
    open.send(()).unwrap();
    finished.await.unwrap();
}
