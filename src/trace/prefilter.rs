//! Tells at a glance that there is nothing to mask, which is so for nearly all of a log.

use std::sync::LazyLock;

use aho_corasick::packed;
use memchr::memmem;

use super::{
    automaton::{Patterns, default_prefixes},
    names::{LOOK_BACK, may_end_name, secret_after},
};

/// So much of the start of a pattern is looked for: enough for the vectorized search to find rare
/// bytes in it.
const START: usize = 8;
/// The search needs that much of each pattern to be fast.
const SHORTEST: usize = 3;
/// So many starts are looked for one by one: a search for several at once takes long to make.
const FEW: usize = 3;

/// Looks for what is the same for all jobs.
static SHARED: LazyLock<Shared> = LazyLock::new(|| Shared {
    token: memmem::Finder::new(TOKEN),
    starts: default_prefixes()
        .filter_map(|prefix| prefix.first_chunk().copied())
        .collect(),
});

/// How the prefixes of all of GitLab's own tokens begin.
const TOKEN: &[u8] = b"gl";
/// So much tells them from other words.
const TOKEN_START: usize = 4;

/// Looks for the starts of all patterns with vector instructions.
pub(super) struct Prefilter {
    /// `None` if the job has no pattern that not all jobs have.
    own: Option<Starts>,
}

struct Shared {
    token: memmem::Finder<'static>,
    /// Of the prefixes of tokens.
    starts: Vec<[u8; TOKEN_START]>,
}

struct Starts {
    search: Search,
    all: Vec<Start>,
    /// The bytes that a start which is not complete can end with.
    open: ByteSet,
}

/// How a pattern begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Start {
    /// Filled up with zeros.
    bytes: [u8; START],
    len: usize,
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
        let mut all = Vec::new();
        for pattern in patterns.own() {
            if pattern.len() < SHORTEST {
                return None;
            }
            if !SHARED.finds(pattern) {
                all.push(Start::of(pattern));
            }
        }
        all.sort_unstable();
        all.dedup();
        if all.is_empty() {
            return Some(Self { own: None });
        }
        let bytes = all.iter().map(Start::bytes);
        let search = if all.len() <= FEW {
            let finders = bytes.map(memmem::Finder::new);
            Search::Few(finders.map(memmem::Finder::into_owned).collect())
        } else {
            Search::Many(packed::Searcher::new(bytes)?)
        };
        let mut open = ByteSet::default();
        let unfinished = all.iter().flat_map(|start| &start.bytes[..start.len - 1]);
        unfinished.for_each(|byte| open.insert(*byte));
        let own = Some(Starts { search, all, open });
        Some(Self { own })
    }

    /// The length of the first part of `piece` in which no pattern begins and none of the names that
    /// end at an equals sign makes a secret of what follows. That is, if no pattern has begun before;
    /// a name may have. It is made of whole characters.
    pub(super) fn clean_len(&self, piece: &[u8]) -> usize {
        let clean = match &self.own {
            Some(own) => own.clean_len(piece),
            None => piece.len(),
        };
        let clean = SHARED.without_token(&piece[..clean]);
        without_name(&piece[..clean])
    }
}

impl Shared {
    /// Whether `start` is that of a token.
    fn finds(&self, start: &[u8]) -> bool {
        start
            .first_chunk()
            .is_some_and(|start| self.starts.contains(start))
    }

    /// The length of the first part of `piece` in which no prefix of a token begins.
    fn without_token(&self, piece: &[u8]) -> usize {
        for at in self.token.find_iter(piece) {
            let rest = &piece[at..];
            if rest.len() < TOKEN_START || self.finds(rest) {
                return at;
            }
        }
        match piece {
            [before @ .., last] if *last == TOKEN[0] => before.len(),
            _ => piece.len(),
        }
    }
}

/// The length of the first part of `piece` without an equals sign that may follow a name.
fn without_name(piece: &[u8]) -> usize {
    let mut signs = memchr::memchr_iter(b'=', piece);
    let name_end = signs.find(|at| {
        let before = &piece[..*at];
        match before.len() >= LOOK_BACK {
            true => secret_after(before).is_some(),
            false => may_end_name(before),
        }
    });
    name_end.unwrap_or(piece.len())
}

impl Starts {
    /// The length of the first part of `piece` in which no start begins.
    fn clean_len(&self, piece: &[u8]) -> usize {
        let found = self.search.first(piece);
        match piece.last() {
            // A long one that ends behind the piece may begin before a short one within it.
            Some(last) if found + START > piece.len() && self.open.contains(*last) => {
                found.min(piece.len() - self.unfinished_len(piece))
            }
            _ => found,
        }
    }

    /// The length of the longest start that the end of `piece` is in, or 0.
    fn unfinished_len(&self, piece: &[u8]) -> usize {
        let lens = self.all.iter().filter_map(|start| {
            let mut lens = (1..start.len).rev();
            // Its last byte tells most of them.
            lens.find(|len| {
                piece.last() == Some(&start.bytes[len - 1]) && piece.ends_with(&start.bytes[..*len])
            })
        });
        lens.max().unwrap_or(0)
    }
}

impl Start {
    fn of(pattern: &[u8]) -> Self {
        let len = pattern.len().min(START);
        let mut bytes = [0; START];
        bytes[..len].copy_from_slice(&pattern[..len]);
        Self { bytes, len }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Search {
    /// Where the first start begins, or where `piece` ends.
    fn first(&self, piece: &[u8]) -> usize {
        match self {
            Self::Few(finders) => finders.iter().fold(piece.len(), |first, finder| {
                let before = &piece[..piece.len().min(first + START - 1)];
                // What is shorter than the longest start may be found behind it.
                finder.find(before).map_or(first, |at| at.min(first))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn clean_len(values: &[&str], piece: &str) -> usize {
        let patterns = Patterns::new(values, &[] as &[&str]);
        Prefilter::new(&patterns)
            .unwrap()
            .clean_len(piece.as_bytes())
    }

    #[test]
    fn it_stops_where_a_token_begins_and_hardly_elsewhere() {
        // Otherwise they would have to be looked for.
        assert!(default_prefixes().all(|it| it.starts_with(TOKEN) && it.len() >= TOKEN_START));
        for (piece, clean) in [
            ("a glpat-", 2),
            ("glue glob glrt", 10),
            ("toggle x", 8),
            ("toggle", 3),
            ("a glr", 2),
            ("a glue", 6),
            ("a gl", 2),
            ("a g", 2),
            ("a gx", 4),
        ] {
            assert_eq!(clean_len(&[], piece), clean, "{piece}");
        }
    }

    #[test]
    fn it_stops_at_an_equals_sign_that_may_follow_a_name() {
        let far = "x".repeat(LOOK_BACK);
        for (piece, clean) in [
            ("=", 0),
            ("n=", 1),
            ("TOKEN=", 5),
            ("a=b", 3),
            (&format!("{far}token=1"), far.len() + 7),
            (&format!("{far}?private_token=1"), far.len() + 14),
            (&format!("a=1 {far}_gitlab_session=1"), far.len() + 19),
        ] {
            assert_eq!(clean_len(&[], piece), clean, "{piece}");
        }
    }

    #[test]
    fn it_stops_at_the_first_of_several_values() {
        for values in [&["a b", "b a"], &["b a", "a b"], &["longer value", "a b"]] {
            assert_eq!(clean_len(values, "xx a b a longer value"), 3, "{values:?}");
        }
    }

    #[test]
    fn it_stops_where_a_long_value_may_begin_around_a_short_one() {
        for others in [&[][..], &["other", "values"]] {
            let values = [&["9^^^^", "^^^"], others].concat();
            for (piece, clean) in [
                ("xxxxxxxxx9^^^", 9),
                ("xx9^^^^", 2),
                ("x9^^", 1),
                ("x^^^", 1),
            ] {
                assert_eq!(clean_len(&values, piece), clean, "{values:?} {piece}");
            }
        }
    }

    #[test]
    fn it_stops_where_a_value_begins() {
        for values in [
            &["value"][..],
            &["value", "glimpse", "ähnlich", "four", "and five"],
        ] {
            for (piece, clean) in [
                ("a value", 2),
                ("a valix", 7),
                // Nor where one may have begun.
                ("abcdef val", 7),
                ("abcdef va", 7),
                ("abcdef lu", 9),
                ("äöüäöva", 10),
            ] {
                assert_eq!(clean_len(values, piece), clean, "{values:?} {piece}");
            }
        }
    }

    #[test]
    fn no_value_begins_in_what_is_clean() {
        fn text(bytes: &[u8]) -> String {
            bytes
                .iter()
                .map(|it| ['a', 'b', 'g', 'l'][usize::from(it % 4)])
                .collect()
        }
        fn law(values: Vec<Vec<u8>>, piece: Vec<u8>, prefix: u8) -> bool {
            let mut values: Vec<String> = values.iter().map(|it| text(it)).collect();
            values.retain(|value| value.len() >= SHORTEST);
            let piece = text(&piece)
                + values
                    .first()
                    .map_or("", |it| &it[..usize::from(prefix) % it.len()]);
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let clean = clean_len(&values, &piece);
            let mut begins = (0..clean).map(|at| &piece[at..]);
            !begins.any(|rest| {
                let mut values = values.iter();
                values.any(|value| rest.starts_with(value) || value.starts_with(rest))
            })
        }
        quickcheck::QuickCheck::new()
            .rng(quickcheck::Gen::new(24))
            .tests(2000)
            .quickcheck(law as fn(Vec<Vec<u8>>, Vec<u8>, u8) -> bool);
    }
}
