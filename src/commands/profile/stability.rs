//! Whether the repetitions of a setting agree, so that no more are needed.

use report::{Agreement, interval_width, same_distribution, variation};

use super::{Arguments, run::Finished};

/// Repetitions before which nothing is said.
const FEWEST: usize = 2;
/// Values of a run that stand for all of them in the test of distributions.
const SAMPLE: usize = 10_000;

/// What the repetitions of a setting came to.
#[derive(Debug)]
pub(super) struct Stability {
    metric: Option<String>,
    stat: String,
    agreement: Agreement,
    threshold: f64,
    confidence: f64,
    values: Vec<f64>,
    samples: Vec<Vec<f64>>,
}

impl Stability {
    pub(super) fn new(arguments: &Arguments) -> Self {
        let runs = &arguments.runs;
        let agreement = Agreement::from(runs.convergence_mode);
        Self {
            metric: runs.convergence_metric.clone(),
            stat: runs.convergence_stat.clone(),
            agreement,
            threshold: runs.convergence_threshold.unwrap_or_else(|| agreement.usual_threshold()),
            confidence: runs.confidence_level,
            values: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Takes a repetition. Says how well they agree once they do.
    pub(super) fn push(&mut self, finished: &Finished) -> Option<String> {
        let metric = self.metric.as_deref()?;
        let measured = &finished.recording.measured;
        if self.agreement == Agreement::Distribution {
            let sample = measured.sample(metric, SAMPLE);
            if sample.is_empty() {
                tracing::warn!("--convergence-metric {metric}: the run has no values of it, one a request");
            }
            self.samples.push(sample);
        } else if let Some(value) = measured.statistic(metric, &self.stat) {
            self.values.push(value);
        } else {
            tracing::warn!("--convergence-metric {metric}: the run has no {} of it", self.stat);
        }
        let said = self.agreed()?;
        Some(format!("{metric} is stable after {} runs: {said}", self.values.len().max(self.samples.len())))
    }

    fn agreed(&self) -> Option<String> {
        let share = |share: f64| format!("{:.1} %", share * 100.0);
        let below = |found: f64, what: &str| {
            let limit = self.threshold;
            (found < limit)
                .then(|| format!("{what} is {} of the mean, less than {}", share(found), share(limit)))
        };
        match self.agreement {
            _ if self.values.len().max(self.samples.len()) < FEWEST => None,
            Agreement::IntervalWidth => {
                below(interval_width(&self.values, self.confidence)?, "the confidence interval")
            }
            Agreement::Variation => below(variation(&self.values)?, "the standard deviation"),
            Agreement::Distribution => {
                let (last, before) = self.samples.split_last()?;
                let found = same_distribution(&before.concat(), last)?;
                (found > self.threshold).then(|| {
                    format!(
                        "its values differ from those before by chance with a probability of {}",
                        share(found)
                    )
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stability(agreement: Agreement, values: &[f64], samples: &[&[f64]]) -> bool {
        let stability = Stability {
            metric: Some("request_latency".to_owned()),
            stat: "avg".to_owned(),
            agreement,
            threshold: agreement.usual_threshold(),
            confidence: 0.95,
            values: values.to_vec(),
            samples: samples.iter().map(|sample| sample.to_vec()).collect(),
        };
        stability.agreed().is_some()
    }

    #[test]
    fn runs_agree_or_do_not() {
        assert!(!stability(Agreement::IntervalWidth, &[10.0], &[]));
        // Half-width 12.7 * 0.0071 * 10 / 1.41 = 0.64: 12.7 % in all.
        assert!(!stability(Agreement::IntervalWidth, &[10.0, 10.1], &[]));
        assert!(stability(Agreement::IntervalWidth, &[10.0, 10.1, 10.05], &[]));
        assert!(stability(Agreement::Variation, &[10.0, 10.5], &[]));
        assert!(!stability(Agreement::Variation, &[10.0, 11.0], &[]));
        let (low, high) = ([1.0; 30], [2.0; 30]);
        assert!(stability(Agreement::Distribution, &[], &[&low, &high, &[1.0, 2.0].repeat(15)]));
        assert!(!stability(Agreement::Distribution, &[], &[&low, &high]));
    }
}
