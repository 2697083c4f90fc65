//! Requests and replies that go well.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{Exemption, Subject, support::*};
use crate::{
    adapter::{Body, TransportErrorKind::Broken},
    mock::http::Loopback,
};

const MIB: u64 = 1024 * 1024;
/// What socket buffers of both sides and the client's own may hold.
const IN_FLIGHT: u64 = 24 * MIB;

pub async fn a_redirect_is_the_callers_to_follow(subject: &dyn Subject) {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = subject.adapter(&[]);
    let reply = get(&*adapter, &format!("{}/redirect", server.url()))
        .await
        .unwrap();
    assert_eq!(reply.status(), 302);
    assert_eq!(reply.headers()["location"], "/landed");
    assert_eq!(
        server.with(|probe, _| probe.seen.clone()),
        ["GET /redirect"]
    );
}

/// What was compressed has to arrive as it was sent: its length and checksum are the server's.
pub async fn nothing_is_unpacked(subject: &dyn Subject) {
    let raw =
        Raw::reply("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 6\r\n\r\npacked");
    let adapter = subject.adapter(&[]);
    let reply = get(&*adapter, &raw.url("/")).await.unwrap();
    assert_eq!(reply.headers()["content-encoding"], "gzip");
    assert_eq!(collect(reply.into_body()).await.unwrap(), b"packed");
}

/// HTTP/1.0 has no other way to end a body of unknown length, and need not say so.
pub async fn an_old_servers_body_ends_with_its_connection(subject: &dyn Subject) {
    let raw = Raw::start(|mut stream| {
        if read_head(&mut stream).is_some() {
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nold").unwrap();
            let _ = stream.shutdown(std::net::Shutdown::Write);
            drain(&mut stream);
        }
    });
    let adapter = subject.adapter(&[]);
    let reply = get(&*adapter, &raw.url("/")).await.unwrap();
    assert_eq!(collect(reply.into_body()).await.unwrap(), b"old");
}

pub async fn replies_without_a_body(subject: &dyn Subject) {
    let raw = Raw::start(|mut stream| {
        while let Some(head) = read_head(&mut stream) {
            let status = head.split(['/', ' ']).nth(2).unwrap();
            write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: 7\r\n\r\n").unwrap();
        }
    });
    let adapter = subject.adapter(&[]);
    for (method, status) in [("HEAD", 200), ("GET", 304), ("POST", 204)] {
        let uri = raw.url(&format!("/{status}"));
        let reply = adapter
            .send(request(method, &uri, Body::Empty))
            .await
            .unwrap();
        assert_eq!(reply.status(), status);
        assert!(matches!(reply.body(), Body::Empty), "{method} {reply:?}");
    }
}

pub async fn a_body_is_announced_as_what_it_is(subject: &dyn Subject) {
    let (send, heads) = mpsc::channel();
    let raw = Raw::start(move |mut stream| {
        send.send(read_head(&mut stream).unwrap()).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
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
    let adapter = subject.adapter(&[]);
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
        assert!(!head.contains("accept-encoding"), "{head}");
    }
}

pub async fn a_large_request_is_read_as_it_is_sent(subject: &dyn Subject) {
    let large = subject.large();
    let received = Arc::new(AtomicU64::new(0));
    let counted = received.clone();
    let raw = Raw::start(move |mut stream| {
        let head = read_head(&mut stream).unwrap();
        assert!(
            head.contains(&format!("content-length: {large}\r\n")),
            "{head}"
        );
        let mut block = vec![0; 64 * 1024];
        let mut left = large;
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
    let adapter = subject.adapter(&[]);
    let taken = received.clone();
    let block = Bytes::from(vec![7; MIB as usize]);
    let chunks = stream::iter(1..=large / MIB).map(move |number| {
        let ahead = number * MIB - taken.load(Ordering::SeqCst);
        match ahead < IN_FLIGHT {
            true => Ok(block.clone()),
            // A panic might be caught somewhere in the client.
            false => Err(io::Error::other(format!("{ahead} bytes wait in memory"))),
        }
    });
    let body = Body::Stream {
        len: Some(large),
        chunks: chunks.boxed(),
    };
    let reply = adapter
        .send(request("PUT", &raw.url("/"), body))
        .await
        .unwrap();
    assert_eq!(reply.status(), 201);
    assert_eq!(received.load(Ordering::SeqCst), large);
}

pub async fn a_large_reply_is_handed_on_as_it_comes(subject: &dyn Subject) {
    let large = subject.large();
    for length in [
        format!("Content-Length: {large}"),
        "Connection: close".to_owned(),
    ] {
        let known = length.starts_with("Content").then_some(large);
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let raw = Raw::start(move |mut stream| {
            read_head(&mut stream).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\n{length}\r\n\r\n").unwrap();
            let block = vec![7; 64 * 1024];
            for _ in 0..large / block.len() as u64 {
                stream.write_all(&block).unwrap();
                counted.fetch_add(block.len() as u64, Ordering::SeqCst);
            }
            let _ = stream.shutdown(std::net::Shutdown::Write);
            drain(&mut stream);
        });
        let adapter = subject.adapter(&[]);
        let reply = get(&*adapter, &raw.url("/")).await.unwrap();
        let Body::Stream { len, mut chunks } = reply.into_body() else {
            panic!("no stream")
        };
        assert_eq!(len, known);
        let mut received = 0;
        while let Some(chunk) = chunks.next().await {
            let ahead = sent.load(Ordering::SeqCst).saturating_sub(received);
            assert!(ahead < IN_FLIGHT, "{ahead} bytes wait in memory");
            received += chunk.unwrap().len() as u64;
        }
        assert_eq!(received, large);
    }
}

pub async fn an_answer_ahead_of_the_body_is_seen(subject: &dyn Subject) {
    let raw = Raw::reply("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
    let adapter = subject.adapter(&[]);
    let first = Bytes::from("some");
    let rest = Bytes::from(vec![7; MIB as usize - first.len()]);
    // The rest does not come before the answer.
    let rest = match subject.is_exempt(Exemption::SendsAllFirst) {
        true => stream::iter([Ok(rest)]).boxed(),
        false => stream::pending().boxed(),
    };
    let body = Body::Stream {
        len: Some(MIB),
        chunks: stream::iter([Ok(first)]).chain(rest).boxed(),
    };
    let reply = adapter
        .send(request("POST", &raw.url("/"), body))
        .await
        .unwrap();
    assert_eq!(reply.status(), 413);
}

/// A server that closes with what it has not read makes the next write fail. The answer is there all
/// the same.
pub async fn an_answer_is_seen_though_the_connection_is_gone(subject: &dyn Subject) {
    let (closed, wait) = mpsc::channel();
    let raw = Raw::start(move |mut stream| {
        read_head(&mut stream).unwrap();
        let answer = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmuch";
        stream.write_all(answer.as_bytes()).unwrap();
        // There is more to read, so that this does not end it in peace.
        stream.peek(&mut [0]).unwrap();
        drop(stream);
        closed.send(()).unwrap();
    });
    let adapter = subject.adapter(&[]);
    let (held, let_go) = mpsc::channel::<()>();
    // More than a client keeps to itself.
    let piece = Bytes::from(vec![7; MIB as usize]);
    let first = stream::iter([Ok(piece.clone())]);
    let mut wait = Some(wait);
    let rest = stream::iter(1..16).map(move |_| {
        let _held = &held;
        if let Some(wait) = wait.take() {
            // Both have come when the client next looks, at once.
            let _ = wait.recv_timeout(Duration::from_secs(10));
        }
        Ok(piece.clone())
    });
    let body = Body::Stream {
        len: Some(16 * MIB),
        chunks: first.chain(rest).boxed(),
    };
    let reply = adapter.send(request("POST", &raw.url("/"), body)).await;
    let reply = match reply {
        Err(error) if subject.is_exempt(Exemption::HidesEarlyAnswer) => {
            return assert_failure(&error, Broken, true);
        }
        reply => reply.unwrap(),
    };
    assert_eq!(reply.status(), 413);
    assert_eq!(collect(reply.into_body()).await.unwrap(), b"much");
    // Nothing is left that would go on to send.
    let over = elsewhere(move || let_go.recv_timeout(Duration::from_secs(10))).await;
    assert_eq!(over, Err(mpsc::RecvTimeoutError::Disconnected));
}
