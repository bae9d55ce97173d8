//! Distributions as inference-perf writes them.

use crate::{Distribution, Object};

/// `{mean, min, p0.1, ..., median, ..., max}`, each divided by `unit`; nothing without values.
pub fn distribution(values: &Distribution, percentiles: &[f64], unit: f64) -> Option<Object> {
    let (mean, min, max) = (values.mean()?, values.min()?, values.max()?);
    let at = values.percentiles(percentiles)?;
    let mut object = Object::default();
    object.set("mean", mean / unit);
    object.set("min", min as f64 / unit);
    for (percent, value) in percentiles.iter().zip(at) {
        object.set(percentile_key(*percent), value / unit);
    }
    object.set("max", max as f64 / unit);
    Some(object)
}

/// `p99.9`, and `median`.
fn percentile_key(percent: f64) -> String {
    if percent == 50.0 { "median".to_owned() } else { format!("p{percent}") }
}

/// The same value `count` times.
pub(super) fn constant(value: u64, count: u64) -> Distribution {
    let mut values = Distribution::default();
    values.extend((0..count).map(|_| value));
    values
}
