//! Reads one payload after another.

use std::{fmt, sync::Arc};

use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{de::Deserializer as Json, value::RawValue};

use super::{
    Features, JobPayload, JobVariable, PayloadError,
    lenient::{Key, Lenient, Object},
};

/// So many variables are known, each with no more than so many bytes of JSON. A server adds about
/// a hundred to each job, which are short.
const KNOWN: usize = 256;
const KNOWN_LEN: usize = 1 << 10;
/// A known variable is looked for behind the last one that was found, and no further than this.
const NEAR: usize = 16;

/// Reads the payloads of one server.
///
/// The features of the server are the same text in each of them, and the longest list of words: they
/// are read once, and shared by the jobs. So are most variables.
#[derive(Default)]
pub(crate) struct PayloadReader {
    features: Option<(Box<str>, Arc<Features>)>,
    known: Known,
}

/// Variables of an earlier job in their order, each with its JSON. Only public ones: what is secret
/// shall not outlive its job.
#[derive(Default)]
struct Known {
    variables: Vec<(Box<str>, Arc<JobVariable>)>,
    /// Whether they are of use.
    is_good: bool,
}

impl PayloadReader {
    /// As [`JobPayload::parse`].
    pub(crate) fn read(&mut self, body: &[u8]) -> Result<JobPayload, PayloadError> {
        let read = std::str::from_utf8(body).ok().and_then(|text| {
            let mut text = Json::from_str(text);
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
        let features = Arc::read(&mut Json::from_str(text))?;
        let features: Arc<Features> = features.unwrap_or_else(Arc::absent);
        self.features = Some((text.into(), Arc::clone(&features)));
        Ok(features)
    }
}

/// Shows no variables.
impl fmt::Debug for PayloadReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadReader")
            .field("known", &self.known.variables.len())
            .finish_non_exhaustive()
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
            match &*key {
                "features" => {
                    let text: &RawValue = map.next_value()?;
                    payload.features = self.0.features(text.get()).map_err(A::Error::custom)?;
                }
                "variables" => payload.variables = map.next_value_seed(&mut self.0.known)?,
                key => payload.set(key, &mut map)?,
            }
        }
        Ok(payload)
    }
}

impl Known {
    /// The variable with this JSON, and where to look for the next one.
    fn find(&self, text: &str, from: usize) -> Option<(Arc<JobVariable>, usize)> {
        let rest = self.variables.get(from..)?;
        let near = rest.iter().take(NEAR);
        let found = near.enumerate().find(|(_, (known, _))| **known == *text);
        found.map(|(at, (_, variable))| (Arc::clone(variable), from + at + 1))
    }
}

/// Whether a variable may outlive its job.
fn may_be_kept(text: &str, variable: &JobVariable) -> bool {
    variable.public && !variable.masked && text.len() <= KNOWN_LEN
}

impl<'de> DeserializeSeed<'de> for &mut Known {
    type Value = Vec<Arc<JobVariable>>;

    fn deserialize<D: Deserializer<'de>>(self, variables: D) -> Result<Self::Value, D::Error> {
        variables.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Known {
    type Value = Vec<Arc<JobVariable>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let learns = !self.is_good;
        if learns {
            self.variables.clear();
        }
        let mut list = Vec::with_capacity(self.variables.len());
        let (mut from, mut found, mut missed) = (0, 0, 0);
        while let Some(text) = seq.next_element::<&RawValue>()? {
            let text = text.get();
            if !learns && let Some((variable, next)) = self.find(text, from) {
                list.push(variable);
                (from, found) = (next, found + 1);
                continue;
            }
            let variable = Arc::read(&mut Json::from_str(text)).map_err(A::Error::custom)?;
            if let Some(variable) = variable {
                if may_be_kept(text, &variable) {
                    missed += 1;
                    if learns && missed <= KNOWN {
                        self.variables.push((text.into(), Arc::clone(&variable)));
                    }
                }
                list.push(variable);
            }
        }
        // Jobs of another project have most of them, too; if not, those of the next job are learnt.
        self.is_good = learns || found >= missed;
        Ok(list)
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
        assert!(read("{},\"variables\":null").variables.is_empty());
    }

    /// A variable with this value, which may be shown to everybody.
    fn public(key: &str, value: &str) -> String {
        format!(r#"{{"key":"{key}","value":"{value}","public":true,"masked":false}}"#)
    }

    #[test]
    fn variables_that_jobs_have_in_common_are_read_once() {
        let mut reader = PayloadReader::default();
        let mut read = |variables: &[String]| {
            let variables = variables.join(",");
            let body = body("{}").replace("}]}", &format!("}}],\"variables\":[{variables}]}}"));
            let read = reader.read(body.as_bytes()).unwrap();
            assert_eq!(read, JobPayload::parse(body.as_bytes()).unwrap());
            read.variables
        };
        let secret = r#"{"key":"S","value":"s","public":false}"#.to_owned();
        let masked = r#"{"key":"M","value":"m","public":true,"masked":true}"#.to_owned();
        let first = read(&[
            public("A", "a"),
            public("ID", "1"),
            secret.clone(),
            masked.clone(),
            public("Z", "z"),
        ]);
        let second = read(&[
            "null".to_owned(),
            public("NEW", "n"),
            public("A", "a"),
            public("ID", "2"),
            secret,
            masked,
            public("Z", "z"),
        ]);
        assert_eq!(second.len(), 6);
        let shared = |key: &str| {
            let of = |list: &[Arc<JobVariable>]| list.iter().find(|it| it.key == key).cloned();
            Arc::ptr_eq(&of(&first).unwrap(), &of(&second).unwrap())
        };
        assert!(shared("A") && shared("Z"));
        assert!(!shared("ID") && !shared("S") && !shared("M"));

        // Those of another server, say, take their place when they have come twice.
        let other = [public("B", "b"), public("C", "c")];
        read(&other);
        let (one, two) = (read(&other), read(&other));
        assert!(Arc::ptr_eq(&one[0], &two[0]) && Arc::ptr_eq(&one[1], &two[1]));
    }

    #[test]
    fn what_is_known_does_not_grow_and_is_not_shown() {
        let mut reader = PayloadReader::default();
        let long = public("LONG", &"x".repeat(KNOWN_LEN));
        let many: Vec<_> = (0..2 * KNOWN)
            .map(|n| public(&n.to_string(), "v"))
            .collect();
        let variables = [vec![long], many].concat().join(",");
        let body = body("{}").replace("}]}", &format!("}}],\"variables\":[{variables}]}}"));
        assert_eq!(
            reader.read(body.as_bytes()).unwrap().variables.len(),
            2 * KNOWN + 1
        );
        assert_eq!(reader.known.variables.len(), KNOWN);
        assert!(!format!("{reader:?}").contains("\"v\""));
    }

    #[test]
    fn what_is_wrong_is_told_as_ever() {
        let mut reader = PayloadReader::default();
        for wrong in [
            body("{\"trace_sections\":\"what\"}"),
            body("\"text\""),
            body("{"),
            body("{}") + "x",
            body("{},\"variables\":[{\"key\":7}]"),
            body("{},\"variables\":[\"text\"]"),
            body("{},\"variables\":\"\""),
            body("{},\"variables\":{\"key\":7}"),
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
