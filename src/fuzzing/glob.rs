//! Patterns of artifacts, against a slow reference.

use crate::artifact::glob::{Glob, reference};

/// `data` is a pattern, an end of line, and a path.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (pattern, path) = text.split_once('\n').unwrap_or((&text, "a/b"));
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let below = Glob::new(pattern, "/builds/project");
    if let Ok(glob) = &below {
        glob.matches(&names);
    }
    let Ok(glob) = Glob::new(pattern, "/") else {
        return;
    };
    // The reference takes a time that grows with every star.
    let stars = pattern.bytes().filter(|byte| *byte == b'*').count();
    if pattern.len() > 60 || path.len() > 40 || stars > 8 || glob.size() > 2000 {
        glob.matches(&names);
        return;
    }
    assert_eq!(
        glob.matches(&names),
        reference::matches(pattern, &names),
        "{pattern:?} {names:?}"
    );
}
