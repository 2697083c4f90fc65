//! A handler that does what the script of its job says, in words of its own.

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{
    future::{Either, select},
    io::{AsyncRead, Cursor},
};
use gitlab_runner::{
    CancellableJobHandler, Failure, JobResult, Phase, UploadableFile, job::Job, outputln,
};
use tokio_util::sync::CancellationToken;

/// A file in memory.
#[derive(Clone)]
pub(crate) struct File {
    path: String,
    content: String,
}

#[async_trait]
impl UploadableFile for File {
    type Data<'a> = Box<dyn AsyncRead + Send + Unpin + 'a>;

    fn get_path(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.path)
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        Ok(Box::new(Cursor::new(self.content.as_bytes())))
    }
}

/// `echo TEXT`, `show VARIABLE`, `sleep SECONDS` (which a cancel ends), `hang SECONDS` (which it does
/// not), `exit CODE`, `file NAME CONTENT` and `take` (the artifacts of the dependencies).
pub(crate) struct Actor {
    job: Arc<Job>,
    files: Vec<File>,
}

impl Actor {
    pub(crate) fn new(job: Job) -> Self {
        Self {
            job: Arc::new(job),
            files: Vec::new(),
        }
    }

    async fn act(&mut self, line: &str, cancel: &CancellationToken) -> JobResult {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let duration = || Duration::from_secs(rest.parse().unwrap());
        match verb {
            "echo" => outputln!("{rest}"),
            "show" => {
                let value = self.job.variable(rest).unwrap().value();
                outputln!("{rest} is {value}");
            }
            "sleep" => {
                let (sleep, cancelled) = (self.job.sleep(duration()), cancel.cancelled());
                let (sleep, cancelled) = (std::pin::pin!(sleep), std::pin::pin!(cancelled));
                if let Either::Right(_) = select(sleep, cancelled).await {
                    outputln!("cancelled");
                    return Err(());
                }
            }
            "hang" => self.job.sleep(duration()).await,
            "exit" => return self.job.fail(Failure::exit_code(rest.parse().unwrap())),
            "file" => {
                let (path, content) = rest.split_once(' ').unwrap();
                let (path, content) = (path.to_owned(), content.to_owned());
                self.files.push(File { path, content });
            }
            "take" => {
                for dependency in self.job.dependencies() {
                    let artifact = dependency.download().await.unwrap();
                    outputln!("{}: {}", dependency.name(), artifact.is_some());
                }
            }
            other => panic!("{other:?} is no word of the actor"),
        }
        Ok(())
    }
}

#[async_trait]
impl CancellableJobHandler<File> for Actor {
    async fn step(
        &mut self,
        script: &[String],
        _phase: Phase,
        cancel: &CancellationToken,
    ) -> JobResult {
        for line in script {
            self.act(line, cancel).await?;
        }
        Ok(())
    }

    async fn get_uploadable_files(&mut self) -> Result<Box<dyn Iterator<Item = File> + Send>, ()> {
        Ok(Box::new(self.files.clone().into_iter()))
    }
}
