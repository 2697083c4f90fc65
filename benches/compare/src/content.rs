//! What is in the artifacts.

use std::{
    borrow::Cow,
    io::{self, Cursor, Write},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::io::AsyncRead;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use crate::work::{Content, Line, Work, texts};

/// It repeats after so many bytes, which is further than deflate looks back.
const BLOCK: usize = 1 << 20;

impl Content {
    /// What is repeated until the artifact is full.
    pub fn block(self) -> Bytes {
        let mut block = Vec::with_capacity(BLOCK + 128);
        match self {
            Self::Random => {
                let mut state = 0x9e37_79b9_7f4a_7c15_u64;
                while block.len() < BLOCK {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    block.extend_from_slice(&state.to_le_bytes());
                }
            }
            Self::Text => {
                let texts = &texts();
                for number in 0.. {
                    if block.len() >= BLOCK {
                        break;
                    }
                    // It goes into memory.
                    let _ = writeln!(block, "{}", Line { texts, number });
                }
            }
        }
        block.truncate(BLOCK);
        block.into()
    }
}

/// An archive with one file of so many bytes.
pub fn archive(len: usize) -> zip::result::ZipResult<Bytes> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file(NAME, stored)?;
    let block = Content::Random.block();
    for start in (0..len).step_by(BLOCK) {
        zip.write_all(&block[..BLOCK.min(len - start)])?;
    }
    Ok(zip.finish()?.into_inner().into())
}

/// What the one file in an artifact is called.
pub const NAME: &str = "data.bin";

/// A file that a job offers.
pub struct Made {
    pub block: Bytes,
    pub len: usize,
}

impl Made {
    /// What there is to upload, if that is the work.
    pub fn of(work: Work) -> Option<Self> {
        let Work::Upload { content, .. } = work else {
            return None;
        };
        Some(Self {
            block: content.block(),
            len: work.bytes(),
        })
    }

    pub fn path(&self) -> Cow<'_, str> {
        Cow::Borrowed(NAME)
    }

    pub fn data(&self) -> MadeData {
        MadeData {
            block: self.block.clone(),
            at: 0,
            left: self.len,
        }
    }
}

pub struct MadeData {
    block: Bytes,
    at: usize,
    left: usize,
}

impl MadeData {
    /// At most so many bytes, in one piece.
    pub fn next(&mut self, most: usize) -> Bytes {
        let len = most.min(self.left).min(self.block.len() - self.at);
        let piece = self.block.slice(self.at..self.at + len);
        self.left -= len;
        self.at = (self.at + len) % self.block.len();
        piece
    }
}

impl AsyncRead for MadeData {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let piece = self.next(out.len());
        out[..piece.len()].copy_from_slice(&piece);
        Poll::Ready(Ok(piece.len()))
    }
}
