//! How much of a zip archive has to be read before its first file can be: its directory, which the
//! archive itself says the length of, at its end.

use std::{
    io::{self, Read, Seek, SeekFrom},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::spool::SpoolReader;

/// An archive may not have more entries.
pub(super) const MAX_ENTRIES: usize = 1_000_000;
/// Nor take more bytes than this to list them.
pub(super) const MAX_DIRECTORY: u64 = 128 << 20;

const END: &[u8; 4] = b"PK\x05\x06";
const END_LEN: usize = 22;
const LOCATOR: &[u8; 4] = b"PK\x06\x07";
const LOCATOR_LEN: usize = 20;
const LARGE_END: &[u8; 4] = b"PK\x06\x06";
const LARGE_END_LEN: usize = 56;
const ENTRY: &[u8; 4] = b"PK\x01\x02";
/// Behind the end record there may be a comment.
const MAX_COMMENT: usize = u16::MAX as usize;

/// Whether the archive says that it has more entries, or a longer directory, than can be read. One
/// that says nothing that can be understood does not.
pub(super) fn is_too_large(file: &mut SpoolReader) -> io::Result<bool> {
    let len = file.seek(SeekFrom::End(0))?;
    let tail_at = len.saturating_sub((LOCATOR_LEN + END_LEN + MAX_COMMENT) as u64);
    let tail = read(file, tail_at, LOCATOR_LEN + END_LEN + MAX_COMMENT)?;
    let ends = tail.windows(END_LEN).enumerate().rev();
    let mut ends = ends.filter(|(at, end)| {
        let comment = number(end, 20, 2).unwrap_or(0);
        end.starts_with(END) && at + END_LEN + comment as usize <= tail.len()
    });
    let Some((at, end)) = ends.next() else {
        return Ok(false);
    };
    let mut said = vec![(number(end, 10, 2), number(end, 12, 4))];
    let locator = at.checked_sub(LOCATOR_LEN).map(|start| &tail[start..at]);
    if let Some(locator) = locator.filter(|locator| locator.starts_with(LOCATOR)) {
        said.clear();
        // Where the archive says, and where it is if there is something in front of the archive.
        let before = (tail_at + at as u64).checked_sub((LOCATOR_LEN + LARGE_END_LEN) as u64);
        for at in [number(locator, 8, 8), before].into_iter().flatten() {
            let end = read(file, at, LARGE_END_LEN)?;
            if end.starts_with(LARGE_END) {
                said.push((number(&end, 32, 8), number(&end, 40, 8)));
            }
        }
    }
    let is_too_large = |&(entries, bytes): &(Option<u64>, Option<u64>)| {
        entries.is_some_and(|entries| entries > MAX_ENTRIES as u64)
            || bytes.is_some_and(|bytes| bytes > MAX_DIRECTORY)
    };
    Ok(said.iter().any(is_too_large))
}

/// At most `len` bytes from `at` on, wherever that is.
fn read(file: &mut SpoolReader, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let end = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(at.min(end)))?;
    file.take(len as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A number of `len` bytes, the lowest first.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + len)?.iter().rev();
    Some(bytes.fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A reader that may read only so much, until that is lifted: what an archive says at its end need
/// not be what it holds.
pub(super) struct Budgeted {
    reader: SpoolReader,
    budget: Arc<Budget>,
}

/// What is left.
pub(super) struct Budget {
    bytes: AtomicU64,
    entries: AtomicUsize,
}

impl Budgeted {
    /// A reader that may read a directory, and what lifts that.
    pub(super) fn new(reader: SpoolReader) -> (Self, Arc<Budget>) {
        let budget = Arc::new(Budget {
            bytes: MAX_DIRECTORY.into(),
            entries: MAX_ENTRIES.into(),
        });
        let reader = Self {
            reader,
            budget: Arc::clone(&budget),
        };
        (reader, budget)
    }
}

impl Budget {
    pub(super) fn lift(&self) {
        self.bytes.store(u64::MAX, Ordering::Relaxed);
    }

    fn spend(&self, read: &[u8]) -> io::Result<()> {
        let bytes = self.bytes.load(Ordering::Relaxed);
        if bytes == u64::MAX {
            return Ok(());
        }
        let left = bytes.checked_sub(read.len() as u64);
        let entries = self.entries.load(Ordering::Relaxed);
        // Entries are read one by one.
        let entries = entries.checked_sub(read.starts_with(ENTRY).into());
        match (left, entries) {
            (Some(bytes), Some(entries)) => {
                self.bytes.store(bytes, Ordering::Relaxed);
                self.entries.store(entries, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        }
    }
}

impl Read for Budgeted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.reader.read(buffer)?;
        self.budget.spend(&buffer[..len])?;
        Ok(len)
    }
}

impl Seek for Budgeted {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;
    use crate::spool::{SpoolFile, Stop};

    fn reader(content: &[u8]) -> SpoolReader {
        let file = SpoolFile::create(&std::env::temp_dir()).unwrap();
        file.append(&[bytes::Bytes::copy_from_slice(content)])
            .unwrap();
        Arc::new(file).reader(Stop::default())
    }

    fn end(entries: u16, bytes: u32, comment: &[u8]) -> Vec<u8> {
        let mut end = [&END[..], &[0; 4], &entries.to_le_bytes()].concat();
        end.extend_from_slice(&entries.to_le_bytes());
        end.extend_from_slice(&bytes.to_le_bytes());
        end.extend_from_slice(&[0; 4]);
        end.extend_from_slice(&u16::try_from(comment.len()).unwrap().to_le_bytes());
        [&end, comment].concat()
    }

    /// With `room` between the record and what says that it is at `at`.
    fn large_end(entries: u64, bytes: u64, room: usize, at: u64) -> Vec<u8> {
        let mut large = LARGE_END.to_vec();
        large.resize(32, 0);
        large.extend_from_slice(&entries.to_le_bytes());
        large.extend_from_slice(&bytes.to_le_bytes());
        large.resize(LARGE_END_LEN + room, 0);
        large.extend_from_slice(LOCATOR);
        large.extend_from_slice(&[0; 4]);
        large.extend_from_slice(&at.to_le_bytes());
        large.extend_from_slice(&[0; 4]);
        [large, end(0xffff, 0xffff_ffff, b"")].concat()
    }

    fn refused(content: &[u8]) -> bool {
        is_too_large(&mut reader(content)).unwrap()
    }

    #[test]
    fn an_end_says_how_much_there_is() {
        let (most, million) = (MAX_DIRECTORY, MAX_ENTRIES as u64);
        for (end, too_large) in [
            (end(65_535, 100, b""), false),
            (end(1, 100, b"a comment"), false),
            (end(1, u32::MAX, b"a comment"), true),
            (large_end(million, most, 0, 0), false),
            (large_end(million + 1, most, 0, 0), true),
            (large_end(million, most + 1, 0, 0), true),
            (large_end(u64::MAX, u64::MAX, 0, 0), true),
            // Where the archive says, with something behind it.
            (large_end(million + 1, 0, 9, 0), true),
            // Not where it says, as there is something in front of it.
            (large_end(million + 1, 0, 0, 7), true),
            (large_end(million + 1, 0, 0, u64::MAX), true),
            (large_end(million + 1, 0, 9, 7), false),
        ] {
            assert_eq!(refused(&end), too_large, "{end:?}");
            let cut = &end[..end.len() - 1];
            assert!(!refused(cut));
        }
        for content in [&b""[..], b"PK\x05\x06", &[0; 100_000]] {
            assert!(!refused(content));
        }
        let far = [vec![0; 200_000], large_end(million + 1, 0, 0, 0)].concat();
        assert!(refused(&far));
        let far = [vec![0; 200_000], end(1, u32::MAX, &[b'x'; 65_535])].concat();
        assert!(refused(&far));
    }

    #[test]
    fn what_was_said_is_not_believed() {
        let (mut budgeted, budget) = Budgeted::new(reader(&ENTRY.repeat(100)));
        budget.entries.store(10, Ordering::Relaxed);
        let mut entry = [0; 4];
        for _ in 0..10 {
            budgeted.read_exact(&mut entry).unwrap();
        }
        let error = budgeted.read_exact(&mut entry).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        budget.lift();
        budgeted.read_exact(&mut entry).unwrap();

        let (mut budgeted, budget) = Budgeted::new(reader(&[0; 100]));
        budget.bytes.store(10, Ordering::Relaxed);
        let error = io::copy(&mut budgeted, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    quickcheck! {
        fn any_end_is_an_answer(content: Vec<u8>) -> bool {
            let content = [LARGE_END, &content[..], LOCATOR, &content, END, &content].concat();
            is_too_large(&mut reader(&content)).is_ok()
        }
    }
}
