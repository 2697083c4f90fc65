//! Makes any bytes valid UTF-8, write by write.

use std::mem;

/// As many replacement characters as one bad sequence can have bytes.
const REPLACEMENTS: &[u8] = "\u{FFFD}\u{FFFD}\u{FFFD}".as_bytes();
const REPLACEMENT_LEN: usize = REPLACEMENTS.len() / 3;

/// Replaces each invalid byte by U+FFFD, one per byte, and keeps a character together that was cut
/// by the end of a write. What it passes on is made of whole characters.
#[derive(Default)]
pub(super) struct Repair {
    /// The start of a character, so far valid.
    partial: [u8; 4],
    len: usize,
}

impl Repair {
    pub(super) fn write(&mut self, input: &[u8], out: impl FnMut(&[u8])) {
        // As most of a log is, and at half of what it costs to look at characters.
        match input.is_ascii() {
            true => self.write_valid(input, out),
            false => self.repair(input, out),
        }
    }

    /// As [`write`](Self::write), for what is known to be made of whole characters.
    pub(super) fn write_valid(&mut self, input: &[u8], mut out: impl FnMut(&[u8])) {
        if self.len > 0 {
            self.repair(input, out);
        } else if !input.is_empty() {
            out(input);
        }
    }

    fn repair(&mut self, input: &[u8], mut out: impl FnMut(&[u8])) {
        let mut input = if self.len == 0 {
            input
        } else {
            self.complete(input, &mut out)
        };
        while let Err(error) = std::str::from_utf8(input) {
            let (valid, rest) = input.split_at(error.valid_up_to());
            if !valid.is_empty() {
                out(valid);
            }
            let Some(bad) = error.error_len() else {
                self.partial[..rest.len()].copy_from_slice(rest);
                self.len = rest.len();
                return;
            };
            replace(bad, &mut out);
            input = &rest[bad..];
        }
        if !input.is_empty() {
            out(input);
        }
    }

    /// No more bytes come: a character without its end is invalid, byte by byte.
    pub(super) fn finish(&mut self, mut out: impl FnMut(&[u8])) {
        replace(mem::take(&mut self.len), &mut out);
    }

    /// Decides on the partial character with the help of `input`, and returns the rest of that.
    fn complete<'a>(&mut self, input: &'a [u8], out: &mut impl FnMut(&[u8])) -> &'a [u8] {
        let had = self.len;
        let taken = input.len().min(self.partial.len() - had);
        self.partial[had..had + taken].copy_from_slice(&input[..taken]);
        let joined = &self.partial[..had + taken];
        let used = match std::str::from_utf8(joined) {
            Ok(_) => {
                out(joined);
                joined.len()
            }
            Err(error) if error.valid_up_to() > 0 => {
                out(&joined[..error.valid_up_to()]);
                error.valid_up_to()
            }
            Err(error) => match error.error_len() {
                Some(bad) => {
                    replace(bad, out);
                    bad
                }
                None => {
                    self.len = joined.len();
                    return &[];
                }
            },
        };
        self.len = 0;
        // What was kept is a valid start, so whatever was decided includes all of it.
        &input[used.saturating_sub(had)..]
    }
}

/// The last place up to `at` where a character starts or `text` ends; at most three bytes back.
pub(super) fn floor(text: &[u8], at: usize) -> usize {
    let starts = |at: usize| text.get(at).is_none_or(|byte| byte & 0xC0 != 0x80);
    let lowest = at.saturating_sub(3);
    (lowest..=at).rev().find(|&at| starts(at)).unwrap_or(lowest)
}

fn replace(count: usize, out: &mut impl FnMut(&[u8])) {
    out(&REPLACEMENTS[..count.min(3) * REPLACEMENT_LEN]);
}
