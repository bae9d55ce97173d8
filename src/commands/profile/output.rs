//! What a run leaves: the console's tables, and the files.
//!
//! Everything is printed even where a file cannot be written; the first file that cannot is said, and the run has
//! failed.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::anyhow;
use loadgen::RunEnd;
use report::{
    Breach, Threshold, Verdict,
    aiperf::{self, ServerMetrics},
    client_json, client_lines, engine_table, run_page,
};
use serde_json::json;
use workload::PhaseKind;

use super::{
    Arguments, Status,
    files::Files,
    flags::{EndpointType, MetricsFormat},
    inputs::inputs_json,
    run::Finished,
};
use crate::print;

/// URLs whose failures are said in a line each.
const MOST_LINES: usize = 32;

/// Prints a run and writes its files.
pub(super) fn conclude(
    arguments: &Arguments,
    files: &Files,
    mut finished: Finished,
) -> anyhow::Result<Status> {
    let check = |limit: &Threshold| limit.check(&finished.report.total, &finished.recording.measured);
    let breaches: Vec<Breach> = arguments.own.fail_if.iter().filter_map(check).collect();
    let mut text = tables(arguments, &finished);
    text += &remarks(arguments, &finished, &breaches);
    let mut written = Written { problem: finished.recording.problem.take(), missing: Vec::new() };
    let mut write = |path: &Path, content: &str| written.write(path, content);
    write(
        &files.summary(),
        &(serde_json::to_string_pretty(&summary(arguments, &finished, &breaches))? + "\n"),
    );
    let Finished { run, recording, .. } = &finished;
    if let Some((first, last)) = recording.sessions {
        let sessions = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
        write(&files.inputs(), &inputs_json(arguments, &finished.data, finished.seed, first, sessions)?);
    }
    write(&files.summary_csv(), &aiperf::summary_csv(&recording.measured, &run.urls, &recording.by_target));
    if let Some(slices) = &recording.slices {
        write(
            &files.slices(false),
            &(serde_json::to_string_pretty(&aiperf::slices_json(run, slices, &recording.measured))? + "\n"),
        );
        write(&files.slices(true), &aiperf::slices_csv(slices, &recording.measured, run.epoch_ns()));
    }
    if !finished.pages.names.is_empty() {
        for &format in &arguments.output.server_metrics_formats {
            let (ending, content) = server_metrics(&finished, format)?;
            write(&files.server_metrics(ending), &content);
        }
    }
    if !arguments.own.no_report {
        write(&files.page(), &page(arguments, &finished));
    }
    text += &places(arguments, files, &finished, &written.missing);
    written.write(&files.console(), &text);
    let (cancelled, partial) =
        (run.kind == aiperf::RunKind::Cancelled, run.kind != aiperf::RunKind::Complete);
    written.write(
        &files.ready(),
        &format!("{}\n", json!({ "ready": true, "was_cancelled": cancelled, "partial": partial })),
    );
    print::text(&text);
    Ok(ended(arguments, files, &finished, &breaches, &written))
}

/// What became of the files.
struct Written {
    /// The first thing that went wrong.
    problem: Option<anyhow::Error>,
    /// Files that are not there because of it.
    missing: Vec<PathBuf>,
}

impl Written {
    /// Writes a whole file, or leaves none: half a file reads as a wrong one.
    fn write(&mut self, path: &Path, content: &str) {
        let Err(error) = fs::write(path, content) else { return };
        if path.is_file() {
            // It may be gone already, or not be ours to remove.
            let _ = fs::remove_file(path);
        }
        self.missing.push(path.to_owned());
        self.problem.get_or_insert(anyhow!("cannot write {}: {error}", path.display()));
    }
}

fn ended(
    arguments: &Arguments,
    files: &Files,
    finished: &Finished,
    breaches: &[Breach],
    written: &Written,
) -> Status {
    let Written { problem, missing } = written;
    if let Some(problem) = problem {
        let lines = finished
            .recording
            .lines_written()
            .map_or_else(String::new, |lines| format!(" ({lines} lines of requests are whole)"));
        remark!("evenload: {problem:#}{lines}; the figures above are those of all requests");
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().filter_map(name).collect();
            remark!("evenload: not written: {}", names.join(", "));
        }
    }
    for (url, target) in finished.run.urls.iter().zip(&finished.recording.by_target).take(MOST_LINES) {
        if let Some(failures) = target.failures() {
            remark!("evenload: {url}: {failures}");
        }
    }
    let total = &finished.report.total;
    let nothing = total.answered() == 0;
    let mostly_failed = !nothing && total.failed() > total.completed() / 2;
    if mostly_failed {
        remark!("evenload: more than half of the requests failed");
    }
    if nothing {
        remark!("evenload: no request was answered");
    }
    for breach in breaches {
        remark!("evenload: --fail-if {breach}");
    }
    match (finished.summary.end, finished.assessment.verdict) {
        (RunEnd::Stopped | RunEnd::Aborted, _) => Status::Interrupted,
        (RunEnd::TooManyFailed, _) => {
            remark!("evenload: more requests failed than --failed-request-threshold allows");
            Status::Failed
        }
        _ if nothing || mostly_failed || problem.is_some() => Status::Failed,
        _ if !breaches.is_empty() => Status::LimitBroken,
        (_, Verdict::Invalid) if arguments.own.strict => Status::Invalid,
        (_, Verdict::Suspect) if arguments.own.strict => Status::Suspect,
        _ => {
            tracing::info!("Benchmark completed successfully");
            tracing::info!("Results saved to: {}/", files.directory.display());
            Status::Good
        }
    }
}

fn tables(arguments: &Arguments, finished: &Finished) -> String {
    let Finished { run, recording, pages, figures, .. } = finished;
    let mut text = String::new();
    if run.kind != aiperf::RunKind::Complete {
        let ended = finished.report.total.sent;
        text += &format!("PARTIAL RESULTS: the run ended early, after {ended} requests.\n");
    }
    text += &aiperf::metrics_table("evenload profile | LLM Metrics", &recording.measured);
    let cut_off = recording.measured.cut_off();
    if cut_off > 0 {
        text += &format!(
            "{cut_off} requests were cut off at the end of the run: they are in no figure, and in no file of requests.\n"
        );
    }
    if !arguments.endpoint.streams() && arguments.endpoint.endpoint_type != EndpointType::Embeddings {
        text += "Time to First Token and Inter Token Latency are not in this table: add --streaming to measure them.\n";
    }
    if run.urls.len() > 1 {
        let (title, targets) = ("evenload profile | URLs (times in ms)", &recording.by_target);
        text += &aiperf::targets_table(title, &run.urls, targets, &recording.measured);
    }
    text += &aiperf::engines_table("evenload profile | Engines", &pages.names, figures);
    if arguments.output.show_trace_timing {
        text += &aiperf::trace_table("evenload profile | HTTP timing", &recording.measured);
    }
    text += &aiperf::error_table("evenload profile | Error Summary", &recording.measured);
    text
}

fn remarks(arguments: &Arguments, finished: &Finished, breaches: &[Breach]) -> String {
    let mut text = client_lines(&finished.report, &finished.health);
    text += &finished.assessment.lines();
    for note in finished.notes.iter().chain(&finished.pages.problems()) {
        text += &format!("  note: {note}\n");
    }
    for limit in &arguments.own.fail_if {
        let broken = breaches.iter().find(|breach| breach.limit == limit.to_string());
        let said = broken.map_or_else(|| format!("{limit}: no"), |breach| format!("{breach}: yes"));
        text += &format!("Fail if {said}\n");
    }
    text
}

fn places(arguments: &Arguments, files: &Files, finished: &Finished, missing: &[PathBuf]) -> String {
    let mut text = String::new();
    let mut place = |label: &str, path: &Path| {
        if !missing.iter().any(|missing| missing == path) {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{label}: {}", path.display());
        }
    };
    place("CSV Export", &files.summary_csv());
    place("JSON Export", &files.summary());
    if finished.recording.lines_written().is_some() {
        place("Records", &files.records());
    }
    if !arguments.own.no_report {
        place("Report", &files.page());
    }
    let window = finished.report.total.window.length();
    let _ = writeln!(text, "Benchmark Duration: {:.2} sec", window.as_secs_f64());
    let _ = writeln!(text, "CLI Command: {}", finished.run.command);
    text
}

fn summary(arguments: &Arguments, finished: &Finished, breaches: &[Breach]) -> report::Object {
    let Finished { run, recording, report, health, assessment, pages, figures, summary, .. } = finished;
    let page = |(name, figures): (&String, &report::EngineFigures)| json!({ "url": name, "metrics": figures.json() });
    let ours = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "url_strategy": arguments.endpoint.url_strategy,
        "assessment": assessment.json(),
        "limits": arguments.own.fail_if.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "limits_broken": breaches.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "notes": finished.notes,
        "cut_off_request_count": recording.measured.cut_off(),
        "client": client_json(report, health),
        "dispatch_lag_ms": summary.client.dispatch_lag.spread(report::MILLISECOND),
        "loop_stall_ms": summary.client.loop_stall.spread(report::MILLISECOND),
        "server_metrics": pages.names.iter().zip(figures).map(page).collect::<Vec<_>>(),
        "server_metrics_problems": pages.problems(),
    });
    aiperf::summary_json(run, &recording.measured, &recording.warm_up, &recording.by_target, ours)
}

/// The ending of a file of server metrics, and its content.
fn server_metrics(finished: &Finished, format: MetricsFormat) -> anyhow::Result<(&'static str, String)> {
    let Finished { pages, run, summary, .. } = finished;
    let window = |kind| pages.window(summary.started_at, super::run::window(summary, kind));
    let warmed_up =
        summary.phases.iter().any(|phase| phase.kind == PhaseKind::Warmup && phase.span.is_some());
    let metrics = ServerMetrics {
        run,
        names: &pages.names,
        urls: &pages.urls,
        pages: &pages.series,
        begun: pages.begun,
        measured: window(PhaseKind::Measured),
        warm_up: warmed_up.then(|| window(PhaseKind::Warmup)),
        problems: &pages.problems(),
    };
    Ok(match format {
        MetricsFormat::Json => ("json", serde_json::to_string_pretty(&metrics.json())? + "\n"),
        MetricsFormat::Csv => ("csv", metrics.csv()),
        MetricsFormat::Jsonl => {
            let mut lines = Vec::new();
            metrics.write_lines(&mut lines)?;
            ("jsonl", String::from_utf8(lines)?)
        }
    })
}

fn page(arguments: &Arguments, finished: &Finished) -> String {
    let Finished { run, report, assessment, health, pages, figures, .. } = finished;
    let model = arguments.endpoint.model_names.join(", ");
    let subtitle = match run.urls.len() {
        1 => format!("{model} at {}", run.urls[0]),
        count => format!("{model} at {count} URLs, {}", arguments.endpoint.url_strategy),
    };
    let mut page = run_page("evenload profile", &subtitle, report, assessment, health);
    if figures.iter().any(|figures| !figures.is_empty()) {
        page = page.section("Engines", "").table(&engine_table(&pages.names, figures));
    }
    page.footer(run.command.clone()).render()
}
