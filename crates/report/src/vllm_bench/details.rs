//! The lists of the result file.

use crate::{Metric, Outcome, Record};

/// One entry a request, for the lists of the JSON file. Grows with the run: only for those who ask for it.
#[derive(Clone, Debug, Default)]
pub struct BenchDetails(pub(super) Vec<Detail>);

#[derive(Clone, Debug)]
pub(super) struct Detail {
    pub(super) order: (u16, u64),
    pub(super) input_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) ttft: f64,
    pub(super) gaps: Vec<f64>,
    pub(super) latency: f64,
    pub(super) start: f64,
    pub(super) queue: f64,
    pub(super) text: String,
    pub(super) error: String,
}

impl BenchDetails {
    /// Adds one request, with the text of its answer.
    pub fn push(&mut self, record: &Record, text: String) {
        let answered = record.outcome.is_success();
        let seconds = |metric: Metric| {
            let mut all = Vec::new();
            metric.values(record, |value| all.push(value as f64 / crate::SECOND));
            all
        };
        let first = |metric: Metric| seconds(metric).first().copied().unwrap_or(0.0);
        self.0.push(Detail {
            order: (record.phase, record.index),
            input_tokens: record.input_tokens.tokens,
            output_tokens: if answered { record.output_tokens.tokens } else { 0 },
            ttft: first(Metric::Ttft),
            gaps: seconds(Metric::Gap),
            latency: first(Metric::E2e),
            start: record.sent.unwrap_or_default().as_secs_f64(),
            queue: first(Metric::ScheduleLag),
            text: if answered { text } else { String::new() },
            error: error(&record.outcome),
        });
    }
}

/// Why a request was not answered; empty where it was. The scripts write the status's reason phrase, or a traceback.
fn error(outcome: &Outcome) -> String {
    let what = match outcome {
        Outcome::Success => return String::new(),
        Outcome::Status(status, _) => status.to_string(),
        outcome => outcome.kind().to_owned(),
    };
    match outcome.message() {
        "" => what,
        message => format!("{what}: {message}"),
    }
}
