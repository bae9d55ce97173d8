//! `evenload report merge`: one report of several folders that shares of the same run left, in a folder that held no
//! run.
//!
//! Every share leaves `run.json`, which says what it ran and when, and `records.jsonl`, everything it measured. The
//! files of single requests are put together, share by share.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use report::{
    RecordReader, RunShape,
    inference_perf::{Manifest, Run, Shares, StageResult, shift_entry},
};
use workload::inference_perf::{Config, Shard};

use super::{
    driver::Outcome,
    files::Folder,
    keeping::{ENTRIES, Keeping, RECORDS},
    lines::{Level, Lines},
    output::{self, MANIFEST},
};

/// A folder of a share: its records, and how much later than the merged clock its own began.
struct Part {
    records: PathBuf,
    offset: Duration,
}

/// Merges the reports in `folders` into one in `out`.
pub(crate) fn merge(folders: &[PathBuf], out: &Path) -> anyhow::Result<ExitCode> {
    let lines = Lines::new(Level::Info);
    let found = folders.iter().map(|folder| read(folder)).collect::<anyhow::Result<Vec<_>>>()?;
    let (mut config, shares, parts) = same_run(found)?;
    free(folders, out)?;
    // The shares' own prefixes and folders may differ.
    config.storage.local_storage.report_file_prefix = None;
    config.storage.local_storage.path = out.display().to_string();
    let folder = Folder::create(&config)?;
    folder.write_text("config.yaml", &config.to_yaml())?;
    let entries = std::mem::take(&mut config.report.request_lifecycle.per_request);
    config.load.circuit_breakers.clear();

    let readers = parts
        .iter()
        .map(|part| RecordReader::open(&part.records).with_context(|| part.records.display().to_string()));
    let readers = readers.collect::<anyhow::Result<Vec<_>>>()?;
    let stages = shares.stages();
    let shape = RunShape {
        phases: stages.iter().map(StageResult::shape).collect(),
        targets: readers.first().map_or_else(Vec::new, |reader| reader.shape().targets.clone()),
    };
    let adapters: Vec<String> =
        config.load.lora_traffic_split.iter().flatten().map(|adapter| adapter.name.clone()).collect();
    let mut keeping = Keeping::open(&config, &shape, &adapters, &folder, Shard::WHOLE, Vec::new())?;
    if entries {
        merge_entries(&parts, &folder, lines)?;
    }
    for (reader, part) in readers.into_iter().zip(&parts) {
        for record in reader {
            match record {
                Ok(mut record) => {
                    record.shift(part.offset);
                    keeping.keep(&record);
                }
                // The last line of a process that was killed; what is before it counts.
                Err(error) => {
                    lines.warn(&format!("{}: {error}", part.records.display()));
                    break;
                }
            }
        }
    }
    keeping.finish();
    let Keeping { books, opened, problem, .. } = keeping;
    let run = Run {
        books,
        stages,
        health: shares.health(),
        started_at_ns: shares.started_at_ns(),
        share: (0, 1),
        left_out: shares.left_out(),
    };
    let outcome = Outcome { run, opened, problem, sweep: None, pages: None };
    let judged = output::write_reports(&config, &folder, &outcome)?;
    output::conclude(&config, &lines, &folder, &outcome, &judged)
}

/// Refuses a folder whose files the merge would write over: those of a share above all.
fn free(folders: &[PathBuf], out: &Path) -> anyhow::Result<()> {
    let same = |folder: &PathBuf| Some(fs::canonicalize(folder).ok()? == fs::canonicalize(out).ok()?);
    if folders.iter().any(|folder| same(folder) == Some(true)) {
        bail!("--out {}: it is one of the folders to merge; name another one", out.display());
    }
    if out.is_dir() && !manifests(out)?.is_empty() {
        bail!("--out {}: it holds a run already; name another one, or remove it", out.display());
    }
    Ok(())
}

/// The paths of the manifests in a folder.
fn manifests(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_manifest =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(MANIFEST));
    Ok(names.filter(is_manifest).collect())
}

/// The manifest in a folder, and the path of the records beside it.
fn read(folder: &Path) -> anyhow::Result<(Manifest<Config>, PathBuf)> {
    let path = match &manifests(folder)?[..] {
        [path] => path.clone(),
        [] => bail!("{}: no {MANIFEST} in it: not a folder of evenload run", folder.display()),
        [one, another, ..] => bail!(
            "{} and {} are two runs in one folder: move the files of each into a folder of its own",
            one.display(),
            another.display()
        ),
    };
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let records = path.with_file_name(name.replace(MANIFEST, RECORDS));
    ensure!(
        records.is_file(),
        "{}: the records are missing; leave evenload.records at true",
        records.display()
    );
    Ok((manifest, records))
}

/// All shares of one run, in their order.
fn same_run(
    mut found: Vec<(Manifest<Config>, PathBuf)>,
) -> anyhow::Result<(Config, Shares<Config>, Vec<Part>)> {
    found.sort_by_key(|(manifest, _)| manifest.share());
    let (manifests, paths): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let is_same = |ours: &Config, theirs: &Config| {
        ours.load == theirs.load && ours.data == theirs.data && ours.api == theirs.api
    };
    let config = manifests.first().map(|manifest| manifest.config.clone()).unwrap_or_default();
    let shares = Shares::new(manifests, is_same).map_err(|error| {
        let path: Option<&PathBuf> = error.place().and_then(|place| paths.get(place));
        match path {
            Some(path) => anyhow!("{}: {error}", path.display()),
            None => error.into(),
        }
    })?;
    let parts = paths.into_iter().zip(shares.offsets()).map(|(records, offset)| Part { records, offset });
    Ok((config, shares, parts.collect()))
}

/// Puts the entries of all parts into one file, share by share, on the merged clock.
fn merge_entries(parts: &[Part], folder: &Folder, lines: Lines) -> anyhow::Result<()> {
    let mut merged = folder.array(ENTRIES)?;
    for Part { records, offset } in parts {
        let name = records.file_name().unwrap_or_default().to_string_lossy().replace(RECORDS, ENTRIES);
        let path = records.with_file_name(name);
        let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for line in BufReader::new(file).lines() {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            // An array, an item a line.
            let item = line.trim_end_matches(',');
            if matches!(item, "[" | "]" | "") {
                continue;
            }
            match serde_json::from_str(item) {
                Ok(mut entry) => {
                    shift_entry(&mut entry, offset.as_secs_f64());
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
