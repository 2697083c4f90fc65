//! What goes into the machine.

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{call::RunnerCall, transcript};
use crate::{
    ids::{ArtifactId, DownloadId, JobId, RequestId},
    protocol::Failure,
    trace::TraceMark,
    transport::TransportError,
};

/// One thing that happened, told to [`RunnerMachine::handle_input`].
///
/// Serialising gives it whole, with what is secret in it; [`transcript`](crate::machine::transcript)
/// keeps that out.
///
/// [`RunnerMachine::handle_input`]: crate::machine::RunnerMachine::handle_input
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Input {
    /// The deadline of `poll_timeout` has come. Telling it earlier or more often is harmless.
    Timeout,
    /// The reply to a request. The body may be cut short, by the limit of
    /// [`ReplyBody::Collect`](crate::machine::ReplyBody::Collect) or because the connection broke
    /// behind the headers: the machine copes with what is there.
    Reply {
        /// Which request.
        request: RequestId,
        /// Status, headers and as much of the body as came.
        #[serde(with = "transcript::reply")]
        response: http::Response<Bytes>,
    },
    /// A request got no reply.
    Failed {
        /// Which request.
        request: RequestId,
        /// Why.
        #[serde(with = "transcript::failure")]
        error: TransportError,
    },
    /// The reply to a request with [`ReplyBody::Spool`](crate::machine::ReplyBody::Spool) was a
    /// success, and all of its body is in the file. Any other reply is told by [`Input::Reply`].
    Spooled {
        /// Which request.
        request: RequestId,
        /// The length of the body in bytes.
        len: u64,
    },
    /// Something happened to a job's handler or log.
    Job {
        /// Which job.
        job: JobId,
        /// What.
        input: JobInput,
    },
    /// How many jobs may live at the same time; the machine polls while there are fewer. Starts at
    /// zero. A lower number ends no job. Ignored once [`Input::Stop`] was told.
    SetCapacity(usize),
    /// Ask for one job, once, whatever the capacity; answered by one
    /// [`Output::Polled`](crate::machine::Output::Polled).
    PollOnce,
    /// Take back one [`Input::PollOnce`] for which no request was sent yet: it gets no answer. There
    /// are [`Stats::polls_waiting`](crate::machine::Stats::polls_waiting) of them; without any, this
    /// is ignored.
    WithdrawPoll,
    /// Come to an end; answered by [`Output::Stopped`](crate::machine::Output::Stopped).
    Stop(StopMode),
    /// Do something that has to do with the runner as a whole; answered by
    /// [`Output::Called`](crate::machine::Output::Called).
    Call(RunnerCall),
    /// The token of [`Output::PersistToken`](crate::machine::Output::PersistToken) was stored, or
    /// why it was not, in words for the operator.
    TokenPersisted(Result<(), String>),
}

/// Replies hold tokens and variables, so only their status and length are shown.
impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("Timeout"),
            Self::Reply { request, response } => {
                let (status, len) = (response.status().as_u16(), response.body().len());
                write!(f, "Reply({request}, {status}, {len} bytes)")
            }
            Self::Failed { request, error } => write!(f, "Failed({request}, {error})"),
            Self::Spooled { request, len } => write!(f, "Spooled({request}, {len} bytes)"),
            Self::Job { job, input } => write!(f, "Job({job}, {input:?})"),
            Self::SetCapacity(capacity) => write!(f, "SetCapacity({capacity})"),
            Self::PollOnce => f.write_str("PollOnce"),
            Self::WithdrawPoll => f.write_str("WithdrawPoll"),
            Self::Stop(mode) => write!(f, "Stop({mode:?})"),
            Self::Call(call) => write!(f, "Call({call:?})"),
            Self::TokenPersisted(Ok(())) => f.write_str("TokenPersisted"),
            // Its words are not ours: they may hold the token.
            Self::TokenPersisted(Err(_)) => f.write_str("TokenPersisted(failed)"),
        }
    }
}

/// What happened to one job on the handler's side.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobInput {
    /// There is a handler: steps may come. Answers `Start`.
    Accepted,
    /// There is no handler, and there will be none. Answers `Start`.
    Declined {
        /// What to report to GitLab.
        failure: Failure,
        /// The log as it is for good.
        trace: TraceMark,
    },
    /// The log has grown. Marks may be skipped, but never shrink.
    Traced(TraceMark),
    /// The step has ended, for whatever reason. Answers `Step`.
    StepFinished {
        /// How.
        result: StepResult,
        /// The log at this moment.
        trace: TraceMark,
    },
    /// The artifact was packed, or not. Answers `Collect`.
    Collected {
        /// Which one.
        artifact: ArtifactId,
        /// What came of it.
        outcome: Collected,
    },
    /// The handler wants the artifacts of an earlier job. Answered by one `Downloaded`.
    Download {
        /// Names it in the answer.
        download: DownloadId,
        /// GitLab's number of that job, which is one of the payload's `dependencies`.
        dependency: JobId,
    },
    /// The handler does not want them any more: no answer is expected.
    DropDownload(DownloadId),
    /// The handler has cleaned up and is gone, nothing more will be logged. Answers `CleanUp`.
    CleanedUp {
        /// The log as it is for good.
        trace: TraceMark,
    },
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepResult {
    /// The handler says that it went well.
    Ok,
    /// The handler says that it failed.
    Failed(Failure),
    /// The handler panicked.
    Panicked,
    /// The handler (or who drives it) ended the step because it took too long.
    TimedOut,
    /// The step was ended because the machine said `Cancel(Forced)`.
    Cancelled,
}

/// What came of packing an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Collected {
    /// It can be uploaded: the body of
    /// [`RequestBody::Artifact`](crate::machine::RequestBody::Artifact) can be read, again and again.
    Packed {
        /// The length of the packed file in bytes.
        len: u64,
        /// What GitLab shall call it.
        file_name: String,
        /// How many files are in it.
        files: usize,
    },
    /// There is nothing to upload, which is no failure.
    Nothing,
    /// It could not be packed. Why stands in the log of the job.
    Failed,
    /// The handler panicked when it was asked for the files.
    Panicked,
    /// It was ended by `Cancel(Forced)`.
    Cancelled,
}

/// How to come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopMode {
    /// Ask for no more jobs; let those that live finish. A job request that is on its way is
    /// awaited, and the job it may bring is run: GitLab has assigned it already.
    Drain,
    /// As `Drain`, and after this time as `Abort`. Of several times the earliest counts.
    DrainWithin(Duration),
    /// Ask for no more jobs; cancel those that live and report them as interrupted.
    Abort,
}
