//! Replaces secrets by `[MASKED]` in a stream, however it is cut into writes.
//!
//! # What is masked
//!
//! A *span* is a range of the input that must not be shown:
//!
//! - each occurrence of a value, wherever it starts, also inside of another one;
//! - after each occurrence of a token prefix, the longest run of `A-Z a-z 0-9 . _ = -`, unless it is
//!   empty;
//! - after `?` or `&`, the name of a secret URL parameter in any case, and `=`: all up to the next
//!   `?`, `&`, ASCII whitespace or control character, even if it is empty.
//!
//! Spans that share a byte, or start at the same place, are one; for a URL parameter the `=` counts
//! as shared, so it joins a span that ends there. Each span is replaced by one `[MASKED]`; all other
//! bytes stay as they are, where they are. So the result depends on the input alone, not on the order
//! of the secrets and not on the cuts.
//!
//! # How it streams
//!
//! All up to the place where a vectorized search finds the start of a pattern is passed on as it is.
//! From there on, one automaton finds all values, all token prefixes, and `=` (which is then looked
//! at backwards for a name, that of GitLab's cookie among them), until it has begun no pattern. After a byte at `end`, its state gives the
//! *depth*: the length of the longest suffix of the input that is a proper prefix of a value. All
//! before `settled = end - depth` is decided:
//!
//! 1. A value that ends later starts at `settled` or after it. For if it starts at `s < end`, the
//!    input from `s` to `end` is a proper prefix of that value, and none is longer than the depth.
//!    The other spans start at once, where their first byte, or their place, is seen.
//! 2. So a byte before `settled` is shown if no known span has it, and a known span that starts at
//!    `s <= settled` prints its `[MASKED]` now: no later span can start before it and swallow it, and
//!    none can join it to an earlier span, since that one ends at `s` or before.
//! 3. A later span may start inside of one that was printed, or at the same place. It is the same
//!    span then and prints nothing; only its end moves on. That is why the last printed span is kept,
//!    even though its bytes are gone.
//! 4. A known span that starts after `settled` waits with the bytes before it, as a later one may
//!    still swallow it. Spans are found in the order of their ends, so a later one can only join the
//!    last ones in the list.
//!
//! `settled` never moves back: a start that is possible after the next byte was possible before it.
//! Fewer bytes cannot be held: those after `settled` do become a secret if the right bytes follow.

use std::{fmt, ops::Range};

use aho_corasick::automaton::{Automaton, StateID};

use super::{
    automaton::{Compact, Fast, Node, Patterns, Scanner},
    names::{LOOK_BACK, Secret, secret_after},
    prefilter::Prefilter,
    utf8,
};

pub(super) const MASK: &[u8] = b"[MASKED]";

/// Long writes are taken in pieces, which bounds the list of spans.
const PIECE: usize = 8 << 10;
/// So much is looked at by an automaton before the vectorized search has another try, ...
const SCANNED: usize = 64;
/// ... at first on a short piece. Each that is clean doubles the next one, so that where starts of
/// patterns are many, little is searched for nothing.
const SHORT_PIECE: usize = 128;

/// So many bytes seen by an automaton are worth the time to build the fast one, ...
const FAST_FROM: u64 = 256 << 10;
/// ... if the patterns leave it at about a megabyte.
const FAST_UP_TO: usize = 4 << 10;

/// Masks the secrets in one stream of bytes.
///
/// Bytes that may yet become a secret are held back until that is decided, and no others. `Debug`
/// shows counts only.
pub struct Masker {
    /// `None` masks nothing.
    finder: Option<Finder>,
    stream: Stream,
}

/// What finds the secrets.
struct Finder {
    patterns: Patterns,
    prefilter: Option<Prefilter>,
    /// How much is searched for them next.
    ahead: usize,
    engine: Engine,
    /// Whether the fast one may yet be built.
    can_be_fast: bool,
    /// How many bytes an automaton has seen.
    scanned: u64,
}

enum Engine {
    /// Not built before it is needed: many a job ends without, and keeps no room for it.
    None,
    Compact(Box<Compact>),
    Fast(Box<Fast>),
}

impl Masker {
    /// Masks `values`, what follows [`DEFAULT_TOKEN_PREFIXES`](super::DEFAULT_TOKEN_PREFIXES) and the given `token_prefixes` (of
    /// which GitLab sends its own with a job), and the values of URL parameters such as
    /// `private_token`.
    ///
    /// Values are trimmed. Empty ones and duplicates are dropped, and so are empty prefixes. A value
    /// of several lines is masked as a whole only. There is no smallest length and no largest
    /// number. All of them together have to stay below 500 MiB.
    pub fn new<V, P>(values: V, token_prefixes: P) -> Self
    where
        V: IntoIterator<Item: AsRef<str>>,
        P: IntoIterator<Item: AsRef<str>>,
    {
        let patterns = Patterns::new(values, token_prefixes);
        let finder = Finder {
            prefilter: Prefilter::new(&patterns),
            can_be_fast: patterns.total_len() <= FAST_UP_TO,
            patterns,
            ahead: PIECE,
            engine: Engine::None,
            scanned: 0,
        };
        Self {
            finder: Some(finder),
            stream: Stream::default(),
        }
    }

    /// Masks nothing at all and holds nothing back.
    pub fn none() -> Self {
        Self {
            finder: None,
            stream: Stream::default(),
        }
    }

    /// Takes the next bytes of the stream and passes on what is decided, in order, in as many calls
    /// of `out` as it takes. If each write is made of whole characters, so is each call.
    pub fn write(&mut self, input: &[u8], mut out: impl FnMut(&[u8])) {
        self.write_at(input, |_, bytes| out(bytes.unwrap_or(MASK)));
    }

    /// As [`write`](Self::write), but also says where in the input each piece begins; none is a
    /// `[MASKED]`.
    pub(super) fn write_at(&mut self, mut input: &[u8], mut out: impl FnMut(u64, Option<&[u8]>)) {
        let Some(finder) = &mut self.finder else {
            out(self.stream.end, Some(input));
            self.stream.end += input.len() as u64;
            return;
        };
        while !input.is_empty() {
            let clean = finder.clean_len(&self.stream, input);
            let len = match clean {
                0 => piece_len(input, finder.scan_len()),
                clean => clean,
            };
            let (piece, rest) = input.split_at(len);
            input = rest;
            self.stream.resume(piece);
            let depth = match clean {
                0 => finder.scan(&mut self.stream, piece),
                _ => 0,
            };
            self.stream.settle(piece, depth, &mut out);
        }
    }

    /// Ends the stream: all that is held back is passed on. A later write begins a new stream.
    pub fn finish(&mut self, mut out: impl FnMut(&[u8])) {
        self.finish_at(|_, bytes| out(bytes.unwrap_or(MASK)));
    }

    pub(super) fn finish_at(&mut self, mut out: impl FnMut(u64, Option<&[u8]>)) {
        if self.finder.is_none() {
            return;
        }
        self.stream.flush(&[], self.stream.end, &mut out);
        self.stream = Stream::default();
    }

    /// How much of the input was seen.
    pub(super) fn position(&self) -> u64 {
        self.stream.end
    }

    /// To be called in the first state only.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn use_fast(&mut self) {
        if let Some(finder) = &mut self.finder {
            finder.prefilter = None;
            finder.use_fast();
        }
    }

    /// Has every byte seen by the automaton.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn without_prefilter(mut self) -> Self {
        if let Some(finder) = &mut self.finder {
            finder.prefilter = None;
        }
        self
    }
}

impl Finder {
    /// How much of the start of `input`, which follows in `stream`, no automaton has to see.
    fn clean_len(&mut self, stream: &Stream, input: &[u8]) -> usize {
        let Some(prefilter) = &self.prefilter else {
            return 0;
        };
        if stream.state.is_some() {
            return 0;
        }
        let piece = &input[..piece_len(input, self.ahead)];
        let clean = prefilter.clean_len(piece);
        self.ahead = if clean == piece.len() {
            PIECE.min(self.ahead * 2)
        } else {
            SHORT_PIECE
        };
        clean
    }

    /// How much an automaton is to see next.
    fn scan_len(&self) -> usize {
        if self.prefilter.is_some() {
            SCANNED
        } else {
            PIECE
        }
    }

    /// Looks at the next bytes of `stream`, and gives the depth behind them.
    fn scan(&mut self, stream: &mut Stream, piece: &[u8]) -> usize {
        // The first state is the one place in which both automata know the same: nothing.
        if self.can_be_fast && self.scanned >= FAST_FROM && stream.state.is_none() {
            self.use_fast();
        }
        if let Engine::None = self.engine {
            self.engine = Engine::Compact(Box::new(Compact::compact(&self.patterns)));
        }
        self.scanned += piece.len() as u64;
        match &self.engine {
            // Just built.
            Engine::None => 0,
            Engine::Compact(scanner) => stream.scan(scanner, piece),
            Engine::Fast(scanner) => stream.scan(scanner, piece),
        }
    }

    /// In the first state only.
    fn use_fast(&mut self) {
        self.can_be_fast = false;
        if !matches!(self.engine, Engine::Fast(_))
            && let Some(fast) = Fast::fast(&self.patterns)
        {
            self.engine = Engine::Fast(Box::new(fast));
        }
    }
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns = self.finder.as_ref().map(|finder| &finder.patterns);
        f.debug_struct("Masker")
            .field("values", &patterns.map_or(0, Patterns::values))
            .field("token_prefixes", &patterns.map_or(0, Patterns::prefixes))
            .field("held_bytes", &self.stream.held.len())
            .finish_non_exhaustive()
    }
}

/// A range of the input to be masked, in bytes since its start.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// Whether this span and a later one are one. That one shares what it has from `shared` on.
    fn joins(self, later: Self, shared: u64) -> bool {
        shared < self.end || later.start == self.start
    }
}

/// Where the masker is in its input.
#[derive(Default)]
struct Stream {
    /// Of the automaton; `None` is its first one.
    state: Option<StateID>,
    /// How much of the input was seen.
    end: u64,
    /// How much of it was passed on or masked.
    done: u64,
    /// The last span that was printed.
    printed: Option<Span>,
    /// The spans after that, in order, none joining another.
    waiting: Vec<Span>,
    /// The input from `done` to the end of the last piece.
    held: Vec<u8>,
    /// Start of a URL parameter's value that is not over yet.
    url: Option<u64>,
    /// Start of a token that is not over yet, maybe with no character so far.
    token: Option<u64>,
    /// The end of the last token.
    token_end: u64,
    /// The last bytes of the piece before.
    before: [u8; LOOK_BACK],
}

impl Stream {
    /// Lets the automaton see `piece`, and gives the depth behind it.
    fn scan<A: Automaton>(&mut self, scanner: &Scanner<A>, piece: &[u8]) -> usize {
        let mut state = self.state.unwrap_or(scanner.start());
        for (at, &byte) in piece.iter().enumerate() {
            let (next, special) = scanner.step(state, byte);
            state = next;
            if special && let Some(node) = scanner.node(state) {
                self.on_match(*node, piece, at + 1);
            }
        }
        self.state = (state != scanner.start()).then_some(state);
        scanner.depth(state)
    }

    /// Ends the piece: passes on what is decided, and holds the rest.
    fn settle(&mut self, piece: &[u8], depth: usize, out: &mut impl FnMut(u64, Option<&[u8]>)) {
        self.end += piece.len() as u64;
        self.remember(piece);
        if depth == 0 && self.waiting.is_empty() && self.done + piece.len() as u64 == self.end {
            let at = std::mem::replace(&mut self.done, self.end);
            out(at, Some(piece));
        } else {
            self.flush(piece, self.end - depth as u64, out);
        }
    }

    /// Goes on with what the last piece left open. The end of that piece is the start of this one.
    fn resume(&mut self, piece: &[u8]) {
        if let Some(start) = self.url.take() {
            self.add_url(start, piece, 0);
        }
        if let Some(start) = self.token.take() {
            self.add_token(start, piece, 0);
        }
    }

    /// Takes what was found when `piece` was seen up to `at`.
    #[cold]
    fn on_match(&mut self, node: Node, piece: &[u8], at: usize) {
        let place = self.end + at as u64;
        if node.value > 0 {
            let start = place - u64::from(node.value);
            self.add(Span { start, end: place }, start);
        }
        let named = match node.equals {
            true => self.secret_after(piece, at - 1),
            false => None,
        };
        if named == Some(Secret::Parameter) {
            self.add_url(place, piece, at);
        }
        // A prefix inside of a token changes nothing.
        let is_prefix = node.prefix || named == Some(Secret::Token);
        if is_prefix && self.token.is_none() && place >= self.token_end {
            self.add_token(place, piece, at);
        }
    }

    /// The URL parameter's value that began at `start` goes on at `at`.
    fn add_url(&mut self, start: u64, piece: &[u8], at: usize) {
        let over = |&byte: &u8| byte <= b' ' || matches!(byte, b'?' | b'&' | 0x7F);
        let len = piece[at..].iter().position(over);
        if len.is_none() {
            self.url = Some(start);
        }
        let end = self.end + len.map_or(piece.len(), |len| at + len) as u64;
        // From the `=` on: an empty value must not depend on what else may start or end here.
        self.add(Span { start, end }, start.saturating_sub(1));
    }

    /// The token that began at `start` goes on at `at`.
    fn add_token(&mut self, start: u64, piece: &[u8], at: usize) {
        let over =
            |byte: &u8| !byte.is_ascii_alphanumeric() && !matches!(byte, b'.' | b'_' | b'=' | b'-');
        let len = piece[at..].iter().position(over);
        if len.is_none() {
            self.token = Some(start);
        }
        let end = self.end + len.map_or(piece.len(), |len| at + len) as u64;
        self.token_end = end;
        if end > start {
            self.add(Span { start, end }, start);
        }
    }

    /// Every span that is known ends at or before the end of `span`, or reaches into it.
    fn add(&mut self, mut span: Span, shared: u64) {
        while let Some(last) = self.waiting.pop_if(|last| last.joins(span, shared)) {
            span.start = span.start.min(last.start);
            span.end = span.end.max(last.end);
        }
        if let Some(printed) = &mut self.printed
            && printed.joins(span, shared)
        {
            printed.end = printed.end.max(span.end);
            self.done = self.done.max(span.end);
        } else {
            self.waiting.push(span);
        }
    }

    /// What the equals sign at `at` makes of what follows it.
    fn secret_after(&self, piece: &[u8], at: usize) -> Option<Secret> {
        if at >= LOOK_BACK {
            return secret_after(&piece[..at]);
        }
        let mut joined = [0; LOOK_BACK];
        joined[..LOOK_BACK - at].copy_from_slice(&self.before[at..]);
        joined[LOOK_BACK - at..].copy_from_slice(&piece[..at]);
        secret_after(&joined)
    }

    fn remember(&mut self, piece: &[u8]) {
        if let Some(last) = piece.last_chunk() {
            self.before = *last;
        } else {
            self.before.copy_within(piece.len().., 0);
            self.before[LOOK_BACK - piece.len()..].copy_from_slice(piece);
        }
    }

    /// Passes on all before `settled`, where `piece` is the end of the input, and holds the rest.
    fn flush(&mut self, piece: &[u8], settled: u64, out: &mut impl FnMut(u64, Option<&[u8]>)) {
        let input = Input {
            held: &self.held,
            piece,
            end: self.end,
        };
        let ready = self.waiting.partition_point(|span| span.start <= settled);
        for span in self.waiting.drain(..ready) {
            input.pass(self.done..span.start, out);
            out(span.start, None);
            self.done = span.end;
            self.printed = Some(span);
        }
        if self.done < settled {
            input.pass(self.done..settled, out);
            self.done = settled;
        }
        let hold = to_usize(self.end - self.done);
        match hold.checked_sub(piece.len()) {
            Some(old) => {
                self.held.drain(..self.held.len() - old);
                self.held.extend_from_slice(piece);
            }
            None => {
                self.held.clear();
                self.held.extend_from_slice(&piece[piece.len() - hold..]);
            }
        }
    }
}

/// What can still be passed on: the bytes held so far, and the new piece behind them.
struct Input<'a> {
    held: &'a [u8],
    piece: &'a [u8],
    /// Where the piece ends in the stream.
    end: u64,
}

impl Input<'_> {
    fn pass(&self, range: Range<u64>, out: &mut impl FnMut(u64, Option<&[u8]>)) {
        let start = self.end - (self.held.len() + self.piece.len()) as u64;
        let (from, to) = (to_usize(range.start - start), to_usize(range.end - start));
        let split = self.held.len();
        if from < split.min(to) {
            out(range.start, Some(&self.held[from..split.min(to)]));
        }
        if to > split.max(from) {
            let from = from.max(split);
            out(
                start + from as u64,
                Some(&self.piece[from - split..to - split]),
            );
        }
    }
}

/// For distances between places in memory, which fit.
fn to_usize(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

/// The length of the first piece, of `most` bytes if there are so many; it does not end inside a
/// character.
fn piece_len(input: &[u8], most: usize) -> usize {
    if input.len() <= most {
        input.len()
    } else {
        utf8::floor(input, most)
    }
}
