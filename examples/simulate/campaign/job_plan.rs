//! One job of a plan: what GitLab is told of it, and what its handler does.

use std::time::Duration;

use bytes::Bytes;
use gitlab_runner::{
    Failure, FailureReason,
    mock::{ArtifactSpec, JobSpec},
};

use super::{
    dice::{Dice, Random},
    files::{self, ArtifactPlan, FilePlan},
    text,
};

/// A job.
#[derive(Clone, Debug)]
pub(crate) struct JobPlan {
    /// What its ingredients are called by.
    pub(crate) name: String,
    pub(crate) stage: usize,
    /// In seconds.
    pub(crate) timeout: u64,
    pub(crate) script_timeout: Option<u64>,
    pub(crate) after_script_timeout: Option<u64>,
    /// Whether an after_script that fails fails the job.
    pub(crate) after_script_counts: bool,
    pub(crate) secrets: Vec<String>,
    /// The last of the secrets is one that refers to another variable.
    pub(crate) refers: bool,
    pub(crate) prefixes: Vec<String>,
    pub(crate) file_secret: Option<String>,
    pub(crate) knows_few_reasons: bool,
    pub(crate) unusable: bool,
    /// What is odd about its payload, and means nothing.
    pub(crate) oddities: Vec<usize>,
    pub(crate) making: Making,
    pub(crate) manner: Manner,
    pub(crate) steps: Vec<StepPlan>,
    pub(crate) artifacts: Vec<ArtifactPlan>,
    pub(crate) files: Vec<FilePlan>,
    pub(crate) offer: Offer,
    pub(crate) downloads: bool,
    pub(crate) cleanup: CleanUp,
    /// Words for the panic of the drop of the handler.
    pub(crate) panics_at_the_end: Option<String>,
    /// Somebody looks at its log.
    pub(crate) watched: bool,
}

/// How its handler is made.
#[derive(Clone, Debug)]
pub(crate) struct Making {
    pub(crate) delay: Duration,
    pub(crate) end: End,
}

/// What a handler does when it is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Its step is dropped.
    Plain,
    /// It ends after a while.
    Polite(Duration),
    /// It goes on as if nothing were.
    Deaf,
}

#[derive(Clone, Debug)]
pub(crate) struct StepPlan {
    pub(crate) name: &'static str,
    pub(crate) acts: Vec<Act>,
    pub(crate) end: End,
}

/// One thing that a handler does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Write(Bytes),
    WriteError(Bytes),
    /// By `outputln!`.
    Line(String),
    /// By `outputln!` where blocking is allowed.
    BlockingLine(String),
    Pause(Duration),
    /// In a task of its own.
    Spawn(Vec<Self>),
    /// Where it harms nobody.
    Panic(String),
    Section(String, Vec<Self>),
    /// Has the file variables written, and looks at them.
    Environment,
    /// Writes the token of the job, in two pieces.
    Token,
    /// Litters the build directory.
    Litter,
    /// Removes it.
    RemoveDir,
}

#[derive(Clone, Debug)]
pub(crate) enum End {
    Ok,
    /// Without a reason.
    Fail,
    FailWith(Failure),
    Panic(String),
    Never,
}

/// How the files are offered.
#[derive(Clone, Debug)]
pub(crate) enum Offer {
    Ok,
    Fails,
    Panics(String),
    /// Never comes back.
    Hangs,
}

#[derive(Clone, Debug)]
pub(crate) struct CleanUp {
    pub(crate) acts: Vec<Act>,
    pub(crate) end: End,
}

/// What a job of a plan without an ingredient is like.
pub(crate) struct Style {
    pub(crate) with_artifacts: bool,
    pub(crate) with_big_logs: bool,
}

impl JobPlan {
    /// The job with this number.
    pub(crate) fn draw(dice: &mut Dice<'_>, number: usize, stage: usize, style: &Style) -> Self {
        let name = format!("job-{number}");
        let mut has = |part: &str, per_cent| dice.has(&format!("{name}/{part}"), per_cent);
        let (secret, refers) = (has("secrets", 80), has("references", 15));
        let (prefixes, file) = (has("prefixes", 20), has("file-variable", 25));
        let short_time = has("timeout", 25);
        let script_time = has("script-timeout", 15);
        let after_time = has("after-script-timeout", 15);
        let (slow_start, bad_start) = (has("slow-start", 12), has("bad-start", 6));
        let (polite, deaf) = (has("polite", 30), has("deaf", 12));
        let (after_script, release) = (has("after-script", 60), has("release", 12));
        let (spawns, fails) = (has("spawn", 20), has("fail", 30));
        let (panics, hangs) = (has("panic", 8), has("hang", 15));
        let after_panics = has("after-script-panic", 4);
        let after_script_counts = has("after-script-counts", 15);
        let after_fails = has("after-script-fail", 20);
        let artifacts = style.with_artifacts && !spawns && has("artifacts", 50);
        let bad_offer = artifacts && has("bad-offer", 8);
        let downloads = has("downloads", 80);
        let bad_cleanup = has("bad-clean-up", 8);
        let panics_at_the_end = has("end-panic", 4);
        let (unusable, odd_payload) = (has("unusable", 3), has("odd-payload", 15));
        let (few_reasons, watched) = (has("few-reasons", 15), has("watched", 50));
        let (talks, sections) = (has("output", 92), has("sections", 15));
        let big = style.with_big_logs && has("big-log", 2);

        let stream = |part: &str| dice.stream(&format!("{name}/{part}"));
        let mut secrets = match secret {
            true => text::secrets(&mut stream("secrets")),
            false => Vec::new(),
        };
        if refers {
            secrets.push(format!("pre-{}-post", stream("references").word(6)));
        }
        let known = secrets.clone();
        let acts = |part: &str| {
            let mut random = stream(part);
            let mut acts = Vec::new();
            if talks {
                acts = talk(&mut random, &known);
            }
            if file && random.chance(70) {
                acts.insert(random.below(acts.len() + 1), Act::Environment);
            }
            if random.chance(15) {
                acts.push(Act::Litter);
            }
            if talks && random.chance(15) {
                acts.push(Act::Token);
            }
            if part == "clean-up" && random.chance(6) {
                acts.push(Act::RemoveDir);
            }
            if big && part == "script" {
                acts.extend(bulk(&mut random, &known));
            }
            if sections && random.chance(50) {
                let title = random.word(5);
                acts.push(Act::Section(title, talk(&mut random, &known)));
            }
            if spawns && random.chance(60) {
                // Pauses that no other task makes, so that it is known who was first.
                let odd = Duration::from_micros(random.between(1, 900));
                let mut own = vec![Act::Pause(odd)];
                own.extend(talk(&mut random, &known));
                if random.chance(15) {
                    own.push(Act::Panic(words(&mut random, &known)));
                }
                acts.insert(random.below(acts.len() + 1), Act::Spawn(own));
            }
            acts
        };
        let mut steps = vec![StepPlan {
            name: "script",
            acts: acts("script"),
            end: match (panics, hangs, fails) {
                (true, ..) => End::Panic(words(&mut stream("panic"), &known)),
                (_, true, _) => End::Never,
                (.., true) => failure(&mut stream("fail")),
                _ => End::Ok,
            },
        }];
        if release {
            let mut random = stream("release");
            steps.push(StepPlan {
                name: "release",
                acts: acts("release-acts"),
                end: match random.chance(20) {
                    true => failure(&mut random),
                    false => End::Ok,
                },
            });
        }
        if after_script {
            let mut random = stream("after-script");
            steps.push(StepPlan {
                name: "after_script",
                acts: acts("after-script-acts"),
                end: match (after_panics, after_fails) {
                    (true, _) => End::Panic(words(&mut random, &known)),
                    (_, true) => failure(&mut random),
                    _ if random.chance(4) => End::Never,
                    _ => End::Ok,
                },
            });
        }
        let mut random = stream("numbers");
        let (files, artifacts) = match artifacts {
            true => files::draw(&mut stream("artifacts")),
            false => Default::default(),
        };
        Self {
            stage,
            timeout: match short_time {
                true => random.between(1, 90),
                false => random.between(300, 1200),
            },
            script_timeout: script_time.then(|| random.between(1, 60)),
            after_script_timeout: after_time.then(|| random.between(1, 40)),
            after_script_counts,
            secrets,
            refers,
            prefixes: match prefixes {
                true => vec!["xmy-".to_owned(), "gl".to_owned()],
                false => Vec::new(),
            },
            file_secret: file.then(|| random.word(24)),
            knows_few_reasons: few_reasons,
            unusable,
            oddities: match odd_payload {
                true => (0..3).map(|_| random.below(ODDITIES.len())).collect(),
                false => Vec::new(),
            },
            making: Making {
                delay: match slow_start {
                    true => odd(random.between(1, 100_000)),
                    false => Duration::ZERO,
                },
                end: match (bad_start, random.below(5)) {
                    (false, _) => End::Ok,
                    (_, 0) => End::Panic(words(&mut random, &known)),
                    (_, 1) => End::Never,
                    (_, 2) => End::Fail,
                    _ => End::FailWith(
                        Failure::new(FailureReason::ImagePullFailure).with_exit_code(7),
                    ),
                },
            },
            manner: match (deaf, polite) {
                (true, _) => Manner::Deaf,
                (_, true) => Manner::Polite(odd(random.between(0, 45_000))),
                _ => Manner::Plain,
            },
            steps,
            artifacts,
            files,
            offer: match (bad_offer, random.below(3)) {
                (false, _) => Offer::Ok,
                (_, 0) => Offer::Fails,
                (_, 1) => Offer::Hangs,
                _ => Offer::Panics(words(&mut random, &known)),
            },
            downloads,
            cleanup: CleanUp {
                acts: acts("clean-up"),
                end: match (bad_cleanup, random.chance(50)) {
                    (false, _) => End::Ok,
                    (_, true) => End::Never,
                    _ => End::Panic(words(&mut random, &known)),
                },
            },
            panics_at_the_end: panics_at_the_end.then(|| words(&mut random, &known)),
            watched,
            name,
        }
    }

    /// What GitLab is told.
    pub(crate) fn spec(&self, stage: &str) -> JobSpec {
        let mut spec = JobSpec::script(["do it"])
            .name(&self.name)
            .stage(stage)
            .timeout(self.timeout)
            .allow_failure();
        for step in &self.steps {
            spec = match step.name {
                "release" => spec.release(["release it"]),
                "after_script" => spec.after_script(["tidy up"]),
                _ => spec,
            };
        }
        for (number, secret) in self.secrets.iter().enumerate() {
            let key = format!("SECRET_{number}");
            spec = match self.refers && number + 1 == self.secrets.len() {
                true => {
                    let inner = &secret["pre-".len()..secret.len() - "-post".len()];
                    spec.variable("INNER", inner)
                        .masked_variable(key, "pre-${INNER}-post")
                }
                false => spec.masked_variable(key, secret),
            };
        }
        if let Some(content) = &self.file_secret {
            spec = spec.file_variable("CA_KEY", content);
        }
        let seconds = |time: u64| format!("{time}s");
        if let Some(time) = self.script_timeout {
            spec = spec.variable("RUNNER_SCRIPT_TIMEOUT", seconds(time));
        }
        if let Some(time) = self.after_script_timeout {
            spec = spec.variable("RUNNER_AFTER_SCRIPT_TIMEOUT", seconds(time));
        }
        if self.after_script_counts {
            spec = spec.variable("AFTER_SCRIPT_IGNORE_ERRORS", "false");
        }
        if !self.prefixes.is_empty() {
            spec = spec.token_mask_prefixes(self.prefixes.clone());
        }
        if self.knows_few_reasons {
            spec = spec.failure_reasons(["unknown_failure", "script_failure"]);
        }
        for artifact in &self.artifacts {
            let paths = artifact.paths.clone();
            let entry = match artifact.kind {
                "archive" => ArtifactSpec::archive(paths),
                kind => ArtifactSpec::report(kind, paths),
            };
            spec = spec.artifact(entry.exclude(artifact.exclude.clone()).when(artifact.when));
        }
        for oddity in self.oddities.clone() {
            spec = spec.payload_override(move |payload| {
                let (place, value) = ODDITIES[oddity];
                if let Ok(value) = serde_json::from_str(value)
                    && let Some(place) = payload.pointer_mut(place)
                {
                    *place = value;
                }
            });
        }
        if self.unusable {
            spec = spec.payload_override(|payload| payload["steps"] = serde_json::json!([]));
        }
        spec
    }
}

/// Places in a payload, and what may stand there without a difference to the job.
const ODDITIES: [(&str, &str); 9] = [
    ("/services", "null"),
    ("/credentials", "null"),
    ("/hooks", "null"),
    ("/image", r#"{ "name": null, "entrypoint": "sh" }"#),
    ("/cache", r#"[{ "key": "k", "paths": null }]"#),
    ("/git_info", "null"),
    ("/variables/1", "null"),
    (
        "/variables/2",
        r#"{ "key": "ODD", "value": null, "masked": true }"#,
    ),
    ("/job_info/time_in_queue_seconds", "1.5"),
];

/// Writes, lines and pauses.
fn talk(random: &mut Random, secrets: &[String]) -> Vec<Act> {
    let mut acts = Vec::new();
    for _ in 0..1 + random.below(4) {
        let text = text::text(random, secrets);
        for write in text::cut(random, text) {
            acts.push(match random.below(12) {
                0 => Act::WriteError(write),
                1 => Act::Line(String::from_utf8_lossy(&write).into_owned()),
                2 if write.len() > 50 => {
                    Act::BlockingLine(String::from_utf8_lossy(&write).into_owned())
                }
                _ => Act::Write(write),
            });
            if random.chance(5) {
                acts.push(pause(random.between(0, 9000)));
            }
        }
        if random.chance(70) {
            let longest = random.pick(&[10, 1000, 5000, 60_000]);
            acts.push(pause(random.between(0, longest)));
        }
    }
    acts
}

/// So much that not all of it stays in memory.
fn bulk(random: &mut Random, secrets: &[String]) -> Vec<Act> {
    let mut acts = Vec::new();
    for _ in 0..random.between(2, 9) {
        let secret = match secrets {
            [] => String::new(),
            some => random.pick(some),
        };
        let line = format!("{} {secret} {}\n", random.word(20), random.word(60));
        let times = random.between(1, 600_000) as usize / line.len();
        acts.push(Act::Write(line.repeat(times).into()));
        acts.push(pause(random.between(0, 4000)));
    }
    acts
}

/// A microsecond more than so many milliseconds: nothing ends in the very moment of a time limit,
/// where who comes first is a matter of luck.
fn pause(millis: u64) -> Act {
    Act::Pause(odd(millis))
}

fn odd(millis: u64) -> Duration {
    Duration::from_micros(millis * 1000 + 1)
}

fn failure(random: &mut Random) -> End {
    let reason = [
        FailureReason::RunnerSystemFailure,
        FailureReason::ImagePullFailure,
        FailureReason::RunnerConfigurationError,
        FailureReason::RunnerExternalDependencyFailure,
        FailureReason::UnknownFailure,
        FailureReason::Other("something_new".to_owned()),
    ];
    match random.below(4) {
        0 => End::Fail,
        1 => End::FailWith(Failure::new(random.pick(&reason))),
        2 => End::FailWith(Failure::exit_code(random.pick(&[-1, 0, 40_000, 255]))),
        _ => End::FailWith(Failure::exit_code(random.between(1, 255) as i32)),
    }
}

/// What a panic says: a secret too, if there is one. [`super::quiet_panics`] knows it by its start.
fn words(random: &mut Random, secrets: &[String]) -> String {
    let secret = match secrets {
        [] => String::new(),
        some => random.pick(some),
    };
    format!("on purpose: {secret}!")
}
