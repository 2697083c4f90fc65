//! Parameters as the API framework sees them: query string, then body, merged, then checked.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use serde_json::{Map, Value};

use super::reply::{self, Refused};
use crate::mock::multipart::Form;

/// Depth at which the nesting of a form field (`a[b][c]`) is no longer followed.
const MAX_NESTING: usize = 8;

/// The merged view of query string and body.
#[derive(Default)]
pub(super) struct Params {
    merged: Map<String, Value>,
    form: Option<Form>,
}

impl Params {
    /// The parameters of `request`; 400 when the body is not what it claims to be, 415 when it
    /// claims to be something the API does not read.
    pub(super) fn of(request: &Request<Bytes>) -> Result<Self, Refused> {
        let mut params = Self::of_query(request.uri());
        if request.body().is_empty() {
            return Ok(params);
        }
        let merged = &mut params.merged;
        match media_type(request).as_deref() {
            // Without a type the framework falls back to the API's default format.
            Some("application/json") | None => {
                match serde_json::from_slice::<Value>(request.body()) {
                    Ok(Value::Object(body)) => merged.extend(body),
                    Ok(_) => {}
                    Err(_) => {
                        let text = "message body does not match declared format";
                        return Err(reply::error(StatusCode::BAD_REQUEST, text).into());
                    }
                }
            }
            Some("application/x-www-form-urlencoded") => read_form(request.body(), merged),
            Some("multipart/form-data") => params.read_multipart(request),
            Some("text/plain" | "application/octet-stream") => {}
            Some(_) => {
                let text = "The provided content-type is not supported.";
                return Err(reply::error(StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into());
            }
        }
        Ok(params)
    }

    /// Those of the query alone.
    pub(super) fn of_query(uri: &Uri) -> Self {
        let mut params = Self::default();
        if let Some(query) = uri.query() {
            read_form(query.as_bytes(), &mut params.merged);
        }
        params
    }

    pub(super) fn string(&self, name: &str) -> Option<&str> {
        self.merged.get(name).and_then(Value::as_str)
    }

    /// The body, if it claims to be `multipart/form-data`.
    pub(super) fn form(&self) -> Option<&Form> {
        self.form.as_ref()
    }

    /// The fields become parameters, the files do not.
    fn read_multipart(&mut self, request: &Request<Bytes>) {
        let content_type = header_text(request.headers(), header::CONTENT_TYPE.as_str());
        let form = Form::read(&content_type.unwrap_or_default(), request.body());
        for part in form.parts.iter().filter(|part| part.filename.is_none()) {
            let value = String::from_utf8_lossy(&part.content).into_owned();
            self.merged.insert(part.name.clone(), Value::String(value));
        }
        self.form = Some(form);
    }

    pub(super) fn check(&self) -> Check<'_> {
        Check {
            params: &self.merged,
            prefix: "",
            errors: Vec::new(),
        }
    }
}

/// The token that a request carries: the parameter wins over the header.
pub(super) fn token_or_header(parameter: Option<String>, headers: &HeaderMap) -> String {
    parameter
        .or_else(|| header_text(headers, "JOB-TOKEN"))
        .unwrap_or_default()
}

pub(super) fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// The media type of the body, without its parameters and in lower case.
pub(super) fn media_type(request: &Request<Bytes>) -> Option<String> {
    let value = header_text(request.headers(), header::CONTENT_TYPE.as_str())?;
    let media_type = value.split(';').next().unwrap_or_default().trim();
    (!media_type.is_empty()).then(|| media_type.to_ascii_lowercase())
}

/// Validation: every declared parameter is looked at, and all problems are told at once.
pub(super) struct Check<'a> {
    params: &'a Map<String, Value>,
    prefix: &'static str,
    errors: Vec<String>,
}

impl<'a> Check<'a> {
    /// The number in the path.
    pub(super) fn id(&mut self, text: &str) -> u64 {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            self.errors.push("id is invalid".into());
        }
        // A negative or huge number is an integer like any other: no job has it.
        text.parse().unwrap_or(u64::MAX)
    }

    pub(super) fn required_string(&mut self, name: &str) -> String {
        if !self.params.contains_key(name) {
            self.missing(name);
        }
        self.string(name).unwrap_or_default()
    }

    pub(super) fn string(&mut self, name: &str) -> Option<String> {
        match self.params.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
            Value::Array(_) | Value::Object(_) => self.invalid(name),
        }
    }

    pub(super) fn integer(&mut self, name: &str) -> Option<i64> {
        match self.params.get(name)? {
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            Value::String(text) => match text.trim().parse() {
                Ok(number) => Some(number),
                Err(_) => self.invalid(name),
            },
            Value::Number(number) => match number.as_i64() {
                Some(number) => Some(number),
                None => self.invalid(name),
            },
            _ => self.invalid(name),
        }
    }

    pub(super) fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.params.get(name)? {
            Value::Null => None,
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "" => None,
                "1" | "t" | "true" | "on" => Some(true),
                "0" | "f" | "false" | "off" => Some(false),
                _ => self.invalid(name),
            },
            Value::Number(number) if number.as_i64() == Some(1) => Some(true),
            Value::Number(number) if number.as_i64() == Some(0) => Some(false),
            _ => self.invalid(name),
        }
    }

    /// One of these values.
    pub(super) fn one_of(&mut self, name: &str, values: &[&str]) {
        let value = self.string(name);
        if value.is_some_and(|value| !values.contains(&value.as_str())) {
            self.errors
                .push(format!("{name} does not have a valid value"));
        }
    }

    /// A list of words, or a string of them with commas between.
    pub(super) fn words(&mut self, name: &str) -> Vec<String> {
        let words: Vec<String> = match self.params.get(name) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => text.split(',').map(str::to_owned).collect(),
            Some(Value::Array(items)) if items.iter().all(Value::is_string) => items
                .iter()
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect(),
            Some(_) => self.invalid(name).unwrap_or_default(),
        };
        let words = words.iter().map(|word| word.trim());
        words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// A parameter that has an old name as well, which must not come together with the new one.
    pub(super) fn either<T>(
        &mut self,
        name: &str,
        old: &str,
        read: impl Fn(&mut Self, &str) -> Option<T>,
    ) -> Option<T> {
        if self.params.contains_key(name) && self.params.contains_key(old) {
            self.errors
                .push(format!("{name}, {old} are mutually exclusive"));
        }
        let value = read(self, name);
        let fallback = read(self, old);
        value.or(fallback)
    }

    pub(super) fn hash(&mut self, name: &str) -> Option<&'a Map<String, Value>> {
        match self.params.get(name)? {
            Value::Object(map) => Some(map),
            Value::Null => None,
            Value::String(text) if text.is_empty() => None,
            _ => self.invalid(name),
        }
    }

    /// Checks what is inside the hash `name` as well.
    pub(super) fn inside(&mut self, name: &'static str, look: impl FnOnce(&mut Self)) {
        if let Some(params) = self.hash(name) {
            let mut inner = Self {
                params,
                prefix: name,
                errors: Vec::new(),
            };
            look(&mut inner);
            self.errors.append(&mut inner.errors);
        }
    }

    pub(super) fn missing(&mut self, name: &str) {
        self.errors.push(format!("{name} is missing"));
    }

    pub(super) fn finish(self) -> Result<(), Refused> {
        if self.errors.is_empty() {
            return Ok(());
        }
        Err(reply::error(StatusCode::BAD_REQUEST, &self.errors.join(", ")).into())
    }

    fn invalid<T>(&mut self, name: &str) -> Option<T> {
        self.errors.push(if self.prefix.is_empty() {
            format!("{name} is invalid")
        } else {
            format!("{}[{name}] is invalid", self.prefix)
        });
        None
    }
}

fn read_form(text: &[u8], params: &mut Map<String, Value>) {
    for pair in text
        .split(|&byte| byte == b'&')
        .filter(|pair| !pair.is_empty())
    {
        let mut parts = pair.splitn(2, |&byte| byte == b'=');
        let name = decode(parts.next().unwrap_or_default());
        let value = decode(parts.next().unwrap_or_default());
        let mut path = name
            .split('[')
            .map(|part| part.strip_suffix(']').unwrap_or(part));
        let first = path.next().unwrap_or_default().to_owned();
        let rest: Vec<&str> = path.take(MAX_NESTING).collect();
        insert(params, first, &rest, value);
    }
}

fn insert(params: &mut Map<String, Value>, name: String, rest: &[&str], value: String) {
    let Some((next, rest)) = rest.split_first() else {
        params.insert(name, Value::String(value));
        return;
    };
    let slot = params.entry(name).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    if let Value::Object(inner) = slot {
        insert(inner, (*next).to_owned(), rest, value);
    }
}

fn decode(text: &[u8]) -> String {
    let digit = |at: usize| {
        let byte = text.get(at).copied()?;
        char::from(byte).to_digit(16)
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
