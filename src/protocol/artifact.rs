//! The upload of a packed artifact: what it is called, and what is sent before and behind its bytes.

use std::fmt::Write as _;

use bytes::Bytes;

use super::{ArtifactFormat, ArtifactSpec};

/// The name of the file that an artifact is packed into.
///
/// `name` is the artifact's own with its variables expanded. Of a path only the last part counts.
/// Without a name, or if nothing is left of it, the file is named as GitLab's runner names it:
/// `default`. zip adds `.zip`, gzip `.gz`, raw nothing. What has no place in a file name or in a
/// header (quotes, control characters, backslashes) becomes `_`; what is too long for a file name
/// is cut.
pub fn artifact_file_name(name: Option<&str>, format: Option<&ArtifactFormat>) -> String {
    let extension = match format {
        None | Some(ArtifactFormat::Zip) => ".zip",
        Some(ArtifactFormat::Gzip) => ".gz",
        Some(_) => "",
    };
    let name = name.unwrap_or_default().trim_end_matches('/');
    let base = name.rsplit('/').next().unwrap_or_default();
    let base = match base {
        "" | "." | ".." => "default",
        base => base,
    };
    let mut file_name = String::with_capacity(base.len() + extension.len());
    for c in base.chars() {
        let c = match c {
            '"' | '\\' => '_',
            c if c.is_control() => '_',
            c => c,
        };
        if file_name.len() + c.len_utf8() + extension.len() > MAX_FILE_NAME {
            break;
        }
        file_name.push(c);
    }
    file_name + extension
}

/// The longest file name, in bytes, that common file systems take.
const MAX_FILE_NAME: usize = 255;

/// The query of `POST jobs/:id/artifacts`, without the question mark.
///
/// GitLab's front end reads the format off it before it reads the form. What the job does not say
/// is left out, and what it says is sent as it is.
pub fn artifact_query(spec: &ArtifactSpec) -> String {
    let mut query = String::new();
    let [format, kind] = fields(spec);
    for (key, value) in [format, kind, ("expire_in", spec.expire_in.as_deref())] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let and = if query.is_empty() { "" } else { "&" };
            let _ = write!(query, "{and}{key}=");
            percent_encode(value, &mut query);
        }
    }
    query
}

/// The parameters that are in the query and in the form, in order.
fn fields(spec: &ArtifactSpec) -> [(&'static str, Option<&str>); 2] {
    let format = spec.artifact_format.as_ref().map(ArtifactFormat::as_str);
    [
        ("artifact_format", format),
        ("artifact_type", spec.artifact_type.as_deref()),
    ]
}

/// Appends `text` with all but letters, digits and `-._~` as `%XX`.
pub(crate) fn percent_encode(text: &str, encoded: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
}

/// The multipart form around the bytes of an artifact.
///
/// The body of the upload is [`head`](Self::head), the file, [`tail`](Self::tail):
/// [`body_len`](Self::body_len) bytes, known before the first is sent. The file is the form's only
/// file; format and type come before it once more as fields, for servers that do not read the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactForm {
    boundary: String,
    head: Bytes,
    tail: Bytes,
}

impl ArtifactForm {
    /// The form for `spec` packed into a file of this name.
    ///
    /// `boundary` is a random number that nobody can guess, so that no file can hold it and end the
    /// form early.
    pub fn new(boundary: u128, file_name: &str, spec: &ArtifactSpec) -> Self {
        let boundary = format!("{boundary:032x}");
        let mut head = String::new();
        // With what the server would assume: programs that read the form need not know it.
        for ((name, value), default) in fields(spec).into_iter().zip(["zip", "archive"]) {
            let value = value.filter(|value| !value.is_empty()).unwrap_or(default);
            let _ = write!(
                head,
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n\
                 {value}\r\n"
            );
        }
        let _ = write!(
            head,
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            quoted(file_name)
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        Self {
            boundary,
            head: head.into(),
            tail: tail.into(),
        }
    }

    /// The value of the header `Content-Type`.
    pub fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// What is sent before the file.
    pub fn head(&self) -> Bytes {
        self.head.clone()
    }

    /// What is sent behind it.
    pub fn tail(&self) -> Bytes {
        self.tail.clone()
    }

    /// The length of the body with a file of `file_len` bytes.
    pub fn body_len(&self, file_len: u64) -> u64 {
        file_len.saturating_add((self.head.len() + self.tail.len()) as u64)
    }
}

/// A file name as browsers put it between quotes.
fn quoted(name: &str) -> String {
    name.replace('"', "%22")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;
    use serde_json::{Value, json};

    use super::{super::JobPayload, *};

    fn spec(json: Value) -> ArtifactSpec {
        let payload = json!({"id": 1, "token": "t", "artifacts": [json]}).to_string();
        let mut payload = JobPayload::parse(payload.as_bytes()).unwrap();
        payload.artifacts.remove(0)
    }

    #[test]
    fn a_file_is_named_as_the_job_says() {
        use ArtifactFormat::{Gzip, Raw, Zip};

        for (name, format, wanted) in [
            (None, None, "default.zip"),
            (None, Some(Gzip), "default.gz"),
            (None, Some(Raw), "default"),
            (Some("junit.xml"), Some(Gzip), "junit.xml.gz"),
            (Some("a/b/c d"), Some(Zip), "c d.zip"),
            (Some("a/b/"), Some(Zip), "b.zip"),
            (Some("../.."), Some(Zip), "default.zip"),
            (Some(""), Some(Zip), "default.zip"),
            (Some("."), Some(Zip), "default.zip"),
            (Some("///"), Some(Raw), "default"),
            (
                Some("gl-sast-report.json"),
                Some(Raw),
                "gl-sast-report.json",
            ),
            (Some("x\"\r\ny\\z\0"), Some(Zip), "x___y_z_.zip"),
            (Some("日本"), None, "日本.zip"),
        ] {
            assert_eq!(
                artifact_file_name(name, format.as_ref()),
                wanted,
                "{name:?}"
            );
        }
        for (letters, wanted) in [(250, 250), (251, 251), (252, 251)] {
            let name = artifact_file_name(Some(&"a".repeat(letters)), None);
            assert_eq!(name, "a".repeat(wanted) + ".zip");
        }
        let long = "é".repeat(300);
        let name = artifact_file_name(Some(&long), None);
        assert!(name.len() <= 255 && name.ends_with("é.zip"), "{name}");
    }

    #[test]
    fn the_query_holds_what_the_job_says() {
        assert_eq!(artifact_query(&spec(json!({"name": "x"}))), "");
        let all = json!({
            "artifact_type": "junit", "artifact_format": "gzip", "expire_in": "1 week & 2+3"
        });
        assert_eq!(
            artifact_query(&spec(all)),
            "artifact_format=gzip&artifact_type=junit&expire_in=1%20week%20%26%202%2B3"
        );
        let odd = json!({"artifact_type": "", "artifact_format": "zip\r\nX: y", "expire_in": "é"});
        assert_eq!(
            artifact_query(&spec(odd)),
            "artifact_format=zip%0D%0AX%3A%20y&expire_in=%C3%A9"
        );
    }

    #[test]
    fn the_form_is_one_file_behind_two_fields() {
        let spec = spec(json!({
            "artifact_type": "archive", "artifact_format": "zip", "expire_in": "1 week"
        }));
        let form = ArtifactForm::new(0xab, "a\"b.zip", &spec);
        let b = "000000000000000000000000000000ab";
        assert_eq!(
            form.content_type(),
            format!("multipart/form-data; boundary={b}")
        );
        assert_eq!(
            form.head(),
            format!(
                "--{b}\r\nContent-Disposition: form-data; name=\"artifact_format\"\r\n\r\nzip\r\n\
                 --{b}\r\nContent-Disposition: form-data; name=\"artifact_type\"\r\n\r\narchive\r\n\
                 --{b}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a%22b.zip\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            )
        );
        assert_eq!(form.tail(), format!("\r\n--{b}--\r\n"));
        let whole = form.head().len() + 10 + form.tail().len();
        assert_eq!(form.body_len(10), whole as u64);
    }

    #[test]
    fn what_the_job_does_not_say_is_in_the_form_alone() {
        let spec = spec(json!({"artifact_type": ""}));
        assert_eq!(artifact_query(&spec), "");
        let form = ArtifactForm::new(1, "x", &spec);
        let head = String::from_utf8(form.head().to_vec()).unwrap();
        assert!(head.contains("name=\"artifact_format\"\r\n\r\nzip\r\n"));
        assert!(head.contains("name=\"artifact_type\"\r\n\r\narchive\r\n"));
    }

    quickcheck! {
        fn a_name_stays_in_its_line(name: String) -> bool {
            let name = artifact_file_name(Some(&name), None);
            let query = artifact_query(&spec(json!({"expire_in": name.clone()})));
            name.len() <= 255
                && !name.contains(['"', '\r', '\n', '/', '\\'])
                && format!("http://h/?{query}").parse::<http::Uri>().is_ok()
        }
    }
}
