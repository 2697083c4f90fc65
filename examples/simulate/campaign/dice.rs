//! Everything random of a run, by its seed and by names.
//!
//! Each name has a stream of its own, so that leaving out one ingredient leaves all others as they
//! are: that is what makes a failing plan shrink.

use std::collections::BTreeSet;

/// Ingredients that are left out, by their names.
pub(crate) type Without = BTreeSet<String>;

/// Draws plans.
pub(crate) struct Dice<'a> {
    seed: u64,
    without: &'a Without,
    parts: BTreeSet<String>,
}

impl<'a> Dice<'a> {
    pub(crate) fn new(seed: u64, without: &'a Without) -> Self {
        Self {
            seed,
            without,
            parts: BTreeSet::new(),
        }
    }

    /// The stream of this name.
    pub(crate) fn stream(&self, name: &str) -> Random {
        // FNV-1a.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let mut random = Random(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash);
        random.next();
        random
    }

    /// Whether this ingredient is in: in so many of a hundred seeds, unless it is left out.
    pub(crate) fn has(&mut self, part: &str, per_cent: u64) -> bool {
        let drawn = self.stream(part).chance(per_cent) && !self.without.contains(part);
        if drawn {
            self.parts.insert(part.to_owned());
        }
        drawn
    }

    /// The ingredients that are in.
    pub(crate) fn into_parts(self) -> BTreeSet<String> {
        self.parts
    }
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn chance(&mut self, per_cent: u64) -> bool {
        self.next() % 100 < per_cent
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// Letters and digits.
    pub(crate) fn word(&mut self, len: usize) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
        (0..len).map(|_| char::from(self.pick(LETTERS))).collect()
    }
}
