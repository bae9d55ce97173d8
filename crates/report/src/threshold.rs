//! Limits that turn figures into an exit status: `p99 ttft > 500ms`, `error_rate > 1%`, `goodput < 20`.
//!
//! A limit says when the run has failed. A statistic (`mean`, `min`, `max`, `std`, `p50`, `p99.9`, ...; the mean
//! where none is given) may stand before a metric or around it: `p99(ttft) > 0.5s`. Times without a unit are
//! milliseconds. A figure that was not measured has failed: a limit that cannot be checked must not pass.

use std::{fmt, str::FromStr};

use crate::{MILLISECOND, Metric, SECOND, Summary, Unit, metric::NANOSECOND_UNITS};

/// A limit on a figure of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    text: String,
    figure: Figure,
    comparison: Comparison,
    /// In nanoseconds, tokens, percent, or whatever the figure counts.
    limit: f64,
}

/// What came of a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Breach {
    /// The limit as it was written.
    pub limit: String,
    /// The figure, if there is one, with its unit.
    pub figure: Option<String>,
}

/// What is wrong with a limit.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ThresholdError {
    /// Not of the form.
    #[error(
        "{0:?} is not of the form STATISTIC METRIC > VALUE, as in 'p99 ttft > 500ms' or 'error_rate > 1%'"
    )]
    Form(String),
    /// No such metric.
    #[error("unknown metric {name:?}; known are {known}")]
    Metric {
        /// As it was written.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// No such statistic.
    #[error("unknown statistic {0:?}; known are mean, min, max, std and percentiles such as p50 or p99.9")]
    Statistic(String),
    /// The metric is one number.
    #[error("{0} is one number for the whole run; leave the statistic out")]
    Scalar(&'static str),
    /// The value is no number, or has another unit than the metric.
    #[error("{value:?} is no limit for {metric}: give a number{units}")]
    Value {
        /// As it was written.
        value: String,
        /// What is to be limited.
        metric: String,
        /// The units that it may have.
        units: &'static str,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    Distribution(Statistic, Metric),
    Scalar(Scalar),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Statistic {
    Mean,
    Min,
    Max,
    Std,
    Percentile(f64),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scalar {
    ErrorRate,
    Errors,
    RequestThroughput,
    OutputTokenThroughput,
    TotalTokenThroughput,
    Goodput,
    Attainment,
    PrefixHitRate,
    AchievedRate,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// Other names of metrics.
const ALIASES: [(&str, Metric); 9] = [
    ("time_to_first_token", Metric::Ttft),
    ("time_to_first_output_token", Metric::FirstAnswer),
    ("inter_token_latency", Metric::Tpot),
    ("inter_chunk_latency", Metric::Gap),
    ("request_latency", Metric::E2e),
    ("latency", Metric::E2e),
    ("e2e", Metric::E2e),
    ("input_sequence_length", Metric::InputTokens),
    ("output_sequence_length", Metric::OutputTokens),
];

const OPERATORS: [(&str, Comparison); 4] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    (">", Comparison::Above),
    ("<", Comparison::Below),
];

impl Threshold {
    /// Whether the figure exists only where answers are streamed.
    pub fn needs_stream(&self) -> bool {
        use Metric::{FirstAnswer, Gap, MaxStall, Tpot, Ttft, TtftFromSchedule};
        let streamed = [Ttft, TtftFromSchedule, FirstAnswer, Tpot, Gap, MaxStall];
        matches!(self.figure, Figure::Distribution(_, metric) if streamed.contains(&metric))
    }

    /// The breach of this limit by a run, if it breaks it.
    pub fn check(&self, run: &Summary) -> Option<Breach> {
        let value = self.figure.of(run);
        let broken = value.is_none_or(|value| match self.comparison {
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
        });
        let figure = value.map(|value| self.figure.show(value));
        broken.then(|| Breach { limit: self.text.clone(), figure })
    }
}

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let form = || ThresholdError::Form(text.to_owned());
        let (at, (sign, comparison)) = OPERATORS
            .iter()
            .filter_map(|operator| Some((text.find(operator.0)?, *operator)))
            .next()
            .ok_or_else(form)?;
        let (figure, value) = (&text[..at], text[at + sign.len()..].trim());
        let words: Vec<&str> = figure
            .split(|letter: char| letter.is_whitespace() || "()".contains(letter))
            .filter(|word| !word.is_empty())
            .collect();
        let figure = match words[..] {
            [metric] => Figure::named(None, metric)?,
            [statistic, metric] => Figure::named(Some(statistic), metric)?,
            _ => return Err(form()),
        };
        let digits =
            value.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(value.len());
        let (number, unit) = value.split_at(digits);
        let factor = figure.factor(unit.trim());
        let limit = number.parse::<f64>().ok().zip(factor).map(|(number, factor)| number * factor);
        let limit = limit.ok_or_else(|| ThresholdError::Value {
            value: value.to_owned(),
            metric: words.join(" "),
            units: figure.units(),
        })?;
        Ok(Self { text: text.trim().to_owned(), figure, comparison, limit })
    }
}

impl Figure {
    fn named(statistic: Option<&str>, name: &str) -> Result<Self, ThresholdError> {
        let name = name.to_ascii_lowercase().replace('-', "_");
        if let Some(scalar) = Scalar::ALL.into_iter().find(|scalar| scalar.name() == name) {
            return match statistic {
                None => Ok(Self::Scalar(scalar)),
                Some(_) => Err(ThresholdError::Scalar(scalar.name())),
            };
        }
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, metric)| *metric);
        let metric =
            Metric::ALL.into_iter().find(|metric| metric.tag() == name).or(alias).ok_or_else(|| {
                let known = Metric::ALL.into_iter().map(Metric::tag).chain(Scalar::ALL.map(Scalar::name));
                ThresholdError::Metric { name, known: known.collect::<Vec<_>>().join(", ") }
            })?;
        Ok(Self::Distribution(statistic.map_or(Ok(Statistic::Mean), str::parse)?, metric))
    }

    fn of(self, run: &Summary) -> Option<f64> {
        match self {
            Self::Distribution(statistic, metric) => {
                let values = run.of(metric);
                match statistic {
                    Statistic::Mean => values.mean(),
                    Statistic::Min => values.min().map(|value| value as f64),
                    Statistic::Max => values.max().map(|value| value as f64),
                    Statistic::Std => values.std(),
                    Statistic::Percentile(percent) => values.percentile(percent),
                }
            }
            Self::Scalar(scalar) => scalar.of(run),
        }
    }

    fn is_time(self) -> bool {
        matches!(self, Self::Distribution(_, metric) if metric.unit() == Unit::Time)
    }

    /// What a number with this unit is multiplied by.
    fn factor(self, unit: &str) -> Option<f64> {
        match (self, unit) {
            (figure, unit) if figure.is_time() => {
                let unit = if unit.is_empty() { "ms" } else { unit };
                NANOSECOND_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
            }
            (_, "") => Some(1.0),
            (Self::Scalar(scalar), "%") if scalar.unit() == "%" => Some(1.0),
            (Self::Scalar(scalar), unit) if scalar.unit() == unit => Some(1.0),
            _ => None,
        }
    }

    fn units(self) -> &'static str {
        match self {
            figure if figure.is_time() => " with ns, us, ms or s",
            Self::Scalar(scalar) if scalar.unit() == "%" => ", with or without %",
            _ => "",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            figure if figure.is_time() && value >= 10.0 * SECOND => format!("{:.2} s", value / SECOND),
            figure if figure.is_time() => format!("{:.2} ms", value / MILLISECOND),
            Self::Scalar(scalar) => format!("{value:.2} {}", scalar.unit()).trim_end().to_owned(),
            Self::Distribution(..) => format!("{value:.2} tokens"),
        }
    }
}

impl FromStr for Statistic {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let name = text.to_ascii_lowercase();
        let percentile =
            || name.strip_prefix('p')?.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
        match name.as_str() {
            "mean" | "avg" => Ok(Self::Mean),
            "min" => Ok(Self::Min),
            "max" => Ok(Self::Max),
            "std" => Ok(Self::Std),
            "median" => Ok(Self::Percentile(50.0)),
            _ => percentile().map(Self::Percentile).ok_or_else(|| ThresholdError::Statistic(text.to_owned())),
        }
    }
}

impl Scalar {
    const ALL: [Self; 9] = [
        Self::ErrorRate,
        Self::Errors,
        Self::RequestThroughput,
        Self::OutputTokenThroughput,
        Self::TotalTokenThroughput,
        Self::Goodput,
        Self::Attainment,
        Self::PrefixHitRate,
        Self::AchievedRate,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::ErrorRate => "error_rate",
            Self::Errors => "errors",
            Self::RequestThroughput => "request_throughput",
            Self::OutputTokenThroughput => "output_token_throughput",
            Self::TotalTokenThroughput => "total_token_throughput",
            Self::Goodput => "goodput",
            Self::Attainment => "attainment",
            Self::PrefixHitRate => "prefix_hit_rate",
            Self::AchievedRate => "achieved_rate",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::ErrorRate | Self::Attainment | Self::PrefixHitRate => "%",
            Self::Errors => "",
            Self::RequestThroughput | Self::Goodput | Self::AchievedRate => "req/s",
            Self::OutputTokenThroughput | Self::TotalTokenThroughput => "tokens/s",
        }
    }

    fn of(self, run: &Summary) -> Option<f64> {
        let some = run.requests() > 0;
        match self {
            Self::ErrorRate => {
                (run.completed() > 0).then(|| 100.0 * run.failed() as f64 / run.completed() as f64)
            }
            Self::Errors => some.then(|| run.failed() as f64),
            Self::RequestThroughput => some.then(|| run.per_second(run.answered())),
            Self::OutputTokenThroughput => some.then(|| run.per_second(run.output_tokens())),
            Self::TotalTokenThroughput => some.then(|| run.total_tokens_per_s()),
            Self::Goodput => some.then(|| run.per_second(run.good)),
            Self::Attainment => run.attainment().map(|share| share * 100.0),
            Self::PrefixHitRate => run.prefix_hit_ratio().map(|share| share * 100.0),
            Self::AchievedRate => run.achieved_rate(),
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.figure {
            Some(figure) => write!(formatter, "{} (it is {figure})", self.limit),
            None => write!(formatter, "{} (it was not measured)", self.limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Outcome,
        sample::{failure, request},
    };

    /// TTFT 1 to 100 ms, 10 s in all; one failure in 101.
    fn run() -> Summary {
        let mut summary = Summary::default();
        for index in 1..=100 {
            summary.push(&request(100 * index, index, 10, 5), &Metric::ALL, &[]);
        }
        summary.push(&failure(500, 5, Outcome::Timeout), &Metric::ALL, &[]);
        summary
    }

    fn breach(text: &str) -> Option<String> {
        text.parse::<Threshold>().unwrap().check(&run()).map(|breach| breach.to_string())
    }

    #[test]
    fn limits_are_read_in_every_form() {
        assert_eq!(breach("p99 ttft > 500ms"), None);
        assert_eq!(breach("p99 ttft > 50ms").unwrap(), "p99 ttft > 50ms (it is 99.01 ms)");
        for broken in [
            "P99(ttft)>0.05s",
            "p99 time_to_first_token >= 50",
            "max ttft > 99999us",
            "ttft < 60",
            "median e2e <= 91ms",
            "error_rate > 0.9%",
            "errors >= 1",
            "request_throughput < 11",
            "mean output_tokens < 6",
            "std ttft > 20ms",
        ] {
            assert!(breach(broken).is_some(), "{broken}");
        }
        for kept in ["error_rate > 1%", "p50 itl > 10.1 ms", "request_throughput < 9.5 req/s", "errors > 1"] {
            assert_eq!(breach(kept), None, "{kept}");
        }
    }

    #[test]
    fn what_was_cut_off_has_not_failed() {
        let mut run = run();
        (0..99).for_each(|_| run.push(&failure(900, 5, Outcome::Incomplete), &Metric::ALL, &[]));
        let broken = |text: &str| text.parse::<Threshold>().unwrap().check(&run).is_some();
        assert!(!broken("errors > 1") && !broken("error_rate > 1%"));
        assert!(broken("error_rate > 0.9%"), "of 101 that ended, not of 200");
    }

    #[test]
    fn what_was_not_measured_has_failed() {
        assert_eq!(breach("prefix_hit_rate < 50%").unwrap(), "prefix_hit_rate < 50% (it was not measured)");
        assert!("ttft > 1s".parse::<Threshold>().unwrap().check(&Summary::default()).is_some());
        assert!("ttft > 1".parse::<Threshold>().unwrap().needs_stream());
        assert!(!"e2el > 1".parse::<Threshold>().unwrap().needs_stream());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |text: &str| text.parse::<Threshold>().unwrap_err().to_string();
        assert!(error("p99 ttft").contains("is not of the form"));
        assert!(error("a b c > 1").contains("is not of the form"));
        assert!(error("p99 speed > 1").contains("unknown metric \"speed\"; known are ttft, ttft_sched"));
        assert!(error("p101 ttft > 1").contains("unknown statistic"));
        assert!(error("p99 error_rate > 1").contains("leave the statistic out"));
        assert_eq!(
            error("p99 ttft > 5%"),
            "\"5%\" is no limit for p99 ttft: give a number with ns, us, ms or s"
        );
        assert!(error("error_rate > x").contains("with or without %"));
    }
}
