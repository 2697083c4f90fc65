//! Where a line is put together.

use std::fmt;

/// Most lines are no longer.
const SHORT: usize = 1 << 10;
/// A longer line gives its memory back.
const KEPT: usize = 64 << 10;

/// Takes what is formatted, at about half of what it costs with a `String`: lines come in pieces of
/// a few bytes, and there are many.
pub(super) struct LineBuffer {
    /// Of the line, while it is a short one; else `LONG`.
    len: u16,
    short: [u8; SHORT],
    long: Vec<u8>,
}

const LONG: u16 = SHORT as u16 + 1;

impl LineBuffer {
    pub(super) const fn new() -> Self {
        Self {
            len: 0,
            short: [0; SHORT],
            long: Vec::new(),
        }
    }

    /// Makes it empty.
    #[inline]
    pub(super) fn clear(&mut self) {
        if self.len == LONG {
            self.long.clear();
            self.long.shrink_to(KEPT);
        }
        self.len = 0;
    }

    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        let short = self.short.get(..usize::from(self.len));
        short.unwrap_or(&self.long)
    }

    /// Takes one character, if it fits.
    #[inline(always)]
    fn push(&mut self, byte: u8) -> Option<fmt::Result> {
        let space = self.short.get_mut(usize::from(self.len))?;
        *space = byte;
        self.len += 1;
        Some(Ok(()))
    }

    /// For what does not fit.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, piece: &str) -> fmt::Result {
        if self.len < LONG {
            self.long
                .extend_from_slice(&self.short[..usize::from(self.len)]);
            self.len = LONG;
        }
        self.long.extend_from_slice(piece.as_bytes());
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn grow_by(&mut self, char: char) -> fmt::Result {
        self.grow(char.encode_utf8(&mut [0; 4]))
    }
}

impl fmt::Write for LineBuffer {
    #[inline]
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        // Much of what is between values is a space or a comma.
        if let [byte] = piece.as_bytes() {
            return self.push(*byte).unwrap_or_else(|| self.grow(piece));
        }
        let start = usize::from(self.len);
        if piece.len() > SHORT {
            return self.grow(piece);
        }
        let Some(space) = self.short.get_mut(start..start + piece.len()) else {
            return self.grow(piece);
        };
        self.len += piece.len() as u16;
        space.copy_from_slice(piece.as_bytes());
        Ok(())
    }

    #[inline]
    fn write_char(&mut self, char: char) -> fmt::Result {
        // Mostly what a number is filled up with.
        if char.is_ascii()
            && let Some(pushed) = self.push(char as u8)
        {
            return pushed;
        }
        self.grow_by(char)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn it_takes_what_a_string_takes() {
        let mut buffer = LineBuffer::new();
        for width in (0..300).chain([5_000, 60_000, 1_000, 3]) {
            let (number, text) = (width * 7, "─ü🐤a".repeat(width % 5));
            let wanted = format!("{number:>width$}|{text:ü<width$}{}", '🐤');
            buffer.clear();
            write!(buffer, "{number:>width$}|{text:ü<width$}").unwrap();
            buffer.write_char('🐤').unwrap();
            assert_eq!(buffer.as_bytes(), wanted.as_bytes());
        }
        buffer.clear();
        assert!(buffer.as_bytes().is_empty() && buffer.long.capacity() <= KEPT);
    }
}
