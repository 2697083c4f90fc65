//! A time in front of each line, in the form that GitLab's own runner has and its log viewer hides.
//!
//! Each stream has its own lines. A line is written as a whole: when its end has come, when a write
//! left a carriage return in it (a progress bar), when it grew beyond 8 KiB, or at the end of the log.
//! In the last three cases a line feed is added, and what follows in the stream is marked as going on.

use std::collections::VecDeque;

use super::mask::MASK;
use crate::time::WallTime;

/// Longer lines are written in parts.
const LONGEST: usize = 8 << 10;

/// Where a part of a log comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TraceStream {
    /// The runner itself.
    Runner,
    /// The job's standard output.
    #[default]
    Stdout,
    /// The job's standard error.
    Stderr,
}

impl TraceStream {
    const ALL: [Self; 3] = [Self::Runner, Self::Stdout, Self::Stderr];

    /// The number of the stream, in hex, and `O` or `E`.
    fn name(self) -> &'static str {
        match self {
            Self::Runner => "00O",
            Self::Stdout => "01O",
            Self::Stderr => "01E",
        }
    }
}

/// The unfinished lines of all streams, and which part of the masker's input came from which.
#[derive(Default)]
pub(super) struct Stamps {
    lines: [Line; 3],
    /// From which place of the input on which stream is written to. The masker may still hold bytes
    /// of an earlier one.
    sources: VecDeque<(u64, TraceStream)>,
    last: WallTime,
}

#[derive(Default)]
struct Line {
    text: Vec<u8>,
    /// When it was begun.
    begun: WallTime,
    /// Whether a part of it was written.
    goes_on: bool,
    /// Whether the write that is going on left a carriage return in it.
    returned: bool,
}

impl Stamps {
    /// What follows at `position` of the masker's input is from `stream`.
    pub(super) fn begin(&mut self, stream: TraceStream, position: u64) {
        if self.sources.back().map(|(_, last)| *last) != Some(stream) {
            self.sources.push_back((position, stream));
        }
    }

    /// Takes what the masker passes on, which begins at `at` of its input; none is a mask.
    pub(super) fn push(
        &mut self,
        mut at: u64,
        bytes: Option<&[u8]>,
        now: WallTime,
        mut out: impl FnMut(&[u8]),
    ) {
        self.last = now;
        let Some(mut bytes) = bytes else {
            let (stream, _) = self.source(at);
            self.line(stream).push(stream, MASK, now, &mut out);
            return;
        };
        while !bytes.is_empty() {
            let (stream, until) = self.source(at);
            let len = until.map_or(bytes.len(), |until| {
                usize::try_from(until - at).map_or(bytes.len(), |len| len.min(bytes.len()))
            });
            let (mine, rest) = bytes.split_at(len);
            self.line(stream).push(stream, mine, now, &mut out);
            at += len as u64;
            bytes = rest;
        }
    }

    /// As [`push`](Self::push), at the end of the log.
    pub(super) fn push_late(&mut self, at: u64, bytes: Option<&[u8]>, out: impl FnMut(&[u8])) {
        self.push(at, bytes, self.last, out);
    }

    /// The write to `stream` is over.
    pub(super) fn end(&mut self, stream: TraceStream, mut out: impl FnMut(&[u8])) {
        self.line(stream).end_write(stream, &mut out);
    }

    /// Writes what has no end.
    pub(super) fn finish(&mut self, mut out: impl FnMut(&[u8])) {
        for stream in TraceStream::ALL {
            self.line(stream).cut(stream, &mut out);
        }
    }

    /// The stream that this place of the input is from, and where it ends, if it has. Places come in
    /// order.
    fn source(&mut self, at: u64) -> (TraceStream, Option<u64>) {
        while let Some((next, _)) = self.sources.get(1)
            && *next <= at
        {
            self.sources.pop_front();
        }
        let stream = self
            .sources
            .front()
            .map_or(TraceStream::default(), |it| it.1);
        (stream, self.sources.get(1).map(|(next, _)| *next))
    }

    fn line(&mut self, stream: TraceStream) -> &mut Line {
        match stream {
            TraceStream::Runner => &mut self.lines[0],
            TraceStream::Stdout => &mut self.lines[1],
            TraceStream::Stderr => &mut self.lines[2],
        }
    }
}

impl Line {
    fn push(
        &mut self,
        stream: TraceStream,
        bytes: &[u8],
        now: WallTime,
        out: &mut impl FnMut(&[u8]),
    ) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.text.is_empty() {
                self.begun = now;
            }
            self.text.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.write(stream, out);
                self.goes_on = false;
                self.returned = false;
            } else {
                self.returned |= part.contains(&b'\r');
            }
        }
    }

    fn end_write(&mut self, stream: TraceStream, out: &mut impl FnMut(&[u8])) {
        if std::mem::take(&mut self.returned) || self.text.len() > LONGEST {
            self.cut(stream, out);
        }
    }

    /// Writes what there is as a line of its own.
    fn cut(&mut self, stream: TraceStream, out: &mut impl FnMut(&[u8])) {
        if !self.text.is_empty() {
            self.text.push(b'\n');
            self.write(stream, out);
            self.goes_on = true;
        }
    }

    fn write(&mut self, stream: TraceStream, out: &mut impl FnMut(&[u8])) {
        let mark = if self.goes_on { '+' } else { ' ' };
        let head = format!("{} {}{mark}", self.begun, stream.name());
        out(head.as_bytes());
        out(&self.text);
        self.text.clear();
        // A long line is rare, and its buffer need not be kept.
        self.text.shrink_to(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use TraceStream::{Runner, Stderr, Stdout};

    use super::*;
    use crate::trace::{Masker, TraceSpool};

    /// The log of these writes, a microsecond apart, with the times as their last three digits.
    fn log(masker: Masker, writes: &[(TraceStream, &str)]) -> String {
        // 2024-07-16T10:00:00.123000Z
        let begun = Duration::from_micros(1_721_124_000_123_000);
        let mut spool = TraceSpool::new(masker, u64::MAX).with_timestamps();
        for (at, (stream, text)) in (0..).zip(writes) {
            let now = WallTime(begun + Duration::from_micros(at));
            spool.write_from(*stream, text.as_bytes(), now);
        }
        let len = spool.finish().len;
        let log: Vec<u8> = spool.read(0..len).unwrap().concat();
        String::from_utf8(log)
            .unwrap()
            .replace("2024-07-16T10:00:00.123", "@")
    }

    fn plain(writes: &[&str]) -> String {
        let writes: Vec<_> = writes.iter().map(|text| (Stdout, *text)).collect();
        log(Masker::none(), &writes)
    }

    #[test]
    fn each_line_has_the_time_at_which_it_began() {
        assert_eq!(
            plain(&["hello\n", "a\nb\n", "c", "d", "e\nf\n"]),
            "@000Z 01O hello\n@001Z 01O a\n@001Z 01O b\n@002Z 01O cde\n@004Z 01O f\n"
        );
        assert_eq!(plain(&["\n\n"]), "@000Z 01O \n@000Z 01O \n");
        assert_eq!(plain(&["a\r\n"]), "@000Z 01O a\r\n");
    }

    #[test]
    fn a_progress_bar_goes_on() {
        let mut writes = vec!["Bar: "];
        writes.extend([".\r"; 10]);
        writes.push("Done.\r\n");
        let mut wanted = "@000Z 01O Bar: .\r\n".to_owned();
        for at in 2..=10 {
            wanted += &format!("@{at:03}Z 01O+.\r\n");
        }
        wanted += "@011Z 01O+Done.\r\n";
        assert_eq!(plain(&writes), wanted);
    }

    #[test]
    fn a_section_marker_is_a_line_of_its_own() {
        assert_eq!(
            plain(&["section_start:1:a\r\x1b[0K", "title\n"]),
            "@000Z 01O section_start:1:a\r\x1b[0K\n@001Z 01O+title\n"
        );
    }

    #[test]
    fn long_lines_are_cut_and_the_last_one_gets_an_end() {
        let long = "x".repeat(9000);
        assert_eq!(
            plain(&[&long, "y", "z\n", "end"]),
            format!("@000Z 01O {long}\n@001Z 01O+yz\n@003Z 01O end\n")
        );
        let short = "x".repeat(8192);
        assert_eq!(plain(&[&short, "\n"]), format!("@000Z 01O {short}\n"));
    }

    #[test]
    fn streams_have_lines_of_their_own() {
        assert_eq!(
            log(
                Masker::none(),
                &[
                    (Stdout, "out, "),
                    (Stderr, "err, "),
                    (Runner, "runner\n"),
                    (Stdout, "out\n"),
                    (Stderr, "err"),
                ]
            ),
            "@002Z 00O runner\n@000Z 01O out, out\n@001Z 01E err, err\n"
        );
    }

    #[test]
    fn what_the_masker_holds_stays_with_its_stream() {
        let masker = || Masker::new(["secret"], &[] as &[&str]);
        // Held, and then no secret after all.
        assert_eq!(
            log(
                masker(),
                &[(Stdout, "a sec"), (Stderr, "err\n"), (Stdout, "\n")]
            ),
            "@001Z 01E err\n@000Z 01O a sec\n"
        );
        // The same, of two streams at once.
        assert_eq!(
            log(
                masker(),
                &[(Stdout, "ase"), (Stderr, "cr"), (Stdout, "x\n")]
            ),
            "@000Z 01O asex\n@002Z 01E cr\n"
        );
        // A secret over two streams is masked where it began.
        assert_eq!(
            log(
                masker(),
                &[(Stdout, "a sec"), (Stderr, "ret!\n"), (Stdout, "\n")]
            ),
            "@001Z 01E !\n@000Z 01O a [MASKED]\n"
        );
        assert_eq!(
            log(masker(), &[(Stdout, "secret\nsecr")]),
            "@000Z 01O [MASKED]\n@000Z 01O secr\n"
        );
    }

    #[test]
    fn the_limit_counts_what_is_written() {
        let mut spool = TraceSpool::new(Masker::none(), 60).with_timestamps();
        spool.write(b"hello\nhello\n");
        assert!(spool.is_limited());
        let len = spool.finish().len;
        let log = spool.read(0..len).unwrap().concat();
        assert!(log.starts_with(b"1970-01-01T00:00:00.000000Z 01O hello\n1970-01-01T00:00:00"));
    }
}
