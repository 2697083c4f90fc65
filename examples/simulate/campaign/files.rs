//! Files that a job leaves behind, and which of them belong into which artifact.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Cursor, Read},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::io::{AsyncRead, Cursor as AsyncCursor};
use gitlab_runner::{UploadableFile, artifact::BlockingData};

use super::dice::Random;

#[derive(Clone, Debug)]
pub(crate) struct FilePlan {
    pub(crate) path: String,
    pub(crate) content: Bytes,
    /// Cannot be opened.
    pub(crate) broken: bool,
    /// Is not there any more when it is to be read, by blocking.
    pub(crate) vanished: bool,
    pub(crate) blocking: bool,
}

/// An entry of `artifacts[]`.
#[derive(Clone, Debug)]
pub(crate) struct ArtifactPlan {
    pub(crate) kind: &'static str,
    pub(crate) format: Format,
    pub(crate) paths: Vec<String>,
    pub(crate) exclude: Vec<String>,
    pub(crate) when: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Zip,
    Gzip,
    Raw,
}

/// Files, and artifacts that are made of them.
pub(crate) fn draw(random: &mut Random) -> (Vec<FilePlan>, Vec<ArtifactPlan>) {
    let mut files = Vec::new();
    for number in 0..random.below(6) {
        let dir = random.pick(&["", "out/", "out/deep/", "logs/", "ünï/"]);
        let end = random.pick(&["txt", "log", "xml", "json"]);
        let len = match random.below(30) {
            0 if random.chance(10) => 300_000,
            0 => 70_000,
            1 => 0,
            _ => random.below(2000),
        };
        let texts = random.chance(50);
        let mut content = Vec::with_capacity(len + 8);
        while content.len() < len {
            match texts {
                true => content.extend_from_slice(random.pick(&["some ", "text\n"]).as_bytes()),
                false => content.extend_from_slice(&random.next().to_le_bytes()),
            }
        }
        content.truncate(len);
        files.push(FilePlan {
            path: format!("{dir}file-{number}.{end}"),
            content: content.into(),
            broken: false,
            vanished: false,
            blocking: random.chance(30),
        });
    }
    if random.chance(4)
        && let Some(file) = files.last_mut()
    {
        file.broken = true;
    } else if random.chance(6)
        && let Some(file) = files.last_mut()
    {
        (file.vanished, file.blocking) = (true, true);
    }
    let mut artifacts = Vec::new();
    if random.chance(80) {
        artifacts.push(ArtifactPlan {
            kind: "archive",
            format: Format::Zip,
            paths: patterns(random, &files),
            exclude: match random.chance(25) {
                true => patterns(random, &files),
                false => Vec::new(),
            },
            when: random.pick(&["on_success", "on_failure", "always", "always"]),
        });
    }
    for (kind, format) in [("junit", Format::Gzip), ("codequality", Format::Raw)] {
        if random.chance(40) {
            artifacts.push(ArtifactPlan {
                kind,
                format,
                paths: patterns(random, &files),
                exclude: Vec::new(),
                when: "always",
            });
        }
    }
    (files, artifacts)
}

fn patterns(random: &mut Random, files: &[FilePlan]) -> Vec<String> {
    let count = 1 + random.below(2);
    let one = |_| match files {
        [_, ..] if random.chance(50) => files[random.below(files.len())].path.clone(),
        _ => random
            .pick(&["out/", "**/*.txt", "*.log", "missing.txt", "logs", "**/*"])
            .to_owned(),
    };
    (0..count).map(one).collect()
}

impl ArtifactPlan {
    /// The files that match it.
    pub(crate) fn matching<'a>(&self, files: &'a [FilePlan]) -> impl Iterator<Item = &'a FilePlan> {
        let any = |patterns: &[String], path: &str| patterns.iter().any(|it| fits(it, path));
        files
            .iter()
            .filter(move |file| any(&self.paths, &file.path) && !any(&self.exclude, &file.path))
    }

    /// The files that belong into it, by name.
    pub(crate) fn select<'a>(&self, files: &'a [FilePlan]) -> BTreeMap<&'a str, &'a FilePlan> {
        let wanted = self.matching(files).filter(|file| !file.vanished);
        wanted.map(|file| (file.path.as_str(), file)).collect()
    }

    /// Whether it is uploaded by a job that went like this.
    pub(crate) fn is_wanted(&self, failed: bool) -> bool {
        match self.when {
            "always" => true,
            "on_failure" => failed,
            _ => !failed,
        }
    }

    /// Whether `content`, as GitLab has it, is these files and nothing else.
    pub(crate) fn check(&self, content: &[u8], files: &[FilePlan]) -> Result<(), String> {
        let wanted = self.select(files);
        match self.format {
            Format::Zip => {
                let found = unzip(content)?;
                let names: Vec<&String> = found.keys().collect();
                let right = |(path, file): (&&str, &&FilePlan)| {
                    found.get(*path).is_some_and(|it| *it == file.content)
                };
                (found.len() == wanted.len() && wanted.iter().all(right))
                    .then_some(())
                    .ok_or_else(|| format!("holds {names:?}, or their content is wrong"))
            }
            Format::Gzip => {
                let mut found = Vec::new();
                let read = flate2::read::MultiGzDecoder::new(content).read_to_end(&mut found);
                read.map_err(|error| format!("is no gzip: {error}"))?;
                // In the order of the names, or of the offer.
                let by_name: Vec<u8> = wanted.values().flat_map(|it| it.content.clone()).collect();
                let by_offer = files.iter().filter(|it| wanted.contains_key(&*it.path));
                let by_offer: Vec<u8> = by_offer.flat_map(|it| it.content.clone()).collect();
                (found == by_name || found == by_offer)
                    .then_some(())
                    .ok_or_else(|| format!("is not {:?} in a row", wanted.keys()))
            }
            Format::Raw => {
                let only = wanted.values().next().map(|file| &file.content[..]);
                (only == Some(content))
                    .then_some(())
                    .ok_or_else(|| "is not the file".to_owned())
            }
        }
    }
}

pub(crate) fn unzip(content: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let wrong = |error| format!("is no zip: {error}");
    let mut zip = zip::ZipArchive::new(Cursor::new(content)).map_err(wrong)?;
    let mut found = BTreeMap::new();
    for index in 0..zip.len() {
        let mut file = zip.by_index(index).map_err(wrong)?;
        let name = file.name().map_err(wrong)?.into_owned();
        let mut content = Vec::new();
        file.read_to_end(&mut content)
            .map_err(|error| format!("{name} cannot be read: {error}"))?;
        if found.insert(name.clone(), content).is_some() {
            return Err(format!("has {name} twice"));
        }
    }
    Ok(found)
}

/// The few patterns that plans use: a path, a directory with all in it, `*.x` here, `**/*.x` anywhere.
fn fits(pattern: &str, path: &str) -> bool {
    if pattern == "**/*" {
        return true;
    }
    if let Some(end) = pattern.strip_prefix("**/*") {
        return path.ends_with(end);
    }
    if let Some(end) = pattern.strip_prefix('*') {
        return path.ends_with(end) && !path.contains('/');
    }
    let dir = pattern.trim_end_matches('/');
    path == pattern
        || path
            .strip_prefix(dir)
            .is_some_and(|rest| rest.starts_with('/'))
}

#[async_trait]
impl UploadableFile for FilePlan {
    type Data<'a> = Box<dyn AsyncRead + Send + Unpin + 'a>;

    fn get_path(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.path)
    }

    async fn get_data(&self) -> Result<Self::Data<'_>, ()> {
        match self.broken {
            true => Err(()),
            false => Ok(Box::new(AsyncCursor::new(&self.content[..]))),
        }
    }

    fn get_blocking_data(&self) -> Option<BlockingData> {
        let content = match (self.broken, self.vanished) {
            (false, false) => Ok(self.content.clone()),
            (_, true) => Err(io::ErrorKind::NotFound),
            _ => Err(io::ErrorKind::PermissionDenied),
        };
        let open = move || match content {
            Ok(content) => Ok(Box::new(Cursor::new(content)) as Box<dyn Read + Send>),
            Err(kind) => Err(kind.into()),
        };
        self.blocking.then(|| Box::new(open) as BlockingData)
    }
}
