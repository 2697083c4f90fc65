//! `jobs/:id/artifacts`: uploads, which Workhorse takes in and hands on to Rails, and downloads.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header, request::Parts};

use super::{
    MockGitlab,
    auth::RateKey,
    params::{Check, Params, header_text, token_or_header},
    plan,
    reply::{self, Refused, Reply},
    route::Route,
};
use crate::{
    JobId,
    mock::{
        BodyLimit, ObjectStore,
        multipart::{Form, Part},
        report::{ArtifactReport, JobStatus},
    },
};

const FORMATS: [&str; 3] = ["zip", "gzip", "raw"];
const DEFAULT_TYPE: &str = "archive";
/// What the rest of a form may take beside the file.
const FORM_OVERHEAD: usize = 64 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

impl MockGitlab {
    /// The storage to which downloads are redirected with
    /// [`Settings::object_storage`](super::Settings::object_storage). All that this gives are the
    /// same one.
    pub fn object_store(&self) -> ObjectStore {
        self.storage.clone()
    }

    /// Lets the artifacts of a job expire: they cannot be downloaded any more, also not by links
    /// given out before. The report keeps them.
    pub fn expire_artifacts(&mut self, job: JobId) {
        self.storage.remove(job);
        let now = self.now;
        let artifacts = self.jobs.get_mut(&job).map(|job| &mut job.report.artifacts);
        for artifact in artifacts.into_iter().flatten() {
            artifact.removed_at.get_or_insert(now);
        }
    }
}

/// What an upload says of its artifact.
struct Upload {
    id: u64,
    token: String,
    artifact_type: String,
    artifact_format: String,
    expire_in: Option<String>,
    accessibility: Option<String>,
}

impl MockGitlab {
    /// Rails' answer to a client that asks for what only Workhorse may ask.
    pub(super) fn authorize_directly(
        &mut self,
        id: &str,
        request: &Request<Bytes>,
        params: Result<Params, Refused>,
    ) -> Result<Reply, Refused> {
        self.check_migration()?;
        let (_, token) = self.upload_head(id, &params?, request.headers())?;
        self.check_rate(RateKey::Update, &token)?;
        self.check_artifacts_enabled()?;
        Err(reply::message(StatusCode::FORBIDDEN).into())
    }

    pub(super) fn upload_artifact(
        &mut self,
        id: &str,
        request: &Request<Bytes>,
        params: Result<Params, Refused>,
    ) -> Result<Reply, Refused> {
        // Workhorse asks Rails first, with nothing but the query and the headers.
        let query = Params::of_query(request.uri());
        let (job, token) = self.upload_head(id, &query, request.headers())?;
        self.check_rate(RateKey::Update, &token)?;
        self.check_upload(job, &token)?;
        if self.is_announced_too_long(request.headers()) {
            return Err(too_large());
        }
        let params = params?;
        let file = match params.form() {
            Some(form) => self.take_in(form)?,
            None => None,
        };
        // Then Rails sees everything, and checks it all again.
        let (upload, file) = self.upload_params(id, &params, request, file)?;
        self.check_rate(RateKey::Update, &upload.token)?;
        let job = self.check_upload(upload.id, &upload.token)?;
        self.store(job, upload, file)
    }

    /// How much of an upload is read.
    pub(super) fn upload_limit(&self, head: &Parts) -> Option<BodyLimit> {
        let route = Route::of(&self.settings, &head.method, &head.uri);
        let Route::Upload(id) = &route else {
            return None;
        };
        let limit = self.max_artifact_size().saturating_add(FORM_OVERHEAD);
        let Some(early) = self.settings.early_reply_after else {
            return Some(BodyLimit::new(limit, false));
        };
        let skipped = plan::will_skip(
            &self.plans,
            |endpoint| route.is(endpoint, None),
            route.job(),
        );
        let allowed = || {
            let query = Params::of_query(&head.uri);
            let (id, token) = self.upload_head(id, &query, &head.headers)?;
            self.check_upload(id, &token)
        };
        let refused = skipped || self.is_announced_too_long(&head.headers) || allowed().is_err();
        let bytes = if refused { early.min(limit) } else { limit };
        Some(BodyLimit::new(bytes, true))
    }

    pub(super) fn download_artifact(
        &mut self,
        id: &str,
        request: &Request<Bytes>,
        params: Result<Params, Refused>,
    ) -> Result<Reply, Refused> {
        self.check_migration()?;
        let params = params?;
        let mut check = params.check();
        let id = JobId(check.id(id));
        let direct = check.boolean("direct_download").unwrap_or(false);
        let parameter = check.string("job_token");
        let parameter = check.string("token").or(parameter);
        check.finish()?;
        let token = token_or_header(parameter, request.headers());
        self.check_rate(RateKey::Update, &token)?;
        self.check_download(id, &token)?;

        let archive = self.jobs.get(&id).and_then(|job| job.archive());
        let Some(archive) = archive else {
            return Err(reply::message(StatusCode::NOT_FOUND).into());
        };
        let content = archive.content.clone();
        if let Some(storage) = self.settings.object_storage.as_ref().filter(|_| direct) {
            let signature = self.random.hex32();
            let link = self
                .storage
                .sign(id, content, &archive.filename, &signature);
            let reply = reply::bare(StatusCode::FOUND);
            return Ok(reply::with(reply, "Location", &format!("{storage}{link}")));
        }
        let disposition = reply::attachment(&archive.filename);
        let reply = reply::typed(StatusCode::OK, "application/octet-stream", content);
        Ok(reply::with(reply, "Content-Disposition", &disposition))
    }

    /// Who may download the archive of job `id`: any job on a runner, and with tokens of their
    /// own for dependencies that job itself.
    fn check_download(&self, id: JobId, token: &str) -> Result<(), Refused> {
        let refused = |status| Err(reply::message(status).into());
        let owner = self
            .tokens
            .get(token)
            .and_then(|owner| Some((*owner, self.jobs.get(owner)?)));
        let own = self.settings.own_dependency_tokens;
        let may = owner.is_some_and(|(owner, job)| {
            if own {
                owner == id
            } else {
                let processing = matches!(job.status(), JobStatus::Running | JobStatus::Canceling);
                processing && !job.token_expired
            }
        });
        if !may {
            return refused(if own {
                StatusCode::FORBIDDEN
            } else {
                StatusCode::UNAUTHORIZED
            });
        }
        match self.jobs.get(&id) {
            Some(job) if !job.project_deleted => Ok(()),
            _ => refused(StatusCode::FORBIDDEN),
        }
    }

    /// Back-off and validation: the job's number and the token.
    fn upload_head(
        &self,
        id: &str,
        params: &Params,
        headers: &HeaderMap,
    ) -> Result<(u64, String), Refused> {
        self.check_migration()?;
        let mut check = params.check();
        let id = check.id(id);
        check.integer("filesize");
        self.check_type(&mut check);
        let parameter = check.string("token");
        check.finish()?;
        Ok((id, token_or_header(parameter, headers)))
    }

    fn check_type(&self, check: &mut Check<'_>) {
        let types: Vec<&str> = self
            .settings
            .artifact_types
            .keys()
            .map(String::as_str)
            .collect();
        check.one_of("artifact_type", &types);
    }

    fn check_artifacts_enabled(&self) -> Result<(), Refused> {
        if self.settings.artifacts_enabled {
            return Ok(());
        }
        Err(reply::message(StatusCode::METHOD_NOT_ALLOWED).into())
    }

    /// The job that may be given an artifact with `token`.
    fn check_upload(&self, id: u64, token: &str) -> Result<JobId, Refused> {
        self.check_artifacts_enabled()?;
        self.check_job_token(id, token)
    }

    fn max_artifact_size(&self) -> usize {
        usize::try_from(self.settings.max_artifact_size).unwrap_or(usize::MAX)
    }

    fn is_announced_too_long(&self, headers: &HeaderMap) -> bool {
        let limit = self
            .settings
            .max_artifact_size
            .saturating_add(FORM_OVERHEAD as u64);
        header_text(headers, header::CONTENT_LENGTH.as_str())
            .and_then(|len| len.parse::<u64>().ok())
            .is_some_and(|len| len > limit)
    }

    /// Workhorse takes in the one file that there may be. It looks at nothing else.
    fn take_in<'a>(&self, form: &'a Form) -> Result<Option<&'a Part>, Refused> {
        let files = || form.parts.iter().filter(|part| part.filename.is_some());
        if files().any(|file| file.content.len() > self.max_artifact_size()) {
            return Err(too_large());
        }
        let mut taken = files();
        let file = taken.next();
        let strange = file.is_some_and(|file| file.name != "file") || taken.next().is_some();
        if strange || !form.complete {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Err(reply::text(status, "Internal Server Error\n").into());
        }
        Ok(file)
    }

    /// Rails' validation of the whole upload.
    fn upload_params<'a>(
        &self,
        id: &str,
        params: &Params,
        request: &Request<Bytes>,
        file: Option<&'a Part>,
    ) -> Result<(Upload, &'a Part), Refused> {
        let mut check = params.check();
        let id = check.id(id);
        self.check_type(&mut check);
        check.one_of("artifact_format", &FORMATS);
        check.one_of(
            "accessibility",
            &["public", "private", "none", "maintainer"],
        );
        if file.is_none() {
            check.missing("file");
        }
        let parameter = check.string("token");
        let upload = Upload {
            id,
            token: token_or_header(parameter, request.headers()),
            artifact_type: check
                .string("artifact_type")
                .unwrap_or(DEFAULT_TYPE.to_owned()),
            artifact_format: check
                .string("artifact_format")
                .unwrap_or(FORMATS[0].to_owned()),
            expire_in: check.string("expire_in").filter(|text| !text.is_empty()),
            accessibility: check.string("accessibility"),
        };
        check.finish()?;
        match file {
            Some(file) => Ok((upload, file)),
            None => Err(reply::message(StatusCode::BAD_REQUEST).into()),
        }
    }

    fn store(&mut self, job: JobId, upload: Upload, file: &Part) -> Result<Reply, Refused> {
        let refused = |text: &str| Err(Refused::from(reply::message_text(text)));
        let format = self.settings.artifact_types.get(&upload.artifact_type);
        let now = self.now;
        let Some(job) = self.jobs.get_mut(&job) else {
            return Err(reply::message(StatusCode::FORBIDDEN).into());
        };
        let mut stored = job.report.artifacts.iter_mut();
        if let Some(stored) = stored.find(|stored| stored.artifact_type == upload.artifact_type) {
            if stored.content != file.content {
                return refused("another artifact of this type is there already");
            }
            stored.accepted = stored.accepted.saturating_add(1);
            return Ok(reply::bare(StatusCode::CREATED));
        }
        if format != Some(&upload.artifact_format) {
            return refused("File format is not allowed for this type of artifact");
        }
        // These two are read at once. All else that they hold is beyond a simulation.
        let parsed = matches!(upload.artifact_type.as_str(), "dotenv" | "annotations");
        if parsed && !file.content.starts_with(&GZIP_MAGIC) {
            return refused("The report cannot be read: it is not gzip");
        }
        job.report.artifacts.push(ArtifactReport {
            artifact_type: upload.artifact_type,
            artifact_format: upload.artifact_format,
            filename: file.filename.clone().unwrap_or_default(),
            expire_in: upload.expire_in,
            accessibility: upload.accessibility,
            content: file.content.clone(),
            received_at: now,
            accepted: 1,
            removed_at: None,
        });
        Ok(reply::bare(StatusCode::CREATED))
    }
}

/// The type that an upload names, for the record.
pub(super) fn named_type(params: &Params) -> String {
    params
        .string("artifact_type")
        .unwrap_or(DEFAULT_TYPE)
        .to_owned()
}

/// Workhorse stops in the middle of an upload.
fn too_large() -> Refused {
    let status = StatusCode::PAYLOAD_TOO_LARGE;
    reply::text(status, "Request Entity Too Large\n").into()
}
