//! A handler that says all it can of what it was given.

use std::{borrow::Cow, time::Duration};

use async_trait::async_trait;
use futures::io::Cursor;
use gitlab_runner::{
    CancellableJobHandler, CancellationToken, JobResult, Phase, UploadableFile, job::Job, outputln,
};

use crate::{
    ear::{Ear, OWN_WORDS},
    planted::{MASKED, RUNNER_TOKEN, ca_key},
};

pub(crate) struct Gossip(Job);

impl Gossip {
    pub(crate) async fn new(job: Job) -> Result<Self, ()> {
        Ok(Self(job))
    }
}

pub(crate) struct Memory(&'static str);

#[async_trait]
impl UploadableFile for Memory {
    type Data<'a> = Cursor<&'a [u8]>;

    fn get_path(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.0)
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        Ok(Cursor::new(b"content"))
    }
}

#[async_trait]
impl CancellableJobHandler<Memory> for Gossip {
    async fn step(&mut self, _: &[String], _: Phase, token: &CancellationToken) -> JobResult {
        let (job, ear) = (&self.0, Ear::of_the_process());
        let environment = job.env().await.unwrap();
        ear.look_at(&environment);
        ear.look_at(job);
        ear.look_at(job.payload());
        ear.look_at(&job.raw_payload().map(<[u8]>::len));
        for variable in job.variables() {
            ear.look_at(&variable);
            if variable.masked() {
                ear.hear(&variable.to_string());
            }
        }
        for dependency in job.dependencies() {
            ear.look_at(&dependency);
            match dependency.download().await {
                Ok(artifact) => ear.look_at(&artifact.map(|it| it.len())),
                Err(error) => ear.error(&error),
            }
        }
        // All that is masked, whole and in two pieces.
        for key in [
            "SECRET",
            "QUOTED",
            "REFERRING",
            "CI_JOB_TOKEN",
            "CI_REPOSITORY_URL",
        ] {
            let value = environment.get(key).unwrap();
            outputln!("{key} is {value}");
            let (first, second) = value.split_at(value.len() / 2);
            job.trace(first);
            job.sleep(Duration::from_millis(1)).await;
            job.trace(second);
        }
        job.trace(format!("\nrunner {RUNNER_TOKEN}\n"));
        let path = environment.get("CA_KEY").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), ca_key());
        match job.name() {
            "panics" => panic!("{OWN_WORDS}: {MASKED}"),
            "waits" => {
                token.cancelled().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn get_uploadable_files(
        &mut self,
    ) -> Result<Box<dyn Iterator<Item = Memory> + Send>, ()> {
        Ok(Box::new([Memory("a.txt"), Memory("b.txt")].into_iter()))
    }

    async fn cleanup(&mut self) {
        if self.0.name() == "panics" {
            panic!("{OWN_WORDS} again: {MASKED}");
        }
    }
}
