//! Tells at a glance that there is nothing to mask, which is so for nearly all of a log.

use std::{collections::BTreeSet, sync::LazyLock};

use aho_corasick::packed;
use memchr::memmem;

use super::{
    automaton::{DEFAULT_TOKEN_PREFIXES, Patterns},
    utf8,
};

/// So much of the start of a pattern is looked for. Longer ones would let the vectorized search
/// meet fewer places in vain, but the end of each piece would have to be looked at more closely.
const START: usize = 4;
/// The search needs that much of each pattern to be fast.
const SHORTEST: usize = 3;
/// So many starts are looked for one by one: a search for several at once takes long to make.
const FEW: usize = 3;

/// How the names of secret URL parameters end, with the sign behind them, in small letters.
const NAME_ENDS: [[u8; 3]; 3] = [*b"en=", *b"re=", *b"al="];

/// What is the same for all jobs, since it takes time to make.
static SHARED: LazyLock<Starts> = LazyLock::new(|| {
    let mut starts = Starts::default();
    let prefixes = DEFAULT_TOKEN_PREFIXES
        .iter()
        .map(|prefix| prefix.as_bytes());
    let mut all: BTreeSet<Vec<u8>> = prefixes
        .map(|prefix| starts.start(prefix).to_vec())
        .collect();
    for end in NAME_ENDS {
        for case in 0..4_u8 {
            let mut end = end;
            for (at, letter) in end[..2].iter_mut().enumerate() {
                if case >> at & 1 == 1 {
                    letter.make_ascii_uppercase();
                }
            }
            all.insert(end.to_vec());
        }
    }
    starts.search = packed::Searcher::new(all).map(Search::Many);
    starts
});

/// Looks for the starts of all patterns with vector instructions.
pub(super) struct Prefilter {
    /// `None` if the job has no pattern that not all jobs have.
    own: Option<Starts>,
}

#[derive(Default)]
struct Starts {
    search: Option<Search>,
    /// The bytes that a start which is not complete can end with.
    open: ByteSet,
}

enum Search {
    Few(Vec<memmem::Finder<'static>>),
    Many(packed::Searcher),
}

/// One bit for each byte.
#[derive(Default)]
struct ByteSet([u64; 4]);

impl Prefilter {
    /// `None` where it would not help: too many patterns or too short ones, or a processor without
    /// the instructions.
    pub(super) fn new(patterns: &Patterns) -> Option<Self> {
        SHARED.search.as_ref()?;
        let mut starts = Starts::default();
        let mut own = Vec::new();
        for pattern in patterns.own() {
            if pattern.len() < SHORTEST {
                return None;
            }
            let start = starts.start(pattern);
            let is_shared = |prefix: &&str| prefix.as_bytes().get(..START) == Some(start);
            if !DEFAULT_TOKEN_PREFIXES.iter().any(is_shared) {
                own.push(start);
            }
        }
        own.sort_unstable();
        own.dedup();
        starts.search = Some(match own.len() {
            0 => return Some(Self { own: None }),
            1..=FEW => {
                let finders = own.iter().map(memmem::Finder::new);
                Search::Few(finders.map(memmem::Finder::into_owned).collect())
            }
            _ => Search::Many(packed::Searcher::new(own)?),
        });
        Some(Self { own: Some(starts) })
    }

    /// The length of the first part of `piece` in which no pattern begins and none of the names of
    /// URL parameters that end at an equals sign is secret. That is, if no pattern has begun before;
    /// a name may have. It is made of whole characters.
    pub(super) fn clean_len(&self, piece: &[u8]) -> usize {
        let mut name_end = piece.iter().take(NAME_ENDS[0].len() - 1);
        if name_end.any(|byte| *byte == b'=') {
            return 0;
        }
        let clean = match &self.own {
            Some(own) => own.clean_len(piece),
            None => piece.len(),
        };
        SHARED.clean_len(&piece[..clean])
    }
}

impl Starts {
    /// What to look for instead of `pattern`.
    fn start<'a>(&mut self, pattern: &'a [u8]) -> &'a [u8] {
        let start = &pattern[..pattern.len().min(START)];
        for &byte in &start[..start.len().saturating_sub(1)] {
            self.open.insert(byte);
        }
        start
    }

    /// A pattern that begins in `piece` has all of its start there, or `piece` ends inside of it.
    fn clean_len(&self, piece: &[u8]) -> usize {
        let len = self.search.as_ref().map_or(0, |search| search.first(piece));
        match piece.last() {
            Some(last) if len == piece.len() && self.open.contains(*last) => {
                utf8::floor(piece, len.saturating_sub(START - 1))
            }
            _ => len,
        }
    }
}

impl Search {
    /// Where the first start begins, or where `piece` ends.
    fn first(&self, piece: &[u8]) -> usize {
        match self {
            Self::Few(finders) => finders.iter().fold(piece.len(), |first, finder| {
                let before = &piece[..piece.len().min(first + START - 1)];
                finder.find(before).unwrap_or(first)
            }),
            Self::Many(searcher) => searcher
                .find(piece)
                .map_or(piece.len(), |found| found.start()),
        }
    }
}

impl ByteSet {
    fn insert(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }
}
