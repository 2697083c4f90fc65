//! Single calls of the file system, which are mostly over before a thread could be woken for them.
//!
//! Each job needs two. A local file system takes some microseconds for each, and a trip to another
//! thread and back many times that. One that is far away, or ill, must not hold up a thread of the
//! runtime: what it takes is measured, and it gets a thread of its own as long as it is slow.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use super::blocking::Blocking;
use crate::adapter::Adapter;

/// No server at the other end of a network answers within this time.
const QUICK: Duration = Duration::from_micros(100);
/// So many calls in a row must have been quick before the next one is trusted to be.
const TRUST: u32 = 8;

/// Makes calls where they stand, or on another thread.
pub(super) struct Quick {
    adapter: Arc<dyn Adapter>,
    /// The build directory lets in only one call at a time anyway.
    elsewhere: Arc<Blocking>,
    /// Calls that were quick since the last one that was not.
    quick: AtomicU32,
}

impl Quick {
    pub(super) fn new(adapter: &Arc<dyn Adapter>) -> Arc<Self> {
        Arc::new(Self {
            adapter: Arc::clone(adapter),
            elsewhere: Blocking::new(Arc::clone(adapter), 1),
            quick: AtomicU32::new(0),
        })
    }

    /// The result of `call`; `None` if it panicked, or was lost with the runtime.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if self.quick.load(Ordering::Relaxed) >= TRUST {
            return panic::catch_unwind(AssertUnwindSafe(|| self.measured(call))).ok();
        }
        let this = Arc::clone(self);
        self.elsewhere.run(move || this.measured(call)).await
    }

    fn measured<T>(&self, call: impl FnOnce() -> T) -> T {
        let begun = self.adapter.now();
        let result = call();
        if self.adapter.now().since(begun) > QUICK {
            self.quick.store(0, Ordering::Relaxed);
        } else if self.quick.load(Ordering::Relaxed) < TRUST {
            self.quick.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use futures::{executor::block_on, future::BoxFuture};
    use http::{Request, Response};

    use super::*;
    use crate::{
        Time,
        adapter::{Body, TransportError},
    };

    /// Time as the test sets it; counts what it gets to do on other threads.
    #[derive(Debug, Default)]
    struct Hands {
        micros: AtomicU64,
        unblocked: AtomicU32,
    }

    impl Adapter for Hands {
        fn now(&self) -> Time {
            Time::ZERO + Duration::from_micros(self.micros.load(Ordering::Relaxed))
        }

        fn sleep_until(&self, _: Time) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }

        fn spawn(&self, task: BoxFuture<'static, ()>) {
            block_on(task);
        }

        fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
            self.unblocked.fetch_add(1, Ordering::Relaxed);
            work();
            Box::pin(std::future::ready(()))
        }

        fn send(
            &self,
            _: Request<Body>,
        ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn what_is_slow_once_gets_a_thread_until_it_is_quick_again() {
        let hands = Arc::new(Hands::default());
        let adapter: Arc<dyn Adapter> = Arc::clone(&hands) as _;
        let quick = Quick::new(&adapter);
        let unblocked = |micros: u64| {
            let before = hands.unblocked.load(Ordering::Relaxed);
            let of = Arc::clone(&hands);
            let call = move || of.micros.fetch_add(micros, Ordering::Relaxed);
            assert!(block_on(quick.run(call)).is_some());
            hands.unblocked.load(Ordering::Relaxed) - before
        };
        for _ in 0..2 {
            // Nothing is known of it, or nothing good.
            assert!((0..TRUST).all(|_| unblocked(100) == 1));
            assert!((0..100).all(|_| unblocked(100) == 0));
            assert_eq!(unblocked(101), 0);
        }
        assert!((0..100).all(|_| unblocked(101) == 1));
    }

    #[test]
    fn a_panic_is_no_result() {
        let adapter: Arc<dyn Adapter> = Arc::new(Hands::default());
        let quick = Quick::new(&adapter);
        for _ in 0..=TRUST {
            assert_eq!(block_on(quick.run(|| ())), Some(()));
        }
        assert_eq!(block_on(quick.run(|| panic!("on purpose"))), None::<()>);
    }
}
