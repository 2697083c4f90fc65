//! Small writes to a log, gathered: on its own a line costs a spool three times what it costs among
//! others.

use crate::trace::TraceSpool;

/// So much is written to a spool at once, if nobody asks for it before.
const MOST: usize = 8 << 10;
/// To begin with, there is room for so much.
const FIRST: usize = 512;

/// What is still to be written to a spool.
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Whether all of it is known to be text.
    is_text: bool,
    /// Whether what came before it ended a line.
    follows_line: bool,
}

/// What is to be written.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a [u8],
    /// Whether it is known to be text, so that nobody need look.
    pub(super) is_text: bool,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            is_text: true,
            follows_line: true,
        }
    }
}

impl Batch {
    /// Takes `piece` if there is room for it, as is nearly always so.
    #[inline(always)]
    pub(super) fn take(&mut self, piece: Piece<'_>) -> bool {
        let fits = piece.bytes.len() <= self.bytes.capacity() - self.bytes.len();
        if fits {
            self.bytes.extend_from_slice(piece.bytes);
            self.is_text &= piece.is_text;
        }
        fits
    }

    /// Takes `piece` and makes room for it, or writes it to `spool`.
    pub(super) fn add(&mut self, piece: Piece<'_>, spool: &mut TraceSpool) {
        let Piece { bytes, is_text } = piece;
        if self.bytes.len() + bytes.len() > MOST {
            self.empty(spool);
        }
        if bytes.len() > MOST {
            self.follows_line = ends_line(bytes);
            spool.write(bytes);
            return;
        }
        let wanted = (self.bytes.len() + bytes.len()).max(2 * self.bytes.capacity());
        let wanted = wanted.clamp(FIRST, MOST);
        self.bytes.reserve_exact(wanted - self.bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.is_text &= is_text;
    }

    /// Writes all of it to `spool`.
    pub(super) fn empty(&mut self, spool: &mut TraceSpool) {
        if self.bytes.is_empty() {
            return;
        }
        match self.is_text {
            true => spool.write_text(&self.bytes),
            false => spool.write(&self.bytes),
        }
        self.follows_line = self.at_line_start();
        self.is_text = true;
        self.bytes.clear();
    }

    /// Whether the next byte begins a line.
    pub(super) fn at_line_start(&self) -> bool {
        match &self.bytes[..] {
            [] => self.follows_line,
            bytes => ends_line(bytes),
        }
    }
}

/// Behind the marker of a section GitLab's viewer begins a line.
fn ends_line(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\n") || bytes.ends_with(b"\r\x1b[0K")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Masker;

    #[test]
    fn all_arrives_in_order_and_no_more_waits_than_a_batch() {
        let mut spool = TraceSpool::new(Masker::none(), u64::MAX);
        let mut batch = Batch::default();
        let mut written = Vec::new();
        for n in 0..3_000_usize {
            // Among them one of exactly a batch, and larger ones.
            let len = match n % 100 {
                50 => MOST,
                51 => MOST + 1,
                at => at * 7 % 300,
            };
            let part = vec![b'a' + (n % 26) as u8; len];
            let piece = Piece {
                bytes: &part,
                is_text: n % 3 > 0,
            };
            if !batch.take(piece) {
                batch.add(piece, &mut spool);
            }
            written.extend_from_slice(&part);
            assert!(batch.bytes.capacity() <= MOST, "{}", batch.bytes.capacity());
            assert_eq!(spool.mark().len, (written.len() - batch.bytes.len()) as u64);
        }
        batch.empty(&mut spool);
        let len = spool.finish().len;
        assert_eq!(spool.read(0..len).unwrap().concat(), written);
    }
}
