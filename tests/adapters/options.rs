//! The options of the builders, on each adapter.

use std::{
    error::Error,
    io::{self, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use gitlab_runner::{
    adapter::{
        Adapter, AdapterBuilder, AdapterError, AdapterErrorKind, Body,
        TransportErrorKind::{Broken, Connect, Tls},
        conformance::{Exemption, Subject, support::*},
    },
    mock::http::{Loopback, ServerTls},
};
use http::HeaderValue;
use rcgen::KeyPair;

pub(crate) use crate::environment::the_environment_says_which_proxy_there_is;

/// An adapter and its builder.
pub(crate) trait Built: Adapter + Sized {
    const SUBJECT: &'static dyn Subject;
    /// Where its tests are.
    const MODULE: &'static str;

    fn builder() -> AdapterBuilder<Self>;

    fn build(builder: AdapterBuilder<Self>) -> Result<Self, AdapterError>;
}

/// One `#[test]` for each case here.
macro_rules! for_each_option {
    ($adapter:ty, $subject:expr) => {
        $crate::options::for_each_option! { $adapter, $subject;
            a_client_certificate_is_shown
            a_client_certificate_of_another_authority_is_refused
            certificates_that_cannot_be_used
            the_system_is_trusted_only_if_it_should_be
            a_changed_authority_is_read_again
            a_changed_client_certificate_is_read_again
            tls_goes_through_a_tunnel
            plain_requests_are_the_proxys_to_send
            hosts_without_proxy_are_reached_directly
            the_environment_says_which_proxy_there_is
            a_proxy_that_refuses
            no_more_connections_than_allowed
            old_connections_are_not_used_again
            unused_connections_are_not_kept
            limits_of_any_length
            all_requests_name_the_same_agent
            a_handshake_takes_no_longer_than_a_connection_may
        }
    };
    ($adapter:ty, $subject:expr; $($case:ident)+) => {
        impl $crate::options::Built for $adapter {
            const SUBJECT: &'static dyn gitlab_runner::adapter::conformance::Subject = &$subject;
            const MODULE: &'static str = module_path!();

            fn builder() -> gitlab_runner::adapter::AdapterBuilder<Self> {
                Self::builder()
            }

            fn build(
                builder: gitlab_runner::adapter::AdapterBuilder<Self>,
            ) -> Result<Self, gitlab_runner::adapter::AdapterError> {
                builder.build()
            }
        }

        mod options {
            $(
                #[test]
                fn $case() {
                    let case = $crate::options::$case::<$adapter>();
                    $crate::options::run::<$adapter>(Box::pin(case));
                }
            )+

            use super::*;
        }
    };
}
pub(crate) use for_each_option;

pub(crate) fn run<A: Built>(case: BoxFuture<'static, ()>) {
    A::SUBJECT.block_on(Box::pin(bounded(case)));
}

pub(crate) fn build<A: Built>(change: impl FnOnce(AdapterBuilder<A>) -> AdapterBuilder<A>) -> A {
    A::build(change(A::builder())).unwrap()
}

/// Whether `GET /status/204` is answered.
async fn is_answered(adapter: &dyn Adapter, url: &str) -> bool {
    let reply = get(adapter, &format!("{url}/status/204")).await;
    reply.is_ok_and(|reply| reply.status() == 204)
}

fn demanding(authority: &Authority, clients: &Authority) -> Loopback<Probe> {
    let tls = ServerTls {
        client_authority_pem: Some(clients.pem().into_bytes()),
        ..authority.server(&["127.0.0.1"])
    };
    Loopback::start_tls(Probe::default(), tls).unwrap()
}

pub(crate) async fn a_client_certificate_is_shown<A: Built>() {
    let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
    let server = demanding(&ours, &clients);
    let client = clients.server(&["runner.test"]);
    let adapter = build::<A>(|it| {
        it.ca_pem(ours.pem())
            .client_certificate_pem(client.cert_chain_pem.clone(), client.key_pem.clone())
    });
    assert!(is_answered(&adapter, &server.url()).await);
    assert!(!format!("{adapter:?}").contains("PRIVATE"));

    let dir = tempfile::tempdir().unwrap();
    let both = dir.path().join("both.pem");
    std::fs::write(&both, [client.key_pem, client.cert_chain_pem].concat()).unwrap();
    let adapter = build::<A>(|it| it.ca_pem(ours.pem()).client_certificate_files(&both, &both));
    assert!(is_answered(&adapter, &server.url()).await);
}

pub(crate) async fn a_client_certificate_of_another_authority_is_refused<A: Built>() {
    let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
    let raw = Raw::refusing(&ours.server(&["127.0.0.1"]), &clients);
    let stranger = Authority::new("others").server(&["runner.test"]);
    let adapter = build::<A>(|it| {
        it.ca_pem(ours.pem())
            .client_certificate_pem(stranger.cert_chain_pem, stranger.key_pem)
    });
    for _ in 0..5 {
        let error = get(&adapter, &format!("https://127.0.0.1:{}/", raw.port())).await;
        let error = error.unwrap_err();
        assert!(error.source().is_some(), "{error:?}");
        match A::SUBJECT.is_exempt(Exemption::HidesLateRefusal) {
            true => assert_failure(&error, Broken, true),
            false => assert_failure(&error, Tls, false),
        }
        // Whatever the kind, people are told where to look.
        let text = error.to_string().to_lowercase();
        assert!(
            ["certificate", "unknownca", "unknown ca"]
                .iter()
                .any(|it| text.contains(it)),
            "{text}"
        );
    }
}

pub(crate) async fn certificates_that_cannot_be_used<A: Built>() {
    let one = Authority::new("one").server(&["runner.test"]);
    let key = KeyPair::generate().unwrap().serialize_pem();
    let missing = tempfile::tempdir().unwrap().path().join("missing.pem");
    const BROKEN: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let chain = one.cert_chain_pem.clone();
    type Change<A> = Box<dyn FnOnce(AdapterBuilder<A>) -> AdapterBuilder<A>>;
    let cases: Vec<(Change<A>, &str)> = vec![
        (
            Box::new(|it| it.ca_pem("no PEM at all")),
            "there is no certificate",
        ),
        (Box::new(|it| it.ca_pem(BROKEN)), "a certificate is broken"),
        (
            Box::new(|it| it.ca_file(missing)),
            "missing.pem: the file cannot be read",
        ),
        (
            Box::new(|it| it.client_certificate_pem("nothing", one.key_pem)),
            "there is no certificate",
        ),
        (
            Box::new(|it| it.client_certificate_pem(one.cert_chain_pem, "nothing")),
            "there is no private key",
        ),
        (
            Box::new(move |it| it.client_certificate_pem(chain, key)),
            "the key is not that of the certificate",
        ),
    ];
    for (change, expected) in cases {
        let error = A::build(change(A::builder())).unwrap_err();
        assert_eq!(error.kind(), AdapterErrorKind::Certificate);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(
            error.source().is_none(),
            expected == "there is no certificate"
        );
    }
}

pub(crate) async fn the_system_is_trusted_only_if_it_should_be<A: Built>() {
    let ours = Authority::new("ours");
    let server = Loopback::start_tls(Probe::default(), ours.server(&["127.0.0.1"])).unwrap();
    let alone = build::<A>(|it| it.system_roots(false).ca_pem(ours.pem()));
    assert!(is_answered(&alone, &server.url()).await);
    // Nobody is trusted at all.
    let nobody = build::<A>(|it| it.system_roots(false));
    let error = get(&nobody, &server.url()).await.unwrap_err();
    assert_failure(&error, Tls, false);
}

pub(crate) async fn a_changed_authority_is_read_again<A: Built>() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, old.pem()).unwrap();
    let adapter = build::<A>(|it| it.ca_file(file.path()));
    let start = |authority: &Authority| {
        Loopback::start_tls(Probe::default(), authority.server(&["127.0.0.1"])).unwrap()
    };
    assert!(is_answered(&adapter, &start(&old).url()).await);
    assert!(!is_answered(&adapter, &start(&new).url()).await);
    // Half of it is there, then all.
    std::fs::write(&file, &new.pem()[..100]).unwrap();
    assert!(is_answered(&adapter, &start(&old).url()).await);
    std::fs::write(&file, new.pem()).unwrap();
    assert!(is_answered(&adapter, &start(&new).url()).await);
    assert!(!is_answered(&adapter, &start(&old).url()).await);
    std::fs::remove_file(&file).unwrap();
    assert!(is_answered(&adapter, &start(&new).url()).await);
}

pub(crate) async fn a_changed_client_certificate_is_read_again<A: Built>() {
    let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let write = |tls: &ServerTls| {
        std::fs::write(&chain, &tls.cert_chain_pem).unwrap();
        std::fs::write(&key, &tls.key_pem).unwrap();
    };
    write(&Authority::new("others").server(&["runner.test"]));
    let adapter = build::<A>(|it| it.ca_pem(ours.pem()).client_certificate_files(&chain, &key));
    let server = demanding(&ours, &clients);
    assert!(!is_answered(&adapter, &server.url()).await);
    write(&clients.server(&["runner.test"]));
    assert!(is_answered(&adapter, &server.url()).await);
}

/// A proxy on loopback, which finds everything on one port of this machine, and the heads of the
/// requests it was sent.
pub(crate) fn proxy(port: u16) -> (Raw, mpsc::Receiver<String>) {
    let (send, heads) = mpsc::channel();
    let proxy = Raw::start(move |mut client| {
        while let Some(head) = read_head(&mut client) {
            let tunnel = head.starts_with("connect ");
            send.send(head).unwrap();
            if tunnel {
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                client
                    .write_all(b"HTTP/1.1 200 Go on\r\nX: y\r\n\r\n")
                    .unwrap();
                return splice(&client, &server);
            }
            client
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nproxy")
                .unwrap();
        }
    });
    (proxy, heads)
}

/// Both ways, until both have ended.
fn splice(client: &TcpStream, server: &TcpStream) {
    let copy = |mut from: &TcpStream, mut to: &TcpStream| {
        drop(io::copy(&mut from, &mut to));
        drop(to.shutdown(Shutdown::Write));
    };
    std::thread::scope(|scope| {
        scope.spawn(|| copy(client, server));
        copy(server, client);
    });
}

pub(crate) fn with_password(proxy: &Raw) -> String {
    format!("http://user:planted@127.0.0.1:{}", proxy.port())
}

/// Of `user:planted`, in the lower case of [`read_head`].
pub(crate) const AUTHORIZATION: &str = "proxy-authorization: basic dxnlcjpwbgfudgvk\r\n";

pub(crate) async fn tls_goes_through_a_tunnel<A: Built>() {
    let ours = Authority::new("ours");
    let server = Loopback::start_tls(Probe::default(), ours.server(&["gitlab.test"])).unwrap();
    let (proxy, heads) = proxy(server.addr().port());
    let adapter = build::<A>(|it| it.ca_pem(ours.pem()).proxy(with_password(&proxy)));
    assert!(!format!("{adapter:?}").contains("planted"));
    for text in ["one", "two"] {
        let mut request = request("POST", "https://gitlab.test/echo", Body::Full(text.into()));
        let token = HeaderValue::from_static("glrt-planted-token");
        request.headers_mut().insert("job-token", token);
        let reply = adapter.send(request).await.unwrap();
        assert_eq!(collect(reply.into_body()).await.unwrap(), text.as_bytes());
    }
    drop((adapter, proxy));
    let heads: Vec<_> = heads.iter().collect();
    assert!(!heads.is_empty());
    for head in heads {
        assert!(
            head.starts_with("connect gitlab.test:443 http/1.1\r\n"),
            "{head}"
        );
        assert!(head.contains("host: gitlab.test:443\r\n"), "{head}");
        assert!(head.contains(AUTHORIZATION), "{head}");
        assert!(!head.contains("glrt"), "{head}");
    }
    assert_eq!(server.with(|probe, _| probe.seen.len()), 2);
}

pub(crate) async fn plain_requests_are_the_proxys_to_send<A: Built>() {
    let (proxy, heads) = proxy(0);
    let adapter = build::<A>(|it| it.proxy(with_password(&proxy)));
    for host in ["gitlab.test", "other.test:81"] {
        let reply = get(&adapter, &format!("http://{host}/a?b")).await.unwrap();
        assert_eq!(collect(reply.into_body()).await.unwrap(), b"proxy");
        let head = heads.recv().unwrap();
        assert!(
            head.starts_with(&format!("get http://{host}/a?b http/1.1\r\n")),
            "{head}"
        );
        assert!(head.contains(&format!("host: {host}\r\n")), "{head}");
        assert!(head.contains(AUTHORIZATION), "{head}");
    }
}

pub(crate) async fn hosts_without_proxy_are_reached_directly<A: Built>() {
    let server = Loopback::start(Probe::default()).unwrap();
    let (proxy, heads) = proxy(0);
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let spared = build::<A>(|it| it.proxy(&*url).no_proxy("gitlab.test, 127.0.0.0/8"));
    assert!(is_answered(&spared, &server.url()).await);
    let others = build::<A>(|it| it.proxy(&*url).no_proxy("gitlab.test"));
    assert!(!is_answered(&others, &server.url()).await);
    let direct = build::<A>(|it| it.proxy(&*url).without_proxy());
    assert!(is_answered(&direct, &server.url()).await);
    drop((spared, others, direct, proxy));
    assert_eq!(heads.iter().count(), 1);
}

pub(crate) async fn a_proxy_that_refuses<A: Built>() {
    for reply in [
        "HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n",
        "nonsense\r\n\r\n",
        "",
    ] {
        let raw = Raw::start(move |mut stream| {
            if read_head(&mut stream).is_some() {
                stream.write_all(reply.as_bytes()).unwrap();
                drop(stream.shutdown(Shutdown::Write));
                drain(&mut stream);
            }
        });
        let adapter = build::<A>(|it| it.proxy(with_password(&raw)));
        let error = get(&adapter, "https://gitlab.test/").await.unwrap_err();
        let hides = A::SUBJECT.is_exempt(Exemption::HidesLateRefusal);
        if hides && !reply.contains("407") {
            // libcurl does not say that it was the proxy.
            assert_failure(&error, Broken, true);
        } else {
            assert_failure(&error, Connect, false);
        }
        let text = format!("{error} {error:?}");
        assert!(!text.contains("planted"), "{text}");
        assert!(!text.contains("dXNlcjpwbGFudGVk"), "{text}");
        if reply.contains("407") && !hides {
            assert!(text.contains("407"), "{text}");
        }
    }
    // Nobody listens.
    let raw = Raw::start(drop);
    let (url, port) = (with_password(&raw), raw.port());
    drop(raw);
    let adapter = build::<A>(|it| it.proxy(url));
    let whose = format!("the proxy 127.0.0.1:{port} cannot be reached: ");
    for uri in ["http://gitlab.test/", "https://gitlab.test/"] {
        let error = get(&adapter, uri).await.unwrap_err();
        assert_failure(&error, Connect, false);
        // libcurl has its own words.
        if !A::SUBJECT.is_exempt(Exemption::HidesLateRefusal) {
            assert!(error.to_string().contains(&whose), "{error}");
        }
    }
}

pub(crate) async fn no_more_connections_than_allowed<A: Built>() {
    let server = Arc::new(Loopback::start(Probe::default()).unwrap());
    let adapter = Arc::new(build::<A>(|it| it.max_connections(3)));
    let uri = format!("{}/hold", server.url());
    let requests = (0..12).map(|_| {
        let (sender, uri) = (adapter.clone(), uri.clone());
        spawned(&*adapter, async move {
            let reply = get(&*sender, &uri).await.unwrap();
            collect(reply.into_body()).await.unwrap()
        })
    });
    let requests = join_all(requests.collect::<Vec<_>>());
    let most = Arc::new(Mutex::new(0));
    let (answering, seen) = (server.clone(), most.clone());
    let answered = elsewhere(move || {
        for _ in 0..4 {
            // All that may come at a time, before the first one is answered.
            let holds = answering.wait_until(LIMIT, |probe| {
                (probe.holds.len() >= 3).then(|| probe.holds.clone())
            });
            let holds = holds.unwrap();
            let mut most = seen.lock().unwrap();
            *most = holds.len().max(*most);
            answering.with(|probe, _| probe.released.extend(holds));
        }
    });
    let (texts, ()) = futures::join!(requests, answered);
    assert_eq!(texts, vec![b"released"; 12]);
    assert_eq!(*most.lock().unwrap(), 3);
}

pub(crate) async fn old_connections_are_not_used_again<A: Built>() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = build::<A>(|it| it.max_connection_age(Duration::ZERO));
    for _ in 0..5 {
        assert!(is_answered(&adapter, &server.url()).await);
    }
    assert_eq!(server.connections(), 5);
}

pub(crate) async fn unused_connections_are_not_kept<A: Built>() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = build::<A>(|it| it.max_idle_connections(0));
    for _ in 0..5 {
        assert!(is_answered(&adapter, &server.url()).await);
    }
    assert_eq!(server.connections(), 5);
}

pub(crate) async fn limits_of_any_length<A: Built>() {
    let longest = build::<A>(|it| {
        it.idle_timeout(Duration::MAX)
            .connect_timeout(Duration::MAX)
            .max_connection_age(Duration::MAX)
    });
    let server = Loopback::start(Probe::default()).unwrap();
    assert!(is_answered(&longest, &server.url()).await);
    // Kept for no time at all.
    let before = server.connections();
    let shortest = build::<A>(|it| it.idle_timeout(Duration::ZERO));
    for _ in 0..5 {
        assert!(is_answered(&shortest, &server.url()).await);
    }
    assert_eq!(server.connections() - before, 5);
    let raw = Raw::start(|mut stream| drain(&mut stream));
    for limit in [Duration::ZERO, Duration::from_nanos(1)] {
        let hasty = build::<A>(|it| it.connect_timeout(limit));
        let error = get(&hasty, &format!("https://127.0.0.1:{}/", raw.port())).await;
        assert_failure(&error.unwrap_err(), Connect, false);
    }
}

pub(crate) async fn all_requests_name_the_same_agent<A: Built>() {
    let (send, heads) = mpsc::channel();
    let raw = Raw::start(move |mut stream| {
        while let Some(head) = read_head(&mut stream) {
            send.send(head).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
        }
    });
    let adapter = build::<A>(|it| it.user_agent(HeaderValue::from_static("lab/1.2")));
    let mut named = request("GET", &raw.url("/"), Body::Empty);
    let other = HeaderValue::from_static("other");
    named.headers_mut().insert("user-agent", other);
    for request in [request("GET", &raw.url("/"), Body::Empty), named] {
        adapter.send(request).await.unwrap();
        let head = heads.recv().unwrap();
        let agents: Vec<_> = head
            .lines()
            .filter(|line| line.starts_with("user-agent"))
            .collect();
        assert_eq!(agents, ["user-agent: lab/1.2"]);
    }
}

pub(crate) async fn a_handshake_takes_no_longer_than_a_connection_may<A: Built>() {
    // Says nothing.
    let raw = Raw::start(|mut stream| drain(&mut stream));
    let ours = Authority::new("ours");
    let adapter = build::<A>(|it| {
        it.ca_pem(ours.pem())
            .connect_timeout(Duration::from_millis(20))
    });
    let error = get(&adapter, &format!("https://127.0.0.1:{}/", raw.port())).await;
    assert_failure(&error.unwrap_err(), Connect, false);
}
