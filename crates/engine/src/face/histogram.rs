//! A Prometheus histogram with fixed bounds.

use std::fmt::Write;

/// Counts by upper bound. Not shared between threads.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: Vec<f64>,
    /// One more than bounds: the last counts what is above all of them.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    pub(crate) fn new(bounds: &[f64]) -> Self {
        Self { bounds: bounds.to_vec(), counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// `count` observations of the same value.
    pub(crate) fn observe(&mut self, value: f64, count: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += count;
        self.sum += value * count as f64;
    }

    /// Appends the series, without the comment lines. `labels` is `name="value",...`, not empty.
    pub(crate) fn write(&self, name: &str, labels: &str, out: &mut String) {
        let mut count = 0;
        for (bucket, in_bucket) in self.counts.iter().enumerate() {
            count += in_bucket;
            let _ = match self.bounds.get(bucket) {
                Some(bound) => writeln!(out, "{name}_bucket{{{labels},le=\"{bound:?}\"}} {count}"),
                None => writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}"),
            };
        }
        let _ = writeln!(out, "{name}_count{{{labels}}} {count}\n{name}_sum{{{labels}}} {}", self.sum);
    }
}

/// 1, 2, 5, 10, 20, 50 and so on, up to `most`.
pub(crate) fn one_two_five(most: u32) -> Vec<f64> {
    let decades = (0..).map(|exponent| 10f64.powi(exponent));
    let bounds = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|factor| factor * decade));
    bounds.take_while(|bound| *bound <= f64::from(most)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_not_above_their_bound() {
        let mut histogram = Histogram::new(&[0.5, 1.0]);
        for (value, count) in [(0.5, 2), (0.75, 1), (7.0, 3)] {
            histogram.observe(value, count);
        }
        let mut page = String::new();
        histogram.write("x", "a=\"b\"", &mut page);
        let expected = "x_bucket{a=\"b\",le=\"0.5\"} 2\nx_bucket{a=\"b\",le=\"1.0\"} 3\n\
                        x_bucket{a=\"b\",le=\"+Inf\"} 6\nx_count{a=\"b\"} 6\nx_sum{a=\"b\"} 22.75\n";
        assert_eq!(page, expected);
    }

    #[test]
    fn bounds_end_where_they_are_told_to() {
        assert_eq!(one_two_five(100), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(one_two_five(49), [1.0, 2.0, 5.0, 10.0, 20.0]);
    }
}
