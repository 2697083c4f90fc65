//! What the adapter says when there is no reply.

use std::{
    error::Error,
    io::{self, Write},
    net::TcpListener,
};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{Subject, support::*};
use crate::{
    adapter::{
        Body, TransportError,
        TransportErrorKind::{self, *},
    },
    mock::http::Loopback,
};

pub async fn nobody_listens(subject: &dyn Subject) {
    let addr = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let adapter = subject.adapter(&[]);
    for scheme in ["http", "https"] {
        let uri = format!("{scheme}://{addr}/api");
        let error = get(&*adapter, &uri).await.unwrap_err();
        assert_failure(&error, Connect, false);
        let text = error.to_string();
        assert!(text.contains(&format!("GET {uri}")), "{text}");
        assert!(error.source().is_some(), "{text}");
    }
}

pub async fn closed_without_a_reply(subject: &dyn Subject) {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = subject.adapter(&[]);
    let body = Body::Full("ask".into());
    let request = request("POST", &format!("{}/close", server.url()), body);
    let error = adapter.send(request).await.unwrap_err();
    assert_failure(&error, Broken, true);
    assert_eq!(server.with(|probe, _| probe.seen.clone()), ["POST /close"]);
}

pub async fn closed_ahead_of_the_request(subject: &dyn Subject) {
    let raw = Raw::start(drop);
    let adapter = subject.adapter(&[]);
    for _ in 0..20 {
        let error = get(&*adapter, &raw.url("/")).await.unwrap_err();
        // Whether a byte was written depends on who was faster.
        assert_eq!(error.kind(), Broken, "{error}");
    }
}

pub async fn cut_in_the_middle_of_the_request(subject: &dyn Subject) {
    let raw = Raw::start(|mut stream| {
        read_head(&mut stream);
    });
    let adapter = subject.adapter(&[]);
    let block = Bytes::from(vec![7; 1024 * 1024]);
    let len = subject.large();
    let blocks = stream::iter(0..len / block.len() as u64).map(move |_| Ok(block.clone()));
    let body = Body::Stream {
        len: Some(len),
        chunks: blocks.boxed(),
    };
    let error = adapter.send(request("PUT", &raw.url("/"), body)).await;
    assert_failure(&error.unwrap_err(), Broken, true);
}

pub async fn cut_in_the_middle_of_the_head(subject: &dyn Subject) {
    for head in [
        "H",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
    ] {
        let raw = Raw::start(move |mut stream| {
            if read_head(&mut stream).is_some() {
                stream.write_all(head.as_bytes()).unwrap();
                let _ = stream.shutdown(std::net::Shutdown::Write);
                drain(&mut stream);
            }
        });
        let adapter = subject.adapter(&[]);
        let error = get(&*adapter, &raw.url("/")).await.unwrap_err();
        assert_failure(&error, Broken, true);
    }
}

pub async fn cut_in_the_middle_of_the_body(subject: &dyn Subject) {
    let server = Loopback::start(Probe::default()).unwrap();
    let chunked = Raw::start(|mut stream| {
        read_head(&mut stream).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            .unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        drain(&mut stream);
    });
    let adapter = subject.adapter(&[]);
    for uri in [format!("{}/cut", server.url()), chunked.url("/")] {
        let reply = get(&*adapter, &uri).await.unwrap();
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
    }
}

pub async fn what_comes_is_not_http(subject: &dyn Subject) {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1024 * 1024));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    let replies = [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 999999 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        &long,
        &many,
    ];
    let adapter = subject.adapter(&[]);
    for reply in replies {
        let raw = Raw::reply(reply);
        let error = get(&*adapter, &raw.url("/")).await.unwrap_err();
        assert_failure(&error, Broken, true);
        assert!(error.source().is_some());
    }
}

pub async fn a_request_body_that_is_not_what_it_said(subject: &dyn Subject) {
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
    let adapter = subject.adapter(&[]);
    for (len, chunks, expected) in cases {
        let chunks = stream::iter(chunks).boxed();
        let request = request("PATCH", &raw.url("/"), Body::Stream { len, chunks });
        let error = adapter.send(request).await.unwrap_err();
        assert_failure(&error, TransportErrorKind::Body, true);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

pub async fn requests_that_cannot_be_sent(subject: &dyn Subject) {
    let adapter = subject.adapter(&[]);
    for (method, uri) in [
        ("GET", "/relative"),
        ("GET", "ftp://127.0.0.1/file"),
        ("GET", "host-only:80"),
        ("CONNECT", "http://127.0.0.1:1/"),
    ] {
        let error = adapter
            .send(request(method, uri, Body::Empty))
            .await
            .unwrap_err();
        assert_failure(&error, Request, false);
    }
}

pub async fn errors_hold_no_secret(subject: &dyn Subject) {
    let raw = Raw::reply("nonsense\r\n\r\n");
    let adapter = subject.adapter(&[]);
    let uri = raw.url("/path?private_token=glpat-planted");
    let uri = uri.replace("//", "//user:glpat-planted@");
    let mut request = request("POST", &uri, Body::Full("glpat-planted".into()));
    let headers = request.headers_mut();
    headers.insert("private-token", "glpat-planted".parse().unwrap());
    let error = adapter.send(request).await.unwrap_err();
    let text = format!("{error} {error:?} {error:#?}");
    assert!(
        text.contains("/path") && !text.contains("planted"),
        "{text}"
    );
}
