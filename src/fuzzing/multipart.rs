//! The form around an artifact, and the simulated GitLab that reads it.

use arbitrary::{Arbitrary, Result, Unstructured};
use bytes::Bytes;
use serde_json::json;

use crate::{
    mock::multipart::Form,
    protocol::{ArtifactForm, JobPayload, artifact_file_name, artifact_query},
};

/// An upload.
struct Upload {
    boundary: u128,
    name: String,
    format: String,
    kind: String,
    content: Vec<u8>,
}

/// `data` is a body and what it is said to be, and it makes up an upload.
pub fn run(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n');
    let (line, body) = data.split_at(end.unwrap_or(0));
    let body = Bytes::copy_from_slice(body.get(1..).unwrap_or_default());
    let form = Form::read(&String::from_utf8_lossy(line), &body);
    let read: usize = form.parts.iter().map(|part| part.content.len()).sum();
    assert!(read <= body.len());

    if let Ok(upload) = Upload::arbitrary(&mut Unstructured::new(data)) {
        upload.is_read_as_it_was_written();
    }
}

impl Upload {
    fn is_read_as_it_was_written(&self) {
        let spec = json!({ "artifact_format": self.format, "artifact_type": self.kind });
        let payload = json!({ "id": 1, "token": "t", "artifacts": [spec] }).to_string();
        let mut payload = JobPayload::parse(payload.as_bytes()).unwrap();
        let spec = payload.artifacts.remove(0);
        let file_name = artifact_file_name(Some(&self.name), spec.artifact_format.as_ref());
        assert!(file_name.len() <= 255 && !file_name.contains(['"', '\r', '\n', '/', '\\']));
        let query = artifact_query(&spec);
        assert!(format!("http://h/?{query}").parse::<http::Uri>().is_ok());

        let form = ArtifactForm::new(self.boundary, &file_name, &spec);
        let (head, tail) = (form.head(), form.tail());
        let body = Bytes::from([&*head, &*self.content, &*tail].concat());
        assert_eq!(body.len() as u64, form.body_len(self.content.len() as u64));
        // The boundary is a secret of the runner: nobody else writes it.
        let boundary = format!("{:032x}", self.boundary);
        let said = [&self.format, &self.kind, &self.name];
        let is_guessed = said.iter().any(|text| text.contains(&boundary))
            || self
                .content
                .windows(32)
                .any(|part| part == boundary.as_bytes());
        if is_guessed {
            return;
        }
        let read = Form::read(&form.content_type(), &body);
        assert!(read.complete, "{body:?}");
        let [format, kind, file] = &read.parts[..] else {
            panic!("{} parts in {body:?}", read.parts.len());
        };
        let or = |text: &str, default: &str| match text {
            "" => default.to_owned(),
            text => text.to_owned(),
        };
        assert_eq!(
            (&*format.name, &*kind.name),
            ("artifact_format", "artifact_type")
        );
        assert_eq!(format.content, or(&self.format, "zip"));
        assert_eq!(kind.content, or(&self.kind, "archive"));
        assert_eq!(file.name, "file");
        assert_eq!(file.filename.as_deref(), Some(&*file_name));
        assert_eq!(file.content, self.content);
    }
}

impl<'a> Arbitrary<'a> for Upload {
    fn arbitrary(source: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            boundary: u128::arbitrary(source)?,
            name: text(source)?,
            format: match u8::arbitrary(source)? % 5 {
                0 => String::new(),
                1 => "zip".to_owned(),
                2 => "gzip".to_owned(),
                3 => "raw".to_owned(),
                _ => text(source)?,
            },
            kind: text(source)?,
            content: source.bytes(source.len())?.to_vec(),
        })
    }
}

fn text(source: &mut Unstructured<'_>) -> Result<String> {
    let len = source.int_in_range(0..=20)?;
    Ok(String::from_utf8_lossy(source.bytes(len)?).into_owned())
}
