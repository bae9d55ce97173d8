//! `profile_export_aiperf.json` and the JSON of the slices.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Collector, MetricResult, Slices, slices::Slice};
use crate::{ErrorKey, Imbalance, Object, civil::Civil, distribution::nanoseconds, summary::ratio};

/// The version of AIPerf whose files these are like, and that of their schema.
pub(super) const AIPERF_VERSION: &str = "0.13.0";
const SCHEMA_VERSION: &str = "1.4";

/// How a run ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RunKind {
    /// As planned.
    Complete,
    /// The user ended it.
    Cancelled,
    /// Something else ended it: why.
    Incomplete(String),
}

/// What the files say of the run beside its figures.
#[derive(Clone, Debug)]
pub struct Run {
    /// Names the run; AIPerf has twelve hexadecimal digits.
    pub id: String,
    /// Wall-clock time of the run's start, to which all times of records are added.
    pub started_at: SystemTime,
    /// The configuration, in AIPerf's shape as far as it has one: models, endpoint, datasets, phases.
    pub input_config: Value,
    /// The seed, where one was given.
    pub seed: Option<u64>,
    /// The command line.
    pub command: String,
    /// How it ended.
    pub kind: RunKind,
    /// Base URLs, by target.
    pub urls: Vec<String>,
}

/// The summary. `ours` goes under the key `evenload`: verdict, client and whatever else the caller has to say.
pub fn summary_json(
    run: &Run,
    measured: &Collector,
    warm_up: &Collector,
    targets: &[Collector],
    ours: Value,
) -> Object {
    let mut object = Object::default();
    object.set("schema_version", SCHEMA_VERSION);
    object.set("aiperf_version", AIPERF_VERSION);
    object.set("benchmark_id", &run.id);
    set_results(&mut object, measured.results());
    let at = |time: Option<Duration>| Civil::utc(run.started_at + time.unwrap_or_default()).iso();
    let (start, end) = (at(measured.activity.start()), at(measured.activity.end()));
    // GPUs are not read, and a reader of AIPerf's finds that said in its own words.
    let nothing = json!({
        "endpoints_configured": [], "endpoints_successful": [], "start_time": start, "end_time": end,
    });
    object.set("telemetry_data", json!({ "summary": nothing, "endpoints": {}, "error_summary": [] }));
    object.set("input_config", &run.input_config);
    object.set(
        "run_info",
        json!({ "benchmark_id": run.id, "random_seed": run.seed, "trial": 0, "cli_command": run.command }),
    );
    object.set("was_cancelled", run.kind == RunKind::Cancelled);
    object.set("is_complete", run.kind == RunKind::Complete);
    match &run.kind {
        RunKind::Complete => {}
        RunKind::Cancelled => object.set("incomplete_reason", "cancelled by the user"),
        RunKind::Incomplete(reason) => object.set("incomplete_reason", reason),
    }
    object.set("error_summary", errors_json(measured));
    object.set("start_time", start);
    object.set("end_time", end);
    if warm_up.answered + warm_up.failed > 0 {
        let mut metrics = Object::default();
        set_results(&mut metrics, warm_up.results());
        object.set("warmup_metrics", metrics);
    }
    object.set("by_url", by_url_json(&run.urls, targets, measured.duration_s()));
    object.set("evenload", ours);
    object
}

/// Figures of each target, per second of the run of `seconds`, and how evenly the load was shared.
fn by_url_json(urls: &[String], targets: &[Collector], seconds: f64) -> Value {
    let requests: Vec<f64> = targets.iter().map(|target| (target.answered + target.failed) as f64).collect();
    let tokens: Vec<f64> =
        targets.iter().map(|target| (target.input_tokens + target.output_tokens) as f64).collect();
    let all: f64 = requests.iter().sum();
    let target = |(index, (url, target)): (usize, (&String, &Collector))| {
        let mut object = Object::default();
        object.set("url", url);
        object.set("url_index", index);
        object.set("share", ratio(requests[index], all));
        set_results(&mut object, target.results_over(seconds));
        object.set("error_summary", errors_json(target));
        object
    };
    json!({
        "targets": urls.iter().zip(targets).enumerate().map(target).collect::<Vec<_>>(),
        "imbalance": { "requests": Imbalance::of(&requests), "tokens": Imbalance::of(&tokens) },
    })
}

/// `profile_export_aiperf_timeslices.json`; what was under way at each moment is taken from the whole run.
pub fn slices_json(run: &Run, slices: &Slices, measured: &Collector) -> Object {
    let epoch_ns = run.epoch_ns();
    let slice = |(Slice { start, end, complete }, results): (Slice, Vec<MetricResult>)| {
        let mut object = Object::default();
        object.set("start_ns", epoch_ns + nanoseconds(start));
        object.set("end_ns", epoch_ns + nanoseconds(end));
        if !complete {
            object.set("is_complete", false);
        }
        set_results(&mut object, results);
        object
    };
    let mut object = Object::default();
    object.set("timeslices", slices.results(measured).map(slice).collect::<Vec<_>>());
    object.set("input_config", &run.input_config);
    object
}

fn set_results(object: &mut Object, results: Vec<MetricResult>) {
    for result in results {
        object.set(result.tag.as_str(), result.json());
    }
}

fn errors_json(collector: &Collector) -> Value {
    let errors = collector.errors.most_frequent().into_iter();
    errors.map(|(key, count)| json!({ "error_details": error_json(key), "count": count })).collect()
}

/// An error in AIPerf's shape.
pub(super) fn error_json(key: &ErrorKey) -> Object {
    let mut object = Object::default();
    if let Some(code) = error_code(key) {
        object.set("code", code);
    }
    object.set("type", error_type(key.kind));
    object.set("message", error_message(key));
    object.set("cause", key.kind);
    object.set("cause_chain", [error_type(key.kind)]);
    object
}

/// What the server or the system said; where neither did, what happened.
pub(super) fn error_message(key: &ErrorKey) -> &str {
    match key.kind {
        _ if !key.message.is_empty() => &key.message,
        "timeout" => "no end within the time limit of a request",
        "cancelled" => "given up by this side, as it was told to",
        kind => kind,
    }
}

/// The HTTP status; 499 for what this side cancelled, as AIPerf has it.
pub(super) fn error_code(key: &ErrorKey) -> Option<u16> {
    if key.kind == "cancelled" { Some(499) } else { key.status.filter(|status| *status >= 400) }
}

/// The exception that AIPerf would name.
pub(super) fn error_type(kind: &str) -> &'static str {
    match kind {
        "status" => "HTTPError",
        "connect" => "ClientConnectorError",
        "broken" => "ClientPayloadError",
        "malformed" => "InvalidInferenceResultError",
        "stream_error" => "SSEResponseError",
        "timeout" => "TimeoutError",
        "cancelled" => "RequestCancellationError",
        _ => "IncompleteRequestError",
    }
}

// === impl Run ===

impl Run {
    /// Wall-clock time of the run's start in nanoseconds since 1970.
    pub fn epoch_ns(&self) -> u64 {
        self.started_at.duration_since(SystemTime::UNIX_EPOCH).map(nanoseconds).unwrap_or(0)
    }
}
