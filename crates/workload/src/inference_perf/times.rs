//! When the requests of a stage are sent, since its start.
//!
//! Exact: `constant` has equal gaps from time 0; `poisson` is a Poisson process, ended by its count. Both give
//! `floor(rate * duration)` requests. Compat: inference-perf's samplers. Its `constant` draws that many exponential
//! gaps and scales them to end exactly at the duration; its `poisson` does the same in every second anew, with a
//! Poisson number of gaps.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, Poisson};

use super::ArrivalMode;
use crate::{Arrivals, Error, Pattern, Rate, random};

/// Times in order.
pub(super) type Times = Box<dyn Iterator<Item = Duration> + Send>;

/// Requests of a stage.
pub(super) fn count(rate: f64, duration_s: u64) -> u64 {
    // 0.1 * 30 is 3.0000000000000004, and 0.7 * 10 is 7; 4.35 * 100 is 434.99999999999994 and means 435.
    (rate * duration_s as f64 + 1e-6).floor() as u64
}

/// The times of one stage; `purpose` names it among the stages of a run.
pub(super) fn times(
    pattern: Pattern,
    mode: ArrivalMode,
    rate: f64,
    duration_s: u64,
    seed: u64,
    purpose: &str,
) -> Result<Times, Error> {
    let count = count(rate, duration_s);
    let mut random = random::stream(seed, purpose);
    Ok(match (mode, pattern) {
        (ArrivalMode::Exact, pattern) => {
            let times = Arrivals::new(pattern, Rate::constant(rate)?, rand::Rng::next_u64(&mut random))?;
            Box::new(times.take(usize::try_from(count).unwrap_or(usize::MAX)))
        }
        (ArrivalMode::Compat, Pattern::Constant) => {
            Box::new(scaled(&mut random, count, duration_s as f64, 0.0))
        }
        (ArrivalMode::Compat, _) => {
            let law = Poisson::new(rate).map_err(|_| Error::Setting(format!("a rate of {rate}")))?;
            let bins = (0_u64..).flat_map(move |second| {
                let bin = law.sample(&mut random) as u64;
                scaled(&mut random, bin, 1.0, second as f64)
            });
            Box::new(bins.take(usize::try_from(count).unwrap_or(usize::MAX)))
        }
    })
}

/// `count` random times within `span` seconds from `start` on, the last one at its end.
fn scaled(
    random: &mut ChaCha8Rng,
    count: u64,
    span: f64,
    start: f64,
) -> impl Iterator<Item = Duration> + use<> {
    let mut at = 0.0;
    let sums: Vec<f64> = (0..count)
        .map(|_| {
            at += Distribution::<f64>::sample(&Exp1, random);
            at
        })
        .collect();
    sums.into_iter().map(move |sum| Duration::from_secs_f64(start + sum / at * span))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(pattern: Pattern, mode: ArrivalMode, rate: f64, duration_s: u64) -> Vec<f64> {
        let times = times(pattern, mode, rate, duration_s, 7, "stage 0").unwrap();
        times.map(|at| at.as_secs_f64()).collect()
    }

    fn gaps(times: &[f64]) -> Vec<f64> {
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// Standard deviation of the gaps over their mean.
    fn variation(times: &[f64]) -> f64 {
        let gaps = gaps(times);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        variance.sqrt() / mean
    }

    #[test]
    fn constant_is_constant() {
        let times = drawn(Pattern::Constant, ArrivalMode::Exact, 100.0, 60);
        assert_eq!((times.len(), times[0], times[5999]), (6000, 0.0, 59.99));
        assert!(variation(&times) < 1e-6, "{}", variation(&times));
        assert_eq!([count(0.1, 30), count(4.35, 100), count(0.7, 10), count(1.0, 30)], [3, 435, 7, 30]);
    }

    #[test]
    fn poisson_is_a_poisson_process() {
        let times = drawn(Pattern::Poisson, ArrivalMode::Exact, 50.0, 2000);
        assert_eq!(times.len(), 100_000);
        assert!((variation(&times) - 1.0).abs() < 0.02);
        let mut counts = [0.0; 1900];
        for at in times.iter().filter(|at| **at < 1900.0) {
            counts[*at as usize] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / 1900.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 1900.0;
        assert!((variance / mean - 1.0).abs() < 0.13, "{}", variance / mean);
    }

    #[test]
    fn the_compat_samplers_are_theirs() {
        let constant = drawn(Pattern::Constant, ArrivalMode::Compat, 100.0, 60);
        assert_eq!((constant.len(), constant[5999]), (6000, 60.0));
        assert!((variation(&constant) - 0.985).abs() < 0.05, "{}", variation(&constant));
        let poisson = drawn(Pattern::Poisson, ArrivalMode::Compat, 0.2, 1000);
        assert_eq!(poisson.len(), 200);
        let whole = poisson.iter().filter(|at| at.fract() == 0.0).count();
        assert!(whole > 150, "most seconds have one request, at their end: {whole}");
    }

    #[test]
    fn stages_differ_and_the_seed_decides() {
        let times = |seed, purpose: &str| {
            times(Pattern::Poisson, ArrivalMode::Exact, 10.0, 10, seed, purpose).unwrap().collect::<Vec<_>>()
        };
        assert_eq!(times(1, "stage 0"), times(1, "stage 0"));
        assert_ne!(times(1, "stage 0"), times(1, "stage 1"));
        assert_ne!(times(1, "stage 0"), times(2, "stage 0"));
    }
}
