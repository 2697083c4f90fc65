//! The loopback server's own promises.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use gitlab_runner::{
    adapter::{
        Adapter, Body, TokioHyper,
        TransportErrorKind::{Broken, Connect},
        conformance::support::*,
    },
    mock::{
        Endpoint, MockGitlab, Override, Trickle,
        http::{Loopback, MAX_REQUEST_BODY},
    },
};

#[tokio::test]
async fn a_hold_ends_when_its_time_comes() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    let reply = bounded(get(&adapter, &format!("{}/later", server.url())))
        .await
        .unwrap();
    assert_eq!(
        bounded(collect(reply.into_body())).await.unwrap(),
        b"released"
    );
    assert!(server.with(|probe, _| probe.holds.is_empty() && probe.dropped.is_empty()));
}

#[test]
fn waiting_ends() {
    let server = Loopback::start(Probe::default()).unwrap();
    assert_eq!(server.wait_until(Duration::ZERO, |_| None::<()>), None);
    assert_eq!(
        server.wait_until(Duration::ZERO, |probe| Some(probe.seen.len())),
        Some(0)
    );
}

#[tokio::test]
async fn a_body_that_is_too_long() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    let block = bytes::Bytes::from(vec![0; 1024 * 1024]);
    let blocks = MAX_REQUEST_BODY / block.len() + 1;
    let chunks = stream::iter((0..blocks).map(move |_| Ok(block.clone()))).boxed();
    let body = Body::Stream { len: None, chunks };
    let uri = format!("{}/echo", server.url());
    let reply = bounded(adapter.send(request("POST", &uri, body)))
        .await
        .unwrap();
    assert_eq!(reply.status(), 413);
    assert_eq!(reply.headers()["connection"], "close");
    assert!(server.with(|probe, _| probe.seen.is_empty()));
}

#[tokio::test]
async fn a_length_below_the_body_is_put_right() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    let uri = format!("{}/wrong-length", server.url());
    let request = request("POST", &uri, Body::Full("longer".into()));
    bounded(async {
        let reply = adapter.send(request).await.unwrap();
        assert_eq!(collect(reply.into_body()).await.unwrap(), b"longer");
    })
    .await;
}

/// A GitLab that answers so to the next `POST runners/verify`.
fn verifying(fault: Override) -> Loopback<MockGitlab> {
    let mut gitlab = MockGitlab::new(1);
    gitlab.add_runner("glrt-slow");
    gitlab.plan(Endpoint::Verify, 1, fault);
    Loopback::start(gitlab).unwrap()
}

const VERIFY: &str = r#"{"token":"glrt-slow"}"#;

fn verify(server: &Loopback<MockGitlab>) -> http::Request<Body> {
    let uri = format!("{}/api/v4/runners/verify", server.url());
    let mut request = request("POST", &uri, Body::Full(VERIFY.into()));
    let json = http::HeaderValue::from_static("application/json");
    request.headers_mut().insert("content-type", json);
    request
}

#[tokio::test]
async fn a_body_that_trickles_is_whole_in_the_end() {
    let server = verifying(Override::Trickle(Trickle::new(1, Duration::from_micros(1))));
    let adapter = TokioHyper::new().unwrap();
    let mut bodies = Vec::new();
    bounded(async {
        for _ in 0..2 {
            let reply = adapter.send(verify(&server)).await.unwrap();
            let length = reply.headers()["content-length"].to_str().unwrap();
            let length: usize = length.parse().unwrap();
            let body = collect(reply.into_body()).await.unwrap();
            assert_eq!(body.len(), length);
            bodies.push(body);
        }
    })
    .await;
    // The second one came at once.
    assert_eq!(bodies[0], bodies[1]);
    assert_eq!(server.connections(), 1);
    server.with(|gitlab, _| assert!(gitlab.requests().all(|request| request.delivered)));
}

/// Nobody waits for the hour: the head comes without it, and the server ends without it.
#[test]
fn the_head_of_a_body_that_trickles_comes_at_once() {
    let server = verifying(Override::Trickle(Trickle::new(
        1,
        Duration::from_secs(3600),
    )));
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!(
        "POST /api/v4/runners/verify HTTP/1.1\r\nHost: gitlab\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{VERIFY}",
        VERIFY.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let len = stream.read(&mut buffer).unwrap();
        assert!(len > 0, "closed after {}", String::from_utf8_lossy(&head));
        head.extend_from_slice(&buffer[..len]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "));
    drop(server);
    assert!(!matches!(stream.read(&mut buffer), Ok(1..)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_behind() {
    let server = Loopback::start(Probe::default()).unwrap();
    let (addr, url) = (server.addr(), server.url());
    let life = server.with(|probe, _| Arc::downgrade(&probe.life));
    let adapter = TokioHyper::new().unwrap();
    let held = tokio::spawn({
        let (adapter, uri) = (adapter.clone(), format!("{url}/hold"));
        async move { get(&adapter, &uri).await }
    });
    bounded(async {
        let hold = tokio::task::block_in_place(|| {
            server.wait_until(LIMIT, |probe| probe.holds.first().copied())
        });
        assert!(hold.is_some(), "the request never came");
        assert_eq!(threads(addr.port()), usize::from(cfg!(target_os = "linux")));
        drop(server);
        // The system may list a thread for an instant after it was joined.
        let started = Instant::now();
        while threads(addr.port()) > 0 {
            assert!(started.elapsed() < LIMIT, "the thread goes on");
            std::thread::yield_now();
        }
        assert!(life.upgrade().is_none(), "the server lives on");
        assert!(TcpStream::connect(addr).is_err(), "somebody listens");
        assert_failure(&held.await.unwrap().unwrap_err(), Broken, true);
        assert_failure(&get(&adapter, &url).await.unwrap_err(), Connect, false);
    })
    .await;
}

/// How many threads serve this port, as far as the system tells.
fn threads(port: u16) -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return 0;
    };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.trim_end() == format!("loopback-{port}"))
        .count()
}

#[test]
fn a_server_needs_a_certificate_and_its_key() {
    let authority = Authority::new("ours");
    let mut tls = authority.server(&["127.0.0.1"]);
    tls.key_pem = authority.server(&["127.0.0.1"]).key_pem;
    let error = Loopback::start_tls(Probe::default(), tls).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}
