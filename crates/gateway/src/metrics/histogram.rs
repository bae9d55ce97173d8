//! A histogram of times that is cheap to feed: one search over its bounds and three relaxed additions, no lock.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of a histogram, in seconds, with the count of the values above the last one beside them.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

/// Bounds for the time to the first token; vLLM's, so that both can be laid over each other.
pub(crate) const FIRST_TOKEN_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0,
];
/// Bounds for the time to the last byte; vLLM's, with some below for requests that generate nothing.
pub(crate) const DURATION_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.02, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0,
    60.0, 120.0, 240.0, 480.0, 960.0, 1920.0,
];

// === impl Histogram ===

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, nanoseconds: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.counts[self.bounds.partition_point(|&bound| bound < seconds)].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The sum in seconds, the number of values, and the count up to each bound by itself.
    pub(crate) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<_> =
            bounds.zip(self.counts.iter()).map(|(bound, count)| (bound, count.load(Relaxed))).collect();
        let number = buckets.iter().map(|bucket| bucket.1).sum();
        (self.nanoseconds.load(Relaxed) as f64 / 1e9, number, buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        for milliseconds in [100, 500, 501, 1000, 1001] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let (sum, number, buckets) = histogram.read();
        assert_eq!((sum, number), (3.102, 5));
        assert_eq!(buckets.iter().map(|bucket| bucket.1).collect::<Vec<_>>(), [2, 2, 1]);
    }
}
