//! Packs one artifact of a job from the files that its handler offers.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use crate::{
    adapter::Adapter,
    artifact::{Level, PackOrder, Packed, PatternProblem, Selection, pack, yield_now},
    handler::{Colour, JobLog, JobVariables, UploadableFile},
    protocol::ArtifactSpec,
};

/// What is needed beside the files.
pub(super) struct Collector {
    pub(super) adapter: Arc<dyn Adapter>,
    pub(super) log: Arc<JobLog>,
    pub(super) variables: Arc<JobVariables>,
    /// Which of the payload's artifacts.
    pub(super) index: usize,
    /// Where the packed file waits.
    pub(super) spool_dir: PathBuf,
    pub(super) now: SystemTime,
    pub(super) packing: Packing,
}

/// What the runner was told of packing.
#[derive(Clone, Copy)]
pub(super) struct Packing {
    /// Whether the log tells what was found, and not only of trouble.
    pub(super) tells: bool,
    /// A packed file may not be longer, in bytes.
    pub(super) most: Option<u64>,
}

impl Collector {
    /// Packs what belongs to the artifact; none if nothing does. Problems are written to the log.
    pub(super) async fn pack<U>(
        self,
        files: Result<Box<dyn Iterator<Item = U> + Send>, ()>,
    ) -> Result<Option<Packed>, ()>
    where
        U: UploadableFile + Send + 'static,
    {
        let Some(spec) = self.variables.payload().artifacts.get(self.index) else {
            return Ok(None);
        };
        let kind = spec.artifact_type.as_deref().unwrap_or("archive");
        let failed = |why: &dyn std::fmt::Display| {
            let text = format!("Uploading artifacts as \"{kind}\" failed: {why}");
            self.log.coloured(Colour::Error, &text);
        };
        let Ok(files) = files else {
            failed(&"the runner could not list the files of the job");
            return Err(());
        };
        let selection = self.selection(spec).await;
        let mut selection = selection.map_err(|problem| {
            let what = "it is not known what is to be left out";
            failed(&format_args!("{what}: {problem}"));
        })?;
        let order = PackOrder {
            format: spec.artifact_format.clone(),
            name: spec.name.as_deref().map(|name| self.expand(name)),
            level: self.level(),
            dir: self.spool_dir.clone(),
            now: self.now,
            most: self.packing.most,
        };
        let warn = &mut |warning| self.warn(&warning);
        let packed = pack(files, &mut selection, &order, &self.adapter, warn).await;
        let packed = packed.map_err(|error| failed(&error))?;
        if self.packing.tells {
            self.log.note("Uploading artifacts...".to_owned());
        }
        for (is_warning, text) in selection.report() {
            if is_warning {
                self.warn(&text);
            } else if self.packing.tells {
                self.log.note(text);
            }
        }
        if packed.is_none() {
            self.warn(&format!("no files to upload as \"{kind}\""));
        }
        Ok(packed)
    }

    /// Each pattern may take a moment to expand, and there may be many. An artifact with an exclude
    /// that cannot be understood is none: it may be what keeps secrets out of it.
    async fn selection(&self, spec: &ArtifactSpec) -> Result<Selection, PatternProblem> {
        // Paths are relative to it, and absolute ones as the scripts see them.
        let dir = self.variables.project_dir();
        let mut selection = Selection::empty(&dir, spec.untracked);
        for pattern in &spec.paths {
            if let Err(problem) = selection.add(self.expand(pattern)) {
                self.warn(&problem);
            }
            yield_now().await;
        }
        for pattern in &spec.exclude {
            match selection.exclude(self.expand(pattern)) {
                Err(problem) if problem.means_nothing() => self.warn(&problem),
                outcome => outcome?,
            }
            yield_now().await;
        }
        Ok(selection)
    }

    fn level(&self) -> Level {
        let value = self.expand("$ARTIFACT_COMPRESSION_LEVEL");
        Level::named(&value).unwrap_or_else(|| {
            self.warn(&format!(
                "ARTIFACT_COMPRESSION_LEVEL is {value:?}, which is none of fastest, fast, default, \
                 slow, slowest"
            ));
            Level::default()
        })
    }

    fn expand(&self, text: &str) -> String {
        self.variables.expand(text)
    }

    fn warn(&self, text: &dyn std::fmt::Display) {
        self.log.coloured(Colour::Warning, &text.to_string());
    }
}
