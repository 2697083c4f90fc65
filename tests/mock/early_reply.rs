//! Uploads over loopback, byte by byte: answers that come while the client is still sending.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use gitlab_runner::mock::{Endpoint, JobStatus, MockGitlab, Override, http::Loopback};
use http::Uri;

use crate::world::{Running, World, file_part, form, form_type};

/// A server that does not answer in this time is not going to.
const LIMIT: Duration = Duration::from_secs(30);

/// A server with a job that runs.
fn serve(change: impl FnOnce(&mut MockGitlab)) -> (Loopback<MockGitlab>, Running) {
    let mut world = World::new();
    let job = world.running();
    change(&mut world.gitlab);
    (Loopback::start(world.gitlab).unwrap(), job)
}

struct Client(BufReader<TcpStream>);

struct Answered {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Client {
    fn connect(url: &str) -> Self {
        let uri: Uri = url.parse().unwrap();
        let stream = TcpStream::connect(uri.authority().unwrap().as_str()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// The head of an upload, with what says how long it is.
    fn start_upload(&mut self, job: &Running, framing: &str) {
        let head = format!(
            "POST /api/v4/jobs/{}/artifacts HTTP/1.1\r\nHost: localhost\r\nJOB-TOKEN: {}\r\n\
             Content-Type: {}\r\n{framing}\r\n\r\n",
            job.id,
            job.token,
            form_type(),
        );
        self.send(head.as_bytes());
    }

    fn get(&mut self, target: &str, headers: &str) {
        let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        self.send(head.as_bytes());
    }

    fn answer(&mut self) -> Answered {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "closed: {head}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answered = Answered {
            status,
            head,
            body: Vec::new(),
        };
        let len = answered.header("content-length").unwrap().parse().unwrap();
        answered.body.resize(len, 0);
        self.0.read_exact(&mut answered.body).unwrap();
        answered
    }

    /// Whether the server closes the connection, whichever way, before anything else comes.
    fn is_closed(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(len) => len == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

impl Answered {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }

    fn is_closing(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

/// The body length of the last request, once it was answered.
fn read_of_last(server: &Loopback<MockGitlab>) -> usize {
    server.with(|gitlab, _| gitlab.requests().next_back().unwrap().body_len)
}

/// 413 in the middle of an upload whose length nobody knows. What the client goes on to send is
/// read and thrown away, so that the answer is not lost; then the connection is closed.
#[test]
fn a_file_that_turns_out_too_large() {
    let (server, job) = serve(|gitlab| gitlab.settings_mut().max_artifact_size = 1000);
    let mut client = Client::connect(&server.url());
    client.start_upload(&job, "Transfer-Encoding: chunked");
    let block = form(&[file_part("a.zip", &vec![b'x'; 1 << 20])]);
    // The form does not end here, so the file has not either.
    let block = &block[..1 << 20];
    client.send(format!("{:x}\r\n", block.len()).as_bytes());
    client.send(block);
    client.send(b"\r\n");
    let answered = client.answer();
    assert_eq!(answered.status, 413);
    assert!(answered.is_closing());
    for _ in 0..8 {
        client.send(b"100000\r\n");
        client.send(&vec![b'x'; 1 << 20]);
        client.send(b"\r\n");
    }
    client.send(b"0\r\n\r\n");
    assert!(client.is_closed());
    assert!(read_of_last(&server) < 100_000);
    server.with(|gitlab, _| {
        let report = gitlab.report(job.id).unwrap();
        assert!(report.artifacts.is_empty());
        assert_eq!(report.status, JobStatus::Running);
    });
}

/// The answer is there for a client that looks for it only when everything is sent.
#[test]
fn an_early_answer_is_not_lost() {
    let (server, job) = serve(|gitlab| gitlab.settings_mut().max_artifact_size = 1000);
    let body = form(&[file_part("a.zip", &vec![b'x'; 16 << 20])]);
    let mut client = Client::connect(&server.url());
    client.start_upload(&job, &format!("Content-Length: {}", body.len()));
    client.send(&body);
    assert_eq!(client.answer().status, 413);
    assert!(client.is_closed());
}

/// 413 from the announced length, after as many bytes as asked for.
#[test]
fn a_length_that_is_too_large() {
    let (server, job) = serve(|gitlab| {
        gitlab.settings_mut().max_artifact_size = 1000;
        gitlab.settings_mut().early_reply_after = Some(500);
    });
    let mut client = Client::connect(&server.url());
    client.start_upload(&job, "Content-Length: 1000000");
    client.send(&[b'x'; 501]);
    let answered = client.answer();
    assert_eq!(answered.status, 413);
    assert!(answered.is_closing());
    assert_eq!(read_of_last(&server), 500);
}

/// As shipped, an upload that may not be is refused with its first byte.
#[test]
fn a_refusal_comes_at_once() {
    let (server, mut job) = serve(|_| ());
    job.token = "wrong".into();
    let mut client = Client::connect(&server.url());
    client.start_upload(&job, "Content-Length: 1000000");
    client.send(b"-");
    let answered = client.answer();
    assert_eq!(answered.status, 403);
    assert_eq!(answered.body, br#"{"message":"403 Forbidden"}"#);
    assert!(answered.is_closing());
}

/// Planned faults come early as well: an error page, or a connection that is gone.
#[test]
fn a_planned_fault_comes_early() {
    let (server, job) = serve(|gitlab| {
        gitlab.plan(Endpoint::ArtifactUpload, 1, Override::Html(503));
        gitlab.plan(Endpoint::ArtifactUpload, 2, Override::CloseBefore);
    });
    let mut client = Client::connect(&server.url());
    client.start_upload(&job, "Content-Length: 1000000");
    client.send(b"--");
    assert_eq!(client.answer().status, 503);
    let mut client = Client::connect(&server.url());
    client.start_upload(&job, "Content-Length: 1000000");
    client.send(b"--");
    assert!(client.is_closed());
    assert_eq!(server.with(|gitlab, _| gitlab.pending_plans()), 0);
}

/// A fault after the fact needs the whole upload.
#[test]
fn a_lost_reply_comes_late() {
    let (server, job) = serve(|gitlab| {
        gitlab.plan(Endpoint::ArtifactUpload, 1, Override::CloseAfter);
    });
    let body = form(&[file_part("a.zip", b"PK")]);
    let mut client = Client::connect(&server.url());
    client.start_upload(&job, &format!("Content-Length: {}", body.len()));
    client.send(&body);
    assert!(client.is_closed());
    server.with(|gitlab, _| {
        let report = gitlab.report(job.id).unwrap();
        assert_eq!(report.artifact("archive").unwrap().content, "PK");
    });
}

/// Without early replies everything is read before the refusal, and the connection stays.
#[test]
fn early_replies_can_be_turned_off() {
    let (server, job) = serve(|gitlab| {
        gitlab.settings_mut().early_reply_after = None;
        gitlab.settings_mut().max_artifact_size = 100_000;
        gitlab.plan(Endpoint::ArtifactUpload, 1, Override::Status(500));
    });
    let body = form(&[file_part("a.zip", &[b'x'; 100_000])]);
    let framing = format!("Content-Length: {}", body.len());
    let mut client = Client::connect(&server.url());
    for status in [500, 201] {
        client.start_upload(&job, &framing);
        client.send(&body);
        let answered = client.answer();
        assert_eq!((answered.status, answered.is_closing()), (status, false));
        assert_eq!(read_of_last(&server), body.len());
    }
    assert_eq!(server.connections(), 1);
    // What is too long is read to its end, too, but not kept.
    let body = form(&[file_part("a.zip", &[b'x'; 400_000])]);
    client.start_upload(&job, &format!("Content-Length: {}", body.len()));
    client.send(&body);
    let answered = client.answer();
    assert_eq!((answered.status, answered.is_closing()), (413, true));
    assert!(read_of_last(&server) < 200_000);
    assert!(client.is_closed());
}

/// An artifact may be larger than what other requests may carry.
#[test]
fn a_large_artifact_is_taken() {
    let (server, job) = serve(|_| ());
    let content = vec![b'x'; gitlab_runner::mock::http::MAX_REQUEST_BODY + 1];
    let body = form(&[file_part("a.zip", &content)]);
    let mut client = Client::connect(&server.url());
    client.start_upload(&job, &format!("Content-Length: {}", body.len()));
    client.send(&body);
    assert_eq!(client.answer().status, 201);
    let report = server.with(|gitlab, _| gitlab.report(job.id).cloned().unwrap());
    assert!(report.artifact("archive").unwrap().content == content);
}

/// A storage on a port of its own, to which a download is redirected. An answer that is cut ends
/// the connection.
#[test]
fn a_storage_on_another_port() {
    let (server, job) = serve(|_| ());
    let store = server.with(|gitlab, _| gitlab.object_store());
    let storage = Loopback::start(store.clone()).unwrap();
    assert_ne!(server.addr(), storage.addr());
    server.with(|gitlab, _| gitlab.settings_mut().object_storage = Some(storage.url()));
    let body = form(&[file_part("a.zip", b"PK archive")]);
    let mut client = Client::connect(&server.url());
    client.start_upload(&job, &format!("Content-Length: {}", body.len()));
    client.send(&body);
    assert_eq!(client.answer().status, 201);

    let token = format!("JOB-TOKEN: {}\r\n", job.token);
    let path = format!("/api/v4/jobs/{}/artifacts?direct_download=true", job.id);
    client.get(&path, &token);
    let redirect = client.answer();
    assert_eq!(redirect.status, 302);
    let link = redirect.header("location").unwrap();
    let path = link.strip_prefix(&storage.url()).unwrap();
    let mut client = Client::connect(link);
    client.get(path, &token);
    assert_eq!(client.answer().status, 400);
    client.get(path, "");
    let archive = client.answer();
    assert_eq!(
        (archive.status, &archive.body[..]),
        (200, &b"PK archive"[..])
    );
    store.plan(1, Override::CutBody(4));
    client.get(path, "");
    let mut rest = Vec::new();
    // It may be reset as well as closed.
    let _ = client.0.read_to_end(&mut rest);
    assert!(rest.ends_with(b"\r\n\r\nPK a"));
    let credentials: Vec<_> = store
        .requests()
        .iter()
        .map(|request| request.credential)
        .collect();
    assert_eq!(credentials, [Some("job-token"), None, None]);
}
