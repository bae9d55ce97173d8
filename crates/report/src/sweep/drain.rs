//! inference-perf's way to find saturation: the number in flight, looked at twice a second; the rates at which it
//! falls; a percentile of those.

use std::time::Duration;

use crate::{Record, engines::interpolated};

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// The percentile (0 to 100) of the drain rates of a probe that is looked at until `end`; nothing below two rates.
pub fn drain_saturation(records: &[Record], end: Duration, percentile: f64) -> Option<f64> {
    let looks = (0..).map(|look| LOOK * look).take_while(|at| *at <= end);
    let flying = |at: Duration| {
        let flies = |record: &&Record| record.scheduled <= at && record.done > at;
        records.iter().filter(flies).count() as f64
    };
    let counts: Vec<f64> = looks.map(flying).collect();
    let falls = counts.windows(2).filter(|pair| pair[1] < pair[0]);
    let mut rates: Vec<f64> = falls.map(|pair| (pair[0] - pair[1]) / LOOK.as_secs_f64()).collect();
    rates.sort_by(f64::total_cmp);
    (rates.len() > 1).then(|| interpolated(&rates, percentile.clamp(0.0, 100.0) / 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{ms, request};

    /// All sent at once; so many are done within each look.
    fn drained(falls: &[u64]) -> Vec<Record> {
        let done = (0_u64..).zip(falls).flat_map(|(look, count)| (0..*count).map(move |_| look * 500 + 250));
        done.map(|done| Record { done: ms(done), ..request(0, 1, 1, 1) }).collect()
    }

    #[test]
    fn the_percentile_is_numpys() {
        // Rates 2, 40, 20 and 80; sorted 2, 20, 40, 80: at 95 % between the last two.
        let records = drained(&[1, 20, 10, 40]);
        let at = |percentile| drain_saturation(&records, ms(10_000), percentile);
        let found = at(95.0).unwrap();
        assert!((found - 74.0).abs() < 1e-9, "{found}");
        assert_eq!((at(0.0), at(100.0)), (Some(2.0), Some(80.0)));
    }

    #[test]
    fn one_rate_is_no_saturation() {
        assert_eq!(drain_saturation(&drained(&[5]), ms(10_000), 95.0), None);
        assert_eq!(drain_saturation(&drained(&[5, 5, 5]), ms(600), 95.0), None, "the others come too late");
    }
}
