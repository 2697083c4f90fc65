//! Archives of HTTP, as any program may write them.

use crate::har::Har;

/// `data` is an archive.
pub fn run(data: &[u8]) {
    let archive = match Har::parse(data) {
        Ok(archive) => archive,
        Err(error) => {
            let shown = error.to_string();
            assert!(shown.len() < 200, "{shown}");
            return;
        }
    };
    for entry in &archive.log.entries {
        let _ = (entry.duration(), entry.started(), entry.response.body());
        if let Some(body) = &entry.request.post_data {
            let _ = body.body(entry.request.body_size);
        }
    }
    let written = archive.to_json();
    let again = Har::parse(written.as_bytes()).unwrap();
    assert_eq!(again, archive);
    assert_eq!(again.to_json(), written);
}
