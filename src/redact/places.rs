//! Where secrets stand: the names of headers, of parameters of URLs and of fields of JSON.

/// Headers that hold nothing but a secret.
const SECRET_HEADERS: &[&str] = &["cookie", "set-cookie", "deploy-key"];

/// How the names of others end: `JOB-TOKEN`, `Proxy-Authorization`, `X-Api-Key`.
const SECRET_HEADER_ENDS: &[&str] = &["token", "authorization", "api-key", "secret", "password"];

/// Parameters of URLs that hold nothing but a secret.
const SECRET_PARAMETERS: &[&str] = &[
    "awsaccesskeyid",
    "googleaccessid",
    "ossaccesskeyid",
    "key-pair-id",
    "sig",
    "policy",
];

/// How the names of others end: `private_token`, `X-Amz-Signature`, `X-Goog-Credential`.
const SECRET_PARAMETER_ENDS: &[&str] = &["token", "signature", "credential", "secret", "password"];

/// Keys whose values are secrets wherever they stand.
const SECRET_KEYS: &[&str] = &[
    "jwt",
    "access_key",
    "authorization",
    "private_key",
    "secret",
    "secret_id",
];

/// How the names of others end: `job_token`, `registry_password`, `client_secret`.
const SECRET_KEY_ENDS: &[&str] = &["token", "password", "_secret", "secret_access_key"];

pub(super) fn is_secret_header(name: &str) -> bool {
    is_one_of(name, SECRET_HEADERS, SECRET_HEADER_ENDS)
}

pub(super) fn is_secret_key(key: &str) -> bool {
    is_one_of(key, SECRET_KEYS, SECRET_KEY_ENDS)
}

fn is_one_of(name: &str, names: &[&str], ends: &[&str]) -> bool {
    let ends_in = |end: &&str| {
        let at = name.len().checked_sub(end.len());
        let found = at.and_then(|at| name.get(at..));
        found.is_some_and(|found| found.eq_ignore_ascii_case(end))
    };
    names.iter().any(|it| it.eq_ignore_ascii_case(name)) || ends.iter().any(ends_in)
}

/// The values of secret parameters of all URLs in a text, as they stand.
pub(super) fn secret_parameters(text: &str) -> impl Iterator<Item = &str> {
    // A page for people has them in quotes, and with `&amp;` between them.
    let starts = text.match_indices(['?', '&', '#', ';']);
    let pairs = starts.filter_map(|(at, _)| {
        let rest = &text[at + 1..];
        let is_over = |c: char| "?&#;\"'<>\\".contains(c) || c.is_whitespace() || c.is_control();
        rest[..rest.find(is_over).unwrap_or(rest.len())].split_once('=')
    });
    pairs
        .filter(|(name, _)| is_one_of(name, SECRET_PARAMETERS, SECRET_PARAMETER_ENDS))
        .map(|(_, value)| value)
}

/// What parameters of URLs say that are URLs themselves, with parameters of their own.
pub(super) fn nested_urls(text: &str) -> impl Iterator<Item = &str> {
    let parameters = text.split(['?', '&', '#']).skip(1);
    let values = parameters.filter_map(|pair| Some(pair.split_once('=')?.1));
    values.filter(|value| {
        ["%3F", "%3f", "%26"]
            .iter()
            .any(|sign| value.contains(sign))
    })
}
