//! What the sub-machines share: configuration, randomness, request numbers and the outbox.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, LOCATION, USER_AGENT},
};

use super::{
    backoff::{Backoff, Rng, Setback},
    config::MachineConfig,
    hidden::Hidden,
    output::{JobOutput, Notice, Output, ReplyBody, RequestBody, TimeLimit, Trouble},
    timers::Owner,
    transfer::Transfer,
};
use crate::{
    ids::{DownloadId, JobId, RequestId},
    protocol::{self, JobPayload, headers},
    secret::Secret,
    time::Time,
};

/// Payloads hold every variable of a project; 32 MiB is far beyond what GitLab hands out.
const JOB_LIMIT: usize = 32 << 20;
/// Of any other reply only the head and a short message count.
const MESSAGE_LIMIT: usize = 16 << 10;
/// Room for all headers of a request, and those that an adapter adds, so that the map is made once.
const HEADERS: usize = 8;

/// Handed to every reaction of a sub-machine.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: MachineConfig,
    pub(super) now: Time,
    pub(super) rng: Rng,
    pub(super) outbox: VecDeque<Output>,
    pub(super) requests: BTreeMap<RequestId, Owner>,
    /// Jobs of which a `PollOnce` still waits to hear. The next one waits for them, since the
    /// answers come in order.
    pub(super) unresolved: usize,
    /// The runner's token is being changed, or the new one stored: no request is sent with it.
    pub(super) token_held: bool,
    /// Until when a limit holds that all requests of this runner share, and over how long they come
    /// back afterwards.
    shared_hold: (Time, Duration),
    next_request: u64,
    user_agent: Option<HeaderValue>,
    /// Where to ask for jobs.
    jobs: Uri,
}

/// Where calls about one job go and who makes them. Put together once, since there are many.
#[derive(Debug)]
pub(super) struct JobCalls {
    pub(super) job: JobId,
    pub(super) token: Secret,
    /// If it could be read.
    payload: Option<Arc<JobPayload>>,
    header: Option<HeaderValue>,
    update: Uri,
    trace: Uri,
}

impl JobCalls {
    /// `debug_trace`: whether GitLab shall restrict who may read the log; counts on the first patch
    /// only.
    pub(super) fn new(core: &Core, job: JobId, token: Secret, debug_trace: bool) -> Self {
        let server = &core.config.server;
        Self {
            job,
            header: token_header(&token),
            token,
            payload: None,
            update: server.endpoint(&format!("jobs/{job}")),
            trace: server.endpoint(&format!("jobs/{job}/trace?debug_trace={debug_trace}")),
        }
    }

    pub(super) fn of(core: &Core, payload: &Arc<JobPayload>) -> Self {
        let (token, debug_trace) = (payload.token.clone(), payload.is_debug_trace());
        Self {
            payload: Some(Arc::clone(payload)),
            ..Self::new(core, payload.id, token, debug_trace)
        }
    }

    /// What no answer may be quoted with.
    pub(super) fn hidden(&self) -> Hidden<'_> {
        Hidden::token(&self.token).and_job(self.payload.as_deref())
    }
}

impl Core {
    pub(super) fn new(config: MachineConfig, seed: u64) -> Self {
        Self {
            user_agent: HeaderValue::from_str(&config.user_agent).ok(),
            jobs: config.server.endpoint("jobs/request"),
            config,
            now: Time::ZERO,
            rng: Rng::new(seed),
            outbox: VecDeque::new(),
            requests: BTreeMap::new(),
            unresolved: 0,
            token_held: false,
            shared_hold: (Time::ZERO, Duration::ZERO),
            next_request: 0,
        }
    }

    /// Asks for a job.
    pub(super) fn send_job_request(&mut self, body: Vec<u8>) -> RequestId {
        let token = self.config.token.clone();
        let http = self.runner_request(Method::POST, self.jobs.clone(), Some(&token), body);
        let reply = ReplyBody::Collect { limit: JOB_LIMIT };
        let limit = TimeLimit::Total(self.config.job_request_timeout);
        self.send(Owner::Runner, http, reply, limit)
    }

    /// Sends a call about the runner itself.
    pub(super) fn send_account_call(
        &mut self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: Vec<u8>,
    ) -> RequestId {
        let uri = self.config.server.endpoint(path);
        let http = self.runner_request(method, uri, token, body);
        let reply = ReplyBody::Collect {
            limit: MESSAGE_LIMIT,
        };
        let limit = TimeLimit::Total(self.config.request_timeout);
        self.send(Owner::Account, http, reply, limit)
    }

    /// The token stands in the body and, as the official runner does it, mostly once more in a
    /// header.
    fn runner_request(
        &mut self,
        method: Method,
        uri: Uri,
        token: Option<&Secret>,
        body: Vec<u8>,
    ) -> Request<RequestBody> {
        let wants_json = method == Method::POST;
        let mut http = self.request(method, uri, RequestBody::Bytes(body.into()));
        let headers = http.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if wants_json {
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        }
        if let Some(token) = token.and_then(token_header) {
            headers.insert(headers::RUNNER_TOKEN, token);
        }
        http
    }

    /// Tells GitLab about the state of a job.
    pub(super) fn send_update(&mut self, calls: &JobCalls, body: Vec<u8>) -> RequestId {
        let body = RequestBody::Bytes(body.into());
        let mut http = self.request(Method::PUT, calls.update.clone(), body);
        http.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send_job_call(calls, http)
    }

    /// Sends the part of a job's log that begins at `start`.
    pub(super) fn send_patch(
        &mut self,
        calls: &JobCalls,
        start: u64,
        body: RequestBody,
    ) -> RequestId {
        let range = headers::content_range(start, body.len());
        let mut http = self.request(Method::PATCH, calls.trace.clone(), body);
        http.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        http.headers_mut().insert(CONTENT_RANGE, range);
        self.send_job_call(calls, http)
    }

    fn send_job_call(&mut self, calls: &JobCalls, mut http: Request<RequestBody>) -> RequestId {
        if let Some(token) = &calls.header {
            http.headers_mut().insert(headers::JOB_TOKEN, token.clone());
        }
        let reply = ReplyBody::Collect {
            limit: MESSAGE_LIMIT,
        };
        let limit = TimeLimit::Total(self.config.request_timeout);
        self.send(Owner::Job(calls.job), http, reply, limit)
    }

    /// Sends a packed artifact.
    pub(super) fn send_upload(
        &mut self,
        calls: &JobCalls,
        transfer: &Transfer,
        content_type: HeaderValue,
        body: RequestBody,
    ) -> RequestId {
        let token = calls.header.clone().filter(|_| transfer.is_at_home());
        let mut http = self.transfer_request(transfer, token, body);
        http.headers_mut().insert(CONTENT_TYPE, content_type);
        let reply = ReplyBody::Collect {
            limit: MESSAGE_LIMIT,
        };
        let limit = self.config.upload_limit();
        self.send(Owner::Job(calls.job), http, reply, limit)
    }

    /// Asks for the artifacts of another job on behalf of `job`.
    pub(super) fn send_download(
        &mut self,
        job: JobId,
        transfer: &Transfer,
        token: Option<HeaderValue>,
        download: DownloadId,
        least: Option<u64>,
    ) -> RequestId {
        let http = self.transfer_request(transfer, token, RequestBody::Empty);
        let reply = ReplyBody::Spool {
            download,
            least,
            limit: MESSAGE_LIMIT,
        };
        let limit = self.config.download_limit();
        self.send(Owner::Job(job), http, reply, limit)
    }

    fn transfer_request(
        &mut self,
        transfer: &Transfer,
        token: Option<HeaderValue>,
        body: RequestBody,
    ) -> Request<RequestBody> {
        let mut http = self.request(transfer.method().clone(), transfer.target().clone(), body);
        if let Some(token) = token {
            http.headers_mut().insert(headers::JOB_TOKEN, token);
        }
        http
    }

    fn request(&mut self, method: Method, uri: Uri, body: RequestBody) -> Request<RequestBody> {
        let mut http = Request::new(body);
        *http.method_mut() = method;
        *http.uri_mut() = uri;
        let headers = http.headers_mut();
        headers.reserve(HEADERS);
        headers.insert(headers::X_REQUEST_ID, request_id(&mut self.rng));
        if let Some(user_agent) = &self.user_agent {
            headers.insert(USER_AGENT, user_agent.clone());
        }
        http
    }

    fn send(
        &mut self,
        owner: Owner,
        http: Request<RequestBody>,
        reply: ReplyBody,
        limit: TimeLimit,
    ) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.requests.insert(request, owner);
        self.outbox.push_back(Output::Send {
            request,
            http,
            reply,
            limit,
        });
        request
    }

    /// Expects no answer to `request` any more.
    pub(super) fn forget(&mut self, request: RequestId) {
        if self.requests.remove(&request).is_some() {
            self.outbox.push_back(Output::Forget(request));
        }
    }

    pub(super) fn job(&mut self, job: JobId, output: JobOutput) {
        self.outbox.push_back(Output::Job { job, output });
    }

    /// Writes a line into the job's log as GitLab's own runner prints its errors.
    pub(super) fn error(&mut self, job: JobId, text: &str) {
        self.job(job, JobOutput::Note(error_line(text)));
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.outbox.push_back(Output::Notice(notice));
    }

    /// How long to wait after this reply.
    pub(super) fn wait_after(
        &mut self,
        backoff: &mut Backoff,
        response: &Response<Bytes>,
    ) -> Duration {
        let wall_now = self.config.wall_origin + self.now;
        let setback = Setback::of_status(response.status(), response.headers(), wall_now);
        let wait = backoff.after(setback, &mut self.rng);
        if is_shared_limit(response) && self.now + wait > self.shared_hold.0 {
            self.shared_hold = (self.now + wait, wait / 5);
        }
        wait
    }

    /// No request of this job, or of the runner, before this: a limit holds that all share. They do
    /// not all come back in the same moment.
    pub(super) fn shared_hold(&self, job: Option<JobId>) -> Time {
        let (until, spread) = self.shared_hold;
        let share = job.map_or(0, |job| job.0 % 1000);
        until + spread * u32::try_from(share).unwrap_or(0) / 1000
    }
}

/// Whether a 429 is about an address or a user, and so about all requests from here: such a limit
/// names itself in headers, or answers in plain text. GitLab's own limits, which count for each token,
/// answer in JSON.
fn is_shared_limit(response: &Response<Bytes>) -> bool {
    let named = |name: &HeaderName| name.as_str().starts_with("ratelimit-");
    response.status() == StatusCode::TOO_MANY_REQUESTS
        && (response.headers().keys().any(named)
            || !response.body().is_empty() && !response.body().starts_with(b"{"))
}

/// A header value that cannot be sent (a token with a line end) is left out: the server then says
/// that it is missing, which is better than no request at all.
pub(super) fn token_header(token: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(token.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A line as GitLab's own runner prints its errors.
pub(super) fn error_line(text: &str) -> String {
    format!("\u{1b}[31;1mERROR: {text}\u{1b}[0;m")
}

/// A line as GitLab's own runner prints its warnings.
pub(super) fn warning_line(text: &str) -> String {
    format!("\u{1b}[0;33mWARNING: {text}\u{1b}[0;m")
}

/// 32 hex digits.
fn request_id(rng: &mut Rng) -> HeaderValue {
    let bits = rng.wide();
    let digits: [u8; 32] = std::array::from_fn(|at| {
        let digit = bits >> (124 - 4 * at) & 0xf;
        b"0123456789abcdef"[digit as usize]
    });
    HeaderValue::from_bytes(&digits).unwrap_or(HeaderValue::from_static("0"))
}

/// `text` without the token, on one line and not too long.
pub(super) fn without(token: &Secret, text: &str) -> String {
    let text = match token.expose() {
        "" => text.to_owned(),
        token => text.replace(token, "[MASKED]"),
    };
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(500)
        .collect()
}

/// What a reply that is not the wanted one says, without what the server should not echo.
pub(super) fn trouble(response: &Response<Bytes>, hidden: Hidden<'_>) -> Trouble {
    let known = |text: &[u8]| match hidden.is_empty() || text.len() > MESSAGE_LIMIT {
        true => String::new(),
        false => String::from_utf8_lossy(text).into_owned(),
    };
    // Before anything is cut, or a part of it would be left.
    let words = protocol::error_words(known(response.body()).as_bytes());
    let mut message = protocol::tidy(&hidden.hide(&words));
    if message.is_empty() && response.status().is_success() {
        // What a gateway's page for logging in looks like, most of all.
        message = "not as GitLab answers; is it a proxy or another server that does?".to_owned();
    } else if message.is_empty()
        && response.status().is_redirection()
        && let Some(location) = response.headers().get(LOCATION)
    {
        // Redirects of API calls are not followed: the token would go along. People need to know
        // where to, for it is mostly the scheme or the host of the URL that is wrong.
        let target = hidden.hide(&known(location.as_bytes()));
        let target = redirect_display(target.as_bytes());
        message = format!("redirects to {target}; check the URL of the server");
    }
    Trouble::Status {
        status: response.status(),
        message,
    }
}

/// The target of a redirect for people: without what may be secret in it, and not too long.
pub(super) fn redirect_display(location: &[u8]) -> String {
    let location = String::from_utf8_lossy(location);
    let location = location.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = location.split_once("//").unwrap_or(("", location));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let slashes = if rest.len() < location.len() {
        "//"
    } else {
        ""
    };
    let target = format!("{scheme}{slashes}{host}{path}");
    target
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ServerUrl;

    const TOKEN: &str = "glrt-core";

    fn core() -> Core {
        let server = ServerUrl::parse("https://gitlab.example.com").unwrap();
        let mut core = Core::new(MachineConfig::new(server, Secret::from(TOKEN), "s_1"), 1);
        core.now = Time::from_secs(100);
        core
    }

    fn limited(body: &'static str, seconds: u64) -> Response<Bytes> {
        let response = Response::builder()
            .status(429)
            .header("Retry-After", seconds)
            .body(Bytes::from_static(body.as_bytes()));
        response.unwrap()
    }

    fn said(status: u16, body: impl Into<Bytes>, token: &str) -> String {
        let response = Response::builder().status(status).body(body.into());
        match trouble(&response.unwrap(), Hidden::token(&Secret::from(token))) {
            Trouble::Status { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_shared_limit_holds_all_and_lets_them_come_back_one_by_one() {
        let mut core = core();
        let wait = core.wait_after(&mut Backoff::default(), &limited("{}", 100));
        assert!(wait >= Duration::from_secs(100));
        assert_eq!(core.shared_hold(None), Time::ZERO);

        let wait = core.wait_after(&mut Backoff::default(), &limited("Retry later\n", 100));
        let until = core.now + wait;
        assert_eq!(core.shared_hold(None), until);
        assert_eq!(core.shared_hold(Some(JobId(3000))), until);
        assert_eq!(core.shared_hold(Some(JobId(1))), until + wait / 5000);
        assert_eq!(core.shared_hold(Some(JobId(7500))), until + wait / 10);

        // The longest wait counts.
        core.now = Time::from_secs(150);
        core.wait_after(&mut Backoff::default(), &limited("Retry later\n", 20));
        assert_eq!(core.shared_hold(None), until);
        let wait = core.wait_after(&mut Backoff::default(), &limited("Retry later\n", 200));
        assert_eq!(core.shared_hold(None), core.now + wait);
    }

    #[test]
    fn a_request_id_is_the_digits_of_a_random_number() {
        let mut rng = Rng::new(3);
        let digits = format!("{:032x}", rng.clone().wide());
        assert_eq!(request_id(&mut rng), *digits);
    }

    #[test]
    fn trouble_says_what_the_server_said() {
        assert_eq!(said(404, "", TOKEN), "");
        assert_eq!(
            said(404, r#"{"message":"404 Not Found"}"#, TOKEN),
            "404 Not Found"
        );
        assert_eq!(said(200, r#"{"error":"odd"}"#, TOKEN), "odd");
        let page = "not as GitLab answers; is it a proxy or another server that does?";
        assert_eq!(said(200, "<html>", TOKEN), page);
        assert_eq!(
            said(403, r#"{"error":"no glrt-core"}"#, TOKEN),
            "no [MASKED]"
        );
        // What would take long to look through is not looked at, and nothing stands for no token.
        assert_eq!(said(403, r#"{"error":"no"}"#, ""), "");
        for (len, found) in [(MESSAGE_LIMIT, true), (MESSAGE_LIMIT + 1, false)] {
            let mut body = r#"{"error":"long"}"#.to_owned();
            body += &" ".repeat(len - body.len());
            assert_eq!(!said(403, body, TOKEN).is_empty(), found);
        }
    }

    #[test]
    fn targets_of_redirects_are_shown_without_what_may_be_secret() {
        for (location, wanted) in [
            (
                "https://u:p@host:8443/a/b?token=1#2",
                "https://host:8443/a/b",
            ),
            ("//host/a", "//host/a"),
            ("/users/sign_in?x", "/users/sign_in"),
            ("https://host", "https://host"),
            ("", ""),
        ] {
            assert_eq!(redirect_display(location.as_bytes()), wanted);
        }
    }
}
