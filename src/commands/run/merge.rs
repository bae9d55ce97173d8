//! One report of several processes that ran a share of the same schedule each.
//!
//! Every process leaves `run.json`, which says what it ran and when, and `records.jsonl`, everything it measured. The
//! records are moved to one clock, that of the earliest process by the machines' own clocks, and all figures are worked
//! out anew: percentiles are as exact as those of one process. Times between machines are as exact as their clocks. The
//! files of single requests are put together, share by share.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use report::{ClientHealth, PhaseShape, RecordReader, RunShape};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use workload::inference_perf::{Config, Shard};

use super::{
    books::{Books, ENTRIES, shift},
    driver::{Outcome, StageResult},
    files::Folder,
    lines::{Level, Lines},
    output,
};

/// The version in `run.json`.
const VERSION: u32 = 1;

/// What `run.json` says.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Manifest {
    evenload_run: u32,
    config: Config,
    shard: (u32, u32),
    /// Nanoseconds from 1970 to the zero of the records' clock.
    started_at_ns: u64,
    stages: Vec<StageResult>,
    stages_left_out: usize,
    io_thread_cpu: Vec<f64>,
    payload_reads: u64,
    multi_event_reads: u64,
    peak_in_flight: Option<u64>,
    #[serde(default)]
    stolen_share: Option<f64>,
    interrupted: bool,
}

impl Manifest {
    pub(super) fn of(config: &Config, outcome: &Outcome) -> Self {
        let health = &outcome.health;
        Self {
            evenload_run: VERSION,
            config: config.clone(),
            shard: (outcome.shard.index, outcome.shard.count),
            started_at_ns: outcome.started_at_ns,
            stages: outcome.stages.clone(),
            stages_left_out: outcome.left_out,
            io_thread_cpu: health.io_thread_cpu.clone(),
            payload_reads: health.payload_reads,
            multi_event_reads: health.multi_event_reads,
            peak_in_flight: health.peak_in_flight,
            stolen_share: health.stolen_share,
            interrupted: health.interrupted,
        }
    }

    fn read(folder: &Path) -> anyhow::Result<(Self, PathBuf)> {
        let entries =
            std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let names = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let is_manifest = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("run.json"))
        };
        let Some(path) = names.filter(is_manifest).min() else {
            bail!("{}: no run.json in it: not a folder of evenload run", folder.display());
        };
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let manifest: Self = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(
            manifest.evenload_run == VERSION,
            "{}: written by another version of evenload",
            path.display()
        );
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let records = path.with_file_name(name.replace("run.json", "records.jsonl"));
        ensure!(
            records.is_file(),
            "{}: the records are missing; leave evenload.records at true",
            records.display()
        );
        Ok((manifest, records))
    }
}

/// Merges the reports in `folders` into one in `out`.
pub(crate) fn merge(folders: &[PathBuf], out: &Path) -> anyhow::Result<ExitCode> {
    let lines = Lines::new(Level::Info);
    let mut parts =
        folders.iter().map(|folder| Manifest::read(folder)).collect::<anyhow::Result<Vec<_>>>()?;
    parts.sort_by_key(|(manifest, _)| manifest.shard);
    check(&parts)?;
    let Some((first, _)) = parts.first() else { bail!("no folders to merge") };
    let mut config = first.config.clone();
    let folder = Folder::at(out, String::new())?;
    folder.write_text("config.yaml", &config.to_yaml())?;
    let entries = std::mem::take(&mut config.report.request_lifecycle.per_request);
    config.load.circuit_breakers.clear();

    let zero = parts.iter().map(|(manifest, _)| manifest.started_at_ns).min().unwrap_or_default();
    let stages = stages(&parts, zero);
    let mut targets: Vec<String> = Vec::new();
    let mut readers = Vec::new();
    for (manifest, records) in &parts {
        let reader = RecordReader::open(records).with_context(|| records.display().to_string())?;
        if targets.is_empty() {
            targets.clone_from(&reader.shape().targets);
        }
        readers.push((Duration::from_nanos(manifest.started_at_ns - zero), reader, records));
    }
    let shape = |stage: &StageResult| PhaseShape {
        name: format!("stage {}", stage.number),
        measured: true,
        target_rate: stage.requested_rate,
        concurrency: stage.concurrency,
    };
    let shape = RunShape { phases: stages.iter().map(shape).collect(), targets };
    let adapters: Vec<String> =
        config.load.lora_traffic_split.iter().flatten().map(|adapter| adapter.name.clone()).collect();
    let mut books = Books::open(&config, &shape, &adapters, &folder, Shard::WHOLE, Vec::new())?;
    if entries {
        merge_entries(&parts, zero, &folder, lines)?;
    }
    for (offset, reader, path) in readers {
        for record in reader {
            match record {
                Ok(mut record) => {
                    shift(&mut record, offset);
                    books.keep(&record);
                }
                // The last line of a process that was killed; what is before it counts.
                Err(error) => {
                    lines.warn(&format!("{}: {error}", path.display()));
                    break;
                }
            }
        }
    }
    books.finish();
    let outcome = Outcome {
        books,
        stages,
        health: health(&parts),
        sweep: None,
        started_at_ns: zero,
        shard: Shard::WHOLE,
        scrapes: None,
        left_out: parts.iter().map(|(manifest, _)| manifest.stages_left_out).max().unwrap_or(0),
    };
    output::write_reports(&config, &folder, &outcome)?;
    folder.write_json("run.json", &Manifest::of(&config, &outcome))?;
    let judged = output::judge_run(&config, &outcome);
    output::finish(&config, &lines, &folder, &outcome, &judged)
}

/// Puts the entries of all parts into one file, share by share, on the merged clock.
fn merge_entries(
    parts: &[(Manifest, PathBuf)],
    zero: u64,
    folder: &Folder,
    lines: Lines,
) -> anyhow::Result<()> {
    let mut merged = folder.array(ENTRIES)?;
    for (manifest, records) in parts {
        let name =
            records.file_name().unwrap_or_default().to_string_lossy().replace("records.jsonl", ENTRIES);
        let path = records.with_file_name(name);
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let offset = Duration::from_nanos(manifest.started_at_ns - zero).as_secs_f64();
        for line in BufReader::new(file).lines() {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            // An array, an item a line.
            let item = line.trim_end_matches(',');
            if matches!(item, "[" | "]" | "") {
                continue;
            }
            match serde_json::from_str(item) {
                Ok(mut entry) => {
                    shift_entry(&mut entry, offset);
                    merged.push(&entry)?;
                }
                // The last line of a process that was killed.
                Err(error) => {
                    lines.warn(&format!("{}: {error}", path.display()));
                    break;
                }
            }
        }
    }
    merged.finish()
}

/// Moves all times of an entry.
fn shift_entry(entry: &mut Value, by: f64) {
    let mut shift = |path: &str| {
        let times = match entry.pointer_mut(path) {
            Some(Value::Array(times)) => times.iter_mut().collect(),
            Some(time) => vec![time],
            None => Vec::new(),
        };
        for time in times {
            if let Some(seconds) = time.as_f64() {
                *time = (seconds + by).into();
            }
        }
    };
    for path in [
        "/start_time",
        "/end_time",
        "/scheduled_time",
        "/info/response_metrics/chunk_times",
        "/info/response_metrics/output_token_times",
    ] {
        shift(path);
    }
}

/// Whether the parts are all shares of one run.
fn check(parts: &[(Manifest, PathBuf)]) -> anyhow::Result<()> {
    let Some((first, _)) = parts.first() else { bail!("no folders to merge") };
    let count = first.shard.1;
    for (manifest, path) in parts {
        let (ours, theirs) = (&first.config, &manifest.config);
        let same = ours.load == theirs.load && ours.data == theirs.data && ours.api == theirs.api;
        ensure!(
            same && manifest.shard.1 == count,
            "{}: another run: load, data, api, seed and the number of shares must be the same (set load.base_seed)",
            path.display()
        );
    }
    let missing: Vec<String> = (0..count)
        .filter(|index| !parts.iter().any(|(manifest, _)| manifest.shard.0 == *index))
        .map(|index| format!("{}/{count}", index + 1))
        .collect();
    ensure!(missing.is_empty(), "shares {} are missing", missing.join(", "));
    ensure!(parts.len() == count as usize, "a share is given twice");
    Ok(())
}

/// The stages on the merged clock: from the first start to the last end.
fn stages(parts: &[(Manifest, PathBuf)], zero: u64) -> Vec<StageResult> {
    let mut merged: Vec<StageResult> = Vec::new();
    for (manifest, _) in parts {
        let offset = Duration::from_nanos(manifest.started_at_ns - zero);
        for stage in &manifest.stages {
            let mut stage = stage.clone();
            stage.start += offset;
            stage.end += offset;
            match merged.iter_mut().find(|known| known.number == stage.number) {
                None => merged.push(stage),
                Some(known) => {
                    known.start = known.start.min(stage.start);
                    known.end = known.end.max(stage.end);
                    known.started_at_ns = known.started_at_ns.min(stage.started_at_ns);
                    known.teardown = known.teardown.max(stage.teardown);
                    if known.status == "COMPLETED" {
                        known.status = stage.status;
                    }
                }
            }
        }
    }
    merged.sort_by_key(|stage| stage.number);
    merged
}

fn health(parts: &[(Manifest, PathBuf)]) -> ClientHealth {
    let mut health = ClientHealth::default();
    for (manifest, _) in parts {
        health.add(&ClientHealth {
            io_thread_cpu: manifest.io_thread_cpu.clone(),
            payload_reads: manifest.payload_reads,
            multi_event_reads: manifest.multi_event_reads,
            stolen_share: manifest.stolen_share,
            interrupted: manifest.interrupted,
            ..ClientHealth::default()
        });
        // Each process knows its own peak only: together they had no more than the sum.
        health.peak_in_flight =
            Some(health.peak_in_flight.unwrap_or(0) + manifest.peak_in_flight.unwrap_or(0));
    }
    health
}
