//! Appending to the log of a job.

use bytes::Bytes;
use gitlab_runner::mock::JobStatus;
use http::Request;
use serde_json::json;

use crate::world::{Running, World, patch_request};

const MIB: usize = 1024 * 1024;

/// A job whose log has `len` bytes, all different from what a test sends.
fn with_log(len: usize) -> (World, Running) {
    let mut world = World::new();
    let job = world.running();
    assert_eq!(world.patch(&job, 0, &"-".repeat(len)).status(), 202);
    (world, job)
}

fn log(world: &World, job: &Running) -> String {
    world.report(job.id).log_text().into_owned()
}

/// A patch that starts where the log ends is appended: 202 with the status, the next offset and
/// the interval. The range's end is that offset, not the last byte.
#[test]
fn a_patch_at_the_end_is_appended() {
    let mut world = World::new();
    let job = world.running();
    let reply = world.patch(&job, 0, "hello");
    assert_eq!(reply.status(), 202);
    assert_eq!(reply.range(), Some("0-5"));
    assert_eq!(reply.job_status(), Some("running"));
    assert_eq!(reply.interval(), Some("60"));
    let reply = world.patch(&job, 5, " world");
    assert_eq!(reply.range(), Some("0-11"));
    assert_eq!(log(&world, &job), "hello world");
}

/// A gap is 416 with the stored size, and nothing is written.
#[test]
fn a_gap_is_416() {
    let (mut world, job) = with_log(10);
    let reply = world.patch(&job, 11, "x");
    assert_eq!(reply.status(), 416);
    assert_eq!(reply.range(), Some("0-10"));
    assert_eq!(log(&world, &job), "-".repeat(10));
}

/// A start before the end whose end is not that of the log, be it before or behind: 416, and
/// nothing is written.
#[test]
fn a_partial_overlap_is_416() {
    for (start, len) in [(0, 9), (5, 6), (9, 2), (0, 11), (3, 2)] {
        let (mut world, job) = with_log(10);
        let reply = world.patch(&job, start, &"x".repeat(len));
        assert_eq!(reply.status(), 416, "{start} + {len}");
        assert_eq!(reply.range(), Some("0-10"));
        assert_eq!(log(&world, &job), "-".repeat(10));
    }
}

/// An exact repeat of the tail is 202 and written once; nobody compares the bytes, so another text
/// that ends there is swallowed.
#[test]
fn a_repeat_of_the_tail_is_swallowed() {
    let (mut world, job) = with_log(10);
    for (start, text) in [(0, "----------"), (8, "--"), (4, "xxxxxx")] {
        let reply = world.patch(&job, start, text);
        assert_eq!(reply.status(), 202);
        assert_eq!(reply.range(), Some("0-10"));
        assert_eq!(log(&world, &job), "-".repeat(10));
    }
}

/// An empty patch at the end is 202 and a way to learn the status; elsewhere it is 416.
#[test]
fn an_empty_patch_asks_only() {
    let (mut world, job) = with_log(3);
    let reply = world.patch_range(&job, "3-2", "");
    assert_eq!((reply.status(), reply.range()), (202, Some("0-3")));
    let reply = world.patch_range(&job, "2-1", "");
    assert_eq!((reply.status(), reply.range()), (416, Some("0-3")));
}

/// An empty log is `0-0`.
#[test]
fn the_range_of_an_empty_log() {
    let mut world = World::new();
    let job = world.running();
    let reply = world.patch(&job, 7, "x");
    assert_eq!((reply.status(), reply.range()), (416, Some("0-0")));
    let reply = world.patch(&job, 0, "");
    assert_eq!((reply.status(), reply.range()), (202, Some("0-0")));
}

/// The stored log can become shorter than it was, down to nothing: 416 tells from where to resend.
#[test]
fn a_log_that_shrank_is_416() {
    for len in [4, 0] {
        let (mut world, job) = with_log(10);
        world.gitlab.shrink_trace(job.id, len);
        let reply = world.patch(&job, 10, "x");
        assert_eq!(reply.status(), 416);
        assert_eq!(reply.range(), Some(format!("0-{len}").as_str()));
        let reply = world.patch(&job, len, &"y".repeat(11 - len));
        assert_eq!((reply.status(), reply.range()), (202, Some("0-11")));
    }
}

/// Only the start of a `Content-Range` counts, read as C would: the claimed end and the total do
/// not, and the unit `bytes` makes it 0.
#[test]
fn the_range_is_read_leniently() {
    for (range, start) in [
        ("10-12", 10),
        ("10-9999", 10),
        ("10-12/13", 10),
        ("10", 10),
        (" 10-12", 10),
        ("10x-12", 10),
        ("bytes 10-12", 0),
        ("", 0),
        ("-12", 0),
        ("x", 0),
    ] {
        let (mut world, job) = with_log(10);
        let reply = world.patch_range(&job, range, "abc");
        let appended = start == 10;
        let status = if appended { 202 } else { 416 };
        assert_eq!(reply.status(), status, "{range:?}");
        assert_eq!(log(&world, &job).ends_with("abc"), appended, "{range:?}");
    }
}

/// With the unit `bytes` the first patch works by chance, and no other does.
#[test]
fn the_unit_bytes_works_once() {
    let mut world = World::new();
    let job = world.running();
    assert_eq!(world.patch_range(&job, "bytes 0-2", "abc").status(), 202);
    let reply = world.patch_range(&job, "bytes 3-5", "def");
    assert_eq!((reply.status(), reply.range()), (202, Some("0-3")));
    assert_eq!(log(&world, &job), "abc");
    let reply = world.patch_range(&job, "bytes 3-6", "defg");
    assert_eq!((reply.status(), reply.range()), (416, Some("0-3")));
}

/// Without `Content-Range` it is 400, but the token is looked at before.
#[test]
fn a_missing_range_is_400() {
    let mut world = World::new();
    let mut job = world.running();
    let request = |job: &Running| patch_request(job).body(Bytes::from_static(b"x")).unwrap();
    let reply = world.send(request(&job));
    assert_eq!(reply.status(), 400);
    let text = "400 Missing header Content-Range";
    assert_eq!(reply.body(), json!({ "error": text }));
    assert_eq!(log(&world, &job), "");
    job.token = "wrong".into();
    assert_eq!(world.send(request(&job)).status(), 403);
}

/// Offsets count bytes, and the log is kept byte by byte, UTF-8 or not.
#[test]
fn a_log_is_bytes() {
    let mut world = World::new();
    let job = world.running();
    let bytes: Vec<u8> = (0..=255).collect();
    let request = patch_request(&job)
        .header("Content-Range", "0-255")
        .body(bytes.clone().into())
        .unwrap();
    assert_eq!(world.send(request).range(), Some("0-256"));
    assert_eq!(world.patch(&job, 256, "é").range(), Some("0-258"));
    assert_eq!(world.report(job.id).log[..256], bytes);
}

/// Somebody else holds the log lock: 409, nothing is written, and the same patch works later.
#[test]
fn a_locked_log_is_409() {
    let (mut world, job) = with_log(3);
    world.gitlab.lock_trace(job.id, 2);
    for _ in 0..2 {
        let reply = world.patch(&job, 3, "abc");
        assert_eq!(reply.status(), 409);
        assert_eq!(reply.range(), None);
        assert_eq!(log(&world, &job), "---");
    }
    assert_eq!(world.patch(&job, 3, "abc").range(), Some("0-6"));
}

/// The log has reached its limit: 403 without a status, and the job has failed.
#[test]
fn a_log_that_is_too_big_fails_the_job() {
    let mut world = World::new();
    world.gitlab.settings_mut().trace_size_limit = 2;
    let job = world.running();
    assert_eq!(world.patch(&job, 0, &"a".repeat(MIB)).status(), 202);
    assert_eq!(world.patch(&job, MIB, &"a".repeat(MIB - 1)).status(), 202);
    let reply = world.patch(&job, 2 * MIB - 1, "a");
    assert_eq!(reply.status(), 403);
    assert_eq!(reply.job_status(), None);
    assert!(reply.body()["error"].is_string());
    let report = world.report(job.id);
    assert_eq!(report.log.len(), 2 * MIB - 1);
    assert_eq!(report.status, JobStatus::Failed);
    let reason = report.failure_reason.as_deref();
    assert_eq!(reason, Some("trace_size_exceeded"));
    let reason = Some("Job is not processing on runner");
    let reply = world.patch(&job, 2 * MIB - 1, "a");
    reply.assert_forbidden(reason, Some("failed"));
}

/// The limit looks at the claimed start before anything else: a wrong range kills the job. As
/// shipped it is 100 MiB, and 0 is no limit.
#[test]
fn a_claimed_start_beyond_the_limit_fails_the_job() {
    for (limit, start, status) in [
        (100, 100 * MIB - 2, 416),
        (100, 100 * MIB - 1, 403),
        (0, 1000 * MIB, 416),
    ] {
        let mut world = World::new();
        assert_eq!(world.gitlab.settings().trace_size_limit, 100);
        world.gitlab.settings_mut().trace_size_limit = limit;
        let job = world.running();
        assert_eq!(world.patch(&job, start, "x").status(), status);
        assert_eq!(world.status(job.id) == JobStatus::Failed, status == 403);
    }
    let mut world = World::new();
    let job = world.running();
    let huge = "99999999999999999999999-1";
    assert_eq!(world.patch_range(&job, huge, "x").status(), 403);
}

/// The interval is 3 s while somebody watches the log, else 60 s.
#[test]
fn the_interval_depends_on_who_watches() {
    let (mut world, job) = with_log(0);
    world.gitlab.watch(job.id, true);
    assert_eq!(world.patch(&job, 0, "a").interval(), Some("3"));
    world.gitlab.watch(job.id, false);
    assert_eq!(world.patch(&job, 1, "b").interval(), Some("60"));
    assert_eq!(world.patch(&job, 9, "b").interval(), None);
}

/// `debug_trace` counts on a patch from 0 only.
#[test]
fn a_debug_log_is_marked_by_its_first_patch() {
    for (start, flag, marked) in [
        (0, "true", true),
        (0, "1", true),
        (0, "false", false),
        (3, "true", false),
    ] {
        let (mut world, job) = with_log(3);
        let uri = format!("/api/v4/jobs/{}/trace?debug_trace={flag}", job.id);
        let request = Request::patch(uri)
            .header("JOB-TOKEN", &job.token)
            .header("Content-Type", "text/plain")
            .header("Content-Range", format!("{start}-"))
            .body(Bytes::from_static(b"abc"))
            .unwrap();
        assert_eq!(world.send(request).status(), 202);
        assert_eq!(world.report(job.id).debug_trace, marked, "{start} {flag}");
    }
    let (mut world, job) = with_log(0);
    let uri = format!("/api/v4/jobs/{}/trace?debug_trace=maybe", job.id);
    let request = Request::patch(uri).body(Bytes::new()).unwrap();
    assert_eq!(world.send(request).status(), 400);
}

/// A log is text or bytes; other types are refused.
#[test]
fn other_content_types_are_refused() {
    let mut world = World::new();
    let job = world.running();
    for (content_type, status) in [
        ("text/plain", 202),
        ("text/plain; charset=utf-8", 202),
        ("application/octet-stream", 202),
        ("image/png", 415),
        ("application/json", 400),
    ] {
        let start = world.report(job.id).log.len();
        let request = Request::patch(format!("/api/v4/jobs/{}/trace", job.id))
            .header("JOB-TOKEN", &job.token)
            .header("Content-Type", content_type)
            .header("Content-Range", format!("{start}-{start}"))
            .body(Bytes::from_static(b"x"))
            .unwrap();
        assert_eq!(world.send(request).status(), status, "{content_type}");
    }
}
