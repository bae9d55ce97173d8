//! `inference-perf.partial.stage_N.yaml`: the part of llm-d's Benchmark Report 0.2.1 that a load generator can fill.

use std::time::Duration;

use super::Collector;
use crate::{Distribution, Object, SECOND};

/// Those of the format, whatever `report.request_lifecycle.percentiles` says.
const PERCENTILES: [f64; 11] = [0.1, 1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9];

/// Names and times of a run, as the report wants them.
#[derive(Clone, Debug)]
pub(super) struct PartialTimes {
    /// Name of this stage's run.
    pub(super) uid: String,
    /// Name of the whole run.
    pub(super) eid: String,
    /// Start and end of the stage, in ISO 8601.
    pub(super) start: String,
    /// The same.
    pub(super) end: String,
    /// Its length.
    pub(super) duration: Duration,
}

/// The content of the file.
pub(super) fn partial(collected: &Collector, times: &PartialTimes) -> Object {
    let mut time = Object::default();
    time.set("start", &times.start);
    time.set("end", &times.end);
    time.set("duration", format!("PT{:.6}S", times.duration.as_secs_f64()));
    let mut run = Object::default();
    run.set("uid", &times.uid);
    run.set("eid", &times.eid);
    run.nest("time", time);

    let mut requests = Object::default();
    requests.set("total", collected.answered + collected.failed);
    requests.set("failures", collected.failed);
    requests.nest("input_length", statistics(&collected.input, "count", 1.0));
    requests.nest("output_length", statistics(&collected.output, "count", 1.0));
    let values = &collected.latency;
    let mut latency = Object::default();
    for (name, values, units) in [
        ("time_to_first_token", &values.ttft, "s"),
        ("normalized_time_per_output_token", &values.ntpot, "s/token"),
        ("time_per_output_token", &values.tpot, "s/token"),
        ("inter_token_latency", &values.itl, "s/token"),
        ("request_latency", &values.request, "s"),
    ] {
        latency.nest(name, statistics(values, units, SECOND));
    }
    let (input, output) = (collected.input.sum() as f64, collected.output.sum() as f64);
    let seconds = collected.time_s();
    let rate = |amount: f64, units: &str| {
        let mut object = Object::default();
        object.set("units", units);
        object.set("mean", amount / seconds);
        object
    };
    let mut throughput = Object::default();
    throughput.nest("input_token_rate", rate(input, "tokens/s"));
    throughput.nest("output_token_rate", rate(output, "tokens/s"));
    throughput.nest("total_token_rate", rate(input + output, "tokens/s"));
    throughput.nest("request_rate", rate(collected.answered as f64, "queries/s"));

    let mut aggregate = Object::default();
    aggregate.nest("requests", requests);
    aggregate.nest("latency", latency);
    // What was not measured is absent, so that it is not taken for a measured 0.
    if collected.answered > 0 && seconds > 0.0 {
        aggregate.nest("throughput", throughput);
    }
    let mut performance = Object::default();
    performance.nest("aggregate", aggregate);
    let mut results = Object::default();
    results.nest("request_performance", performance);
    let mut object = Object::default();
    object.set("version", "0.2.1");
    object.nest("run", run);
    object.nest("results", results);
    object
}

/// `{units, mean, stddev, min, p0p1, p1, ..., p50, ..., max}`; nothing without values. The deviation is the sample's.
fn statistics(values: &Distribution, units: &str, unit: f64) -> Option<Object> {
    let (mean, deviation, min, max) = (values.mean()?, values.std()?, values.min()?, values.max()?);
    let count = values.count() as f64;
    let mut object = Object::default();
    object.set("units", units);
    object.set("mean", mean / unit);
    if count > 1.0 {
        object.set("stddev", deviation * (count / (count - 1.0)).sqrt() / unit);
    }
    object.set("min", min as f64 / unit);
    for (percent, value) in PERCENTILES.iter().zip(values.percentiles(&PERCENTILES)?) {
        object.set(format!("p{percent}").replace('.', "p"), value / unit);
    }
    object.set("max", max as f64 / unit);
    Some(object)
}
