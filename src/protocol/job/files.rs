//! Files that go into a job and come out of it.

use crate::{ids::JobId, secret::Secret};

objects! {
    /// Files to upload when the job is over (`artifacts[]`).
    #[derive(Debug)]
    pub struct ArtifactSpec {
        /// The base name of the uploaded file; up to the runner if there is none.
        pub name: Option<String>,
        /// Whether all files belong to it that git does not know.
        pub untracked: bool,
        /// Patterns of the files that belong to it, relative to the project directory.
        pub paths: Vec<String>,
        /// Patterns of the files that do not.
        pub exclude: Vec<String>,
        /// After which outcome of the job.
        pub when: ArtifactWhen,
        /// How long GitLab keeps it, in words that are passed on as they are.
        pub expire_in: Option<String>,
        /// What it is: `archive`, or a kind of report; an archive if there is none.
        pub artifact_type: Option<String>,
        /// How the files are packed; as zip if there is none.
        pub artifact_format: Option<ArtifactFormat>,
    }

    /// Files to keep between jobs (`cache[]`).
    #[derive(Debug)]
    pub struct CacheSpec {
        /// Its name; it may hold variables.
        pub key: String,
        /// Whether all files belong to it that git does not know.
        pub untracked: bool,
        /// Patterns of the files that belong to it, relative to the project directory.
        pub paths: Vec<String>,
        /// Whether to fetch it, to keep it, or both.
        pub policy: CachePolicy,
        /// After which outcome of the job to keep it.
        pub when: ArtifactWhen,
        /// Names to look for if there is none under the key.
        pub fallback_keys: Vec<String>,
    }

    /// An earlier job whose files this one may want (`dependencies[]`).
    #[derive(Debug)]
    pub struct DependencyInfo {
        /// Its number.
        pub id: JobId,
        /// Its name: free text.
        pub name: String,
        /// The token to fetch its files with.
        pub token: Secret,
        /// Its archive; none if there is nothing to fetch (any more).
        pub artifacts_file: Option<ArtifactsFile>,
    }

    /// The archive of an earlier job (`artifacts_file`).
    #[derive(Debug)]
    pub struct ArtifactsFile {
        /// Its name.
        pub filename: String,
        /// Its size in bytes.
        pub size: Option<u64>,
    }
}

wire_enum! {
    /// After which outcome of a job its files are kept.
    pub enum ArtifactWhen {
        /// If it went well.
        OnSuccess = "on_success",
        /// If it failed.
        OnFailure = "on_failure",
        /// In any case.
        Always = "always",
    }
}

wire_enum! {
    /// How the files of an artifact are packed.
    pub enum ArtifactFormat {
        /// All of them in a zip archive.
        Zip = "zip",
        /// Each compressed by gzip, one behind the other.
        Gzip = "gzip",
        /// One file as it is.
        Raw = "raw",
    }
}

wire_enum! {
    /// What to do with a cache. `Other` may hold a variable.
    pub enum CachePolicy {
        /// Fetch it before the job and keep it afterwards.
        PullPush = "pull-push",
        /// Only fetch it.
        Pull = "pull",
        /// Only keep it.
        Push = "push",
    }
}

lenient_words! {
    ArtifactWhen: OnSuccess,
    ArtifactFormat: Zip,
    CachePolicy: PullPush,
}
