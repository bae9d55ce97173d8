//! Statistics of a gauge's samples; percentiles interpolate linearly, as numpy's do.

use super::families::PERCENTS;
use crate::Object;

/// Statistics of a gauge's samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gauge {
    /// Mean.
    pub avg: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Standard deviation.
    pub std: f64,
    percentiles: [f64; 9],
}

/// Below which value this share of sorted samples lies. There must be one at least.
pub(crate) fn interpolated(samples: &[f64], share: f64) -> f64 {
    let place = (samples.len() - 1) as f64 * share;
    let (low, high) = (samples[place.floor() as usize], samples[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

impl Gauge {
    pub(super) fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let (min, max) = (*samples.first()?, *samples.last()?);
        let count = samples.len() as f64;
        let avg = samples.iter().sum::<f64>() / count;
        let variance = samples.iter().map(|sample| (sample - avg).powi(2)).sum::<f64>() / count;
        let percentiles = PERCENTS.map(|percent| interpolated(&samples, percent / 100.0));
        Some(Self { avg, min, max, std: variance.sqrt(), percentiles })
    }

    /// One of the percentiles that are kept: 1, 5, 10, 25, 50, 75, 90, 95, 99.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        PERCENTS.iter().position(|kept| *kept == percent).map(|place| self.percentiles[place])
    }

    /// The statistics by their names.
    pub(crate) fn statistics(&self) -> impl Iterator<Item = (String, f64)> {
        let Self { avg, min, max, std, percentiles } = *self;
        let named = [("avg", avg), ("min", min), ("max", max), ("std", std)];
        let percentiles = PERCENTS.into_iter().zip(percentiles);
        named
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .chain(percentiles.map(|(percent, value)| (format!("p{percent}"), value)))
    }

    /// The object for files.
    pub(crate) fn json(&self) -> Object {
        let mut object = Object::default();
        self.statistics().for_each(|(name, value)| object.set(name, value));
        object
    }
}
