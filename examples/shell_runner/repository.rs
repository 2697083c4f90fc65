//! A git repository for jobs of a simulated GitLab: served over HTTP beside its API, to those who know
//! the token of a job.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Seek, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use gitlab_runner::{
    Time,
    mock::{Answer, BodyLimit, HoldId, Server},
};
use http::{Request, Response, StatusCode, header, request::Parts};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process;

/// Where GitLab has it and its neighbours.
const GROUP: &str = "/acme/tools/";
const NAME: &str = "widget-works.git";
/// Nobody reads more than that here.
const MAX_BODY: u64 = 1 << 20;

/// A repository with three commits on its branch `main`, and what a job of it is told.
#[derive(Clone)]
pub(crate) struct Repository {
    dir: Arc<TempDir>,
    /// The last commit.
    pub(crate) sha: String,
    /// Those of all jobs that were told of it.
    tokens: Arc<Mutex<BTreeSet<String>>>,
}

/// A server with the repository beside what it serves anyway.
pub(crate) struct WithRepository<S> {
    pub(crate) server: S,
    pub(crate) repository: Option<Repository>,
}

impl Repository {
    /// Makes it; none if there is no git on this machine.
    ///
    /// # Errors
    /// When git is there and fails.
    pub(crate) fn new() -> io::Result<Option<Self>> {
        if !process::find("git").is_file() {
            return Ok(None);
        }
        let dir = tempfile::tempdir()?;
        let path = &dir.path().join(NAME);
        fs::create_dir(path)?;
        git(path, &["init", "--quiet", "--initial-branch=main", "."])?;
        for (number, text) in ["first", "second", "third"].into_iter().enumerate() {
            fs::write(path.join("README"), format!("the {text} version\n"))?;
            fs::write(path.join(format!("{text}.txt")), text)?;
            git(path, &["add", "--all"])?;
            git(path, &["commit", "--quiet", "--message", text])?;
            git(path, &["tag", &format!("v{number}")])?;
        }
        let sha = git(path, &["rev-parse", "HEAD"])?;
        Ok(Some(Self {
            dir: Arc::new(dir),
            sha: String::from_utf8_lossy(&sha).trim().to_owned(),
            tokens: Arc::default(),
        }))
    }

    /// The directory that it is in. Others beside it are served as well.
    pub(crate) fn group(&self) -> &Path {
        self.dir.path()
    }

    /// Tells a job of it: `payload` is what GitLab hands out, `server` the address of the server.
    pub(crate) fn tell(&self, server: &str, payload: &mut Value) {
        let token = payload["token"].as_str().unwrap_or_default().to_owned();
        let (scheme, host) = server.split_once("://").unwrap_or(("http", server));
        let url = format!("{scheme}://gitlab-ci-token:{token}@{host}{GROUP}{NAME}");
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token);
        let git_info = &mut payload["git_info"];
        git_info["repo_url"] = url.into();
        git_info["sha"] = self.sha.as_str().into();
        git_info["refspecs"] = json!(["+refs/heads/main:refs/remotes/origin/main"]);
    }

    /// The answer to a request below [`GROUP`].
    fn serve(&self, request: &Request<Bytes>) -> io::Result<Response<Bytes>> {
        let reply = Response::builder();
        let path = request.uri().path().strip_prefix(GROUP).unwrap_or_default();
        let (name, what) = path.split_once('/').unwrap_or_default();
        let dir = self.group().join(name);
        let reply = if !self.knows(request) {
            // As GitLab asks for it.
            let realm = "Basic realm=\"GitLab\"";
            let reply = reply.status(StatusCode::UNAUTHORIZED);
            reply
                .header(header::WWW_AUTHENTICATE, realm)
                .body(Bytes::new())
        } else if !name.ends_with(".git") || !dir.is_dir() {
            reply.status(StatusCode::NOT_FOUND).body(Bytes::new())
        } else if what == "info/refs" {
            let refs = upload_pack(&dir, &["--http-backend-info-refs"], b"")?;
            let head = b"001e# service=git-upload-pack\n0000";
            let media = "application/x-git-upload-pack-advertisement";
            let body = [head, &refs[..]].concat();
            reply.header(header::CONTENT_TYPE, media).body(body.into())
        } else if what == "git-upload-pack" {
            let wanted = match request.headers().get(header::CONTENT_ENCODING) {
                Some(_) => {
                    let mut wanted = Vec::new();
                    GzDecoder::new(&request.body()[..])
                        .take(MAX_BODY)
                        .read_to_end(&mut wanted)?;
                    wanted
                }
                None => request.body().to_vec(),
            };
            let pack = upload_pack(&dir, &[], &wanted)?;
            let media = "application/x-git-upload-pack-result";
            reply.header(header::CONTENT_TYPE, media).body(pack.into())
        } else {
            reply.status(StatusCode::NOT_FOUND).body(Bytes::new())
        };
        reply.map_err(io::Error::other)
    }

    /// Whether the request comes with the token of a job.
    fn knows(&self, request: &Request<Bytes>) -> bool {
        let given = request.headers().get(header::AUTHORIZATION);
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.iter().any(|token| {
            let expected = format!("gitlab-ci-token:{token}");
            let expected = format!("Basic {}", base64(expected.as_bytes()));
            given.is_some_and(|given| given.as_bytes() == expected.as_bytes())
        })
    }
}

impl<S: Server> Server for WithRepository<S> {
    fn handle(&mut self, now: Time, request: Request<Bytes>) -> Answer {
        let repository = self.repository.as_ref();
        match repository.filter(|_| request.uri().path().starts_with(GROUP)) {
            Some(repository) => match repository.serve(&request) {
                Ok(reply) => Answer::Reply(reply),
                Err(_) => Answer::Close,
            },
            None => self.server.handle(now, request),
        }
    }

    fn body_limit(&self, head: &Parts) -> Option<BodyLimit> {
        self.server.body_limit(head)
    }

    fn poll_answer(&mut self, now: Time) -> Option<(HoldId, Answer)> {
        self.server.poll_answer(now)
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.server.poll_timeout()
    }

    fn drop_hold(&mut self, hold: HoldId) {
        self.server.drop_hold(hold);
    }
}

fn upload_pack(dir: &Path, options: &[&str], input: &[u8]) -> io::Result<Vec<u8>> {
    // A file, since a pipe could be full before anybody reads from it.
    let mut file = tempfile::tempfile()?;
    file.write_all(input)?;
    file.rewind()?;
    let arguments = [&["upload-pack", "--stateless-rpc"], options, &["."]].concat();
    run(dir, &arguments, file)
}

/// Runs git and gives what it prints.
pub(crate) fn git(dir: &Path, arguments: &[&str]) -> io::Result<Vec<u8>> {
    run(dir, arguments, Stdio::null())
}

fn run(dir: &Path, arguments: &[&str], input: impl Into<Stdio>) -> io::Result<Vec<u8>> {
    let mut command = Command::new(process::find("git"));
    command
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        // Always the same commits, whatever this machine's users have set.
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(input)
        .stderr(Stdio::inherit());
    for who in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{who}_NAME"), "Demo")
            .env(format!("GIT_{who}_EMAIL"), "demo@example.test")
            .env(format!("GIT_{who}_DATE"), "2026-01-01T00:00:00Z");
    }
    let output = command.output()?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(io::Error::other(format!(
            "git {arguments:?}: {}",
            output.status
        ))),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = bytes.chunks(3).flat_map(|chunk| {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        (0..4).map(move |at| match at <= chunk.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]),
            false => '=',
        })
    });
    digits.collect()
}
