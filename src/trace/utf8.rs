//! Makes any bytes valid UTF-8, as a stream.

/// U+FFFD, which takes the place of each bad byte.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Keeps the beginning of a character whose rest has not come yet.
#[derive(Debug, Default)]
pub(super) struct Repair {
    open: Vec<u8>,
}

impl Repair {
    /// Gives `bytes` to `out` in valid pieces. A character that is not complete waits.
    pub(super) fn write(&mut self, mut bytes: &[u8], mut out: impl FnMut(&[u8])) {
        // At most three bytes wait, so a byte more at a time settles them soon.
        while !self.open.is_empty() {
            let Some((first, rest)) = bytes.split_first() else {
                return;
            };
            self.open.push(*first);
            match str::from_utf8(&self.open) {
                Ok(_) => {
                    out(&self.open);
                    self.open.clear();
                    bytes = rest;
                }
                Err(error) if error.error_len().is_none() => bytes = rest,
                Err(_) => {
                    // The new byte may begin a character of its own.
                    self.open.pop();
                    self.finish(&mut out);
                }
            }
        }
        loop {
            match str::from_utf8(bytes) {
                Ok(_) => {
                    if !bytes.is_empty() {
                        out(bytes);
                    }
                    return;
                }
                Err(error) => {
                    let (valid, rest) = bytes.split_at(error.valid_up_to());
                    if !valid.is_empty() {
                        out(valid);
                    }
                    let Some(bad) = error.error_len() else {
                        self.open.extend_from_slice(rest);
                        return;
                    };
                    for _ in 0..bad {
                        out(REPLACEMENT);
                    }
                    bytes = &rest[bad..];
                }
            }
        }
    }

    /// The stream has ended: a character that is not complete never will be.
    pub(super) fn finish(&mut self, mut out: impl FnMut(&[u8])) {
        for _ in self.open.drain(..) {
            out(REPLACEMENT);
        }
    }
}
