//! Lets events happen to a machine.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::{
    event::{Answer, Body, Event, Handled},
    model::{HIDDEN, Model, Owed, Purpose, What},
};
use crate::{
    Failure,
    ids::{ArtifactId, DownloadId, JobId, RequestId},
    machine::{Collected, Input, JobInput, RunnerCall, StepResult, StopMode},
    protocol::Registration,
    trace::TraceMark,
    transport::{TransportError, TransportErrorKind},
};

impl Model {
    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Pass(millis) => {
                self.now = self.now + Duration::from_millis((*millis).into());
                self.asked.clear();
            }
            Event::Back(millis) => {
                let back = self.now.since_origin();
                let back = back.saturating_sub(Duration::from_millis((*millis).into()));
                self.input_at(crate::Time::ZERO + back, Input::Timeout);
            }
            Event::Deadline => {
                if let Some((at, _)) = self.machine.poll_timeout() {
                    self.now = self.now.max(at);
                    self.asked.clear();
                }
                self.input(Input::Timeout);
            }
            Event::Early => self.input(Input::Timeout),
            Event::Answer(which, answer) => {
                if let Some((request, of)) = self.request(*which) {
                    self.answer(request, of, answer);
                }
            }
            Event::Fail(which, maybe) => {
                if let Some((request, (job, what))) = self.request(*which) {
                    self.taken(request, job, what);
                    let error = TransportError::new(TransportErrorKind::Broken, *maybe, "broken");
                    self.input(Input::Failed { request, error });
                }
            }
            Event::Late(which) => {
                // One that was answered, or one that never was.
                let request = self.answered.get(usize::from(*which)).copied();
                let request = request.unwrap_or(RequestId(u64::MAX));
                let response = Response::new(Bytes::new());
                self.ignored(Input::Reply { request, response });
            }
            Event::Log(which, len) => {
                let Some(job) = self.job(*which) else { return };
                let known = self.jobs.get_mut(&job).unwrap();
                if !known.cleaned || known.owed.is_some() {
                    known.mark.len += u64::from(*len);
                    let input = JobInput::Traced(known.mark);
                    self.asked.clear();
                    self.input(Input::Job { job, input });
                }
            }
            Event::StaleMark(which) => {
                let Some(job) = self.job(*which) else { return };
                let mut mark = self.jobs[&job].mark;
                mark.len /= 2;
                let input = JobInput::Traced(mark);
                self.input(Input::Job { job, input });
            }
            Event::Handle(which, how) => {
                if let Some(job) = self.job(*which) {
                    self.handle(job, *how);
                }
            }
            Event::Nonsense(which, kind) => self.nonsense(*which, *kind),
            Event::Download(which, dependency) => {
                let Some(job) = self.job(*which) else { return };
                let download = DownloadId(self.next_download);
                self.next_download += 1;
                self.jobs.get_mut(&job).unwrap().downloads.insert(download);
                let dependency = JobId((*dependency).into());
                let input = JobInput::Download {
                    download,
                    dependency,
                };
                self.input(Input::Job { job, input });
            }
            Event::DropDownload(which) => {
                let Some(job) = self.job(*which) else { return };
                if let Some(download) = self.jobs.get_mut(&job).unwrap().downloads.pop_first() {
                    let input = JobInput::DropDownload(download);
                    self.input(Input::Job { job, input });
                }
            }
            Event::Spooled(which) => match self.request(*which) {
                Some((request, (job, what @ What::Download(_)))) => {
                    self.taken(request, job, what);
                    self.input(Input::Spooled { request, len: 1 });
                }
                Some((request, _)) => self.ignored(Input::Spooled { request, len: 1 }),
                None => {}
            },
            Event::Capacity(capacity) => self.input(Input::SetCapacity((*capacity).into())),
            Event::PollOnce => {
                self.polls += 1;
                self.asked.clear();
                self.input(Input::PollOnce);
            }
            Event::WithdrawPoll => {
                self.withdrawn += u64::from(self.machine.stats().polls_waiting > 0);
                self.input(Input::WithdrawPoll);
            }
            Event::Call(which) => {
                self.calls += 1;
                self.asked.clear();
                let registration = Registration::new(format!("GR1348941-{HIDDEN}"));
                self.input(Input::Call(match which % 5 {
                    0 => RunnerCall::Verify,
                    1 => RunnerCall::Register(Box::new(registration)),
                    2 => RunnerCall::Unregister,
                    3 => RunnerCall::UnregisterManager,
                    _ => RunnerCall::ResetToken,
                }));
            }
            Event::Stored(well) => {
                let before = self.machine.stats();
                // Late, if the machine has given up waiting.
                self.storing = None;
                let result = well
                    .then_some(())
                    .ok_or_else(|| format!("no space for {}", self.new_token.expose()));
                self.input(Input::TokenPersisted(result));
                let after = self.machine.stats();
                assert!(after.ignored_inputs <= before.ignored_inputs + 1);
            }
            Event::Drain => self.stop(StopMode::Drain),
            Event::DrainWithin(seconds) => {
                let limit = Duration::from_secs((*seconds).into());
                self.stop(StopMode::DrainWithin(limit));
            }
            Event::Abort => self.stop(StopMode::Abort),
        }
    }

    /// Brings everything to its end: the server answers well, and all handlers do what they owe.
    pub(super) fn wind_down(&mut self) {
        self.stop(StopMode::Drain);
        for _ in 0..10_000 {
            if self.stopped > 0 {
                break;
            }
            let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
            for job in jobs {
                if self.jobs.get(&job).is_some_and(|it| it.owed.is_some()) {
                    self.handle(job, Handled::Well);
                }
            }
            if self.storing.is_some() {
                self.apply(&Event::Stored(true));
            }
            while let Some((request, of)) = self.request(0) {
                if let (job, what @ What::Download(_)) = of {
                    self.taken(request, job, what);
                    self.input(Input::Spooled { request, len: 1 });
                    continue;
                }
                let status = if of.0.is_some() { 200 } else { 204 };
                self.answer(request, of, &Answer::plain(status));
            }
            self.apply(&Event::Deadline);
        }
        assert_eq!(self.stopped, 1, "invariant 1: {:?}", self.machine);
        assert!(self.jobs.is_empty() && self.in_flight.is_empty());
        assert_eq!(
            self.polled + self.withdrawn,
            self.polls,
            "each poll has one answer"
        );
        assert_eq!(self.called, self.calls, "each call has one answer");
    }

    fn request(&self, which: u8) -> Option<(RequestId, Purpose)> {
        let count = self.in_flight.len();
        let at = usize::from(which) % count.max(1);
        self.in_flight.iter().nth(at).map(|(id, job)| (*id, *job))
    }

    fn job(&self, which: u8) -> Option<JobId> {
        let at = usize::from(which) % self.jobs.len().max(1);
        self.jobs.keys().nth(at).copied()
    }

    fn stop(&mut self, mode: StopMode) {
        self.stopping = true;
        self.input(Input::Stop(mode));
    }

    /// An input that makes no sense: it is counted, and nothing else happens.
    fn ignored(&mut self, input: Input) {
        let before = self.machine.stats();
        self.input(input);
        let after = self.machine.stats();
        assert_eq!(after.ignored_inputs, before.ignored_inputs + 1);
    }

    fn taken(&mut self, request: RequestId, job: Option<JobId>, what: What) -> Option<Range<u64>> {
        self.in_flight.remove(&request);
        self.answered.push(request);
        let known = self.jobs.get_mut(&job?)?;
        known.patch.take_if(|_| what == What::Talk)
    }

    fn answer(&mut self, request: RequestId, of: Purpose, answer: &Answer) {
        let (job, what) = of;
        let patch = self.taken(request, job, what);
        if let Some(known) = job.and_then(|job| self.jobs.get_mut(&job)) {
            match (answer.status, patch) {
                (200 | 202, Some(patch)) => {
                    if patch.end > known.acknowledged {
                        self.asked.clear();
                    }
                    (known.acknowledged, known.rewound) = (patch.end, false);
                }
                (412 | 416, Some(_)) => known.rewound = true,
                (412, None) if what == What::Talk => known.rewound = true,
                _ => {}
            }
        }
        let mut body = match &answer.body {
            Body::Other(bytes) => bytes.clone(),
            Body::Good | Body::Cut => good_body(of, answer).into_bytes(),
        };
        if let Body::Cut = answer.body {
            body.truncate(body.len() / 2);
        }
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
        let headers = response.headers_mut();
        let number = |number: Option<u16>| number.map(|number| number.to_string());
        for (name, value) in [
            ("job-status", answer.job_status.map(str::to_owned)),
            ("location", answer.redirect.map(str::to_owned)),
            ("range", answer.range.map(|end| format!("0-{end}"))),
            ("retry-after", number(answer.retry_after)),
            ("x-gitlab-trace-update-interval", number(answer.interval)),
        ] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(&value).unwrap());
            }
        }
        if let Some((name, value)) = &answer.odd
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            headers.insert(*name, value);
        }
        self.input(Input::Reply { request, response });
    }

    fn handle(&mut self, job: JobId, how: Handled) {
        let known = self.jobs.get_mut(&job).unwrap();
        let Some(owed) = known.owed.take() else {
            return;
        };
        let trace = known.mark;
        let input = match (owed, how) {
            (Owed::Start, Handled::Well) => {
                known.accepted = true;
                JobInput::Accepted
            }
            (Owed::Start, _) => JobInput::Declined {
                failure: Failure::exit_code(1),
                trace,
            },
            (Owed::Step, how) => JobInput::StepFinished {
                result: match how {
                    Handled::Well => StepResult::Ok,
                    Handled::Failed => StepResult::Failed(Failure::exit_code(2)),
                    Handled::Panicked => StepResult::Panicked,
                },
                trace,
            },
            (Owed::Collect(artifact), how) => JobInput::Collected {
                artifact,
                outcome: match how {
                    Handled::Well => Collected::Packed {
                        len: 5,
                        file_name: "a.zip".to_owned(),
                        files: 2,
                    },
                    Handled::Failed => Collected::Nothing,
                    Handled::Panicked => Collected::Panicked,
                },
            },
            (Owed::CleanUp, _) => JobInput::CleanedUp { trace },
        };
        self.asked.clear();
        self.input(Input::Job { job, input });
    }

    /// Answers that are not owed.
    fn nonsense(&mut self, which: u8, kind: u8) {
        let job = match self.job(which) {
            Some(job) if kind % 4 != 3 => job,
            _ => JobId(999),
        };
        let owed = self.jobs.get(&job).and_then(|known| known.owed);
        let trace = TraceMark::default();
        let input = match kind % 6 {
            0 if owed != Some(Owed::Start) => JobInput::Accepted,
            1 if owed != Some(Owed::Step) => JobInput::StepFinished {
                result: StepResult::Ok,
                trace,
            },
            2 if owed != Some(Owed::CleanUp) => JobInput::CleanedUp { trace },
            3 => JobInput::Collected {
                // There is no such one.
                artifact: ArtifactId { job, index: 7 },
                outcome: Collected::Nothing,
            },
            4 => JobInput::DropDownload(DownloadId(u64::MAX)),
            5 if owed != Some(Owed::Start) => JobInput::Declined {
                failure: Failure::exit_code(1),
                trace,
            },
            _ => return,
        };
        self.ignored(Input::Job { job, input });
    }
}

/// What GitLab says to a request of this purpose.
fn good_body((job, what): Purpose, answer: &Answer) -> String {
    let body = match (job, answer.status) {
        (None, 201) => json!({
            "id": answer.job,
            "token": format!("glcbt-{HIDDEN}"),
            "runner_info": { "timeout": 100 },
            "steps": [
                { "name": "script", "script": ["x"], "when": "on_success" },
                { "name": "after_script", "script": ["y"], "when": "always" },
            ],
            "artifacts": [{ "paths": ["a"], "when": "always" }, { "paths": ["b"] }],
            "dependencies": [
                {
                    "id": 1,
                    "token": format!("glcbt-{HIDDEN}-of-1"),
                    "artifacts_file": { "filename": "a.zip" },
                },
                { "id": 2 },
            ],
        }),
        (None, 200) if what == What::Account => {
            let day = answer.job + 1;
            json!({ "id": 1, "token_expires_at": format!("1970-01-{day:02}T00:00:00Z") })
        }
        _ => return String::new(),
    };
    body.to_string()
}
