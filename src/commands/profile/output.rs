//! What a run leaves: the console's tables, and the files.
//!
//! Everything is printed even where a file cannot be written; the first file that cannot is said, and the run has
//! failed.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context;
use loadgen::RunEnd;
use report::{Breach, Verdict, aiperf, client_json, client_lines, engine_table, run_page};
use serde_json::{Value, json};

use super::{
    Arguments, Status,
    files::Files,
    flags::{EndpointType, MetricsFormat},
    plan::Made,
    run::Finished,
};

/// Prints a run and writes its files.
pub(super) fn conclude(
    arguments: &Arguments,
    files: &Files,
    mut finished: Finished,
) -> anyhow::Result<Status> {
    let breaches: Vec<Breach> =
        arguments.own.fail_if.iter().filter_map(|limit| limit.check(&finished.report.total)).collect();
    let mut text = tables(arguments, &finished);
    text += &remarks(arguments, &finished, &breaches);
    let mut problem = finished.recording.problem.take();
    let mut write = |path: &Path, content: &str| {
        let written = fs::write(path, content).with_context(|| format!("cannot write {}", path.display()));
        if let (None, Err(error)) = (&problem, written) {
            problem = Some(error);
        }
    };
    write(
        &files.summary(),
        &(serde_json::to_string_pretty(&summary(arguments, &finished, &breaches))? + "\n"),
    );
    let Finished { run, recording, .. } = &finished;
    write(&files.summary_csv(), &aiperf::summary_csv(&recording.measured, &run.urls, &recording.by_target));
    if let Some(slices) = &recording.slices {
        write(
            &files.slices(false),
            &(serde_json::to_string_pretty(&aiperf::slices_json(run, slices))? + "\n"),
        );
        write(&files.slices(true), &aiperf::slices_csv(slices, run.epoch_ns()));
    }
    if !finished.engines.names().is_empty() {
        for &format in &arguments.output.server_metrics_formats {
            let (ending, content) = server_metrics(&finished, format)?;
            write(&files.server_metrics(ending), &content);
        }
    }
    if !arguments.own.no_report {
        write(&files.page(), &page(arguments, &finished));
    }
    text += &places(arguments, files, &finished);
    write(&files.console(), &text);
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot print the results")?;
    Ok(ended(arguments, &finished, &breaches, problem.as_ref()))
}

fn ended(
    arguments: &Arguments,
    finished: &Finished,
    breaches: &[Breach],
    problem: Option<&anyhow::Error>,
) -> Status {
    if let Some(problem) = problem {
        let lines = finished
            .recording
            .lines_written()
            .map_or_else(String::new, |lines| format!(" ({lines} lines of requests are whole)"));
        eprintln!("evenload: {problem:#}{lines}; the figures above are those of all requests");
    }
    let nothing = finished.report.total.answered() == 0;
    if nothing {
        eprintln!("evenload: no request was answered");
    }
    for breach in breaches {
        eprintln!("evenload: --fail-if {breach}");
    }
    match (finished.summary.end, finished.assessment.verdict) {
        (RunEnd::Stopped | RunEnd::Aborted, _) => Status::Interrupted,
        (RunEnd::TooManyFailed, _) => {
            eprintln!("evenload: more requests failed than --failed-request-threshold allows");
            Status::Failed
        }
        _ if nothing || problem.is_some() => Status::Failed,
        _ if !breaches.is_empty() => Status::LimitBroken,
        (_, Verdict::Invalid) if arguments.own.strict => Status::Invalid,
        (_, Verdict::Suspect) if arguments.own.strict => Status::Suspect,
        _ => Status::Good,
    }
}

fn tables(arguments: &Arguments, finished: &Finished) -> String {
    let Finished { run, recording, engines, figures, .. } = finished;
    let mut text = String::new();
    if run.kind != aiperf::RunKind::Complete {
        let ended = finished.report.total.sent;
        text += &format!("PARTIAL RESULTS: the run ended early, after {ended} requests.\n");
    }
    text += &aiperf::metrics_table("evenload profile | LLM Metrics", &recording.measured);
    if !arguments.endpoint.streams() && arguments.endpoint.endpoint_type != EndpointType::Embeddings {
        text += "Time to First Token and Inter Token Latency are not in this table: add --streaming to measure them.\n";
    }
    if run.urls.len() > 1 {
        text +=
            &aiperf::targets_table("evenload profile | URLs (times in ms)", &run.urls, &recording.by_target);
    }
    text += &aiperf::engines_table("evenload profile | Engines", &engines.names(), figures);
    if arguments.output.show_trace_timing {
        text += &aiperf::trace_table("evenload profile | HTTP timing", &recording.measured);
    }
    text += &aiperf::error_table("evenload profile | Error Summary", &recording.measured);
    text
}

fn remarks(arguments: &Arguments, finished: &Finished, breaches: &[Breach]) -> String {
    let mut text = client_lines(&finished.report, &finished.health);
    text += &finished.assessment.lines();
    for note in finished.notes.iter().chain(&finished.engines.problems()) {
        text += &format!("  note: {note}\n");
    }
    for limit in &arguments.own.fail_if {
        let broken = breaches.iter().find(|breach| breach.limit == limit.to_string());
        let said = broken.map_or_else(|| format!("{limit}: no"), |breach| format!("{breach}: yes"));
        text += &format!("Fail if {said}\n");
    }
    text
}

fn places(arguments: &Arguments, files: &Files, finished: &Finished) -> String {
    let mut text = String::new();
    let mut place = |label: &str, path: &Path| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{label}: {}", path.display());
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
    let Finished { run, recording, report, health, assessment, engines, figures, summary, .. } = finished;
    let pages = engines.names();
    let page = |(name, figures): (&String, &report::EngineFigures)| json!({ "url": name, "metrics": figures.json() });
    let ours = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "url_strategy": arguments.endpoint.url_strategy,
        "assessment": assessment.json(),
        "limits": arguments.own.fail_if.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "limits_broken": breaches.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "notes": finished.notes,
        "client": client_json(report, health),
        "dispatch_lag_ms": summary.client.dispatch_lag.spread(report::MILLISECOND),
        "loop_stall_ms": summary.client.loop_stall.spread(report::MILLISECOND),
        "server_metrics": pages.iter().zip(figures).map(page).collect::<Vec<_>>(),
        "server_metrics_problems": engines.problems(),
    });
    aiperf::summary_json(run, &recording.measured, &recording.warm_up, &recording.by_target, ours)
}

/// The ending of a file of server metrics, and its content.
fn server_metrics(finished: &Finished, format: MetricsFormat) -> anyhow::Result<(&'static str, String)> {
    let Finished { engines, figures, run, summary, .. } = finished;
    let names = engines.names();
    let (start, end) = super::run::window(summary);
    Ok(match format {
        MetricsFormat::Json => {
            let span = (run.epoch_ns() + start.as_nanos() as u64, run.epoch_ns() + end.as_nanos() as u64);
            let value = aiperf::engines_json(run, span, &names, figures, &engines.problems());
            ("json", serde_json::to_string_pretty(&value)? + "\n")
        }
        MetricsFormat::Csv => ("csv", aiperf::engines_csv(&names, figures)),
        MetricsFormat::Jsonl => {
            let mut lines = String::new();
            for (name, readings) in engines.readings() {
                for (at, reading) in readings {
                    lines +=
                        &json!({ "timestamp_ns": at.as_nanos() as u64, "url": name, "metrics": reading })
                            .to_string();
                    lines.push('\n');
                }
            }
            ("jsonl", lines)
        }
    })
}

fn page(arguments: &Arguments, finished: &Finished) -> String {
    let Finished { run, report, assessment, health, engines, figures, .. } = finished;
    let model = arguments.endpoint.model_names.join(", ");
    let subtitle = match run.urls.len() {
        1 => format!("{model} at {}", run.urls[0]),
        count => format!("{model} at {count} URLs, {}", arguments.endpoint.url_strategy),
    };
    let mut page = run_page("evenload profile", &subtitle, report, assessment, health);
    if figures.iter().any(|figures| !figures.is_empty()) {
        page = page.section("Engines", "").table(&engine_table(&engines.names(), figures));
    }
    page.footer(run.command.clone()).render()
}

/// The configuration, in AIPerf's shape.
pub(super) fn input_config(arguments: &Arguments, made: &Made, files: &Files) -> Value {
    let (endpoint, input, load) = (&arguments.endpoint, &arguments.input, &arguments.load);
    let phase = |(shape, expected): (&report::PhaseShape, &Option<u64>)| {
        let kind = if shape.measured { "profiling" } else { "warmup" };
        json!({
            "name": shape.name,
            "kind": kind,
            "type": made.strategy.split(' ').next().unwrap_or_default().to_lowercase(),
            "requests": expected,
            "rate": shape.target_rate,
            "concurrency": shape.concurrency,
            "duration": load.benchmark_duration.first().filter(|_| shape.measured).map(std::time::Duration::as_secs_f64),
        })
    };
    let source = input.input_file.as_ref().map(|path| path.display().to_string());
    json!({
        "models": { "items": endpoint.model_names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>() },
        "endpoint": {
            "urls": endpoint.url,
            "url_strategy": endpoint.url_strategy,
            "type": endpoint.endpoint_type.name(),
            "streaming": endpoint.streams(),
            "timeout": endpoint.request_timeout_seconds.as_secs_f64(),
        },
        "datasets": [{
            "name": "main",
            "type": if source.is_some() { "file" } else { "synthetic" },
            "path": source,
            "entries": input.num_dataset_entries,
            "prompts": {
                "isl": { "mean": input.isl.first(), "stddev": input.isl_stddev.first() },
                "osl": { "mean": input.osl.first(), "stddev": input.osl_stddev.first() },
            },
        }],
        "phases": made.shapes.iter().zip(&made.expected).map(phase).collect::<Vec<_>>(),
        "artifacts": { "dir": files.directory.display().to_string() },
        "tokenizer": { "name": arguments.output.tokenizer },
    })
}
