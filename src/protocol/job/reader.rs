//! Reads one payload after another.

use std::{fmt, sync::Arc};

use serde::{
    Deserializer as _,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{de::Deserializer, value::RawValue};

use super::{
    Features, JobPayload, PayloadError,
    lenient::{Key, Lenient, Object},
};

/// Reads the payloads of one server.
///
/// The features of the server are the same text in each of them, and the longest list of words: they
/// are read once, and shared by the jobs.
#[derive(Debug, Default)]
pub(crate) struct PayloadReader {
    features: Option<(Box<str>, Arc<Features>)>,
}

impl PayloadReader {
    /// As [`JobPayload::parse`].
    pub(crate) fn read(&mut self, body: &[u8]) -> Result<JobPayload, PayloadError> {
        let read = std::str::from_utf8(body).ok().and_then(|text| {
            let mut text = Deserializer::from_str(text);
            let payload = text.deserialize_map(Body(self)).ok()?;
            text.end().ok()?;
            Some(payload)
        });
        match read {
            Some(payload) => payload.checked(body),
            // Whatever is odd about it is treated in one place.
            None => JobPayload::parse(body),
        }
    }

    fn features(&mut self, text: &str) -> serde_json::Result<Arc<Features>> {
        if let Some((known, features)) = &self.features
            && **known == *text
        {
            return Ok(Arc::clone(features));
        }
        let features = Arc::read(&mut Deserializer::from_str(text))?;
        let features: Arc<Features> = features.unwrap_or_else(Arc::absent);
        self.features = Some((text.into(), Arc::clone(&features)));
        Ok(features)
    }
}

struct Body<'a>(&'a mut PayloadReader);

impl<'de> Visitor<'de> for Body<'_> {
    type Value = JobPayload;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut payload = JobPayload::absent();
        while let Some(Key(key)) = map.next_key()? {
            if key == "features" {
                let text: &RawValue = map.next_value()?;
                payload.features = self.0.features(text.get()).map_err(A::Error::custom)?;
            } else {
                payload.set(&key, &mut map)?;
            }
        }
        Ok(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: &str = r#"{"trace_sections":true,"failure_reasons":["a","b"]}"#;

    fn body(features: &str) -> String {
        format!(r#"{{"id":1,"token":"t","features":{features},"steps":[{{"name":"script"}}]}}"#)
    }

    #[test]
    fn jobs_share_what_is_the_same() {
        let mut reader = PayloadReader::default();
        let mut read = |features| reader.read(body(features).as_bytes()).unwrap();
        let (one, other) = (read(FEATURES), read(FEATURES));
        assert_eq!(one, JobPayload::parse(body(FEATURES).as_bytes()).unwrap());
        assert!(Arc::ptr_eq(&one.features, &other.features));
        let other = read(r#"{"failure_reasons":["b"]}"#);
        assert_eq!(other.features.failure_reasons, ["b"]);
        assert!(!other.features.trace_sections);
        assert_eq!(read("null").features, Arc::absent());
        assert_eq!(read("[]").features, Arc::absent());
    }

    #[test]
    fn what_is_wrong_is_told_as_ever() {
        let mut reader = PayloadReader::default();
        for wrong in [
            body("{\"trace_sections\":\"what\"}"),
            body("\"text\""),
            body("{"),
            body("{}") + "x",
            body("{}").replace("\"id\":1", "\"id\":0"),
            body("{}").replace("\"t\"", "null"),
            "null".to_owned(),
            "[]".to_owned(),
        ] {
            let error = reader.read(wrong.as_bytes()).unwrap_err().to_string();
            let wanted = JobPayload::parse(wrong.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, wanted);
        }
    }
}
