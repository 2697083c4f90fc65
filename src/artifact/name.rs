//! The names of files in artifacts: relative, with slashes, and nowhere but below where they belong.

use std::{error::Error, fmt};

/// Longer names have no place in an archive.
const MAX_LEN: usize = u16::MAX as usize - 1024;

/// Why a path cannot be the name of a file in an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing is left of it.
    Empty,
    /// It starts at the root of a file system, or of a drive or share.
    Absolute,
    /// It leaves the directory by `..`, as every system reads it or as one does that separates by
    /// backslashes.
    Outside,
    /// It holds a NUL byte.
    Nul,
    /// It is longer than archives allow.
    TooLong,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it names no file",
            Self::Absolute => "it is absolute, not relative to the job's directory",
            Self::Outside => "it leads out of the job's directory",
            Self::Nul => "it holds a NUL byte",
            Self::TooLong => "it is too long",
        })
    }
}

impl Error for NameError {}

/// A name in a message: one that is long enough to hide what is said of it is shown by its start and
/// its end. Control characters are escaped.
pub(super) struct Shown<'a>(pub(super) &'a str);

/// So many characters are shown of either.
const SHOWN: usize = 100;

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name) = self;
        let start = name.char_indices().nth(SHOWN);
        let end = name.char_indices().nth_back(SHOWN - 1);
        let (start, end) = match (start, end) {
            (Some((start, _)), Some((end, _))) if start < end => (start, end),
            _ => (name.len(), name.len()),
        };
        let write = |f: &mut fmt::Formatter<'_>, text: &str| {
            text.chars().try_for_each(|c| match c.is_control() {
                true => write!(f, "{}", c.escape_default()),
                false => write!(f, "{c}"),
            })
        };
        write(f, &name[..start])?;
        if start < end {
            f.write_str("…")?;
        }
        write(f, &name[end..])
    }
}

/// `path` as it is called in an archive: `./a//b/../c/` is `a/c`.
pub(crate) fn clean_name(path: &str) -> Result<String, NameError> {
    let path = separated(path);
    if path.contains('\0') {
        return Err(NameError::Nul);
    }
    if path.len() > MAX_LEN {
        return Err(NameError::TooLong);
    }
    if path.starts_with('/') {
        return Err(NameError::Absolute);
    }
    let name = clean(&path).ok_or(NameError::Outside)?.join("/");
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    // An archive goes to systems that read a backslash as a slash. There is nothing wrong with one
    // in a name (systemd has them in all its units) unless it leads elsewhere there.
    if name.starts_with('\\') || has_drive(&name) {
        return Err(NameError::Absolute);
    }
    if name.split(['/', '\\']).any(|part| part == "..") {
        return Err(NameError::Outside);
    }
    Ok(name)
}

/// `path` with the slashes of this system as `/`.
fn separated(path: &str) -> std::borrow::Cow<'_, str> {
    if cfg!(windows) {
        path.replace('\\', "/").into()
    } else {
        path.into()
    }
}

fn has_drive(path: &str) -> bool {
    matches!(path.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic())
}

/// The parts of a relative path without `.` and `..`; `None` if it goes above its start.
pub(super) fn clean(path: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    #[test]
    fn a_name_is_tidied() {
        for (path, name) in [
            ("a.txt", "a.txt"),
            ("./a//b/../c/", "a/c"),
            ("a/./b", "a/b"),
            (".hidden/..x/...", ".hidden/..x/..."),
            ("ä b/日本\n", "ä b/日本\n"),
            ("ab:c", "ab:c"),
            ("0:c", "0:c"),
        ] {
            assert_eq!(clean_name(path).as_deref(), Ok(name), "{path:?}");
        }
    }

    #[cfg(not(windows))]
    #[test]
    fn a_backslash_alone_is_a_part_of_a_name() {
        let name = "system/dev-disk-by\\x2duuid.mount";
        assert_eq!(clean_name(name).as_deref(), Ok(name));
    }

    #[test]
    fn what_cannot_be_made_safe_is_refused() {
        use NameError::{Absolute, Empty, Nul, Outside, TooLong};

        for (path, error) in [
            ("", Empty),
            (".", Empty),
            ("a/..", Empty),
            ("./", Empty),
            ("/etc/passwd", Absolute),
            ("//host/share", Absolute),
            ("C:\\x.txt", Absolute),
            ("c:x.txt", Absolute),
            ("\\\\host\\share", Absolute),
            ("\\x", Absolute),
            ("..", Outside),
            ("../../../etc/cron.d/evil", Outside),
            ("a/../../b", Outside),
            ("dir\\..\\..\\win.txt", Outside),
            ("a/b\\..\\..\\..\\c", Outside),
            ("a\\..\\b", Outside),
            ("a\0b", Nul),
        ] {
            assert_eq!(clean_name(path), Err(error), "{path:?}");
        }
        assert_eq!(clean_name(&"x".repeat(70_000)), Err(TooLong));
    }

    #[test]
    fn a_message_shows_the_ends_of_a_long_name() {
        for name in ["", "a/b", "ä".repeat(200).as_str()] {
            assert_eq!(Shown(name).to_string(), name);
        }
        let long = format!(
            "{}{}{}",
            "a".repeat(100),
            "-".repeat(1 << 20),
            "ü".repeat(100)
        );
        let shown = format!("{}…{}", "a".repeat(100), "ü".repeat(100));
        assert_eq!(Shown(&long).to_string(), shown);
        assert_eq!(Shown("a\nb\u{1b}[0m").to_string(), "a\\nb\\u{1b}[0m");
    }

    quickcheck! {
        fn any_name_is_shown(name: String, times: u8) -> bool {
            let name = name.repeat(times.into());
            let shown = Shown(&name).to_string();
            !shown.contains(char::is_control)
                && (shown == name || shown.chars().count() <= 201 * 10)
        }

        fn a_name_stays_below(parts: Vec<u8>) -> bool {
            let words = ["..", ".", "a", "/", "\\", "C:", "b", "\0", ""];
            let path: String = parts.iter().map(|part| words[*part as usize % 9]).collect();
            let Ok(name) = clean_name(&path) else { return true };
            clean_name(&name).as_deref() == Ok(name.as_str())
                && !name.starts_with(['/', '\\'])
                && !name.contains('\0')
                && name.split(['/', '\\']).all(|part| part != "..")
                && name.split('/').all(|part| !part.is_empty() && part != ".")
        }
    }
}
