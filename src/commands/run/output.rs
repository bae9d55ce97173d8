//! What a run leaves: inference-perf's files and the lines between its markers, then the verdict.

use std::process::ExitCode;

use report::{
    Assessment, Flags, Object, Report, Verdict, client_json,
    inference_perf::{Collector, Finding, Manifest, Run, validation},
    judge, run_page,
};
use serde_json::json;
use workload::inference_perf::{Config, LoadType};

use super::{driver::Outcome, files::Folder, keeping::ENTRIES, lines::Lines};
use crate::print;

/// Exit status of a run whose figures are not valid, with `evenload.strict`.
const NOT_VALID: u8 = 3;
const SUMMARY: &str = "summary_lifecycle_metrics.json";
/// What a share leaves for the merge.
pub(super) const MANIFEST: &str = "run.json";

/// What is said about a run beside its figures.
#[derive(Debug)]
pub(super) struct Judged {
    /// inference-perf's lines, between its markers.
    marked: String,
    report: Report,
    assessment: Assessment,
    findings: Vec<Finding>,
}

/// Writes inference-perf's files and what a merge needs.
pub(super) fn write_reports(config: &Config, folder: &Folder, outcome: &Outcome) -> anyhow::Result<Judged> {
    let mut marked = String::new();
    let written = write_lifecycle(config, folder, outcome, &mut marked)
        .and_then(|()| write_sessions(config, folder, &outcome.run))
        .and_then(|()| folder.write_json(MANIFEST, &Manifest::of(config, &outcome.run)));
    if written.is_err() {
        // The terminal may be all that will have the figures.
        print::text(&marked);
    }
    written?;
    Ok(judge_run(config, &outcome.run, marked))
}

/// The verdict over a run, and what else is to be said about its load.
fn judge_run(config: &Config, run: &Run, marked: String) -> Judged {
    let report = run.books.recorder.report();
    let sessions = "load.stages[].concurrent_sessions";
    let workers = "load.worker_max_concurrency";
    let (concurrency, rate, requests) = match config.load.r#type {
        LoadType::Concurrent => {
            (Flags::RUN.concurrency, Flags::RUN.concurrency, "load.stages[].num_requests")
        }
        LoadType::TraceSessionReplay => (sessions, sessions, "load.stages[].num_sessions"),
        LoadType::TraceReplay => {
            (workers, "evenload.trace_speed", "the number of requests by a longer load.trace.file")
        }
        _ if config.load.sweep.is_some() => {
            (workers, "the rates by load.stages in the place of load.sweep", "load.sweep.stage_duration")
        }
        _ => (workers, Flags::RUN.rate, Flags::RUN.requests),
    };
    let assessment = judge(&report, &run.health, &Flags { concurrency, rate, requests, ..Flags::RUN });
    let bound = (config.load.num_workers.unwrap_or(1), config.load.worker_max_concurrency);
    let findings = run.load_findings(&report, bound);
    Judged { marked, report, assessment, findings }
}

/// Adds the lines that inference-perf prints of them to `text`.
fn write_lifecycle(
    config: &Config,
    folder: &Folder,
    outcome: &Outcome,
    text: &mut String,
) -> anyhow::Result<()> {
    let run = &outcome.run;
    let wanted = &config.report.request_lifecycle;
    if wanted.summary {
        let mut object = run.summary();
        if let Some(found) = &outcome.sweep {
            object.nest("sweep", found.object());
        }
        folder.write_json(SUMMARY, &object)?;
        *text += &marked("SUMMARY", &object)?;
    }
    for (stage, collected) in run.stages() {
        let number = stage.number;
        if wanted.per_stage {
            let object = run.stage(stage, collected);
            folder.write_json(&stage_file(number), &object)?;
            *text += &marked(&format!("STAGE_{number}"), &object)?;
        }
        let partial = serde_saphyr::to_string(&run.partial(stage, collected, config.seed()))?;
        folder.write_text(&partial_file(number), &partial)?;
        let name = format!("PARTIAL_BR_V0_2_STAGE_{number}");
        *text += &format!("=== START_{name} ===\n{partial}=== END_{name} ===\n");
    }
    for (name, object) in run.adapters().filter(|_| wanted.per_adapter) {
        folder.write_json(&format!("adapter_{}_lifecycle_metrics.json", safe(name)), &object)?;
    }
    if wanted.per_adapter_stage {
        let shares: Vec<_> = config.load.lora_traffic_split.iter().flatten().collect();
        let share_of =
            |name: &str| shares.iter().find(|share| share.name == name).map_or(1.0, |share| share.split);
        for (name, number, object) in run.adapter_stages(share_of) {
            let name = format!("adapter_{}_stage_{number}_lifecycle_metrics.json", safe(name));
            folder.write_json(&name, &object)?;
        }
    }
    Ok(())
}

fn write_sessions(config: &Config, folder: &Folder, run: &Run) -> anyhow::Result<()> {
    let (Some(sessions), wanted) = (&run.books.sessions, &config.report.session_lifecycle) else {
        return Ok(());
    };
    if wanted.summary {
        folder.write_json("summary_session_lifecycle_metrics.json", &sessions.summary())?;
    }
    for (stage, collected) in run.stages().filter(|_| wanted.per_stage) {
        let name = format!("stage_{}_session_lifecycle_metrics.json", stage.number);
        folder.write_json(&name, &sessions.stage(stage, collected))?;
    }
    if wanted.per_session {
        folder.write_json("per_session_lifecycle_metrics.json", &sessions.entries())?;
    }
    Ok(())
}

/// The verdict: in `validation.json`, on the page, and, once the files are there, on the terminal; and the exit status
/// of the run, which has failed if nothing was answered.
pub(super) fn conclude(
    config: &Config,
    lines: &Lines,
    folder: &Folder,
    outcome: &Outcome,
    judged: &Judged,
) -> anyhow::Result<ExitCode> {
    let Judged { marked, report, assessment, findings } = judged;
    let run = &outcome.run;
    let mut object = validation(assessment, findings, &reports(config, run));
    object.set(
        "evenload",
        json!({
            "assessment": assessment.json(),
            "load_valid": findings.iter().all(|finding| !finding.is_error),
            "client": client_json(report, &run.health),
        }),
    );
    folder.write_json("validation.json", &object)?;
    let stages = run.stages.len();
    let subtitle = format!("{stages} stages, {}, seed {}", config.load.r#type.word(), config.seed());
    let page = run_page("inference-perf run", &subtitle, report, assessment, &run.health);
    let page = page.footer(format!("evenload {}, seed {}", env!("CARGO_PKG_VERSION"), config.seed()));
    folder.write_text("report.html", &page.render())?;

    print::text(&format!("{marked}\n{}{}", run.tables(), assessment.lines()));
    for finding in findings {
        say!("  {}: {}", if finding.is_error { "invalid" } else { "note" }, finding.message);
    }
    say!("written: {}", folder.path().display());
    if let Some(problem) = &outcome.problem {
        lines.error(&format!("not everything could be written: {problem:#}"));
    }
    let total = &report.total;
    for (count, what) in [(total.failed(), "failed"), (total.count("incomplete"), "were cut off")] {
        if count > 0 {
            lines.warn(&format!("{count} of {} requests {what}", total.requests()));
        }
    }
    let invalid = assessment.verdict == Verdict::Invalid || findings.iter().any(|finding| finding.is_error);
    Ok(match total.answered() {
        0 => ExitCode::FAILURE,
        _ if outcome.opened.is_some() => ExitCode::FAILURE,
        _ if invalid && config.evenload.strict => ExitCode::from(NOT_VALID),
        _ => ExitCode::SUCCESS,
    })
}

/// The names of the reports with their figures.
fn reports<'a>(config: &Config, run: &'a Run) -> Vec<(String, &'a Collector)> {
    let wanted = &config.report.request_lifecycle;
    let stages = run.stages().filter(|_| wanted.per_stage);
    let stages = stages.map(|(stage, collected)| (stage_file(stage.number), collected));
    let partials = run.stages().map(|(stage, collected)| (partial_file(stage.number), collected));
    let whole = [(wanted.summary, SUMMARY), (wanted.per_request, ENTRIES)];
    let whole = whole.into_iter().filter(|(is_wanted, _)| *is_wanted);
    stages.chain(partials).chain(whole.map(|(_, name)| (name.to_owned(), &run.books.total))).collect()
}

fn partial_file(number: u16) -> String {
    format!("inference-perf.partial.stage_{number}.yaml")
}

fn stage_file(number: u16) -> String {
    format!("stage_{number}_lifecycle_metrics.json")
}

/// A name as a part of a file's name.
fn safe(name: &str) -> String {
    name.replace(['/', '\\', '\0'], "_")
}

/// An object between the markers that inference-perf prints around it.
fn marked(name: &str, object: &Object) -> anyhow::Result<String> {
    Ok(format!("=== START_{name} ===\n{}\n=== END_{name} ===\n", serde_json::to_string_pretty(object)?))
}
