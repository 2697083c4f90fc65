//! Where a redirect leads, and whether it leads to another server.

use http::{HeaderMap, Uri, header::LOCATION, uri::PathAndQuery};

/// The target of a redirect from `base`: an absolute `http` or `https` URI, or nothing.
///
/// `Location` may be absolute, begin with `//host`, or be a path; its fragment is dropped. A path
/// that does not begin with `/` is taken from the last `/` of the base on, as browsers do, but `..`
/// is left for the server to understand. A user name in it is no address that a server gives:
/// nothing then.
pub fn redirect_target(base: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let location = headers.get(LOCATION)?.to_str().ok()?.trim();
    let location = location.split('#').next().unwrap_or_default();
    if location.is_empty() {
        return None;
    }
    let scheme = base.scheme_str()?;
    let target = if location.starts_with("//") {
        format!("{scheme}:{location}").parse::<Uri>().ok()?
    } else if is_absolute(location) {
        location.parse().ok()?
    } else {
        let path = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{}{location}", base.path())
        } else {
            let folder = base
                .path()
                .rsplit_once('/')
                .map_or("", |(folder, _)| folder);
            format!("{folder}/{location}")
        };
        let mut parts = base.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
        Uri::from_parts(parts).ok()?
    };
    let good_scheme = matches!(target.scheme_str(), Some("http" | "https"));
    let good_host = target.host().is_some_and(|host| !host.is_empty())
        && target
            .authority()
            .is_some_and(|authority| !authority.as_str().contains('@'));
    (good_scheme && good_host).then_some(target)
}

/// Whether both lead to the same server: same scheme, host and port. Only then may a token that is
/// good for one go to the other.
pub fn same_origin(one: &Uri, other: &Uri) -> bool {
    let port = |uri: &Uri| {
        uri.port_u16().or(match uri.scheme_str() {
            Some("https") => Some(443),
            Some("http") => Some(80),
            _ => None,
        })
    };
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    one.scheme() == other.scheme() && host(one) == host(other) && port(one) == port(other)
}

/// Whether what was sent encrypted to one would go, or come, in clear to or from the other.
pub fn loses_encryption(one: &Uri, other: &Uri) -> bool {
    one.scheme_str() == Some("https") && other.scheme_str() != Some("https")
}

fn is_absolute(location: &str) -> bool {
    location.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use quickcheck::quickcheck;

    use super::*;

    fn target(location: &str) -> Option<String> {
        let base: Uri = "https://h:8443/sub/api/v4/jobs/7/artifacts?x=1"
            .parse()
            .unwrap();
        let value = HeaderValue::from_bytes(location.as_bytes()).unwrap();
        let headers = HeaderMap::from_iter([(LOCATION, value)]);
        redirect_target(&base, &headers).map(|uri| uri.to_string())
    }

    #[test]
    fn targets_are_resolved() {
        for (location, wanted) in [
            (
                "https://s3.example/b/k?sig=a%2Fb",
                "https://s3.example/b/k?sig=a%2Fb",
            ),
            ("HTTP://s3.example/x#part", "http://s3.example/x"),
            ("//other/x", "https://other/x"),
            ("/a?b", "https://h:8443/a?b"),
            ("b/c", "https://h:8443/sub/api/v4/jobs/7/b/c"),
            ("?y=2", "https://h:8443/sub/api/v4/jobs/7/artifacts?y=2"),
            ("/a?u=https://x", "https://h:8443/a?u=https://x"),
        ] {
            assert_eq!(target(location).as_deref(), Some(wanted), "{location}");
        }
        for location in [
            "",
            "#x",
            "ftp://x/y",
            "file:///etc/passwd",
            "https://",
            "https://user:pass@h/x",
            "https:///x",
            "ü",
            "/a b",
        ] {
            assert_eq!(target(location), None, "{location}");
        }
    }

    #[test]
    fn origins_are_compared_with_their_ports() {
        for (one, other, same) in [
            ("https://h/a", "https://h:443/b", true),
            ("http://h", "http://H:80", true),
            ("https://h", "http://h", false),
            ("https://h", "https://h:8443", false),
            ("https://h", "https://g", false),
            ("http://h:443", "https://h", false),
        ] {
            let (one, other): (Uri, Uri) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(same_origin(&one, &other), same, "{one} {other}");
            assert_eq!(same_origin(&other, &one), same, "{one} {other}");
        }
    }

    quickcheck! {
        fn any_location_is_an_answer(location: Vec<u8>) -> bool {
            let base: Uri = "http://h/a".parse().unwrap();
            let Ok(value) = HeaderValue::from_bytes(&location) else { return true };
            let headers = HeaderMap::from_iter([(LOCATION, value)]);
            redirect_target(&base, &headers).is_none_or(|uri| uri.host().is_some())
        }
    }
}
