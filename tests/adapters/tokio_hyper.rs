//! The adapter on tokio and hyper.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use futures::{
    StreamExt,
    future::{self, Either},
    stream,
};
use gitlab_runner::{
    JobHandler, JobResult, Phase, Runner,
    adapter::{
        Adapter, Body, TokioHyper,
        conformance::{self, support::*},
    },
    mock::http::{Loopback, ServerTls},
};
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::{options::for_each_option, runner, subjects::OnTokio};

gitlab_runner::adapter_conformance!(OnTokio);

for_each_option!(TokioHyper, OnTokio);

#[test]
fn a_runner_runs_jobs() {
    conformance::run(&OnTokio, |subject| Box::pin(runner::runs_jobs(subject)));
}

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
async fn certificates_are_read_when_they_are_needed() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    bounded(get(&adapter, &server.url())).await.unwrap();
    assert!(
        format!("{adapter:?}").contains("https_used: false"),
        "certificates were read for nothing"
    );
}

#[tokio::test]
async fn no_task_is_left_behind() {
    let server = Loopback::start(Probe::default()).unwrap();
    let adapter = TokioHyper::new().unwrap();
    bounded(async {
        get(&adapter, &server.url()).await.unwrap();
        let metrics = tokio::runtime::Handle::current().metrics();
        assert_ne!(metrics.num_alive_tasks(), 0, "nothing was kept");
        drop(adapter);
        while metrics.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Over TLS, a farewell has to wait for what the server does not take.
#[tokio::test]
async fn no_task_waits_for_a_server_that_reads_nothing() {
    let ours = Authority::new("ours");
    // In this order the server ends ahead of who waits for it.
    let (raw, _goes_on) = reads_nothing(ours.server(&["127.0.0.1"]));
    let adapter = TokioHyper::builder().ca_pem(ours.pem()).build().unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let chunks = stream::repeat_with(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(vec![0; 64 * 1024].into())
    });
    let url = format!("https://127.0.0.1:{}/", raw.port());
    let body = Body::Stream {
        len: None,
        chunks: chunks.boxed(),
    };
    bounded(async {
        let metrics = tokio::runtime::Handle::current().metrics();
        let full = async {
            let (mut last, mut same) = (0, 0);
            while last == 0 || same < 10_000 {
                tokio::task::yield_now().await;
                let now = sent.load(Ordering::SeqCst);
                same = if now == last { same + 1 } else { 0 };
                last = now;
            }
        };
        let request = adapter.send(request("POST", &url, body));
        if let Either::Left(_) = future::select(request, pin!(full)).await {
            panic!("the server has answered");
        }
        assert_ne!(metrics.num_alive_tasks(), 0, "there was no connection");
        // From now on time passes when there is nothing else to do.
        tokio::time::pause();
        while metrics.num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
}

/// A server that shakes hands and then does nothing until the sender is dropped.
fn reads_nothing(tls: ServerTls) -> (Raw, mpsc::Sender<()>) {
    let chain = CertificateDer::pem_slice_iter(&tls.cert_chain_pem);
    let config =
        ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                chain.collect::<Result<_, _>>().unwrap(),
                PrivateKeyDer::from_pem_slice(&tls.key_pem).unwrap(),
            )
            .unwrap();
    let config = Arc::new(config);
    let (goes_on, over) = mpsc::channel();
    let over = Mutex::new(over);
    let raw = Raw::start(move |mut stream| {
        let mut tls = ServerConnection::new(config.clone()).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).unwrap();
        }
        let _ = over.lock().unwrap().recv_timeout(LIMIT);
    });
    (raw, goes_on)
}
