//! What no text for people may repeat, whatever a server says.

use std::borrow::Cow;

use http::Uri;

use crate::{
    protocol::{JobPayload, percent_decoded},
    secret::Secret,
};

const MASK: &str = "[MASKED]";
/// Shorter values stand in every other word.
const SHORTEST: usize = 4;
/// Of a URL, what is shorter switches something on or off.
const SHORTEST_PARAMETER: usize = 8;

/// The secrets that have to do with a request.
#[derive(Clone, Copy)]
pub(super) struct Hidden<'a> {
    token: &'a Secret,
    payload: Option<&'a JobPayload>,
    target: Option<&'a Uri>,
}

impl<'a> Hidden<'a> {
    /// The token that went along.
    pub(super) fn token(token: &'a Secret) -> Self {
        Self {
            token,
            payload: None,
            target: None,
        }
    }

    /// And all that is secret in this job.
    pub(super) fn and_job(self, payload: Option<&'a JobPayload>) -> Self {
        Self { payload, ..self }
    }

    /// And the parameters of the URL that was asked: whoever has them may ask the same.
    pub(super) fn and_target(self, target: &'a Uri) -> Self {
        Self {
            target: Some(target),
            ..self
        }
    }

    /// Whether there is nothing to look for.
    pub(super) fn is_empty(&self) -> bool {
        self.token.expose().is_empty()
    }

    /// `text` without them.
    pub(super) fn hide(&self, text: &str) -> String {
        let token = [Cow::Borrowed(self.token.expose())];
        let of_job = self.payload.into_iter().flat_map(secrets);
        let of_job = of_job.filter(|value| value.len() >= SHORTEST);
        let of_target = self.target.into_iter().flat_map(parameters);
        let of_target = of_target.filter(|value| value.len() >= SHORTEST_PARAMETER);
        let all = token.into_iter().chain(of_job).chain(of_target);
        let mut places: Vec<(usize, usize)> = all
            .filter(|value| !value.is_empty())
            .flat_map(|value| {
                let places = text
                    .match_indices(&*value)
                    .map(|(at, it)| (at, at + it.len()));
                places.collect::<Vec<_>>()
            })
            .collect();
        places.sort_unstable();
        let mut hidden = String::with_capacity(text.len());
        let mut done = 0;
        for (start, end) in places {
            // One may be a part of another, or begin in it.
            if start >= done {
                hidden.push_str(text.get(done..start).unwrap_or_default());
                hidden.push_str(MASK);
            }
            done = done.max(end);
        }
        hidden.push_str(text.get(done..).unwrap_or_default());
        hidden
    }
}

/// What is masked in the log, and the content of files.
fn secrets(payload: &JobPayload) -> impl Iterator<Item = Cow<'_, str>> {
    let files = payload.variables.iter().filter(|variable| variable.file);
    let files = files.map(|variable| Cow::Borrowed(variable.value.as_str()));
    payload.secrets().chain(files).map(|value| match value {
        Cow::Borrowed(value) => Cow::Borrowed(value.trim()),
        Cow::Owned(value) => Cow::Owned(value.trim().to_owned()),
    })
}

/// Each value of a query, as it stands and as what it says.
fn parameters(target: &Uri) -> impl Iterator<Item = Cow<'_, str>> {
    let pairs = target.query().unwrap_or_default().split('&');
    let values = pairs.map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
    values.flat_map(|value| {
        let decoded = percent_decoded(value).map(Cow::Owned);
        [Some(Cow::Borrowed(value)), decoded].into_iter().flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_repeated() {
        let payload = br#"{"id":1,"token":"jobtoken","steps":[],"variables":[
            {"key":"A","value":"masked \"one\"","masked":true},
            {"key":"B","value":"masked \"one\" and more","masked":true},
            {"key":"C","value":"no","masked":true},
            {"key":"D","value":"first line\nsecond\n","file":true},
            {"key":"E","value":"shown to all","public":true}]}"#;
        let payload = JobPayload::parse(payload).unwrap();
        let token = Secret::from("runnertoken");
        let target: Uri = "https://h/a?X-Sig=ab%2Bcd%3def&next=short&flagflag"
            .parse()
            .unwrap();
        let hidden = Hidden::token(&token)
            .and_job(Some(&payload))
            .and_target(&target);
        for (text, wanted) in [
            ("jobtoken, runnertoken", "[MASKED], [MASKED]"),
            ("a masked \"one\" and more!", "a [MASKED]!"),
            ("a masked \"one\" and!", "a [MASKED] and!"),
            ("first line\nsecond", "[MASKED]"),
            (
                "ab+cd=ef ab%2Bcd%3def flagflag",
                "[MASKED] [MASKED] [MASKED]",
            ),
            ("no short text shown to all", "no short text shown to all"),
            ("a jobtokenmasked \"one\" and", "a [MASKED][MASKED] and"),
        ] {
            assert_eq!(hidden.hide(text), wanted);
        }
        let overlapping =
            br#"{"id":1,"token":"abcdefgh","dependencies":[{"id":2,"token":"ghijkl"}]}"#;
        let overlapping = JobPayload::parse(overlapping).unwrap();
        let hidden = Hidden::token(&token).and_job(Some(&overlapping));
        assert_eq!(hidden.hide("abcdefghijkl m"), "[MASKED] m");
        assert_eq!(Hidden::token(&token).hide("jobtoken"), "jobtoken");
        assert!(Hidden::token(&Secret::from("")).is_empty());
        assert_eq!(Hidden::token(&Secret::from("")).hide("a"), "a");
    }
}
