//! One HTTP request and its reply in a task of its own, on the adapter and within its time.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::{AbortHandle, Abortable, BoxFuture, Either, select},
    stream::{self, BoxStream},
};
use http::{Request, StatusCode};

use super::{
    inbox::{Inbox, Message},
    progress::Progress,
    reply::Reading,
    task::Options,
};
use crate::{
    adapter::{Body, TransportError, TransportErrorKind, unblock},
    handler::DownloadError,
    ids::RequestId,
    machine::{Input, ReplyBody, TimeLimit, Trouble},
    spool::{SpoolFile, lost},
};

/// So much of a reply is put together before it is written to its file.
const SPOOL_PIECE: usize = 1 << 20;

/// Artifacts of other jobs are not written to disk while they are no more than this together, in
/// bytes.
pub(super) const SPOOLED_IN_MEMORY: usize = 32 << 20;

/// One request to be sent.
pub(super) struct Call {
    pub(super) request: RequestId,
    /// None is a body that is not there any more.
    pub(super) http: Option<Request<Body>>,
    pub(super) reply: ReplyBody,
    pub(super) limit: TimeLimit,
}

/// The task that makes the call and tells the driver what came of it, and what ends it.
pub(super) fn task(options: &Arc<Options>, call: Call) -> (BoxFuture<'static, ()>, AbortHandle) {
    let options = Arc::clone(options);
    let answer = Answer {
        request: call.request,
        inbox: Arc::clone(&options.inbox),
        given: false,
    };
    let work = async move { answer.give(exchange(&options, call).await) };
    let (abort, registration) = AbortHandle::new_pair();
    (
        Abortable::new(work, registration).map(|_| ()).boxed(),
        abort,
    )
}

async fn exchange(options: &Options, call: Call) -> Result<Message, TransportError> {
    let Some(http) = call.http else {
        let detail = "what was to be sent is not there any more";
        return Err(TransportError::new(TransportErrorKind::Body, false, detail));
    };
    let progress = Progress::new(&options.adapter, call.limit);
    let mut over = pin!(progress.is_over());
    let reply = options
        .adapter
        .send(http.map(|body| progress.watched(body)));
    let reply = in_time(reply, &mut over).await?;
    progress.replied();
    let request = call.request;
    let limit = match call.reply {
        ReplyBody::Spool {
            download, least, ..
        } if reply.status() == StatusCode::OK => {
            let file = spool(options, reply.into_body(), least, &progress);
            let file = in_time(file, &mut over).await?;
            return Ok(Message::Spooled {
                request,
                download,
                file,
            });
        }
        ReplyBody::Spool { limit, .. } | ReplyBody::Collect { limit } => limit,
    };
    let mut reading = Reading::new(reply, limit);
    let whole = match select(poll_fn(|cx| reading.poll(cx)), over).await {
        Either::Left((whole, _)) => Some(whole),
        Either::Right(_) => None,
    };
    let response = whole.unwrap_or_else(|| reading.finish());
    Ok(Message::Input(Input::Reply { request, response }))
}

/// What comes of `work`, if that is before the time is over.
async fn in_time<T>(
    work: impl Future<Output = Result<T, TransportError>>,
    over: &mut Pin<&mut impl Future<Output = ()>>,
) -> Result<T, TransportError> {
    match select(pin!(work), over).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(((), _)) => Err(out_of_time()),
    }
}

pub(super) fn out_of_time() -> TransportError {
    let detail = "no complete reply in time";
    TransportError::new(TransportErrorKind::Timeout, true, detail)
}

/// What an adapter was at did not come to an end: it panicked, or was lost.
pub(super) fn ended_early() -> TransportError {
    let detail = "the task of the request ended before its time (does the runtime have its \
                  drivers? that of tokio needs `enable_all`)";
    TransportError::new(TransportErrorKind::Broken, true, detail)
}

/// All of `body`, in memory if there is room for it, else in a file. If it does not say how long it
/// is, it has to be of `least` bytes.
async fn spool(
    options: &Options,
    body: Body,
    least: Option<u64>,
    progress: &Progress,
) -> Result<Arc<SpoolFile>, TransportError> {
    let (len, mut chunks) = match body {
        Body::Empty => (Some(0), stream::empty().boxed()),
        Body::Full(bytes) => (Some(bytes.len() as u64), stream::iter([Ok(bytes)]).boxed()),
        Body::Stream { len, chunks } => (len, chunks),
    };
    check(options, len.unwrap_or(0))?;
    if let Some(mut room) = len.and_then(|len| options.memory.take(len)) {
        while let Some(chunk) = next(&mut chunks, progress).await? {
            if !room.add(&chunk) {
                return Err(broken("the reply is longer than it said"));
            }
        }
        if !room.is_full() {
            return Err(broken("the reply is shorter than it said"));
        }
        return Ok(Arc::new(room.finish()));
    }

    let stored = |error| {
        let detail = "the reply could not be stored in the build directory";
        TransportError::new(TransportErrorKind::Store, true, detail).with_source(error)
    };
    let adapter = &*options.adapter;
    let dir = options.build_dir.clone();
    let file = unblock(adapter, move || SpoolFile::create(&dir)).await;
    let file = Arc::new(file.unwrap_or_else(|| Err(lost())).map_err(stored)?);
    let (mut waiting, mut size, mut all) = (Vec::new(), 0, 0);
    loop {
        let chunk = next(&mut chunks, progress).await?;
        let over = chunk.is_none();
        if let Some(chunk) = chunk {
            size += chunk.len();
            all += chunk.len() as u64;
            check(options, all)?;
            waiting.push(chunk);
        }
        if size >= SPOOL_PIECE || over && size > 0 {
            let (pieces, file) = (std::mem::take(&mut waiting), Arc::clone(&file));
            size = 0;
            let written = unblock(adapter, move || file.append(&pieces)).await;
            written.unwrap_or_else(|| Err(lost())).map_err(stored)?;
        }
        if over {
            break;
        }
    }
    match (len, least) {
        (Some(len), _) if len != all => Err(broken("the reply is shorter than it said")),
        (None, Some(least)) if least > all => Err(broken("the reply is shorter than GitLab said")),
        _ => Ok(file),
    }
}

/// Whether there is room for so many bytes.
fn check(options: &Options, len: u64) -> Result<(), TransportError> {
    match options.max_download_size.filter(|most| len > *most) {
        Some(most) => {
            let detail = format!("the reply is longer than this runner's limit of {most} bytes");
            Err(TransportError::new(TransportErrorKind::Store, true, detail))
        }
        None => Ok(()),
    }
}

/// Why the artifacts of another job did not come.
pub(super) fn download_error(trouble: Trouble) -> DownloadError {
    match trouble {
        Trouble::Status { status, .. } => match status.as_u16() {
            401 | 403 => DownloadError::Refused(trouble.to_string()),
            404 => DownloadError::NotFound(trouble.to_string()),
            _ => DownloadError::Failed(trouble.to_string()),
        },
        Trouble::Transport(error) => DownloadError::Transport(error),
        Trouble::Stopped => DownloadError::Stopped,
        trouble => DownloadError::Failed(trouble.to_string()),
    }
}

async fn next(
    chunks: &mut BoxStream<'static, io::Result<Bytes>>,
    progress: &Progress,
) -> Result<Option<Bytes>, TransportError> {
    let chunk = chunks.next().await.transpose();
    progress.note();
    chunk.map_err(|error| broken("the reply broke off").with_source(error))
}

fn broken(detail: &'static str) -> TransportError {
    TransportError::new(TransportErrorKind::Broken, true, detail)
}

/// Makes sure that there is an answer, also when an adapter panics.
struct Answer {
    request: RequestId,
    inbox: Arc<Inbox>,
    given: bool,
}

impl Answer {
    fn give(mut self, outcome: Result<Message, TransportError>) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Result<Message, TransportError>) {
        self.given = true;
        let request = self.request;
        self.inbox.push(match outcome {
            Ok(message) => message,
            Err(error) => Message::Input(Input::Failed { request, error }),
        });
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // After an abort this comes too, and nobody waits for it.
        if !self.given {
            self.tell(Err(ended_early()));
        }
    }
}
