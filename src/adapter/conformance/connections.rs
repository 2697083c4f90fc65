//! How connections are used: kept, used again, given up, never used to send twice.

use std::{
    io::Write,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use futures::{
    future::{self, Either},
    pin_mut,
};

use super::{Exemption, Subject, support::*};
use crate::{
    adapter::{Adapter, Body, TransportErrorKind::Broken},
    mock::http::Loopback,
    sync::lock,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

pub async fn a_connection_is_kept_and_used_again(subject: &dyn Subject) {
    let server = Loopback::start(Probe::default()).unwrap();
    echoes(&*subject.adapter(&[]), &server).await;
}

pub async fn a_tls_connection_is_kept_and_used_again(subject: &dyn Subject) {
    let authority = Authority::new("ours");
    let server = Loopback::start_tls(Probe::default(), authority.server(&["127.0.0.1"])).unwrap();
    echoes(&*subject.adapter(&[authority.pem()]), &server).await;
}

async fn echoes(adapter: &dyn Adapter, server: &Loopback<Probe>) {
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
    assert_eq!(server.with(|probe, _| probe.seen.len()), 20);
    // A connection may come back just too late for the next request, but not twenty times.
    assert!(server.connections() < 10, "{}", server.connections());
}

pub async fn a_hundred_requests_at_once(subject: &dyn Subject) {
    let server = Arc::new(Loopback::start(Probe::default()).unwrap());
    let adapter = subject.adapter(&[]);
    let uri = format!("{}/hold", server.url());
    let requests: Vec<_> = (0..100)
        .map(|_| {
            let (sender, uri) = (adapter.clone(), uri.clone());
            spawned(&*adapter, async move {
                let reply = get(&*sender, &uri).await.unwrap();
                collect(reply.into_body()).await.unwrap()
            })
        })
        .collect();
    let waiting = server.clone();
    let all = elsewhere(move || {
        waiting.wait_until(LIMIT, |probe| (probe.holds.len() == 100).then_some(()))
    });
    assert_eq!(all.await, Some(()), "they wait for each other");
    server.with(|probe, _| probe.released.extend(probe.holds.clone()));
    for text in future::join_all(requests).await {
        assert_eq!(text, b"released");
    }
    assert_eq!(server.connections(), 100);
}

/// Each request meets a connection that is about to close, or has been closed.
pub async fn nothing_is_sent_twice(subject: &dyn Subject) {
    let (send, heads) = mpsc::channel();
    let raw = Raw::start(move |mut stream| {
        if let Some(head) = read_head(&mut stream) {
            send.send(head).unwrap();
            stream.write_all(OK).unwrap();
        }
    });
    let adapter = subject.adapter(&[]);
    let mut answers = Vec::new();
    for number in 0..50 {
        let request = request("POST", &raw.url(&format!("/{number}")), Body::Empty);
        answers.push(adapter.send(request).await);
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

/// The server takes a request on a connection that was used before, and closes it. It may have
/// done what it was asked to.
pub async fn a_lost_reply_is_not_asked_for_again(subject: &dyn Subject) {
    for (method, body) in [("POST", Some("ask")), ("GET", None)] {
        if body.is_none() && subject.is_exempt(Exemption::RepeatsWithoutBody) {
            continue;
        }
        let (send, heads) = mpsc::channel();
        let raw = Raw::start(move |mut stream| {
            while let Some(head) = read_head(&mut stream) {
                let first = head.contains("/first");
                send.send(head).unwrap();
                if !first {
                    return;
                }
                stream.write_all(OK).unwrap();
            }
        });
        let adapter = subject.adapter(&[]);
        for _ in 0..5 {
            let reply = get(&*adapter, &raw.url("/first")).await.unwrap();
            collect(reply.into_body()).await.unwrap();
        }
        let body = body.map_or(Body::Empty, |text| Body::Full(text.into()));
        let error = adapter
            .send(request(method, &raw.url("/second"), body))
            .await;
        assert_failure(&error.unwrap_err(), Broken, true);
        drop((adapter, raw));
        let seen = heads.iter().filter(|head| head.contains("/second")).count();
        assert_eq!(seen, 1, "{method}");
    }
}

pub async fn dropping_a_request_closes_its_connection(subject: &dyn Subject) {
    let dropped = Dropped::start(subject, b"", b"HTTP/1.1 200 OK\r\nX: ");
    let adapter = subject.adapter(&[]);
    let uri = dropped.raw.url("/");
    let came = dropped.came();
    let send = get(&*adapter, &uri);
    {
        pin_mut!(came, send);
        // Here the request is dropped.
        if let Either::Right((reply, _)) = future::select(came, send).await {
            panic!("answered: {reply:?}");
        }
    }
    dropped.closed().await;
}

pub async fn dropping_a_reply_closes_its_connection(subject: &dyn Subject) {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nsome";
    let dropped = Dropped::start(subject, head, b"more");
    let adapter = subject.adapter(&[]);
    let reply = get(&*adapter, &dropped.raw.url("/")).await.unwrap();
    drop(reply);
    dropped.closed().await;
}

/// A server that waits for the client to close its connection.
struct Dropped {
    raw: Raw,
    came: Arc<Mutex<mpsc::Receiver<()>>>,
    /// Lets a server go on that has to, for the client to notice.
    go_on: mpsc::Sender<()>,
    closed: mpsc::Receiver<()>,
}

impl Dropped {
    /// Says `first` to a request, and for an adapter that cannot do without more of `more` later.
    fn start(subject: &dyn Subject, first: &'static [u8], more: &'static [u8]) -> Self {
        let late = subject.is_exempt(Exemption::NoticesDropLate);
        let (send_came, came) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let (send_closed, closed) = mpsc::channel();
        let goes_on = Mutex::new(goes_on);
        let raw = Raw::start(move |mut stream| {
            read_head(&mut stream).unwrap();
            stream.write_all(first).unwrap();
            send_came.send(()).unwrap();
            if late {
                lock(&goes_on).recv().unwrap();
                let more = more.repeat(1024);
                while stream.write_all(&more).is_ok() {}
            } else {
                drain(&mut stream);
            }
            send_closed.send(()).unwrap();
        });
        Self {
            raw,
            came: Arc::new(Mutex::new(came)),
            go_on,
            closed,
        }
    }

    /// Until the server has the request.
    fn came(&self) -> impl Future<Output = ()> + use<> {
        let came = self.came.clone();
        elsewhere(move || {
            lock(&came)
                .recv_timeout(LIMIT)
                .expect("the request never came")
        })
    }

    async fn closed(self) {
        self.go_on.send(()).unwrap();
        let closed = self.closed;
        elsewhere(move || closed.recv_timeout(LIMIT).expect("it stays open")).await;
    }
}

/// Idle connections are the adapter's, and end with it.
pub async fn dropping_the_adapter_closes_its_connections(subject: &dyn Subject) {
    let (send, closed) = mpsc::channel();
    let raw = Raw::start(move |mut stream| {
        read_head(&mut stream).unwrap();
        stream.write_all(OK).unwrap();
        drain(&mut stream);
        send.send(()).unwrap();
    });
    let adapter = subject.adapter(&[]);
    let reply = get(&*adapter, &raw.url("/")).await.unwrap();
    collect(reply.into_body()).await.unwrap();
    assert!(closed.try_recv().is_err(), "it was not kept");
    drop(adapter);
    elsewhere(move || closed.recv_timeout(LIMIT).unwrap()).await;
}

/// What the adapter does beside the runtime ends with it, too.
pub async fn dropping_the_adapter_ends_its_threads(subject: &dyn Subject) {
    const ADAPTERS: usize = 20;
    let server = Loopback::start(Probe::default()).unwrap();
    let mut before = 0;
    let mut adapters = Vec::new();
    // The first one may start threads of the runtime, which stay.
    for number in 0..=ADAPTERS {
        let adapter = subject.adapter(&[]);
        let reply = get(&*adapter, &server.url()).await.unwrap();
        collect(reply.into_body()).await.unwrap();
        match number {
            0 => drop(adapter),
            _ => adapters.push(adapter),
        }
        if number == 0 {
            before = threads();
        }
    }
    drop(adapters);
    // Other tests may be at work beside: one thread too many for each adapter would still show.
    elsewhere(move || {
        let started = std::time::Instant::now();
        while threads() >= before + ADAPTERS {
            assert!(started.elapsed() < LIMIT, "their threads go on");
            std::thread::yield_now();
        }
    })
    .await;
}

/// How many threads this process has; 0 where the system does not tell.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// How a time limit works: whoever waits drops what takes too long, or just looks at it no more. The
/// others must not need what it holds.
pub async fn a_request_out_of_time_leaves_the_others_alone(subject: &dyn Subject) {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = subject.adapter(&[]);
    let (hold, echo) = (
        format!("{}/hold", server.url()),
        format!("{}/echo", server.url()),
    );
    for _ in 0..10 {
        let limit = adapter.sleep_until(adapter.now() + Duration::from_millis(2));
        let late = get(&*adapter, &hold);
        pin_mut!(late);
        if let Either::Left((reply, _)) = future::select(late, limit).await {
            panic!("answered: {reply:?}");
        }
        let body = Body::Full("in time".into());
        let reply = adapter.send(request("POST", &echo, body)).await.unwrap();
        assert_eq!(collect(reply.into_body()).await.unwrap(), b"in time");
    }
}
