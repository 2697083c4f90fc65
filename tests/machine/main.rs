//! The machine driven by hand in virtual time: no async, no sockets, and a server that is a line of
//! the test. The tests of `polling`, `commit`, `patch`, `keep_alive` and `final_update` go through
//! the answers that GitLab and proxies give to each request.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod artifacts;
mod commit;
mod downloads;
mod final_update;
mod keep_alive;
mod life;
mod patch;
mod payload;
mod polling;
mod secrecy;
mod status;
mod stop;
mod timeouts;
mod token;
mod verify;
mod world;
