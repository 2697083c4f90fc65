//! Tests of the log, with a reference that is too simple to be wrong.

mod laws;
mod limit;
mod mask;
mod spool;

use super::{Masker, TraceSpool, reference};

/// No values, no prefixes of one's own.
const NONE: [&str; 0] = [];

fn masker(values: &[&str], prefixes: &[&str]) -> Masker {
    Masker::new(values, prefixes)
}

/// What comes out of `masker` for these writes; it is ready for the next stream then.
fn run<'a>(masker: &mut Masker, writes: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut all = Vec::new();
    for write in writes {
        masker.write(write, |out| all.extend_from_slice(out));
    }
    masker.finish(|out| all.extend_from_slice(out));
    all
}

/// The whole log, read in one piece.
fn log_of(spool: &mut TraceSpool) -> Vec<u8> {
    let len = spool.mark().len;
    spool.read(0..len).unwrap().concat()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
