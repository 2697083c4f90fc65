//! A simulated GitLab with a repository, and the example's handler.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use gitlab_runner::{
    JobId, Runner, Time,
    adapter::TokioHyper,
    mock::{
        Answer, HoldId, JobReport, JobSpec, MockGitlab, Server,
        http::{Loopback, ServerTls},
    },
};
use http::{Request, Response};
use rcgen::{CertifiedKey, KeyPair};
use tempfile::TempDir;

use crate::{
    environment,
    fast::{Fast, FastServer},
    repository::{Repository, WithRepository},
    shell::Shell,
};

pub(crate) const TOKEN: &str = "glrt-sources";

/// A hang ends here.
const LIMIT: Duration = Duration::from_secs(60);

/// What becomes of a request before the repository sees it.
pub(crate) type Meddle = Box<dyn FnMut(&Request<Bytes>) -> Option<Answer> + Send>;

pub(crate) struct Meddled {
    inner: WithRepository<MockGitlab>,
    meddle: Meddle,
    /// Requests to the repository.
    pub(crate) git: Vec<String>,
}

impl Server for Meddled {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        if request.uri().path().contains(".git/") {
            self.git
                .push(format!("{} {}", request.method(), request.uri()));
            if let Some(answer) = (self.meddle)(&request) {
                return answer;
            }
        }
        self.inner.handle(now, request)
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        self.inner.poll_answer(now)
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.inner.poll_timeout()
    }

    fn drop_hold(&mut self, hold: HoldId) {
        self.inner.drop_hold(hold);
    }
}

pub(crate) struct World {
    pub(crate) dir: TempDir,
    ca_file: Option<PathBuf>,
    pub(crate) repository: Repository,
    pub(crate) gitlab: Arc<Loopback<FastServer<Meddled>>>,
}

impl World {
    /// None, and loud words, where there is no git.
    pub(crate) fn new() -> Option<Self> {
        Self::meddling(Box::new(|_| None))
    }

    pub(crate) fn meddling(meddle: Meddle) -> Option<Self> {
        Self::start(meddle, None)
    }

    /// One that is reached by HTTPS, with a certificate that nobody knows but its jobs' runner.
    pub(crate) fn over_tls() -> Option<Self> {
        let certificate = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        Self::start(Box::new(|_| None), Some(certificate))
    }

    fn start(meddle: Meddle, tls: Option<CertifiedKey<KeyPair>>) -> Option<Self> {
        let Some(repository) = Repository::new().unwrap() else {
            eprintln!("!!! SKIPPED: there is no git on this machine");
            return None;
        };
        let mut gitlab = MockGitlab::new(1);
        gitlab.add_runner(TOKEN);
        let inner = WithRepository {
            server: gitlab,
            repository: Some(repository.clone()),
        };
        let meddled = Meddled {
            inner,
            meddle,
            git: Vec::new(),
        };
        let dir = tempfile::tempdir().unwrap();
        let (gitlab, ca_file) = match tls {
            None => (Loopback::start(FastServer(meddled)), None),
            Some(CertifiedKey { cert, signing_key }) => {
                let file = dir.path().join("ca.pem");
                std::fs::write(&file, cert.pem()).unwrap();
                let tls = ServerTls {
                    cert_chain_pem: cert.pem().into_bytes(),
                    key_pem: signing_key.serialize_pem().into_bytes(),
                    client_authority_pem: None,
                };
                (Loopback::start_tls(FastServer(meddled), tls), Some(file))
            }
        };
        Some(Self {
            dir,
            repository,
            gitlab: Arc::new(gitlab.unwrap()),
            ca_file,
        })
    }

    /// A job with these lines, whose sources are in the repository.
    pub(crate) fn spec<const N: usize>(&self, script: [&str; N]) -> JobSpec {
        let (repository, url) = (self.repository.clone(), self.gitlab.url());
        JobSpec::script(script)
            .payload_override(move |payload| repository.tell(&url, payload))
            .variable("MSG", "hello")
    }

    pub(crate) fn gitlab<R>(&self, look: impl FnOnce(&mut MockGitlab) -> R) -> R {
        self.gitlab.with(|it, _| look(&mut it.0.inner.server))
    }

    /// Runs one job to its end.
    pub(crate) async fn run(&self, spec: JobSpec) -> JobReport {
        self.run_and(spec, |_| async {}).await
    }

    /// The same, with something to do meanwhile.
    pub(crate) async fn run_and<F>(
        &self,
        spec: JobSpec,
        meanwhile: impl FnOnce(JobId) -> F,
    ) -> JobReport
    where
        F: Future<Output = ()>,
    {
        let job = self.gitlab(|gitlab| gitlab.enqueue(spec));
        let dir = self.dir.path().join("builds");
        let url = self.gitlab.url().parse().unwrap();
        let mut builder = Runner::builder(url, TOKEN, &dir);
        let mut adapter = TokioHyper::builder();
        if let Some(file) = &self.ca_file {
            builder = builder.variable("CI_SERVER_TLS_CA_FILE", file.display().to_string());
            adapter = adapter.ca_file(file);
        }
        let builder = builder.adapter(Arc::new(Fast(Arc::new(adapter.build().unwrap()))));
        let mut runner = environment::shared(builder).build().await;
        let run = async {
            assert!(runner.request_job(Shell::start).await.unwrap());
            runner.drain().await;
        };
        let both = async { tokio::join!(run, meanwhile(job)) };
        tokio::time::timeout(LIMIT, both).await.expect("it hangs");
        let left = std::fs::read_dir(dir).unwrap().count();
        assert!(left <= 1, "only the id of the system may be left");
        let report = self.gitlab(|gitlab| gitlab.report(job).unwrap().clone());
        // GitLab hears nothing more of a job that it has ended.
        assert_ne!(report.checksum_matches(), Some(false));
        report
    }

    /// Waits until the repository was asked for something.
    pub(crate) async fn until_git_asks(&self) {
        let gitlab = Arc::clone(&self.gitlab);
        let asked = move || gitlab.wait_until(LIMIT, |it| (!it.0.git.is_empty()).then_some(()));
        let asked = tokio::task::spawn_blocking(asked).await.unwrap();
        asked.expect("git asks");
    }

    /// The arguments of all processes that run in the directories of the jobs, where they can be seen.
    pub(crate) fn processes(&self) -> Vec<String> {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter(|process| {
                let cwd = std::fs::read_link(process.path().join("cwd"));
                cwd.is_ok_and(|cwd| cwd.starts_with(self.dir.path()))
            })
            .filter_map(|process| {
                let arguments = std::fs::read(process.path().join("cmdline")).ok()?;
                Some(String::from_utf8_lossy(&arguments).replace('\0', " "))
            })
            .collect()
    }

    /// What git asked for so far.
    pub(crate) fn git_requests(&self) -> Vec<String> {
        self.gitlab.with(|it, _| it.0.git.clone())
    }
}

/// The log without markers and colours.
pub(crate) fn plain(report: &JobReport) -> String {
    let log = report.log_text();
    let mut text = String::new();
    for part in log
        .split_inclusive('\n')
        .flat_map(|line| line.split_inclusive("\r\x1b[0K"))
    {
        match part.find("section_") {
            Some(at) if part.ends_with("\r\x1b[0K") => text += &part[..at],
            _ => text += part,
        }
    }
    let mut inside = false;
    text.retain(|c| {
        let was = inside;
        inside = match (inside, c) {
            (false, '\x1b') => true,
            (true, c) => !c.is_ascii_alphabetic(),
            (false, _) => false,
        };
        !was && !inside
    });
    text
}

pub(crate) fn reply(status: u16) -> Answer {
    let reply = Response::builder().status(status);
    Answer::Reply(reply.body(Bytes::new()).unwrap())
}
