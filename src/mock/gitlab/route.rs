//! Which route of the API a request is for.

use http::{Method, Uri};

use super::{Endpoint, Settings};
use crate::JobId;

pub(super) enum Route {
    Register,
    Unregister,
    UnregisterManager,
    ResetToken,
    Discovery,
    Verify,
    Poll,
    /// With the id as it is in the path: it is validated later.
    Update(String),
    Trace(String),
    Authorize(String),
    Upload(String),
    Download(String),
    /// Below the API, but none of ours.
    Unknown,
    /// Not below the API.
    Outside,
}

impl Route {
    pub(super) fn of(settings: &Settings, method: &Method, uri: &Uri) -> Self {
        let below = uri
            .path()
            .strip_prefix(&settings.root())
            .and_then(|path| path.strip_prefix("/api/v4/"));
        let Some(path) = below else {
            return Self::Outside;
        };
        let parts: Vec<&str> = path.split('/').collect();
        match (method.as_str(), parts.as_slice()) {
            ("POST", ["runners"]) => Self::Register,
            ("DELETE", ["runners"]) => Self::Unregister,
            ("DELETE", ["runners", "managers"]) => Self::UnregisterManager,
            ("POST", ["runners", "reset_authentication_token"]) => Self::ResetToken,
            ("GET", ["runners", "router", "discovery"]) => Self::Discovery,
            ("POST", ["runners", "verify"]) => Self::Verify,
            ("POST", ["jobs", "request"]) => Self::Poll,
            ("PUT", ["jobs", id]) => Self::Update((*id).to_owned()),
            ("PATCH", ["jobs", id, "trace"]) => Self::Trace((*id).to_owned()),
            ("POST", ["jobs", id, "artifacts"]) => Self::Upload((*id).to_owned()),
            ("POST", ["jobs", id, "artifacts", "authorize"]) => Self::Authorize((*id).to_owned()),
            ("GET", ["jobs", id, "artifacts"]) => Self::Download((*id).to_owned()),
            _ => Self::Unknown,
        }
    }

    /// The job in the path.
    pub(super) fn job(&self) -> Option<JobId> {
        match self {
            Self::Update(id)
            | Self::Trace(id)
            | Self::Authorize(id)
            | Self::Upload(id)
            | Self::Download(id) => id.parse().ok().map(JobId),
            _ => None,
        }
    }

    /// Whether it is the endpoint; `state` is that of an update.
    pub(super) fn is(&self, endpoint: Endpoint, state: Option<&str>) -> bool {
        match endpoint {
            Endpoint::Any => true,
            Endpoint::Register => matches!(self, Self::Register),
            Endpoint::Unregister => matches!(self, Self::Unregister | Self::UnregisterManager),
            Endpoint::ResetToken => matches!(self, Self::ResetToken),
            Endpoint::Verify => matches!(self, Self::Verify),
            Endpoint::JobRequest => matches!(self, Self::Poll),
            Endpoint::Update => matches!(self, Self::Update(_)),
            Endpoint::KeepAlive => matches!(self, Self::Update(_)) && state == Some("running"),
            Endpoint::FinalUpdate => {
                matches!(self, Self::Update(_)) && matches!(state, Some("success" | "failed"))
            }
            Endpoint::Trace => matches!(self, Self::Trace(_)),
            Endpoint::ArtifactUpload => matches!(self, Self::Upload(_)),
            Endpoint::ArtifactDownload => matches!(self, Self::Download(_)),
        }
    }
}
