//! A paused clock and real sockets.
//!
//! A test may pause tokio's clock. Whenever nothing can run, tokio then moves it to the next timer,
//! also while a request waits for a server that lives in real time: each request would time out at
//! once. So a request holds such a clock. Programs whose clock runs pay for one look at it.

use std::{sync::mpsc, time::Duration};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::adapter::{Body, common::with_guard};

/// In real time. A server that is silent for longer is left to the clock, so that timeouts can be
/// tested as well; the end of the runtime waits no longer either.
const PATIENCE: Duration = Duration::from_secs(5);

/// While it lives, and no longer than [`PATIENCE`], tokio does not move the paused clock by itself.
pub(super) struct Hold {
    _held: mpsc::Sender<()>,
}

/// Holds the clock if it is paused.
pub(super) fn hold(runtime: &Handle) -> Option<Hold> {
    // Only that of a runtime with one thread can be.
    if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread || !is_paused() {
        return None;
    }
    let (held, let_go) = mpsc::channel::<()>();
    // tokio moves the clock only while no blocking task runs.
    drop(runtime.spawn_blocking(move || {
        let _ = let_go.recv_timeout(PATIENCE);
    }));
    Some(Hold { _held: held })
}

/// `body`, which holds the clock until it is read or dropped.
pub(super) fn hold_for(body: Body, hold: Option<Hold>) -> Body {
    match hold {
        Some(hold) => with_guard(body, hold),
        None => body,
    }
}

/// Whether tokio's clock stands still while the real one goes on.
fn is_paused() -> bool {
    let before = tokio::time::Instant::now();
    let real = std::time::Instant::now();
    while std::time::Instant::now() == real {
        std::hint::spin_loop();
    }
    tokio::time::Instant::now() == before
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Real time passes on another thread, which tokio's clock knows nothing of.
    async fn a_moment() {
        let (done, over) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            std::thread::yield_now();
            let _ = done.send(());
        });
        let _ = over.await;
    }

    #[tokio::test]
    async fn a_clock_that_runs_is_left_alone() {
        assert!(hold(&Handle::current()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_clock_stands_still_until_it_is_let_go() {
        let start = tokio::time::Instant::now();
        let held = hold(&Handle::current());
        assert!(held.is_some());
        tokio::select! {
            biased;
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it was moved"),
            () = a_moment() => {}
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(held);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(start.elapsed() >= Duration::from_secs(60));
    }
}
