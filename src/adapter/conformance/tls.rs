//! The same over TLS, and the ways in which TLS fails.

use std::io::{Read, Write};

use super::{Exemption, Subject, support::*};
use crate::{
    adapter::{
        Body,
        TransportErrorKind::{Broken, Tls},
    },
    mock::http::Loopback,
};

pub async fn a_given_authority_is_trusted(subject: &dyn Subject) {
    let authorities = [Authority::new("ours"), Authority::new("theirs")];
    let adapter = subject.adapter(&authorities.each_ref().map(Authority::pem));
    for authority in authorities {
        let tls = authority.server(&["localhost", "127.0.0.1"]);
        let server = Loopback::start_tls(Probe::default(), tls).unwrap();
        for host in ["localhost", "127.0.0.1"] {
            let uri = format!("https://{host}:{}/echo", server.addr().port());
            let body = Body::Full("secretly".into());
            let reply = adapter.send(request("PUT", &uri, body)).await.unwrap();
            assert_eq!(collect(reply.into_body()).await.unwrap(), b"secretly");
        }
        // The next one finds the connection closed behind a request.
        let uri = format!("{}/close", server.url());
        let body = Body::Full("ask".into());
        let error = adapter.send(request("POST", &uri, body)).await.unwrap_err();
        assert_failure(&error, Broken, true);
    }
}

pub async fn another_authority_is_not(subject: &dyn Subject) {
    let tls = Authority::new("ours").server(&["localhost", "127.0.0.1"]);
    let server = Loopback::start_tls(Probe::default(), tls).unwrap();
    let adapter = subject.adapter(&[Authority::new("another").pem()]);
    let error = get(&*adapter, &server.url()).await.unwrap_err();
    assert_failure(&error, Tls, false);
    let text = error.to_string();
    assert!(text.contains("certificate"), "{text}");
    assert!(text.contains(&server.url()), "{text}");
    assert!(server.with(|probe, _| probe.seen.is_empty()));
}

pub async fn the_name_has_to_fit(subject: &dyn Subject) {
    let authority = Authority::new("ours");
    let server =
        Loopback::start_tls(Probe::default(), authority.server(&["elsewhere.test"])).unwrap();
    let adapter = subject.adapter(&[authority.pem()]);
    let error = get(&*adapter, &server.url()).await.unwrap_err();
    assert_failure(&error, Tls, false);
    assert!(error.to_string().contains("certificate"), "{error}");
}

pub async fn the_server_speaks_no_tls(subject: &dyn Subject) {
    let plain = Raw::start(|mut stream| {
        let mut hello = [0; 5];
        if stream.read_exact(&mut hello).is_ok() {
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .unwrap();
            drain(&mut stream);
        }
    });
    let hangs_up = Raw::start(|mut stream| {
        let mut hello = [0; 5];
        drop(stream.read_exact(&mut hello));
    });
    let adapter = subject.adapter(&[Authority::new("ours").pem()]);
    for port in [plain.port(), hangs_up.port()] {
        let error = get(&*adapter, &format!("https://127.0.0.1:{port}/"))
            .await
            .unwrap_err();
        if port == hangs_up.port() && subject.is_exempt(Exemption::HidesCutHandshake) {
            assert_failure(&error, Broken, true);
        } else {
            assert_failure(&error, Tls, false);
        }
    }
}

/// In TLS 1.3 the client is told that it lacks a certificate only when it has sent its request.
pub async fn the_server_wants_a_certificate(subject: &dyn Subject) {
    let authority = Authority::new("ours");
    let tls = authority.server(&["127.0.0.1"]);
    let raw = Raw::refusing(&tls, &authority);
    let adapter = subject.adapter(&[authority.pem()]);
    let error = get(&*adapter, &format!("https://127.0.0.1:{}/", raw.port())).await;
    let error = error.unwrap_err();
    if subject.is_exempt(Exemption::HidesLateRefusal) {
        return assert_failure(&error, Broken, true);
    }
    assert_failure(&error, Tls, false);
    let text = error.to_string().to_lowercase();
    assert!(text.contains("certificate"), "{text}");
}
