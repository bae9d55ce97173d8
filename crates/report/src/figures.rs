//! The figures by which routing policies are compared: one flat row a run, in files and tables alike.

use serde::{Deserialize, Serialize};

use crate::{MILLISECOND, Metric, Spread, Summary};

/// The figures of one run under one policy. Field names are those of `demo.json`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PolicyFigures {
    /// The policy's name, in snake_case.
    pub policy: String,
    /// First byte sent to end of the last answer.
    pub duration_s: f64,
    /// Requests, however they ended.
    pub requests: u64,
    /// Requests that were not answered.
    pub failed: u64,
    /// Prompt tokens of the answered requests.
    pub input_tokens: u64,
    /// Output tokens of the answered requests.
    pub output_tokens: u64,
    /// Both, per second.
    pub total_tokens_per_s: f64,
    /// Time to first token.
    pub ttft_ms: Spread,
    /// Gaps between events, pooled.
    pub itl_ms: Spread,
    /// Time per output token, one value a request.
    pub tpot_ms: Spread,
    /// Share of the prompt tokens that came from a prefix cache, where that is known.
    #[serde(default)]
    pub prefix_hit_ratio: Option<f64>,
    /// First byte sent minus scheduled time, where that is known.
    #[serde(default)]
    pub schedule_lag_ms: Option<Spread>,
}

impl PolicyFigures {
    /// The figures of a run whose clock ran `speedup` times as fast as the system it stands for: times are
    /// given as that system would have shown them.
    pub fn new(policy: impl Into<String>, summary: &Summary, speedup: f64) -> Self {
        let spread = |metric| summary.of(metric).spread(MILLISECOND / speedup);
        Self {
            policy: policy.into(),
            duration_s: summary.duration_s() * speedup,
            requests: summary.requests(),
            failed: summary.requests() - summary.answered(),
            input_tokens: summary.input_tokens(),
            output_tokens: summary.output_tokens(),
            total_tokens_per_s: summary.total_tokens_per_s() / speedup,
            ttft_ms: spread(Metric::Ttft),
            itl_ms: spread(Metric::Gap),
            tpot_ms: spread(Metric::Tpot),
            prefix_hit_ratio: summary.prefix_hit_ratio(),
            schedule_lag_ms: Some(spread(Metric::ScheduleLag)),
        }
    }

    /// The means of several runs' figures; percentiles are means of the runs' percentiles. `None` of none.
    pub fn means(runs: &[Self]) -> Option<Self> {
        let first = runs.first()?;
        let count = runs.len() as f64;
        let mean = |value: &dyn Fn(&Self) -> f64| runs.iter().map(value).sum::<f64>() / count;
        let known = |value: &dyn Fn(&Self) -> Option<f64>| {
            let values: Option<Vec<f64>> = runs.iter().map(value).collect();
            values.map(|values| values.iter().sum::<f64>() / count)
        };
        let whole = |value: &dyn Fn(&Self) -> u64| mean(&|run| value(run) as f64).round() as u64;
        let spread = |of: &dyn Fn(&Self) -> Spread| Spread {
            mean: mean(&|run| of(run).mean),
            median: mean(&|run| of(run).median),
            p99: mean(&|run| of(run).p99),
        };
        Some(Self {
            policy: first.policy.clone(),
            duration_s: mean(&|run| run.duration_s),
            requests: whole(&|run| run.requests),
            failed: whole(&|run| run.failed),
            input_tokens: whole(&|run| run.input_tokens),
            output_tokens: whole(&|run| run.output_tokens),
            total_tokens_per_s: mean(&|run| run.total_tokens_per_s),
            ttft_ms: spread(&|run| run.ttft_ms),
            itl_ms: spread(&|run| run.itl_ms),
            tpot_ms: spread(&|run| run.tpot_ms),
            prefix_hit_ratio: known(&|run| run.prefix_hit_ratio),
            schedule_lag_ms: first
                .schedule_lag_ms
                .map(|lag| spread(&|run| run.schedule_lag_ms.unwrap_or(lag))),
        })
    }

    /// The figures by name, as `ttft_ms.mean`; unknown ones are left out.
    pub fn named(&self) -> Vec<(&'static str, f64)> {
        let mut figures = vec![
            ("duration_s", self.duration_s),
            ("total_tokens_per_s", self.total_tokens_per_s),
            ("ttft_ms.mean", self.ttft_ms.mean),
            ("ttft_ms.median", self.ttft_ms.median),
            ("ttft_ms.p99", self.ttft_ms.p99),
            ("itl_ms.mean", self.itl_ms.mean),
            ("itl_ms.median", self.itl_ms.median),
            ("itl_ms.p99", self.itl_ms.p99),
            ("tpot_ms.mean", self.tpot_ms.mean),
            ("tpot_ms.median", self.tpot_ms.median),
            ("tpot_ms.p99", self.tpot_ms.p99),
        ];
        figures.extend(self.prefix_hit_ratio.map(|ratio| ("prefix_hit_ratio", ratio)));
        figures.extend(self.schedule_lag_ms.map(|lag| ("schedule_lag_ms.p99", lag.p99)));
        figures
    }
}
