//! What bodies and troubles tell of themselves.

use super::*;

#[test]
fn a_body_tells_its_length_and_not_what_is_in_it() {
    let job = JobId(7);
    for (body, empty, shown) in [
        (RequestBody::Empty, true, "Empty"),
        (RequestBody::Bytes(Bytes::new()), true, "Bytes(0 bytes)"),
        (
            RequestBody::Bytes(Bytes::from_static(b"glrt")),
            false,
            "Bytes(4 bytes)",
        ),
        (
            RequestBody::Trace { job, range: 5..5 },
            true,
            "Trace(job 7, 5..5)",
        ),
        (
            RequestBody::Trace { job, range: 5..9 },
            false,
            "Trace(job 7, 5..9)",
        ),
    ] {
        assert_eq!(body.is_empty(), empty, "{body:?}");
        assert_eq!(format!("{body:?}"), shown);
    }
}

#[test]
fn only_404_is_missing() {
    let trouble = |status| Trouble::Status {
        status,
        message: String::new(),
    };
    assert!(trouble(http::StatusCode::NOT_FOUND).is_missing());
    assert!(!trouble(http::StatusCode::FORBIDDEN).is_missing());
    assert!(!Trouble::Stopped.is_missing());
}

#[test]
fn what_was_done_is_said_in_words() {
    for (doing, words) in [
        (Doing::Commit, "taking the job"),
        (Doing::Patch, "sending its log"),
        (Doing::FinalUpdate, "reporting its final state"),
    ] {
        assert_eq!(doing.to_string(), words);
    }
}
