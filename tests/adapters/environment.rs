//! The proxies of a real environment: that of a process which is started for it.

use std::{env, process::Command, sync::mpsc};

use gitlab_runner::{adapter::conformance::support::*, mock::http::Loopback};

use crate::options::{AUTHORIZATION, Built, build, proxy, with_password};

/// Names the URLs that a process is to ask for which was started for its environment.
const URLS: &str = "GITLAB_RUNNER_TEST_URLS";

pub(crate) async fn the_environment_says_which_proxy_there_is<A: Built>() {
    if let Ok(urls) = env::var(URLS) {
        // The process that started this one sees who was asked.
        let adapter = build::<A>(|it| it);
        for url in urls.split(' ') {
            drop(get(&adapter, url).await);
        }
        return;
    }
    let tunnel = "connect gitlab.test:443 http/1.1";
    // 127.1 is this machine as well, but only its resolver knows.
    let all = [
        "http://gitlab.test/plain",
        "https://gitlab.test/tls",
        "http://127.1:PORT/spared",
        "http://127.0.0.1:PORT/this",
    ];
    let outcomes = elsewhere(move || {
        let upper = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
        let lower = ["http_proxy", "https_proxy", "no_proxy"];
        [
            asked_by::<A>(upper, "a.test, 127.1", &all),
            asked_by::<A>(lower, "127.1", &all),
            asked_by::<A>(["HTTP_PROXY", "https_proxy", "no_proxy"], "a.test", &all),
            // libcurl alone would heed this one.
            asked_by::<A>(["ALL_PROXY", "all_proxy", "NO_PROXY"], "a.test", &all[2..]),
        ]
    });
    let [upper, lower, unspared, unknown] = outcomes.await;
    for asked in [upper, lower] {
        assert_eq!(asked.plain, ["get http://gitlab.test/plain http/1.1"]);
        assert_eq!(asked.tls, [tunnel]);
        assert_eq!(asked.directly, ["GET /spared", "GET /this"]);
    }
    assert_eq!(unspared.plain.len(), 2, "{:?}", unspared.plain);
    assert_eq!(unspared.tls, [tunnel]);
    assert_eq!(unspared.directly, ["GET /this"]);
    assert!(unknown.plain.is_empty() && unknown.tls.is_empty());
    assert_eq!(unknown.directly, ["GET /spared", "GET /this"]);
}

/// What the proxy for `http`, that for `https` and the server saw of a process.
struct Asked {
    plain: Vec<String>,
    tls: Vec<String>,
    directly: Vec<String>,
}

/// Runs this case once more, in a process in whose environment two proxies and the hosts without
/// have these names.
fn asked_by<A: Built>(names: [&str; 3], no_proxy: &str, urls: &[&str]) -> Asked {
    let server = Loopback::start(Probe::default()).unwrap();
    let port = server.addr().port();
    let ((plain, plain_heads), (tls, tls_heads)) = (proxy(port), proxy(port));
    let mut child = Command::new(env::current_exe().unwrap());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"] {
        child.env_remove(name).env_remove(name.to_lowercase());
    }
    let values = [with_password(&plain), with_password(&tls), no_proxy.into()];
    let (_, module) = A::MODULE.split_once("::").unwrap();
    let case = format!("{module}::options::the_environment_says_which_proxy_there_is");
    let urls = urls.join(" ").replace("PORT", &port.to_string());
    child
        .args(["--exact", &case])
        .envs(names.into_iter().zip(values))
        .env(URLS, urls);
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    drop((plain, tls));
    let lines = |heads: mpsc::Receiver<String>| {
        let line = |head: String| {
            assert!(head.contains(AUTHORIZATION), "{head}");
            head.lines().next().unwrap().to_owned()
        };
        heads.iter().map(line).collect()
    };
    Asked {
        plain: lines(plain_heads),
        tls: lines(tls_heads),
        directly: server.with(|probe, _| probe.seen.clone()),
    }
}
