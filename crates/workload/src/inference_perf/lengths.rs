//! Draws lengths, and times in seconds, from the distributions of the file.
//!
//! Whole numbers between `min` and `max`; what a law draws beyond them is moved to the nearer one, so a wide law has
//! spikes at both ends, as in inference-perf. A lognormal has the mean and the standard deviation that are written. Of
//! Azzalini's skew normal they are the location and the scale, as there: its own mean lies on the side of its longer tail.

use rand::{Rng, RngExt};
use rand_distr::{Distribution as _, LogNormal, Normal, Poisson, StandardNormal};

use super::{Distribution, DistributionType, LengthOr};
use crate::{Error, MAX_PROMPT_TOKENS};

/// Draws from one distribution.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sampler {
    Always(f64),
    Within { law: Law, min: f64, max: f64 },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Law {
    Normal(Normal<f64>),
    SkewNormal { location: f64, scale: f64, delta: f64 },
    Lognormal(LogNormal<f64>),
    Uniform,
    Poisson(Poisson<f64>),
}

impl Sampler {
    pub(super) fn new(given: &Distribution) -> Result<Self, Error> {
        let (mean, deviation) = (given.mean, given.deviation());
        let refuse = |why: &str| {
            let law = given.r#type.word();
            Error::Setting(format!("a {law} distribution with mean {mean} and std_dev {deviation}: {why}"))
        };
        let law = match given.r#type {
            DistributionType::Fixed => return Ok(Self::Always(mean)),
            _ if deviation == 0.0
                && given.r#type != DistributionType::Uniform
                && given.r#type != DistributionType::Poisson =>
            {
                return Ok(Self::Always(mean.clamp(given.min as f64, given.max as f64)));
            }
            DistributionType::Normal => {
                Law::Normal(Normal::new(mean, deviation).map_err(|_| refuse("not possible"))?)
            }
            DistributionType::SkewNormal => {
                let delta = given.skew / given.skew.hypot(1.0);
                Law::SkewNormal { location: mean, scale: deviation, delta }
            }
            DistributionType::Lognormal => {
                if mean <= 0.0 {
                    return Err(refuse("the mean must be above 0"));
                }
                let variance = (1.0 + (deviation / mean).powi(2)).ln();
                let normal = LogNormal::new(mean.ln() - variance / 2.0, variance.sqrt());
                Law::Lognormal(normal.map_err(|_| refuse("not possible"))?)
            }
            DistributionType::Uniform => Law::Uniform,
            DistributionType::Poisson => {
                Law::Poisson(Poisson::new(mean).map_err(|_| refuse("the mean must be above 0"))?)
            }
        };
        Ok(Self::Within { law, min: given.min as f64, max: given.max as f64 })
    }

    pub(super) fn of(given: &LengthOr) -> Result<Self, Error> {
        match given {
            LengthOr::Number(number) => Ok(Self::Always(*number)),
            LengthOr::Distribution(given) => Self::new(given),
        }
    }

    pub(super) fn or(given: Option<&LengthOr>, default: f64) -> Result<Self, Error> {
        given.map_or(Ok(Self::Always(default)), Self::of)
    }

    /// A value that need not be whole.
    pub(super) fn draw(self, random: &mut impl Rng) -> f64 {
        match self {
            Self::Always(value) => value,
            Self::Within { law: Law::Uniform, min, max } => min + random.random::<f64>() * (max - min),
            Self::Within { law, min, max } => law.draw(random).clamp(min, max),
        }
    }

    /// A number of tokens, or of whatever is counted.
    pub(super) fn count(self, random: &mut impl Rng) -> u32 {
        let drawn = match self {
            Self::Within { law: Law::Uniform, min, max } => {
                random.random_range(min as u64..=max as u64) as f64
            }
            sampler => sampler.draw(random).round(),
        };
        (drawn.max(0.0) as u32).min(MAX_PROMPT_TOKENS)
    }
}

impl Law {
    fn draw(self, random: &mut impl Rng) -> f64 {
        match self {
            Self::Normal(law) => law.sample(random),
            Self::Lognormal(law) => law.sample(random),
            Self::Poisson(law) => law.sample(random),
            Self::SkewNormal { location, scale, delta } => {
                let (one, other): (f64, f64) = (StandardNormal.sample(random), StandardNormal.sample(random));
                location + scale * (delta * one.abs() + (1.0 - delta * delta).sqrt() * other)
            }
            Self::Uniform => random.random(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    /// Mean and standard deviation of many draws.
    fn moments(kind: DistributionType, skew: f64, max: i64) -> (f64, f64) {
        let given = Distribution {
            r#type: kind,
            min: 0,
            max,
            mean: 400.0,
            std_dev: Some(100.0),
            skew,
            ..Distribution::default()
        };
        let sampler = Sampler::new(&given).unwrap();
        let mut random = random::stream(1, "test");
        let drawn: Vec<f64> = (0..20_000).map(|_| f64::from(sampler.count(&mut random))).collect();
        assert!(drawn.iter().all(|value| (0.0..=max as f64).contains(value)));
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let variance = drawn.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn laws_have_the_moments_that_are_written() {
        // The skew normal has mean + std_dev x 0.774 for its mean, and std_dev x 0.633 for its deviation.
        for (kind, skew, mean_wanted, deviation_wanted) in [
            (DistributionType::Normal, 0.0, 400.0, 100.0),
            (DistributionType::SkewNormal, 4.0, 477.4, 63.3),
            (DistributionType::Lognormal, 0.0, 400.0, 100.0),
        ] {
            let (mean, deviation) = moments(kind, skew, 100_000);
            assert!(
                (mean - mean_wanted).abs() < 3.0 && (deviation - deviation_wanted).abs() < 3.0,
                "{kind:?}: {mean} {deviation}"
            );
        }
        let (mean, deviation) = moments(DistributionType::Poisson, 0.0, 100_000);
        assert!((mean - 400.0).abs() < 1.0 && (deviation - 20.0).abs() < 1.0, "{mean} {deviation}");
        let (mean, deviation) = moments(DistributionType::Uniform, 0.0, 1000);
        assert!((mean - 500.0).abs() < 5.0 && (deviation - 288.8).abs() < 4.0, "{mean} {deviation}");
        assert_eq!(moments(DistributionType::Fixed, 0.0, 1000), (400.0, 0.0));
    }

    #[test]
    fn what_lies_beyond_the_bounds_is_moved_to_them() {
        let (mean, deviation) = moments(DistributionType::Normal, 0.0, 400);
        assert!(mean < 365.0 && deviation < 70.0, "{mean} {deviation}");
    }
}
