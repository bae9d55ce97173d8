//! Collects records into figures, in memory that does not grow with their number.
//!
//! A recorder keeps one [`Summary`] for each phase and model, a smaller one for each target, and counts over time.
//! Several recorders (one an I/O thread) merge into one. Phases that are not measured (warm-up) have their own
//! summary and appear nowhere else: not in the totals, not in a target's or a model's figures, not over time.
//!
//! Caps: [`MODELS`] models a phase, further ones are counted as [`OTHER_MODELS`]; a record of a phase or a target
//! that the run's shape does not name counts for the last phase, and for no target.

use std::{collections::BTreeMap, sync::Arc};

use crate::{Metric, Objective, Record, Summary, TimeSeries, metric::SECOND};

/// Models with figures of their own.
pub const MODELS: usize = 256;
/// The name under which models beyond the cap are counted.
pub const OTHER_MODELS: &str = "(other models)";
/// What is kept of each target: fleets may be large.
pub const TARGET_METRICS: [Metric; 5] =
    [Metric::Ttft, Metric::Tpot, Metric::E2e, Metric::InputTokens, Metric::OutputTokens];

/// Buckets of the whole run, and of each target.
const SERIES_BUCKETS: usize = 2048;
const TARGET_SERIES_BUCKETS: usize = 256;

/// What a run consists of: enough to read its records.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct RunShape {
    /// In the order in which they run.
    pub phases: Vec<PhaseShape>,
    /// Base URLs (load generator) or replica names (simulator).
    pub targets: Vec<String>,
}

/// One phase, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct PhaseShape {
    /// Shown to the user.
    pub name: String,
    /// Whether it counts; warm-up does not.
    pub measured: bool,
    /// Requests per second asked for.
    pub target_rate: Option<f64>,
    /// Sessions in flight asked for, or allowed.
    pub concurrency: Option<u32>,
    /// That many are to be in flight all the time; otherwise `concurrency` is only a cap.
    #[serde(default)]
    pub closed_loop: bool,
}

/// Collects records into figures.
#[derive(Clone, Debug)]
pub struct Recorder {
    shape: RunShape,
    objectives: Vec<Objective>,
    phases: Vec<BTreeMap<Arc<str>, Summary>>,
    targets: Vec<Summary>,
    series: TimeSeries,
    target_series: Vec<TimeSeries>,
}

/// The figures of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the run consisted of.
    pub shape: RunShape,
    /// All measured phases together.
    pub total: Summary,
    /// One a phase of the shape, warm-up included.
    pub phases: Vec<Summary>,
    /// One a target of the shape; only [`TARGET_METRICS`] have distributions.
    pub targets: Vec<Summary>,
    /// By the `model` that was asked for.
    pub models: BTreeMap<Arc<str>, Summary>,
    /// The same, one map a phase of the shape.
    pub phase_models: Vec<BTreeMap<Arc<str>, Summary>>,
    /// Measured phases over time.
    pub series: TimeSeries,
    /// The same, one a target of the shape, in wider buckets.
    pub target_series: Vec<TimeSeries>,
}

/// Where a run stands: cheap enough for a progress line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Requests that have ended, however they ended.
    pub requests: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests failed.
    pub failed: u64,
    /// Prompt tokens of the answered requests.
    pub input_tokens: u64,
    /// Output tokens of the answered requests.
    pub output_tokens: u64,
    /// Mean time to first token in seconds; absent before the first.
    pub mean_ttft_s: Option<f64>,
}

// === impl Recorder ===

impl Recorder {
    /// An empty recorder. A shape without phases gets one that is measured.
    pub fn new(mut shape: RunShape, objectives: Vec<Objective>) -> Self {
        if shape.phases.is_empty() {
            shape.phases.push(PhaseShape { measured: true, ..PhaseShape::default() });
        }
        Self {
            objectives,
            phases: vec![BTreeMap::new(); shape.phases.len()],
            targets: vec![Summary::default(); shape.targets.len()],
            series: TimeSeries::new(SERIES_BUCKETS),
            target_series: vec![TimeSeries::new(TARGET_SERIES_BUCKETS); shape.targets.len()],
            shape,
        }
    }

    /// Counts one request.
    pub fn push(&mut self, record: &Record) {
        let phase = usize::from(record.phase).min(self.phases.len() - 1);
        summary_of(&mut self.phases[phase], &record.model).push(record, &Metric::ALL, &self.objectives);
        if self.shape.phases[phase].measured {
            self.series.push(record);
            let target = usize::from(record.target);
            if let Some(summary) = self.targets.get_mut(target) {
                summary.push(record, &TARGET_METRICS, &self.objectives);
                self.target_series[target].push(record);
            }
        }
    }

    /// Adds everything that `other`, a recorder of the same shape, holds.
    pub fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.phases.iter_mut().zip(&other.phases) {
            theirs.iter().for_each(|(model, summary)| summary_of(ours, model).merge(summary));
        }
        self.targets.iter_mut().zip(&other.targets).for_each(|(ours, theirs)| ours.merge(theirs));
        self.series.merge(&other.series);
        self.target_series.iter_mut().zip(&other.target_series).for_each(|(ours, theirs)| ours.merge(theirs));
    }

    /// Where the phase stands; nothing for a phase that does not exist.
    pub fn progress(&self, phase: usize) -> Progress {
        let (mut progress, mut ttft_sum, mut ttft_count) = (Progress::default(), 0, 0);
        for summary in self.phases.get(phase).into_iter().flat_map(BTreeMap::values) {
            progress.requests += summary.requests();
            progress.answered += summary.answered();
            progress.failed += summary.failed();
            progress.input_tokens += summary.input_tokens();
            progress.output_tokens += summary.output_tokens();
            ttft_sum += summary.of(Metric::Ttft).sum();
            ttft_count += summary.of(Metric::Ttft).count();
        }
        progress.mean_ttft_s = (ttft_count > 0).then(|| ttft_sum as f64 / ttft_count as f64 / SECOND);
        progress
    }

    /// The figures so far.
    pub fn report(&self) -> Report {
        let mut models: BTreeMap<Arc<str>, Summary> = BTreeMap::new();
        for (phase, _) in self.phases.iter().zip(&self.shape.phases).filter(|(_, shape)| shape.measured) {
            for (model, summary) in phase {
                models.entry(Arc::clone(model)).or_default().merge(summary);
            }
        }
        Report {
            shape: self.shape.clone(),
            total: merged(models.values()),
            phases: self.phases.iter().map(|models| merged(models.values())).collect(),
            targets: self.targets.clone(),
            models,
            phase_models: self.phases.clone(),
            series: self.series.clone(),
            target_series: self.target_series.clone(),
        }
    }
}

// === impl Report ===

impl Report {
    /// The measured phases with their figures.
    pub fn measured(&self) -> impl Iterator<Item = (&PhaseShape, &Summary)> {
        self.shape.phases.iter().zip(&self.phases).filter(|(shape, _)| shape.measured)
    }

    /// The most requests in flight, looked at once a bucket of [`series`](Self::series).
    pub fn peak_in_flight(&self) -> u64 {
        self.series.in_flight().max().unwrap_or(0)
    }
}

fn summary_of<'a>(models: &'a mut BTreeMap<Arc<str>, Summary>, model: &Arc<str>) -> &'a mut Summary {
    if models.contains_key(model) || models.len() < MODELS {
        models.entry(Arc::clone(model)).or_default()
    } else {
        models.entry(Arc::from(OTHER_MODELS)).or_default()
    }
}

fn merged<'a>(summaries: impl Iterator<Item = &'a Summary>) -> Summary {
    let mut sum = Summary::default();
    summaries.for_each(|summary| sum.merge(summary));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        CountSource, Outcome, SECOND,
        sample::{failure, ms, request},
        source_shares,
    };

    fn shape() -> RunShape {
        RunShape {
            phases: vec![
                PhaseShape { name: "warm-up".to_owned(), ..PhaseShape::default() },
                PhaseShape { name: "main".to_owned(), measured: true, ..PhaseShape::default() },
            ],
            targets: vec!["http://a".to_owned(), "http://b".to_owned()],
        }
    }

    /// Ten requests a second apart, on two targets and two models, with one failure each of two kinds.
    fn records() -> Vec<Record> {
        let mut records: Vec<Record> = (0..10)
            .map(|index| {
                let mut record = request(1000 * index, 100 * (index + 1), 50, 5);
                record.target = (index % 2) as u16;
                record.model = Arc::from(if index < 3 { "adapter" } else { "base" });
                record.cached_tokens = (index >= 5).then_some(80);
                record
            })
            .chain([
                failure(2000, 100, Outcome::Status(429, "busy".to_owned())),
                failure(3000, 17_000, Outcome::Broken("reset".to_owned())),
            ])
            .collect();
        records.iter_mut().for_each(|record| record.phase = 1);
        let mut warm_up = request(0, 5, 5, 5);
        warm_up.phase = 0;
        records.push(warm_up);
        records
    }

    fn recorder(records: &[Record]) -> Recorder {
        let objectives = vec![
            Objective { metric: Metric::Ttft, limit: 300_000_000, good_without: false },
            Objective { metric: Metric::Tpot, limit: 50_000_000, good_without: true },
        ];
        let mut recorder = Recorder::new(shape(), objectives);
        records.iter().for_each(|record| recorder.push(record));
        recorder
    }

    #[test]
    fn figures_are_those_of_the_measured_phase() {
        let report = recorder(&records()).report();
        let total = &report.total;
        assert_eq!((total.requests(), total.answered(), total.failed(), total.sent), (12, 10, 2, 12));
        assert_eq!((total.input_tokens(), total.output_tokens()), (1000, 50));
        assert_eq!(total.window, {
            let mut span = crate::Span::default();
            span.include(ms(0));
            span.include(ms(20_000));
            span
        });
        assert_eq!(total.per_second(total.answered()), 0.5);
        assert_eq!(total.total_tokens_per_s(), 52.5);
        assert_eq!(total.of(Metric::Ttft).spread(crate::MILLISECOND).mean, 550.0);
        assert_eq!(total.of(Metric::Ttft).count(), 10);
        assert_eq!(total.of(Metric::Gap).count(), 40);
        assert_eq!(total.of(Metric::Tpot).mean(), Some(0.05 * SECOND));
        assert_eq!(total.of(Metric::ScheduleLag).count(), 12, "lateness is known of failures too");
        assert_eq!(total.prefix_hit_ratio(), Some(0.8), "over the five that report it");
        assert_eq!(report.phases[0].answered(), 1);
        assert_eq!(source_shares(&total.output_sources), [(CountSource::Usage, 100.0)]);
        assert_eq!(total.good, 3, "TTFT of 100, 200 and 300 ms");
        assert_eq!(total.attainment(), Some(0.25), "failures are misses");
    }

    #[test]
    fn in_flight_agrees_with_littles_law() {
        let report = recorder(&records()).report();
        // Mean E2E of the answered is 550 + 4 * 50 = 750 ms, at 0.5 a second.
        assert!((report.total.in_flight_by_littles_law() - 0.375).abs() < 1e-9);
        // Failures flew too: 10 * 0.75 s + 0.1 s + 17 s over 20 s.
        assert!((report.total.mean_in_flight() - 1.23).abs() < 1e-9);
        assert_eq!(report.peak_in_flight(), 2, "three for 100 ms only, between two looks");
        assert_eq!(report.total.achieved_rate(), Some(11.0 / 9.0));
    }

    #[test]
    fn targets_and_models_add_up() {
        let report = recorder(&records()).report();
        let answered: Vec<u64> = report.targets.iter().map(Summary::answered).collect();
        assert_eq!(answered, [5, 5]);
        assert_eq!(report.targets[0].failed(), 2);
        assert_eq!(report.models["adapter"].answered() + report.models["base"].answered(), 7 + 3);
        assert_eq!(report.models["adapter"].of(Metric::Ttft).max(), Some(300_000_000));
        assert!(report.targets[1].of(Metric::Gap).is_empty());
    }

    #[test]
    fn merged_recorders_equal_one() {
        let records = records();
        let (first, second) = records.split_at(6);
        let mut merged = recorder(first);
        merged.merge(&recorder(second));
        let (merged, whole) = (merged.report(), recorder(&records).report());
        for metric in Metric::ALL {
            assert_eq!(merged.total.of(metric).sum(), whole.total.of(metric).sum(), "{metric}");
            assert_eq!(merged.total.of(metric).percentile(90.0), whole.total.of(metric).percentile(90.0));
        }
        assert_eq!(merged.series.buckets(), whole.series.buckets());
        assert_eq!(merged.total.outcomes, whole.total.outcomes);
        assert_eq!(merged.total.window, whole.total.window);
        assert_eq!(merged.total.busy, whole.total.busy);
    }

    #[test]
    fn models_beyond_the_cap_are_counted_together() {
        let mut recorder = Recorder::new(RunShape::default(), Vec::new());
        for index in 0..MODELS + 10 {
            let mut record = request(0, 1, 1, 1);
            record.model = Arc::from(format!("adapter-{index}"));
            record.target = 7;
            recorder.push(&record);
        }
        let report = recorder.report();
        assert_eq!(report.models.len(), MODELS + 1);
        assert_eq!(report.models[OTHER_MODELS].answered(), 10);
        assert_eq!(recorder.progress(0).answered, MODELS as u64 + 10);
        assert_eq!(recorder.progress(0).mean_ttft_s, Some(0.001));
    }

    #[test]
    fn a_flood_of_error_messages_stays_bounded() {
        let mut recorder = Recorder::new(RunShape::default(), Vec::new());
        for index in 0..crate::ERROR_KINDS as u64 + 36 {
            recorder.push(&failure(0, 1, Outcome::Broken(format!("connection {index}"))));
        }
        recorder.push(&failure(0, 1, Outcome::Broken("connection 3".to_owned())));
        recorder.push(&failure(0, 1, Outcome::Cancelled));
        let errors = recorder.report().total.errors;
        assert_eq!((errors.total(), errors.omitted), (101, 36));
        assert_eq!(errors.most_frequent()[0].0.message, "connection 3");
    }
}
