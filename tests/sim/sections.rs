//! Sections and timestamps in logs.

use std::time::Duration;

use gitlab_runner::{
    JobHandler, JobResult, Phase,
    job::Job,
    mock::{JobSpec, JobStatus},
    outputln,
};

use crate::world::World;

struct Talk(Job);

#[async_trait::async_trait]
impl JobHandler for Talk {
    async fn step(&mut self, _: &[String], _: Phase) -> JobResult {
        let section = self
            .0
            .section("build it")
            .title("Building")
            .collapsed()
            .start();
        outputln!("compiling");
        self.0.sleep(Duration::from_secs(90)).await;
        section.end();
        {
            let _quiet = self.0.section("rest").hide_duration().collapsed().start();
            self.0.trace_stderr("a warning\n");
        }
        self.0.trace("no end");
        Ok(())
    }
}

fn run(timestamps: bool, understood: bool) -> String {
    let world = World::new(1000);
    let spec = JobSpec::script(["x"]).payload_override(move |payload| {
        payload["features"]["trace_sections"] = understood.into();
    });
    let job = world.enqueue(spec);
    let mut runner = world.build(world.builder().timestamps(timestamps));
    world.sim.block_on(async {
        assert!(
            runner
                .request_job(|job| async { Ok(Talk(job)) })
                .await
                .unwrap()
        );
        runner.drain().await;
    });
    let report = world.report(job);
    assert_eq!(report.status, JobStatus::Success);
    assert_eq!(report.checksum_matches(), Some(true));
    report.log_text().into_owned()
}

#[test]
fn sections_are_marked_with_their_times() {
    let log = run(false, true);
    let (start, rest) = log
        .split_once(":build_it[collapsed=true]\r\x1b[0K")
        .unwrap();
    let begun: u64 = start
        .strip_prefix("section_start:")
        .unwrap()
        .parse()
        .unwrap();
    let ended = begun + 90;
    assert!(begun > 1_700_000_000);
    assert_eq!(
        rest,
        format!(
            "\x1b[0K\x1b[36;1mBuilding\x1b[0;m\x1b[0;m\ncompiling\n\
             section_end:{ended}:build_it\r\x1b[0K\
             section_start:{ended}:rest[hide_duration=true,collapsed=true]\r\x1b[0K\
             a warning\nsection_end:{ended}:rest\r\x1b[0Kno end"
        )
    );
}

#[test]
fn a_server_that_knows_no_sections_gets_their_titles() {
    assert_eq!(
        run(false, false),
        "\x1b[0K\x1b[36;1mBuilding\x1b[0;m\x1b[0;m\ncompiling\na warning\nno end"
    );
}

#[test]
fn lines_have_time_and_stream() {
    let log = run(true, true);
    let mut lines = log.lines().map(|line| {
        let (time, rest) = line.split_once(' ').unwrap();
        assert_eq!(time.len(), "2024-07-16T10:00:00.123456Z".len());
        let (head, text) = rest.split_at(4);
        (head.to_owned(), text.to_owned())
    });
    let mut next = || lines.next().unwrap();
    let (head, text) = next();
    assert_eq!(head, "01O ");
    assert!(text.starts_with("section_start:") && text.ends_with("\r\x1b[0K"));
    assert_eq!(
        next(),
        (
            "01O+".to_owned(),
            "\x1b[0K\x1b[36;1mBuilding\x1b[0;m\x1b[0;m".to_owned()
        )
    );
    assert_eq!(next(), ("01O ".to_owned(), "compiling".to_owned()));
    assert!(next().1.starts_with("section_end:"));
    assert!(next().1.starts_with("section_start:"));
    assert_eq!(next(), ("01E ".to_owned(), "a warning".to_owned()));
    assert!(next().1.starts_with("section_end:"));
    assert_eq!(next(), ("01O+".to_owned(), "no end".to_owned()));
    assert_eq!(lines.next(), None);
}
