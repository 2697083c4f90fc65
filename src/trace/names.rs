//! The names that make what follows an equals sign a secret.

/// Names of URL parameters, in any case, behind `?` or `&`.
const PARAMETERS: &[&[u8]] = &[
    b"private_token",
    b"authenticity_token",
    b"rss_token",
    b"x-amz-signature",
    b"x-amz-credential",
    b"x-amz-security-token",
];

/// The one token prefix of GitLab's that ends in an equals sign, without that.
const COOKIE: &[u8] = b"_gitlab_session";

/// The longest name, and the `?` or `&` before it.
pub(super) const LOOK_BACK: usize = 21;

/// What follows such a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secret {
    /// The value of a URL parameter.
    Parameter,
    /// What follows a token prefix.
    Token,
}

/// Whether `prefix` is found by its equals sign.
pub(super) fn is_cookie(prefix: &[u8]) -> bool {
    prefix.strip_suffix(b"=") == Some(COOKIE)
}

/// What an equals sign behind `text` makes of what follows. No more than the last
/// [`LOOK_BACK`] bytes count.
pub(super) fn secret_after(text: &[u8]) -> Option<Secret> {
    if !may_end_name(text) {
        return None;
    }
    let is_parameter = PARAMETERS.iter().any(|name| {
        text.len().checked_sub(name.len() + 1).is_some_and(|at| {
            matches!(text[at], b'?' | b'&') && text[at + 1..].eq_ignore_ascii_case(name)
        })
    });
    if is_parameter {
        return Some(Secret::Parameter);
    }
    text.ends_with(COOKIE).then_some(Secret::Token)
}

/// Most equals signs are told by one byte. Without one, all is possible.
pub(super) fn may_end_name(text: &[u8]) -> bool {
    text.last()
        .is_none_or(|last| matches!(last.to_ascii_lowercase(), b'n' | b'e' | b'l'))
}
