//! That the suite is no rubber stamp: an adapter with one fault does not pass the case that is about
//! it.

use std::{future, io, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use gitlab_runner::{
    Time,
    adapter::{
        Adapter, Body, TransportError, TransportErrorKind,
        conformance::{Subject, support::collect},
    },
};
use http::{Request, Response, Uri, header::LOCATION};

use crate::subjects::OnTokio;

/// What an adapter does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    WakesEarly,
    FollowsRedirects,
    AsksAgain,
    GathersRequests,
    GathersReplies,
    ForgetsLength,
    HidesBreaks,
    IsSureOfLoss,
    TellsAll,
}

#[derive(Debug)]
struct Bad {
    good: Arc<dyn Adapter>,
    fault: Fault,
}

impl Adapter for Bad {
    fn now(&self) -> Time {
        self.good.now()
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        match self.fault {
            Fault::WakesEarly => future::ready(()).boxed(),
            _ => self.good.sleep_until(deadline),
        }
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.good.spawn(task);
    }

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        self.good.unblock(work)
    }

    fn send(
        &self,
        mut request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let (good, fault) = (self.good.clone(), self.fault);
        Box::pin(async move {
            let (method, uri) = (request.method().clone(), request.uri().clone());
            let again = |uri: Uri| {
                let again = Request::builder().method(&method).uri(uri);
                good.send(again.body(Body::Empty).unwrap())
            };
            match (fault, std::mem::take(request.body_mut())) {
                (Fault::GathersRequests, body @ Body::Stream { .. }) => {
                    let whole = collect(body).await;
                    let failed = |error: io::Error| {
                        TransportError::new(TransportErrorKind::Body, true, error.to_string())
                    };
                    *request.body_mut() = Body::Full(whole.map_err(failed)?.into());
                }
                (Fault::ForgetsLength, Body::Stream { chunks, .. }) => {
                    *request.body_mut() = Body::Stream { len: None, chunks };
                }
                (_, body) => *request.body_mut() = body,
            }
            match (fault, good.send(request).await) {
                (Fault::FollowsRedirects, Ok(reply)) if reply.status() == 302 => {
                    let to = reply.headers()[LOCATION].to_str().unwrap();
                    let authority = uri.authority().unwrap();
                    again(format!("http://{authority}{to}").parse().unwrap()).await
                }
                (Fault::AsksAgain, Err(_)) => again(uri).await,
                (Fault::GathersReplies, Ok(reply)) => {
                    let (head, body) = reply.into_parts();
                    let whole: Bytes = collect(body).await.unwrap().into();
                    let len = Some(whole.len() as u64);
                    let chunks = stream::iter([Ok(whole)]).boxed();
                    Ok(Response::from_parts(head, Body::Stream { len, chunks }))
                }
                (Fault::HidesBreaks, Ok(reply)) => Ok(reply.map(|body| match body {
                    Body::Stream { len, chunks } => {
                        let whole = |chunk: &io::Result<_>| future::ready(chunk.is_ok());
                        let chunks = chunks.take_while(whole).boxed();
                        Body::Stream { len, chunks }
                    }
                    body => body,
                })),
                (Fault::IsSureOfLoss, Err(error)) => {
                    Err(TransportError::new(error.kind(), false, error.to_string()))
                }
                (Fault::TellsAll, Err(error)) => {
                    let detail = format!("{uri}: {error}");
                    Err(TransportError::new(
                        error.kind(),
                        error.maybe_delivered(),
                        detail,
                    ))
                }
                (_, outcome) => outcome,
            }
        })
    }
}

struct OnBad(Fault);

impl Subject for OnBad {
    fn adapter(&self, authorities: &[String]) -> Arc<dyn Adapter> {
        let (good, fault) = (OnTokio.adapter(authorities), self.0);
        Arc::new(Bad { good, fault })
    }

    fn block_on(&self, case: BoxFuture<'_, ()>) {
        OnTokio.block_on(case);
    }

    fn large(&self) -> u64 {
        64 * 1024 * 1024
    }
}

/// A `#[test]` for each of these cases, which the adapter with this fault must not pass.
macro_rules! not_passed {
    ($($fault:ident: $module:ident $case:ident, $expected:literal;)+) => {$(
        #[test]
        #[should_panic(expected = $expected)]
        fn $case() {
            gitlab_runner::adapter::conformance::run(&OnBad(Fault::$fault), |subject| {
                Box::pin(gitlab_runner::adapter::conformance::$module::$case(subject))
            });
        }
    )+};
}

not_passed! {
    WakesEarly: tasks time_goes_on_and_sleep_ends_on_time, "is before";
    FollowsRedirects: transfers a_redirect_is_the_callers_to_follow, "right: 302";
    AsksAgain: connections a_lost_reply_is_not_asked_for_again, "left: 2";
    GathersRequests: transfers a_large_request_is_read_as_it_is_sent, "bytes wait in memory";
    GathersReplies: transfers a_large_reply_is_handed_on_as_it_comes, "bytes wait in memory";
    ForgetsLength: transfers a_body_is_announced_as_what_it_is, "transfer-encoding: chunked";
    HidesBreaks: failures cut_in_the_middle_of_the_body, "`None`";
    IsSureOfLoss: failures closed_without_a_reply, "left: (Broken, false)";
    TellsAll: failures errors_hold_no_secret, "planted";
}
