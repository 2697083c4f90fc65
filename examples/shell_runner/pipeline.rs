//! The jobs of the demo, and what must come of each.

use gitlab_runner::mock::{ArtifactSpec, JobSpec, JobStatus};

use rustix::system::uname;

use crate::{
    expect::{Artifact, Expected, Log},
    repository::Repository,
};

/// The token of the runner that runs them. Its log shows the beginning of what is behind `glrt-`.
pub(crate) const TOKEN: &str = "glrt-a-token-for-the-demo";

/// A job, and what must be stored of it in the end.
pub(crate) struct Case {
    pub(crate) spec: JobSpec,
    pub(crate) expected: Expected,
    /// The job is cancelled once its log at GitLab has this line.
    pub(crate) cancel_at: Option<&'static str>,
}

/// All of them, with sources from `repository`; none without git.
pub(crate) fn cases(repository: Option<&Repository>) -> Vec<(&'static str, Case)> {
    let began = || began(repository, 20, "");
    let mut cases = vec![
        ("hello", hello(self::began(repository, 20, LEFT_OUT))),
        ("failing", failing(began())),
        ("secrets", secrets(began())),
        ("config", config(began())),
        ("long-log", long_log(began())),
        ("endless", endless(began())),
        ("too-slow", too_slow(self::began(None, 0, ""))),
        ("deploy", deploy(began())),
    ];
    if let Some(repository) = repository {
        cases.push(("sources", sources(repository)));
    }
    cases
}

/// What is said of the variables of the first job.
const LEFT_OUT: &str = "\u{1b}[0;33mWARNING: variables that no shell can be given are left out: \
     \"no-name-for-bash\" (no name for a shell)\u{1b}[0;m\n";

/// What is in the log before the script. `warned` is what it says before it gets the sources.
fn began(repository: Option<&Repository>, depth: u64, warned: &str) -> Log {
    got_sources(
        Log::new()
            .plain(concat!(
                "Running with shell_runner ",
                env!("CARGO_PKG_VERSION")
            ))
            .plain("  on a-token-f")
            .section("prepare_executor", "Preparing the \"shell\" executor")
            .plain("Using Shell (bash) executor...")
            .end("prepare_executor")
            .section("prepare_script", "Preparing environment")
            .plain(&format!(
                "Running on {}...",
                uname().nodename().to_string_lossy()
            ))
            .end("prepare_script")
            .section("get_sources", "Getting source from Git repository")
            .output(warned),
        repository,
        depth,
    )
    .end("get_sources")
}

fn got_sources(log: Log, repository: Option<&Repository>, depth: u64) -> Log {
    let Some(repository) = repository else {
        return log
            .info("Skipping Git repository setup")
            .info("Skipping Git checkout")
            .info("Skipping Git submodules setup");
    };
    let sha = &repository.sha[..8];
    log.info(&format!(
        "Fetching changes with git depth set to {depth}..."
    ))
    .info("Created fresh repository.")
    .info(&format!(
        "Checking out {sha} as detached HEAD (ref is main)..."
    ))
    .info("Skipping Git submodules setup")
}

/// The sources are those that the job is for, and no more of them than it wants. What git needs to
/// reach them once more is where nobody else can see it.
fn sources(repository: &Repository) -> Case {
    let (script, log) = lines(
        began(Some(repository), 2, "").script(),
        &[
            ("cat README", "the third version\n"),
            ("git log --format=%s", "third\nsecond\n"),
            ("test \"$(git rev-parse HEAD)\" = \"$CI_COMMIT_SHA\"", ""),
            ("git status --short", ""),
            (
                "git fetch --quiet origin main && echo fetched again",
                "fetched again\n",
            ),
            ("! grep -rq \"$CI_JOB_TOKEN\" .git", ""),
        ],
    );
    Case {
        spec: JobSpec::script(script)
            .variable("GIT_DEPTH", "2")
            .variable("CI_COMMIT_SHA", &repository.sha),
        expected: Expected::success(log.end_of_script().succeeded()),
        cancel_at: None,
    }
}

/// Variables, the order of stdout and stderr, and what after_script knows.
fn hello(began: Log) -> Case {
    let (script, log) = lines(
        began.script(),
        &[
            (
                "echo \"$GREETING, from $CI_JOB_NAME\"",
                "Hello, world, from hello\n",
            ),
            ("test \"$PWD\" = \"$CI_PROJECT_DIR\"", ""),
            (
                "echo out; echo err >&2; echo out again",
                "out\nerr\nout again\n",
            ),
            ("for i in 1 2 3\ndo echo \"$i\"\ndone", "1\n2\n3\n"),
        ],
    );
    let (after, log) = lines(
        log.end_of_script().after_script(),
        &[(
            "echo \"the job's status is $CI_JOB_STATUS\"",
            "the job's status is success\n",
        )],
    );
    Case {
        spec: JobSpec::script(script)
            .after_script(after)
            .variable("GREETING", "Hello, $WHOM")
            .variable("WHOM", "everybody")
            .variable("WHOM", "world")
            .variable("no-name-for-bash", "left out"),
        expected: Expected::success(log.end_of_after_script().succeeded()),
        cancel_at: None,
    }
}

/// The first line that fails ends the script, and its exit code is reported.
fn failing(began: Log) -> Case {
    let (mut script, log) = lines(
        began.script(),
        &[("echo before", "before\n"), ("(exit 3)", "")],
    );
    script.push("echo never reached");
    let (after, log) = lines(
        log.end_of_script().after_script(),
        &[(
            "echo \"the job's status is $CI_JOB_STATUS\"",
            "the job's status is failed\n",
        )],
    );
    Case {
        spec: JobSpec::script(script).after_script(after),
        expected: Expected {
            status: JobStatus::Failed,
            exit_code: Some(3),
            failure_reason: Some("script_failure"),
            ..Expected::success(log.end_of_after_script().failed("exit code 3"))
        },
        cancel_at: None,
    }
}

/// Nothing secret gets into the log, however it is written.
fn secrets(began: Log) -> Case {
    const PASSWORD: &str = "correct-horse-battery";
    let (script, log) = lines(
        began.script(),
        &[
            (
                "echo \"The password is $PASSWORD.\"",
                "The password is correct-horse-battery.\n",
            ),
            (
                "printf %s \"In two writes: ${PASSWORD:0:9}\"; sleep 0.3; echo \"${PASSWORD:9}.\"",
                "In two writes: correct-horse-battery.\n",
            ),
            (
                "echo \"Twice: $PASSWORD$PASSWORD\" >&2",
                "Twice: correct-horse-batterycorrect-horse-battery\n",
            ),
            (
                "echo \"A half of it: ${PASSWORD:0:9}\"",
                "A half of it: correct-h\n",
            ),
            (
                "echo glpat-0123456789abcdefghij is a token, glpat- is not",
                "glpat-0123456789abcdefghij is a token, glpat- is not\n",
            ),
            (
                "echo \"The job's own token: $CI_JOB_TOKEN\"",
                "The job's own token: [MASKED]\n",
            ),
        ],
    );
    let log = log
        .mask(PASSWORD, "[MASKED]")
        .mask("glpat-0123456789abcdefghij", "glpat-[MASKED]");
    Case {
        spec: JobSpec::script(script).masked_variable("PASSWORD", PASSWORD),
        expected: Expected::success(log.end_of_script().succeeded()),
        cancel_at: None,
    }
}

/// A variable of type file, whose value is the path of a file that only the job's user can read, and
/// files that stay: an archive and two reports.
fn config(began: Log) -> Case {
    let (script, log) = lines(
        began.script(),
        &[
            ("cat \"$CONFIG\"", "[server]\nport = 8080\n"),
            ("ls -l \"$CONFIG\" | cut -c1-10", "-rw-------\n"),
            ("mkdir out && echo \"port = 8081\" > out/result.txt", ""),
            (
                "echo \"echo from a file\" > out/run && chmod +x out/run",
                "",
            ),
            ("echo scratch > out/scratch.o", ""),
            (
                "printf '<testsuite/>' > one.xml; printf '<testsuite />' > two.xml",
                "",
            ),
            ("printf '[]' > quality.json", ""),
        ],
    );
    let log = log
        .end_of_script()
        .section(
            "upload_artifacts_on_success",
            "Uploading artifacts for successful job",
        )
        .uploaded("archive", &["out/: found 3", "**/*.o: excluded 1"])
        .uploaded("junit", &["*.xml: found 2"])
        .uploaded("codequality", &["quality.json: found 1"])
        .end("upload_artifacts_on_success");
    Case {
        spec: JobSpec::script(script)
            .file_variable("CONFIG", "[server]\nport = 8080\n")
            .artifact(
                ArtifactSpec::archive(["out/"])
                    .exclude(["**/*.o"])
                    .name("$CI_JOB_NAME"),
            )
            .artifact_report("junit", ["*.xml"])
            .artifact_report("codequality", ["quality.json"]),
        expected: Expected {
            artifacts: vec![
                Artifact::zip("config.zip", &["out/", "out/result.txt", "out/run"]),
                Artifact::gzip("junit", "junit.xml.gz", "<testsuite/><testsuite />"),
                Artifact::raw("codequality", "gl-code-quality-report.json", "[]"),
            ],
            ..Expected::success(log.succeeded())
        },
        cancel_at: None,
    }
}

/// More than one request can carry.
fn long_log(began: Log) -> Case {
    const SCRIPT: &str = "for i in {1..40000}; do printf \
        '%05d of 40000: the quick brown fox jumps over the lazy dog, again and again\\n' $i; done";
    let line = |i| {
        format!("{i:05} of 40000: the quick brown fox jumps over the lazy dog, again and again\n")
    };
    let output: String = (1..=40_000).map(line).collect();
    let (script, log) = lines(began.script(), &[(SCRIPT, &output)]);
    Case {
        spec: JobSpec::script(script),
        expected: Expected::success(log.end_of_script().succeeded()),
        cancel_at: None,
    }
}

/// Would run for ever, and is cancelled: it gets SIGTERM and the time to say so.
fn endless(began: Log) -> Case {
    const TRAP: &str = "trap 'echo got SIGTERM, cleaning up; exit 143' TERM";
    // The braces keep bash itself from writing about the `sleep` that the same signal ends.
    const LOOP: &str = "for i in {1..600}; do echo \"tick $i\"; { sleep 1; } 2>/dev/null; done";
    const AFTER: &str = "echo \"the job's status is $CI_JOB_STATUS\"";
    let log = move |ticks| {
        let ticks: String = (1..=ticks).map(|i| format!("tick {i}\n")).collect();
        let output = ticks + "got SIGTERM, cleaning up\n";
        let (_, log) = lines(began.clone().script(), &[(TRAP, ""), (LOOP, &output)]);
        let canceled = "the job's status is canceled\n";
        let (_, log) = lines(log.end_of_script().after_script(), &[(AFTER, canceled)]);
        log.end_of_after_script().cleaned_up().error("canceled")
    };
    Case {
        spec: JobSpec::script([TRAP, LOOP]).after_script([AFTER]),
        expected: Expected {
            status: JobStatus::Canceled,
            exit_code: None,
            failure_reason: None,
            artifacts: Vec::new(),
            log: Box::new(log),
        },
        cancel_at: Some("tick 1\n"),
    }
}

/// Takes longer than it may. Then there is no time for after_script either. It takes no sources, as
/// their time counts too.
fn too_slow(began: Log) -> Case {
    let (script, log) = lines(
        began.script(),
        &[
            ("echo this will take a while", "this will take a while\n"),
            ("exec sleep 600", ""),
        ],
    );
    Case {
        spec: JobSpec::script(script)
            .after_script(["echo never reached"])
            .variable("GIT_STRATEGY", "none")
            .timeout(3),
        expected: Expected {
            status: JobStatus::Failed,
            exit_code: None,
            failure_reason: Some("job_execution_timeout"),
            ..Expected::success(
                log.error("execution took longer than 3 seconds")
                    .end_of_script()
                    .cleaned_up(),
            )
        },
        cancel_at: None,
    }
}

/// Runs after others have succeeded, with what one of them left.
fn deploy(began: Log) -> Case {
    let (script, log) = lines(
        began
            .section("download_artifacts", "Downloading artifacts")
            .info("Downloading artifacts for config (config)...")
            .end("download_artifacts")
            .script(),
        &[
            (
                "echo \"$CI_JOB_STAGE: $(cat out/result.txt)\"",
                "deploy: port = 8081\n",
            ),
            ("out/run", "from a file\n"),
            ("ls out", "result.txt\nrun\n"),
        ],
    );
    Case {
        spec: JobSpec::script(script)
            .stage("deploy")
            .needs(["hello", "secrets", "config", "long-log"])
            .dependencies(["config"]),
        expected: Expected::success(log.end_of_script().succeeded()),
        cancel_at: None,
    }
}

/// Commands and what each prints: the script, and the log when all of them have run.
fn lines<'a>(log: Log, commands: &[(&'a str, &str)]) -> (Vec<&'a str>, Log) {
    let script = commands.iter().map(|(command, _)| *command).collect();
    let log = commands.iter().fold(log, |log, (command, output)| {
        log.command(command).output(output)
    });
    (script, log)
}
