//! The object storage: links instead of tokens.

use bytes::Bytes;
use gitlab_runner::{
    JobId,
    mock::{Answer, ObjectStore, Override, Server},
};
use http::{Request, header::HeaderName};

use crate::world::{Reply, Running, World};

const ZIP: &[u8] = b"PK archive of an earlier job";
const STORAGE: &str = "https://storage.example.test:9000";

struct Stored {
    world: World,
    store: ObjectStore,
    earlier: JobId,
    job: Running,
}

impl Stored {
    fn new() -> Self {
        let mut world = World::new();
        world.gitlab.settings_mut().object_storage = Some(STORAGE.into());
        let earlier = world.running();
        world.upload_archive(&earlier, ZIP);
        world.put(&earlier, "success");
        Self {
            store: world.gitlab.object_store(),
            job: world.running(),
            earlier: earlier.id,
            world,
        }
    }

    /// Where the archive is to be fetched.
    fn link(&mut self) -> String {
        let reply = self
            .world
            .download(&self.job, self.earlier, "direct_download=true");
        assert_eq!(reply.status(), 302);
        reply.header("Location").unwrap().to_owned()
    }

    fn send(&mut self, request: Request<Bytes>) -> Reply {
        match self.store.handle(self.world.now, request) {
            Answer::Reply(reply) => Reply(reply),
            answer => panic!("no reply but {answer:?}"),
        }
    }

    fn get(&mut self, link: &str) -> Reply {
        self.send(get(link, &[]))
    }
}

fn get(link: &str, headers: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = Request::get(link).body(Bytes::new()).unwrap();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

fn assert_error(reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.status(), status, "{}", reply.text());
    assert_eq!(reply.header("Content-Type"), Some("application/xml"));
    assert!(reply.text().contains(&format!("<Code>{code}</Code>")));
}

/// 302 to a pre-signed URL, if asked for; otherwise GitLab passes the file on.
#[test]
fn a_direct_download_is_redirected() {
    let mut stored = Stored::new();
    let plain = stored.world.download(&stored.job, stored.earlier, "");
    assert_eq!((plain.status(), &plain.0.body()[..]), (200, ZIP));
    let link = stored.link();
    assert!(link.starts_with(&format!("{STORAGE}/")));
    let reply = stored.get(&link);
    assert_eq!((reply.status(), &reply.0.body()[..]), (200, ZIP));
    assert_eq!(
        reply.header("Content-Disposition"),
        Some("attachment; filename=\"artifacts.zip\"")
    );
    // In origin form it is the same, and it may be used again.
    let path = link.strip_prefix(STORAGE).unwrap();
    assert_eq!(stored.get(path).status(), 200);
    assert_ne!(stored.link(), link);
    let direct: Vec<_> = stored
        .world
        .report(stored.earlier)
        .downloads()
        .map(|record| (record.direct_download, record.status))
        .collect();
    assert_eq!(
        direct,
        [
            (Some(false), Some(200)),
            (Some(true), Some(302)),
            (Some(true), Some(302)),
        ]
    );
}

/// A request that carries a token is refused, with an error in XML, and remembered.
#[test]
fn a_token_has_no_business_there() {
    let mut stored = Stored::new();
    let link = stored.link();
    for name in ["JOB-TOKEN", "PRIVATE-TOKEN", "Authorization"] {
        let reply = stored.send(get(&link, &[(name, "secret")]));
        assert_error(&reply, 400, "InvalidArgument");
        assert!(!reply.text().contains("secret"));
    }
    assert_eq!(stored.get(&link).status(), 200);
    let requests = stored.store.requests();
    let found: Vec<_> = requests
        .iter()
        .map(|request| (request.credential, request.status))
        .collect();
    assert_eq!(
        found,
        [
            (Some("job-token"), Some(400)),
            (Some("private-token"), Some(400)),
            (Some("authorization"), Some(400)),
            (None, Some(200)),
        ]
    );
    let shown = format!("{requests:?} {:?}", stored.store);
    let signature = link.split("X-Amz-Signature=").nth(1).unwrap();
    assert!(!shown.contains("secret") && !shown.contains(signature));
}

/// Without the signature, with another one, or with the query written otherwise: 403 in XML.
#[test]
fn a_link_counts_as_it_is() {
    let mut stored = Stored::new();
    let link = stored.link();
    let (path, _) = link.split_once('?').unwrap();
    assert_error(&stored.get(path), 403, "AccessDenied");
    let changed = link.replace("%20", "+");
    assert_ne!(changed, link);
    assert_error(&stored.get(&changed), 403, "SignatureDoesNotMatch");
    assert_error(
        &stored.get(&format!("{link}0")),
        403,
        "SignatureDoesNotMatch",
    );
    let other = link.replace("artifacts.zip?", "other.zip?");
    assert_error(&stored.get(&other), 403, "SignatureDoesNotMatch");
    let post = Request::post(&link).body(Bytes::new()).unwrap();
    assert_error(&stored.send(post), 403, "SignatureDoesNotMatch");
}

/// An expired link is 403, a deleted object 404; a new link for what has expired there is none.
#[test]
fn links_and_objects_can_go() {
    let mut stored = Stored::new();
    let link = stored.link();
    stored.store.expire_links();
    assert_error(&stored.get(&link), 403, "AccessDenied");
    let link = stored.link();
    assert_eq!(stored.get(&link).status(), 200);
    stored.world.gitlab.expire_artifacts(stored.earlier);
    assert_error(&stored.get(&link), 404, "NoSuchKey");
    let reply = stored
        .world
        .download(&stored.job, stored.earlier, "direct_download=true");
    assert_eq!(reply.status(), 404);
}

/// A single range is answered with 206, one beyond the end with 416, nonsense with everything.
#[test]
fn ranges() {
    let mut stored = Stored::new();
    let link = stored.link();
    let len = ZIP.len();
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=3-6", 3, 7),
        ("bytes=5-", 5, len),
        ("bytes=-4", len - 4, len),
        ("bytes=-1000", 0, len),
        ("bytes=20-1000", 20, len),
        ("bytes=20-18446744073709551615", 20, len),
    ] {
        let reply = stored.send(get(&link, &[("Range", range)]));
        assert_eq!(
            (reply.status(), &reply.0.body()[..]),
            (206, &ZIP[from..to]),
            "{range}"
        );
        let told = format!("bytes {from}-{}/{len}", to - 1);
        assert_eq!(reply.header("Content-Range"), Some(told.as_str()));
    }
    for range in ["bytes=28-", "bytes=100-200", "bytes=-0"] {
        let reply = stored.send(get(&link, &[("Range", range)]));
        assert_error(&reply, 416, "InvalidRange");
        assert_eq!(reply.header("Content-Range"), Some("bytes */28"));
    }
    for range in [
        "bytes=",
        "bytes=a-b",
        "bytes=6-3",
        "bytes=0-1,3-4",
        "lines=0-1",
        "bytes=99999999999999999999-",
    ] {
        let reply = stored.send(get(&link, &[("Range", range)]));
        assert_eq!((reply.status(), &reply.0.body()[..]), (200, ZIP), "{range}");
    }
    let whole = stored.get(&link);
    assert_eq!(whole.header("Accept-Ranges"), Some("bytes"));
    let etag = whole.header("ETag").unwrap().to_owned();
    let since = |etag: &str| get(&link, &[("Range", "bytes=5-"), ("If-Range", etag)]);
    assert_eq!(stored.send(since(&etag)).status(), 206);
    assert_eq!(stored.send(since("\"other\"")).status(), 200);
    let ranges = stored.store.requests();
    assert_eq!(ranges[0].range.as_deref(), Some("bytes=0-0"));
}

/// Planned faults: errors as a storage gives them, cuts, and whatever else a test may want.
#[test]
fn the_storage_can_go_wrong() {
    let mut stored = Stored::new();
    let link = stored.link();
    stored.store.plan(1, Override::Status(503));
    stored.store.plan(2, Override::CutBody(7));
    stored.store.plan(3, Override::CloseBefore);
    assert_error(&stored.get(&link), 503, "SlowDown");
    let cut = stored.get(&link);
    assert_eq!((cut.status(), &cut.0.body()[..]), (200, &ZIP[..7]));
    assert_eq!(cut.header("Content-Length"), Some("28"));
    let now = stored.world.now;
    let answer = stored.store.handle(now, get(&link, &[]));
    assert!(matches!(answer, Answer::Close));
    assert_eq!(stored.get(&link).status(), 200);
    let statuses: Vec<_> = stored
        .store
        .requests()
        .iter()
        .map(|request| request.status)
        .collect();
    assert_eq!(statuses, [Some(503), Some(200), None, Some(200)]);
    assert_eq!(
        (
            stored.store.poll_timeout(),
            stored.store.poll_answer(now).is_none()
        ),
        (None, true)
    );
}
