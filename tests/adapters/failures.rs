//! What the adapter says when there is no reply.

use std::{
    error::Error,
    io::{self, Write},
    net::TcpListener,
    sync::mpsc,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use gitlab_runner::{
    JobHandler, JobResult, Phase, Runner,
    adapter::{
        Adapter, Body, TokioHyper, TransportError,
        TransportErrorKind::{self, *},
    },
    mock::http::Loopback,
};

use crate::support::*;

#[test]
fn a_runtime_without_drivers_is_named_as_the_cause() {
    struct Never;

    #[async_trait::async_trait]
    impl JobHandler for Never {
        async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
            Ok(())
        }
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let url = "http://127.0.0.1:9".parse().unwrap();
    let mut runner = Runner::new(url, "glrt-any".to_owned(), dir.path().to_owned());
    let error = runtime.block_on(runner.request_job(|_| async { Err::<Never, ()>(()) }));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("enable_all"), "{error}");
}

#[tokio::test]
async fn nobody_listens() {
    let addr = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let adapter = TokioHyper::new().unwrap();
    let error = bounded(get(&adapter, &format!("http://{addr}/api")))
        .await
        .unwrap_err();
    assert_failure(&error, Connect, false);
    let text = error.to_string();
    assert!(text.contains(&format!("GET http://{addr}/api")), "{text}");
    assert!(text.contains("refused"), "{text}");
}

#[tokio::test]
async fn closed_without_a_reply() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    let body = Body::Full("ask".into());
    let request = request("POST", &format!("{}/close", server.url()), body);
    let error = bounded(adapter.send(request)).await.unwrap_err();
    assert_failure(&error, Broken, true);
    assert_eq!(server.with(|probe, _| probe.seen.clone()), ["POST /close"]);
}

/// Each request meets a connection that is about to close, or has been closed.
#[tokio::test]
async fn nothing_is_sent_twice() {
    let (send, heads) = mpsc::channel();
    let raw = Raw::start(move |mut stream| {
        if let Some(head) = read_head(&mut stream) {
            send.send(head).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
        }
    });
    let adapter = TokioHyper::new().unwrap();
    let mut answers = Vec::new();
    for number in 0..50 {
        let request = request("POST", &raw.url(&format!("/{number}")), Body::Empty);
        answers.push(bounded(adapter.send(request)).await);
    }
    assert!(answers[0].is_ok());
    drop(raw);
    let heads: Vec<_> = heads.iter().collect();
    for (number, answer) in answers.iter().enumerate() {
        let line = format!("post /{number} http");
        let seen = heads.iter().filter(|head| head.starts_with(&line)).count();
        match answer {
            Ok(_) => assert_eq!(seen, 1),
            Err(error) if error.maybe_delivered() => assert!(seen <= 1),
            Err(error) => assert_eq!(seen, 0, "{error}"),
        }
    }
}

#[tokio::test]
async fn closed_ahead_of_the_request() {
    let raw = Raw::start(drop);
    let adapter = TokioHyper::new().unwrap();
    for _ in 0..20 {
        let error = bounded(get(&adapter, &raw.url("/"))).await.unwrap_err();
        // Whether a byte was written depends on who was faster.
        assert_eq!(error.kind(), Broken, "{error}");
    }
}

#[tokio::test]
async fn cut_in_the_middle_of_the_body() {
    let server = Loopback::start(Probe::default()).unwrap();
    let chunked = Raw::start(|mut stream| {
        read_head(&mut stream).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        drain(&mut stream);
    });
    let adapter = TokioHyper::new().unwrap();
    for uri in [format!("{}/cut", server.url()), chunked.url("/")] {
        bounded(async {
            let reply = get(&adapter, &uri).await.unwrap();
            let Body::Stream { mut chunks, .. } = reply.into_body() else {
                panic!("no stream")
            };
            assert_eq!(chunks.next().await.unwrap().unwrap(), "abc");
            let error = chunks.next().await.unwrap().unwrap_err();
            let error = error
                .get_ref()
                .unwrap()
                .downcast_ref::<TransportError>()
                .unwrap();
            assert_failure(error, Broken, true);
            assert!(error.to_string().contains(&uri), "{error}");
        })
        .await;
    }
}

#[tokio::test]
async fn what_comes_is_not_http() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1024 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let replies = [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 999999 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        &long,
        &many,
    ];
    let adapter = TokioHyper::new().unwrap();
    for reply in replies {
        let raw = Raw::reply(reply);
        let error = bounded(get(&adapter, &raw.url("/"))).await.unwrap_err();
        assert_failure(&error, Broken, true);
        assert!(error.source().is_some());
    }
}

#[tokio::test]
async fn a_request_body_that_is_not_what_it_said() {
    // Sends no reply before the client has given up.
    let raw = Raw::start(|mut stream| {
        if read_head(&mut stream).is_some() {
            drain(&mut stream);
        }
    });
    let part = || io::Result::Ok(Bytes::from("part"));
    let broken = || Err(io::Error::other("the disk is gone"));
    let cases = [
        (Some(10), vec![part()], "6 bytes early"),
        (Some(3), vec![part()], "longer than it said"),
        (Some(10), vec![part(), broken()], "the disk is gone"),
        (None, vec![part(), broken()], "the disk is gone"),
        (Some(10), vec![], "10 bytes early"),
    ];
    let adapter = TokioHyper::new().unwrap();
    for (len, chunks, expected) in cases {
        let chunks = stream::iter(chunks).boxed();
        let request = request("PATCH", &raw.url("/"), Body::Stream { len, chunks });
        let error = bounded(adapter.send(request)).await.unwrap_err();
        assert_failure(&error, TransportErrorKind::Body, true);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn requests_that_cannot_be_sent() {
    let adapter = TokioHyper::new().unwrap();
    for (method, uri) in [
        ("GET", "/relative"),
        ("GET", "ftp://127.0.0.1/file"),
        ("GET", "host-only:80"),
        ("CONNECT", "http://127.0.0.1:1/"),
    ] {
        let error = bounded(adapter.send(request(method, uri, Body::Empty)))
            .await
            .unwrap_err();
        assert_failure(&error, Request, false);
    }
}

#[tokio::test]
async fn errors_hold_no_secret() {
    let raw = Raw::reply("nonsense\r\n\r\n");
    let adapter = TokioHyper::new().unwrap();
    let uri = raw.url("/path?private_token=glpat-planted");
    let uri = uri.replace("//", "//user:glpat-planted@");
    let mut request = request("POST", &uri, Body::Full("glpat-planted".into()));
    let headers = request.headers_mut();
    headers.insert("private-token", "glpat-planted".parse().unwrap());
    let error = bounded(adapter.send(request)).await.unwrap_err();
    let text = format!("{error} {error:?} {error:#?}");
    assert!(
        text.contains("/path") && !text.contains("planted"),
        "{text}"
    );
}
