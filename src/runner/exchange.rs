//! One HTTP request and its reply, on the adapter and within its time.

use std::{pin::pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{
    FutureExt, StreamExt,
    future::{AbortHandle, Abortable, BoxFuture, Either, select},
};
use http::{Request, Response};

use super::{
    inbox::{Inbox, Message},
    task::Options,
};
use crate::{
    Time,
    adapter::{Adapter, Body, TransportError, TransportErrorKind},
    ids::RequestId,
    machine::Input,
};

/// The task that sends `http` and tells the driver what came of it, and what ends it.
/// No `http` is a body that is not there any more.
pub(super) fn task(
    options: &Options,
    request: RequestId,
    http: Option<Request<Body>>,
    limit: usize,
    deadline: Time,
) -> (BoxFuture<'static, ()>, AbortHandle) {
    let adapter = Arc::clone(&options.adapter);
    let answer = Answer {
        request,
        inbox: Arc::clone(&options.inbox),
        given: false,
    };
    let work = async move {
        let timeout = adapter.sleep_until(deadline);
        let exchange = pin!(exchange(&*adapter, http, limit));
        let outcome = match select(exchange, timeout).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(((), _)) => Err(TransportError::new(
                TransportErrorKind::Timeout,
                true,
                "no complete reply in time",
            )),
        };
        answer.give(outcome);
    };
    let (abort, registration) = AbortHandle::new_pair();
    (
        Abortable::new(work, registration).map(|_| ()).boxed(),
        abort,
    )
}

async fn exchange(
    adapter: &dyn Adapter,
    http: Option<Request<Body>>,
    limit: usize,
) -> Result<Response<Bytes>, TransportError> {
    let Some(http) = http else {
        let detail = "the part of the log that was to be sent is not there any more";
        return Err(TransportError::new(TransportErrorKind::Body, false, detail));
    };
    let (parts, body) = adapter.send(http).await?.into_parts();
    Ok(Response::from_parts(parts, collect(body, limit).await))
}

/// At most `limit` bytes of `body`. What came before the connection broke counts: the head of a
/// reply says most, and a job that GitLab has assigned must not be lost with the end of it.
async fn collect(body: Body, limit: usize) -> Bytes {
    let mut chunks = match body {
        Body::Empty => return Bytes::new(),
        Body::Full(bytes) => return bytes.slice(..bytes.len().min(limit)),
        Body::Stream { chunks, .. } => chunks,
    };
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while first.len().max(all.len()) < limit {
        let Some(Ok(chunk)) = chunks.next().await else {
            break;
        };
        if first.is_empty() {
            first = chunk;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&chunk);
        }
    }
    let all = if all.is_empty() { first } else { all.freeze() };
    all.slice(..all.len().min(limit))
}

/// Makes sure that there is an answer, also when an adapter panics.
struct Answer {
    request: RequestId,
    inbox: Arc<Inbox>,
    given: bool,
}

impl Answer {
    fn give(mut self, outcome: Result<Response<Bytes>, TransportError>) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Result<Response<Bytes>, TransportError>) {
        self.given = true;
        let request = self.request;
        self.inbox.push(Message::Input(match outcome {
            Ok(response) => Input::Reply { request, response },
            Err(error) => Input::Failed { request, error },
        }));
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // After an abort this comes too, and nobody waits for it.
        if !self.given {
            let detail = "the task of the request ended before its time (does the runtime have its \
                          drivers? that of tokio needs `enable_all`)";
            self.tell(Err(TransportError::new(
                TransportErrorKind::Broken,
                true,
                detail,
            )));
        }
    }
}
