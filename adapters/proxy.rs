//! Which proxy a request goes through, if any.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

use crate::adapter::{AdapterError, AdapterErrorKind, options::Options};

/// Where the user wants proxies from.
#[derive(Clone)]
pub(super) enum Choice {
    Environment,
    Direct,
    Given(String),
}

/// The proxies for all that may be sent.
pub(super) struct Proxies {
    matcher: Matcher,
    /// What needs no proxy on one port only, which the matcher knows nothing of.
    spared_ports: Vec<(u16, Matcher)>,
    http: Option<Uri>,
    https: Option<Uri>,
    /// As GitLab's own runner has it: what the environment says is not about this machine.
    spares_loopback: bool,
}

/// A proxy that a request goes through.
pub(super) struct Proxy {
    /// Without user info.
    pub(super) uri: Uri,
    /// The value of `Proxy-Authorization`.
    #[cfg(any(feature = "tokio", feature = "smol"))]
    pub(super) authorization: Option<http::HeaderValue>,
    /// As it was given.
    #[cfg(feature = "async-std")]
    pub(super) given: Uri,
}

impl Proxies {
    /// Reads the environment, if the options want it.
    pub(super) fn from_options(options: &Options) -> Result<Self, AdapterError> {
        Self::read(options, |name| std::env::var(name).ok())
    }

    fn read(
        options: &Options,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, AdapterError> {
        let of_environment = |name: &str| {
            let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
            set(name).or_else(|| set(&name.to_ascii_lowercase()))
        };
        let (http, https) = match &options.proxy {
            Choice::Direct => (None, None),
            Choice::Given(url) => {
                let uri = Some(parse(url, "the given proxy")?);
                (uri.clone(), uri)
            }
            Choice::Environment => {
                let read = |name| {
                    let value = of_environment(name);
                    value.map(|value| parse(&value, name)).transpose()
                };
                (read("HTTP_PROXY")?, read("HTTPS_PROXY")?)
            }
        };
        let no_proxy = options.no_proxy.clone();
        let no_proxy = no_proxy.or_else(|| of_environment("NO_PROXY"));
        let no_proxy = no_proxy.unwrap_or_default();
        let mut spared = Vec::new();
        let mut spared_ports = Vec::new();
        for part in no_proxy.split(',') {
            match spared_hosts(part) {
                (hosts, Some(port)) => {
                    let all = Matcher::builder().all("http://any.proxy");
                    spared_ports.push((port, all.no(hosts).build()));
                }
                (hosts, None) => spared.push(hosts),
            }
        }
        let text = |uri: &Option<Uri>| uri.as_ref().map_or_else(String::new, Uri::to_string);
        Ok(Self {
            matcher: Matcher::builder()
                .http(text(&http))
                .https(text(&https))
                .no(spared.join(","))
                .build(),
            spared_ports,
            http,
            https,
            spares_loopback: matches!(options.proxy, Choice::Environment),
        })
    }

    /// The one on the way to this URI.
    pub(super) fn on_the_way(&self, uri: &Uri) -> Option<Proxy> {
        let given = match uri.scheme_str() {
            Some("https") => self.https.as_ref(),
            _ => self.http.as_ref(),
        }?;
        let uri = &without_final_dot(uri);
        if self.spares_loopback && uri.host().is_some_and(is_loopback) {
            return None;
        }
        let found = self.matcher.intercept(uri)?;
        let default = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = uri.port_u16().unwrap_or(default);
        let mut spared = self.spared_ports.iter();
        if spared.any(|(of, hosts)| *of == port && hosts.intercept(uri).is_none()) {
            return None;
        }
        #[cfg(not(feature = "async-std"))]
        let _ = given;
        Some(Proxy {
            uri: found.uri().clone(),
            #[cfg(any(feature = "tokio", feature = "smol"))]
            authorization: found.basic_auth().cloned(),
            #[cfg(feature = "async-std")]
            given: given.clone(),
        })
    }
}

/// Says nothing of the text, which may hold a password.
fn parse(url: &str, origin: &str) -> Result<Uri, AdapterError> {
    let failed = |problem: &str| {
        AdapterError::new(
            AdapterErrorKind::Proxy,
            format!("{origin}: {problem}; it should look like `http://host:3128`"),
        )
    };
    let url = url.trim();
    let url = match url.contains("://") {
        true => url.to_owned(),
        false => format!("http://{url}"),
    };
    let uri: Uri = url.parse().map_err(|_| failed("this is no URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(failed("only proxies for HTTP are supported"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(failed("there is no host in it"));
    }
    Ok(uri)
}

/// A part of `NO_PROXY` as the matcher has it, and the port that it is about: what GitLab's own
/// runner takes besides are `*.host`, `host:port` and brackets around an IPv6 address.
fn spared_hosts(part: &str) -> (&str, Option<u16>) {
    let part = part.trim();
    let (host, port) = match part.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (part, None),
        },
        _ => (part, None),
    };
    let host = host.trim_matches(['[', ']']);
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = match host.strip_prefix('*') {
        Some(domain) if domain.starts_with('.') => domain,
        _ => host,
    };
    (host, port)
}

/// `host.` is `host`.
fn without_final_dot(uri: &Uri) -> Uri {
    let shortened = || {
        let host = uri.host()?.strip_suffix('.')?;
        let authority = match uri.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let shortened = Uri::builder()
            .scheme(uri.scheme_str()?)
            .authority(authority)
            .path_and_query("/");
        shortened.build().ok()
    };
    shortened().unwrap_or_else(|| uri.clone())
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::options::AdapterBuilder;

    fn proxies(
        builder: AdapterBuilder<()>,
        variables: &[(&str, &str)],
    ) -> Result<Proxies, AdapterError> {
        Proxies::read(&builder.options, |name| {
            let found = variables.iter().find(|(key, _)| *key == name)?;
            Some(found.1.to_owned())
        })
    }

    fn on_the_way(proxies: &Proxies, uri: &str) -> Option<String> {
        let proxy = proxies.on_the_way(&uri.parse().unwrap())?;
        Some(proxy.uri.to_string())
    }

    #[test]
    fn the_environment_names_one_for_each_scheme() {
        let variables = [
            ("HTTP_PROXY", "http://one:1"),
            ("https_proxy", "two:2"),
            ("HTTPS_PROXY", ""),
            ("NO_PROXY", "internal.test, 10.0.0.0/8"),
        ];
        let proxies = proxies(AdapterBuilder::new(), &variables).unwrap();
        let found = |uri| on_the_way(&proxies, uri);
        assert_eq!(found("http://a.test/x").as_deref(), Some("http://one:1/"));
        assert_eq!(found("https://a.test/x").as_deref(), Some("http://two:2/"));
        for direct in [
            "http://internal.test",
            "https://git.internal.test",
            "http://10.1.2.3",
            "http://localhost:80",
            "http://127.0.0.1:80",
            "https://[::1]:80",
            "http://[::ffff:127.0.0.1]:80",
        ] {
            assert_eq!(found(direct), None, "{direct}");
        }
    }

    #[test]
    fn a_choice_counts_for_more_than_the_environment() {
        let variables = [("HTTP_PROXY", "http://one:1"), ("NO_PROXY", "*")];
        let builder = AdapterBuilder::new()
            .proxy("http://mine:3")
            .no_proxy("b.test");
        let given = proxies(builder, &variables).unwrap();
        let mine = Some("http://mine:3/".to_owned());
        assert_eq!(on_the_way(&given, "http://a.test"), mine);
        assert_eq!(on_the_way(&given, "http://127.0.0.1"), mine);
        assert_eq!(on_the_way(&given, "http://b.test"), None);
        let direct = proxies(AdapterBuilder::new().without_proxy(), &variables).unwrap();
        assert_eq!(on_the_way(&direct, "http://a.test"), None);
    }

    #[test]
    fn hosts_that_need_no_proxy() {
        let hosts =
            "*.corp.test, gitlab.test:8080,10.0.0.5:80, [fd00::1]:443,fd00::2,[fd00::3], c.test.";
        let builder = AdapterBuilder::new().proxy("http://mine:3").no_proxy(hosts);
        let given = proxies(builder, &[]).unwrap();
        for direct in [
            "http://git.corp.test",
            "http://git.corp.test.:81/x",
            "https://gitlab.test:8080",
            "http://gitlab.test.:8080",
            "http://10.0.0.5",
            "https://[fd00::1]",
            "http://[fd00::2]:81",
            "http://[fd00::3]",
            "http://c.test",
        ] {
            assert_eq!(on_the_way(&given, direct), None, "{direct}");
        }
        for other in [
            "http://mycorp.test",
            "http://gitlab.test",
            "https://10.0.0.5",
            "http://10.0.0.6",
            "http://[fd00::1]",
        ] {
            assert!(on_the_way(&given, other).is_some(), "{other}");
        }
        let variables = [("HTTP_PROXY", "http://one:1")];
        let environment = proxies(AdapterBuilder::new(), &variables).unwrap();
        assert_eq!(on_the_way(&environment, "http://localhost."), None);
    }

    #[cfg(any(feature = "tokio", feature = "smol"))]
    #[test]
    fn a_password_is_sent_and_never_shown() {
        let secret = "http://user:pass%40word@mine:3";
        let given = proxies(AdapterBuilder::new().proxy(secret), &[]).unwrap();
        let proxy = given.on_the_way(&"http://a.test".parse().unwrap()).unwrap();
        let authorization = proxy.authorization.unwrap();
        assert!(authorization.is_sensitive());
        assert_eq!(authorization, "Basic dXNlcjpwYXNzQHdvcmQ=");
        assert_eq!(proxy.uri, "http://mine:3/");
        let debug = format!("{:?}", AdapterBuilder::<()>::new().proxy(secret));
        assert!(!debug.contains("pass"), "{debug}");
    }

    #[test]
    fn what_is_no_proxy() {
        for (url, problem) in [
            ("http://user:planted@ho st", "no URL"),
            ("socks5://user:planted@host:1", "only proxies for HTTP"),
            ("http://:1", "no host"),
        ] {
            let error = proxies(AdapterBuilder::new().proxy(url), &[]);
            let error = error.err().unwrap();
            assert_eq!(error.kind(), AdapterErrorKind::Proxy);
            let text = format!("{error} {error:?}");
            assert!(
                text.contains(problem) && !text.contains("planted"),
                "{text}"
            );
            let variables = [("HTTPS_PROXY", url)];
            let error = proxies(AdapterBuilder::new(), &variables).err().unwrap();
            assert!(error.to_string().starts_with("HTTPS_PROXY: "), "{error}");
        }
    }
}
