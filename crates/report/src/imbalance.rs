//! How unevenly a load is shared: three figures that agree on an even share and weigh outliers differently.

use std::fmt;

/// How uneven a set of shares is.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Imbalance {
    /// The largest share by the mean: 1 is even, the number of shares is all on one. What the busiest replica feels.
    pub max_over_mean: f64,
    /// Standard deviation by the mean: 0 is even.
    pub cv: f64,
    /// Jain's index: 1 is even, 1 by the number of shares is all on one.
    pub jain: f64,
}

impl Imbalance {
    /// The imbalance of `shares`; absent where there is nothing to share.
    pub fn of(shares: &[f64]) -> Option<Self> {
        let count = shares.len() as f64;
        let (sum, squares): (f64, f64) =
            shares.iter().fold((0.0, 0.0), |(sum, squares), share| (sum + share, squares + share * share));
        (sum > 0.0).then(|| {
            let mean = sum / count;
            Self {
                max_over_mean: shares.iter().copied().fold(0.0, f64::max) / mean,
                cv: (squares / count - mean * mean).max(0.0).sqrt() / mean,
                jain: sum * sum / (count * squares),
            }
        })
    }
}

impl fmt::Display for Imbalance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { max_over_mean, cv, jain } = self;
        write!(formatter, "max/mean {max_over_mean:.2}, CV {cv:.3}, Jain {jain:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_shares() {
        let even = Imbalance { max_over_mean: 1.0, cv: 0.0, jain: 1.0 };
        assert_eq!(Imbalance::of(&[5.0, 5.0, 5.0, 5.0]), Some(even));
        let one = Imbalance::of(&[0.0, 12.0, 0.0]).unwrap();
        assert_eq!(one.to_string(), "max/mean 3.00, CV 1.414, Jain 0.333");
        assert_eq!((Imbalance::of(&[]), Imbalance::of(&[0.0, 0.0])), (None, None));
    }
}
