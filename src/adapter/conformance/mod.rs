//! What every adapter has to pass: a suite of small tests over real sockets on 127.0.0.1.
//!
//! Tell it about your adapter once, and have a test for each case:
//!
//! ```no_run
//! # #[cfg(feature = "tokio")] mod test {
//! use std::sync::Arc;
//!
//! use futures::future::BoxFuture;
//! use gitlab_runner::adapter::{Adapter, TokioHyper, conformance::Subject};
//!
//! struct Mine;
//!
//! impl Subject for Mine {
//!     fn adapter(&self, authorities: &[String]) -> Arc<dyn Adapter> {
//!         let mut builder = TokioHyper::builder();
//!         for pem in authorities {
//!             builder = builder.ca_pem(pem.as_str());
//!         }
//!         Arc::new(builder.build().unwrap())
//!     }
//!
//!     fn block_on(&self, case: BoxFuture<'_, ()>) {
//!         tokio::runtime::Runtime::new().unwrap().block_on(case);
//!     }
//! }
//!
//! gitlab_runner::adapter_conformance!(Mine);
//! # }
//! # fn main() {}
//! ```
//!
//! A case that fails panics and says why; one that hangs ends after a minute. [`support`] is what
//! the cases are made of, for further tests of your own.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

#[doc(hidden)]
pub mod connections;
#[doc(hidden)]
pub mod failures;
pub mod support;
#[doc(hidden)]
pub mod tasks;
#[doc(hidden)]
pub mod tls;
#[doc(hidden)]
pub mod transfers;

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::adapter::Adapter;

/// The adapter under test, and its runtime.
pub trait Subject: Sync {
    /// A new adapter, which trusts these certificate authorities (PEM) besides those of the system.
    /// Called inside of [`block_on`](Self::block_on).
    fn adapter(&self, authorities: &[String]) -> Arc<dyn Adapter>;

    /// Runs `case` to its end on the adapter's runtime. Cases block now and then: other tasks must
    /// go on meanwhile, on other threads.
    fn block_on(&self, case: BoxFuture<'_, ()>);

    /// The size of a large body, in bytes; 256 MiB by default. Less than 32 MiB would not tell a
    /// stream from a body that is kept in memory.
    fn large(&self) -> u64 {
        256 * 1024 * 1024
    }

    /// What the HTTP client below the adapter is known to do otherwise; nothing by default.
    fn is_exempt(&self, exemption: Exemption) -> bool {
        let _ = exemption;
        false
    }
}

/// What a case can leave out for an adapter that has to live with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Exemption {
    /// A request without a body may be sent once more when the connection it went out on had been
    /// used before and was closed without a reply.
    RepeatsWithoutBody,
    /// The connection of a dropped request or reply is closed only when the server sends more.
    NoticesDropLate,
    /// A server or proxy that refuses the client behind the handshake is one that broke the
    /// connection (`Broken`, and the request may have been delivered).
    HidesLateRefusal,
    /// When a server answers while a body is being sent, and closes at once, the answer may be lost
    /// (`Broken`, and the request may have been delivered).
    HidesEarlyAnswer,
    /// A connection that ends within the handshake of TLS is one that broke (`Broken`, and the
    /// request may have been delivered).
    HidesCutHandshake,
    /// The reply is looked for when all of the request was sent.
    SendsAllFirst,
}

/// Runs one case. Called by [`adapter_conformance!`](crate::adapter_conformance).
///
/// # Panics
/// If the adapter does not pass.
pub fn run(subject: &dyn Subject, case: impl for<'a> FnOnce(&'a dyn Subject) -> BoxFuture<'a, ()>) {
    subject.block_on(Box::pin(support::bounded(case(subject))));
}

/// One `#[test]` for each case of the [suite](crate::adapter::conformance), for the
/// [`Subject`](crate::adapter::conformance::Subject) that the argument gives.
#[macro_export]
macro_rules! adapter_conformance {
    ($subject:expr) => {
        $crate::adapter_conformance! { $subject =>
            tasks:
                time_goes_on_and_sleep_ends_on_time
                the_past_is_over_and_the_end_of_time_never_comes
                a_task_runs_by_itself_and_a_panic_stays_in_it
                blocking_work_runs_elsewhere_and_a_panic_stays_there;
            connections:
                a_connection_is_kept_and_used_again
                a_tls_connection_is_kept_and_used_again
                a_hundred_requests_at_once
                nothing_is_sent_twice
                a_lost_reply_is_not_asked_for_again
                dropping_a_request_closes_its_connection
                dropping_a_reply_closes_its_connection
                dropping_the_adapter_closes_its_connections
                dropping_the_adapter_ends_its_threads
                a_request_out_of_time_leaves_the_others_alone;
            transfers:
                a_redirect_is_the_callers_to_follow
                nothing_is_unpacked
                an_old_servers_body_ends_with_its_connection
                replies_without_a_body
                a_body_is_announced_as_what_it_is
                a_large_request_is_read_as_it_is_sent
                a_large_reply_is_handed_on_as_it_comes
                an_answer_ahead_of_the_body_is_seen
                an_answer_is_seen_though_the_connection_is_gone;
            failures:
                nobody_listens
                closed_without_a_reply
                closed_ahead_of_the_request
                cut_in_the_middle_of_the_request
                cut_in_the_middle_of_the_head
                cut_in_the_middle_of_the_body
                what_comes_is_not_http
                a_request_body_that_is_not_what_it_said
                requests_that_cannot_be_sent
                errors_hold_no_secret;
            tls:
                a_given_authority_is_trusted
                another_authority_is_not
                the_name_has_to_fit
                the_server_speaks_no_tls
                the_server_wants_a_certificate;
        }
    };
    ($subject:expr => $($module:ident: $($case:ident)+;)+) => {
        $($(
            #[test]
            fn $case() {
                $crate::adapter::conformance::run(&$subject, |subject| {
                    ::std::boxed::Box::pin($crate::adapter::conformance::$module::$case(subject))
                });
            }
        )+)+
    };
}

#[cfg(test)]
mod tests {
    /// A case that nobody runs would look like one that passes.
    #[test]
    fn every_case_is_listed() {
        let (_, list) = include_str!("mod.rs").split_once("macro_rules!").unwrap();
        let sources = [
            include_str!("connections.rs"),
            include_str!("failures.rs"),
            include_str!("tasks.rs"),
            include_str!("tls.rs"),
            include_str!("transfers.rs"),
        ];
        let mut cases = 0;
        for source in sources {
            for line in source.lines() {
                if let Some(rest) = line.strip_prefix("pub async fn ") {
                    let (case, _) = rest.split_once('(').unwrap();
                    assert!(
                        list.contains(&format!("    {case}")),
                        "{case} is not listed"
                    );
                    cases += 1;
                }
            }
        }
        assert!(cases > 30, "{cases}");
    }
}
