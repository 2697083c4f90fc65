//! Small writes to a log, gathered: on its own a line costs a spool three times what it costs among
//! others.

use crate::trace::TraceSpool;

/// So much is written to a spool at once, if nobody asks for it before.
const MOST: usize = 4 << 10;
/// To begin with, there is room for so much.
const FIRST: usize = 512;

/// What is still to be written to a spool.
#[derive(Default)]
pub(super) struct Batch(Vec<u8>);

impl Batch {
    /// Takes `bytes` if there is room for them, as is nearly always so.
    #[inline]
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.0.capacity() - self.0.len();
        if fits {
            self.0.extend_from_slice(bytes);
        }
        fits
    }

    /// Takes `bytes` and makes room for them, or writes them to `spool`.
    pub(super) fn add(&mut self, bytes: &[u8], spool: &mut TraceSpool) {
        if self.0.len() + bytes.len() > MOST {
            self.empty(spool);
        }
        if bytes.len() > MOST {
            spool.write(bytes);
            return;
        }
        let wanted = (self.0.len() + bytes.len()).max(2 * self.0.capacity());
        let wanted = wanted.clamp(FIRST, MOST);
        self.0.reserve_exact(wanted - self.0.len());
        self.0.extend_from_slice(bytes);
    }

    /// Writes all of it to `spool`.
    pub(super) fn empty(&mut self, spool: &mut TraceSpool) {
        if !self.0.is_empty() {
            spool.write(&self.0);
            self.0.clear();
        }
    }
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
            if !batch.take(&part) {
                batch.add(&part, &mut spool);
            }
            written.extend_from_slice(&part);
            assert!(batch.0.capacity() <= MOST, "{}", batch.0.capacity());
            assert_eq!(spool.mark().len, (written.len() - batch.0.len()) as u64);
        }
        batch.empty(&mut spool);
        let len = spool.finish().len;
        assert_eq!(spool.read(0..len).unwrap().concat(), written);
    }
}
