//! The artifacts of one job, one after the other: packed on the handler's side, then uploaded.

use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};

use super::{
    core::{Core, JobCalls},
    input::Collected,
    output::{Doing, JobOutput, Notice, RequestBody, Trouble},
    transfer::{Transfer, Verdict},
};
use crate::{
    ids::{ArtifactId, RequestId},
    protocol::{ArtifactForm, ArtifactSpec, Failure, FailureReason, artifact_query, headers},
    time::Time,
    transport::{TransportError, TransportErrorKind},
};

#[derive(Debug)]
pub(super) struct Uploads {
    queue: VecDeque<ArtifactId>,
    stage: Stage,
    /// What the first of them that could not be packed or uploaded means for the job.
    failure: Option<Failure>,
}

#[derive(Debug)]
enum Stage {
    /// The next one can begin.
    Idle,
    /// The handler's side packs.
    Collecting(ArtifactId),
    Sending(Box<Parcel>),
    /// No more of them, but what was asked for is still owed.
    Stopping(ArtifactId),
}

/// A packed artifact on its way.
#[derive(Debug)]
struct Parcel {
    artifact: ArtifactId,
    files: usize,
    len: u64,
    /// What GitLab calls it, for people.
    kind: String,
    content_type: HeaderValue,
    body: RequestBody,
    transfer: Transfer,
}

/// What an answer means beyond the upload itself.
#[derive(Debug)]
pub(super) enum UploadNews {
    Nothing,
    /// It was refused as if the job were not running: ask how it is.
    Doubt,
    /// The job is over for GitLab.
    Ended(String),
}

impl Uploads {
    pub(super) fn new(queue: impl IntoIterator<Item = ArtifactId>) -> Self {
        Self {
            queue: queue.into_iter().collect(),
            stage: Stage::Idle,
            failure: None,
        }
    }

    pub(super) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    fn failed(&mut self) {
        // As GitLab's own runner says it.
        self.failure.get_or_insert(Failure::exit_code(1));
    }

    pub(super) fn owns(&self, request: RequestId) -> bool {
        matches!(&self.stage, Stage::Sending(parcel) if parcel.transfer.owns(request))
    }

    /// Sends what is due; true when there is nothing left to do.
    pub(super) fn advance(&mut self, core: &mut Core, calls: &JobCalls) -> bool {
        match &mut self.stage {
            Stage::Idle => match self.queue.pop_front() {
                Some(artifact) => {
                    self.stage = Stage::Collecting(artifact);
                    core.job(artifact.job, JobOutput::Collect(artifact));
                    false
                }
                None => true,
            },
            Stage::Sending(parcel) => {
                if parcel.transfer.is_due(core) {
                    let content_type = parcel.content_type.clone();
                    let body = parcel.body.clone();
                    let request = core.send_upload(calls, &parcel.transfer, content_type, body);
                    parcel.transfer.sent(request);
                }
                false
            }
            Stage::Collecting(_) | Stage::Stopping(_) => false,
        }
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub(super) fn deadline(&self, core: &Core) -> Option<Time> {
        match &self.stage {
            Stage::Sending(parcel) => parcel.transfer.deadline(core),
            _ => None,
        }
    }

    /// What came of packing; false if that was not asked for.
    pub(super) fn on_collected(
        &mut self,
        core: &mut Core,
        spec: Option<&ArtifactSpec>,
        artifact: ArtifactId,
        outcome: Collected,
    ) -> bool {
        match self.stage {
            Stage::Collecting(asked) if asked == artifact => {}
            Stage::Stopping(asked) if asked == artifact => {
                self.stage = Stage::Idle;
                return true;
            }
            _ => return false,
        }
        self.stage = match (outcome, spec) {
            (
                Collected::Packed {
                    len,
                    file_name,
                    files,
                },
                Some(spec),
            ) => {
                let form = ArtifactForm::new(core.rng.wide(), &file_name, spec);
                Stage::Sending(Box::new(Parcel::new(
                    core, artifact, spec, &form, files, len,
                )))
            }
            (Collected::Nothing, _) => Stage::Idle,
            (Collected::Panicked, _) => {
                // As after a step that panicked: nothing more is asked of that handler's files.
                self.queue.clear();
                let failure = Failure::new(FailureReason::RunnerSystemFailure);
                self.failure.get_or_insert(failure);
                Stage::Idle
            }
            _ => {
                self.failed();
                Stage::Idle
            }
        };
        true
    }

    /// A reply or a failure for the request that it owns.
    pub(super) fn on_answer(
        &mut self,
        core: &mut Core,
        calls: &JobCalls,
        answer: Result<&Response<Bytes>, TransportError>,
    ) -> UploadNews {
        let Stage::Sending(parcel) = &mut self.stage else {
            return UploadNews::Nothing;
        };
        if let Ok(response) = answer
            && parcel.transfer.is_at_home()
            && response.status() == StatusCode::FORBIDDEN
            && let Some(status) = headers::job_status(response.headers())
        {
            let why = format!("an upload was refused (the job is {status} there)");
            return UploadNews::Ended(why);
        }
        let artifact = parcel.artifact;
        match parcel.transfer.on_answer(core, answer, calls.hidden()) {
            Verdict::Again => UploadNews::Nothing,
            Verdict::Done => {
                let (files, len) = (parcel.files, parcel.len);
                if core.config.artifact_log {
                    let kind = &parcel.kind;
                    let line =
                        format!("Uploading artifacts as \"{kind}\" to coordinator... 201 Created");
                    core.job(artifact.job, JobOutput::Note(line));
                }
                core.notice(Notice::ArtifactUploaded {
                    artifact,
                    files,
                    len,
                });
                self.stage = Stage::Idle;
                UploadNews::Nothing
            }
            Verdict::Failed(trouble) => {
                let why = explain(&trouble);
                let kind = &parcel.kind;
                core.error(
                    artifact.job,
                    &format!("Uploading artifacts as \"{kind}\" failed: GitLab {why}"),
                );
                core.notice(Notice::ArtifactFailed { artifact, why });
                self.failed();
                self.stage = Stage::Idle;
                if trouble.is_refusal() {
                    UploadNews::Doubt
                } else {
                    UploadNews::Nothing
                }
            }
        }
    }

    /// No more of them. True if the handler's side still packs, and owes an answer.
    pub(super) fn stop(&mut self, core: &mut Core) -> bool {
        self.queue.clear();
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Collecting(artifact) | Stage::Stopping(artifact) => {
                self.stage = Stage::Stopping(artifact);
                true
            }
            Stage::Sending(mut parcel) => {
                parcel.transfer.end(core);
                false
            }
            Stage::Idle => false,
        }
    }
}

impl Parcel {
    fn new(
        core: &Core,
        artifact: ArtifactId,
        spec: &ArtifactSpec,
        form: &ArtifactForm,
        files: usize,
        len: u64,
    ) -> Self {
        let query = artifact_query(spec);
        let mark = if query.is_empty() { "" } else { "?" };
        let path = format!("jobs/{}/artifacts{mark}{query}", artifact.job);
        let home = core.config.server.endpoint(&path);
        Self {
            artifact,
            files,
            len,
            kind: spec.artifact_type.clone().unwrap_or("archive".to_owned()),
            // Hex digits behind a fixed text.
            content_type: HeaderValue::try_from(form.content_type())
                .unwrap_or(HeaderValue::from_static("multipart/form-data")),
            body: RequestBody::Artifact {
                artifact,
                head: form.head(),
                len,
                tail: form.tail(),
            },
            transfer: Transfer::new(artifact.job, Doing::Upload, Method::POST, home).of_len(len),
        }
    }
}

/// What happened and, where that is known, what to do about it.
fn explain(trouble: &Trouble) -> String {
    let advice = match trouble {
        Trouble::Status { status, .. } => match *status {
            StatusCode::PAYLOAD_TOO_LARGE => {
                "; it is larger than the maximum artifacts size of the project, its group or the \
                 instance, or than a proxy in front of GitLab lets through"
            }
            StatusCode::FORBIDDEN => "; the job is not running any more, or the token is not good",
            StatusCode::METHOD_NOT_ALLOWED => "; artifacts are switched off on this instance",
            StatusCode::BAD_REQUEST => {
                "; a report may be malformed, or there is an artifact of this type already"
            }
            _ => "",
        },
        Trouble::Transport(error) if error.kind() == TransportErrorKind::Broken => {
            "; a server, or a proxy in front of it, that finds it too large may close the connection"
        }
        _ => "",
    };
    format!("{trouble}{advice}")
}
