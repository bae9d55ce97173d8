//! `*_prometheus_metrics.json`: which series are asked for, by which queries, and where the answers go.
//!
//! The queries are inference-perf's. What differs: series of several servers are summed or averaged instead of taking
//! any one of them, and a series that is absent is `null`, not 0.

use std::time::Duration;

use crate::Object;

/// The names of a server's series.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MetricFamily {
    /// `vllm:*`.
    Vllm,
    /// `sglang:*`.
    Sglang,
    /// `tgi_*`.
    Tgi,
}

/// A query, and where its answer goes under `successes`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Query {
    /// Key, and key below it.
    pub place: Place,
    /// The query.
    pub promql: String,
}

#[derive(Clone, Copy)]
enum Series {
    /// Its growth.
    Count(&'static str),
    /// The growth of one by that of another, in percent.
    Percent(&'static str, &'static str),
    /// Mean, median, P90 and P99 over time.
    Gauge(&'static str),
    /// Its mean over time only.
    MeanGauge(&'static str),
    /// The same of a histogram's values.
    Histogram(&'static str),
}

const VLLM: [(&str, Series); 28] = [
    ("queue_len", Series::MeanGauge("vllm:num_requests_waiting")),
    ("request_latency", Series::Histogram("vllm:e2e_request_latency_seconds")),
    ("time_to_first_token", Series::Histogram("vllm:time_to_first_token_seconds")),
    ("time_per_output_token", Series::Histogram("vllm:request_time_per_output_token_seconds")),
    ("kv_cache_usage_percentage", Series::Gauge("vllm:kv_cache_usage_perc")),
    ("inter_token_latency", Series::Histogram("vllm:inter_token_latency_seconds")),
    ("request_queue_time", Series::Histogram("vllm:request_queue_time_seconds")),
    ("request_inference_time", Series::Histogram("vllm:request_inference_time_seconds")),
    ("request_prefill_time", Series::Histogram("vllm:request_prefill_time_seconds")),
    ("request_decode_time", Series::Histogram("vllm:request_decode_time_seconds")),
    ("request_prompt_tokens", Series::Histogram("vllm:request_prompt_tokens")),
    ("request_generation_tokens", Series::Histogram("vllm:request_generation_tokens")),
    ("request_max_num_generation_tokens", Series::Histogram("vllm:request_max_num_generation_tokens")),
    ("request_params_n", Series::Histogram("vllm:request_params_n")),
    ("request_params_max_tokens", Series::Histogram("vllm:request_params_max_tokens")),
    ("iteration_tokens", Series::Histogram("vllm:iteration_tokens_total")),
    ("request_prefill_kv_computed_tokens", Series::Histogram("vllm:request_prefill_kv_computed_tokens")),
    ("kv_block_idle_before_evict", Series::Histogram("vllm:kv_block_idle_before_evict_seconds")),
    ("kv_block_lifetime", Series::Histogram("vllm:kv_block_lifetime_seconds")),
    ("kv_block_reuse_gap", Series::Histogram("vllm:kv_block_reuse_gap_seconds")),
    ("num_requests_swapped", Series::MeanGauge("vllm:num_requests_swapped")),
    ("num_preemptions_total", Series::Count("vllm:num_preemptions")),
    ("prefix_cache_hit_percent", Series::Percent("vllm:prefix_cache_hits", "vllm:prefix_cache_queries")),
    (
        "external_prefix_cache_hit_percent",
        Series::Percent("vllm:external_prefix_cache_hits", "vllm:external_prefix_cache_queries"),
    ),
    ("mm_cache_hit_percent", Series::Percent("vllm:mm_cache_hits", "vllm:mm_cache_queries")),
    ("num_requests_running", Series::MeanGauge("vllm:num_requests_running")),
    ("prompt_tokens_cached", Series::Count("vllm:prompt_tokens_cached")),
    ("corrupted_requests", Series::Count("vllm:corrupted_requests")),
];

const SGLANG: [(&str, Series); 6] = [
    ("queue_len", Series::MeanGauge("sglang:num_queue_reqs")),
    ("request_latency", Series::Histogram("sglang:e2e_request_latency_seconds")),
    ("time_to_first_token", Series::Histogram("sglang:time_to_first_token_seconds")),
    ("time_per_output_token", Series::Histogram("sglang:time_per_output_token_seconds")),
    ("kv_cache_usage_percentage", Series::Gauge("sglang:token_usage")),
    ("inter_token_latency", Series::Histogram("sglang:inter_token_latency_seconds")),
];

const TGI: [(&str, Series); 3] = [
    ("queue_len", Series::MeanGauge("tgi_queue_size")),
    ("request_latency", Series::Histogram("tgi_request_duration")),
    ("time_per_output_token", Series::Histogram("tgi_request_mean_time_per_token_duration")),
];

/// Keys whose value is one number.
const NUMBERS: [&str; 3] = ["request_success_count", "prompt_tokens_cached", "corrupted_requests"];
/// All keys of the file, in its order; those that a server does not have are null.
const KEYS: [&str; 31] = [
    "count",
    "rate",
    "prompt_len",
    "output_len",
    "queue_len",
    "request_latency",
    "time_to_first_token",
    "time_per_output_token",
    "kv_cache_usage_percentage",
    "inter_token_latency",
    "request_queue_time",
    "request_inference_time",
    "request_prefill_time",
    "request_decode_time",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_params_n",
    "request_params_max_tokens",
    "iteration_tokens",
    "request_prefill_kv_computed_tokens",
    "kv_block_idle_before_evict",
    "kv_block_lifetime",
    "kv_block_reuse_gap",
    "num_requests_swapped",
    "num_preemptions_total",
    "prefix_cache_hit_percent",
    "external_prefix_cache_hit_percent",
    "mm_cache_hit_percent",
    "num_requests_running",
    "request_success_count",
];

/// Where a figure goes: key, and key below it.
pub type Place = (&'static str, Option<&'static str>);

/// What is asked of the series over a window.
#[derive(Clone, Copy, Debug)]
pub(super) enum Figure {
    /// Growth of a counter.
    Growth(&'static str),
    /// The same by the second.
    Rate(&'static str),
    /// Growth of one by that of another, times a factor.
    Ratio(f64, &'static str, &'static str),
    /// Mean, or a quantile, of a gauge over time.
    Gauge(&'static str, Option<f64>),
    /// Mean of a histogram's values.
    Mean(&'static str),
    /// Quantile of them.
    Quantile(&'static str, f64),
}

/// All figures of a server's file.
pub(super) fn figures(family: MetricFamily) -> Vec<(Place, Figure)> {
    let (series, prompts, outputs, requests): (&[(&'static str, Series)], _, _, _) = match family {
        MetricFamily::Vllm => (&VLLM, "vllm:prompt_tokens", "vllm:generation_tokens", "vllm:request_success"),
        MetricFamily::Sglang => (
            &SGLANG,
            "sglang:prompt_tokens",
            "sglang:generation_tokens",
            "sglang:e2e_request_latency_seconds_count",
        ),
        MetricFamily::Tgi => {
            (&TGI, "tgi_request_input_length_sum", "tgi_request_generated_tokens_sum", "tgi_request_success")
        }
    };
    let mut all = vec![
        (("count", None), Figure::Growth(requests)),
        (("rate", None), Figure::Rate(requests)),
        (("prompt_len", Some("mean")), Figure::Ratio(1.0, prompts, requests)),
        (("prompt_len", Some("rate")), Figure::Rate(prompts)),
        (("output_len", Some("mean")), Figure::Ratio(1.0, outputs, requests)),
        (("output_len", Some("rate")), Figure::Rate(outputs)),
        (("request_success_count", None), Figure::Growth(requests)),
    ];
    for &(key, series) in series {
        let mean = (key, Some("mean"));
        match series {
            Series::Count(name) if NUMBERS.contains(&key) => all.push(((key, None), Figure::Growth(name))),
            Series::Count(name) => all.push((mean, Figure::Growth(name))),
            Series::Percent(hits, of) => all.push((mean, Figure::Ratio(100.0, hits, of))),
            Series::MeanGauge(name) => all.push((mean, Figure::Gauge(name, None))),
            Series::Gauge(name) => {
                all.push((mean, Figure::Gauge(name, None)));
                all.extend(
                    QUANTILES.map(|(below, share)| ((key, Some(below)), Figure::Gauge(name, Some(share)))),
                );
            }
            Series::Histogram(name) => {
                all.push((mean, Figure::Mean(name)));
                all.extend(
                    QUANTILES.map(|(below, share)| ((key, Some(below)), Figure::Quantile(name, share))),
                );
            }
        }
    }
    all
}

/// The queries for a window of this length; `filter` holds the matchers.
pub fn queries(family: MetricFamily, filter: &str, window: Duration) -> Vec<Query> {
    let seconds = format!("{}s", window.as_secs_f64().ceil() as u64);
    let asked = Asked { filter, window: &seconds };
    figures(family).into_iter().map(|(place, figure)| Query { place, promql: asked.promql(figure) }).collect()
}

const QUANTILES: [(&str, f64); 3] = [("median", 0.5), ("p90", 0.9), ("p99", 0.99)];

struct Asked<'a> {
    filter: &'a str,
    window: &'a str,
}

impl Asked<'_> {
    fn promql(&self, figure: Figure) -> String {
        let Self { filter, window } = self;
        match figure {
            Figure::Growth(name) => self.growth(name),
            // With and without the suffix, as for the growth.
            Figure::Rate(name) => {
                format!("sum(rate({name}_total{{{filter}}}[{window}]) or rate({name}{{{filter}}}[{window}]))")
            }
            Figure::Ratio(factor, part, whole) => {
                let factor = if factor == 1.0 { String::new() } else { format!("{factor} * ") };
                format!("{factor}({}) / ({})", self.growth(part), self.growth(whole))
            }
            Figure::Gauge(name, None) => format!("avg(avg_over_time({name}{{{filter}}}[{window}]))"),
            Figure::Gauge(name, Some(share)) => {
                format!("avg(quantile_over_time({share}, {name}{{{filter}}}[{window}]))")
            }
            Figure::Mean(name) => format!(
                "sum(rate({name}_sum{{{filter}}}[{window}])) / sum(rate({name}_count{{{filter}}}[{window}]))"
            ),
            Figure::Quantile(name, share) => {
                format!("histogram_quantile({share}, sum(rate({name}_bucket{{{filter}}}[{window}])) by (le))")
            }
        }
    }

    /// With and without the suffix that some versions of the server give counters.
    fn growth(&self, name: &str) -> String {
        let Self { filter, window } = self;
        format!("sum(increase({name}_total{{{filter}}}[{window}]) or increase({name}{{{filter}}}[{window}]))")
    }
}

/// The content of the file, from the queries' answers.
pub fn prometheus_report(answers: &[(Query, Option<f64>)]) -> Object {
    file(&answers.iter().map(|(query, value)| (query.place, *value)).collect::<Vec<_>>())
}

/// The content of the file, from its figures.
pub(super) fn file(values: &[(Place, Option<f64>)]) -> Object {
    let mut successes = Object::default();
    for key in KEYS.iter().chain(&NUMBERS[1..]) {
        let mine: Vec<_> = values.iter().filter(|((own, _), _)| own == key).collect();
        match mine.as_slice() {
            [((_, None), value)] => successes.set(*key, value),
            [] => successes.set(*key, serde_json::Value::Null),
            parts => {
                let mut object = Object::default();
                for ((_, below), value) in parts {
                    object.set(below.unwrap_or("mean"), value);
                }
                successes.nest(*key, object);
            }
        }
    }
    let mut report = Object::default();
    report.set("benchmark_time_seconds", 0);
    report.nest("load_summary", Object::default());
    report.nest("successes", successes);
    report.nest("failures", Object::default());
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queries_are_theirs() {
        let queries = queries(MetricFamily::Vllm, "model_name='m'", Duration::from_secs_f64(46.5));
        let find = |key: &str, below| {
            let place = queries.iter().find(|query| query.place == (key, below));
            place.unwrap_or_else(|| panic!("no {key}")).promql.as_str()
        };
        assert_eq!(
            find("count", None),
            "sum(increase(vllm:request_success_total{model_name='m'}[47s]) or \
             increase(vllm:request_success{model_name='m'}[47s]))"
        );
        assert_eq!(
            find("time_to_first_token", Some("p99")),
            "histogram_quantile(0.99, sum(rate(vllm:time_to_first_token_seconds_bucket{model_name='m'}[47s])) by (le))"
        );
        assert_eq!(
            find("kv_cache_usage_percentage", Some("median")),
            "avg(quantile_over_time(0.5, vllm:kv_cache_usage_perc{model_name='m'}[47s]))"
        );
    }

    #[test]
    fn a_series_that_is_absent_is_null_and_every_key_is_there() {
        let queries = queries(MetricFamily::Sglang, "", Duration::from_secs(1));
        let answers: Vec<_> = queries.into_iter().map(|query| (query, None)).collect();
        let report = serde_json::to_value(prometheus_report(&answers)).unwrap();
        let successes = &report["successes"];
        assert_eq!(successes.as_object().unwrap().len(), 33);
        assert!(successes["count"].is_null() && successes["kv_block_lifetime"].is_null());
        assert!(successes["queue_len"]["mean"].is_null() && successes["prompt_len"].is_object());
    }
}
