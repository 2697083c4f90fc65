//! The requests on their way.
//!
//! Those whose reply is kept in memory are polled in the driver's own task: to have one of its own
//! for each would cost more than the request, since the threads of a runtime wake each other for
//! every task. What transfers files has one ([`exchange`]).

use std::{
    collections::BTreeMap,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures::future::{AbortHandle, BoxFuture};
use http::{Request, Response};

use super::{
    exchange,
    inbox::{Inbox, Message},
    reply::Reading,
    task::{self, Options},
};
use crate::{
    Time,
    adapter::{Body, TransportError},
    ids::RequestId,
    machine::{Input, ReplyBody, TimeLimit},
};

/// All requests of a driver that have no answer yet.
pub(super) struct Requests {
    options: Arc<Options>,
    ways: BTreeMap<RequestId, Way>,
    slots: Vec<Slot>,
    /// Those of them without a request.
    free: Vec<usize>,
    /// When those in slots are out of time.
    deadlines: BTreeMap<(Time, RequestId), usize>,
}

enum Way {
    Slot(usize),
    Task(AbortHandle),
    /// The answer is in the inbox.
    Answered,
}

/// Room for a request. What wakes it serves one after the other: a late alarm is a false one.
struct Slot {
    alarm: Arc<Alarm>,
    waker: Waker,
    sent: Option<Sent>,
}

struct Sent {
    request: RequestId,
    deadline: Time,
    /// At most so many bytes of the reply's body count.
    limit: usize,
    stage: Stage,
}

enum Stage {
    Head(BoxFuture<'static, Result<Response<Body>, TransportError>>),
    Body(Reading),
}

/// Has the driver poll a slot.
struct Alarm {
    slot: usize,
    /// The message is on its way.
    rung: AtomicBool,
    inbox: Arc<Inbox>,
}

impl Requests {
    pub(super) fn new(options: &Arc<Options>) -> Self {
        Self {
            options: Arc::clone(options),
            ways: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            deadlines: BTreeMap::new(),
        }
    }

    /// Sends it. The answer comes by [`poll`](Self::poll), [`expired`](Self::expired), or a message.
    pub(super) fn send(&mut self, now: Time, call: exchange::Call) {
        let request = call.request;
        let way = match (call.http, call.reply, call.limit) {
            (Some(http), ReplyBody::Collect { limit }, TimeLimit::Total(time)) => {
                self.begin(request, http, limit, now + time)
            }
            (http, reply, limit) => {
                let call = exchange::Call {
                    request,
                    http,
                    reply,
                    limit,
                };
                let (task, abort) = exchange::task(&self.options, call);
                self.options.adapter.spawn(task);
                Way::Task(abort)
            }
        };
        self.ways.insert(request, way);
    }

    fn begin(
        &mut self,
        request: RequestId,
        http: Request<Body>,
        limit: usize,
        deadline: Time,
    ) -> Way {
        let adapter = &self.options.adapter;
        let answer = match guarded(|| adapter.send(http)) {
            Some(reply) => {
                let slot = self.free.pop().unwrap_or_else(|| self.new_slot());
                if let Some(place) = self.slots.get_mut(slot) {
                    place.sent = Some(Sent {
                        request,
                        deadline,
                        limit,
                        stage: Stage::Head(reply),
                    });
                }
                self.deadlines.insert((deadline, request), slot);
                match self.poll_slot(slot) {
                    Some(answer) => answer,
                    None => return Way::Slot(slot),
                }
            }
            None => failed(request, exchange::ended_early()),
        };
        // Not now: the machine is about to say what else there is to do.
        self.options.inbox.push(Message::Input(answer));
        Way::Answered
    }

    fn new_slot(&mut self) -> usize {
        let slot = self.slots.len();
        let alarm = Arc::new(Alarm {
            slot,
            rung: AtomicBool::new(false),
            inbox: Arc::clone(&self.options.inbox),
        });
        self.slots.push(Slot {
            waker: Waker::from(Arc::clone(&alarm)),
            alarm,
            sent: None,
        });
        slot
    }

    /// Goes on with what is in this slot; the answer, if that is complete.
    pub(super) fn poll(&mut self, slot: usize) -> Option<Input> {
        let answer = self.poll_slot(slot)?;
        if let Input::Reply { request, .. } | Input::Failed { request, .. } = &answer {
            self.ways.remove(request);
        }
        Some(answer)
    }

    fn poll_slot(&mut self, slot: usize) -> Option<Input> {
        let place = self.slots.get_mut(slot)?;
        // What is not done yet when this is read rings once more.
        place.alarm.rung.swap(false, Ordering::AcqRel);
        let sent = place.sent.as_mut()?;
        let mut cx = Context::from_waker(&place.waker);
        let reply = match guarded(|| sent.poll(&mut cx)) {
            Some(Poll::Pending) => return None,
            Some(Poll::Ready(reply)) => reply,
            None => Err(exchange::ended_early()),
        };
        let request = sent.request;
        let sent = self.clear(slot);
        guarded(|| drop(sent));
        Some(answer(request, reply))
    }

    /// The earliest time at which [`expired`](Self::expired) has something to say.
    pub(super) fn deadline(&self) -> Option<Time> {
        let ((deadline, _), _) = self.deadlines.first_key_value()?;
        Some(*deadline)
    }

    /// The answer of a request that is out of time. What came of its reply counts.
    pub(super) fn expired(&mut self, now: Time) -> Option<Input> {
        let ((deadline, request), slot) = self.deadlines.first_key_value()?;
        if *deadline > now {
            return None;
        }
        let (request, slot) = (*request, *slot);
        self.ways.remove(&request);
        let reply = match self.clear(slot)?.stage {
            Stage::Head(reply) => {
                guarded(|| drop(reply));
                Err(exchange::out_of_time())
            }
            Stage::Body(mut reading) => {
                guarded(|| reading.finish()).ok_or_else(exchange::ended_early)
            }
        };
        Some(answer(request, reply))
    }

    /// Whether somebody waits for this answer, which came by a message. Nobody does from now on.
    pub(super) fn answered(&mut self, request: RequestId) -> bool {
        self.ways.remove(&request).is_some()
    }

    /// Gives a request up.
    pub(super) fn forget(&mut self, request: RequestId) {
        if let Some(way) = self.ways.remove(&request) {
            self.leave(way);
        }
    }

    fn leave(&mut self, way: Way) {
        match way {
            Way::Slot(slot) => {
                let sent = self.clear(slot);
                guarded(|| drop(sent));
            }
            Way::Task(abort) => abort.abort(),
            Way::Answered => {}
        }
    }

    fn clear(&mut self, slot: usize) -> Option<Sent> {
        let sent = self.slots.get_mut(slot)?.sent.take()?;
        self.deadlines.remove(&(sent.deadline, sent.request));
        self.free.push(slot);
        Some(sent)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        while let Some((_, way)) = self.ways.pop_first() {
            self.leave(way);
        }
    }
}

impl Sent {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Bytes>, TransportError>> {
        loop {
            match &mut self.stage {
                Stage::Head(reply) => match reply.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(reply)) => {
                        self.stage = Stage::Body(Reading::new(reply, self.limit));
                    }
                },
                Stage::Body(reading) => return reading.poll(cx).map(Ok),
            }
        }
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.inbox.push(Message::Ready(self.slot));
        }
    }
}

fn answer(request: RequestId, reply: Result<Response<Bytes>, TransportError>) -> Input {
    match reply {
        Ok(response) => Input::Reply { request, response },
        Err(error) => failed(request, error),
    }
}

fn failed(request: RequestId, error: TransportError) -> Input {
    Input::Failed { request, error }
}

/// What an adapter does; `None` if it panics.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    done.map_err(task::words).ok()
}
