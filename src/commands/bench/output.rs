//! What the user sees: the scripts' block, our own below it, and the result file.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::SystemTime,
};

use anyhow::Context;
use report::{Assessment, BenchRun, ClientHealth, Flags, client_json, client_lines, judge};
use serde_json::json;

use super::{flags::Arguments, load::Load, send::Measured};

/// Counts of server and tokenizer that differ by more than this share come from different tokenizers.
const COUNT_SHARE: f64 = 0.01;

pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes the result file, then prints. The run has failed if nothing was answered.
pub(super) fn conclude(
    arguments: &Arguments,
    mut run: BenchRun,
    load: &Load,
    measured: &Measured,
) -> anyhow::Result<ExitCode> {
    let report = &measured.report;
    let health = measured.health(load);
    let assessment = judge(report, &health, &Flags::BENCH);
    run.date = SystemTime::now();
    run.peak_in_flight = Some(measured.summary.client.peak_in_flight);

    let mut text = run.block(report);
    if measured.interrupted() {
        let (ended, planned) = (report.total.sent, arguments.num_prompts);
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
    if arguments.save_result {
        let path = save(arguments, &run, load, measured, &health, &assessment)?;
        text += &format!("written: {path}\n");
    }
    print(&text)?;
    Ok(if report.total.answered() > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn save(
    arguments: &Arguments,
    run: &BenchRun,
    load: &Load,
    measured: &Measured,
    health: &ClientHealth,
    assessment: &Assessment,
) -> anyhow::Result<String> {
    let mut object = run.json(&measured.report, &measured.details);
    object.set(
        "evenload",
        json!({
            "workload": {
                "conversations": load.made.conversations,
                "unique_prompts": load.made.unique_prompts,
                "input_tokens": load.input_tokens(),
                "unique_input_tokens": load.unique_input_tokens(),
                "output_tokens": load.output_tokens(),
                "best_hit_ratio": load.made.best_hit_ratio(),
            },
            "client": client_json(&measured.report, health),
            "assessment": assessment.json(),
        }),
    );
    let name = arguments.result_filename.clone().unwrap_or_else(|| run.file_name().into());
    let directory = arguments.result_dir.as_deref().unwrap_or(Path::new(""));
    let path = directory.join(name);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    let text = serde_json::to_string(&object)?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.display().to_string())
}
