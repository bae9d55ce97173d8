//! What a run leaves: inference-perf's files and the lines between its markers, then the verdict.

use std::{
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use report::{
    Assessment, Flags, Object, Report, Verdict, client_json,
    inference_perf::{
        Collector, Finding, Kind, PartialTimes, StageStatus, lifecycle, partial, tables, validation,
    },
    iso_time, judge, run_page,
};
use serde_json::json;
use workload::inference_perf::{Config, LoadType};

use super::{
    driver::{Outcome, StageResult},
    files::Folder,
    lines::Lines,
    merge::Manifest,
    metrics,
    server::Server,
};

/// Exit status of a run whose figures are not valid, with `evenload.strict`.
const NOT_VALID: u8 = 3;
/// A rate that is missed by less is met.
const RATE_SHARE: f64 = 0.999;

/// What is said about a run beside its figures.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) report: Report,
    pub(super) assessment: Assessment,
    pub(super) findings: Vec<Finding>,
}

/// Writes all files and prints; the run has failed if nothing was answered.
pub(super) fn conclude(
    config: &Config,
    server: &Server,
    lines: &Lines,
    folder: &Folder,
    outcome: &Outcome,
) -> anyhow::Result<ExitCode> {
    let judged = judge_run(config, outcome);
    write_reports(config, folder, outcome)?;
    folder.write_json("run.json", &Manifest::of(config, outcome))?;
    metrics::write(config, server, lines, folder, outcome)?;
    finish(config, lines, folder, outcome, &judged)
}

/// The verdict over a run, and what else is to be said about its load.
pub(super) fn judge_run(config: &Config, outcome: &Outcome) -> Judged {
    let report = outcome.books.recorder.report();
    let concurrency = match config.load.r#type {
        LoadType::Concurrent => Flags::RUN.concurrency,
        LoadType::TraceSessionReplay => "load.stages[].concurrent_sessions",
        _ => "load.worker_max_concurrency",
    };
    let assessment = judge(&report, &outcome.health, &Flags { concurrency, ..Flags::RUN });
    let findings =
        outcome.stages.iter().filter_map(|stage| load_finding(config, outcome, &report, stage)).collect();
    Judged { report, assessment, findings }
}

/// Whether a stage got the load that it asked for.
fn load_finding(config: &Config, outcome: &Outcome, report: &Report, stage: &StageResult) -> Option<Finding> {
    let (number, collected) = (stage.number, outcome.books.stages.get(usize::from(stage.number))?);
    let asked = stage.requested_rate? / f64::from(outcome.shard.count);
    let summary = report.phases.get(usize::from(number))?;
    let (achieved, scheduled) = (collected.achieved_rate()?, summary.scheduled_rate().unwrap_or(asked));
    if let Some((requests, since, longest)) = collected.bounded() {
        let load = &config.load;
        let (workers, each) = (load.num_workers.unwrap_or(1), load.worker_max_concurrency);
        let after = since.saturating_sub(stage.start).as_secs_f64();
        let longest = longest.as_secs_f64();
        return Some(Finding {
            check: "bound_reached".to_owned(),
            is_error: achieved < RATE_SHARE * scheduled,
            message: format!(
                "stage {number}: {requests} requests waited up to {longest:.3} s for the bound on what may be in flight, \
                 first {after:.3} s after the start (load.num_workers {workers} x load.worker_max_concurrency {each}): \
                 from there on the server set the pace, {achieved:.1} requests/s of {asked:.1}"
            ),
        });
    }
    (achieved < RATE_SHARE * scheduled).then(|| Finding {
        check: "client_limited".to_owned(),
        is_error: true,
        message: format!(
            "stage {number}: client-limited: {achieved:.1} requests/s were sent of {scheduled:.1}, because this side did \
             not keep up; give it more cores, or share the run with --shard"
        ),
    })
}

/// Writes inference-perf's files, and prints those that it prints.
pub(super) fn write_reports(config: &Config, folder: &Folder, outcome: &Outcome) -> anyhow::Result<()> {
    let (books, wanted) = (&outcome.books, &config.report.request_lifecycle);
    let write = |name: String, collected: &Collector, kind| -> anyhow::Result<Object> {
        let object = lifecycle(collected, kind);
        folder.write_json(&name, &object)?;
        Ok(object)
    };
    let all = Kind::Run { active: active(outcome) };
    if wanted.summary {
        let mut object = lifecycle(&books.total, all);
        if let Some(found) = &outcome.sweep {
            let mut ours = Object::default();
            ours.nest("sweep", found.object());
            object.extend(ours);
        }
        folder.write_json("summary_lifecycle_metrics.json", &object)?;
        reports_marker("SUMMARY", &object)?;
    }
    for (stage, collected) in in_stages(outcome) {
        let kind = kind(stage, 1.0 / f64::from(outcome.shard.count));
        if wanted.per_stage {
            let object = write(format!("stage_{}_lifecycle_metrics.json", stage.number), collected, kind)?;
            reports_marker(&format!("STAGE_{}", stage.number), &object)?;
        }
        let object = partial(collected, &partial_times(config, outcome, stage));
        let text = serde_saphyr::to_string(&object)?;
        folder.write_text(&format!("inference-perf.partial.stage_{}.yaml", stage.number), &text)?;
        println!(
            "=== START_PARTIAL_BR_V0_2_STAGE_{0} ===\n{1}=== END_PARTIAL_BR_V0_2_STAGE_{0} ===",
            stage.number, text
        );
    }
    for (name, collected) in books.adapters.iter().filter(|_| wanted.per_adapter) {
        write(format!("adapter_{}_lifecycle_metrics.json", safe(name)), collected, all)?;
    }
    if wanted.per_adapter_stage {
        let shares = config.load.lora_traffic_split.iter().flatten();
        let share_of =
            |name: &str| shares.clone().find(|share| share.name == name).map_or(1.0, |share| share.split);
        for ((name, number), collected) in &books.adapter_stages {
            let Some(stage) = outcome.stages.iter().find(|stage| stage.number == *number) else { continue };
            let kind = kind(stage, share_of(name) / f64::from(outcome.shard.count));
            write(format!("adapter_{}_stage_{number}_lifecycle_metrics.json", safe(name)), collected, kind)?;
        }
    }
    write_sessions(config, folder, outcome)
}

fn write_sessions(config: &Config, folder: &Folder, outcome: &Outcome) -> anyhow::Result<()> {
    let (Some(sessions), wanted) = (&outcome.books.sessions, &config.report.session_lifecycle) else {
        return Ok(());
    };
    if wanted.summary {
        folder.write_json("summary_session_lifecycle_metrics.json", &sessions.report(None))?;
    }
    for (stage, collected) in in_stages(outcome).filter(|_| wanted.per_stage) {
        let (concurrent_sessions, session_rate) = stage.sessions.unwrap_or_default();
        let status = StageStatus {
            stage: stage.number,
            status: match stage.status.as_str() {
                "TIMED_OUT" => "TIMED_OUT",
                "COMPLETED" => "COMPLETED",
                _ => "FAILED",
            },
            timeout: stage.timeout,
            duration: stage.end.saturating_sub(stage.start),
            teardown: stage.teardown,
            dropped: collected.not_sent(),
            concurrent_sessions,
            session_rate,
        };
        let name = format!("stage_{}_session_lifecycle_metrics.json", stage.number);
        folder.write_json(&name, &sessions.report(Some(&status)))?;
    }
    if wanted.per_session {
        folder.write_json("per_session_lifecycle_metrics.json", &sessions.entries())?;
    }
    Ok(())
}

/// The verdict: on the terminal, in `validation.json`, and on the page; and the exit status.
pub(super) fn finish(
    config: &Config,
    lines: &Lines,
    folder: &Folder,
    outcome: &Outcome,
    judged: &Judged,
) -> anyhow::Result<ExitCode> {
    let Judged { report, assessment, findings } = judged;
    let reports = names(config, outcome);
    let mut object = validation(assessment, findings, &reports);
    object.set(
        "evenload",
        json!({
            "assessment": assessment.json(),
            "load_valid": findings.iter().all(|finding| !finding.is_error),
            "client": client_json(report, &outcome.health),
        }),
    );
    folder.write_json("validation.json", &object)?;
    let stages = outcome.stages.len();
    let subtitle = format!("{stages} stages, {}, seed {}", config.load.r#type.word(), config.seed());
    let page = run_page("inference-perf run", &subtitle, report, assessment, &outcome.health);
    let page = page.footer(format!("evenload {}, seed {}", env!("CARGO_PKG_VERSION"), config.seed()));
    folder.write_text("report.html", &page.render())?;

    let rows: Vec<_> = in_stages(outcome)
        .map(|(stage, collected)| {
            let rate = stage.requested_rate.map(|rate| rate / f64::from(outcome.shard.count));
            (stage.number.to_string(), rate, collected)
        })
        .collect();
    print!("\n{}{}", tables(&rows, &outcome.books.total), assessment.lines());
    for finding in findings {
        println!("  {}: {}", if finding.is_error { "invalid" } else { "note" }, finding.message);
    }
    println!("written: {}", folder.path().display());
    if let Some(problem) = &outcome.books.problem {
        lines.error(&format!("not everything could be written: {problem:#}"));
    }
    let total = &outcome.books.total;
    if total.failed() > 0 {
        lines.warn(&format!("{} of {} requests failed", total.failed(), total.count()));
    }
    let invalid = assessment.verdict == Verdict::Invalid || findings.iter().any(|finding| finding.is_error);
    Ok(match total.answered() {
        0 => ExitCode::FAILURE,
        _ if outcome.books.opened.is_some() => ExitCode::FAILURE,
        _ if invalid && config.evenload.strict => ExitCode::from(NOT_VALID),
        _ => ExitCode::SUCCESS,
    })
}

/// The names of the reports with their figures.
fn names<'a>(config: &Config, outcome: &'a Outcome) -> Vec<(String, &'a Collector)> {
    let wanted = &config.report.request_lifecycle;
    let stages = in_stages(outcome).filter(|_| wanted.per_stage);
    let summary = ("summary_lifecycle_metrics.json".to_owned(), &outcome.books.total);
    stages
        .map(|(stage, collected)| (format!("stage_{}_lifecycle_metrics.json", stage.number), collected))
        .chain(wanted.summary.then_some(summary))
        .collect()
}

/// The stages that were run, with their figures.
pub(super) fn in_stages(outcome: &Outcome) -> impl Iterator<Item = (&StageResult, &Collector)> {
    outcome
        .stages
        .iter()
        .filter_map(|stage| Some((stage, outcome.books.stages.get(usize::from(stage.number))?)))
}

fn active(outcome: &Outcome) -> Duration {
    outcome.stages.iter().map(|stage| stage.end.saturating_sub(stage.start)).sum()
}

fn kind(stage: &StageResult, share: f64) -> Kind {
    Kind::Stage {
        requested_rate: stage.requested_rate.map(|rate| rate * share),
        concurrency: stage.concurrency,
        start: stage.start,
    }
}

fn partial_times(config: &Config, outcome: &Outcome, stage: &StageResult) -> PartialTimes {
    let at = |since: Duration| iso_time(UNIX_EPOCH + Duration::from_nanos(outcome.started_at_ns) + since);
    PartialTimes {
        uid: format!("{:016x}-{}", outcome.started_at_ns ^ config.seed(), stage.number),
        eid: format!("{:016x}", outcome.started_at_ns ^ config.seed()),
        start: at(stage.start),
        end: at(stage.end),
        duration: stage.end.saturating_sub(stage.start),
    }
}

/// A name as a part of a file's name.
pub(super) fn safe(name: &str) -> String {
    name.replace(['/', '\\', '\0'], "_")
}

fn reports_marker(name: &str, object: &Object) -> anyhow::Result<()> {
    println!("=== START_{name} ===\n{}\n=== END_{name} ===", serde_json::to_string_pretty(object)?);
    Ok(())
}
