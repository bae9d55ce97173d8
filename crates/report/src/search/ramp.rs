//! A ramp of loads on a logarithmic scale, and the first at which a figure is worse than at the smallest.

use serde_json::{Value, json};

/// Whole numbers from `low` to `high`, evenly spread on a logarithmic scale; equal ones once.
pub fn logarithmic_steps(low: u32, high: u32, steps: u32) -> Vec<u32> {
    let (from, to) = (f64::from(low.max(1)).ln(), f64::from(high.max(1)).ln());
    let last = f64::from(steps.max(2) - 1);
    let step = |index: u32| (from + (to - from) * f64::from(index) / last).exp().round() as u32;
    let mut values: Vec<u32> = (0..steps.max(2)).map(step).collect();
    values.dedup();
    values
}

/// What a ramp is judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Degradation {
    /// AIPerf's tag.
    pub metric: String,
    /// Its statistic.
    pub stat: String,
    /// By what share it may be worse than at the smallest load.
    pub threshold: f64,
}

impl Degradation {
    /// The place of the first point that is worse than the first by more than the threshold.
    pub fn knee(&self, points: &[(u32, f64)]) -> Option<usize> {
        let (_, base) = points.first()?;
        points.iter().position(|(_, figure)| *figure > base * (1.0 + self.threshold))
    }

    /// `degradation_knee.json`; none without points.
    pub fn json(&self, points: &[(u32, f64)]) -> Option<Value> {
        let (load, base) = points.first()?;
        let knee = self.knee(points).map(|place| points[place]);
        let stat = &self.stat;
        Some(json!({
            "baseline_concurrency": load,
            format!("baseline_{stat}"): base,
            "knee_concurrency": knee.map(|knee| knee.0),
            format!("knee_{stat}"): knee.map(|knee| knee.1),
            "threshold_pct": self.threshold,
            "swept_metric": self.metric,
            "stat": stat,
            "swept_param": super::PATH,
            "all_points": points
                .iter()
                .map(|(load, figure)| json!({ "concurrency": load, stat: figure }))
                .collect::<Vec<_>>(),
        }))
    }

    /// The same in a line.
    pub fn answer(&self, points: &[(u32, f64)]) -> String {
        let Self { metric, stat, threshold } = self;
        let worse = format!("{metric} {stat} more than {:.0} % above", threshold * 100.0);
        let (Some((load, base)), last) = (points.first(), points.last().map_or(0, |last| last.0)) else {
            return format!("{metric} {stat} was not measured");
        };
        match self.knee(points).map(|place| points[place]) {
            Some((knee, figure)) => {
                format!("At {knee} sessions {worse} that of {load}: {figure:.2} against {base:.2}")
            }
            None => format!("No {worse} that of {load} ({base:.2}) up to {last} sessions"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_spread_evenly_and_end_where_they_should() {
        assert_eq!(logarithmic_steps(1, 1000, 8), [1, 3, 7, 19, 52, 139, 373, 1000]);
        assert_eq!(logarithmic_steps(1, 4, 8), [1, 2, 3, 4]);
        assert_eq!(logarithmic_steps(7, 7, 2), [7]);
    }

    #[test]
    fn the_knee_is_the_first_point_beyond_the_threshold() {
        let degradation =
            Degradation { metric: "request_latency".to_owned(), stat: "p99".to_owned(), threshold: 0.2 };
        let points = [(1, 10.0), (8, 11.9), (64, 12.1), (128, 11.0)];
        assert_eq!(degradation.knee(&points), Some(2));
        let json = degradation.json(&points).unwrap();
        assert_eq!((&json["knee_concurrency"], &json["knee_p99"]), (&64.into(), &12.1.into()));
        assert_eq!(json["all_points"][1]["p99"], 11.9);
        assert!(degradation.answer(&points).starts_with("At 64 sessions request_latency p99 more than 20 %"));
        assert_eq!(degradation.knee(&points[..2]), None);
        assert!(degradation.answer(&points[..2]).starts_with("No request_latency"));
        assert_eq!(degradation.json(&[]), None);
    }
}
