//! The patterns of a masker, and the automaton that finds all of them in one pass.

use aho_corasick::{
    Anchored,
    automaton::{Automaton, StateID},
    dfa, nfa,
};

use super::names::is_cookie;

/// The prefixes of GitLab's own tokens. What follows one of them is always masked.
pub const DEFAULT_TOKEN_PREFIXES: &[&str] = &[
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

/// What to look for.
pub(super) struct Patterns {
    values: Texts,
    /// Those of the job, without the default ones.
    prefixes: Texts,
}

/// Texts behind one another, each once and none empty.
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// An automaton, and what a masker has to know about its states.
///
/// Each prefix of a pattern is a state of its own. A state stands for the longest suffix of the
/// input that is such a prefix.
pub(super) struct Scanner<A> {
    automaton: A,
    start: StateID,
    /// Sorted by state. All others match nothing and have depth 0.
    nodes: Vec<Node>,
}

/// Small and quickly built; every job starts with it.
pub(super) type Compact = Scanner<nfa::contiguous::NFA>;
/// Faster with many patterns, but its memory is patterns times alphabet, and it takes time to build.
pub(super) type Fast = Scanner<dfa::DFA>;

#[derive(Clone, Copy)]
pub(super) struct Node {
    state: StateID,
    /// Length of the longest suffix of the input that is a prefix of a value.
    depth: u32,
    /// Length of the longest value that ends here, or 0.
    pub(super) value: u32,
    /// Whether a token prefix ends here.
    pub(super) prefix: bool,
    /// Whether an equals sign ends here.
    pub(super) equals: bool,
}

impl Patterns {
    pub(super) fn new<V, P>(values: V, prefixes: P) -> Self
    where
        V: IntoIterator<Item: AsRef<str>>,
        P: IntoIterator<Item: AsRef<str>>,
    {
        Self {
            values: Texts::new(values, str::trim),
            prefixes: Texts::new(prefixes, |prefix| match prefix {
                default if DEFAULT_TOKEN_PREFIXES.contains(&default) => "",
                own => own,
            }),
        }
    }

    pub(super) fn values(&self) -> usize {
        self.values.ends.len()
    }

    pub(super) fn prefixes(&self) -> usize {
        self.prefixes.ends.len() + DEFAULT_TOKEN_PREFIXES.len()
    }

    /// Those that an automaton looks for: all but one.
    fn searched_prefixes(&self) -> usize {
        self.prefixes.ends.len() + default_prefixes().count()
    }

    /// Those that not all jobs have.
    pub(super) fn own(&self) -> impl Iterator<Item = &[u8]> {
        self.values.iter().chain(self.prefixes.iter())
    }

    /// The values, then the token prefixes, then the end of a name.
    fn all(&self) -> impl Iterator<Item = &[u8]> {
        let default = default_prefixes().map(|prefix| -> &[u8] { prefix });
        self.own().chain(default).chain([&b"="[..]])
    }

    /// Their lengths taken together: no automaton has more states than that, and a few.
    pub(super) fn total_len(&self) -> usize {
        self.all().map(<[u8]>::len).sum()
    }

    #[expect(
        clippy::expect_used,
        reason = "only more than 500 MiB of patterns overflow it; a job payload is far smaller"
    )]
    fn nfa(&self) -> nfa::noncontiguous::NFA {
        nfa::noncontiguous::Builder::new()
            .prefilter(false)
            .dense_depth(1)
            .build(self.all())
            .expect("patterns of a job fit into an automaton")
    }
}

/// Those of GitLab's own tokens that are not told by an equals sign.
pub(super) fn default_prefixes() -> impl Iterator<Item = &'static [u8]> {
    let all = DEFAULT_TOKEN_PREFIXES
        .iter()
        .map(|prefix| prefix.as_bytes());
    all.filter(|prefix| !is_cookie(prefix))
}

impl Texts {
    /// What is `wanted` of each.
    fn new<T>(texts: T, wanted: impl Fn(&str) -> &str) -> Self
    where
        T: IntoIterator<Item: AsRef<str>>,
    {
        let texts: Vec<_> = texts.into_iter().collect();
        let wanted = texts.iter().map(|text| wanted(text.as_ref()));
        let mut distinct: Vec<_> = wanted.filter(|text| !text.is_empty()).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let mut bytes = Vec::with_capacity(distinct.iter().map(|text| text.len()).sum());
        let mut ends = Vec::with_capacity(distinct.len());
        for text in distinct {
            bytes.extend_from_slice(text.as_bytes());
            ends.push(bytes.len());
        }
        Self { bytes, ends }
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.bytes[start..end])
    }
}

impl Compact {
    #[expect(
        clippy::expect_used,
        reason = "only more than 500 MiB of patterns overflow it; a job payload is far smaller"
    )]
    pub(super) fn compact(patterns: &Patterns) -> Self {
        let automaton = nfa::contiguous::Builder::new()
            .prefilter(false)
            .build_from_noncontiguous(&patterns.nfa())
            .expect("patterns of a job fit into an automaton");
        Self::new(automaton, patterns)
    }
}

impl Fast {
    /// `None` if there are too many patterns for it.
    pub(super) fn fast(patterns: &Patterns) -> Option<Self> {
        let automaton = dfa::Builder::new()
            .prefilter(false)
            .build_from_noncontiguous(&patterns.nfa())
            .ok()?;
        Some(Self::new(automaton, patterns))
    }
}

impl<A: Automaton> Scanner<A> {
    #[expect(
        clippy::expect_used,
        reason = "every automaton is built for unanchored searches, which is the default"
    )]
    fn new(automaton: A, patterns: &Patterns) -> Self {
        let start = automaton
            .start_state(Anchored::No)
            .expect("unanchored searches are supported");
        let nodes = nodes(&automaton, start, patterns);
        Self {
            automaton,
            start,
            nodes,
        }
    }

    pub(super) fn start(&self) -> StateID {
        self.start
    }

    /// Where the next byte leads, and whether [`node`](Self::node) has to be asked about that.
    #[inline(always)]
    pub(super) fn step(&self, state: StateID, byte: u8) -> (StateID, bool) {
        let next = self.automaton.next_state(Anchored::No, state, byte);
        (next, self.automaton.is_special(next))
    }

    pub(super) fn node(&self, state: StateID) -> Option<&Node> {
        let found = self.nodes.binary_search_by_key(&state, |node| node.state);
        found.ok().map(|at| &self.nodes[at])
    }

    /// How many of the last bytes may still become a value.
    pub(super) fn depth(&self, state: StateID) -> usize {
        if state == self.start {
            return 0;
        }
        self.node(state).map_or(0, |node| node.depth as usize)
    }
}

/// A state as one walk along a pattern met it.
struct Visit {
    node: Node,
    len: u32,
    /// The state of the same input without its first byte: the longest proper suffix.
    suffix: StateID,
}

fn nodes<A: Automaton>(automaton: &A, start: StateID, patterns: &Patterns) -> Vec<Node> {
    let mut visits = visits(automaton, start, patterns);
    // A state that several patterns share is inside a value if it is for one of them.
    visits.sort_unstable_by_key(|visit| (visit.node.state, std::cmp::Reverse(visit.node.depth)));
    visits.dedup_by_key(|visit| visit.node.state);

    // The depth of all others is that of their longest proper suffix, which is a shorter state.
    let mut by_len: Vec<usize> = (0..visits.len()).collect();
    by_len.retain(|&at| visits[at].node.depth == 0 && visits[at].suffix != start);
    by_len.sort_unstable_by_key(|&at| visits[at].len);
    for at in by_len {
        let suffix = visits[at].suffix;
        if let Ok(shorter) = visits.binary_search_by_key(&suffix, |visit| visit.node.state) {
            visits[at].node.depth = visits[shorter].node.depth;
        }
    }

    let mut nodes: Vec<Node> = visits.into_iter().map(|visit| visit.node).collect();
    nodes.retain_mut(|node| {
        let matches = automaton.is_match(node.state);
        if matches {
            add_matches(node, automaton, patterns);
        }
        matches || node.depth > 0
    });
    nodes.shrink_to_fit();
    nodes
}

fn visits<A: Automaton>(automaton: &A, start: StateID, patterns: &Patterns) -> Vec<Visit> {
    let mut visits = Vec::with_capacity(patterns.total_len());
    for (index, pattern) in patterns.all().enumerate() {
        let (mut state, mut suffix) = (start, start);
        for (len, &byte) in (1..).zip(pattern) {
            state = automaton.next_state(Anchored::No, state, byte);
            if len > 1 {
                suffix = automaton.next_state(Anchored::No, suffix, byte);
            }
            let of_value = index < patterns.values();
            let node = Node {
                state,
                depth: if of_value { len } else { 0 },
                value: 0,
                prefix: false,
                equals: false,
            };
            visits.push(Visit { node, len, suffix });
        }
    }
    visits
}

fn add_matches<A: Automaton>(node: &mut Node, automaton: &A, patterns: &Patterns) {
    for index in 0..automaton.match_len(node.state) {
        let pattern = automaton.match_pattern(node.state, index);
        let number = pattern.as_usize();
        if number < patterns.values() {
            // The automaton holds no pattern that is longer.
            let len = u32::try_from(automaton.pattern_len(pattern)).unwrap_or(u32::MAX);
            node.value = node.value.max(len);
        } else if number < patterns.values() + patterns.searched_prefixes() {
            node.prefix = true;
        } else {
            node.equals = true;
        }
    }
}
