//! What happened when: counts in buckets of equal width, in fixed memory.
//!
//! A series starts with buckets of an eighth of a second. When a run outgrows its buckets, neighbours are added up
//! and the width doubles, so that whole seconds stay whole. Times are those of the run's clock. Requests are
//! counted when they are sent and when they end, tokens when they arrive; the mean TTFT of a bucket is that of the
//! requests *sent* in it, so that a queue shows when it builds up and not when it drains.

use std::time::Duration;

use crate::{Record, distribution::nanoseconds, metric::SECOND};

/// The width that every series starts with.
pub const FIRST_WIDTH: Duration = Duration::from_millis(125);

/// Counts over time. See the [module](self) for what is counted when.
#[derive(Clone, Debug)]
pub struct TimeSeries {
    width: Duration,
    capacity: usize,
    buckets: Vec<Bucket>,
}

/// What happened within one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Bucket {
    /// Requests sent.
    pub started: u32,
    /// Requests answered.
    pub answered: u32,
    /// Requests that were sent and ended in any other way.
    pub failed: u32,
    /// Output tokens that arrived.
    pub output_tokens: u64,
    /// Sum of the TTFT of the answered requests that were sent in this bucket.
    pub ttft_sum: Duration,
    /// Number of them.
    pub ttft_count: u32,
    /// Nanoseconds from the sends in this bucket to its end, less those from the ends in it.
    #[serde(skip)]
    busy_ns: i128,
}

// === impl TimeSeries ===

impl TimeSeries {
    /// An empty series that never has more than `capacity` buckets (at least two).
    pub fn new(capacity: usize) -> Self {
        Self { width: FIRST_WIDTH, capacity: capacity.max(2), buckets: Vec::new() }
    }

    /// The width of a bucket now.
    pub fn width(&self) -> Duration {
        self.width
    }

    /// The buckets, from the start of the run's clock.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Counts one request. Requests that were never sent leave no trace.
    pub fn push(&mut self, record: &Record) {
        let Some(sent) = record.sent else { return };
        self.at(record.done.max(sent)); // Widen once, before anything is counted.
        let width = nanoseconds(self.width);
        let left = |time: Duration| i128::from(width - nanoseconds(time) % width);
        let start = self.at(sent);
        start.started += 1;
        start.busy_ns += left(sent);
        if record.outcome.is_success()
            && let Some(ttft) = record.ttft()
        {
            start.ttft_sum += ttft;
            start.ttft_count += 1;
        }
        let end = self.at(record.done.max(sent));
        end.busy_ns -= left(record.done.max(sent));
        if record.outcome.is_success() {
            end.answered += 1;
            self.spread_tokens(record);
        } else {
            end.failed += 1;
        }
    }

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        while other.width < self.width {
            other.widen();
        }
        while self.width < other.width || self.capacity < other.buckets.len() {
            self.widen();
            if other.width < self.width {
                other.widen();
            }
        }
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), Bucket::default());
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(ours, theirs)| ours.add(theirs));
    }

    /// The same series in buckets of at least `width`.
    pub fn coarsened(&self, width: Duration) -> Self {
        let mut coarse = self.clone();
        while coarse.width < width {
            coarse.widen();
        }
        coarse
    }

    /// Requests in flight at the end of each bucket.
    pub fn in_flight(&self) -> impl Iterator<Item = u64> + '_ {
        self.buckets.iter().scan(0_u64, |flying, bucket| {
            *flying = (*flying + u64::from(bucket.started)).saturating_sub(bucket.ended());
            Some(*flying)
        })
    }

    /// Requests in flight on average over each bucket.
    pub fn mean_in_flight(&self) -> impl Iterator<Item = f64> + '_ {
        let width = nanoseconds(self.width) as f64;
        let before = std::iter::once(0).chain(self.in_flight());
        self.buckets
            .iter()
            .zip(before)
            .map(move |(bucket, before)| before as f64 + bucket.busy_ns as f64 / width)
    }

    /// Requests that were in flight at some moment of each bucket: more than were ever in flight at once.
    pub fn touched(&self) -> impl Iterator<Item = u64> + '_ {
        self.in_flight().zip(&self.buckets).map(|(at_end, bucket)| at_end + bucket.ended())
    }

    /// The time in the middle of each bucket, in seconds.
    pub fn seconds(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.buckets.len()).map(|index| (index as f64 + 0.5) * self.width.as_secs_f64())
    }

    fn at(&mut self, time: Duration) -> &mut Bucket {
        loop {
            let index = nanoseconds(time) / nanoseconds(self.width);
            match usize::try_from(index) {
                Ok(index) if index < self.capacity => {
                    if index >= self.buckets.len() {
                        self.buckets.resize(index + 1, Bucket::default());
                    }
                    return &mut self.buckets[index];
                }
                Ok(_) | Err(_) => self.widen(),
            }
        }
    }

    fn widen(&mut self) {
        let longer = i128::from(nanoseconds(self.width));
        self.width *= 2;
        self.buckets = self
            .buckets
            .chunks(2)
            .map(|pair| {
                let mut sum = pair[0];
                // Its end is that of the second one now.
                sum.busy_ns += (i128::from(sum.started) - i128::from(sum.ended())) * longer;
                pair[1..].iter().for_each(|bucket| sum.add(bucket));
                sum
            })
            .collect();
    }

    /// Shares the request's output tokens out over its events, in proportion to what the events hold.
    fn spread_tokens(&mut self, record: &Record) {
        let tokens = u64::from(record.output_tokens.tokens);
        let weight: u64 = record.chunks.iter().map(|chunk| u64::from(chunk.tokens.max(1))).sum();
        let (mut seen, mut given) = (0, 0);
        for chunk in &record.chunks {
            seen += u64::from(chunk.tokens.max(1));
            // Nearly always events say what they hold; a division of 128 bits is slow.
            let so_far = if weight == tokens {
                seen
            } else {
                (u128::from(tokens) * u128::from(seen) / u128::from(weight)) as u64
            };
            self.at(chunk.at).output_tokens += so_far - given;
            given = so_far;
        }
    }
}

// === impl Bucket ===

impl Bucket {
    /// Mean TTFT in seconds of the requests sent here; absent where there were none.
    pub fn mean_ttft(&self) -> Option<f64> {
        (self.ttft_count > 0).then(|| self.ttft_sum.as_nanos() as f64 / f64::from(self.ttft_count) / SECOND)
    }

    fn ended(&self) -> u64 {
        u64::from(self.answered) + u64::from(self.failed)
    }

    fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.answered += other.answered;
        self.failed += other.failed;
        self.output_tokens += other.output_tokens;
        self.ttft_sum += other.ttft_sum;
        self.ttft_count += other.ttft_count;
        self.busy_ns += other.busy_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn filled(capacity: usize) -> TimeSeries {
        let mut series = TimeSeries::new(capacity);
        // Sent at 0 s, 1 s, .. 9 s; first token 500 ms later, then one each 250 ms; done after 2 s.
        (0..10).for_each(|second| series.push(&sample::request(second * 1000, 500, 250, 7)));
        series
    }

    #[test]
    fn counts_are_where_they_happened() {
        let series = filled(1000).coarsened(Duration::from_secs(1));
        assert_eq!(series.width(), Duration::from_secs(1));
        let started: Vec<u32> = series.buckets().iter().map(|bucket| bucket.started).collect();
        assert_eq!(started, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
        assert_eq!(series.in_flight().collect::<Vec<_>>(), [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 0]);
        assert_eq!(series.touched().max(), Some(3), "one ends in the second in which the third starts");
        assert_eq!(series.buckets()[0].mean_ttft(), Some(0.5));
        assert_eq!(series.buckets()[0].output_tokens, 2);
        assert_eq!(series.buckets()[1].output_tokens, 6);
        assert_eq!(series.buckets()[11].mean_ttft(), None);
    }

    #[test]
    fn a_constant_load_is_a_constant_mean() {
        // 70 ms of every 125 ms, so that it is 0 or 1 at the end of a bucket.
        let mut series = TimeSeries::new(1000);
        (0..80).for_each(|index| series.push(&sample::request(125 * index + 60, 70, 0, 1)));
        for width in [1, 125, 250, 2000] {
            let coarse = series.coarsened(Duration::from_millis(width));
            let means: Vec<f64> = coarse.mean_in_flight().collect();
            let inner = &means[1..means.len() - 1];
            assert!(inner.iter().all(|mean| (mean - 0.56).abs() < 1e-9), "{width} ms: {inner:?}");
        }
        let mut both = series.coarsened(Duration::from_secs(1));
        both.merge(&series);
        assert!((both.mean_in_flight().nth(3).unwrap() - 1.12).abs() < 1e-9);
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost() {
        let (wide, narrow) = (filled(1000), filled(4));
        assert_eq!(wide.width(), FIRST_WIDTH);
        assert_eq!(narrow.buckets().len(), 3);
        assert_eq!(narrow.width(), Duration::from_secs(4));
        assert_eq!(narrow.buckets(), wide.coarsened(Duration::from_secs(4)).buckets());
        assert_eq!(narrow.buckets().iter().map(|bucket| bucket.output_tokens).sum::<u64>(), 70);
    }

    #[test]
    fn series_of_different_widths_merge() {
        let mut narrow = filled(4);
        narrow.merge(&filled(1000));
        assert_eq!(narrow.width(), Duration::from_secs(4));
        let mut wide = filled(1000);
        wide.merge(&filled(4));
        assert_eq!(wide.buckets(), narrow.buckets());
        assert_eq!(wide.buckets().iter().map(|bucket| bucket.answered).sum::<u32>(), 20);
    }

    #[test]
    fn tokens_of_large_chunks_are_shared_out_without_loss() {
        let mut record = sample::request(0, 100, 100, 3);
        record.output_tokens.tokens = 100;
        let mut series = TimeSeries::new(100);
        series.push(&record);
        assert_eq!(series.buckets().iter().map(|bucket| bucket.output_tokens).sum::<u64>(), 100);
        assert_eq!(series.buckets()[0].output_tokens, 33);
    }
}
