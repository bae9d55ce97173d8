//! Several runs in one command: lists of values, and repetitions.
//!
//! Each run has a directory of its own below the artifact directory: `concurrency=8`, `concurrency=8/run_0002`. What
//! they came to stands side by side in a table and in `sweep.csv` and `sweep.json`: means over the repetitions, with
//! the half-width of their confidence interval (Student's t).

use std::{fmt::Write as _, fs, path::Path, time::Duration};

use anyhow::Context;
use loadgen::RunEnd;
use report::{Degradation, TextTable};
use serde_json::{Map, Value, json};

use super::{
    Arguments, Status,
    files::Files,
    flags::{SweepMode, SweepType},
    output,
    run::{self, Finished},
    search::{self, Wanted},
    stability::Stability,
    wrong,
};
use crate::commands::interrupt::Interrupts;

/// AIPerf's seed for repetitions.
const CONSISTENT_SEED: u64 = 42;
/// Most settings of one command.
const MOST_SETTINGS: usize = 1000;

/// One setting of a sweep: the flags with single values, and its name.
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) arguments: Arguments,
}

/// A figure of every run: its name, and how it is read.
type Figure = (&'static str, fn(&Finished) -> Option<f64>);

const FIGURES: [Figure; 8] = [
    ("requests/s", |run| shown(run, "request_throughput", "avg")),
    ("output tokens/s", |run| shown(run, "output_token_throughput", "avg")),
    ("TTFT p50 (ms)", |run| shown(run, "time_to_first_token", "p50")),
    ("TTFT p99 (ms)", |run| shown(run, "time_to_first_token", "p99")),
    ("ITL mean (ms)", |run| shown(run, "inter_token_latency", "avg")),
    ("latency p50 (ms)", |run| shown(run, "request_latency", "p50")),
    ("latency p99 (ms)", |run| shown(run, "request_latency", "p99")),
    ("errors (%)", |run| {
        let total = &run.report.total;
        (total.completed() > 0).then(|| 100.0 * total.failed() as f64 / total.completed() as f64)
    }),
];

/// The figures of one setting's runs.
struct Outcome {
    name: String,
    runs: Vec<[Option<f64>; FIGURES.len()]>,
    verdicts: Vec<String>,
}

/// Carries out all runs, and says how they ended: as the gravest of them.
pub(super) fn carry_out(arguments: &Arguments, interrupts: &Interrupts) -> anyhow::Result<Status> {
    let top = Files::new(arguments, None);
    match search::plan(arguments).map_err(|problem| anyhow::anyhow!(problem))? {
        None => sweep(arguments, interrupts, &top, None),
        Some(Wanted::Search(plan, slos)) => search::carry_out(arguments, interrupts, &top, plan, &slos),
        Some(Wanted::Ramp(loads, degradation)) => {
            let mut arguments = arguments.clone();
            arguments.load.concurrency = loads;
            sweep(&arguments, interrupts, &top, Some(&degradation))
        }
    }
}

fn sweep(
    arguments: &Arguments,
    interrupts: &Interrupts,
    top: &Files,
    degradation: Option<&Degradation>,
) -> anyhow::Result<Status> {
    let settings = settings(arguments)?;
    let trials = arguments.runs.num_profile_runs;
    let seed = base_seed(arguments, trials);
    if settings.len() == 1 && trials == 1 {
        let finished = run::carry_out(arguments, top, seed, &interrupts.next_run())?;
        return output::conclude(arguments, top, finished);
    }
    let mut outcomes: Vec<Outcome> = settings
        .iter()
        .map(|setting| Outcome { name: setting.name.clone(), runs: Vec::new(), verdicts: Vec::new() })
        .collect();
    let mut stabilities: Vec<Stability> = settings.iter().map(|_| Stability::new(arguments)).collect();
    let mut stable = vec![false; settings.len()];
    let mut degraded: Vec<Vec<f64>> = vec![Vec::new(); settings.len()];
    let mut status = Status::Good;
    let (mut before, mut ended) = (None, false);
    for (place, trial) in order(arguments.runs.parameter_sweep_mode, settings.len(), trials) {
        if stable[place] {
            continue;
        }
        ended = pause(arguments, before.replace(place), place, interrupts);
        if ended {
            break;
        }
        let outcome = &mut outcomes[place];
        let seed = seed_of(arguments, seed, place, trial);
        let (own_status, own_ended) =
            one(arguments, top, &settings[place], trial, seed, interrupts, |finished| {
                outcome.runs.push(FIGURES.map(|(_, figure)| figure(finished)));
                outcome.verdicts.push(finished.assessment.verdict.to_string());
                if let Some(said) = stabilities[place].push(finished) {
                    tracing::info!("{said}");
                    stable[place] = true;
                }
                let figure = degradation.and_then(|Degradation { metric, stat, .. }| {
                    finished.recording.measured.statistic(metric, stat)
                });
                degraded[place].extend(figure);
            })?;
        status = status.max(own_status);
        ended = own_ended;
        if ended {
            break;
        }
    }
    summarize(arguments, top, &outcomes)?;
    if let Some(degradation) = degradation {
        let points = arguments.load.concurrency.iter().zip(&degraded);
        let points: Vec<(u32, f64)> = points
            .filter(|(_, figures)| !figures.is_empty())
            .map(|(load, figures)| (*load, figures.iter().sum::<f64>() / figures.len() as f64))
            .collect();
        search::conclude_ramp(arguments, top, degradation, &points)?;
    }
    Ok(if ended { Status::Interrupted } else { status })
}

/// One run of a setting, into a directory of its own. How it ended, and whether the user ended it.
pub(super) fn one(
    arguments: &Arguments,
    top: &Files,
    setting: &Setting,
    trial: u32,
    seed: u64,
    interrupts: &Interrupts,
    keep: impl FnOnce(&Finished),
) -> anyhow::Result<(Status, bool)> {
    let trials = arguments.runs.num_profile_runs;
    let mut own = setting.arguments.clone();
    if trial > 0 && !arguments.runs.no_profile_run_disable_warmup_after_first {
        own.load.warm_up.remove();
    }
    let files = Files::new(&own, Some(directory(&top.directory, setting, trials, trial)));
    tracing::info!(
        "Run {} of {trials}: {}",
        trial + 1,
        if setting.name.is_empty() { "all flags as given" } else { &setting.name }
    );
    let finished = run::carry_out(&own, &files, seed, &interrupts.next_run())?;
    let ended = matches!(finished.summary.end, RunEnd::Stopped | RunEnd::Aborted);
    keep(&finished);
    Ok((output::conclude(&own, &files, finished)?, ended))
}

/// The figure that the run's own table shows.
fn shown(run: &Finished, tag: &str, statistic: &str) -> Option<f64> {
    run.recording.measured.statistic(tag, statistic)
}

pub(super) fn base_seed(arguments: &Arguments, trials: u32) -> u64 {
    let drawn = || run::drawn() & 0xffff_ffff;
    let consistent = trials > 1 && !arguments.runs.no_set_consistent_seed;
    arguments.input.random_seed.unwrap_or_else(|| if consistent { CONSISTENT_SEED } else { drawn() })
}

/// Repetitions send the same unless told otherwise; settings send different prompts unless told otherwise.
pub(super) fn seed_of(arguments: &Arguments, seed: u64, setting: usize, trial: u32) -> u64 {
    let runs = &arguments.runs;
    let vary =
        runs.vary_seed_per_trial || (runs.no_set_consistent_seed && arguments.input.random_seed.is_none());
    let setting = if runs.parameter_sweep_same_seed { 0 } else { setting as u64 };
    let trial = if vary { u64::from(trial) } else { 0 };
    seed.wrapping_add(setting).wrapping_add(trial << 32)
}

fn order(mode: SweepMode, settings: usize, trials: u32) -> Vec<(usize, u32)> {
    match mode {
        SweepMode::Repeated => {
            (0..trials).flat_map(|trial| (0..settings).map(move |place| (place, trial))).collect()
        }
        SweepMode::Independent => {
            (0..settings).flat_map(|place| (0..trials).map(move |trial| (place, trial))).collect()
        }
    }
}

/// Waits between two runs. True if the user has had enough.
pub(super) fn pause(
    arguments: &Arguments,
    before: Option<usize>,
    place: usize,
    interrupts: &Interrupts,
) -> bool {
    let runs = &arguments.runs;
    let time = match before {
        None => Duration::ZERO,
        Some(before) if before == place => runs.profile_run_cooldown_seconds,
        Some(_) => runs.parameter_sweep_cooldown_seconds,
    };
    interrupts.next_run().wait(time)
}

fn directory(top: &Path, setting: &Setting, trials: u32, trial: u32) -> std::path::PathBuf {
    let own =
        if setting.name.is_empty() { top.to_owned() } else { top.join(setting.name.replace(", ", ",")) };
    if trials == 1 { own } else { own.join(format!("run_{:04}", trial + 1)) }
}

/// One setting for each combination of the values in lists.
fn settings(arguments: &Arguments) -> anyhow::Result<Vec<Setting>> {
    let mut settings = vec![Setting { name: String::new(), arguments: arguments.clone() }];
    let zip = arguments.runs.sweep_type == SweepType::Zip;
    let mut length = None;
    macro_rules! lists {
        ($($name:literal: $($field:ident).+;)*) => {$(
            let values = arguments.$($field).+.clone();
            if values.len() > 1 {
                if zip && length.replace(values.len()).is_some_and(|length| length != values.len()) {
                    return Err(wrong("--sweep-type zip: the lists have different lengths"));
                }
                let with = |setting: &Setting, place: usize| {
                    let mut arguments = setting.arguments.clone();
                    arguments.$($field).+ = vec![values[place].clone()];
                    let name = format!("{}={}", $name, plain(&values[place]));
                    let name = if setting.name.is_empty() { name } else { format!("{}, {name}", setting.name) };
                    Setting { name, arguments }
                };
                settings = if zip && settings.len() > 1 {
                    settings.iter().enumerate().map(|(place, setting)| with(setting, place)).collect()
                } else {
                    settings.iter().flat_map(|setting| (0..values.len()).map(|place| with(setting, place)).collect::<Vec<_>>()).collect()
                };
            }
        )*};
    }
    lists! {
        "concurrency": load.concurrency;
        "prefill_concurrency": load.prefill_concurrency;
        "request_rate": load.request_rate;
        "num_users": load.num_users;
        "request_count": load.request_count;
        "conversation_num": load.conversation_num;
        "benchmark_duration": load.benchmark_duration;
        "turns": input.conversation_turn_mean;
        "isl": input.isl;
        "isl_stddev": input.isl_stddev;
        "osl": input.osl;
        "osl_stddev": input.osl_stddev;
    }
    if settings.len() > MOST_SETTINGS {
        let count = settings.len();
        return Err(wrong(format!("the lists make {count} settings; at most {MOST_SETTINGS} are run")));
    }
    Ok(settings)
}

/// A value as it was written, or nearly.
fn plain(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

fn summarize(arguments: &Arguments, files: &Files, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let confidence = arguments.runs.confidence_level;
    let figures = |outcome: &Outcome| -> Vec<Option<Mean>> {
        (0..FIGURES.len())
            .map(|place| Mean::of(outcome.runs.iter().filter_map(|run| run[place]), confidence))
            .collect()
    };
    let mut csv = String::from("setting,runs,verdicts");
    FIGURES.iter().for_each(|(name, _)| csv += &format!(",{name} mean,{name} interval"));
    let columns = ["setting", "runs"].into_iter().chain(FIGURES.map(|(name, _)| name)).chain(["verdict"]);
    let mut table = TextTable::new("Means over the runs of each setting.", columns);
    let mut objects = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| !outcome.runs.is_empty()) {
        let means = figures(outcome);
        let verdicts = outcome.verdicts.join(" ");
        let _ = write!(csv, "\n\"{}\",{},{verdicts}", outcome.name, outcome.runs.len());
        let mut object = Map::new();
        for ((name, _), mean) in FIGURES.iter().zip(&means) {
            let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
            let _ = write!(
                csv,
                ",{},{}",
                number(mean.map(|mean| mean.mean)),
                number(mean.and_then(|mean| mean.half_width))
            );
            object.insert((*name).to_owned(), mean.map_or(Value::Null, Mean::json));
        }
        let cells = means.iter().map(|mean| mean.map_or_else(|| "-".to_owned(), Mean::show));
        let head = [outcome.name.clone(), outcome.runs.len().to_string()];
        table = table.row(head.into_iter().chain(cells).chain([verdicts]));
        objects.push(json!({ "setting": outcome.name, "runs": outcome.runs.len(), "verdicts": outcome.verdicts, "figures": object }));
    }
    for (name, content) in [
        ("sweep.csv", csv + "\n"),
        (
            "sweep.json",
            serde_json::to_string_pretty(&json!({ "confidence_level": confidence, "settings": objects }))?
                + "\n",
        ),
    ] {
        let path = files.directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !arguments.runs.no_sweep_table {
        say!("\n{}", report::aiperf::plain_table("evenload profile | Settings", &table));
        say!("Table: {}", files.directory.join("sweep.csv").display());
    }
    Ok(())
}

/// A mean over repetitions.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mean {
    mean: f64,
    std: f64,
    /// Of the confidence interval; absent below two runs.
    half_width: Option<f64>,
}

impl Mean {
    fn of(values: impl Iterator<Item = f64>, confidence: f64) -> Option<Self> {
        let values: Vec<f64> = values.collect();
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let std = if values.len() < 2 { 0.0 } else { (squares / (count - 1.0)).sqrt() };
        let half_width =
            (values.len() > 1).then(|| report::students_t(values.len() - 1, confidence) * std / count.sqrt());
        (!values.is_empty()).then_some(Self { mean, std, half_width })
    }

    fn show(self) -> String {
        match self.half_width {
            Some(half_width) => format!("{:.2} ±{half_width:.2}", self.mean),
            None => format!("{:.2}", self.mean),
        }
    }

    fn json(self) -> Value {
        json!({ "mean": self.mean, "std": self.std, "interval_half_width": self.half_width })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_tables() {
        let mean = Mean::of([1.0, 2.0, 3.0].into_iter(), 0.95).unwrap();
        assert_eq!((mean.mean, mean.std), (2.0, 1.0));
        assert!((mean.half_width.unwrap() - 4.303 / 3.0_f64.sqrt()).abs() < 1e-2);
        assert_eq!(Mean::of([5.0].into_iter(), 0.95).unwrap().half_width, None);
        assert_eq!(Mean::of([].into_iter(), 0.95), None);
    }

    #[test]
    fn runs_come_in_the_order_that_was_asked_for() {
        assert_eq!(order(SweepMode::Repeated, 2, 2), [(0, 0), (1, 0), (0, 1), (1, 1)]);
        assert_eq!(order(SweepMode::Independent, 2, 2), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    }
}
