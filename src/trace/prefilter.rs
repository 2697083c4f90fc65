//! Tells at a glance that there is nothing to mask, which is so for nearly all of a log.

use std::{collections::BTreeSet, sync::LazyLock};

use aho_corasick::packed::Searcher;

use super::automaton::{DEFAULT_TOKEN_PREFIXES, Patterns};

/// So much of the start of a pattern is looked for. Longer ones would let the vectorized search
/// meet fewer places in vain, but the end of each piece would have to be looked at more closely.
const START: usize = 4;
/// The search needs that much of each pattern to be fast.
const SHORTEST: usize = 3;

/// How the names of secret URL parameters end, with the sign behind them, in small letters.
const NAME_ENDS: [[u8; 3]; 3] = [*b"en=", *b"re=", *b"al="];

/// What is the same for all jobs, since it takes time to make.
static SHARED: LazyLock<Starts> = LazyLock::new(|| {
    let mut starts = Starts::default();
    let prefixes = DEFAULT_TOKEN_PREFIXES
        .iter()
        .map(|prefix| prefix.as_bytes());
    let mut all: BTreeSet<Vec<u8>> = prefixes.map(|prefix| starts.start(prefix)).collect();
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
    starts.search = Searcher::new(all);
    starts
});

/// Looks for the starts of all patterns with vector instructions.
pub(super) struct Prefilter {
    /// `None` if the job has no pattern that not all jobs have.
    own: Option<Starts>,
}

struct Starts {
    search: Option<Searcher>,
    /// The bytes that a start which is not complete can end with.
    open: [bool; 256],
}

impl Prefilter {
    /// `None` where it would not help: too many patterns or too short ones, or a processor without
    /// the instructions.
    pub(super) fn new(patterns: &Patterns) -> Option<Self> {
        SHARED.search.as_ref()?;
        let is_shared = |pattern: &[u8]| {
            let mut shared = DEFAULT_TOKEN_PREFIXES.iter();
            shared.any(|prefix| prefix.as_bytes() == pattern)
        };
        let mut starts = Starts::default();
        let mut own = BTreeSet::new();
        for pattern in patterns.values_and_prefixes() {
            if pattern.len() < SHORTEST {
                return None;
            }
            if !is_shared(pattern) {
                own.insert(starts.start(pattern));
            }
        }
        if own.is_empty() {
            return Some(Self { own: None });
        }
        starts.search = Some(Searcher::new(own)?);
        Some(Self { own: Some(starts) })
    }

    /// Whether no pattern is in `piece`, none can begin in it, and none of the names of URL
    /// parameters that end at an equals sign in it is secret. That is, if no pattern has begun
    /// before; a name may have.
    pub(super) fn is_clean(&self, piece: &[u8]) -> bool {
        let mut name_end = piece.iter().take(NAME_ENDS[0].len() - 1);
        !name_end.any(|byte| *byte == b'=')
            && self.own.as_ref().is_none_or(|own| own.are_not_in(piece))
            && SHARED.are_not_in(piece)
    }
}

impl Default for Starts {
    fn default() -> Self {
        Self {
            search: None,
            open: [false; 256],
        }
    }
}

impl Starts {
    /// What to look for instead of `pattern`.
    fn start(&mut self, pattern: &[u8]) -> Vec<u8> {
        let start = &pattern[..pattern.len().min(START)];
        for &byte in &start[..start.len().saturating_sub(1)] {
            self.open[usize::from(byte)] = true;
        }
        start.to_vec()
    }

    /// A pattern that begins in `piece` has all of its start there, or `piece` ends inside of it.
    fn are_not_in(&self, piece: &[u8]) -> bool {
        let ends_open = piece
            .last()
            .is_some_and(|last| self.open[usize::from(*last)]);
        !ends_open
            && self
                .search
                .as_ref()
                .is_some_and(|search| search.find(piece).is_none())
    }
}
