//! The machine driven by hand: no async, no sockets, no clock.
//!
//! `cargo run --example machine_by_hand`
//!
//! This is the whole loop that a driver has to run. Here the server is the simulated GitLab, called
//! directly, and time is a number that jumps to the next deadline. In a program of your own the
//! requests go to your HTTP client and `now` is your clock; nothing else changes.

use std::{collections::BTreeMap, error::Error};

use bytes::Bytes;
use gitlab_runner::{
    JobId, Secret, Time,
    machine::{Input, JobInput, JobOutput, MachineConfig, Output, RequestBody, RunnerMachine},
    machine::{StepResult, StopMode},
    mock::{Answer, JobSpec, MockGitlab, Server},
    protocol::{JobPayload, ServerUrl},
    trace::{DEFAULT_TRACE_LIMIT, Masker, TraceSpool},
};

fn main() -> Result<(), Box<dyn Error>> {
    // A GitLab with one runner and one job that prints a secret.
    let mut gitlab = MockGitlab::new(1);
    gitlab.add_runner("glrt-by-hand");
    let job = gitlab.enqueue(
        JobSpec::script(["echo the password is $PASSWORD"]).masked_variable("PASSWORD", "hunter2!"),
    );

    // A machine. Time and seed come from outside, so every run is the same run.
    let server = ServerUrl::parse("https://gitlab.example.com")?;
    let config = MachineConfig::new(server, Secret::from("glrt-by-hand"), "s_0123456789ab");
    let mut machine = RunnerMachine::new(config, 42);
    let mut spools: BTreeMap<JobId, TraceSpool> = BTreeMap::new();
    let mut now = Time::ZERO;

    // 1. Say what is wanted.
    machine.handle_input(now, Input::SetCapacity(1));
    loop {
        // 2. Do everything that the machine asks for, and tell it what came of it.
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Send { request, http, .. } => {
                    println!("{now} > {} {}", http.method(), http.uri().path());
                    let (parts, body) = http.into_parts();
                    let body = match body {
                        RequestBody::Bytes(bytes) => bytes,
                        // The machine only names log bytes: they are in the spool.
                        RequestBody::Trace { job, range } => spools
                            .get_mut(&job)
                            .and_then(|spool| spool.read(range))
                            .map_or_else(Bytes::new, |chunks| chunks.concat().into()),
                        _ => Bytes::new(),
                    };
                    if let Answer::Reply(response) =
                        gitlab.handle(now, http::Request::from_parts(parts, body))
                    {
                        println!("{now} < {}", response.status());
                        machine.handle_input(now, Input::Reply { request, response });
                    }
                }
                Output::Job { job, output } => {
                    if let Some(input) = handle_job(&mut spools, job, output) {
                        machine.handle_input(now, Input::Job { job, input });
                    }
                }
                Output::Notice(notice) => println!("{now} ! {notice}"),
                Output::Stopped(reason) => {
                    println!("{now} stopped: {reason:?}");
                    return check(&gitlab, job);
                }
                _ => {}
            }
        }
        // 3. Nothing is left to do: stop when the work is done, else jump to the next deadline.
        if gitlab.is_idle() {
            machine.handle_input(now, Input::Stop(StopMode::Drain));
        } else if let Some((deadline, reason)) = machine.poll_timeout() {
            println!("{now} nothing to do until {deadline} ({reason})");
            now = now.max(deadline);
            machine.handle_input(now, Input::Timeout);
        } else {
            return Err("the machine waits for nothing, and there is work left".into());
        }
    }
}

/// The handler: "runs" a script by printing what it would do.
fn handle_job(
    spools: &mut BTreeMap<JobId, TraceSpool>,
    job: JobId,
    output: JobOutput,
) -> Option<JobInput> {
    match output {
        JobOutput::Start(payload) => {
            spools.insert(job, TraceSpool::new(masker(&payload), DEFAULT_TRACE_LIMIT));
            Some(JobInput::Accepted)
        }
        JobOutput::Step { script, .. } => {
            let spool = spools.get_mut(&job)?;
            for line in script.iter() {
                spool.write(line.replace("$PASSWORD", "hunter2!").as_bytes());
                spool.write(b"\n");
            }
            Some(JobInput::StepFinished {
                result: StepResult::Ok,
                trace: spool.mark(),
            })
        }
        JobOutput::CleanUp => Some(JobInput::CleanedUp {
            trace: spools.get_mut(&job)?.finish(),
        }),
        JobOutput::Done => {
            spools.remove(&job);
            None
        }
        _ => None,
    }
}

/// Everything that must not be seen in the log.
fn masker(payload: &JobPayload) -> Masker {
    Masker::new(payload.mask_values(), &payload.features.token_mask_prefixes)
}

fn check(gitlab: &MockGitlab, job: JobId) -> Result<(), Box<dyn Error>> {
    let report = gitlab.report(job).ok_or("no report")?;
    println!(
        "GitLab has the job as {:?} with this log:\n{}",
        report.status,
        report.log_text()
    );
    if report.log_text() == "echo the password is [MASKED]\n" && report.is_finished() {
        Ok(())
    } else {
        Err("the log or the state is not what it should be".into())
    }
}
