//! When requests are sent: an endless sequence of absolute times, drawn from one seed.
//!
//! Every pattern draws gaps of mean 1 in "requests" and maps their running sum to time through the [`Rate`], so
//! that ramps and series keep the pattern's law: Poisson arrivals stay Poisson under a changing rate. One
//! sequence serves all sending threads: dealing it out never repeats or correlates gaps.
//!
//! Times never depend on how late earlier ones were sent.

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, Gamma};

use crate::{Error, Rate, random};

/// The law of the gaps between arrivals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Equal gaps, from time 0.
    Constant,
    /// Independent arrivals: exponential gaps.
    Poisson,
    /// Gamma gaps of this shape: below 1 in bursts, 1 as Poisson, above 1 smoother; infinite is constant.
    Gamma(f64),
}

/// Absolute arrival times in order; ends only if the rate falls to 0.
#[derive(Clone, Debug)]
pub struct Arrivals {
    gaps: Gaps,
    rate: Rate,
    random: ChaCha8Rng,
    /// Requests expected by the next arrival.
    count: f64,
}

#[derive(Clone, Copy, Debug)]
enum Gaps {
    Constant,
    Poisson,
    Gamma(Gamma<f64>),
}

impl Arrivals {
    /// The arrivals of a run with this seed.
    pub fn new(pattern: Pattern, rate: Rate, seed: u64) -> Result<Self, Error> {
        let gaps = match pattern {
            Pattern::Constant => Gaps::Constant,
            Pattern::Poisson => Gaps::Poisson,
            Pattern::Gamma(shape) if shape == f64::INFINITY => Gaps::Constant,
            Pattern::Gamma(shape) => Gaps::Gamma(Gamma::new(shape, shape.recip()).map_err(|_| {
                Error::Setting(format!("a smoothness of {shape}: give a number above 0 (1 is Poisson)"))
            })?),
        };
        let mut random = random::stream(seed, "arrivals");
        let count = gaps.first(&mut random);
        Ok(Self { gaps, rate, random, count })
    }

    /// The rate over time.
    pub fn rate(&self) -> &Rate {
        &self.rate
    }

    /// Moves all counts so that the first arrival is at time 0.
    #[must_use]
    pub fn from_zero(mut self) -> Self {
        self.count = 0.0;
        self
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let seconds = self.rate.time_of(self.count)?;
        self.count += self.gaps.draw(&mut self.random);
        Duration::try_from_secs_f64(seconds).ok()
    }
}

impl Gaps {
    fn first(self, random: &mut impl Rng) -> f64 {
        match self {
            Self::Constant => 0.0,
            gaps => gaps.draw(random),
        }
    }

    fn draw(self, random: &mut impl Rng) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Poisson => Exp1.sample(random),
            Self::Gamma(gamma) => gamma.sample(random),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SECONDS: usize = 5000;

    fn arrivals(pattern: Pattern, seed: u64) -> Vec<f64> {
        Arrivals::new(pattern, Rate::constant(20.0).unwrap(), seed)
            .unwrap()
            .map(|at| at.as_secs_f64())
            .take_while(|&at| at < SECONDS as f64)
            .collect()
    }

    /// Variance over mean of the counts in one-second windows: 1 for Poisson arrivals.
    fn dispersion(times: &[f64]) -> f64 {
        let mut counts = [0.0; SECONDS];
        times.iter().for_each(|&at| counts[at as usize] += 1.0);
        let mean = counts.iter().sum::<f64>() / SECONDS as f64;
        counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / SECONDS as f64 / mean
    }

    #[test]
    fn poisson_counts_have_the_variance_of_their_mean_and_no_gap_repeats() {
        let times = arrivals(Pattern::Poisson, 1);
        assert!((times.len() as f64 - 100_000.0).abs() < 1300.0, "{}", times.len());
        assert!((dispersion(&times) - 1.0).abs() < 0.08, "{}", dispersion(&times));
        let gaps: HashSet<u64> = times.windows(2).map(|pair| ((pair[1] - pair[0]) * 1e9) as u64).collect();
        assert!(gaps.len() as f64 > 0.999 * times.len() as f64, "{}", gaps.len());
        assert!(times.is_sorted());
    }

    #[test]
    fn the_gamma_shape_sets_the_burstiness() {
        let smooth = dispersion(&arrivals(Pattern::Gamma(4.0), 2));
        let bursty = dispersion(&arrivals(Pattern::Gamma(0.25), 2));
        assert!((smooth - 0.25).abs() < 0.05, "{smooth}");
        assert!((bursty - 4.0).abs() < 0.6, "{bursty}");
        assert!((arrivals(Pattern::Gamma(0.25), 3).len() as f64 - 100_000.0).abs() < 3000.0);
    }

    #[test]
    fn constant_arrivals_do_not_drift() {
        let rate = Rate::constant(1000.0 / 7.0).unwrap();
        let at = Arrivals::new(Pattern::Constant, rate.clone(), 0).unwrap().nth(1_000_000).unwrap();
        assert_eq!(at.as_micros(), 7_000_000_000);
        let mut infinite = Arrivals::new(Pattern::Gamma(f64::INFINITY), rate, 0).unwrap();
        assert_eq!(infinite.next(), Some(Duration::ZERO));
        assert_eq!(infinite.next(), Some(Duration::from_millis(7)));
    }

    #[test]
    fn a_ramp_changes_the_density() {
        let rate = Rate::ramp(0.0, 100.0, Duration::from_secs(100)).unwrap();
        let times: Vec<Duration> = Arrivals::new(Pattern::Poisson, rate, 4)
            .unwrap()
            .take_while(|at| *at < Duration::from_secs(200))
            .collect();
        let before = |seconds| times.iter().filter(|at| **at < Duration::from_secs(seconds)).count() as f64;
        assert!((before(50) - 1250.0).abs() < 140.0, "{}", before(50));
        assert!((before(100) - 5000.0).abs() < 280.0, "{}", before(100));
        assert!((before(200) - 15_000.0).abs() < 490.0, "{}", before(200));
    }

    #[test]
    fn a_seed_means_the_same_times_for_ever() {
        let times = |seed| {
            let arrivals = Arrivals::new(Pattern::Poisson, Rate::constant(10.0).unwrap(), seed).unwrap();
            arrivals.take(3).map(|at| at.as_nanos()).collect::<Vec<_>>()
        };
        assert_eq!(times(7), [300_894_284, 366_296_921, 527_704_024]);
        assert_ne!(times(7), times(8));
    }

    #[test]
    fn from_zero_keeps_the_gaps() {
        let arrivals = Arrivals::new(Pattern::Poisson, Rate::constant(10.0).unwrap(), 7).unwrap();
        let plain: Vec<Duration> = arrivals.clone().take(50).collect();
        let moved: Vec<Duration> = arrivals.from_zero().take(50).collect();
        assert_eq!(moved[0], Duration::ZERO);
        for (plain, moved) in plain.windows(2).zip(moved.windows(2)) {
            assert!((plain[1] - plain[0]).abs_diff(moved[1] - moved[0]) < Duration::from_nanos(3));
        }
    }

    #[test]
    fn a_shape_of_nothing_is_refused() {
        for shape in [0.0, -1.0, f64::NAN] {
            assert!(Arrivals::new(Pattern::Gamma(shape), Rate::constant(1.0).unwrap(), 0).is_err());
        }
    }
}
