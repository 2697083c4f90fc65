//! The same over TLS, and the ways in which TLS fails.

use std::{
    error::Error,
    io::{Read, Write},
    sync::Arc,
};

use gitlab_runner::{
    adapter::{
        Adapter, AdapterErrorKind, Body, TokioHyper,
        TransportErrorKind::{Broken, Tls},
    },
    mock::http::{Loopback, ServerTls},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::support::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn server(&self, names: &[&str]) -> ServerTls {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &self.0)
            .unwrap();
        ServerTls {
            cert_chain_pem: certificate.pem().into_bytes(),
            key_pem: key.serialize_pem().into_bytes(),
        }
    }
}

#[tokio::test]
async fn a_given_authority_is_trusted() {
    let authority = Authority::new("ours");
    let tls = authority.server(&["localhost", "127.0.0.1"]);
    let server = Loopback::start_tls(Probe::default(), tls).unwrap();
    assert!(server.url().starts_with("https://127.0.0.1:"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let adapters = [
        TokioHyper::builder()
            .ca_pem(authority.pem())
            .build()
            .unwrap(),
        TokioHyper::builder().ca_file(file.path()).build().unwrap(),
    ];
    for adapter in adapters {
        for host in ["localhost", "127.0.0.1"] {
            let uri = format!("https://{host}:{}/echo", server.addr().port());
            let body = Body::Full("secretly".into());
            bounded(async {
                let reply = adapter.send(request("PUT", &uri, body)).await.unwrap();
                assert_eq!(collect(reply.into_body()).await.unwrap(), b"secretly");
            })
            .await;
        }
        // The next one finds the connection closed behind a request.
        let uri = format!("{}/close", server.url());
        assert_failure(
            &bounded(get(&adapter, &uri)).await.unwrap_err(),
            Broken,
            true,
        );
    }
}

#[tokio::test]
async fn another_authority_is_not() {
    let tls = Authority::new("ours").server(&["localhost", "127.0.0.1"]);
    let server = Loopback::start_tls(Probe::default(), tls).unwrap();
    let adapter = TokioHyper::builder()
        .ca_pem(Authority::new("another").pem())
        .build()
        .unwrap();
    let error = bounded(get(&adapter, &server.url())).await.unwrap_err();
    assert_failure(&error, Tls, false);
    let text = error.to_string();
    assert!(
        text.contains("invalid peer certificate: UnknownIssuer"),
        "{text}"
    );
    assert!(text.contains(&server.url()), "{text}");
    assert!(server.with(|probe, _| probe.seen.is_empty()));
}

#[tokio::test]
async fn the_name_has_to_fit() {
    let authority = Authority::new("ours");
    let server =
        Loopback::start_tls(Probe::default(), authority.server(&["elsewhere.test"])).unwrap();
    let adapter = TokioHyper::builder()
        .ca_pem(authority.pem())
        .build()
        .unwrap();
    let error = bounded(get(&adapter, &server.url())).await.unwrap_err();
    assert_failure(&error, Tls, false);
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn the_server_speaks_no_tls() {
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
    let adapter = TokioHyper::builder()
        .ca_pem(Authority::new("ours").pem())
        .build()
        .unwrap();
    for port in [plain.port(), hangs_up.port()] {
        let error = bounded(get(&adapter, &format!("https://127.0.0.1:{port}/")))
            .await
            .unwrap_err();
        assert_failure(&error, Tls, false);
    }
}

/// In TLS 1.3 the client is told that it lacks a certificate only when it has sent its request.
#[tokio::test]
async fn the_server_wants_a_certificate() {
    let authority = Authority::new("ours");
    let tls = authority.server(&["127.0.0.1"]);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            CertificateDer::pem_slice_iter(&tls.cert_chain_pem)
                .collect::<Result<_, _>>()
                .unwrap(),
            PrivateKeyDer::from_pem_slice(&tls.key_pem).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let raw = Raw::start(move |mut stream| {
        let mut tls = ServerConnection::new(config.clone()).unwrap();
        while tls.is_handshaking() {
            if tls.complete_io(&mut stream).is_err() {
                break;
            }
        }
        assert!(tls.is_handshaking(), "the client has no certificate");
        while tls.wants_write() {
            tls.write_tls(&mut stream).unwrap();
        }
        drain(&mut stream);
    });
    let adapter = TokioHyper::builder()
        .ca_pem(authority.pem())
        .build()
        .unwrap();
    let error = bounded(get(&adapter, &format!("https://127.0.0.1:{}/", raw.port()))).await;
    let error = error.unwrap_err();
    assert_failure(&error, Tls, false);
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn authorities_that_cannot_be_used() {
    let missing = tempfile::tempdir().unwrap().path().join("missing.pem");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (builder, expected) in [
        (
            TokioHyper::builder().ca_pem("no PEM at all"),
            "there is no certificate",
        ),
        (
            TokioHyper::builder().ca_pem(KeyPair::generate().unwrap().serialize_pem()),
            "there is no",
        ),
        (
            TokioHyper::builder().ca_pem(broken),
            "a certificate is broken",
        ),
        (
            TokioHyper::builder().ca_file(missing),
            "missing.pem: the file cannot be read",
        ),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), AdapterErrorKind::Certificate);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(
            error.source().is_none(),
            expected.starts_with("there is no")
        );
    }
}

#[test]
fn a_server_needs_a_certificate_and_its_key() {
    let authority = Authority::new("ours");
    let mut tls = authority.server(&["127.0.0.1"]);
    tls.key_pem = authority.server(&["127.0.0.1"]).key_pem;
    let error = Loopback::start_tls(Probe::default(), tls).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}
