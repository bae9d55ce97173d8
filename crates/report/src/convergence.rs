//! Whether repeated runs agree well enough to stop.
//!
//! Three ways: the width of the confidence interval of the mean against the mean, the standard deviation against the
//! mean, and a two-sample Kolmogorov-Smirnov test of the last run's values against those of the runs before it.

/// How agreement is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Agreement {
    /// Width of Student's confidence interval over the mean; stable below the threshold.
    IntervalWidth,
    /// Coefficient of variation; stable below the threshold.
    Variation,
    /// Probability that the last run differs from those before it by chance alone; stable above the threshold.
    Distribution,
}

impl Agreement {
    /// AIPerf's threshold, where none is given.
    pub fn usual_threshold(self) -> f64 {
        match self {
            Self::IntervalWidth => 0.10,
            Self::Variation | Self::Distribution => 0.05,
        }
    }
}

/// The width of the mean's confidence interval as a share of the mean. None for fewer than two values or a mean of 0.
pub fn interval_width(values: &[f64], confidence: f64) -> Option<f64> {
    let deviation = variation(values)?;
    let count = values.len() as f64;
    Some(2.0 * students_t(values.len() - 1, confidence) * deviation / count.sqrt())
}

/// The sample's standard deviation as a share of the mean. None for fewer than two values or a mean of 0.
pub fn variation(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    if values.len() < 2 || mean == 0.0 {
        return None;
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (count - 1.0)).sqrt() / mean.abs())
}

/// The probability that two samples of one distribution differ at least as much as these do: Kolmogorov and Smirnov's
/// test with the asymptotic law and Stephens' correction. None where one has fewer than two values.
pub fn same_distribution(left: &[f64], right: &[f64]) -> Option<f64> {
    if left.len() < 2 || right.len() < 2 {
        return None;
    }
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (left, right) = (sorted(left), sorted(right));
    let (mut one, mut other, mut distance) = (0, 0, 0.0_f64);
    while one < left.len() && other < right.len() {
        let value = left[one].min(right[other]);
        one += left[one..].iter().take_while(|next| **next <= value).count();
        other += right[other..].iter().take_while(|next| **next <= value).count();
        let gap = one as f64 / left.len() as f64 - other as f64 / right.len() as f64;
        distance = distance.max(gap.abs());
    }
    let size = (left.len() as f64 * right.len() as f64 / (left.len() + right.len()) as f64).sqrt();
    let scaled = (size + 0.12 + 0.11 / size) * distance;
    // Below this the series does not converge in a few terms, and its value is 1 to six digits.
    if scaled < 0.3 {
        return Some(1.0);
    }
    let term = |index: i32| {
        let index = f64::from(index);
        let sign = if index % 2.0 == 0.0 { -1.0 } else { 1.0 };
        sign * (-2.0 * (index * scaled).powi(2)).exp()
    };
    Some((2.0 * (1..=100).map(term).sum::<f64>()).clamp(0.0, 1.0))
}

/// The factor of a two-sided interval with so many degrees of freedom: the root of the distribution's integral.
pub fn students_t(freedom: usize, confidence: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1e4);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if central_share(freedom, middle) < confidence.min(0.999_999) { low = middle } else { high = middle }
    }
    high
}

/// The share of Student's distribution between -t and t, in the closed form for whole degrees of freedom
/// (Abramowitz and Stegun 26.7.3 and 26.7.4).
fn central_share(freedom: usize, t: f64) -> f64 {
    let angle = (t / (freedom as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let odd = freedom % 2 == 1;
    let (mut term, mut sum) = if odd { (cosine, if freedom > 1 { cosine } else { 0.0 }) } else { (1.0, 1.0) };
    let mut step = if odd { 2.0 } else { 1.0 };
    while step + 2.0 < freedom as f64 {
        term *= cosine * cosine * step / (step + 1.0);
        sum += term;
        step += 2.0;
    }
    if odd { (angle + sine * sum) * std::f64::consts::FRAC_2_PI } else { sine * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 2e-3, "{found} instead of {expected}");
    }

    #[test]
    fn intervals_are_those_of_the_tables() {
        for (freedom, expected) in [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262)] {
            close(students_t(freedom, 0.95), expected);
        }
        close(interval_width(&[9.0, 10.0, 11.0], 0.95).unwrap(), 2.0 * 4.303 * 0.1 / 3.0_f64.sqrt());
        close(variation(&[9.0, 10.0, 11.0]).unwrap(), 0.1);
        assert_eq!(interval_width(&[10.0], 0.95), None);
        assert_eq!(variation(&[-1.0, 1.0]), None);
    }

    #[test]
    fn samples_of_one_law_are_told_from_those_of_two() {
        let even = |from: f64| (0..100).map(|step| from + f64::from(step)).collect::<Vec<f64>>();
        assert_eq!(same_distribution(&even(0.0), &even(0.0)), Some(1.0));
        // Distance 0.2: the classical table has 0.0366 for the uncorrected statistic 1.414.
        let shifted = same_distribution(&even(0.0), &even(20.0)).unwrap();
        assert!(shifted < 0.04 && shifted > 0.02, "{shifted}");
        assert!(same_distribution(&even(0.0), &even(200.0)).unwrap() < 1e-9);
        assert!(same_distribution(&even(0.0), &even(5.0)).unwrap() > 0.9);
        // Ties count once, whatever the sizes.
        assert_eq!(same_distribution(&[1.0, 1.0, 1.0], &[1.0; 40]), Some(1.0));
        assert_eq!(same_distribution(&[1.0], &[1.0, 2.0]), None);
    }
}
