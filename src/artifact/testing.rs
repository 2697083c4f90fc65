//! What the tests of artifacts share.

use std::{
    borrow::Cow,
    io,
    pin::Pin,
    process::{Command, Stdio},
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use futures::{
    AsyncRead,
    channel::oneshot,
    future::{BoxFuture, FutureExt as _, pending},
};

use super::{FileMetadata, UploadableFile};
use crate::{
    Time,
    adapter::{Adapter, Body, TransportError, TransportErrorKind},
};

/// Blocking work goes to a thread, and nothing else is there.
#[derive(Debug)]
pub(super) struct Threads;

impl Threads {
    pub(super) fn adapter() -> Arc<dyn Adapter> {
        Arc::new(Self)
    }
}

impl Adapter for Threads {
    fn now(&self) -> Time {
        Time::ZERO
    }

    fn sleep_until(&self, _deadline: Time) -> BoxFuture<'static, ()> {
        pending().boxed()
    }

    fn spawn(&self, _task: BoxFuture<'static, ()>) {}

    fn unblock(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let (done, wait) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            work();
            drop(done);
        });
        wait.map(drop).boxed()
    }

    fn send(
        &self,
        _request: http::Request<Body>,
    ) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let error = TransportError::new(TransportErrorKind::Connect, false, "no network here");
        futures::future::ready(Err(error)).boxed()
    }
}

pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

/// A file in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryFile {
    pub(super) path: String,
    pub(super) data: Vec<u8>,
    /// So much is given at a time; all if 0.
    pub(super) step: usize,
    pub(super) metadata: FileMetadata,
    pub(super) fault: Fault,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    /// Cannot be opened.
    Open,
    /// Breaks off at its end.
    Read,
}

pub(super) fn file(path: &str, data: impl Into<Vec<u8>>) -> MemoryFile {
    MemoryFile {
        path: path.to_owned(),
        data: data.into(),
        ..MemoryFile::default()
    }
}

#[async_trait]
impl UploadableFile for MemoryFile {
    type Data<'a> = MemoryData<'a>;

    fn get_path(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.path)
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        match self.fault {
            Fault::Open => Err(()),
            _ => Ok(MemoryData(self, 0)),
        }
    }

    fn get_metadata(&self) -> FileMetadata {
        self.metadata.clone()
    }
}

pub(super) struct MemoryData<'a>(&'a MemoryFile, usize);

impl AsyncRead for MemoryData<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self(file, at) = &mut *self;
        let rest = &file.data[*at..];
        if rest.is_empty() && file.fault == Fault::Read {
            return Poll::Ready(Err(io::Error::other("the cable was cut")));
        }
        let step = if file.step == 0 {
            rest.len()
        } else {
            file.step
        };
        let len = step.min(rest.len()).min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        *at += len;
        Poll::Ready(Ok(len))
    }
}

/// Bytes that cannot be compressed.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What a program prints; `None`, and a word about it, if there is no such program.
pub(super) fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: {program} cannot be run: {error}");
            return None;
        }
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    Some(String::from_utf8(output.stdout).unwrap())
}
