//! The jobs of the demo, and what must come of each.

use gitlab_runner::mock::{ArtifactSpec, JobSpec, JobStatus};

use crate::expect::{Artifact, Expected, Log};

/// A job, and what must be stored of it in the end.
pub(crate) struct Case {
    pub(crate) spec: JobSpec,
    pub(crate) expected: Expected,
    /// The job is cancelled once its log at GitLab has this line.
    pub(crate) cancel_at: Option<&'static str>,
}

pub(crate) fn cases() -> Vec<(&'static str, Case)> {
    vec![
        ("hello", hello()),
        ("failing", failing()),
        ("secrets", secrets()),
        ("config", config()),
        ("long-log", long_log()),
        ("endless", endless()),
        ("too-slow", too_slow()),
        ("deploy", deploy()),
    ]
}

/// Variables, the order of stdout and stderr, and what after_script knows.
fn hello() -> Case {
    let (script, log) = lines(
        Log::new().output(
            "\u{1b}[0;33mWARNING: variables that no shell can be given are left out: \
             \"no-name-for-bash\" (no name for a shell)\u{1b}[0;m\n",
        ),
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
        log.after_script(),
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
        expected: Expected::success(log.succeeded()),
        cancel_at: None,
    }
}

/// The first line that fails ends the script, and its exit code is reported.
fn failing() -> Case {
    let (mut script, log) = lines(Log::new(), &[("echo before", "before\n"), ("(exit 3)", "")]);
    script.push("echo never reached");
    let (after, log) = lines(
        log.after_script(),
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
            ..Expected::success(log.failed("exit code 3"))
        },
        cancel_at: None,
    }
}

/// Nothing secret gets into the log, however it is written.
fn secrets() -> Case {
    const PASSWORD: &str = "correct-horse-battery";
    let (script, log) = lines(
        Log::new(),
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
        expected: Expected::success(log.succeeded()),
        cancel_at: None,
    }
}

/// A variable of type file, whose value is the path of a file that only the job's user can read, and
/// files that stay: an archive and two reports.
fn config() -> Case {
    let (script, log) = lines(
        Log::new(),
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
        .uploaded("archive", &["out/: found 3", "**/*.o: excluded 1"])
        .uploaded("junit", &["*.xml: found 2"])
        .uploaded("codequality", &["quality.json: found 1"]);
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
fn long_log() -> Case {
    const SCRIPT: &str = "for i in {1..40000}; do printf \
        '%05d of 40000: the quick brown fox jumps over the lazy dog, again and again\\n' $i; done";
    let line = |i| {
        format!("{i:05} of 40000: the quick brown fox jumps over the lazy dog, again and again\n")
    };
    let output: String = (1..=40_000).map(line).collect();
    let (script, log) = lines(Log::new(), &[(SCRIPT, &output)]);
    Case {
        spec: JobSpec::script(script),
        expected: Expected::success(log.succeeded()),
        cancel_at: None,
    }
}

/// Would run for ever, and is cancelled: it gets SIGTERM and the time to say so.
fn endless() -> Case {
    const TRAP: &str = "trap 'echo got SIGTERM, cleaning up; exit 143' TERM";
    // The braces keep bash itself from writing about the `sleep` that the same signal ends.
    const LOOP: &str = "for i in {1..600}; do echo \"tick $i\"; { sleep 1; } 2>/dev/null; done";
    const AFTER: &str = "echo \"the job's status is $CI_JOB_STATUS\"";
    let log = |ticks| {
        let ticks: String = (1..=ticks).map(|i| format!("tick {i}\n")).collect();
        let output = ticks + "got SIGTERM, cleaning up\n";
        let (_, log) = lines(Log::new(), &[(TRAP, ""), (LOOP, &output)]);
        lines(
            log.after_script(),
            &[(AFTER, "the job's status is canceled\n")],
        )
        .1
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

/// Takes longer than it may. Then there is no time for after_script either.
fn too_slow() -> Case {
    let (script, log) = lines(
        Log::new(),
        &[
            ("echo this will take a while", "this will take a while\n"),
            ("exec sleep 600", ""),
        ],
    );
    Case {
        spec: JobSpec::script(script)
            .after_script(["echo never reached"])
            .timeout(3),
        expected: Expected {
            status: JobStatus::Failed,
            exit_code: None,
            failure_reason: Some("job_execution_timeout"),
            ..Expected::success(log.failed("execution took longer than 3 seconds"))
        },
        cancel_at: None,
    }
}

/// Runs after others have succeeded, with what one of them left.
fn deploy() -> Case {
    let (script, log) = lines(
        Log::new().output("Downloading artifacts for config\n"),
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
        expected: Expected::success(log.succeeded()),
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
