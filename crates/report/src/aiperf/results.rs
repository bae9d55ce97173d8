//! Metric results: what a metric is called, its unit, and its statistics, in AIPerf's order.

use std::time::Duration;

use super::{Collector, Tag, sweep::over_time};
use crate::{Distribution, MILLISECOND, Object, engines::PERCENTS, summary::ratio};

/// The statistics, in the order of the CSV.
pub(super) const STATISTICS: [&str; 14] =
    ["avg", "min", "max", "sum", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "std"];

/// One metric with its statistics, in the unit it is printed in.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricResult {
    /// The key in files.
    pub tag: String,
    /// The name in tables.
    pub header: String,
    /// The unit of all values but the count.
    pub unit: &'static str,
    /// Its place in the console table, if it has one.
    pub order: Option<u32>,
    /// The values.
    pub statistics: Statistics,
}

/// A single value, or the statistics of many. What is infinite or unknown is absent.
#[derive(Clone, Debug, PartialEq)]
pub enum Statistics {
    /// Derived from the run as a whole.
    Scalar(f64),
    /// Of a figure over time, in the same order; without sum and outer percentiles.
    OverTime([Option<f64>; 14]),
    /// In the order of the CSV: avg, min, max, sum, p1 .. p99, std.
    Distribution {
        /// Number of values.
        count: u64,
        /// The statistics.
        values: [Option<f64>; 14],
    },
}

/// A replay that is later than this does not show the trace's load any more.
const REPLAY_LAG_LIMIT_MS: f64 = 500.0;

impl Collector {
    /// Everything collected, per second of the run's length.
    pub fn results(&self) -> Vec<MetricResult> {
        self.results_over(self.duration_s())
    }

    /// Everything collected, per second of `seconds`: those in which these requests could have been sent.
    pub(super) fn results_over(&self, seconds: f64) -> Vec<MetricResult> {
        let mut results: Vec<MetricResult> =
            self.values.iter().map(|(&tag, values)| distribution(tag, values)).collect();
        if self.failed > 0 {
            let adjusted = self.values.iter().filter(|(tag, _)| tag.adjusted());
            results.extend(adjusted.map(|(&tag, values)| self.adjusted(tag, values)).collect::<Vec<_>>());
        }
        results.extend(self.without_round_trip());
        results.extend(self.over_time_within(None));
        results.extend(self.scalars(seconds));
        results
    }

    /// What was under way at each moment, or at each moment of a window.
    pub(super) fn over_time_within(&self, window: Option<(Duration, Duration)>) -> Vec<MetricResult> {
        let figures = self.sweep.as_ref().map(|sweep| sweep.figures(self.streaming, window));
        figures.into_iter().flatten().map(over_time).collect()
    }

    /// The result of one tag, if there is one.
    pub fn result(&self, tag: Tag) -> Option<MetricResult> {
        self.values.get(&tag).map(|values| distribution(tag, values))
    }

    /// The values of one tag, as they are kept.
    pub(crate) fn values(&self, tag: Tag) -> Option<&Distribution> {
        self.values.get(&tag)
    }

    /// A statistic of a metric, by their names in files.
    pub fn statistic(&self, tag: &str, stat: &str) -> Option<f64> {
        let place = STATISTICS.iter().position(|known| *known == stat)?;
        match self.results().into_iter().find(|result| result.tag == tag)?.statistics {
            Statistics::Scalar(value) => (place == 0).then_some(value),
            Statistics::OverTime(values) | Statistics::Distribution { values, .. } => values[place],
        }
    }

    /// A metric's values, one a request, from the smallest on; of more than `most` so many that stand for them.
    pub fn sample(&self, tag: &str, most: usize) -> Vec<f64> {
        let found = self.values.iter().find(|(known, _)| known.name() == tag);
        found.map_or_else(Vec::new, |(tag, values)| {
            values.sample(most).into_iter().map(|value| value / tag.scale()).collect()
        })
    }

    /// Latencies less the round trip to the servers, never below zero.
    fn without_round_trip(&self) -> Vec<MetricResult> {
        let Some(round_trip) = self.round_trip else { return Vec::new() };
        let less = round_trip.as_secs_f64() * 1e3;
        let adjusted = [Tag::RequestLatency, Tag::TimeToFirstToken, Tag::TimeToFirstOutputToken];
        let shift = |tag: Tag| {
            let mut result = self.result(tag)?;
            result.tag = format!("network_adjusted_{}", result.tag);
            result.header = format!("Network-Adjusted {}", result.header);
            result.order = None;
            if let Statistics::Distribution { count, values } = &mut result.statistics {
                let sum = values[3].map(|sum| (sum - less * *count as f64).max(0.0));
                // Of all but the sum and the standard deviation, the round trip goes off once.
                for value in values[..13].iter_mut().flatten() {
                    *value = (*value - less).max(0.0);
                }
                values[3] = sum;
            }
            Some(result)
        };
        let rtt = MetricResult {
            tag: "network_rtt".to_owned(),
            header: "Network RTT".to_owned(),
            unit: "ms",
            order: None,
            statistics: Statistics::Scalar(less),
        };
        adjusted.into_iter().filter_map(shift).chain([rtt]).collect()
    }

    /// Failures count as infinitely slow; nearest ranks, because infinity cannot be interpolated.
    fn adjusted(&self, tag: Tag, values: &Distribution) -> MetricResult {
        let count = values.count() + self.failed;
        let nearest = |percent: f64| {
            let rank = (percent / 100.0 * (count - 1) as f64).round_ties_even();
            let last = (values.count() - 1) as f64;
            (rank <= last).then(|| values.percentile(100.0 * rank / last.max(1.0)))?
        };
        let mut statistics = [None; 14];
        statistics[1] = values.min().map(|min| min as f64);
        for (place, percent) in statistics[4..13].iter_mut().zip(PERCENTS) {
            *place = nearest(percent);
        }
        let values = statistics.map(|value| value.map(|value| value / tag.scale()));
        MetricResult {
            tag: format!("adj_{}", tag.name()),
            header: format!("{} (error-adjusted)", tag.header()),
            unit: tag.unit(),
            order: None,
            statistics: Statistics::Distribution { count, values },
        }
    }

    /// A percentile of how late a trace was replayed, against its most punctual request.
    fn replay_lag(&self, percent: f64) -> Option<f64> {
        let lag = self.replay_lag.as_ref()?;
        Some((lag.percentile(percent)? - lag.min()? as f64) / MILLISECOND)
    }

    fn scalars(&self, seconds: f64) -> Vec<MetricResult> {
        let rate = |count: u64| ratio(count as f64, seconds);
        let count = |count: u64| Some(count as f64);
        let sum = |tag: Tag| self.values.get(&tag).map(|values| values.sum() as f64);
        let (answered, failed) = (self.answered, self.failed);
        let cached = sum(Tag::UsagePromptCacheReadTokens);
        let cache_known = cached.zip(sum(Tag::UsagePromptCacheMissTokens)).map(|(read, miss)| read + miss);
        let good = self.has_goodput();
        let output = |value: Option<f64>| value.filter(|_| self.output_tokens > 0);
        [
            (
                "output_token_throughput",
                "Output Token Throughput",
                "tokens/sec",
                Some(800),
                output(rate(self.output_tokens)),
            ),
            (
                "input_token_throughput",
                "Input Token Throughput",
                "tokens/sec",
                Some(805),
                rate(self.input_tokens),
            ),
            (
                "total_token_throughput",
                "Total Token Throughput",
                "tokens/sec",
                None,
                output(rate(self.input_tokens + self.output_tokens)),
            ),
            ("request_throughput", "Request Throughput", "requests/sec", Some(900), rate(answered)),
            ("goodput", "Goodput", "requests/sec", Some(1000), rate(self.good).filter(|_| good)),
            ("good_request_count", "Good Request Count", "requests", None, count(self.good).filter(|_| good)),
            (
                "good_request_fraction",
                "GoodRequestFraction",
                "ratio",
                None,
                ratio(self.good as f64, (answered + failed) as f64).filter(|_| good),
            ),
            (
                "completed_request_count",
                "Completed Requests (Success + Error)",
                "requests",
                Some(1075),
                count(answered + failed),
            ),
            (
                "request_error_rate",
                "Request Error Rate",
                "%",
                Some(1080),
                ratio(100.0 * failed as f64, (answered + failed) as f64),
            ),
            ("request_count", "Request Count", "requests", Some(1100), count(answered)),
            (
                "error_request_count",
                "Error Request Count",
                "requests",
                None,
                count(failed).filter(|_| failed > 0),
            ),
            ("total_isl", "Total Input Sequence Length", "tokens", None, count(self.input_tokens)),
            ("total_osl", "Total Output Sequence Length", "tokens", None, output(count(self.output_tokens))),
            (
                "total_output_tokens",
                "Total Output Tokens",
                "tokens",
                None,
                output(count(self.output_tokens.saturating_sub(self.reasoning_tokens.unwrap_or(0)))),
            ),
            (
                "total_reasoning_tokens",
                "Total Reasoning Tokens",
                "tokens",
                None,
                self.reasoning_tokens.map(|tokens| tokens as f64),
            ),
            (
                "total_error_isl",
                "Total Error Input Sequence Length",
                "tokens",
                None,
                count(self.error_input_tokens).filter(|_| failed > 0),
            ),
            (
                "context_overflow_count",
                "Context Overflow Count",
                "requests",
                None,
                count(self.context_overflows).filter(|_| failed > 0),
            ),
            ("benchmark_duration", "Benchmark Duration", "sec", None, Some(self.duration_s())),
            (
                "osl_mismatch_count",
                "OSL Mismatch Count",
                "requests",
                None,
                self.length_mismatches.map(|count| count as f64),
            ),
            (
                "usage_discrepancy_count",
                "Usage Discrepancy Count",
                "requests",
                None,
                self.count_mismatches.map(|count| count as f64),
            ),
            ("replay_sched_lag_p50", "Replay Schedule Lag p50", "ms", None, self.replay_lag(50.0)),
            ("replay_sched_lag_p90", "Replay Schedule Lag p90", "ms", None, self.replay_lag(90.0)),
            ("replay_sched_lag_p99", "Replay Schedule Lag p99", "ms", None, self.replay_lag(99.0)),
            (
                "replay_sched_degraded",
                "Replay Schedule Degraded",
                "count",
                None,
                self.replay_lag(99.0).map(|lag| f64::from(lag > REPLAY_LAG_LIMIT_MS)),
            ),
            (
                "total_usage_prompt_tokens",
                "Total Usage Prompt Tokens",
                "tokens",
                None,
                sum(Tag::UsagePromptTokens),
            ),
            (
                "total_usage_completion_tokens",
                "Total Usage Completion Tokens",
                "tokens",
                None,
                sum(Tag::UsageCompletionTokens),
            ),
            (
                "total_usage_total_tokens",
                "Total Usage Total Tokens",
                "tokens",
                None,
                sum(Tag::UsageTotalTokens),
            ),
            (
                "total_usage_prompt_cache_read_tokens",
                "Total Usage Prompt Cache Read Tokens",
                "tokens",
                None,
                cached,
            ),
            (
                "total_usage_prompt_cache_miss_tokens",
                "Total Usage Prompt Cache Miss Tokens",
                "tokens",
                None,
                sum(Tag::UsagePromptCacheMissTokens),
            ),
            (
                "total_usage_reasoning_tokens",
                "Total Usage Reasoning Tokens",
                "tokens",
                None,
                sum(Tag::UsageReasoningTokens),
            ),
            (
                "overall_usage_prompt_cache_read_pct",
                "Overall Usage Prompt Cache Read %",
                "%",
                None,
                cached.zip(cache_known).and_then(|(read, all)| ratio(100.0 * read, all)),
            ),
        ]
        .into_iter()
        .filter_map(|(tag, header, unit, order, value)| {
            let (tag, header) = (tag.to_owned(), header.to_owned());
            Some(MetricResult { tag, header, unit, order, statistics: Statistics::Scalar(value?) })
        })
        .collect()
    }
}

fn distribution(tag: Tag, values: &Distribution) -> MetricResult {
    let scaled = |value: Option<f64>| value.map(|value| value / tag.scale() - tag.offset());
    let mut statistics = [None; 14];
    statistics[0] = scaled(values.mean());
    statistics[1] = scaled(values.min().map(|min| min as f64));
    statistics[2] = scaled(values.max().map(|max| max as f64));
    statistics[3] = Some(values.sum() as f64 / tag.scale() - tag.offset() * values.count() as f64);
    let percentiles = values.percentiles(&PERCENTS).unwrap_or_default();
    for (place, value) in statistics[4..13].iter_mut().zip(percentiles) {
        *place = scaled(Some(value));
    }
    statistics[13] = values.std().map(|std| std / tag.scale());
    MetricResult {
        tag: tag.name().to_owned(),
        header: tag.header().to_owned(),
        unit: tag.unit(),
        order: tag.order(),
        statistics: Statistics::Distribution { count: values.count(), values: statistics },
    }
}

// === impl MetricResult ===

impl MetricResult {
    /// The statistic called `name`: `avg`, `min`, `p99`, ... A scalar has only `avg`.
    pub fn statistic(&self, name: &str) -> Option<f64> {
        match &self.statistics {
            Statistics::Scalar(value) => (name == "avg").then_some(*value),
            Statistics::Distribution { values, .. } | Statistics::OverTime(values) => {
                values[STATISTICS.iter().position(|known| *known == name)?]
            }
        }
    }

    /// The object of the JSON file: unit, avg, p1 .. p99, min, max, std, count, sum.
    pub(super) fn json(&self) -> Object {
        let mut object = Object::default();
        object.set("unit", self.unit);
        let order = ["avg", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "min", "max", "std"];
        let mut set = |name: &str| {
            if let Some(value) = self.statistic(name) {
                object.set(name, value);
            }
        };
        order.into_iter().for_each(&mut set);
        if let Statistics::Distribution { count, .. } = self.statistics {
            object.set("count", count);
        }
        if let Some(sum) = self.statistic("sum") {
            object.set("sum", sum);
        }
        object
    }
}
