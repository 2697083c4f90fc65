//! Archives of HTTP, as any program may write them.

use crate::har::{Har, HarServer, Mode};

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
    for mode in [Mode::Strict, Mode::Lenient] {
        match HarServer::new(&archive, mode) {
            Ok(server) => assert_eq!(server.verdict().is_ok(), mode == Mode::Lenient),
            Err(error) => assert!(error.to_string().len() < 200, "{error}"),
        }
    }
    let again = Har::parse(archive.to_json().as_bytes()).unwrap();
    assert_eq!(without_times(again), without_times(archive));
}

/// Numbers of many digits are read to the last digit but one.
fn without_times(mut archive: Har) -> Har {
    for entry in &mut archive.log.entries {
        (entry.time, entry.timings) = Default::default();
    }
    archive
}
