//! Limits that turn figures into an exit status: `p99 ttft > 500ms`, `error_rate > 1%`, `goodput < 20`.
//!
//! A limit says when the run has failed. A statistic (`mean`, `min`, `max`, `std`, `p50`, `p99.9`, ...; the mean
//! where none is given) may stand before a metric or around it: `p99(ttft) > 0.5s`. Times without a unit are
//! milliseconds. A figure that was not measured has failed: a limit that cannot be checked must not pass.
//!
//! A name that AIPerf has means AIPerf's figure, and so do the rates, the goodput and the attainment: those that the
//! table and the files of the run show. Our own names mean our own figures, which count from the first send to the last
//! answer, failures included.

use std::{fmt, str::FromStr};

use crate::{
    Distribution, MILLISECOND, Metric, SECOND, Summary, Unit,
    aiperf::{Collector, Tag},
    metric::NANOSECOND_UNITS,
};

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
    #[error("unknown metric {name:?}; known are {known}, and AIPerf's metrics of a request")]
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
    Distribution(Statistic, Values),
    Scalar(Scalar),
}

/// Whose definition the values of requests follow.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Values {
    Own(Metric),
    Aiperf(Tag),
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

/// Other names of our own metrics.
const ALIASES: [(&str, Metric); 2] = [("latency", Metric::E2e), ("e2e", Metric::E2e)];

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
        match self.figure {
            Figure::Distribution(_, Values::Own(metric)) => {
                [Ttft, TtftFromSchedule, FirstAnswer, Tpot, Gap, MaxStall].contains(&metric)
            }
            Figure::Distribution(_, Values::Aiperf(tag)) => tag.needs_stream(),
            Figure::Scalar(_) => false,
        }
    }

    /// Whether the figure exists only where it was said what a good answer is.
    pub fn needs_goodput(&self) -> bool {
        matches!(self.figure, Figure::Scalar(Scalar::Goodput | Scalar::Attainment))
    }

    /// The breach of this limit by a run, if it breaks it; `measured` has collected the same requests.
    pub fn check(&self, run: &Summary, measured: &Collector) -> Option<Breach> {
        let value = self.figure.of(run, measured);
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
        let own = Metric::ALL.into_iter().find(|metric| metric.tag() == name).or(alias).map(Values::Own);
        let values = own.or_else(|| Tag::from_name(&name).map(Values::Aiperf)).ok_or_else(|| {
            let known = Metric::ALL.into_iter().map(Metric::tag).chain(Scalar::ALL.map(Scalar::name));
            ThresholdError::Metric { name, known: known.collect::<Vec<_>>().join(", ") }
        })?;
        Ok(Self::Distribution(statistic.map_or(Ok(Statistic::Mean), str::parse)?, values))
    }

    fn of(self, run: &Summary, measured: &Collector) -> Option<f64> {
        match self {
            Self::Distribution(statistic, Values::Own(metric)) => statistic.of(run.of(metric)),
            Self::Distribution(statistic, Values::Aiperf(tag)) => {
                let value = statistic.of(measured.values(tag)?)?;
                Some(match statistic {
                    _ if self.is_time() => value,
                    Statistic::Std => value / tag.scale(),
                    _ => value / tag.scale() - tag.offset(),
                })
            }
            Self::Scalar(scalar) => scalar.of(run, measured),
        }
    }

    fn is_time(self) -> bool {
        match self {
            Self::Distribution(_, Values::Own(metric)) => metric.unit() == Unit::Time,
            Self::Distribution(_, Values::Aiperf(tag)) => tag.is_time(),
            Self::Scalar(_) => false,
        }
    }

    /// What its values count, where they are no times.
    fn unit(self) -> &'static str {
        match self {
            Self::Distribution(_, Values::Own(_)) => "tokens",
            Self::Distribution(_, Values::Aiperf(tag)) => tag.unit(),
            Self::Scalar(scalar) => scalar.unit(),
        }
    }

    /// What a number with this unit is multiplied by.
    fn factor(self, unit: &str) -> Option<f64> {
        match (self, unit) {
            (figure, unit) if figure.is_time() => {
                let unit = if unit.is_empty() { "ms" } else { unit };
                NANOSECOND_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
            }
            (figure, unit) => (unit.is_empty() || unit == figure.unit()).then_some(1.0),
        }
    }

    fn units(self) -> &'static str {
        match self {
            figure if figure.is_time() => " with ns, us, ms or s",
            figure if figure.unit() == "%" => ", with or without %",
            _ => "",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            figure if figure.is_time() && value >= 10.0 * SECOND => format!("{:.2} s", value / SECOND),
            figure if figure.is_time() => format!("{:.2} ms", value / MILLISECOND),
            figure => format!("{value:.2} {}", figure.unit()).trim_end().to_owned(),
        }
    }
}

impl Statistic {
    fn of(self, values: &Distribution) -> Option<f64> {
        match self {
            Self::Mean => values.mean(),
            Self::Min => values.min().map(|value| value as f64),
            Self::Max => values.max().map(|value| value as f64),
            Self::Std => values.std(),
            Self::Percentile(percent) => values.percentile(percent),
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

    fn of(self, run: &Summary, measured: &Collector) -> Option<f64> {
        let shown = |tag: &str| measured.statistic(tag, "avg");
        match self {
            Self::ErrorRate => {
                (run.completed() > 0).then(|| 100.0 * run.failed() as f64 / run.completed() as f64)
            }
            Self::Errors => (run.requests() > 0).then(|| run.failed() as f64),
            Self::RequestThroughput
            | Self::OutputTokenThroughput
            | Self::TotalTokenThroughput
            | Self::Goodput => shown(self.name()),
            Self::Attainment => shown("good_request_fraction").map(|share| share * 100.0),
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
        Outcome, Record,
        aiperf::Slo,
        sample::{failure, request},
    };

    /// TTFT 1 to 100 ms, 10 s in all; one failure in 101.
    fn records() -> Vec<Record> {
        let answers = (1..=100).map(|index| request(100 * index, index, 10, 5));
        answers.chain([failure(500, 5, Outcome::Timeout)]).collect()
    }

    fn both(records: &[Record], slos: &str) -> (Summary, Collector) {
        let (mut run, mut measured) =
            (Summary::default(), Collector::new(true, Slo::parse_list(slos).unwrap()));
        for record in records {
            run.push(record, &Metric::ALL, &[]);
            measured.push(record);
        }
        (run, measured)
    }

    fn breach_in(text: &str, records: &[Record], slos: &str) -> Option<String> {
        let (run, measured) = both(records, slos);
        text.parse::<Threshold>().unwrap().check(&run, &measured).map(|breach| breach.to_string())
    }

    fn breach(text: &str) -> Option<String> {
        breach_in(text, &records(), "")
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
    fn a_name_of_aiperf_means_its_figure() {
        // The failure takes 100 s, and the first of five tokens comes with two more: two gaps to AIPerf, four to us.
        let mut records = records();
        let last = records.len() - 1;
        records[last] = failure(0, 100_000, Outcome::Timeout);
        for record in &mut records[..last] {
            record.chunks[0].tokens = 3;
        }
        let broken = |text: &str| breach_in(text, &records, "inter_token_latency:15 request_latency:100");
        assert_eq!(
            broken("mean inter_token_latency > 15").unwrap().split("it is ").nth(1),
            Some("20.00 ms)")
        );
        assert_eq!(broken("mean tpot > 15"), None, "ours divides by all tokens but the first");
        assert_eq!(broken("request_throughput < 9"), None, "answers in the time of answers");
        assert!(broken("attainment >= 0%").unwrap().ends_with("(it is 0.00 %)"));
        assert!(broken("goodput < 1").unwrap().ends_with("(it is 0.00 req/s)"));
        assert_eq!(broken("mean output_token_throughput_per_user < 49 tokens/sec/user"), None);
        assert!(broken("p50 output_token_throughput_per_user < 51").is_some());
    }

    #[test]
    fn what_was_cut_off_has_not_failed() {
        let mut records = records();
        records.extend((0..99).map(|_| failure(900, 5, Outcome::Incomplete)));
        let broken = |text: &str| breach_in(text, &records, "").is_some();
        assert!(!broken("errors > 1") && !broken("error_rate > 1%"));
        assert!(broken("error_rate > 0.9%"), "of 101 that ended, not of 200");
    }

    #[test]
    fn what_was_not_measured_has_failed() {
        assert_eq!(breach("prefix_hit_rate < 50%").unwrap(), "prefix_hit_rate < 50% (it was not measured)");
        assert!(breach_in("ttft > 1s", &[], "").is_some());
        assert!(breach("goodput > 99").is_some(), "what is good was not said");
        for streamed in ["ttft > 1", "inter_token_latency > 1"] {
            assert!(streamed.parse::<Threshold>().unwrap().needs_stream(), "{streamed}");
        }
        assert!("goodput < 1".parse::<Threshold>().unwrap().needs_goodput());
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
