//! The order in which the entries of a dataset are used.

use rand::{RngExt, seq::SliceRandom};

use crate::random;

/// How the next entry is chosen. All go on for ever: entries are used again when all have been.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sampling {
    /// In order, from the beginning again after the last.
    Sequential,
    /// In an order that is drawn anew for every pass.
    Shuffle,
    /// Any entry, each time.
    Random,
}

/// Endless places in a dataset of `count` entries; none at all where it is empty.
pub fn sample(sampling: Sampling, count: usize, seed: u64) -> impl Iterator<Item = usize> + Send + 'static {
    let mut random = random::stream(seed, "sampling");
    let mut order: Vec<usize> = if sampling == Sampling::Shuffle { (0..count).collect() } else { Vec::new() };
    (0..count).cycle().map(move |place| match sampling {
        Sampling::Sequential => place,
        Sampling::Random => random.random_range(0..count),
        Sampling::Shuffle => {
            if place == 0 {
                order.shuffle(&mut random);
            }
            order[place]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(sampling: Sampling, count: usize, take: usize, seed: u64) -> Vec<usize> {
        sample(sampling, count, seed).take(take).collect()
    }

    #[test]
    fn each_way_does_what_it_says() {
        assert_eq!(drawn(Sampling::Sequential, 3, 7, 1), [0, 1, 2, 0, 1, 2, 0]);
        let shuffled = drawn(Sampling::Shuffle, 50, 100, 1);
        for pass in shuffled.chunks(50) {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..50));
        }
        assert_ne!(shuffled[..50], shuffled[50..]);
        let random = drawn(Sampling::Random, 10, 1000, 1);
        assert!(
            (0..10).all(|place| (60..150).contains(&random.iter().filter(|drawn| **drawn == place).count()))
        );
        assert!(drawn(Sampling::Random, 0, 5, 1).is_empty());
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(drawn(Sampling::Shuffle, 50, 80, 4), drawn(Sampling::Shuffle, 50, 80, 4));
        assert_ne!(drawn(Sampling::Shuffle, 50, 80, 4), drawn(Sampling::Shuffle, 50, 80, 5));
    }
}
