//! Send times as today's `vllm bench serve` lays them out: a known number of requests, each after its own gap.
//!
//! The first request waits a gap too. At a constant rate all times are stretched so that the last request leaves
//! after exactly `requests / rate`: the seeds differ in when requests come, not in how many come a second. On a ramp
//! the mean gap follows the number of the request, not the time, and nothing is stretched. Gaps are this crate's, so
//! times are not the script's own for a seed.

use std::time::Duration;

use crate::{Arrivals, Error, Pattern, Rate};

/// Requests a second, from the first request to the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScriptRate {
    /// The same for all.
    Constant(f64),
    /// From one rate to another in equal steps.
    Linear(f64, f64),
    /// From one rate to another in equal ratios.
    Exponential(f64, f64),
}

/// The send times of `requests` requests.
///
/// # Errors
/// When the pattern or a rate makes no sense.
pub fn script_arrivals(
    pattern: Pattern,
    rate: ScriptRate,
    requests: usize,
    seed: u64,
) -> Result<Vec<Duration>, Error> {
    let unit = Arrivals::new(pattern, Rate::constant(1.0)?, seed)?.from_zero();
    let units: Vec<f64> = unit.take(requests + 1).map(|at| at.as_secs_f64()).collect();
    let gaps = units.windows(2).map(|pair| pair[1] - pair[0]);
    let last = requests.saturating_sub(1).max(1) as f64;
    let mut at = 0.0;
    let times = gaps.enumerate().map(|(index, gap)| {
        at += gap / rate.of(index as f64 / last);
        at
    });
    let times: Vec<f64> = times.collect();
    let stretch = match (rate, times.last()) {
        (ScriptRate::Constant(rate), Some(&last)) if last > 0.0 => requests as f64 / rate / last,
        _ => 1.0,
    };
    let time = |at: f64| {
        Duration::try_from_secs_f64(at * stretch)
            .map_err(|_| Error::Setting(format!("requests at {rate:?} a second: give rates above 0")))
    };
    times.into_iter().map(time).collect()
}

impl ScriptRate {
    /// The rate after this share of the requests.
    pub fn of(self, share: f64) -> f64 {
        match self {
            Self::Constant(rate) => rate,
            Self::Linear(from, to) => from + (to - from) * share,
            Self::Exponential(from, to) => from * (to / from).powf(share),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(pattern: Pattern, rate: ScriptRate, requests: usize) -> Vec<f64> {
        let times = script_arrivals(pattern, rate, requests, 7).unwrap();
        times.iter().map(Duration::as_secs_f64).collect()
    }

    #[test]
    fn requests_at_a_constant_rate_span_their_number_over_the_rate() {
        for seed in 0..20 {
            let times = script_arrivals(Pattern::Gamma(0.5), ScriptRate::Constant(20.0), 100, seed).unwrap();
            assert!((times[99].as_secs_f64() - 5.0).abs() < 1e-6, "{:?}", times[99]);
            assert!(times[0] > Duration::ZERO && times.is_sorted());
        }
        let equal = seconds(Pattern::Gamma(f64::INFINITY), ScriptRate::Constant(4.0), 3);
        assert_eq!(equal, [0.25, 0.5, 0.75]);
        assert!(seconds(Pattern::Poisson, ScriptRate::Constant(1.0), 0).is_empty());
    }

    #[test]
    fn on_a_ramp_the_gap_follows_the_number_of_the_request() {
        let gaps = |rate| {
            let times = [&[0.0], &seconds(Pattern::Constant, rate, 3)[..]].concat();
            times.windows(2).map(|pair| 1.0 / (pair[1] - pair[0])).collect::<Vec<_>>()
        };
        let near = |rates: &[f64], expected: [f64; 3]| {
            rates.iter().zip(expected).all(|(rate, wanted)| (rate - wanted).abs() < 1e-4)
        };
        let linear = gaps(ScriptRate::Linear(2.0, 8.0));
        assert!(near(&linear, [2.0, 5.0, 8.0]), "{linear:?}");
        let exponential = gaps(ScriptRate::Exponential(2.0, 8.0));
        assert!(near(&exponential, [2.0, 4.0, 8.0]), "{exponential:?}");
    }

    #[test]
    fn rates_that_never_send_are_refused() {
        assert!(script_arrivals(Pattern::Poisson, ScriptRate::Linear(0.0, 5.0), 3, 0).is_err());
    }
}
