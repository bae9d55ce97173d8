//! Where a load stops keeping its limits: bracket by doubling, then halve.
//!
//! The search takes for granted that what holds at a load holds at every smaller one. It starts at the smallest load
//! and doubles until the limits break or the range ends; then it halves the interval between the largest load that
//! held and the smallest that did not, until they are neighbours or within 5 % of each other. Runs are noisy, so a
//! verdict at an end is not believed at once: the answer is probed a second time, and so is a failure at the smallest
//! load. An answer that breaks its limits then becomes the upper end, and the search goes on below it.

use std::collections::BTreeSet;

/// Ends of the interval that are so close are taken for the same.
const PRECISION: f64 = 0.05;

/// A search over whole numbers.
#[derive(Clone, Debug)]
pub struct Bracket {
    low: u32,
    high: u32,
    most_probes: u32,
    probes: u32,
    /// Values that held, all below `failed`.
    held: BTreeSet<u32>,
    /// Smallest value that did not.
    failed: Option<u32>,
    /// The largest value that held, once it has been probed twice.
    confirmed: Option<u32>,
    /// The smallest value failed so many times.
    failures_at_low: u32,
}

/// Why a search has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SearchEnd {
    /// Between the largest value that held and the smallest that did not nothing is left to find.
    Found,
    /// The limits held up to the end of the range: the knee is above it, or nowhere.
    NeverFailed,
    /// They did not hold at the smallest value.
    NeverHeld,
    /// As many values were probed as may be.
    OutOfProbes,
}

impl Bracket {
    /// Over the values from `low` to `high`, with so many probes at most.
    pub fn new(low: u32, high: u32, most_probes: u32) -> Self {
        Self {
            low,
            high: high.max(low),
            most_probes,
            probes: 0,
            held: BTreeSet::new(),
            failed: None,
            confirmed: None,
            failures_at_low: 0,
        }
    }

    /// The largest value that held.
    pub fn held(&self) -> Option<u32> {
        self.held.last().copied()
    }

    /// The smallest value that did not.
    pub fn failed(&self) -> Option<u32> {
        self.failed
    }

    /// The value to probe, until the search has ended.
    pub fn next(&self) -> Result<u32, SearchEnd> {
        let next = self.wanted()?;
        if self.probes < self.most_probes { Ok(next) } else { Err(SearchEnd::OutOfProbes) }
    }

    fn wanted(&self) -> Result<u32, SearchEnd> {
        let (held, end) = match (self.held(), self.failed) {
            (None, None) => return Ok(self.low),
            (None, Some(_)) if self.failures_at_low < 2 => return Ok(self.low),
            (None, Some(_)) => return Err(SearchEnd::NeverHeld),
            (Some(held), None) if held < self.high => return Ok(held.saturating_mul(2).min(self.high)),
            (Some(held), None) => (held, SearchEnd::NeverFailed),
            (Some(held), Some(failed)) => {
                let gap = failed - held;
                if gap > 1 && f64::from(gap) >= PRECISION * f64::from(failed) {
                    return Ok(held + gap / 2);
                }
                (held, SearchEnd::Found)
            }
        };
        if self.confirmed == Some(held) { Err(end) } else { Ok(held) }
    }

    /// Takes what a probe came to. True: it contradicts an earlier one.
    pub fn tell(&mut self, value: u32, holds: bool) -> bool {
        self.probes += 1;
        if holds {
            let contradicts = self.failed.is_some_and(|failed| value >= failed);
            if contradicts && self.held.is_empty() {
                // The smallest value, which failed before: the next probes tell.
                self.failed = None;
            }
            if !self.held.insert(value) {
                self.confirmed = Some(value);
            }
            self.failures_at_low = 0;
            return contradicts;
        }
        let contradicts = self.held.contains(&value);
        self.failures_at_low += u32::from(value == self.low);
        self.failed = Some(self.failed.map_or(value, |failed| failed.min(value)));
        self.held.retain(|held| *held < value);
        contradicts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Probes until the end: the end, and how many probes it took.
    fn search(low: u32, high: u32, mut holds: impl FnMut(u32) -> bool) -> (Bracket, SearchEnd, u32) {
        let mut bracket = Bracket::new(low, high, 200);
        let mut probes = 0;
        loop {
            match bracket.next() {
                Err(end) => return (bracket, end, probes),
                Ok(value) => {
                    assert!((low..=high).contains(&value), "{value}");
                    let _ = bracket.tell(value, holds(value));
                    probes += 1;
                }
            }
        }
    }

    #[test]
    fn a_knee_is_found_exactly_where_values_are_small() {
        let (bracket, end, probes) = search(1, 1000, |value| value <= 17);
        // 1 2 4 8 16 32, then 24 20 18 17, then 17 again.
        assert_eq!(
            (bracket.held(), bracket.failed(), end, probes),
            (Some(17), Some(18), SearchEnd::Found, 11)
        );
    }

    #[test]
    fn a_knee_that_is_not_there_is_not_found() {
        let (bracket, end, _) = search(1, 1000, |_| true);
        assert_eq!((bracket.held(), bracket.failed(), end), (Some(1000), None, SearchEnd::NeverFailed));
        let (bracket, end, probes) = search(3, 1000, |_| false);
        assert_eq!((bracket.held(), end, probes), (None, SearchEnd::NeverHeld, 2));
        let (bracket, end, _) = search(5, 5, |_| true);
        assert_eq!((bracket.held(), end), (Some(5), SearchEnd::NeverFailed));
    }

    #[test]
    fn probes_are_bounded() {
        let mut bracket = Bracket::new(1, 1000, 3);
        while let Ok(value) = bracket.next() {
            bracket.tell(value, true);
        }
        assert_eq!((bracket.next(), bracket.held()), (Err(SearchEnd::OutOfProbes), Some(4)));
    }

    #[test]
    fn an_answer_that_does_not_hold_again_is_given_up() {
        let mut bracket = Bracket::new(1, 100, 50);
        let mut lucky = true;
        while let Ok(value) = bracket.next() {
            // 12 is too much, but held once.
            let holds = value <= 8 || value == 12 && std::mem::take(&mut lucky);
            assert_eq!(bracket.tell(value, holds), value == 12 && !holds);
        }
        assert_eq!((bracket.held(), bracket.failed()), (Some(8), Some(9)));
    }

    #[test]
    fn one_failure_at_the_smallest_value_is_not_believed() {
        let mut first = true;
        let (bracket, end, _) = search(1, 64, |value| !std::mem::take(&mut first) && value <= 10);
        assert_eq!((bracket.held(), end), (Some(10), SearchEnd::Found));
    }

    proptest! {
        #[test]
        fn the_answer_is_within_the_precision_and_the_probes_are_few(knee in 1_u32..5000, low in 1_u32..50) {
            let (bracket, end, probes) = search(low, 4096, |value| value <= knee);
            prop_assert!(probes <= 28, "{}", probes);
            if knee < low {
                prop_assert_eq!(end, SearchEnd::NeverHeld);
            } else if knee >= 4096 {
                prop_assert_eq!((end, bracket.held()), (SearchEnd::NeverFailed, Some(4096)));
            } else {
                let (held, failed) = (bracket.held().unwrap(), bracket.failed().unwrap());
                prop_assert!(held <= knee && knee < failed);
                prop_assert!(failed - held == 1 || f64::from(failed - held) < 0.05 * f64::from(failed));
            }
        }

        /// A latency that grows beyond the knee, with noise of a tenth either way: the answer lies where the noise lets
        /// the limit break at all.
        #[test]
        fn noise_moves_the_answer_no_further_than_itself(knee in 20_u32..500, seed in any::<u64>()) {
            let mut state = seed;
            let mut noise = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                0.9 + 0.2 * ((state >> 33) as f64 / f64::from(1_u32 << 31))
            };
            let (bracket, end, _) = search(1, 4096, |value| f64::from(value) * noise() <= f64::from(knee));
            prop_assert_eq!(end, SearchEnd::Found);
            let (held, failed) = (f64::from(bracket.held().unwrap()), f64::from(bracket.failed().unwrap()));
            prop_assert!(held <= f64::from(knee) / 0.9 && failed >= f64::from(knee) / 1.1, "{held} {failed}");
        }
    }
}
