//! One process group: its output as it comes, a polite end on cancel, and nothing left behind.

use std::{
    env, io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::{Child, Command},
    signal::unix::{Signal as SignalStream, SignalKind, signal},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// How long a cancelled group has between SIGTERM and SIGKILL.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long what the leader left behind (as in `exec > >(tee log)`) may go on writing.
const LINGER: Duration = Duration::from_secs(2);

/// What is still read after that; whoever escaped from the group may write for ever.
const LAST_BYTES: usize = 1 << 20;

const BUFFER: usize = 64 * 1024;

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
    mut command: Command,
    cancel: &CancellationToken,
    mut output: impl FnMut(&[u8]) + Send,
) -> io::Result<i32> {
    let (reader, writer) = io::pipe()?;
    let mut reader = pipe::Receiver::from_owned_fd(reader.into())?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut group = Group::spawn(&mut command)?;
    // With it goes our own copy of the writing end, without which there would be no end of file.
    drop(command);

    let mut buffer = vec![0; BUFFER];
    let mut open = true;
    let mut kill_at = None;
    loop {
        tokio::select! {
            read = reader.read(&mut buffer), if open => match read? {
                0 => open = false,
                n => output(&buffer[..n]),
            },
            ended = group.leader_ended() => break ended?,
            () = cancel.cancelled(), if kill_at.is_none() => {
                group.signal(Signal::TERM);
                kill_at = Some(Instant::now() + PATIENCE);
            }
            () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                group.signal(Signal::KILL);
                // Once is enough, but a process that hangs in the kernel is no reason to spin.
                kill_at = Some(Instant::now() + PATIENCE);
            }
        }
    }
    let linger_until = Instant::now() + LINGER;
    while open {
        tokio::select! {
            read = reader.read(&mut buffer) => match read? {
                0 => open = false,
                n => output(&buffer[..n]),
            },
            () = sleep_until(linger_until) => break,
        }
    }
    group.signal(Signal::KILL);
    let mut left = if open { LAST_BYTES } else { 0 };
    while left > 0
        && let Ok(n @ 1..) = reader.try_read(&mut buffer)
    {
        output(&buffer[..n]);
        left = left.saturating_sub(n);
    }
    let ended = group.reap().await?;
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

/// A process group with its leader as our child. Dropping it kills all of it.
struct Group {
    leader: Child,
    /// The leader's process id is that of the group too. It stays ours until the leader is reaped;
    /// after that the number may belong to somebody else, so that no signal may be sent to it.
    id: Option<Pid>,
    exits: SignalStream,
}

impl Group {
    fn spawn(command: &mut Command) -> io::Result<Self> {
        // Before the child is there, or its exit might be missed.
        let exits = signal(SignalKind::child())?;
        let leader = command.spawn()?;
        let id = leader
            .id()
            .and_then(|id| Pid::from_raw(id.try_into().ok()?));
        Ok(Self { leader, id, exits })
    }

    /// Waits until the leader has ended, without reaping it.
    async fn leader_ended(&mut self) -> io::Result<()> {
        let Some(id) = self.id else { return Ok(()) };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        while waitid(WaitId::Pid(id), options)?.is_none() {
            self.exits.recv().await;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id {
            // An error means that nobody is left to hear it.
            let _ = kill_process_group(id, signal);
        }
    }

    async fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.leader.wait().await;
        self.id = None;
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // tokio reaps the leader.
        self.signal(Signal::KILL);
    }
}
