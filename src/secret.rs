//! A string that must never be shown.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A token or another secret string: it prints as a placeholder and has to be asked for its value.
///
/// Cloning is cheap. Serialising gives the value, since secrets do travel to GitLab in bodies.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Keeps `value` from being shown.
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    /// The value itself. Never put it into a log line, an error or a panic message.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() {
            "[EMPTY]"
        } else {
            "[SECRET]"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::from("glrt-hidden");
        assert_eq!(
            format!("{secret:?} {:?}", Some(&secret)),
            "[SECRET] Some([SECRET])"
        );
        assert_eq!(secret.expose(), "glrt-hidden");
    }
}
