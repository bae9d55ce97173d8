//! One limit of a search: a metric's statistic against a number, as `--search-sla` writes it.

use std::{fmt, str::FromStr};

use serde_json::{Value, json};

/// `metric:statistic:comparison:value`
#[derive(Clone, Debug, PartialEq)]
pub struct Sla {
    /// AIPerf's tag.
    pub metric: String,
    /// `avg`, `min`, `max`, `p1` to `p99`.
    pub stat: String,
    /// How the figure must compare.
    pub comparison: Comparison,
    /// In the unit in which the metric is printed.
    pub threshold: f64,
}

/// How a figure must compare with a limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Comparison {
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// A text that is no limit.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SlaError {
    /// Not four parts.
    #[error("write METRIC:STATISTIC:COMPARISON:VALUE, such as time_to_first_token:p95:lt:500")]
    Form,
    /// Not a statistic.
    #[error("statistic {0:?}: choose from avg, min, max, p1, p5, p10, p25, p50, p75, p90, p95, p99")]
    Stat(String),
    /// Not a comparison.
    #[error("comparison {0:?}: choose from lt, le, gt, ge")]
    Comparison(String),
    /// Not a number.
    #[error("{0:?} is not a number")]
    Number(String),
}

const STATS: [&str; 12] = ["avg", "min", "max", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99"];

impl Sla {
    /// A limit from above.
    pub fn below(metric: &str, stat: &str, threshold: f64) -> Self {
        Self { metric: metric.to_owned(), stat: stat.to_owned(), comparison: Comparison::Lt, threshold }
    }

    /// Whether a figure keeps it. One that was not measured does not.
    pub fn holds(&self, figure: Option<f64>) -> bool {
        figure.is_some_and(|figure| match self.comparison {
            Comparison::Lt => figure < self.threshold,
            Comparison::Le => figure <= self.threshold,
            Comparison::Gt => figure > self.threshold,
            Comparison::Ge => figure >= self.threshold,
        })
    }

    /// Whether it is about what only streams have.
    pub fn needs_stream(&self) -> bool {
        ["first_token", "first_output_token", "second_token", "inter_token", "inter_chunk"]
            .iter()
            .any(|part| self.metric.contains(part))
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "metric_tag": self.metric,
            "stat": self.stat,
            "op": self.comparison.name(),
            "threshold": self.threshold,
        })
    }
}

impl Comparison {
    fn name(self) -> &'static str {
        match self {
            Self::Lt => "lt",
            Self::Le => "le",
            Self::Gt => "gt",
            Self::Ge => "ge",
        }
    }
}

impl fmt::Display for Sla {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.comparison {
            Comparison::Lt => "<",
            Comparison::Le => "<=",
            Comparison::Gt => ">",
            Comparison::Ge => ">=",
        };
        write!(formatter, "{} {} {sign} {}", self.metric, self.stat, self.threshold)
    }
}

impl FromStr for Sla {
    type Err = SlaError;

    fn from_str(text: &str) -> Result<Self, SlaError> {
        let parts: Vec<&str> = text.split(':').map(str::trim).collect();
        let [metric, stat, comparison, threshold] = parts[..] else { return Err(SlaError::Form) };
        let all = [Comparison::Lt, Comparison::Le, Comparison::Gt, Comparison::Ge];
        let known = all.into_iter().find(|known| known.name() == comparison);
        let threshold: Option<f64> = threshold.parse().ok().filter(|number: &f64| number.is_finite());
        Ok(Self {
            metric: metric.to_owned(),
            stat: STATS
                .iter()
                .find(|known| **known == stat)
                .ok_or_else(|| SlaError::Stat(stat.to_owned()))?
                .to_string(),
            comparison: known.ok_or_else(|| SlaError::Comparison(comparison.to_owned()))?,
            threshold: threshold.ok_or_else(|| SlaError::Number(parts[3].to_owned()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_shown_and_checked() {
        let sla: Sla = "time_to_first_token:p95:lt:200".parse().unwrap();
        assert_eq!(sla, Sla::below("time_to_first_token", "p95", 200.0));
        assert_eq!(sla.to_string(), "time_to_first_token p95 < 200");
        assert!(sla.holds(Some(199.9)) && !sla.holds(Some(200.0)) && !sla.holds(None));
        assert!(sla.needs_stream());
        let share: Sla = "good_request_fraction:avg:ge:0.95".parse().unwrap();
        assert!(share.holds(Some(0.95)) && !share.holds(Some(0.94)) && !share.needs_stream());
        for (wrong, error) in [
            ("a:b", SlaError::Form),
            ("a:p97:lt:1", SlaError::Stat("p97".to_owned())),
            ("a:p95:<:1", SlaError::Comparison("<".to_owned())),
            ("a:p95:lt:x", SlaError::Number("x".to_owned())),
        ] {
            assert_eq!(wrong.parse::<Sla>(), Err(error));
        }
    }
}
