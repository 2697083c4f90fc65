//! What one event costs in the machine, in instructions, with few and with very many live jobs.
//!
//! A fixed mix: each job goes round in 12 seconds of virtual time, in which it is told two marks of
//! its log, its patch falls due and is answered, and so is a keep-alive. Only the machine is
//! counted: an input handled, all outputs taken, the next deadline asked for. This program runs
//! itself under valgrind for that, which counts what lies below [`counted`] and nothing else;
//! without valgrind it falls back to time, which says much less.

use std::{
    collections::VecDeque,
    env, fs,
    hint::black_box,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use gitlab_runner::{
    JobId, RequestId, Secret, Time,
    machine::{Input, JobInput, JobOutput, MachineConfig, Output, RunnerMachine},
    protocol::ServerUrl,
    trace::TraceMark,
};
use http::{Response, StatusCode};

const JOBS: [u64; 4] = [1, 100, 10_000, 100_000];
const EVENTS: u64 = 60_000;
/// Instructions an event with 10,000 live jobs.
const BUDGET: f64 = 6_000.0;

/// In which each job is visited once.
const ROUND: Duration = Duration::from_secs(12);
/// Chosen so that there is one keep-alive a round.
const KEEP_ALIVE: Duration = Duration::from_secs(7);
const LATENCY: Duration = Duration::from_millis(40);

type BoxError = Box<dyn std::error::Error>;

fn main() -> Result<ExitCode, BoxError> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [mode, jobs] = &arguments[..]
        && mode == "--count"
    {
        let mut world = World::new(jobs.parse()?)?;
        world.settle()?;
        println!("{}", world.measure()?);
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        // `cargo test --benches`: whether it works at all.
        let mut world = World::new(10)?;
        world.settle()?;
        world.measure()?;
        return Ok(ExitCode::SUCCESS);
    }
    if have_valgrind() {
        count()
    } else {
        eprintln!("!! valgrind is not installed: TIME is measured instead of instructions !!");
        time()?;
        Ok(ExitCode::SUCCESS)
    }
}

fn have_valgrind() -> bool {
    let version = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

fn count() -> Result<ExitCode, BoxError> {
    println!("machine: instructions an event");
    let mut costs = Vec::new();
    for jobs in JOBS {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("machine.{jobs}.callgrind"));
        let run = Command::new("valgrind")
            .args(["--tool=callgrind", "--toggle-collect=*machine::counted*"])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(env::current_exe()?)
            .args(["--count", &jobs.to_string()])
            .output()?;
        if !run.status.success() {
            return Err(String::from_utf8_lossy(&run.stderr).into());
        }
        let profile = fs::read_to_string(&out)?;
        let total = profile
            .lines()
            .find_map(|line| line.strip_prefix("totals: "))
            .ok_or("valgrind wrote no totals")?;
        let cost = total.trim().parse::<f64>()? / EVENTS as f64;
        let mix = String::from_utf8_lossy(&run.stdout);
        println!("{jobs:>8} jobs  {cost:>7.0}  ({})", mix.trim());
        costs.push(cost);
    }
    let [_, hundred, ten_thousand, hundred_thousand] = costs[..] else {
        return Err("not all were counted".into());
    };
    let mut good = true;
    let mut check = |what: &str, is: f64, limit: f64| {
        let verdict = if is <= limit { "ok" } else { "ABOVE" };
        good &= is <= limit;
        println!("  {what}: {is:.2}, budget {limit:.2}: {verdict}");
    };
    check("at 10,000 jobs", ten_thousand, BUDGET);
    // The logarithm of the number of jobs doubles from 100 to 10,000.
    check("10,000 over 100 jobs", ten_thousand / hundred, 2.0);
    let more = hundred_thousand / ten_thousand;
    check("100,000 over 10,000 jobs", more, 1.25);
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn time() -> Result<(), BoxError> {
    println!("machine: nanoseconds an event, median of 5");
    for jobs in JOBS {
        let mut world = World::new(jobs)?;
        world.settle()?;
        let mut times = Vec::new();
        for _ in 0..5 {
            let start = Instant::now();
            black_box(world.measure()?);
            times.push(start.elapsed().as_nanos() as f64 / EVENTS as f64);
        }
        times.sort_by(f64::total_cmp);
        println!("{jobs:>8} jobs  {:>7.0}", times[2]);
    }
    Ok(())
}

/// All that is counted.
#[inline(never)]
fn counted(machine: &mut RunnerMachine, now: Time, input: Input, outputs: &mut Vec<Output>) {
    event(machine, now, input, outputs);
}

#[inline(always)]
fn event(machine: &mut RunnerMachine, now: Time, input: Input, outputs: &mut Vec<Output>) {
    machine.handle_input(now, input);
    while let Some(output) = machine.poll_output() {
        outputs.push(output);
    }
    black_box(machine.poll_timeout());
}

/// The machine, a server that is always content, and handlers that log now and then.
struct World {
    machine: RunnerMachine,
    now: Time,
    jobs: u64,
    /// Jobs are visited one after the other, for ever; the first visit is its start.
    visits: u64,
    /// The request for a job, until the next one starts.
    held: Option<RequestId>,
    replies: VecDeque<(Time, Input)>,
    outputs: Vec<Output>,
    counting: bool,
    mix: Mix,
}

#[derive(Clone, Copy, Default)]
struct Mix {
    marks: u64,
    timeouts: u64,
    patched: u64,
    updated: u64,
}

impl World {
    fn new(jobs: u64) -> Result<Self, BoxError> {
        let server = ServerUrl::parse("https://gitlab.example.com")?;
        let mut config = MachineConfig::new(server, Secret::from("glrt-bench"), "s_0123456789ab");
        config.keep_alive = KEEP_ALIVE;
        config.verify = false;
        let mut world = Self {
            machine: RunnerMachine::new(config, 1),
            now: Time::ZERO,
            jobs,
            visits: 0,
            held: None,
            replies: VecDeque::new(),
            outputs: Vec::new(),
            counting: false,
            mix: Mix::default(),
        };
        world.tell(Input::SetCapacity(usize::try_from(jobs)?))?;
        Ok(world)
    }

    /// Makes all jobs live, each somewhere else in its round, and lets them all go round once.
    fn settle(&mut self) -> Result<(), BoxError> {
        while self.visits < 2 * self.jobs {
            self.step()?;
        }
        Ok(())
    }

    /// Handles so many events, and says of what kind they were.
    fn measure(&mut self) -> Result<String, BoxError> {
        self.mix = Mix::default();
        self.counting = true;
        let all = |mix: &Mix| mix.marks + mix.timeouts + mix.patched + mix.updated;
        while all(&self.mix) < EVENTS {
            self.step()?;
        }
        self.counting = false;
        let stats = self.machine.stats();
        if stats.jobs as u64 != self.jobs || stats.ignored_inputs > 0 {
            return Err(format!("this is not what was to be measured: {stats:?}").into());
        }
        let Mix {
            marks,
            timeouts,
            patched,
            updated,
        } = self.mix;
        Ok(format!(
            "{marks} marks, {timeouts} timeouts, {patched} patch and {updated} update replies"
        ))
    }

    /// Whatever comes next: a visit, a reply or a deadline.
    fn step(&mut self) -> Result<(), BoxError> {
        let pace = ROUND.as_nanos() / u128::from(self.jobs) * u128::from(self.visits);
        let visit = Time::ZERO + Duration::from_nanos(u64::try_from(pace)?);
        let deadline = self.machine.poll_timeout().map(|(time, _)| time);
        let reply = self.replies.front().map(|(time, _)| *time);
        let due = |time: Option<Time>| time.is_some_and(|time| time <= visit);
        if due(reply) && deadline.is_none_or(|deadline| reply <= Some(deadline)) {
            if let Some((time, input)) = self.replies.pop_front() {
                self.now = self.now.max(time);
                self.tell(input)?;
            }
        } else if due(deadline) {
            self.now = self.now.max(deadline.unwrap_or_default());
            self.mix.timeouts += 1;
            self.tell(Input::Timeout)?;
        } else {
            self.now = self.now.max(visit);
            self.visit()?;
        }
        Ok(())
    }

    fn visit(&mut self) -> Result<(), BoxError> {
        let (round, job) = (self.visits / self.jobs, self.visits % self.jobs + 1);
        self.visits += 1;
        if round == 0 {
            let request = self.held.take().ok_or("no job was asked for")?;
            return self.tell(reply(request, StatusCode::CREATED, payload(job)));
        }
        for part in 0..2 {
            self.mix.marks += 1;
            let mark = TraceMark {
                len: round * 400 + part * 200,
                crc32: 0,
            };
            self.tell_job(job, JobInput::Traced(mark))?;
        }
        Ok(())
    }

    fn tell_job(&mut self, job: u64, input: JobInput) -> Result<(), BoxError> {
        let job = JobId(job);
        self.tell(Input::Job { job, input })
    }

    fn tell(&mut self, input: Input) -> Result<(), BoxError> {
        let mut outputs = std::mem::take(&mut self.outputs);
        if self.counting {
            counted(&mut self.machine, self.now, input, &mut outputs);
        } else {
            event(&mut self.machine, self.now, input, &mut outputs);
        }
        for output in outputs.drain(..) {
            self.perform(output)?;
        }
        self.outputs = outputs;
        Ok(())
    }

    fn perform(&mut self, output: Output) -> Result<(), BoxError> {
        match output {
            Output::Send { request, http, .. } => {
                let status = match http.method().as_str() {
                    "POST" => {
                        self.held = Some(request);
                        return Ok(());
                    }
                    "PATCH" => {
                        self.mix.patched += 1;
                        StatusCode::ACCEPTED
                    }
                    _ => {
                        self.mix.updated += 1;
                        StatusCode::OK
                    }
                };
                let reply = reply(request, status, Bytes::new());
                self.replies.push_back((self.now + LATENCY, reply));
            }
            Output::Job { job, output } => match output {
                JobOutput::Start(_) => self.tell_job(job.0, JobInput::Accepted)?,
                JobOutput::Step { .. } => {}
                output => return Err(format!("unexpected: {output:?}").into()),
            },
            output => return Err(format!("unexpected: {output:?}").into()),
        }
        Ok(())
    }
}

/// With the headers that GitLab sends.
fn reply(request: RequestId, status: StatusCode, body: Bytes) -> Input {
    let response = Response::builder()
        .status(status)
        .header("content-type", "text/plain")
        .header("date", "Mon, 06 Jan 2025 10:00:00 GMT")
        .header("job-status", "running")
        .header("x-request-id", "01JGZ3T8QK6X2W5V9R4N7M1P0C")
        .header("x-gitlab-trace-update-interval", "3")
        .body(body);
    Input::Reply {
        request,
        response: response.unwrap_or_default(),
    }
}

fn payload(job: u64) -> Bytes {
    format!(
        r#"{{"id":{job},"token":"glcbt-{job}","runner_info":{{"timeout":100000000}},"steps":[{{"name":"script","script":["make"],
            "timeout":3600,"when":"on_success","allow_failure":false}}]}}"#
    )
    .into()
}
