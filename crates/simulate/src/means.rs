//! Figures of one policy as means over seeds.

use engine::Counters;
use report::{Distribution, Metric};

use crate::scenario::Trial;

/// Means over the seeds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Means {
    /// First send to last byte.
    pub duration_s: f64,
    /// Its standard deviation over the seeds.
    pub duration_deviation_s: f64,
    /// Prompt and output tokens.
    pub total_tokens_per_s: f64,
    /// Time to first token.
    pub mean_ttft_ms: f64,
    /// Its 99th percentile.
    pub p99_ttft_ms: f64,
    /// Time per output token.
    pub mean_tpot_ms: f64,
    /// Share of prompt tokens that caches held.
    pub prefix_hit_ratio: f64,
    /// Requests of the busiest replica over the mean.
    pub imbalance: f64,
    /// Sequences that were put back for want of memory.
    pub preemptions: f64,
    /// Cached blocks that were given to something else.
    pub evictions: f64,
    /// Requests that were sent again because their replica was gone.
    pub retries: f64,
    /// Share of the predicted cached tokens that were not there, for `prefix_aware`.
    pub prediction_missing: f64,
    /// Requests without an answer.
    pub failed: f64,
}

impl Means {
    /// Of at least one trial.
    pub fn of(trials: &[Trial]) -> Self {
        let mean = |value: &dyn Fn(&Trial) -> f64| {
            trials.iter().map(value).sum::<f64>() / trials.len().max(1) as f64
        };
        let mean_ms = |distribution: &Distribution| distribution.mean().unwrap_or(f64::NAN) / 1e6;
        let duration = |trial: &Trial| trial.report.total.duration_s();
        let duration_s = mean(&duration);
        Self {
            duration_s,
            duration_deviation_s: mean(&|trial| (duration(trial) - duration_s).powi(2)).sqrt(),
            total_tokens_per_s: mean(&|trial| trial.report.total.total_tokens_per_s()),
            mean_ttft_ms: mean(&|trial| mean_ms(trial.report.total.of(Metric::Ttft))),
            p99_ttft_ms: mean(&|trial| {
                trial.report.total.of(Metric::Ttft).percentile(99.0).unwrap_or(f64::NAN) / 1e6
            }),
            mean_tpot_ms: mean(&|trial| mean_ms(trial.report.total.of(Metric::Tpot))),
            prefix_hit_ratio: mean(&|trial| trial.report.total.prefix_hit_ratio().unwrap_or(0.0)),
            imbalance: mean(&imbalance),
            preemptions: mean(&|trial| total(trial, |counters| counters.preemptions)),
            evictions: mean(&|trial| total(trial, |counters| counters.evictions)),
            retries: mean(&|trial| trial.figures.retries as f64),
            prediction_missing: mean(&|trial| {
                let prediction = trial.figures.prediction;
                prediction.missing_tokens as f64 / prediction.expected_tokens.max(1) as f64
            }),
            failed: mean(&|trial| trial.report.total.failed() as f64),
        }
    }
}

fn total(trial: &Trial, counter: fn(&Counters) -> u64) -> f64 {
    trial.figures.replicas.iter().map(|replica| counter(&replica.counters)).sum::<u64>() as f64
}

/// Requests of the busiest replica over the mean.
fn imbalance(trial: &Trial) -> f64 {
    let requests = trial.figures.replicas.iter().map(|replica| replica.requests as f64);
    let most = requests.clone().fold(0.0, f64::max);
    most * trial.figures.replicas.len() as f64 / requests.sum::<f64>().max(1.0)
}
