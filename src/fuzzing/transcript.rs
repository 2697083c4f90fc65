//! Transcripts: what was written is read again, and a machine that is told the same says the same.

use crate::machine::transcript::{Secrets, Transcript};

/// `data` is a transcript, and it makes up the inputs of one.
pub fn run(data: &[u8]) {
    match Transcript::parse(data) {
        Ok(transcript) => {
            let _ = transcript.replay();
            is_read_again(&transcript.rerecorded());
        }
        Err(error) => {
            let shown = error.to_string();
            assert!(shown.len() < 500, "{shown}");
        }
    }
    let transcript = super::machine::recorded(data).rerecorded();
    is_read_again(&transcript);
    // Nothing in it is secret but what stays the same when it is replaced everywhere.
    let redacted = transcript.to_lines(Secrets::Redacted);
    assert!(!redacted.contains(super::machine::HIDDEN), "{redacted}");
    let redacted = Transcript::parse(redacted.as_bytes()).unwrap();
    if let Err(divergence) = redacted.replay() {
        // A placeholder is longer or shorter than what it stands for, so a payload that is no JSON
        // may be found broken elsewhere.
        let shown = divergence.to_string();
        assert!(shown.contains("column"), "{shown}");
    }
}

/// Each line as it was, and so are the outputs.
fn is_read_again(transcript: &Transcript) {
    let lines = transcript.to_lines(Secrets::Kept);
    let again = Transcript::parse(lines.as_bytes()).unwrap();
    assert_eq!(again.to_lines(Secrets::Kept), lines);
    if let Err(divergence) = again.replay() {
        panic!("{divergence}");
    }
}
