//! Charts of reports: inference-perf's six, and what its reports do not show.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use report::{
    RecordReader, Recorder,
    inference_perf::{Analysed, analysis_page, six_charts},
};
use serde_json::Value;

/// Draws the charts of each folder into it, and of all together into `unified`.
pub(super) fn analyze(folders: &[PathBuf], unified: Option<&Path>) -> anyhow::Result<ExitCode> {
    let runs = folders.iter().map(|folder| read(folder)).collect::<anyhow::Result<Vec<_>>>()?;
    for (folder, run) in folders.iter().zip(&runs) {
        draw(folder, std::slice::from_ref(run))?;
    }
    if let Some(folder) = unified {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        draw(folder, &runs)?;
        let legend: serde_json::Map<String, Value> = runs
            .iter()
            .zip(folders)
            .map(|(run, folder)| (run.name.clone(), folder.display().to_string().into()))
            .collect();
        write(&folder.join("analyzed_reports_legend.json"), &serde_json::to_string_pretty(&legend)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn draw(folder: &Path, runs: &[Analysed]) -> anyhow::Result<()> {
    for (name, svg) in six_charts(runs) {
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

/// The stages' reports of a folder, in the order of their numbers; and the records, if they are there.
fn read(folder: &Path) -> anyhow::Result<Analysed> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let named = |end: &str| {
        let ends =
            |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(end));
        paths.iter().filter(ends).cloned().collect::<Vec<_>>()
    };
    let mut stages: Vec<(u32, Value)> = Vec::new();
    for path in named("_lifecycle_metrics.json") {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((before, rest)) = name.split_once("stage_") else { continue };
        let number = rest.strip_suffix("_lifecycle_metrics.json").and_then(|number| number.parse().ok());
        if let (Some(number), false) = (number, before.contains("adapter_")) {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            stages.push((number, serde_json::from_str(&text).with_context(|| path.display().to_string())?));
        }
    }
    if stages.is_empty() {
        bail!("{}: no stage_N_lifecycle_metrics.json in it", folder.display());
    }
    stages.sort_by_key(|(number, _)| *number);
    let report = named("records.jsonl").first().map(|path| figures(path)).transpose()?;
    let name = folder
        .file_name()
        .map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned());
    Ok(Analysed { name, stages: stages.into_iter().map(|(_, stage)| stage).collect(), report })
}

/// The figures of a file of records, as far as it can be read.
fn figures(path: &Path) -> anyhow::Result<report::Report> {
    let reader = RecordReader::open(path).with_context(|| path.display().to_string())?;
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
