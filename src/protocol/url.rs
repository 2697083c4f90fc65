//! The address of a GitLab instance.

use std::{error::Error, fmt};

use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The base URL of a GitLab instance, checked and tidied.
///
/// Trailing slashes and one trailing `/ci` are removed, as GitLab's own runner does, and so is a
/// trailing `/api/v4`; query and fragment are dropped, scheme and host are in lower case. An
/// instance below a path keeps it: `https://h/gitlab/ci///` is `https://h/gitlab`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    base: String,
    path: String,
    /// `<base>/api/v4/`.
    api: Uri,
}

/// Why a text is not the URL of a GitLab instance. It never repeats the text, which may hold a
/// password.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerUrlError {
    /// No `http://` or `https://` in front.
    MissingScheme,
    /// A scheme that is neither `http` nor `https`.
    UnsupportedScheme,
    /// Nothing that names a host.
    MissingHost,
    /// A user name or a password in front of the host.
    UserInfo,
    /// A port that is not a number from 1 to 65535.
    InvalidPort,
    /// Characters that do not belong into a URL (spaces, say, or letters beyond ASCII), or too many.
    InvalidCharacters,
}

impl ServerUrl {
    /// Reads the URL of an instance, such as `https://gitlab.example.com`.
    ///
    /// # Errors
    ///
    /// See [`ServerUrlError`]; each message says what to write instead.
    pub fn parse(text: &str) -> Result<Self, ServerUrlError> {
        let text = text.trim();
        let (scheme, rest) = text
            .split_once("://")
            .filter(|(scheme, _)| is_scheme(scheme))
            .ok_or(ServerUrlError::MissingScheme)?;
        let (scheme, prefix) = if scheme.eq_ignore_ascii_case("https") {
            (Scheme::HTTPS, "https://")
        } else if scheme.eq_ignore_ascii_case("http") {
            (Scheme::HTTP, "http://")
        } else {
            return Err(ServerUrlError::UnsupportedScheme);
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(end) => rest.split_at(end),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(ServerUrlError::UserInfo);
        }
        let authority = check_authority(&authority.to_ascii_lowercase())?;
        let path = tidy_path(path);
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ServerUrlError::InvalidCharacters);
        }
        let base = format!("{prefix}{authority}{path}");
        let api = Uri::builder()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(format!("{path}/api/v4/"))
            .build()
            .map_err(|_| ServerUrlError::InvalidCharacters)?;
        Ok(Self {
            base,
            path: path.to_owned(),
            api,
        })
    }

    /// The address of an endpoint; `path_and_query` follows `/api/v4/`, as in `jobs/request`.
    ///
    /// It is written by this crate from numbers and fixed words. Text that cannot be part of a URI
    /// gives the root of the API, where GitLab answers 404.
    pub fn endpoint(&self, path_and_query: &str) -> Uri {
        let whole = [&self.path, "/api/v4/", path_and_query].concat();
        PathAndQuery::try_from(whole)
            .ok()
            .and_then(|path_and_query| {
                let mut parts = self.api.clone().into_parts();
                parts.path_and_query = Some(path_and_query);
                Uri::from_parts(parts).ok()
            })
            .unwrap_or_else(|| self.api.clone())
    }
}

/// The base URL, without a slash at its end.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.base)
    }
}

impl Serialize for ServerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.base)
    }
}

impl<'de> Deserialize<'de> for ServerUrl {
    fn deserialize<D: Deserializer<'de>>(text: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(text)?).map_err(de::Error::custom)
    }
}

impl fmt::Display for ServerUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingScheme => {
                "the server URL has no scheme: write `https://` (or `http://`) in front of the host"
            }
            Self::UnsupportedScheme => {
                "the scheme of the server URL is not supported: use `https://` or `http://`"
            }
            Self::MissingHost => {
                "the server URL names no host: write it as in `https://gitlab.example.com`"
            }
            Self::UserInfo => {
                "the server URL holds a user name or password: remove everything up to the `@`, \
                 the runner token is all that is needed"
            }
            Self::InvalidPort => {
                "the port of the server URL is not a number from 1 to 65535: correct or remove it"
            }
            Self::InvalidCharacters => {
                "the server URL is too long or holds characters that a URL must not have: write \
                 the host in its ASCII (punycode) form and percent-encode the path"
            }
        })
    }
}

impl Error for ServerUrlError {}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn check_authority(text: &str) -> Result<Authority, ServerUrlError> {
    if text.is_empty() || text.starts_with(':') {
        return Err(ServerUrlError::MissingHost);
    }
    let authority = Authority::try_from(text).map_err(|_| ServerUrlError::InvalidCharacters)?;
    let host = authority.host();
    if host.is_empty() {
        return Err(ServerUrlError::MissingHost);
    }
    // What follows the host is nothing or a port; an odd one must not be taken for none.
    match text.strip_prefix(host) {
        Some("") => Ok(authority),
        Some(port) => match port.strip_prefix(':').map(str::parse::<u16>) {
            Some(Ok(1..)) if !port.contains('+') => Ok(authority),
            _ => Err(ServerUrlError::InvalidPort),
        },
        None => Err(ServerUrlError::InvalidCharacters),
    }
}

fn tidy_path(path: &str) -> &str {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    ["/api/v4", "/ci"]
        .iter()
        .fold(path.trim_end_matches('/'), |path, end| {
            path.strip_suffix(end).unwrap_or(path).trim_end_matches('/')
        })
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    fn base(text: &str) -> Result<String, ServerUrlError> {
        ServerUrl::parse(text).map(|url| url.to_string())
    }

    #[test]
    fn urls_are_tidied() {
        for (text, wanted) in [
            ("https://gitlab.example.com", "https://gitlab.example.com"),
            ("https://gitlab.example.com/", "https://gitlab.example.com"),
            ("  http://h:8080// ", "http://h:8080"),
            ("https://h/gitlab/ci///", "https://h/gitlab"),
            ("https://h/ci", "https://h"),
            ("https://h//ci", "https://h"),
            ("https://h/ci/ci", "https://h/ci"),
            ("https://h/cici", "https://h/cici"),
            ("https://h/CI", "https://h/CI"),
            ("https://h/api/v4", "https://h"),
            ("https://h/gitlab/api/v4/", "https://h/gitlab"),
            ("https://h/ci/api/v4", "https://h"),
            ("https://h/xapi/v4", "https://h/xapi/v4"),
            ("https://h/api/v3", "https://h/api/v3"),
            (
                "HTTPS://GitLab.Example.COM/Path",
                "https://gitlab.example.com/Path",
            ),
            ("https://h/gitlab?private_token=x#top", "https://h/gitlab"),
            ("https://h?x=/y", "https://h"),
            ("https://h#/y", "https://h"),
            ("http://[::1]:3000/x", "http://[::1]:3000/x"),
            ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ] {
            assert_eq!(base(text).as_deref(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        use ServerUrlError::*;
        for (text, wanted) in [
            ("", MissingScheme),
            ("gitlab.example.com", MissingScheme),
            ("gitlab.example.com:443", MissingScheme),
            ("localhost:8080/a?b=://c", MissingScheme),
            ("user:hunter2@h://", MissingScheme),
            ("https:h", MissingScheme),
            ("://h", MissingScheme),
            ("ftp://h", UnsupportedScheme),
            ("unix://var/run", UnsupportedScheme),
            ("https://", MissingHost),
            ("https:///path", MissingHost),
            ("https://:443", MissingHost),
            ("https://?x", MissingHost),
            ("https://user:hunter2@h", UserInfo),
            ("https://hunter2@h/x", UserInfo),
            ("https://h:", InvalidPort),
            ("https://h:0", InvalidPort),
            ("https://h:65536", InvalidPort),
            ("https://h:+1", InvalidPort),
            ("https://h h", InvalidCharacters),
            ("https://bücher.example", InvalidCharacters),
            ("https://h/ä", InvalidCharacters),
            ("https://h/a b", InvalidCharacters),
            ("https://[::1", InvalidCharacters),
        ] {
            let error = base(text).unwrap_err();
            assert_eq!(error, wanted, "{text}");
            assert!(!error.to_string().contains("hunter2"));
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        assert!(MissingScheme.to_string().contains("https://"));
        assert!(UserInfo.to_string().contains("remove"));
    }

    #[test]
    fn endpoints_follow_the_base() {
        let url = ServerUrl::parse("https://h:8443/gitlab/").unwrap();
        assert_eq!(
            url.endpoint("jobs/7/trace?debug_trace=false").to_string(),
            "https://h:8443/gitlab/api/v4/jobs/7/trace?debug_trace=false"
        );
        let url = ServerUrl::parse("http://h").unwrap();
        let uri = url.endpoint("jobs/request");
        assert_eq!(uri.to_string(), "http://h/api/v4/jobs/request");
        assert_eq!(uri.query(), None);
        assert_eq!(url.endpoint("a b").to_string(), "http://h/api/v4/");
        let long = "x".repeat(100_000);
        assert_eq!(url.endpoint(&long).to_string(), "http://h/api/v4/");
        assert!(ServerUrl::parse(&format!("http://h/{long}")).is_err());
    }

    quickcheck! {
        fn any_text_is_an_answer(text: String, endpoint: String) -> bool {
            let _ = ServerUrl::parse(&text);
            let Ok(url) = ServerUrl::parse(&format!("https://h/{text}")) else { return true };
            let again = ServerUrl::parse(&url.to_string());
            again.is_ok() && url.endpoint(&endpoint).path().contains("/api/v4/")
        }
    }
}
