//! Downloads of what earlier jobs made, as the handler asks for them.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderValue, Method, Response};

use super::{
    core::{Core, JobCalls, token_header},
    output::{Doing, DownloadOutcome, JobOutput, Trouble},
    transfer::{Transfer, Verdict},
};
use crate::{
    ids::{DownloadId, JobId, RequestId},
    protocol::DependencyInfo,
    secret::Secret,
    time::Time,
    transport::TransportError,
};

#[derive(Debug, Default)]
pub(super) struct Downloads(BTreeMap<DownloadId, Download>);

#[derive(Debug)]
struct Download {
    header: Option<HeaderValue>,
    /// In bytes, as GitLab said.
    size: Option<u64>,
    transfer: Transfer,
}

impl Downloads {
    /// Begins one; false if there is one of this name already. `token` is that of the job, for
    /// servers that give none with the dependency.
    pub(super) fn begin(
        &mut self,
        core: &Core,
        job: JobId,
        token: &Secret,
        download: DownloadId,
        dependency: &DependencyInfo,
    ) -> bool {
        if self.0.contains_key(&download) {
            return false;
        }
        let token = if dependency.token.is_empty() {
            token
        } else {
            &dependency.token
        };
        let path = format!("jobs/{}/artifacts", dependency.id);
        let server = &core.config.server;
        let home = server.endpoint(&format!("{path}?direct_download=true"));
        let proxied = server.endpoint(&path);
        let entry = Download {
            header: token_header(token),
            size: dependency
                .artifacts_file
                .as_ref()
                .and_then(|file| file.size),
            transfer: Transfer::new(job, Doing::Download, Method::GET, home).or_proxied(proxied),
        };
        self.0.insert(download, entry);
        true
    }

    /// Expects it no more; false if there is none of this name.
    pub(super) fn forget(&mut self, core: &mut Core, download: DownloadId) -> bool {
        match self.0.remove(&download) {
            Some(mut entry) => {
                entry.transfer.end(core);
                true
            }
            None => false,
        }
    }

    pub(super) fn owner(&self, request: RequestId) -> Option<DownloadId> {
        let mut entries = self.0.iter();
        let found = entries.find(|(_, entry)| entry.transfer.owns(request));
        found.map(|(download, _)| *download)
    }

    /// Sends what is due.
    pub(super) fn advance(&mut self, core: &mut Core, job: JobId) {
        for (download, entry) in &mut self.0 {
            if entry.transfer.is_due(core) {
                let token = entry.header.clone().filter(|_| entry.transfer.is_at_home());
                let request =
                    core.send_download(job, &entry.transfer, token, *download, entry.size);
                entry.transfer.sent(request);
            }
        }
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub(super) fn deadline(&self, core: &Core) -> Option<Time> {
        let entries = self.0.values();
        entries
            .filter_map(|entry| entry.transfer.deadline(core))
            .min()
    }

    /// All of it is in the file.
    pub(super) fn on_spooled(
        &mut self,
        core: &mut Core,
        job: JobId,
        download: DownloadId,
        len: u64,
    ) {
        self.0.remove(&download);
        let outcome = DownloadOutcome::Done { len };
        core.job(job, JobOutput::Downloaded(download, outcome));
    }

    /// A reply that is no file, or a failure.
    pub(super) fn on_answer(
        &mut self,
        core: &mut Core,
        calls: &JobCalls,
        download: DownloadId,
        answer: Result<&Response<Bytes>, TransportError>,
    ) {
        let Some(entry) = self.0.get_mut(&download) else {
            return;
        };
        let trouble = match entry.transfer.on_answer(core, answer, calls.hidden()) {
            Verdict::Again => return,
            // A driver that does not write it to a file has lost it.
            Verdict::Done => Trouble::Unreadable("the body was not kept".to_owned()),
            Verdict::Failed(trouble) => trouble,
        };
        self.0.remove(&download);
        let outcome = DownloadOutcome::Failed(trouble);
        core.job(calls.job, JobOutput::Downloaded(download, outcome));
    }

    /// No more of them.
    pub(super) fn stop(&mut self, core: &mut Core, job: JobId) {
        for (download, mut entry) in std::mem::take(&mut self.0) {
            entry.transfer.end(core);
            let outcome = DownloadOutcome::Failed(Trouble::Stopped);
            core.job(job, JobOutput::Downloaded(download, outcome));
        }
    }
}
