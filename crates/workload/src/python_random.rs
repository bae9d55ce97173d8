//! CPython's `random` module, for workloads that must come out as a Python script makes them.
//!
//! Mersenne Twister (MT19937) with CPython's seeding by an integer, and the draws built on it. Streams are equal
//! bit for bit to those of CPython 3.2 and later.

use rand_mt::Mt;

/// The state of Python's `random`.
#[derive(Clone, Debug)]
pub struct PythonRandom {
    seed: u64,
    state: Mt,
}

impl PythonRandom {
    /// `random.seed(seed)`.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key = if high == 0 { vec![low] } else { vec![low, high] };
        Self { seed, state: Mt::new_with_key(key) }
    }

    /// `random.seed` with the same seed again.
    pub fn restart(&mut self) {
        *self = Self::new(self.seed);
    }

    /// `random.random()`: from 0 to below 1, 53 bits.
    pub fn random(&mut self) -> f64 {
        let (high, low) = (self.state.next_u32() >> 5, self.state.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `random.getrandbits(bits)`, up to 64 bits.
    pub fn bits(&mut self, bits: u32) -> u64 {
        let mut word = |bits: u32| u64::from(self.state.next_u32() >> (32 - bits));
        match bits {
            0 => 0,
            1..=32 => word(bits),
            _ => word(32) | word(bits.min(64) - 32) << 32,
        }
    }

    /// `random.randrange(limit)`; 0 where `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let bits = usize::BITS - limit.leading_zeros();
        loop {
            let drawn = self.bits(bits) as usize;
            if drawn < limit || limit == 0 {
                return drawn;
            }
        }
    }

    /// `random.choice(items)`; `None` where there are none.
    pub fn choice<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.below(items.len())) }
    }

    /// `random.shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // All values were printed by CPython 3.11.

    #[test]
    fn seeding_and_bits() {
        for (seed, words, short, fraction) in [
            (
                0,
                [3_626_764_237, 1_654_615_998, 3_255_389_356, 3_823_568_514],
                [13, 1, 8, 30],
                0.5112747213686085,
            ),
            (
                12_345,
                [1_789_368_711, 3_146_859_322, 43_676_229, 3_522_623_596],
                [26, 25, 9, 27],
                0.3684116894884757,
            ),
            (
                (1 << 40) + 7,
                [2_635_837_658, 3_209_733_218, 3_500_038_837, 4_028_389_051],
                [30, 20, 18, 22],
                0.47592409887048936,
            ),
        ] {
            let mut random = PythonRandom::new(seed);
            assert_eq!([(); 4].map(|()| random.bits(32)), words);
            assert_eq!([(); 4].map(|()| random.bits(5)), short);
            assert_eq!(random.random(), fraction);
        }
        let mut random = PythonRandom::new(5);
        assert_eq!(
            [64, 40, 33].map(|bits| random.bits(bits)),
            [4_712_128_852_136_459_333, 394_027_974_809, 7_710_297_655]
        );
    }

    #[test]
    fn shuffle_then_choice() {
        let mut random = PythonRandom::new(12_345);
        let mut items: Vec<u32> = (0..20).collect();
        random.shuffle(&mut items);
        assert_eq!(items, [16, 18, 3, 8, 19, 10, 7, 14, 12, 1, 5, 2, 15, 17, 4, 6, 11, 9, 0, 13]);
        assert_eq!(random.choice(b"abcdefg"), Some(&b'e'));

        random.restart();
        let mut items: Vec<u32> = (0..800).collect();
        random.shuffle(&mut items);
        assert_eq!(items[..8], [533, 488, 521, 674, 577, 185, 21, 478]);
        assert_eq!(items[796..], [305, 10, 750, 426]);
    }

    #[test]
    fn choice_of_three() {
        let mut random = PythonRandom::new(1);
        let drawn: Vec<u8> = (0..12).filter_map(|_| random.choice(b"abc").copied()).collect();
        assert_eq!(drawn, b"acababbbcbaa");
    }

    #[test]
    fn nothing_to_draw_from() {
        let mut random = PythonRandom::new(1);
        assert_eq!(random.choice::<u8>(&[]), None);
        assert_eq!(random.below(0), 0);
        random.shuffle::<u8>(&mut []);
    }
}
