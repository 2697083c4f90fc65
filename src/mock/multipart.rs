//! Reads `multipart/form-data`, strictly: a runner that writes it wrongly must notice.

use aho_corasick::AhoCorasick;
use bytes::Bytes;

/// The head of a part that is longer than this is none.
const MAX_PART_HEAD: usize = 16 * 1024;
/// The longest boundary that RFC 2046 allows.
const MAX_BOUNDARY: usize = 70;

/// What a body holds, as far as it can be read.
pub(crate) struct Form {
    /// The last one may be cut.
    pub(crate) parts: Vec<Part>,
    /// The body was read up to its closing boundary.
    pub(crate) complete: bool,
}

pub(crate) struct Part {
    pub(crate) name: String,
    /// Files have a name that is not empty; all others are fields.
    pub(crate) filename: Option<String>,
    pub(crate) content: Bytes,
}

impl Form {
    /// The form in `body`, with the boundary that `content_type` names.
    pub(crate) fn read(content_type: &str, body: &Bytes) -> Self {
        let mut form = Self {
            parts: Vec::new(),
            complete: false,
        };
        let boundary = parameter(content_type, "boundary").filter(|boundary| {
            let len = boundary.len();
            (1..=MAX_BOUNDARY).contains(&len) && boundary.is_ascii()
        });
        form.complete = boundary
            .and_then(|boundary| form.read_parts(&boundary, body))
            .is_some();
        form
    }

    fn read_parts(&mut self, boundary: &str, body: &Bytes) -> Option<()> {
        let delimiter = format!("\r\n--{boundary}");
        let delimiters = AhoCorasick::new([&delimiter]).ok()?;
        let end_of_content = |from: usize| Some(from + delimiters.find(body.get(from..)?)?.start());
        // The first delimiter needs no line before it.
        let mut at = if body.starts_with(delimiter.get(2..)?.as_bytes()) {
            delimiter.len() - 2
        } else {
            end_of_content(0)? + delimiter.len()
        };
        loop {
            let rest = body.get(at..)?;
            if rest.starts_with(b"--") {
                return Some(());
            }
            let padding = rest.iter().take_while(|byte| b" \t".contains(byte)).count();
            let head = rest.get(padding..)?.strip_prefix(b"\r\n")?;
            let head_at = at + padding + 2;
            let head_len = head
                .get(..head.len().min(MAX_PART_HEAD))?
                .windows(4)
                .position(|window| window == b"\r\n\r\n")?;
            let (name, filename) = disposition(head.get(..head_len)?)?;
            let start = head_at + head_len + 4;
            let end = end_of_content(start);
            self.parts.push(Part {
                name,
                filename: filename.filter(|filename| !filename.is_empty()),
                content: body.slice(start..end.unwrap_or(body.len())),
            });
            at = end? + delimiter.len();
        }
    }
}

/// The name of a part, and of its file, out of its head.
fn disposition(head: &[u8]) -> Option<(String, Option<String>)> {
    let head = String::from_utf8_lossy(head);
    let value = head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("Content-Disposition")
            .then(|| value.trim())
    })?;
    let kind = value.split(';').next()?.trim();
    if !kind.eq_ignore_ascii_case("form-data") {
        return None;
    }
    Some((parameter(value, "name")?, parameter(value, "filename")))
}

/// A parameter of a header's value, as in `form-data; name="file"`.
fn parameter(value: &str, wanted: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        let (name, behind) = rest.split_once('=')?;
        let (text, behind) = match behind.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let end = behind.find(';').unwrap_or(behind.len());
                let (token, behind) = behind.split_at(end);
                (token.trim().to_owned(), behind)
            }
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(text);
        }
        rest = behind.trim_start().strip_prefix(';')?;
    }
}

/// The text up to the closing quote, and what comes behind that.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            '"' if !escaped => return Some((text, quoted.get(at + 1..)?)),
            c => {
                text.push(c);
                escaped = false;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content_type: &str, body: &str) -> (Vec<(String, Option<String>, String)>, bool) {
        let form = Form::read(content_type, &Bytes::copy_from_slice(body.as_bytes()));
        let parts = form.parts.into_iter().map(|part| {
            let content = String::from_utf8(part.content.to_vec()).unwrap();
            (part.name, part.filename, content)
        });
        (parts.collect(), form.complete)
    }

    fn part(name: &str, filename: Option<&str>, content: &str) -> (String, Option<String>, String) {
        (name.into(), filename.map(str::to_owned), content.into())
    }

    const TYPE: &str = "multipart/form-data; boundary=xyz";

    #[test]
    fn fields_and_files() {
        let body = "--xyz\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n\
                    --xyz \t\r\ncontent-type: text/plain\r\n\
                    content-disposition: form-data; filename=\"b \\\"2\\\".zip\"; name=file\r\n\r\n\
                    \r\n--xy\r\n\r\n--xyz--\r\nepilogue";
        let expected = vec![
            part("a", None, "1"),
            part("file", Some("b \"2\".zip"), "\r\n--xy\r\n"),
        ];
        assert_eq!(read(TYPE, body), (expected.clone(), true));
        let quoted = "multipart/form-data; charset=\"a;b\"; boundary=\"xyz\"";
        assert_eq!(read(quoted, body), (expected.clone(), true));
        assert_eq!(read(TYPE, &format!("preamble\r\n{body}")), (expected, true));
    }

    #[test]
    fn an_empty_part_and_an_empty_form() {
        let body = "--xyz\r\nContent-Disposition: form-data; name=\"a\"; filename=\"\"\r\n\r\n\r\n\
                    --xyz--";
        assert_eq!(read(TYPE, body), (vec![part("a", None, "")], true));
        assert_eq!(read(TYPE, "--xyz--\r\n"), (vec![], true));
    }

    #[test]
    fn a_cut_body_gives_what_there_is() {
        let body = "--xyz\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n\
                    --xyz\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n23\r\n--xy";
        assert_eq!(
            read(TYPE, body),
            (
                vec![part("a", None, "1"), part("b", None, "23\r\n--xy")],
                false
            )
        );
    }

    #[test]
    fn what_is_no_form() {
        let head = "Content-Disposition: form-data; name=\"a\"\r\n\r\n1";
        for (content_type, body) in [
            ("multipart/form-data", format!("--xyz\r\n{head}\r\n--xyz--")),
            (
                "multipart/form-data; boundary=",
                format!("--\r\n{head}\r\n----"),
            ),
            (TYPE, String::new()),
            (TYPE, format!("--other\r\n{head}\r\n--other--")),
            (TYPE, format!("--xyz\n{head}\n--xyz--")),
            (TYPE, format!("--xyz-and-more\r\n{head}\r\n--xyz--")),
            (TYPE, "--xyz\r\n\r\n1\r\n--xyz--".to_owned()),
            (TYPE, "--xyz\r\nX: y\r\n\r\n1\r\n--xyz--".to_owned()),
            (
                TYPE,
                "--xyz\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\n1\r\n--xyz--"
                    .to_owned(),
            ),
            (
                TYPE,
                "--xyz\r\nContent-Disposition: form-data; name=\"a\r\n\r\n1\r\n--xyz--".to_owned(),
            ),
        ] {
            let (parts, complete) = read(content_type, &body);
            assert!(parts.is_empty() && !complete, "{content_type} {body}");
        }
    }
}
