//! Random numbers from a seed, the same on every machine and with every version of every crate, so that a run can be
//! repeated: SplitMix64 (Steele, Lea and Flood, 2014).

use std::time::Duration;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A stream of its own for somebody who draws at his own pace, so that nobody else's numbers depend on him.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw().checked_rem(bound).unwrap_or(0)
    }

    /// A number from `least` to `most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// Yes, in so many of a hundred cases.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of these.
    ///
    /// # Panics
    /// When there is none.
    pub fn one_of<'list, T>(&mut self, list: &'list [T]) -> &'list T {
        let index = self.below(list.len() as u64);
        &list[usize::try_from(index).expect("an index fits")]
    }

    /// One of these, by weight.
    ///
    /// # Panics
    /// When there is none.
    pub fn weighted<'list, T>(&mut self, list: &'list [(u64, T)]) -> &'list T {
        let mut at = self.below(list.iter().map(|(weight, _)| weight).sum());
        for (weight, item) in list {
            match at.checked_sub(*weight) {
                None => return item,
                Some(rest) => at = rest,
            }
        }
        panic!("nothing to choose from")
    }

    /// A time from `least` to `most` milliseconds.
    pub fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.between(least, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_for_ever() {
        let mut random = Random::new(1_234_567);
        assert_eq!([random.draw(), random.draw()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn weights_are_chances() {
        let mut random = Random::new(7);
        let list = [(1, 'a'), (0, 'b'), (3, 'c')];
        let drawn: String = (0..4_000).map(|_| random.weighted(&list)).collect();
        let count = |letter| drawn.matches(letter).count();
        assert!(count('a') > 800 && count('b') == 0 && count('c') > 2_700, "{}", count('a'));
    }
}
