//! Reads one payload after another.

use std::{fmt, sync::Arc};

use memchr::{memchr2, memmem};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
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

/// What stands ahead of a value.
const VALUE: &str = "\"value\":\"";
/// What stands in a frame beside key and value.
const FLAGS: [&str; 4] = ["\"public\"", "\"masked\"", "\"file\"", "\"raw\""];

/// How the variables begin.
const VARIABLES: &str = "\"variables\":[";
const BRACKET: usize = 1;
/// What stands ahead of the features.
const FEATURES: &str = "\"features\":";
/// What stands in their place once they are read.
const READ: &str = "0";

/// Reads the payloads of one server.
///
/// The features of the server are the same text in each of them, and the longest list of words: they
/// are read once, and shared by the jobs. So are most variables.
#[derive(Default)]
pub(crate) struct PayloadReader {
    features: Option<(Box<str>, Arc<Features>)>,
    known: Known,
}

/// Variables of an earlier job in their order.
#[derive(Default)]
struct Known {
    variables: Vec<KnownVariable>,
    /// Whether they are of use.
    is_good: bool,
    /// Whether they are those of the latest job.
    is_new: bool,
}

/// What is remembered of a variable.
struct KnownVariable {
    /// Its JSON, if it may outlive its job: what is secret shall not.
    json: Option<Box<str>>,
    frame: Option<Frame>,
    /// Without its value, if that is secret.
    variable: Arc<JobVariable>,
}

/// The JSON around a value, where that is the only text but the key: one with the same frame differs
/// in nothing else.
struct Frame {
    head: Box<str>,
    tail: Box<str>,
}

impl PayloadReader {
    /// As [`JobPayload::parse`].
    pub(crate) fn read(&mut self, body: &[u8]) -> Result<JobPayload, PayloadError> {
        let text = std::str::from_utf8(body).ok();
        match text.and_then(|text| self.read_in_parts(text)) {
            Some(payload) => {
                self.known.forget_secrets(&payload);
                payload.checked(body)
            }
            // Whatever is odd about it is treated in one place.
            None => JobPayload::parse(body),
        }
    }

    /// What jobs have in common on its own: to compare it takes a tenth of what it takes to read it.
    fn read_in_parts(&mut self, text: &str) -> Option<JobPayload> {
        let (rest, mut cuts) = self.cut(text)?;
        let mut json = Json::from_str(&rest);
        let body = Body {
            text: &rest,
            cuts: &mut cuts,
            reader: self,
        };
        let payload = json.deserialize_map(body).ok()?;
        json.end().ok()?;
        // What is left was that of something within the job, which lacks it now.
        (cuts.variables.is_none() && cuts.features.is_none()).then_some(payload)
    }

    /// The text without the first list of variables, and without known features.
    fn cut(&mut self, text: &str) -> Option<(String, Cuts)> {
        let mut parts = [self.variables_in(text), self.features_in(text)];
        parts.sort_by_key(|part| part.as_ref().map(|part| part.place));
        let mut cuts = Cuts::default();
        let mut left = String::with_capacity(text.len());
        let mut done = 0;
        for Part {
            place,
            len,
            content,
        } in parts.into_iter().flatten()
        {
            left.push_str(text.get(done..place)?);
            match content {
                Content::Variables(variables) => cuts.variables = Some((left.len(), variables)),
                Content::Features(features) => cuts.features = Some((left.len(), features)),
            }
            left.push_str(READ);
            done = place + len;
        }
        left.push_str(text.get(done..)?);
        Some((left, cuts))
    }

    fn variables_in(&mut self, text: &str) -> Option<Part> {
        let behind = memmem::find(text.as_bytes(), VARIABLES.as_bytes())? + VARIABLES.len();
        let (variables, len) = self.known.read(text.get(behind..)?)?;
        Some(Part {
            place: behind - BRACKET,
            len: BRACKET + len,
            content: Content::Variables(variables),
        })
    }

    fn features_in(&self, text: &str) -> Option<Part> {
        let (known, features) = self.features.as_ref()?;
        let place = memmem::find(text.as_bytes(), FEATURES.as_bytes())? + FEATURES.len();
        let behind = text.get(place..)?.strip_prefix(&**known)?;
        let is_whole = behind.starts_with([',', '}']);
        is_whole.then(|| Part {
            place,
            len: known.len(),
            content: Content::Features(Arc::clone(features)),
        })
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

impl Known {
    /// The variables, of which `text` is what follows the bracket, and how long they are with the
    /// bracket behind them.
    fn read(&mut self, text: &str) -> Option<(Vec<Arc<JobVariable>>, usize)> {
        let learns = !self.is_good;
        if learns {
            self.variables.clear();
        }
        let mut list = Vec::with_capacity(self.variables.len());
        let (mut at, mut from, mut found, mut missed) = (0, 0, 0, 0);
        if text.starts_with(']') {
            return Some((list, 1));
        }
        loop {
            let rest = text.get(at..)?;
            let (variable, len) = match self.find(rest, &mut from) {
                Some(known) => known,
                None => {
                    let mut elements = Json::from_str(rest).into_iter();
                    let Element(variable) = elements.next()?.ok()?;
                    let json = rest.get(..elements.byte_offset())?;
                    if learns && self.variables.len() < KNOWN {
                        self.variables.extend(KnownVariable::new(json, &variable));
                    }
                    (Read::New(variable), json.len())
                }
            };
            at += len;
            list.push(match variable {
                Read::Shared(variable) => {
                    found += 1;
                    variable
                }
                Read::New(variable) => {
                    missed += usize::from(may_be_kept(len, &variable));
                    variable
                }
            });
            match text.as_bytes().get(at)? {
                b',' => at += 1,
                b']' => break,
                _ => return None,
            }
        }
        // Jobs of another project have most of them, too; if not, those of the next job are learnt.
        self.is_good = learns || found >= missed;
        self.is_new = learns;
        Some((list, at + 1))
    }

    /// What is public may repeat what is not.
    fn forget_secrets(&mut self, payload: &JobPayload) {
        if std::mem::take(&mut self.is_new) {
            let secrets: Vec<_> = payload.secrets().filter(|it| !it.is_empty()).collect();
            self.variables.retain(|known| {
                let value = &known.variable.value;
                !secrets.iter().any(|secret| value.contains(&**secret))
            });
        }
    }

    /// The variable that `text` begins with and its length, if one like it is known.
    fn find(&self, text: &str, from: &mut usize) -> Option<(Read, usize)> {
        let near = self.variables.iter().skip(*from).take(NEAR);
        let mut near = near.enumerate();
        let (at, found) = near.find_map(|(at, known)| Some((at, known.read(text)?)))?;
        *from += at + 1;
        Some(found)
    }
}

/// A variable of a job.
enum Read {
    /// Another job has the same one.
    Shared(Arc<JobVariable>),
    New(Arc<JobVariable>),
}

impl KnownVariable {
    /// Nothing of one of which nothing can be used.
    fn new(json: &str, variable: &Arc<JobVariable>) -> Option<Self> {
        let frame = Frame::new(json, variable);
        if may_be_kept(json.len(), variable) {
            return Some(Self {
                json: Some(json.into()),
                frame,
                variable: Arc::clone(variable),
            });
        }
        let frame = frame?;
        let variable = frame.around("", variable);
        Some(Self {
            json: None,
            frame: Some(frame),
            variable,
        })
    }

    fn read(&self, text: &str) -> Option<(Read, usize)> {
        if let Some(json) = &self.json
            && text.starts_with(&**json)
        {
            return Some((Read::Shared(Arc::clone(&self.variable)), json.len()));
        }
        let frame = self.frame.as_ref()?;
        let rest = text.strip_prefix(&*frame.head)?;
        let (value, rest) = rest.split_at(memchr2(b'"', b'\\', rest.as_bytes())?);
        // What must not stand in a text is for others to complain of.
        if !rest.starts_with(&*frame.tail) || value.bytes().any(|byte| byte < b' ') {
            return None;
        }
        let len = frame.head.len() + value.len() + frame.tail.len();
        Some((Read::New(frame.around(value, &self.variable)), len))
    }
}

impl Frame {
    /// None if there is anything odd about it.
    fn new(json: &str, variable: &JobVariable) -> Option<Self> {
        let (before, rest) = json.split_at(memmem::find(json.as_bytes(), VALUE.as_bytes())?);
        let rest = rest.strip_prefix(VALUE)?;
        let tail = rest.strip_prefix(&*variable.value)?;
        let before = before.strip_prefix('{')?;
        let behind = tail.strip_prefix('"')?.strip_suffix('}')?;
        let key = format!("\"key\":\"{}\"", variable.key);
        let is_plain = |member: &str| {
            let is_flag = |(name, on)| FLAGS.contains(&name) && ["true", "false"].contains(&on);
            // In front of a value, and behind one, there is a comma.
            member.is_empty() || *member == key || member.split_once(':').is_some_and(is_flag)
        };
        let mut members = before.split(',').chain(behind.split(','));
        let head = json.get(..json.len() - rest.len())?;
        let is_frame = head.len() + tail.len() <= KNOWN_LEN && members.all(is_plain);
        is_frame.then(|| Self {
            head: head.into(),
            tail: tail.into(),
        })
    }

    /// A variable with this value and all else of `like`, of which this is the frame.
    fn around(&self, value: &str, like: &JobVariable) -> Arc<JobVariable> {
        Arc::new(JobVariable {
            key: like.key.clone(),
            value: value.to_owned(),
            ..*like
        })
    }
}

/// Whether a variable whose JSON is so long may outlive its job.
fn may_be_kept(len: usize, variable: &JobVariable) -> bool {
    variable.public && variable.secrets().next().is_none() && len <= KNOWN_LEN
}

/// A variable among others.
struct Element(Arc<JobVariable>);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(variable: D) -> Result<Self, D::Error> {
        let variable = Arc::read(variable)?;
        let variable = variable.ok_or_else(|| D::Error::custom("no variable"));
        variable.map(Self)
    }
}

/// What was read on its own, and where it is.
struct Part {
    place: usize,
    len: usize,
    content: Content,
}

enum Content {
    Variables(Vec<Arc<JobVariable>>),
    Features(Arc<Features>),
}

/// What was read on its own, each with its place in what is left.
#[derive(Default)]
struct Cuts {
    variables: Option<(usize, Vec<Arc<JobVariable>>)>,
    features: Option<(usize, Arc<Features>)>,
}

struct Body<'a> {
    text: &'a str,
    cuts: &'a mut Cuts,
    reader: &'a mut PayloadReader,
}

impl<'de> Visitor<'de> for Body<'_> {
    type Value = JobPayload;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let start = self.text.as_ptr().addr();
        // What stands there must be that and no more, `0e5` say.
        let place = |text: &RawValue| {
            let place = text.get().as_ptr().addr().wrapping_sub(start);
            (text.get() == READ).then_some(place)
        };
        let mut payload = JobPayload::absent();
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                "features" => {
                    let text: &RawValue = map.next_value()?;
                    let place = place(text);
                    payload.features = match self.cuts.features.take_if(|cut| Some(cut.0) == place)
                    {
                        Some((_, features)) => features,
                        None => self.reader.features(text.get()).map_err(A::Error::custom)?,
                    };
                }
                "variables" => {
                    let text: &RawValue = map.next_value()?;
                    let place = place(text);
                    payload.variables =
                        match self.cuts.variables.take_if(|cut| Some(cut.0) == place) {
                            Some((_, variables)) => variables,
                            None => Vec::read(&mut Json::from_str(text.get()))
                                .map_err(A::Error::custom)?
                                .unwrap_or_default(),
                        };
                }
                key => payload.set(key, &mut map)?,
            }
        }
        Ok(payload)
    }
}

#[cfg(test)]
mod tests;
