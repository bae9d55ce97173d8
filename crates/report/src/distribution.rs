//! Statistics of many values in fixed memory.
//!
//! Count, sum, minimum and maximum are exact, and so are mean and standard deviation. Percentiles follow NumPy's
//! default rule (linear interpolation between the two nearest ranks), so that figures can be laid beside those
//! of tools written in Python. The first [`EXACT_SAMPLES`] values are kept as they are and give exact
//! percentiles; beyond them an HDR histogram with three significant digits takes over (it is no larger than the
//! samples were), and a percentile is within 0.1 % of the exact one.
//!
//! Values are integers: nanoseconds, tokens, or a fraction in millionths. Whoever prints them divides by the unit.
//! Values above [`LARGEST`] keep their exact sum and maximum, but rank as `LARGEST`.

use std::{iter, time::Duration};

use hdrhistogram::Histogram;

/// Values kept one by one before a histogram takes over.
pub const EXACT_SAMPLES: usize = 16_384;
/// The largest value that percentiles tell from larger ones: 27 hours in nanoseconds.
pub const LARGEST: u64 = 100_000_000_000_000;

/// Statistics of a set of integers.
#[derive(Clone, Debug)]
pub struct Distribution {
    samples: Samples,
    count: u64,
    sum: u128,
    squares: u128,
    min: u64,
    max: u64,
}

#[derive(Clone, Debug)]
enum Samples {
    Exact(Vec<u64>),
    Histogram(Box<Histogram<u32>>),
}

/// Mean, median and 99th percentile, in the unit that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: f64,
    /// 50th percentile.
    pub median: f64,
    /// 99th percentile.
    pub p99: f64,
}

// === impl Distribution ===

impl Default for Distribution {
    fn default() -> Self {
        Self { samples: Samples::Exact(Vec::new()), count: 0, sum: 0, squares: 0, min: u64::MAX, max: 0 }
    }
}

impl Distribution {
    /// Adds one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Adds a value so many times, at the cost of once.
    pub fn record_n(&mut self, value: u64, times: u32) {
        if times == 0 {
            return;
        }
        self.count += u64::from(times);
        self.sum += u128::from(value) * u128::from(times);
        let squares = u128::from(value).pow(2).saturating_mul(times.into());
        self.squares = self.squares.saturating_add(squares);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.samples.push(value, times);
    }

    /// Adds one time, in nanoseconds.
    pub fn record_time(&mut self, time: Duration) {
        self.record(nanoseconds(time));
    }

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares = self.squares.saturating_add(other.squares);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        match &other.samples {
            Samples::Exact(values) => values.iter().for_each(|&value| self.samples.push(value, 1)),
            Samples::Histogram(theirs) => self
                .samples
                .histogram()
                .add(&**theirs)
                .expect("both histograms resize, and neither holds a value above the bound"),
        }
    }

    /// All values in their order, or `most` evenly spread quantiles where there are more.
    pub fn sample(&self, most: usize) -> Vec<f64> {
        let count = usize::try_from(self.count).unwrap_or(usize::MAX).min(most);
        let last = count.saturating_sub(1).max(1) as f64;
        (0..count).filter_map(|place| self.percentile(100.0 * place as f64 / last)).collect()
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Exact sum.
    pub fn sum(&self) -> u128 {
        self.sum
    }

    /// Exact minimum; absent without values.
    pub fn min(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min)
    }

    /// Exact maximum; absent without values.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// Arithmetic mean; absent without values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// Standard deviation of the population; absent without values.
    pub fn std(&self) -> Option<f64> {
        let mean = self.mean()?;
        let variance = self.squares as f64 / self.count as f64 - mean * mean;
        Some(variance.max(0.0).sqrt())
    }

    /// The value below which `percent` of the values lie (0 to 100); absent without values.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        self.percentiles(&[percent]).map(|values| values[0])
    }

    /// Several percentiles in one pass, in the order asked for; absent without values.
    pub fn percentiles(&self, percents: &[f64]) -> Option<Vec<f64>> {
        let ranked = self.samples.ranked();
        let last = ranked.last()?.0 - 1;
        let at = |rank: u64| {
            let value = ranked[ranked.partition_point(|&(upto, _)| upto <= rank)].1;
            value.clamp(self.min, self.max) as f64
        };
        let percentile = |&percent: &f64| {
            let position = last as f64 * percent.clamp(0.0, 100.0) / 100.0;
            let (low, share) = (position.floor(), position.fract());
            let (below, above) = (at(low as u64), at((low as u64 + 1).min(last)));
            below + (above - below) * share
        };
        Some(percents.iter().map(percentile).collect())
    }

    /// Mean, median and P99 divided by `unit`; zeros without values, as vLLM prints them.
    pub fn spread(&self, unit: f64) -> Spread {
        let percentiles = self.percentiles(&[50.0, 99.0]).unwrap_or_else(|| vec![0.0; 2]);
        Spread {
            mean: self.mean().unwrap_or_default() / unit,
            median: percentiles[0] / unit,
            p99: percentiles[1] / unit,
        }
    }
}

impl Extend<u64> for Distribution {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.record(value));
    }
}

// === impl Samples ===

impl Samples {
    fn push(&mut self, value: u64, times: u32) {
        match self {
            Self::Exact(values) if times as usize <= EXACT_SAMPLES - values.len() => {
                values.extend(iter::repeat_n(value, times as usize));
            }
            Self::Exact(_) | Self::Histogram(_) => {
                self.histogram().saturating_record_n(value.min(LARGEST), times);
            }
        }
    }

    /// The histogram, made from the samples so far where there is none yet.
    fn histogram(&mut self) -> &mut Histogram<u32> {
        if let Self::Exact(values) = self {
            let mut histogram = Histogram::new(3).expect("three digits are a valid precision");
            histogram.auto(true);
            // Grown to its end at once: saturating_record would clip at the current end instead of resizing.
            histogram.record_n(LARGEST, 0).expect("the bound is within 64 bits");
            values.iter().for_each(|&value| histogram.saturating_record(value.min(LARGEST)));
            *self = Self::Histogram(Box::new(histogram));
        }
        match self {
            Self::Histogram(histogram) => histogram,
            Self::Exact(_) => unreachable!("replaced above"),
        }
    }

    /// The values in order, each with the number of samples up to and including it.
    fn ranked(&self) -> Vec<(u64, u64)> {
        match self {
            Self::Exact(values) => {
                let mut sorted = values.clone();
                sorted.sort_unstable();
                iter::zip(1.., sorted).collect()
            }
            Self::Histogram(histogram) => histogram
                .iter_recorded()
                .scan(0, |upto, step| {
                    *upto += step.count_since_last_iteration();
                    Some((*upto, histogram.median_equivalent(step.value_iterated_to())))
                })
                .collect(),
        }
    }
}

/// Whole nanoseconds, saturating after 584 years.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn samples_are_all_values_or_stand_for_them() {
        let mut values = Distribution::default();
        (0..101).rev().for_each(|value| values.record(value));
        assert_eq!(values.sample(1000), (0..101).map(f64::from).collect::<Vec<_>>());
        assert_eq!(values.sample(5), [0.0, 25.0, 50.0, 75.0, 100.0]);
        assert_eq!(Distribution::default().sample(5), Vec::<f64>::new());
    }

    fn of(values: impl IntoIterator<Item = u64>) -> Distribution {
        let mut distribution = Distribution::default();
        distribution.extend(values);
        distribution
    }

    /// NumPy's `percentile(values, percent)`.
    fn exact(sorted: &[u64], percent: f64) -> f64 {
        let position = (sorted.len() - 1) as f64 * percent / 100.0;
        let low = sorted[position.floor() as usize] as f64;
        let high = sorted[position.ceil() as usize] as f64;
        low + (high - low) * position.fract()
    }

    #[test]
    fn small_sets_are_exact() {
        let values = of([15, 20, 35, 40, 50]);
        assert_eq!(values.percentiles(&[40.0, 99.0, 0.0, 100.0]), Some(vec![29.0, 49.6, 15.0, 50.0]));
        assert_eq!((values.mean(), values.min(), values.max()), (Some(32.0), Some(15), Some(50)));
        assert!((values.std().unwrap() - 166.0_f64.sqrt()).abs() < 1e-9, "population, not sample");
    }

    #[test]
    fn nothing_recorded_gives_nothing() {
        let empty = Distribution::default();
        assert_eq!(
            (empty.mean(), empty.std(), empty.percentile(50.0), empty.min()),
            (None, None, None, None)
        );
        assert_eq!(empty.spread(1.0), Spread::default());
    }

    #[test]
    fn equal_values_have_no_spread() {
        let values = of(std::iter::repeat_n(50_000_000, 3 * EXACT_SAMPLES));
        assert!(values.std().unwrap() < 2.0, "{:?}", values.std());
        assert_eq!(values.percentile(99.0), Some(50_000_000.0), "clamped to what was seen");
    }

    #[test]
    fn outliers_beyond_the_bound_keep_sum_and_maximum() {
        let values = of((0..2 * EXACT_SAMPLES as u64).map(|_| 5).chain([LARGEST * 3]));
        assert_eq!(values.max(), Some(LARGEST * 3));
        assert_eq!(values.sum(), u128::from(LARGEST) * 3 + 10 * EXACT_SAMPLES as u128);
        assert!(values.percentile(100.0).unwrap() >= LARGEST as f64 * 0.999);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn percentiles_are_within_a_thousandth(
            logarithms in prop::collection::vec(3.0_f64..13.0, 1..400),
            copies in 1..200_usize,
            split in 0.0_f64..1.0,
        ) {
            // Spread over ten decades, and more of them than are kept one by one in some cases.
            let values: Vec<u64> = logarithms
                .iter()
                .flat_map(|logarithm| (0..copies).map(move |copy| 10_f64.powf(*logarithm) as u64 + copy as u64 * 977))
                .collect();
            let (first, second) = values.split_at((values.len() as f64 * split) as usize);
            let mut merged = of(first.iter().copied());
            merged.merge(&of(second.iter().copied()));
            let mut sorted = values.clone();
            sorted.sort_unstable();
            prop_assert_eq!(merged.count(), values.len() as u64);
            prop_assert_eq!(merged.sum(), values.iter().map(|&value| u128::from(value)).sum::<u128>());
            prop_assert_eq!((merged.min(), merged.max()), (sorted.first().copied(), sorted.last().copied()));
            let percents = [0.0, 1.0, 10.0, 50.0, 90.0, 99.0, 99.9, 100.0];
            for (percent, found) in percents.iter().zip(merged.percentiles(&percents).unwrap()) {
                let wanted = exact(&sorted, *percent);
                prop_assert!((found - wanted).abs() <= wanted * 0.001, "p{percent}: {found} for {wanted}");
            }
        }
    }

    #[test]
    fn many_of_a_value_are_as_many_single_ones() {
        for before in [0, EXACT_SAMPLES - 3, EXACT_SAMPLES + 10] {
            let (mut single, mut together) = (Distribution::default(), Distribution::default());
            for values in [&mut single, &mut together] {
                values.extend((0..before as u64).map(|value| 2 * value));
            }
            (0..5).for_each(|_| single.record(7));
            together.record_n(7, 5);
            together.record_n(9, 0);
            let figures = |values: &Distribution| {
                (values.count(), values.sum(), values.max(), values.mean(), values.percentile(30.0))
            };
            assert_eq!(figures(&single), figures(&together));
        }
        let mut claimed = Distribution::default();
        claimed.record_n(0, u32::MAX);
        assert_eq!((claimed.count(), claimed.percentile(99.0)), (u32::MAX.into(), Some(0.0)));
    }
}
