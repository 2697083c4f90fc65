//! Requests and replies that go well.

use std::{
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use bytes::Bytes;
use futures::{StreamExt, future, stream};
use gitlab_runner::{
    adapter::{Adapter, Body, TokioHyper},
    mock::http::Loopback,
};

use crate::support::*;

const MIB: u64 = 1024 * 1024;
/// What socket buffers of both sides and hyper's own may hold.
const IN_FLIGHT: u64 = 24 * MIB;

#[tokio::test]
async fn bodies_go_both_ways_and_connections_are_kept() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    bounded(async {
        for round in 0..20 {
            let text = format!("round {round}");
            let body = Body::Full(text.clone().into());
            let reply = adapter
                .send(request("POST", &format!("{}/echo", server.url()), body))
                .await
                .unwrap();
            assert_eq!(reply.status(), 200);
            let Body::Stream { len, .. } = reply.body() else {
                panic!("{reply:?}")
            };
            assert_eq!(*len, Some(text.len() as u64));
            assert_eq!(collect(reply.into_body()).await.unwrap(), text.as_bytes());
        }
    })
    .await;
    assert_eq!(server.with(|probe, _| probe.seen.len()), 20);
    // A connection may come back just too late for the next request, but not twenty times.
    assert!(server.connections() < 10, "{}", server.connections());
    assert!(
        format!("{adapter:?}").contains("https_used: false"),
        "certificates were read for nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_requests_at_once() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    let uri = format!("{}/hold", server.url());
    bounded(async {
        let requests: Vec<_> = (0..50)
            .map(|_| {
                let (adapter, uri) = (adapter.clone(), uri.clone());
                tokio::spawn(async move { get(&adapter, &uri).await.unwrap() })
            })
            .collect();
        let all = tokio::task::block_in_place(|| {
            server.wait_until(LIMIT, |probe| (probe.holds.len() == 50).then_some(()))
        });
        assert_eq!(all, Some(()), "they wait for each other");
        server.with(|probe, _| probe.released.extend(probe.holds.clone()));
        for request in requests {
            let reply = request.await.unwrap();
            assert_eq!(collect(reply.into_body()).await.unwrap(), b"released");
        }
    })
    .await;
    assert_eq!(server.connections(), 50);
}

#[tokio::test]
async fn a_redirect_is_the_callers_to_follow() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    let reply = bounded(get(&adapter, &format!("{}/redirect", server.url())))
        .await
        .unwrap();
    assert_eq!(reply.status(), 302);
    assert_eq!(reply.headers()["location"], "/landed");
    assert_eq!(
        server.with(|probe, _| probe.seen.clone()),
        ["GET /redirect"]
    );
}

#[tokio::test]
async fn replies_without_a_body() {
    let raw = Raw::start(|mut stream| {
        while let Some(head) = read_head(&mut stream) {
            let status = head.split(['/', ' ']).nth(2).unwrap();
            write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: 7\r\n\r\n").unwrap();
        }
    });
    let adapter = TokioHyper::new().unwrap();
    bounded(async {
        for (method, status) in [("HEAD", 200), ("GET", 304), ("POST", 204)] {
            let uri = raw.url(&format!("/{status}"));
            let reply = adapter
                .send(request(method, &uri, Body::Empty))
                .await
                .unwrap();
            assert_eq!(reply.status(), status);
            assert!(matches!(reply.body(), Body::Empty), "{method} {reply:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_is_announced_as_what_it_is() {
    let (send, heads) = mpsc::channel();
    let raw = Raw::start(move |mut stream| {
        send.send(read_head(&mut stream).unwrap()).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        // The client may have gone already.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        drain(&mut stream);
    });
    let chunks = || stream::iter([Ok(Bytes::from("ab")), Ok(Bytes::from("cd"))]).boxed();
    let length = |len: &str| Some(format!("content-length: {len}\r\n"));
    let cases = [
        ("POST", Body::Empty, length("0")),
        ("PUT", Body::Empty, length("0")),
        ("PATCH", Body::Full(Bytes::new()), length("0")),
        (
            "PATCH",
            Body::Stream {
                len: Some(0),
                chunks: stream::empty().boxed(),
            },
            length("0"),
        ),
        ("GET", Body::Empty, None),
        ("DELETE", Body::Empty, None),
        ("PUT", Body::Full("abc".into()), length("3")),
        (
            "PATCH",
            Body::Stream {
                len: Some(4),
                chunks: chunks(),
            },
            length("4"),
        ),
        (
            "POST",
            Body::Stream {
                len: None,
                chunks: chunks(),
            },
            Some("transfer-encoding: chunked\r\n".to_owned()),
        ),
        (
            "GET",
            Body::Stream {
                len: None,
                chunks: chunks(),
            },
            Some("transfer-encoding: chunked\r\n".to_owned()),
        ),
    ];
    let adapter = TokioHyper::new().unwrap();
    bounded(async {
        for (method, body, expected) in cases {
            let what = format!("{method} {body:?}");
            let mut request = request(method, &raw.url("/path?query"), body);
            // Not the caller's to say; a wrong one would break the connection.
            if expected.is_some() {
                request.headers_mut().insert("content-length", 99.into());
            }
            adapter.send(request).await.unwrap();
            let head = heads.recv().unwrap();
            assert!(
                head.starts_with(&format!(
                    "{} /path?query http/1.1\r\n",
                    method.to_lowercase()
                )),
                "{head}"
            );
            assert!(
                head.contains(&format!("host: 127.0.0.1:{}\r\n", raw.port())),
                "{head}"
            );
            let announced = ["content-length", "transfer-encoding"];
            let lines: Vec<_> = head
                .split_inclusive("\r\n")
                .filter(|line| announced.iter().any(|name| line.starts_with(name)))
                .collect();
            assert_eq!(lines, Vec::from_iter(expected.as_deref()), "{what}");
            assert!(!head.contains("accept"), "{head}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_large_request_is_read_as_it_is_sent() {
    let received = Arc::new(AtomicU64::new(0));
    let counted = received.clone();
    let raw = Raw::start(move |mut stream| {
        let head = read_head(&mut stream).unwrap();
        assert!(head.contains("content-length: 67108864\r\n"), "{head}");
        let mut block = vec![0; 64 * 1024];
        let mut left = 64 * MIB;
        while left > 0 {
            let read = stream.read(&mut block).unwrap() as u64;
            assert_ne!(read, 0, "the body ends early");
            left -= read;
            counted.fetch_add(read, Ordering::SeqCst);
        }
        stream
            .write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        drain(&mut stream);
    });
    let adapter = TokioHyper::new().unwrap();
    let taken = received.clone();
    let block = Bytes::from(vec![7; MIB as usize]);
    let chunks = stream::iter(1..=64).map(move |number| {
        let ahead = number * MIB - taken.load(Ordering::SeqCst);
        assert!(ahead < IN_FLIGHT, "{ahead} bytes wait in memory");
        Ok(block.clone())
    });
    let body = Body::Stream {
        len: Some(64 * MIB),
        chunks: chunks.boxed(),
    };
    let reply = bounded(adapter.send(request("PUT", &raw.url("/"), body)))
        .await
        .unwrap();
    assert_eq!(reply.status(), 201);
    assert_eq!(received.load(Ordering::SeqCst), 64 * MIB);
}

#[tokio::test]
async fn a_large_reply_is_handed_on_as_it_comes() {
    for length in ["Content-Length: 67108864", "Connection: close"] {
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let raw = Raw::start(move |mut stream| {
            read_head(&mut stream).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\n{length}\r\n\r\n").unwrap();
            let block = vec![7; 64 * 1024];
            for _ in 0..1024 {
                stream.write_all(&block).unwrap();
                counted.fetch_add(block.len() as u64, Ordering::SeqCst);
            }
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            drain(&mut stream);
        });
        let adapter = TokioHyper::new().unwrap();
        bounded(async {
            let reply = get(&adapter, &raw.url("/")).await.unwrap();
            let Body::Stream { len, mut chunks } = reply.into_body() else {
                panic!("no stream")
            };
            assert_eq!(len, length.starts_with("Content").then_some(64 * MIB));
            let mut received = 0;
            while let Some(chunk) = chunks.next().await {
                let ahead = sent.load(Ordering::SeqCst).saturating_sub(received);
                assert!(ahead < IN_FLIGHT, "{ahead} bytes wait in memory");
                received += chunk.unwrap().len() as u64;
            }
            assert_eq!(received, 64 * MIB);
        })
        .await;
    }
}

#[tokio::test]
async fn an_answer_ahead_of_the_body_is_seen() {
    let raw = Raw::reply("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
    let adapter = TokioHyper::new().unwrap();
    let chunks = stream::once(async { Ok(Bytes::from("some")) }).chain(stream::pending());
    let body = Body::Stream {
        len: Some(MIB),
        chunks: chunks.boxed(),
    };
    let reply = bounded(adapter.send(request("POST", &raw.url("/"), body)))
        .await
        .unwrap();
    assert_eq!(reply.status(), 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_request_closes_its_connection() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    let uri = format!("{}/hold", server.url());
    bounded(async {
        let held = async {
            tokio::task::spawn_blocking({
                let server = Arc::new(server);
                move || {
                    let held = server.wait_until(LIMIT, |probe| probe.holds.first().copied());
                    (server, held.expect("the request never came"))
                }
            })
            .await
            .unwrap()
        };
        let send = Box::pin(get(&adapter, &uri));
        let (server, hold) = match future::select(Box::pin(held), send).await {
            // Here the request is dropped.
            future::Either::Left((held, _send)) => held,
            future::Either::Right((reply, _)) => panic!("answered: {reply:?}"),
        };
        let dropped = tokio::task::block_in_place(|| {
            server.wait_until(LIMIT, |probe| probe.dropped.first().copied())
        });
        assert_eq!(dropped, Some(hold));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_reply_closes_its_connection() {
    let (send, closed) = mpsc::channel();
    let raw = Raw::start(move |mut stream| {
        read_head(&mut stream).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome")
            .unwrap();
        drain(&mut stream);
        send.send(()).unwrap();
    });
    let adapter = TokioHyper::new().unwrap();
    let reply = bounded(get(&adapter, &raw.url("/"))).await.unwrap();
    drop(reply);
    tokio::task::block_in_place(|| closed.recv_timeout(LIMIT)).unwrap();
}
