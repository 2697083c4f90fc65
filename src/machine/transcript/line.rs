//! The lines of a transcript.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use super::{Entry, MAX_LINE, TranscriptError, render};
use crate::{
    machine::{Input, MachineConfig, Output},
    protocol::ServerUrl,
    redact::Redactor,
    secret::Secret,
    time::Time,
    transport::{TransportError, TransportErrorKind},
};

/// Of the format. What only adds lines or fields does not change it.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Transcript(Header),
    Input(InputLine),
    Output(String),
}

#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    version: u32,
    seed: u64,
    config: Value,
}

#[derive(Serialize, Deserialize)]
pub(super) struct InputLine {
    at: Time,
    told: Value,
}

impl Line {
    pub(super) fn header(config: &MachineConfig, seed: u64) -> Self {
        Self::Transcript(Header {
            version: VERSION,
            seed,
            config: serde_json::to_value(config).unwrap_or_default(),
        })
    }

    pub(super) fn input(at: Time, input: &Input, redactor: &mut Redactor) -> Self {
        let told = match input {
            Input::Reply { request, response } => to_value(&Input::Reply {
                request: *request,
                response: redacted(response, redactor),
            }),
            other => to_value(other),
        };
        Self::Input(InputLine { at, told })
    }

    pub(super) fn output(output: &Output, redactor: &mut Redactor) -> Self {
        let text = render::output(output);
        Self::Output(redactor.text(&text).into_owned())
    }

    pub(super) fn of(entry: &Entry) -> Self {
        match entry {
            Entry::Input { at, input } => Self::Input(InputLine {
                at: *at,
                told: to_value(input),
            }),
            Entry::Output(output) => Self::Output(output.clone()),
        }
    }

    /// The same line without the secrets that stand in texts within its texts.
    pub(super) fn redacted(self, redactor: &mut Redactor) -> Self {
        match self {
            Self::Input(InputLine { at, told }) => match Input::deserialize(&told) {
                Ok(input) => Self::input(at, &input, redactor),
                Err(_) => Self::Input(InputLine { at, told }),
            },
            Self::Output(output) => Self::Output(redactor.text(&output).into_owned()),
            header @ Self::Transcript(_) => header,
        }
    }
}

/// An input holds nothing that JSON has no form for.
fn to_value(input: &Input) -> Value {
    serde_json::to_value(input).unwrap_or_default()
}

fn redacted(response: &Response<Bytes>, redactor: &mut Redactor) -> Response<Bytes> {
    redactor.learn_headers(response.headers());
    let body = redactor.json(response.body()).into_owned();
    let mut redacted = Response::new(Bytes::from(body));
    *redacted.status_mut() = response.status();
    *redacted.headers_mut() = redactor.headers(response.headers());
    redacted
}

pub(super) fn parse(number: usize, line: &[u8]) -> Result<Line, TranscriptError> {
    if line.len() > MAX_LINE {
        return Err(TranscriptError::new(number, "the line is too long"));
    }
    serde_json::from_slice(line).map_err(|error| unreadable(number, &error))
}

fn unreadable(number: usize, error: &serde_json::Error) -> TranscriptError {
    // What is behind a quote is the text itself.
    let text = error.to_string();
    let what = text.split(['"', '`']).next().unwrap_or_default().trim_end();
    let column = match error.column() {
        0 => String::new(),
        column => format!(" (column {column})"),
    };
    TranscriptError::new(number, format!("no line of a transcript: {what}{column}"))
}

impl Header {
    pub(super) fn open(self, number: usize) -> Result<(MachineConfig, u64), TranscriptError> {
        if self.version != VERSION {
            let what = format!(
                "version {} is unknown, {VERSION} is read here",
                self.version
            );
            return Err(TranscriptError::new(number, what));
        }
        let Value::Object(given) = self.config else {
            return Err(TranscriptError::new(
                number,
                "the configuration is no object",
            ));
        };
        // What it does not say (it may be older than the field) is as usual.
        let usual = ServerUrl::parse("https://gitlab.invalid")
            .ok()
            .map(|server| MachineConfig::new(server, Secret::from("unset"), ""))
            .and_then(|config| serde_json::to_value(config).ok());
        let mut config = match usual {
            Some(Value::Object(usual)) => usual,
            _ => serde_json::Map::new(),
        };
        config.extend(given);
        let config = MachineConfig::deserialize(Value::Object(config))
            .map_err(|error| unreadable(number, &error))?;
        Ok((config, self.seed))
    }
}

impl InputLine {
    pub(super) fn open(self, number: usize) -> Result<(Time, Input), TranscriptError> {
        let input = Input::deserialize(self.told).map_err(|error| unreadable(number, &error))?;
        Ok((self.at, input))
    }
}

/// Text if it is UTF-8, else each byte as the character of that number.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Body {
    Text(String),
    Latin1(String),
}

impl Body {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Latin1(bytes.iter().map(|byte| char::from(*byte)).collect()),
        }
    }

    fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.into_bytes()),
            Self::Latin1(text) => text.chars().map(|c| u8::try_from(c).ok()).collect(),
        }
    }
}

/// How a reply stands in a line.
pub(in crate::machine) mod reply {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Form {
        status: u16,
        #[serde(default)]
        headers: Vec<(String, Body)>,
        body: Body,
    }

    pub(in crate::machine) fn serialize<S: Serializer>(
        response: &Response<Bytes>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let headers = response.headers().iter();
        Form {
            status: response.status().as_u16(),
            headers: headers
                .map(|(name, value)| (name.to_string(), Body::of(value.as_bytes())))
                .collect(),
            body: Body::of(response.body()),
        }
        .serialize(serializer)
    }

    pub(in crate::machine) fn deserialize<'de, D: Deserializer<'de>>(
        form: D,
    ) -> Result<Response<Bytes>, D::Error> {
        let form = Form::deserialize(form)?;
        let bad = |what| de::Error::custom(what);
        let mut headers = HeaderMap::new();
        for (name, value) in form.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let name = name.map_err(|_| bad("no name of a header"))?;
            let value = value
                .bytes()
                .and_then(|value| HeaderValue::from_bytes(&value).ok());
            let value = value.ok_or_else(|| bad("no value of a header"))?;
            headers
                .try_append(name, value)
                .map_err(|_| bad("too many headers"))?;
        }
        let body = form.body.bytes().ok_or_else(|| bad("no bytes"))?;
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() =
            StatusCode::from_u16(form.status).map_err(|_| bad("no status of a reply"))?;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// How an error of the transport stands in a line.
pub(in crate::machine) mod failure {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Form {
        kind: TransportErrorKind,
        maybe_delivered: bool,
        detail: String,
    }

    pub(in crate::machine) fn serialize<S: Serializer>(
        error: &TransportError,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Form {
            kind: error.kind(),
            maybe_delivered: error.maybe_delivered(),
            // With what is below it.
            detail: error.to_string(),
        }
        .serialize(serializer)
    }

    pub(in crate::machine) fn deserialize<'de, D: Deserializer<'de>>(
        form: D,
    ) -> Result<TransportError, D::Error> {
        let form = Form::deserialize(form)?;
        Ok(TransportError::new(
            form.kind,
            form.maybe_delivered,
            form.detail,
        ))
    }
}
