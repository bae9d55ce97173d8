//! `summary_`, `stage_` and `adapter_lifecycle_metrics.json`.

use std::time::Duration;

use serde_json::Value;

use super::{
    Collector, Settings,
    figures::{constant, distribution},
};
use crate::{Distribution, Object, SECOND};

/// What a file is about.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The whole run, or an adapter in all of it; the time in which stages ran, without the pauses between them.
    Run {
        /// Sum of the stages' times.
        active: Duration,
    },
    /// A stage, or an adapter in it.
    Stage {
        /// Requests a second asked for.
        requested_rate: Option<f64>,
        /// Requests, or sessions, at a time asked for; 0 for all sessions.
        concurrency: Option<u32>,
        /// Start of the stage on the clock of the records.
        start: Duration,
    },
}

/// The content of a file.
pub fn lifecycle(collected: &Collector, kind: Kind) -> Object {
    let mut object = Object::default();
    object.set("benchmark_time_seconds", collected.time_s());
    object.nest("load_summary", load_summary(collected, kind));
    object.nest("successes", successes(collected));
    object.nest("failures", failures(collected));
    if collected.retries.requests > 0 {
        object.nest("retries", retries(collected));
    }
    object.nest("evenload", ours(collected, kind));
    object
}

fn seconds(values: &Distribution, settings: &Settings) -> Option<Object> {
    distribution(values, &settings.percentiles, SECOND)
}

fn numbers(values: &Distribution, settings: &Settings) -> Option<Object> {
    distribution(values, &settings.percentiles, 1.0)
}

fn load_summary(collected: &Collector, kind: Kind) -> Object {
    let mut object = Object::default();
    object.set("count", collected.answered + collected.failed);
    object.nest("schedule_delay", seconds(&collected.delay, &collected.settings));
    if let Kind::Stage { requested_rate, concurrency, .. } = kind {
        object.set("send_duration", collected.starts.length().as_secs_f64());
        object.set("requested_rate", requested_rate);
        object.set("achieved_rate", collected.achieved_rate());
        if let Some(concurrency) = concurrency {
            object.set("concurrency", concurrency);
        }
    }
    object
}

fn successes(collected: &Collector) -> Object {
    let settings = &*collected.settings;
    let (values, time_s, answered) = (&collected.latency, collected.time_s(), collected.answered);
    let mut latency = Object::default();
    for (name, values) in [
        ("request_latency", &values.request),
        ("normalized_time_per_output_token", &values.ntpot),
        ("time_per_output_token", &values.tpot),
        ("time_to_first_token", &values.ttft),
        ("inter_token_latency", &values.itl),
    ] {
        latency.nest(name, seconds(values, settings));
    }
    let (input, output) = (collected.input.sum() as f64, collected.output.sum() as f64);
    let rate = |amount: f64| if time_s > 0.0 { amount / time_s } else { 0.0 };
    let mut throughput = Object::default();
    throughput.set("input_tokens_per_sec", rate(input));
    throughput.set("output_tokens_per_sec", rate(output));
    throughput.set("total_tokens_per_sec", rate(input + output));
    throughput.set("requests_per_sec", rate(answered as f64));
    for media in ["images_per_sec", "videos_per_sec", "audios_per_sec"] {
        throughput.set(media, 0.0);
    }
    let none = numbers(&constant(0, answered), settings);
    let media = |parts: &[&str]| {
        let mut object = Object::default();
        object.nest("count", none.clone());
        parts.iter().for_each(|part| object.set(*part, Value::Null));
        object
    };
    let mut fallbacks = Object::default();
    fallbacks.set("prompt", collected.input_fallbacks);
    fallbacks.set("output", collected.output_fallbacks);

    let mut object = Object::default();
    object.set("count", answered);
    object.nest("latency", latency);
    object.nest("throughput", throughput);
    object.nest("request_size_bytes", numbers(&collected.request_bytes, settings));
    object.nest("image", media(&["pixels", "bytes", "aspect_ratio"]));
    object.nest("video", media(&["frames", "pixels", "bytes", "aspect_ratio"]));
    object.nest("audio", media(&["seconds", "bytes"]));
    let cached = collected.cached_tokens as f64;
    let totals = [("total", input), ("cached", cached), ("uncached", input - cached)];
    object.nest("prompt_tokens", with_totals(&totals, &collected.input, settings));
    object.nest("output_len", numbers(&collected.output, settings));
    object.nest("output_tokens", with_totals(&[("total", output)], &collected.output, settings));
    object.set("token_count_mismatches", collected.mismatches);
    object.nest("client_fallback_requests", fallbacks);
    if let Some(goodput) = collected.goodput.object(answered, time_s, settings) {
        object.nest("goodput_metrics", goodput);
    }
    object
}

/// Totals, then the keys of the distribution.
fn with_totals(totals: &[(&str, f64)], values: &Distribution, settings: &Settings) -> Object {
    let mut object = Object::default();
    totals.iter().for_each(|(name, total)| object.set(*name, total));
    object.extend(distribution(values, &settings.percentiles, 1.0).unwrap_or_default());
    object
}

fn failures(collected: &Collector) -> Object {
    let mut object = Object::default();
    object.set("count", collected.failed);
    object.nest("request_latency", seconds(&collected.failed_latency, &collected.settings));
    // Nobody counted them.
    let (none, settings) = (constant(0, collected.failed), &*collected.settings);
    let totals = [("total", 0.0), ("cached", 0.0), ("uncached", 0.0)];
    object.nest("prompt_tokens", with_totals(&totals, &none, settings));
    object.nest("by_label", collected.failures.by_label());
    object
}

fn retries(collected: &Collector) -> Object {
    let retried = &collected.retries;
    let mut object = Object::default();
    object.set("requests_retried", retried.requests);
    object.set("attempts", retried.attempts);
    object.set("recovered", retried.recovered);
    object.set("failed_after_retry", retried.requests - retried.recovered);
    object.set("wasted_sec_total", retried.wasted.sum() as f64 / SECOND);
    object.nest("wasted_sec", seconds(&retried.wasted, &collected.settings));
    object
}

/// What inference-perf's files do not say.
fn ours(collected: &Collector, kind: Kind) -> Object {
    let (settings, causes) = (&*collected.settings, &collected.causes);
    let mut delay = Object::default();
    for (name, values) in [
        ("session", &causes.session),
        ("bound", &causes.bound),
        ("machine", &causes.machine),
        ("client", &causes.own),
    ] {
        delay.nest(name, seconds(values, settings));
    }
    let mut object = Object::default();
    object.nest("schedule_delay", delay);
    object.nest("connect", seconds(&causes.connect, settings));
    object.nest("request_latency_from_schedule", seconds(&collected.latency.from_schedule, settings));
    object.nest("inter_chunk_latency", seconds(&collected.latency.gap, settings));
    let mut bound = Object::default();
    bound.set("requests", causes.bounded);
    let start = match kind {
        Kind::Stage { start, .. } => start,
        Kind::Run { .. } => Duration::ZERO,
    };
    let since = causes.bounded_since.map(|since| since.saturating_sub(start).as_secs_f64());
    bound.set("first_after_seconds", since);
    object.nest("waited_for_bound", bound);
    object.set("not_sent", collected.not_sent);
    object.set("cut_off", collected.cut_off);
    object.set("mean_in_flight", ratio(collected.busy.as_secs_f64(), collected.time_s()));
    if let Kind::Run { active } = kind {
        object.set("active_time_seconds", active.as_secs_f64());
        object.set("requests_per_active_sec", ratio(collected.answered as f64, active.as_secs_f64()));
        let output = collected.output.sum() as f64;
        object.set("output_tokens_per_active_sec", ratio(output, active.as_secs_f64()));
    }
    let due = collected.count + collected.not_sent;
    if let Some(percent) = collected.goodput.percent_of_all(due, settings) {
        object.set("goodput_percentage_of_all_requests", percent);
    }
    object
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    crate::summary::ratio(part, whole)
}
