//! The table, the JSON and the page of `evenload simulate run`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use report::{
    BarChart, ClientHealth, Flags, Imbalance, LineChart, PolicyFigures, PolicyRun, Report, TextTable,
    comparison_page, judge,
};
use serde_json::{Value, json};
use simulate::{Means, insight::Demand, replay::Recorded, scenario::Trial};

use crate::commands::process;

/// What the verdict's advice names.
const FLAGS: Flags = Flags {
    concurrency: "--concurrency",
    rate: "--rate",
    requests: "--sessions",
    tokenizer: "--workload",
    prompts: Some("--workload"),
};
/// Name of what a decision log has of its own, among policies.
pub(super) const AS_RECORDED: &str = "as recorded";
/// Points of a line over time.
const POINTS: f64 = 120.0;

/// A policy, or the bound, under all seeds.
pub(super) struct Compared {
    pub(super) name: String,
    pub(super) means: Means,
    pub(super) trials: Vec<Trial>,
    /// It is the bound.
    pub(super) bound: bool,
}

/// What a decision log adds to the files.
#[derive(Clone, Copy)]
pub(super) struct Replayed<'a> {
    pub(super) recorded: &'a Recorded,
    /// Models that go only to some replicas, by these replicas' places.
    pub(super) served: &'a BTreeMap<String, BTreeSet<usize>>,
}

/// Models that go only to some of so many replicas, in words.
pub(super) fn served_list(served: &BTreeMap<String, BTreeSet<usize>>, replicas: usize) -> String {
    let models = served.iter().map(|(model, to)| format!("{model} (to {} of {replicas})", to.len()));
    models.collect::<Vec<_>>().join(", ")
}

pub(super) fn demand_lines(demand: &Demand) -> String {
    let Demand { working_set_tokens, replica_capacity_tokens, fleet_capacity_tokens, .. } = demand;
    if *working_set_tokens == 0 {
        return format!(
            "{} requests with {} prompt tokens; the workload does not say what they share: no prefix is ever a hit\n",
            demand.requests, demand.prompt_tokens
        );
    }
    let share = |capacity: &u64| *working_set_tokens as f64 / (*capacity).max(1) as f64;
    format!(
        "{} requests with {} prompt tokens; best possible hit ratio {:.3}\n\
         working set {working_set_tokens} tokens: {:.2} times the cache of one replica ({replica_capacity_tokens}), \
         {:.2} times that of all ({fleet_capacity_tokens})\n",
        demand.requests,
        demand.prompt_tokens,
        demand.best_hit_ratio,
        share(replica_capacity_tokens),
        share(fleet_capacity_tokens),
    )
}

/// Columns of the table, and how wide they are.
const COLUMNS: [(&str, usize); 12] = [
    ("policy", 15),
    ("seconds", 9),
    ("+-", 7),
    ("tokens/s", 10),
    ("TTFT ms", 9),
    ("p99 ms", 10),
    ("TPOT ms", 9),
    ("hit", 7),
    ("max/mean", 9),
    ("evicted", 10),
    ("preempted", 10),
    ("failed", 7),
];

/// Those that a page has, and what it calls them.
const PAGE_COLUMNS: [(usize, &str); 9] = [
    (0, ""),
    (1, "seconds"),
    (3, "tokens/s"),
    (4, "mean TTFT ms"),
    (5, "P99 TTFT ms"),
    (7, "hits"),
    (9, "evicted blocks"),
    (10, "preemptions"),
    (11, "failed"),
];

pub(super) fn header() -> String {
    line(COLUMNS.map(|(name, _)| name.to_owned()))
}

pub(super) fn row(compared: &Compared) -> String {
    line(cells(compared))
}

/// What a decision log has of its own, under the same header.
pub(super) fn recorded_row(recorded: &Recorded) -> String {
    line(recorded_cells(recorded))
}

fn cells(compared: &Compared) -> [String; COLUMNS.len()] {
    let means = &compared.means;
    [
        compared.name.clone(),
        cell(means.duration_s, 2),
        cell(means.duration_deviation_s, 2),
        cell(means.total_tokens_per_s, 0),
        cell(means.mean_ttft_ms, 1),
        cell(means.p99_ttft_ms, 1),
        cell(means.mean_tpot_ms, 2),
        cell(means.prefix_hit_ratio, 3),
        cell(means.imbalance, 2),
        cell(means.evictions, 0),
        cell(means.preemptions, 0),
        cell(means.failed, 0),
    ]
}

fn recorded_cells(recorded: &Recorded) -> [String; COLUMNS.len()] {
    [
        AS_RECORDED.to_owned(),
        cell(recorded.duration_s, 2),
        "-".to_owned(),
        known(recorded.total_tokens_per_s, 0),
        known(recorded.mean_ttft_ms, 1),
        known(recorded.p99_ttft_ms, 1),
        known(recorded.mean_tpot_ms, 2),
        known(recorded.prefix_hit_ratio, 3),
        cell(recorded.imbalance, 2),
        "-".to_owned(),
        "-".to_owned(),
        "-".to_owned(),
    ]
}

/// A figure; none where nothing was answered.
fn cell(value: f64, decimals: usize) -> String {
    if value.is_finite() { format!("{value:.decimals$}") } else { "-".to_owned() }
}

/// A figure that a log may not have.
fn known(value: Option<f64>, decimals: usize) -> String {
    cell(value.unwrap_or(f64::NAN), decimals)
}

/// A line of the table: the first cell to the left, the others to the right.
pub(super) fn line(cells: [String; COLUMNS.len()]) -> String {
    let pad = |(place, (cell, (_, width))): (usize, (String, (&str, usize)))| match place {
        0 => format!("{cell:<width$}"),
        _ => format!("{cell:>width$}"),
    };
    cells.into_iter().zip(COLUMNS).enumerate().map(pad).collect()
}

/// What the simulation itself cost, as far as the operating system tells.
pub(super) fn cost_line(compared: &[Compared], took: Duration) -> String {
    let trials = || compared.iter().flat_map(|compared| &compared.trials);
    let events: u64 = trials().map(|trial| trial.figures.events).sum();
    let simulated: f64 = trials().map(|trial| trial.figures.simulated.as_secs_f64()).sum();
    let seconds = took.as_secs_f64();
    let mut line = format!(
        "{events} events and {simulated:.0} simulated seconds in {seconds:.1} s ({:.0} events/s)",
        events as f64 / seconds.max(1e-3),
    );
    if let (Ok(processor_s), Ok(memory_mib)) = (process::processor_s(), process::peak_memory_mib()) {
        line += &format!("; processor time {processor_s:.1} s, peak memory {memory_mib:.0} MiB");
    }
    line
}

/// One line: a policy's means.
pub(super) fn json(compared: &Compared, seeds: &[u64]) -> Value {
    json!({"policy": compared.name, "seeds": seeds, "figures": compared.means})
}

/// Makes the directory for files, before anything takes time.
pub(super) fn create(directory: Option<&Path>) -> anyhow::Result<()> {
    let Some(directory) = directory else { return Ok(()) };
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))
}

/// Writes the files; returns their paths.
pub(super) fn write(
    directory: &Path,
    demand: &Demand,
    replayed: Option<Replayed<'_>>,
    compared: &[Compared],
    seeds: &[u64],
    what: &str,
) -> anyhow::Result<Vec<PathBuf>> {
    let policy = |compared: &Compared| {
        let trials = seeds.iter().zip(&compared.trials).map(|(seed, trial)| {
            let figures = PolicyFigures::new(compared.name.as_str(), &trial.report.total, 1.0);
            json!({"seed": seed, "figures": figures, "simulation": trial.figures, "in_flight": in_flight(trial)})
        });
        let trials: Vec<Value> = trials.collect();
        json!({"policy": compared.name, "means": compared.means, "trials": trials})
    };
    let policies: Vec<Value> = compared.iter().map(policy).collect();
    let mut results = json!({"command": what, "demand": demand, "seeds": seeds, "policies": policies});
    if let Some(Replayed { recorded, served }) = replayed {
        results["recorded"] = json!(recorded);
        results["served"] = json!(served);
    }
    let files = [
        ("results.json", serde_json::to_string_pretty(&results)?),
        ("report.html", page(demand, replayed, compared, what)),
    ];
    let mut paths = Vec::new();
    for (name, content) in files {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

/// Imbalance over time: requests in flight of the busiest replica over the mean, with the times in seconds.
fn in_flight(trial: &Trial) -> Value {
    let (step_s, imbalance) = imbalance_over_time(trial);
    let column = |value: &dyn Fn(&Imbalance) -> f64| -> Vec<Option<f64>> {
        imbalance.iter().map(|imbalance| imbalance.as_ref().map(value)).collect()
    };
    json!({
        "step_s": step_s,
        "max_over_mean": column(&|imbalance| imbalance.max_over_mean),
        "cv": column(&|imbalance| imbalance.cv),
    })
}

fn imbalance_over_time(trial: &Trial) -> (f64, Vec<Option<Imbalance>>) {
    let window = trial.report.total.window;
    let width = window.length().div_f64(POINTS);
    let widest = trial.report.target_series.iter().map(report::TimeSeries::width).max().unwrap_or_default();
    let series: Vec<_> =
        trial.report.target_series.iter().map(|series| series.coarsened(width.max(widest))).collect();
    let Some(first) = series.first() else { return (1.0, Vec::new()) };
    let step = first.width();
    let skipped = (window.start().unwrap_or_default().as_nanos() / step.as_nanos().max(1)) as usize;
    let loads: Vec<Vec<u64>> =
        series.iter().map(|series| series.in_flight().skip(skipped).collect()).collect();
    let points = loads.iter().map(Vec::len).max().unwrap_or(0);
    let at = |point: usize| {
        let shares: Vec<f64> =
            loads.iter().map(|load| load.get(point).copied().unwrap_or(0) as f64).collect();
        Imbalance::of(&shares)
    };
    (step.as_secs_f64(), (0..points).map(at).collect())
}

/// How a client fares that sends at once: only its limit makes it wait. Slots are a session's, thinking included, so that
/// all may be taken though fewer requests are in flight.
fn ideal(report: &Report) -> ClientHealth {
    let limits = report.measured().filter_map(|(shape, _)| shape.concurrency);
    ClientHealth { peak_in_flight: limits.max().map(u64::from), ..ClientHealth::default() }
}

fn page(demand: &Demand, replayed: Option<Replayed<'_>>, compared: &[Compared], what: &str) -> String {
    let runs: Vec<PolicyRun> = compared
        .iter()
        .filter_map(|compared| {
            let report = compared.trials.first()?.report.clone();
            let assessment = judge(&report, &ideal(&report), &FLAGS);
            let of = |trial: &Trial| PolicyFigures::new(compared.name.as_str(), &trial.report.total, 1.0);
            let measured = PolicyFigures::means(&compared.trials.iter().map(of).collect::<Vec<_>>())?;
            let bound = compared.bound;
            let compared = report::Compared { measured, published: None };
            Some(PolicyRun { compared, report, assessment, speedup: 1.0, bound, replicas: None })
        })
        .collect();
    let mut subtitle = format!(
        "A simulated fleet in virtual time: {} requests for each policy. Bars, tables and the figures at the top are means \
         over the seeds; verdicts and what is drawn over time are the first seed's. “bound” is a fleet in which every prefix is a \
         hit wherever a request goes.",
        demand.requests
    );
    let served = replayed.map(|replayed| replayed.served).filter(|served| !served.is_empty());
    if let Some((served, trial)) = served.zip(compared.first().and_then(|compared| compared.trials.first())) {
        let models = served_list(served, trial.report.target_series.len());
        subtitle += &format!(" Models that go only to replicas that they went to in the log: {models}.");
    }
    let mut imbalance = LineChart::new(
        "Imbalance",
        "requests in flight, busiest replica over the mean",
        "seconds since the start",
    )
    .wide();
    for one in compared {
        let Some(trial) = one.trials.first() else { continue };
        let (step_s, values) = imbalance_over_time(trial);
        let values = values.into_iter().map(|value| value.map(|value| value.max_over_mean));
        imbalance = imbalance.line(one.name.as_str(), step_s, values);
    }
    let hits = compared
        .iter()
        .fold(BarChart::new("Prefix cache hits", "percent").colour_by_group(), |chart, one| {
            chart.group(one.name.as_str(), [Some(one.means.prefix_hit_ratio * 100.0)])
        });
    let table = TextTable::new("Means over the seeds", PAGE_COLUMNS.map(|(_, name)| name));
    let recorded = replayed.map(|replayed| recorded_cells(replayed.recorded));
    let rows = recorded.into_iter().chain(compared.iter().map(cells));
    let table = rows.fold(table, |table, row| table.row(PAGE_COLUMNS.map(|(column, _)| row[column].clone())));
    comparison_page("Routing policies, simulated", &subtitle, &runs)
        .section("Caches and balance", demand_lines(demand))
        .bars(&hits)
        .lines(&imbalance)
        .table(&table)
        .footer(format!("evenload {}: {what}", env!("CARGO_PKG_VERSION")))
        .render()
}
