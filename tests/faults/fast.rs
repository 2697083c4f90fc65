//! Real sockets in a hurry: the clocks of the runner and of the server go many times as fast as the
//! one on the wall, so that half a minute of trouble is over in a second or two.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use gitlab_runner::{
    Time,
    adapter::{Adapter, Body, TransportError},
    mock::{Answer, BodyLimit, HoldId, Server},
};
use http::{Request, Response, request};

/// How much faster.
const FACTOR: u32 = 20;

fn faster(time: Time) -> Time {
    Time::ZERO + time.since_origin() * FACTOR
}

/// Rounded up, since nothing may come early.
fn slower(time: Time) -> Time {
    Time::ZERO + time.since_origin() / FACTOR + Duration::from_nanos(1)
}

/// An adapter whose time flies.
#[derive(Debug)]
pub(crate) struct Fast(pub(crate) Arc<dyn Adapter>);

impl Adapter for Fast {
    fn now(&self) -> Time {
        faster(self.0.now())
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        self.0.sleep_until(slower(deadline))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        self.0.unblock(work)
    }

    fn send(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        self.0.send(request)
    }
}

/// A server whose time flies.
pub(crate) struct FastServer<S>(pub(crate) S);

impl<S: Server> Server for FastServer<S> {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        self.0.handle(faster(now), request)
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        self.0.poll_answer(faster(now))
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.0.poll_timeout().map(slower)
    }

    fn drop_hold(&mut self, hold: HoldId) {
        self.0.drop_hold(hold);
    }

    fn body_limit(&self, head: &request::Parts) -> Option<BodyLimit> {
        self.0.body_limit(head)
    }
}
