//! Charts of reports: inference-perf's six, and what its reports do not show.
//!
//! What cannot be read is said and left out; the others are drawn all the same.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail, ensure};
use report::{
    Object, RecordReader, Recorder,
    inference_perf::{Analysed, analysis_page, six_charts},
};
use serde_json::Value;

const STAGE: &str = "stage_";
const METRICS: &str = "_lifecycle_metrics.json";

/// The runs of a folder: one, or several whose files begin with different prefixes.
struct Found<'a> {
    folder: &'a Path,
    runs: Vec<Prefixed>,
}

/// A run, and what the names of its files begin with.
struct Prefixed {
    prefix: String,
    run: Analysed,
}

/// Draws the charts of each folder into it, and of all together into `unified`.
pub(super) fn analyze(folders: &[PathBuf], unified: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut whole = true;
    let mut found = Vec::new();
    for folder in folders {
        match read(folder) {
            Ok(runs) => found.push(Found { folder, runs }),
            Err(error) => {
                whole = false;
                remark!("evenload: {error:#}");
            }
        }
    }
    name(&mut found);
    for Found { folder, runs } in &found {
        let runs: Vec<&Analysed> = runs.iter().map(|found| &found.run).collect();
        if let Err(error) = draw(folder, &runs) {
            whole = false;
            remark!("evenload: {error:#}");
        }
    }
    if let Some(folder) = unified.filter(|_| !found.is_empty()) {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut legend = Object::default();
        let runs =
            found.iter_mut().flat_map(|Found { folder, runs }| runs.iter_mut().map(|run| (&*folder, run)));
        for (number, (folder, Prefixed { prefix, run })) in (1..).zip(runs) {
            let place = if prefix.is_empty() { folder.to_path_buf() } else { folder.join(prefix) };
            // inference-perf's names; the charts show which is which.
            let name = format!("Report {number}");
            run.name = format!("{name}: {}", run.name);
            legend.set(name, place.display().to_string());
        }
        let all: Vec<&Analysed> =
            found.iter().flat_map(|found| &found.runs).map(|found| &found.run).collect();
        draw(folder, &all)?;
        write(&folder.join("analyzed_reports_legend.json"), &serde_json::to_string_pretty(&legend)?)?;
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Gives each run a name of its own: that of its folder, the whole path where folders share one, and the prefix where a
/// folder holds several runs.
fn name(found: &mut [Found<'_>]) {
    let short = |folder: &Path| folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let folders: Vec<&Path> = found.iter().map(|found| found.folder).collect();
    for Found { folder, runs } in found {
        let alike = folders.iter().filter(|other| short(other) == short(folder)).count();
        let name = short(folder).filter(|_| alike == 1).unwrap_or_else(|| folder.display().to_string());
        let several = runs.len() > 1;
        for Prefixed { prefix, run } in runs {
            run.name = if several { format!("{name}/{prefix}") } else { name.clone() };
        }
    }
}

fn draw(folder: &Path, runs: &[&Analysed]) -> anyhow::Result<()> {
    let charts = six_charts(runs);
    if charts.is_empty() {
        remark!("evenload: warning: {}: the reports hold no figure that could be drawn", folder.display());
    }
    for (name, svg) in charts {
        write(&folder.join(format!("{name}.svg")), &svg)?;
    }
    let path = folder.join("analysis.html");
    write(&path, &analysis_page(runs).render())?;
    say!("written: {}", path.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The runs of a folder: their stages' reports in the order of their numbers, and the records, if they are there.
fn read(folder: &Path) -> anyhow::Result<Vec<Prefixed>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut files: BTreeMap<String, BTreeMap<u32, PathBuf>> = BTreeMap::new();
    for name in names {
        if let Some((prefix, number)) = stage(&name) {
            files.entry(prefix.to_owned()).or_default().insert(number, folder.join(&name));
        }
    }
    // An adapter's files stand beside those of its run.
    let prefixes: Vec<String> = files.keys().cloned().collect();
    let is_adapter = |prefix: &str| prefixes.iter().any(|run| prefix.starts_with(&format!("{run}adapter_")));
    files.retain(|prefix, _| !is_adapter(prefix));
    if files.is_empty() {
        bail!("{}: no stage_N_lifecycle_metrics.json in it", folder.display());
    }
    let mut runs = Vec::new();
    for (prefix, files) in files {
        let stages: Vec<(u32, Value)> = files
            .iter()
            .filter_map(|(number, path)| Some((*number, warned(path, stage_report(path))?)))
            .collect();
        let records = folder.join(format!("{prefix}records.jsonl"));
        let report = records.is_file().then(|| warned(&records, figures(&records))).flatten();
        if !stages.is_empty() {
            runs.push(Prefixed { prefix, run: Analysed { name: String::new(), stages, report } });
        }
    }
    ensure!(!runs.is_empty(), "{}: none of its reports can be read", folder.display());
    Ok(runs)
}

/// The prefix and the number in the name of a stage's report, or of an adapter's in a stage.
fn stage(name: &str) -> Option<(&str, u32)> {
    let (prefix, number) = name.strip_suffix(METRICS)?.rsplit_once(STAGE)?;
    Some((prefix, number.parse().ok()?))
}

/// What was read; a problem is said.
fn warned<T>(path: &Path, read: anyhow::Result<T>) -> Option<T> {
    read.map_err(|error| remark!("evenload: warning: {}: {error:#}; left out", path.display())).ok()
}

fn stage_report(path: &Path) -> anyhow::Result<Value> {
    let report: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    ensure!(report["load_summary"].is_object(), "not a stage's report: it has no load_summary");
    Ok(report)
}

/// The figures of a file of records, as far as it can be read.
fn figures(path: &Path) -> anyhow::Result<report::Report> {
    let reader = RecordReader::open(path)?;
    let mut recorder = Recorder::new(reader.shape().clone(), Vec::new());
    for record in reader {
        match record {
            Ok(record) => recorder.push(&record),
            Err(error) => {
                remark!("evenload: warning: {}: {error}", path.display());
                break;
            }
        }
    }
    Ok(recorder.report())
}
