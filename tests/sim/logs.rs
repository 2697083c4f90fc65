//! What reaches the log at GitLab.

use std::{fmt, time::Duration};

use gitlab_runner::{mock::JobSpec, outputln};

use crate::world::{Steps, World};

#[test]
fn every_byte_arrives_in_order() {
    let world = World::new(40);
    let mut wanted = Vec::new();
    let chunk = |n: u32| -> Vec<u8> {
        let len = n.wrapping_mul(2_654_435_761) % 5000;
        (0..len)
            .map(|at| b' ' + u8::try_from((n + at) % 90).unwrap())
            .collect()
    };
    for n in 0..400 {
        wanted.extend(chunk(n));
    }
    let report = world.run_job(JobSpec::script(["true"]), move |job, _| async move {
        for n in 0..400 {
            job.trace(chunk(n));
            if n % 7 == 0 {
                job.sleep(Duration::from_millis(u64::from(n) * 11)).await;
            }
        }
        Ok(())
    });
    assert!(
        report.log == wanted,
        "{} and {} bytes",
        report.log.len(),
        wanted.len()
    );
    assert_eq!(report.checksum_matches(), Some(true));
    assert_eq!(report.bytesize_matches(), Some(true));
}

#[test]
fn a_server_that_forgets_a_long_log_gets_it_once_more() {
    const LINES: u32 = 100_000;
    let line =
        |n: u32| format!("{n:08} of a log of which most is no longer in memory by now, is it?\n");
    let world = World::new(45);
    let job = world.enqueue(JobSpec::script(["true"]));
    let mut runner = world.runner();
    let gitlab = world.gitlab.clone();
    world.sim.block_on(async {
        let process = move |job| async move {
            Ok(Steps::new(job, move |job, _| {
                let gitlab = gitlab.clone();
                async move {
                    for n in 0..LINES {
                        job.trace(line(n));
                        if n == LINES / 2 {
                            job.sleep(Duration::from_secs(600)).await;
                            let id = gitlab_runner::JobId(job.id());
                            gitlab.with(|gitlab, _| gitlab.shrink_trace(id, 1000));
                        }
                    }
                    Ok(())
                }
            }))
        };
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
    });
    let report = world.report(job);
    let wanted: String = (0..LINES).map(line).collect();
    assert!(
        report.log == wanted.as_bytes(),
        "{} and {} bytes",
        report.log.len(),
        wanted.len()
    );
    assert_eq!(report.checksum_matches(), Some(true));
    assert!(
        report
            .requests
            .iter()
            .any(|request| request.status == Some(416.try_into().unwrap()))
    );
    assert!(world.is_empty());
}

#[test]
fn a_quiet_moment_does_not_keep_the_next_line_waiting() {
    let world = World::new(41);
    let job = world.enqueue(JobSpec::script(["true"]));
    // With somebody watching, GitLab wants a part of the log every 3 s.
    world.gitlab.with(|gitlab, _| gitlab.watch(job, true));
    let mut runner = world.runner();
    world.sim.block_on(async {
        let process = |job| async {
            Ok(Steps::new(job, |job, _| async move {
                for n in 0..20 {
                    outputln!("{n}");
                    job.sleep(Duration::from_secs(10)).await;
                }
                Ok(())
            }))
        };
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
    });
    let report = world.report(job);
    let patches: Vec<_> = report
        .requests
        .iter()
        .filter(|it| it.method == "PATCH")
        .collect();
    // Each line travels on its own, soon after it was written.
    assert_eq!(patches.len(), 20, "{patches:#?}");
    let first = patches[0].at;
    for (n, patch) in (0..).zip(&patches) {
        let off = patch.at.since(first).abs_diff(Duration::from_secs(10 * n));
        assert!(off < Duration::from_secs(4), "{n}: {off:?}");
    }
}

#[test]
fn a_masked_value_is_masked_across_writes() {
    let world = World::new(42);
    let spec = JobSpec::script(["true"]).masked_variable("PASSWORD", "hunter2-and-more");
    let report = world.run_job(spec, |job, _| async move {
        job.trace("it is hunter2");
        job.sleep(Duration::from_secs(10)).await;
        job.trace("-and-");
        job.trace_stderr("more, is it");
        outputln!(" not? {}", job.variable("PASSWORD").unwrap().value());
        outputln!("{}", job.variable("PASSWORD").unwrap());
        Ok(())
    });
    let log = report.log_text();
    assert!(!log.contains("hunter2"), "{log}");
    assert!(log.starts_with("it is [MASKED]"), "{log}");
    assert!(
        log.contains("not? [MASKED]\n") && log.contains("is it"),
        "{log}"
    );
}

#[test]
fn lines_can_be_written_in_every_way() {
    struct Nested;

    impl fmt::Display for Nested {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            outputln!("inside of {}", "a line");
            f.write_str("outside")
        }
    }

    let world = World::new(43);
    let report = world.run_job(JobSpec::script(["true"]), |_, _| async move {
        let name = String::from("captured");
        let mut calls = 0;
        outputln!("plain");
        outputln!("");
        outputln!();
        outputln!("{name} {} {:?}", 1, "two");
        outputln!(name);
        outputln!(concat!("con", "cat"));
        outputln!("{}", {
            calls += 1;
            calls
        });
        outputln!("{}", Nested);
        outputln!("\u{1b}[32mgreen\u{1b}[0m");
        assert_eq!(calls, 1);
        Ok(())
    });
    assert_eq!(
        report.log_text(),
        "plain\n\n\ncaptured 1 \"two\"\ncaptured\nconcat\n1\ninside of a line\noutside\n\
         \u{1b}[32mgreen\u{1b}[0m\n"
    );
}

#[test]
fn tasks_of_a_job_write_to_its_log() {
    let world = World::new(44);
    let adapter = world.sim.adapter();
    let report = world.run_job(JobSpec::script(["true"]), move |job, _| {
        let adapter = adapter.clone();
        async move {
            let later = job.sleep(Duration::from_secs(5));
            job.spawn(async move {
                later.await;
                outputln!("from a task of the job");
            });
            let later = job.sleep(Duration::from_secs(10));
            adapter.spawn(Box::pin(job.in_scope(async move {
                later.await;
                outputln!("from a foreign task");
            })));
            let answer = job.unblock(|| {
                outputln!("from a thread");
                6 * 7
            });
            assert_eq!(answer.await, 42);
            let late = job.sleep(Duration::from_secs(3600));
            job.spawn(async move {
                late.await;
                outputln!("too late");
            });
            job.sleep(Duration::from_secs(20)).await;
            Ok(())
        }
    });
    assert_eq!(
        report.log_text(),
        "from a thread\nfrom a task of the job\nfrom a foreign task\n"
    );
    world
        .sim
        .block_on(world.sim.sleep(Duration::from_secs(7200)));
}

#[test]
fn a_panic_in_unblocked_work_is_one_of_the_step() {
    let world = World::new(45);
    let report = world.run_job(JobSpec::script(["true"]), |job, _| async move {
        job.unblock(|| panic!("a disk on fire")).await
    });
    assert!(report.log_text().contains("panicked: a disk on fire"));
    assert_eq!(
        report.failure_reason.as_deref(),
        Some("runner_system_failure")
    );
}

#[test]
fn the_log_is_cut_at_its_limit() {
    let world = World::new(46);
    let job = world.enqueue(JobSpec::script(["true"]));
    let mut runner = world.build(world.builder().trace_limit(1000));
    world.sim.block_on(async {
        let process = |job| async {
            Ok(Steps::new(job, |job, _| async move {
                job.trace([b'x'; 5000]);
                Ok(())
            }))
        };
        assert!(runner.request_job(process).await.unwrap());
        runner.drain().await;
    });
    let log = world.log(job);
    assert!(log.starts_with(&"x".repeat(1000)), "{log}");
    assert!(
        !log.contains(&"x".repeat(1001)) && log.len() > 1000,
        "{log}"
    );
}
