//! Where a line is put together.

use std::fmt;

/// A longer line gives its memory back.
const KEPT: usize = 64 << 10;

/// Takes what is formatted, at about half of what it costs with a `String`: lines come in pieces of
/// a few bytes, and there are many.
pub(super) struct LineBuffer {
    /// What is behind `len` is left from earlier lines.
    bytes: Vec<u8>,
    len: usize,
}

impl LineBuffer {
    pub(super) const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            len: 0,
        }
    }

    /// Makes it empty.
    pub(super) fn clear(&mut self) {
        self.len = 0;
        if self.bytes.len() > KEPT {
            self.bytes = Vec::new();
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// For what does not fit.
    #[cold]
    fn grow(&mut self, piece: &str) {
        self.bytes.truncate(self.len);
        self.bytes.extend_from_slice(piece.as_bytes());
        self.len = self.bytes.len();
        self.bytes.resize(self.bytes.capacity().max(128), 0);
    }
}

impl fmt::Write for LineBuffer {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let space = self.bytes.get_mut(self.len..);
        match space.and_then(|space| space.get_mut(..piece.len())) {
            Some(space) => {
                self.len += piece.len();
                space.copy_from_slice(piece.as_bytes());
            }
            None => self.grow(piece),
        }
        Ok(())
    }

    fn write_char(&mut self, char: char) -> fmt::Result {
        // Mostly what a number is filled up with.
        if char.is_ascii()
            && let Some(space) = self.bytes.get_mut(self.len)
        {
            *space = char as u8;
            self.len += 1;
        } else {
            self.grow(char.encode_utf8(&mut [0; 4]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn it_takes_what_a_string_takes() {
        let mut buffer = LineBuffer::new();
        for width in (0..300).chain([5_000, 60_000, 3]) {
            let (number, text) = (width * 7, "─ü🐤a".repeat(width % 5));
            let wanted = format!("{number:>width$}|{text:ü<width$}{}", '🐤');
            buffer.clear();
            write!(buffer, "{number:>width$}|{text:ü<width$}").unwrap();
            buffer.write_char('🐤').unwrap();
            assert_eq!(buffer.as_bytes(), wanted.as_bytes());
        }
        buffer.clear();
        assert!(buffer.bytes.len() <= KEPT);
    }
}
