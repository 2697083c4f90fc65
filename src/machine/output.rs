//! What comes out of the machine.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;

use super::call::{CallOutcome, NewToken, TokenNotice};
use crate::{
    ids::{ArtifactId, DownloadId, JobId, RequestId},
    protocol::{Failure, JobPayload, Phase, ScriptStatus},
    transport::TransportError,
};

/// One thing to do, taken from [`RunnerMachine::poll_output`].
///
/// [`RunnerMachine::poll_output`]: crate::machine::RunnerMachine::poll_output
#[derive(Debug)]
#[non_exhaustive]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once; a box would cost more than the move"
)]
pub enum Output {
    /// Send one HTTP request and tell one [`Input::Reply`](crate::machine::Input::Reply) or
    /// [`Input::Failed`](crate::machine::Input::Failed), unless told to forget it. No redirect is
    /// to be followed, nothing retried, nothing decompressed.
    Send {
        /// Names the request in the answer.
        request: RequestId,
        /// Method, absolute URI, headers, and a body that may only be named.
        http: http::Request<RequestBody>,
        /// What to do with the body of the reply.
        reply: ReplyBody,
        /// When to give up, and tell a failure of kind `Timeout`.
        limit: TimeLimit,
    },
    /// Drop this request: no answer is expected any more, and a late one is ignored.
    Forget(RequestId),
    /// Do something for one job.
    Job {
        /// Which job.
        job: JobId,
        /// What.
        output: JobOutput,
    },
    /// The answer to one [`Input::PollOnce`](crate::machine::Input::PollOnce), in order.
    Polled(PollOutcome),
    /// The answer to one [`Input::Call`](crate::machine::Input::Call).
    Called(CallOutcome),
    /// The runner has a new token, and the old one is dead: store it, then tell
    /// [`Input::TokenPersisted`](crate::machine::Input::TokenPersisted). Until then the runner sends
    /// nothing, but its jobs go on.
    PersistToken(NewToken),
    /// Something an operator may want to know. Nothing needs to be done.
    Notice(Notice),
    /// The machine stopped asking for jobs, and nothing is left to do.
    Stopped(StopReason),
}

/// How long a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TimeLimit {
    /// From here to the end of the reply's body.
    Total(Duration),
    /// There is no limit in all, since bodies may be of any size, but on the time in which nothing
    /// moves.
    Idle {
        /// Between one piece of a body, of the request or of the reply, and the next.
        stall: Duration,
        /// Between the last piece of the request and the head of the reply.
        reply: Duration,
    },
}

/// The body of a request: the machine names log bytes instead of holding them.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestBody {
    /// No body; `Content-Length: 0` where the method calls for one.
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// This part of the job's log, in bytes.
    Trace {
        /// Whose log.
        job: JobId,
        /// Which bytes of it; never beyond a mark that was told.
        range: Range<u64>,
    },
    /// A packed artifact in the form that carries it.
    Artifact {
        /// Which one.
        artifact: ArtifactId,
        /// What comes before its bytes.
        head: Bytes,
        /// How many bytes it has, as told by [`Collected`](crate::machine::Collected).
        len: u64,
        /// What comes behind them.
        tail: Bytes,
    },
}

impl RequestBody {
    /// The exact length of the body in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Trace { range, .. } => range.end.saturating_sub(range.start),
            Self::Artifact {
                head, len, tail, ..
            } => len.saturating_add((head.len() + tail.len()) as u64),
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bodies hold tokens, so only their length is shown.
impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Trace { job, range } => write!(f, "Trace(job {job}, {range:?})"),
            Self::Artifact { artifact, len, .. } => write!(f, "Artifact({artifact}, {len} bytes)"),
        }
    }
}

/// What to do with the body of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplyBody {
    /// Hand it over with the reply, cut after `limit` bytes.
    Collect {
        /// In bytes.
        limit: usize,
    },
    /// If the status is 200, write it to a file and tell
    /// [`Input::Spooled`](crate::machine::Input::Spooled); one that breaks off is a failure.
    /// Otherwise the same as `Collect`.
    Spool {
        /// What it is for. A file that an earlier try has begun is begun anew.
        download: DownloadId,
        /// How many bytes GitLab said there are, if it did. The body of a reply that does not say how
        /// long it is has broken off if it is shorter.
        least: Option<u64>,
        /// In bytes, where it is collected.
        limit: usize,
    },
}

/// What to do for one job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum JobOutput {
    /// Make a handler for this job; answer `Accepted` or `Declined`.
    Start(Arc<JobPayload>),
    /// Run one step; answer `StepFinished`.
    Step {
        /// Which of the handler's two phases.
        phase: Phase,
        /// GitLab's name of the step (`script`, `release`, `after_script`).
        name: Arc<str>,
        /// Its lines.
        script: Arc<[String]>,
        /// What it finds in `CI_JOB_STATUS`.
        status: ScriptStatus,
    },
    /// Ask the handler for its files and pack those that belong to this entry of the payload's
    /// `artifacts`; answer `Collected`. The packed file is kept until the next `Collect`, or
    /// `CleanUp`.
    Collect(ArtifactId),
    /// The answer to a `Download`.
    Downloaded(DownloadId, DownloadOutcome),
    /// End what the handler is doing. `Graceful`: tell it, and let it come to an end. `Forced`:
    /// drop it where it stands (the step, the factory, the packing or the clean-up) and answer what
    /// is owed.
    Cancel(CancelMode),
    /// Write this line (without a line end) into the job's log.
    Note(String),
    /// Let the handler clean up, drop it and close the log; answer `CleanedUp`.
    CleanUp,
    /// The job is over: nothing more will be asked or told, its log and directory may go.
    Done,
}

/// What came of a download.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DownloadOutcome {
    /// All of it is in the file.
    Done {
        /// In bytes.
        len: u64,
    },
    /// That job has no artifacts to download, or is no dependency of this one.
    Nothing,
    /// GitLab refused, has them no more, or could not be asked.
    Failed(Trouble),
}

/// How hard to cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CancelMode {
    /// Fire the cancellation token of the step.
    Graceful,
    /// Drop what runs.
    Forced,
}

/// What came of one `PollOnce`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PollOutcome {
    /// GitLab handed out a job; its `Start` follows.
    Started(JobId),
    /// GitLab handed out a job that could not be started; it was (or is being) reported as failed.
    Unusable(JobId),
    /// There was no job.
    NoJob,
    /// GitLab could not be asked, or refused.
    Failed(Trouble),
    /// The machine was stopped before an answer came.
    Stopped,
}

/// Why a request did not lead to what it was for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Trouble {
    /// This status, with what the body says of it (cut, cleaned, without tokens).
    Status {
        /// The HTTP status.
        status: http::StatusCode,
        /// GitLab's message, or empty.
        message: String,
    },
    /// No reply at all.
    Transport(TransportError),
    /// A reply that should have held a job or a token, and did not.
    Unreadable(String),
    /// A redirect from `https` to this place, which is not encrypted. It is not followed.
    Insecure(String),
    /// The machine was stopped.
    Stopped,
}

impl Trouble {
    /// Whether GitLab refused the token.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == http::StatusCode::FORBIDDEN)
    }

    /// Whether the server may have done what it was asked for, although nobody heard of it.
    pub fn is_lost_reply(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                status.is_server_error() || *status == http::StatusCode::REQUEST_TIMEOUT
            }
            Self::Transport(error) => error.maybe_delivered(),
            Self::Unreadable(_) => true,
            Self::Insecure(_) | Self::Stopped => false,
        }
    }

    /// Whether the server does not know what it was asked for.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Status { status, .. } if *status == http::StatusCode::NOT_FOUND)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // GitLab often says the same in the body.
            Self::Status { status, message }
                if message.is_empty() || *message == status.to_string() =>
            {
                write!(f, "answered {status}")
            }
            Self::Status { status, message } => write!(f, "answered {status}: {message}"),
            Self::Transport(error) => write!(f, "no answer: {error}"),
            Self::Unreadable(what) => write!(f, "unreadable answer: {what}"),
            Self::Insecure(target) => write!(
                f,
                "redirects to {target}, which is not encrypted, while GitLab is: this is not followed"
            ),
            Self::Stopped => f.write_str("stopped before an answer came"),
        }
    }
}

/// Why the machine stopped.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StopReason {
    /// As asked by [`StopMode::Drain`](crate::machine::StopMode::Drain).
    Drained,
    /// As asked by [`StopMode::Abort`](crate::machine::StopMode::Abort).
    Aborted,
    /// GitLab refused the runner token when the runner started. The capacity is zero again; setting
    /// it tries once more.
    TokenRefused(Trouble),
}

/// Something an operator may want to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// GitLab knows the runner token; jobs are asked for from now on.
    Verified {
        /// The URL of who is asked.
        server: String,
        /// How many jobs may run at the same time; zero if there is only a
        /// [`PollOnce`](crate::machine::Input::PollOnce).
        capacity: usize,
    },
    /// The token could not be verified at start-up for another reason than a refusal; polling
    /// starts all the same.
    VerifyFailed(Trouble),
    /// Something about the runner's token.
    Token(TokenNotice),
    /// A request for a job failed; the next one waits this long.
    PollFailed {
        /// What happened.
        trouble: Trouble,
        /// How long until the next try.
        retry_in: Duration,
    },
    /// A request for a job was sent and its reply lost: GitLab may have assigned a job that nobody
    /// knows of. It fails at GitLab after a while.
    MaybeOrphanedJob(TransportError),
    /// GitLab handed out a job of which not even id and token can be read. It cannot be reported.
    JobLost(String),
    /// GitLab handed out a job that cannot be understood; it is reported as failed.
    JobUnusable {
        /// Which job.
        job: JobId,
        /// The place in the payload, never its content.
        why: String,
    },
    /// GitLab handed out a job that is running here already; the second one is ignored.
    JobRepeated(JobId),
    /// The job is not ours (any more) before it was started.
    JobDropped {
        /// Which job.
        job: JobId,
        /// What GitLab said.
        why: String,
    },
    /// GitLab ended the job: it was cancelled, failed or erased there.
    JobAborted {
        /// Which job.
        job: JobId,
        /// What GitLab said.
        why: String,
    },
    /// The job is about to be given to its handler.
    JobStarted {
        /// Which job.
        job: JobId,
        /// Its name in `.gitlab-ci.yml`, as GitLab sent it.
        name: String,
    },
    /// A user cancelled the job and it may come to an end by itself.
    JobCanceling(JobId),
    /// The job took longer than it may.
    JobTimedOut {
        /// Which job.
        job: JobId,
        /// The time it had.
        limit: Duration,
    },
    /// A step of the job took longer than it may by itself.
    StepTimedOut {
        /// Which job.
        job: JobId,
        /// GitLab's name of the step.
        step: String,
        /// The time it had.
        limit: Duration,
    },
    /// A request for the job failed; it will be repeated.
    JobTrouble {
        /// Which job.
        job: JobId,
        /// What was being done.
        doing: Doing,
        /// What happened.
        trouble: Trouble,
        /// How long until the next try.
        retry_in: Duration,
    },
    /// GitLab will not take (more of) the log: the job goes on, the rest of its log stays here.
    TraceRejected {
        /// Which job.
        job: JobId,
        /// What GitLab said.
        why: String,
    },
    /// An artifact of the job was uploaded.
    ArtifactUploaded {
        /// Which one.
        artifact: ArtifactId,
        /// How many files are in it.
        files: usize,
        /// Its packed size in bytes.
        len: u64,
    },
    /// An artifact of the job could not be uploaded. Its log says so too.
    ArtifactFailed {
        /// Which one.
        artifact: ArtifactId,
        /// What GitLab said.
        why: String,
    },
    /// GitLab took the final state of the job.
    JobReported {
        /// Which job.
        job: JobId,
        /// How it failed; nothing if it succeeded.
        failure: Option<Failure>,
    },
    /// The final state of the job could not be brought to GitLab.
    JobReportFailed {
        /// Which job.
        job: JobId,
        /// Why no further try is made.
        why: String,
    },
}

/// What was being done for a job when a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Doing {
    /// Telling GitLab that the job is taken.
    Commit,
    /// Sending a part of the log.
    Patch,
    /// Keeping the job alive.
    KeepAlive,
    /// Uploading an artifact.
    Upload,
    /// Downloading the artifacts of a dependency.
    Download,
    /// Reporting the final state.
    FinalUpdate,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commit => "taking the job",
            Self::Patch => "sending its log",
            Self::KeepAlive => "keeping it alive",
            Self::Upload => "uploading an artifact",
            Self::Download => "downloading the artifacts of a dependency",
            Self::FinalUpdate => "reporting its final state",
        })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified {
                server,
                capacity: 0,
            } => write!(f, "token verified; asking {server} for a job"),
            Self::Verified { server, capacity } => write!(
                f,
                "token verified; asking {server} for jobs, up to {capacity} at a time"
            ),
            Self::VerifyFailed(trouble) => {
                write!(
                    f,
                    "could not verify the runner token ({trouble}); asking for jobs anyway"
                )
            }
            Self::Token(notice) => notice.fmt(f),
            Self::PollFailed { trouble, retry_in } => {
                write!(
                    f,
                    "could not ask for a job ({trouble}); next try in {retry_in:.1?}"
                )
            }
            Self::MaybeOrphanedJob(error) => write!(
                f,
                "a request for a job got no answer ({error}): GitLab may have assigned a job that \
                 this runner does not know of"
            ),
            Self::JobLost(why) => write!(
                f,
                "GitLab handed out a job of which not even id and token can be read ({why}); it \
                 cannot be reported"
            ),
            Self::JobUnusable { job, why } => {
                write!(f, "job {job} cannot be run ({why}); reporting it as failed")
            }
            Self::JobRepeated(job) => {
                write!(
                    f,
                    "GitLab handed out job {job} again while it is running; ignored"
                )
            }
            Self::JobDropped { job, why } => {
                write!(f, "job {job} is not for this runner any more: {why}")
            }
            Self::JobAborted { job, why } => write!(f, "job {job} was ended by GitLab: {why}"),
            // Whoever may push code chooses the name: no line ends from there.
            Self::JobStarted { job, name } => {
                write!(f, "job {job} ({}) started", name.escape_debug())
            }
            Self::JobCanceling(job) => write!(f, "job {job} was cancelled"),
            Self::JobTimedOut { job, limit } => {
                write!(f, "job {job} took longer than {} seconds", limit.as_secs())
            }
            Self::StepTimedOut { job, step, limit } => {
                let seconds = limit.as_secs();
                write!(
                    f,
                    "job {job}: its step {step:?} took longer than {seconds} seconds"
                )
            }
            Self::JobTrouble {
                job,
                doing,
                trouble,
                retry_in,
            } => {
                write!(
                    f,
                    "job {job}: {doing} failed ({trouble}); next try in {retry_in:.1?}"
                )
            }
            Self::TraceRejected { job, why } => {
                write!(
                    f,
                    "job {job}: GitLab does not take its log ({why}); the job goes on"
                )
            }
            Self::ArtifactUploaded {
                artifact,
                files,
                len,
            } => {
                let s = if *files == 1 { "" } else { "s" };
                write!(
                    f,
                    "{artifact} was uploaded ({files} file{s}, {len} bytes packed)"
                )
            }
            Self::ArtifactFailed { artifact, why } => {
                write!(f, "{artifact} could not be uploaded: {why}")
            }
            Self::JobReported { job, failure: None } => write!(f, "job {job} succeeded"),
            Self::JobReported {
                job,
                failure: Some(failure),
            } => write!(f, "job {job} failed: {failure}"),
            Self::JobReportFailed { job, why } => {
                write!(f, "job {job}: its final state could not be reported: {why}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
