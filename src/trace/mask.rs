//! Replaces secrets in a stream of bytes, wherever the stream is cut.
//!
//! What is masked is the union of all occurrences of all secrets in the joined stream: occurrences
//! that overlap become one `[MASKED]`, those that merely touch stay two. One Aho-Corasick automaton
//! runs over the stream. After each byte the *depth* of its state is the length of the longest end
//! of the stream so far that begins some pattern. Every occurrence yet to be completed has to begin
//! within these last bytes, so all bytes before them are decided and can leave; only the last
//! `depth` bytes are held back. An occurrence that reaches into the held bytes prints its
//! `[MASKED]` once, when its beginning is decided; a later occurrence that overlaps it only makes
//! it longer.
//!
//! Token prefixes and URL parameters need no holding back, since their beginning stays readable:
//! they are patterns of the same automaton that open a *tail*, which masks bytes as they come.

use std::{collections::BTreeMap, fmt};

use aho_corasick::{
    Anchored, BuildError, MatchKind,
    automaton::{Automaton, StateID},
    dfa, nfa,
};

/// What stands in the log in place of a secret.
const MASKED: &[u8] = b"[MASKED]";

/// Beginnings of tokens that GitLab's own runner masks in every job.
pub const DEFAULT_TOKEN_PREFIXES: [&str; 14] = [
    "glpat-",
    "gloas-",
    "gldt-",
    "glrt-",
    "glcbt-",
    "glrtr-",
    "glptt-",
    "glft-",
    "glimt-",
    "glagent-",
    "glsoat-",
    "glffct-",
    "_gitlab_session=",
    "gltok-",
];

/// URL parameters (with the `=`) whose values are masked behind `?` and `&`, in any case.
const PARAMETERS: [&[u8]; 6] = [
    b"private_token=",
    b"authenticity_token=",
    b"rss_token=",
    b"x-amz-signature=",
    b"x-amz-credential=",
    b"x-amz-security-token=",
];

/// Above this many bytes of patterns the automaton takes its smaller and slower form.
const DFA_LIMIT: usize = 8 << 10;

/// A streaming masker for the log of one job.
pub struct Masker {
    automaton: Option<Patterns>,
    /// Bytes that may still become a secret; the first of them stands at `base` in the stream.
    held: Vec<u8>,
    base: u64,
    /// What has to be masked, in order and apart from each other, as far as it is not printed yet.
    covers: Vec<Cover>,
    /// What the last `[MASKED]` stands for.
    printed: Option<Cover>,
    tail: Tail,
}

/// Bytes of the stream, from `start` to before `end`. May be empty: an empty parameter is masked too.
#[derive(Clone, Copy, Debug)]
struct Cover {
    start: u64,
    end: u64,
}

impl Cover {
    /// Whether one `[MASKED]` stands for both, where `later` ends later.
    fn joins(&self, later: &Self) -> bool {
        later.start < self.end || later.start == self.start
    }
}

/// What the bytes to come may be part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    None,
    /// A token whose prefix ended at this place.
    Token(u64),
    /// The name of a URL parameter; this much of it, of these candidates (one bit each).
    Name {
        len: usize,
        candidates: u8,
    },
    /// The value of a secret URL parameter that begins at this place.
    Value(u64),
}

struct Patterns {
    automaton: Machine,
    state: StateID,
    classes: Vec<Class>,
    depths: BTreeMap<StateID, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Secret,
    TokenPrefix,
    /// `?` or `&`.
    Parameter,
}

enum Machine {
    Dfa(dfa::DFA),
    Nfa(nfa::contiguous::NFA),
}

impl Masker {
    /// A masker for these secret values and for tokens with [`DEFAULT_TOKEN_PREFIXES`] and these
    /// prefixes.
    ///
    /// Values are trimmed; empty ones and repetitions do not count. There is no minimum length:
    /// GitLab sees to that for masked variables.
    pub fn new<V, P>(values: V, token_prefixes: P) -> Self
    where
        V: IntoIterator<Item: AsRef<str>>,
        P: IntoIterator<Item: AsRef<str>>,
    {
        let mut patterns: BTreeMap<Vec<u8>, Class> = BTreeMap::new();
        for parameter in [b"?", b"&"] {
            patterns.insert(parameter.to_vec(), Class::Parameter);
        }
        let prefixes = token_prefixes
            .into_iter()
            .map(|prefix| prefix.as_ref().trim().to_owned());
        for prefix in DEFAULT_TOKEN_PREFIXES
            .into_iter()
            .map(str::to_owned)
            .chain(prefixes)
        {
            if !prefix.is_empty() {
                patterns.insert(prefix.into_bytes(), Class::TokenPrefix);
            }
        }
        // A value that is a prefix as well is masked whole.
        for value in values {
            let value = value.as_ref().trim();
            if !value.is_empty() {
                patterns.insert(value.as_bytes().to_vec(), Class::Secret);
            }
        }
        match Patterns::new(&patterns) {
            Ok(automaton) => Self {
                automaton: Some(automaton),
                ..Self::none()
            },
            // More patterns than an automaton can hold (gigabytes of them): show nothing at all.
            Err(_) => Self {
                covers: vec![Cover {
                    start: 0,
                    end: u64::MAX,
                }],
                ..Self::none()
            },
        }
    }

    /// Masks nothing.
    pub fn none() -> Self {
        Self {
            automaton: None,
            held: Vec::new(),
            base: 0,
            covers: Vec::new(),
            printed: None,
            tail: Tail::None,
        }
    }
}

impl Masker {
    /// Takes the next bytes of the stream and gives those that are decided to `out`, in order.
    pub fn write(&mut self, input: &[u8], mut out: impl FnMut(&[u8])) {
        let start = self.base + self.held.len() as u64;
        let end = start + input.len() as u64;
        self.scan(input, start);
        let depth = self.automaton.as_ref().map_or(0, Patterns::depth) as u64;
        self.print(input, start, end.saturating_sub(depth), &mut out);
        let decided = usize::try_from(end - depth - self.base).unwrap_or(usize::MAX);
        if decided >= self.held.len() {
            let from = decided - self.held.len();
            self.held.clear();
            self.held
                .extend_from_slice(input.get(from..).unwrap_or_default());
        } else {
            self.held.drain(..decided);
            self.held.extend_from_slice(input);
        }
        self.base = end - depth;
    }

    /// Gives what was held back: the stream has ended. A later write begins a new stream.
    pub fn finish(&mut self, mut out: impl FnMut(&[u8])) {
        let end = self.base + self.held.len() as u64;
        self.print(&[], end, end, &mut out);
        // An empty parameter at the very end.
        if self
            .covers
            .iter()
            .any(|cover| cover.start == end && cover.end == end)
        {
            out(MASKED);
        }
        self.covers.retain(|cover| cover.end == u64::MAX);
        self.held.clear();
        self.base = end;
        self.tail = Tail::None;
        if let Some(patterns) = &mut self.automaton {
            patterns.restart();
        }
    }

    /// Runs over `input`, which begins at `at` in the stream, and notes what has to be masked.
    fn scan(&mut self, input: &[u8], at: u64) {
        let Some(patterns) = &mut self.automaton else {
            return;
        };
        let mut rest = input;
        while !rest.is_empty() {
            let mut position = at + (input.len() - rest.len()) as u64;
            if self.tail == Tail::None {
                let Some(passed) = patterns.next_match(rest) else {
                    return;
                };
                rest = &rest[passed..];
                position += passed as u64;
            } else {
                let byte = rest[0];
                rest = &rest[1..];
                step_tail(&mut self.tail, &mut self.covers, byte, position);
                position += 1;
                if !patterns.step(byte) {
                    continue;
                }
            }
            // A pattern ends just before `position`.
            let (mut secret, mut prefix, mut parameter) = (0, false, false);
            patterns.matches(|class, len| match class {
                Class::Secret => secret = secret.max(len),
                Class::TokenPrefix => prefix = true,
                Class::Parameter => parameter = true,
            });
            if secret > 0 {
                cover(&mut self.covers, position - secret as u64, position);
            }
            if parameter {
                self.tail = Tail::Name {
                    len: 0,
                    candidates: !0,
                };
            } else if prefix && !matches!(self.tail, Tail::Token(_) | Tail::Value(_)) {
                self.tail = Tail::Token(position);
            }
        }
    }

    /// Prints the stream from `base` to before `decided`. `input` begins at `at`.
    fn print(&mut self, input: &[u8], at: u64, decided: u64, out: &mut impl FnMut(&[u8])) {
        let Self {
            held,
            base,
            covers,
            printed,
            ..
        } = self;
        let literal = |from: u64, to: u64, out: &mut dyn FnMut(&[u8])| {
            for part in [slice(held, *base, from, to), slice(input, at, from, to)] {
                if !part.is_empty() {
                    out(part);
                }
            }
        };
        let mut cursor = *base;
        let mut spent = 0;
        for cover in covers.iter().take_while(|cover| cover.start < decided) {
            literal(cursor, cover.start, out);
            match printed {
                Some(printed) if printed.joins(cover) => printed.end = printed.end.max(cover.end),
                _ => {
                    *printed = Some(*cover);
                    out(MASKED);
                }
            }
            cursor = cursor.max(cover.end.min(decided));
            // What reaches further still hides what comes.
            spent += usize::from(cover.end <= decided);
        }
        literal(cursor, decided, out);
        covers.drain(..spent);
    }
}

/// The part of `bytes`, which begin at `origin` in the stream, from `from` to before `to`.
fn slice(bytes: &[u8], origin: u64, from: u64, to: u64) -> &[u8] {
    let index = |place: u64| {
        let offset = place.saturating_sub(origin).min(bytes.len() as u64);
        usize::try_from(offset).unwrap_or(bytes.len())
    };
    let (from, to) = (index(from), index(to));
    bytes.get(from..to).unwrap_or_default()
}

/// Notes that the stream from `start` to before `end`, which is where it has come to, is a secret.
fn cover(covers: &mut Vec<Cover>, start: u64, end: u64) {
    let mut new = Cover { start, end };
    while let Some(last) = covers.pop_if(|last| last.joins(&new)) {
        new.start = new.start.min(last.start);
    }
    covers.push(new);
}

/// What `byte`, at `position` in the stream, means for what is open.
fn step_tail(tail: &mut Tail, covers: &mut Vec<Cover>, byte: u8, position: u64) {
    match *tail {
        Tail::None => {}
        Tail::Token(start) => {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'=' | b'-') {
                cover(covers, start, position + 1);
            } else {
                *tail = Tail::None;
            }
        }
        Tail::Name { len, candidates } => {
            let byte = byte.to_ascii_lowercase();
            let mut left = 0;
            for (index, name) in PARAMETERS.iter().enumerate() {
                if candidates & (1 << index) != 0 && name.get(len) == Some(&byte) {
                    left |= 1 << index;
                }
            }
            *tail = match left {
                0 => Tail::None,
                _ if byte == b'=' => {
                    cover(covers, position + 1, position + 1);
                    Tail::Value(position + 1)
                }
                candidates => Tail::Name {
                    len: len + 1,
                    candidates,
                },
            };
        }
        Tail::Value(start) => {
            if matches!(byte, b'?' | b'&') || byte.is_ascii_whitespace() || byte.is_ascii_control()
            {
                *tail = Tail::None;
            } else {
                cover(covers, start, position + 1);
            }
        }
    }
}

impl Patterns {
    fn new(patterns: &BTreeMap<Vec<u8>, Class>) -> Result<Self, BuildError> {
        let bytes: usize = patterns.keys().map(Vec::len).sum();
        let automaton = if bytes <= DFA_LIMIT {
            let mut builder = dfa::Builder::new();
            builder.match_kind(MatchKind::Standard).prefilter(false);
            Machine::Dfa(builder.build(patterns.keys())?)
        } else {
            let mut builder = nfa::contiguous::Builder::new();
            builder.match_kind(MatchKind::Standard).prefilter(false);
            Machine::Nfa(builder.build(patterns.keys())?)
        };
        let start = automaton.start();
        let mut depths = BTreeMap::from([(start, 0)]);
        for pattern in patterns.keys() {
            // The longest end of these bytes that begins a pattern is all of them.
            let mut state = start;
            for (index, byte) in pattern.iter().enumerate() {
                state = automaton.next(state, *byte);
                depths.insert(state, index + 1);
            }
        }
        let classes = patterns.values().copied().collect();
        Ok(Self {
            automaton,
            state: start,
            classes,
            depths,
        })
    }

    fn restart(&mut self) {
        self.state = self.automaton.start();
    }

    /// How many of the last bytes begin some pattern.
    fn depth(&self) -> usize {
        self.depths.get(&self.state).copied().unwrap_or(0)
    }

    /// One byte; whether a pattern ends with it.
    fn step(&mut self, byte: u8) -> bool {
        self.state = self.automaton.next(self.state, byte);
        self.automaton.is_match(self.state)
    }

    /// Runs up to and over the first byte with which a pattern ends; how many bytes that are.
    fn next_match(&mut self, bytes: &[u8]) -> Option<usize> {
        match &self.automaton {
            Machine::Dfa(automaton) => run(automaton, &mut self.state, bytes),
            Machine::Nfa(automaton) => run(automaton, &mut self.state, bytes),
        }
    }

    /// Class and length of each pattern that ends here.
    fn matches(&self, mut each: impl FnMut(Class, usize)) {
        let mut tell = |automaton: &dyn Automaton| {
            for index in 0..automaton.match_len(self.state) {
                let pattern = automaton.match_pattern(self.state, index);
                if let Some(class) = self.classes.get(pattern.as_usize()) {
                    each(*class, automaton.pattern_len(pattern));
                }
            }
        };
        match &self.automaton {
            Machine::Dfa(automaton) => tell(automaton),
            Machine::Nfa(automaton) => tell(automaton),
        }
    }
}

/// The hot loop.
fn run<A: Automaton>(automaton: &A, state: &mut StateID, bytes: &[u8]) -> Option<usize> {
    let mut at = *state;
    for (index, byte) in bytes.iter().enumerate() {
        at = automaton.next_state(Anchored::No, at, *byte);
        if automaton.is_match(at) {
            *state = at;
            return Some(index + 1);
        }
    }
    *state = at;
    None
}

impl Machine {
    fn start(&self) -> StateID {
        let start = match self {
            Self::Dfa(automaton) => automaton.start_state(Anchored::No),
            Self::Nfa(automaton) => automaton.start_state(Anchored::No),
        };
        // Both are built for unanchored searches, which is all that could be wrong here.
        start.unwrap_or_default()
    }

    fn next(&self, state: StateID, byte: u8) -> StateID {
        match self {
            Self::Dfa(automaton) => automaton.next_state(Anchored::No, state, byte),
            Self::Nfa(automaton) => automaton.next_state(Anchored::No, state, byte),
        }
    }

    fn is_match(&self, state: StateID) -> bool {
        match self {
            Self::Dfa(automaton) => automaton.is_match(state),
            Self::Nfa(automaton) => automaton.is_match(state),
        }
    }
}

/// Secrets do not print.
impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |wanted: Class| {
            let classes = self.automaton.iter().flat_map(|patterns| &patterns.classes);
            classes.filter(|class| **class == wanted).count()
        };
        f.debug_struct("Masker")
            .field("secrets", &count(Class::Secret))
            .field("token_prefixes", &count(Class::TokenPrefix))
            .field("held_bytes", &self.held.len())
            .finish()
    }
}
