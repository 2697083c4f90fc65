//! How much of a runner token may be shown.

use crate::secret::Secret;

/// What a runner token is recognised by: 9 characters, behind what says of which kind it is. It may
/// be shown to everybody, and no more than that.
///
/// GitLab's own runner names it in the first lines of a log and as `CI_RUNNER_SHORT_TOKEN`.
pub fn short_token(token: &Secret) -> &str {
    let token = token.expose();
    let rest = match token.strip_prefix("glrt-") {
        Some(rest) => without_type(rest),
        None => ["glrtr-", "glcbt-"]
            .iter()
            .find_map(|prefix| token.strip_prefix(prefix))
            .or_else(|| without_legacy_prefix(token))
            .unwrap_or_else(|| without_type(token)),
    };
    let end = rest.char_indices().nth(9).map_or(rest.len(), |(at, _)| at);
    &rest[..end]
}

/// Runner, group or project: `t1_`, `t2_`, `t3_`.
fn without_type(token: &str) -> &str {
    ["t1_", "t2_", "t3_"]
        .iter()
        .find_map(|kind| token.strip_prefix(kind))
        .unwrap_or(token)
}

/// `GR` and the hex digits of the day on which such tokens were to change.
fn without_legacy_prefix(token: &str) -> Option<&str> {
    let (day, rest) = token.strip_prefix("GR")?.split_at_checked(7)?;
    let is_hex = day.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_characters_behind_the_kind() {
        for (token, short) in [
            ("glrt-0123456789abcdef", "012345678"),
            ("glrt-t1_0123456789abcdef", "012345678"),
            ("glrt-t3_0123456789abcdef", "012345678"),
            ("glrt-t4_0123456789abcdef", "t4_012345"),
            ("t2_0123456789abcdef", "012345678"),
            ("glrtr-0123456789abcdef", "012345678"),
            ("glcbt-0123456789abcdef", "012345678"),
            ("GR1348941abcdefghijkl", "abcdefghi"),
            ("GRnohexdigits", "GRnohexdi"),
            ("GR134", "GR134"),
            ("0123456789", "012345678"),
            ("short", "short"),
            ("", ""),
            ("é0123456789", "é01234567"),
            ("GRéééé", "GRéééé"),
        ] {
            assert_eq!(short_token(&token.into()), short, "{token}");
        }
    }
}
