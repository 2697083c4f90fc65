//! Bodies of error replies, and of answers about the runner.

use crate::protocol::{RunnerDetails, error_message};

/// `data` is a body.
pub fn run(data: &[u8]) {
    let message = error_message(data);
    assert!(message.chars().count() <= 200, "{message}");
    assert!(!message.contains(char::is_control), "{message:?}");
    assert_eq!(message.trim(), message);

    let details = RunnerDetails::parse(data);
    if let Some(token) = &details.token {
        let token = token.expose();
        assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
        // The number of the runner and a date are all that is shown beside.
        if token.len() > 40 {
            assert!(!format!("{details:?}").contains(token));
        }
    }
}
