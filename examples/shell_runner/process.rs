//! One process group: its output as it comes, a polite end on cancel, and nothing left behind.
//!
//! It needs no runtime: two small threads wait for the process where async code cannot.

use std::{
    collections::BTreeSet,
    env,
    io::{self, PipeReader, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    pin::pin,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError, mpsc as blocking},
    thread,
    time::Duration,
};

use futures::{
    FutureExt, SinkExt, StreamExt,
    channel::{mpsc, oneshot},
    executor::block_on,
    future::{BoxFuture, Fuse},
    select,
    stream::FusedStream,
};
use gitlab_runner::job::Job;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio_util::sync::CancellationToken;

/// How long a cancelled group has between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long what the leader left behind (as in `exec > >(tee log)`) may go on writing.
const LINGER: Duration = Duration::from_secs(2);

/// What is still read after that; whoever escaped from the group may write for ever.
const LAST_BYTES: usize = 1 << 20;

/// For how long.
const LAST_MOMENT: Duration = Duration::from_millis(200);

const BUFFER: usize = 64 * 1024;

/// All that those threads need.
const STACK: usize = 128 * 1024;

/// The groups that are alive, to be ended with this program.
static ALIVE: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Runs `command` as the leader of a process group of its own, and ends the whole group with it.
///
/// stdout and stderr are one pipe, so `output` gets what both say in the order of writing. When
/// `cancel` fires the group gets SIGTERM and, if that does not help, SIGKILL. Dropping the future
/// kills the group at once.
///
/// Gives the exit code, as shells do: 128 and its number for a signal.
///
/// # Errors
/// If the program cannot be started, or its output cannot be read.
pub(crate) async fn run(
    job: &Job,
    mut command: Command,
    cancel: &CancellationToken,
    mut output: impl FnMut(&[u8]) + Send,
) -> io::Result<i32> {
    let (reader, writer) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut group = Group::spawn(&mut command)?;
    // With it goes our own copy of the writing end, without which there would be no end of file.
    drop(command);

    let mut pieces = read(reader)?;
    let mut cancelled = pin!(cancel.cancelled().fuse());
    let mut kill: Fuse<BoxFuture<'_, ()>> = Fuse::terminated();
    loop {
        select! {
            piece = pieces.select_next_some() => output(&piece?),
            ended = &mut group.ended => {
                ended.map_err(io::Error::other)??;
                break;
            }
            () = cancelled => {
                group.signal(Signal::TERM);
                kill = job.sleep(PATIENCE).fuse();
            }
            () = kill => {
                group.signal(Signal::KILL);
                // Once is enough, but a process that hangs in the kernel is no reason to spin.
                kill = job.sleep(PATIENCE).fuse();
            }
        }
    }
    let mut linger = job.sleep(LINGER).fuse();
    while !pieces.is_terminated() {
        select! {
            piece = pieces.select_next_some() => output(&piece?),
            () = linger => break,
        }
    }
    group.signal(Signal::KILL);
    let mut left = LAST_BYTES;
    let mut last = job.sleep(LAST_MOMENT).fuse();
    while left > 0 && !pieces.is_terminated() {
        select! {
            piece = pieces.select_next_some() => {
                let piece = piece?;
                output(&piece);
                left = left.saturating_sub(piece.len());
            }
            () = last => break,
        }
    }
    let ended = group.end().await?;
    let by_signal = || ended.signal().map(|signal| 128 + signal);
    Ok(ended.code().or_else(by_signal).unwrap_or(1))
}

/// This program on our own `PATH`: that of a job may lead anywhere.
pub(crate) fn find(program: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates = env::split_paths(&path).map(|dir| dir.join(program));
    candidates
        .find(|file| file.is_file())
        .unwrap_or_else(|| program.into())
}

/// Kills all groups that are alive: for the end of this program.
pub(crate) fn kill_all() {
    for id in &*ALIVE.lock().unwrap_or_else(PoisonError::into_inner) {
        if let Some(id) = Pid::from_raw(*id) {
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

/// What comes from the pipe until its end, no faster than it is taken.
fn read(mut pipe: PipeReader) -> io::Result<mpsc::Receiver<io::Result<Vec<u8>>>> {
    let (mut send, pieces) = mpsc::channel(0);
    in_thread("job-output", move || {
        let mut buffer = vec![0; BUFFER];
        loop {
            let piece = match pipe.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => Ok(buffer[..n].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let last = piece.is_err();
            if block_on(send.send(piece)).is_err() || last {
                return;
            }
        }
    })?;
    Ok(pieces)
}

/// A process group with its leader as our child. Dropping it kills all of it.
struct Group {
    /// The leader's process id is that of the group too. It stays ours until the leader is reaped;
    /// after that the number may belong to somebody else, so that no signal may be sent to it.
    id: Pid,
    /// The leader has ended, and was not reaped yet.
    ended: oneshot::Receiver<io::Result<()>>,
    status: Option<oneshot::Receiver<io::Result<ExitStatus>>>,
    /// While it is there, the leader is not reaped.
    held: Option<blocking::Sender<()>>,
}

impl Group {
    fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut leader = command.spawn()?;
        let id = Pid::from_child(&leader);
        alive(|all| all.insert(id.as_raw_nonzero().get()));
        let (end, ended) = oneshot::channel();
        let (reaped, status) = oneshot::channel();
        let (held, released) = blocking::channel::<()>();
        let group = Self {
            id,
            ended,
            status: Some(status),
            held: Some(held),
        };
        in_thread("job-process", move || {
            let _ = end.send(wait(&leader));
            // It is never sent anything: this waits until the other end is gone.
            let _ = released.recv();
            let _ = reaped.send(leader.wait());
        })?;
        Ok(group)
    }

    fn signal(&self, signal: Signal) {
        if self.held.is_some() {
            // An error means that nobody is left to hear it.
            let _ = kill_process_group(self.id, signal);
        }
    }

    /// Lets the leader be reaped.
    fn release(&mut self) {
        self.signal(Signal::KILL);
        alive(|all| all.remove(&self.id.as_raw_nonzero().get()));
        self.held = None;
    }

    async fn end(mut self) -> io::Result<ExitStatus> {
        self.release();
        match self.status.take() {
            Some(status) => status.await.map_err(io::Error::other)?,
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.held.is_some() {
            self.release();
        }
    }
}

/// Waits until the process has ended, without reaping it.
fn wait(leader: &Child) -> io::Result<()> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::Pid(Pid::from_child(leader)), options) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result.map(drop)?),
        }
    }
}

fn alive<T>(change: impl FnOnce(&mut BTreeSet<i32>) -> T) -> T {
    change(&mut ALIVE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn in_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.stack_size(STACK).spawn(work).map(drop)
}
