//! Tokens and names of the recording in the place of those of whoever asks, and back.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderValue, Response, Uri};

use super::{
    HarBody,
    exchange::{Asked, field},
};

/// What the runner says of itself that is another thing in each replay.
const FIELDS: [&str; 2] = ["token", "system_id"];
const MAX_PAIRS: usize = 64;

/// Knows which text of the replay stands for which of the recording.
#[derive(Default)]
pub(super) struct Rewrite {
    /// From that of whoever asks to the recorded one.
    pairs: BTreeMap<String, String>,
}

impl Rewrite {
    /// Takes note of what two bodies of the same request say.
    pub(super) fn learn(&mut self, recorded: &[u8], actual: &[u8]) {
        for name in FIELDS {
            if let (Some(recorded), Some(actual)) = (field(recorded, name), field(actual, name))
                && recorded != actual
                && !recorded.is_empty()
                && !actual.is_empty()
                && self.pairs.len() < MAX_PAIRS
            {
                self.pairs.insert(actual, recorded);
            }
        }
    }

    pub(super) fn to_recorded(&self, mut asked: Asked) -> Asked {
        if self.pairs.is_empty() {
            return asked;
        }
        let uri = asked.uri.to_string();
        if let Ok(uri) = self.recorded(&uri).parse::<Uri>() {
            asked.uri = uri;
        }
        for (_, value) in &mut asked.headers {
            *value = self.recorded(value);
        }
        if let Some(HarBody::Whole(body)) = &mut asked.body
            && let Ok(text) = std::str::from_utf8(body)
        {
            *body = Bytes::from(self.recorded(text));
        }
        asked
    }

    fn recorded(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (actual, recorded) in &self.pairs {
            text = text.replace(actual.as_str(), recorded);
        }
        text
    }

    pub(super) fn to_actual(&self, mut response: Response<Bytes>) -> Response<Bytes> {
        if self.pairs.is_empty() {
            return response;
        }
        for value in response.headers_mut().values_mut() {
            if let Ok(text) = value.to_str()
                && let Ok(new) = HeaderValue::from_str(&self.actual(text))
            {
                *value = new;
            }
        }
        let text = std::str::from_utf8(response.body()).map(|text| self.actual(text));
        if let Ok(text) = text {
            *response.body_mut() = Bytes::from(text);
        }
        response
    }

    fn actual(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (actual, recorded) in &self.pairs {
            text = text.replace(recorded.as_str(), actual);
        }
        text
    }
}
