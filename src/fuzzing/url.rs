//! Addresses: that of the instance, and where a redirect leads.

use http::{HeaderMap, HeaderValue, header::LOCATION};

use crate::protocol::{ServerUrl, redirect_target, same_origin};

/// The first line of `data` is the URL of an instance, the second one a `Location`.
pub fn run(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let text = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let server = match ServerUrl::parse(&text) {
        Ok(server) => {
            let shown = server.to_string();
            let again = ServerUrl::parse(&shown).unwrap();
            assert_eq!(again.to_string(), shown, "{text:?}");
            server
        }
        Err(_) => ServerUrl::parse("https://h:8443/sub").unwrap(),
    };
    let base = server.endpoint("jobs/7/artifacts");
    let shown = server.to_string();
    assert_eq!(base.to_string(), format!("{shown}/api/v4/jobs/7/artifacts"));
    assert!(
        base.authority()
            .is_some_and(|it| !it.as_str().contains('@'))
    );
    assert!(same_origin(&base, &server.endpoint("runners/verify")));

    let location = lines.next().unwrap_or_default();
    let Ok(location) = HeaderValue::from_bytes(location) else {
        return;
    };
    let headers = HeaderMap::from_iter([(LOCATION, location.clone())]);
    let Some(target) = redirect_target(&base, &headers) else {
        return;
    };
    assert!(matches!(target.scheme_str(), Some("http" | "https")));
    assert!(target.host().is_some_and(|host| !host.is_empty()));
    assert!(
        target
            .authority()
            .is_some_and(|it| !it.as_str().contains('@'))
    );
    let same = same_origin(&base, &target);
    assert_eq!(same, same_origin(&target, &base));
    let named = location.to_str().unwrap().trim_start();
    if named.starts_with('/') && !named.starts_with("//") {
        assert!(same, "{location:?} leads from {base} to {target}");
    }
}
