//! What the user sees: the scripts' block, our own below it, and the result file.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    process::ExitCode,
    time::SystemTime,
};

use anyhow::Context;
use report::{Assessment, BenchRun, ClientHealth, client_json, client_lines, judge};
use serde_json::json;

use super::{flags::Arguments, load::Load, send::Measured};
use crate::{commands::interrupt::INTERRUPTED, print};

/// Counts of server and tokenizer that differ by more than this share come from different tokenizers.
const COUNT_SHARE: f64 = 0.01;

/// Says before the run whether the result file can be written after it.
pub(super) fn check(arguments: &Arguments) -> anyhow::Result<()> {
    if !arguments.saves() {
        return Ok(());
    }
    let path = place(arguments, arguments.result_filename.clone().unwrap_or_default());
    let parent = path.parent().filter(|_| arguments.result_filename.is_some()).unwrap_or(&path);
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let trial = parent.join(format!(".evenload-{}", process::id()));
    fs::write(&trial, "").with_context(|| format!("cannot write into {}", parent.display()))?;
    fs::remove_file(&trial)?;
    anyhow::ensure!(
        arguments.result_filename.is_none() || !path.is_dir(),
        "--result-filename {} is a directory",
        path.display()
    );
    Ok(())
}

/// The path of a file in the directory of results.
fn place(arguments: &Arguments, name: PathBuf) -> PathBuf {
    arguments.result_dir.as_deref().unwrap_or(Path::new("")).join(name)
}

/// Writes the result file, then prints. The run has failed if nothing was answered; one that was ended by hand says so.
pub(super) fn conclude(
    arguments: &Arguments,
    mut run: BenchRun,
    load: &Load,
    measured: &Measured,
) -> anyhow::Result<ExitCode> {
    let report = &measured.report;
    let health = measured.health(load);
    let assessment = judge(report, &health, &arguments.advice());
    run.date = SystemTime::now();
    let summary = &measured.summary;
    let start = summary.phases.first().and_then(|phase| phase.span).unwrap_or_default().0;
    run.all_due_at = (run.request_rate.is_none() && run.ramp_up.is_none()).then_some(start);
    let changes = load.rate_changes(arguments)?.into_iter();
    run.rate_changes = changes.map(|(rate, at)| (rate, summary.started_at + start + at)).collect();

    let mut text = run.block(report, &measured.seconds);
    if measured.interrupted() {
        let (ended, planned) = (report.total.sent, load.made.prompts.len());
        text = format!("PARTIAL RESULTS: stopped by hand after {ended} of {planned} requests.\n{text}");
    }
    text += &client_lines(report, &health);
    let (theirs, ours) = measured.counted;
    if theirs.abs_diff(ours) as f64 > COUNT_SHARE * ours as f64 {
        text += &format!(
            "note: the server counts {theirs} tokens where the tokenizer counts {ours}: its model has another one.\n"
        );
    }
    text += &assessment.lines();
    let save = || save(arguments, &run, load, measured, &health, &assessment);
    let saved = arguments.saves().then(save).transpose();
    print::text(&text);
    if let Some(path) = saved? {
        say!("written: {path}");
    }
    Ok(match report.total.answered() {
        _ if measured.interrupted() => ExitCode::from(INTERRUPTED),
        0 => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    })
}

fn save(
    arguments: &Arguments,
    run: &BenchRun,
    load: &Load,
    measured: &Measured,
    health: &ClientHealth,
    assessment: &Assessment,
) -> anyhow::Result<String> {
    let mut object = run.json(&measured.report, &measured.details, &measured.seconds);
    object.set(
        "evenload",
        json!({
            "workload": {
                "conversations": load.made.conversations,
                "unique_prompts": load.made.unique_prompts,
                "input_tokens": load.input_tokens(),
                "unique_input_tokens": load.unique_input_tokens(),
                "output_tokens": load.output_tokens(),
                "best_hit_ratio": load.best_hit_ratio(arguments),
            },
            "client": client_json(&measured.report, health),
            "assessment": assessment.json(),
        }),
    );
    let name = arguments.result_filename.clone().unwrap_or_else(|| run.file_name().into());
    let path = place(arguments, name);
    let text = serde_json::to_string(&object)?;
    let written = if arguments.modern.append_result { append(&path, &text) } else { fs::write(&path, text) };
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.display().to_string())
}

/// Adds a line to a file, as the script does: no line break at its end.
fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
    let line_break = if file.metadata()?.len() > 0 { "\n" } else { "" };
    file.write_all(format!("{line_break}{line}").as_bytes())
}
