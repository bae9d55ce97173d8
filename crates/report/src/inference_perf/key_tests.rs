//! Every key of every file, against those that inference-perf 0.7.0 writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    partial::{PartialTimes, partial},
    *,
};
use crate::{
    Outcome,
    sample::{failure, ms, request},
};

/// Keys of a distribution in a file, and in the partial.
const SPREAD: &str = "mean min p0.1 p1 p5 p10 p25 median p75 p90 p95 p99 p99.9 max";
const STATISTICS: &str = "units mean stddev min p0p1 p1 p5 p10 p25 p50 p75 p90 p95 p99 p99p9 max";

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        streaming: true,
        percentiles: vec![0.1, 1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9],
        constraints: BTreeMap::from([("ttft".to_owned(), 0.15)]),
        header_limits: [None, None],
        error_messages: 10,
        has_sessions: true,
    })
}

/// The paths of all keys; of lists, those of the first item.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}/{key}") };
                found.insert(path.clone());
                paths(value, &path, found);
            }
        }
        Value::Array(items) => items.iter().take(1).for_each(|item| paths(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

/// `given` holds a line a section: its path, a colon, its keys. A `*` after a key puts a distribution below it, and
/// `&` is a blank.
fn schema(given: &str, distribution: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for line in given.lines().filter(|line| !line.trim().is_empty()) {
        let (section, keys) = line.trim().split_once(':').unwrap();
        for key in keys.split_whitespace() {
            let name = key.trim_end_matches('*');
            let path = if section.is_empty() { name.to_owned() } else { format!("{section}/{name}") };
            let path = path.replace('&', " ");
            if key.ends_with('*') {
                all.extend(distribution.split(' ').map(|part| format!("{path}/{part}")));
            }
            all.insert(path);
        }
    }
    all
}

/// What is added stands under `evenload`, or is named.
#[track_caller]
fn assert_keys(ours: &impl serde::Serialize, theirs: &str, distribution: &str, added: &[&str]) {
    let mut found = BTreeSet::new();
    paths(&json!(ours), "", &mut found);
    found.retain(|path| !path.starts_with("evenload") && !added.contains(&path.as_str()));
    let theirs = schema(theirs, distribution);
    let missing: Vec<_> = theirs.difference(&found).collect();
    let extra: Vec<_> = found.difference(&theirs).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:?}, too many {extra:?}");
}

fn collected() -> Collector {
    let mut collector = Collector::new(settings());
    for number in 0..4 {
        collector.push(&request(number * 100, 50, 10, 5));
    }
    let mut again = request(900, 50, 10, 5);
    (again.retries, again.retried_for) = (1, ms(100));
    collector.push(&again);
    collector.push(&failure(500, 30, Outcome::Status(504, "late".to_owned())));
    collector
}

#[test]
fn a_stage() {
    let kind = Kind::Stage { requested_rate: Some(10.0), concurrency: Some(3), start: ms(0) };
    assert_keys(
        &lifecycle(&collected(), kind),
        ":benchmark_time_seconds load_summary successes failures retries
        load_summary:count schedule_delay* send_duration requested_rate achieved_rate concurrency
        successes:count latency throughput request_size_bytes* image video audio prompt_tokens* output_len* output_tokens*
        successes:token_count_mismatches client_fallback_requests goodput_metrics
        successes/latency:request_latency* normalized_time_per_output_token* time_per_output_token*
        successes/latency:time_to_first_token* inter_token_latency*
        successes/throughput:input_tokens_per_sec output_tokens_per_sec total_tokens_per_sec requests_per_sec
        successes/throughput:images_per_sec videos_per_sec audios_per_sec
        successes/image:count* pixels bytes aspect_ratio
        successes/video:count* frames pixels bytes aspect_ratio
        successes/audio:count* seconds bytes
        successes/prompt_tokens:total cached uncached
        successes/output_tokens:total
        successes/client_fallback_requests:prompt output
        successes/goodput_metrics:goodput_percentage request_goodput token_goodput good_requests total_requests
        successes/goodput_metrics:ttft_attainment_percentage
        failures:count request_latency* prompt_tokens* by_label
        failures/prompt_tokens:total cached uncached
        failures/by_label:504&-&Gateway&Timeout
        failures/by_label/504&-&Gateway&Timeout:count messages
        failures/by_label/504&-&Gateway&Timeout/messages[]:message session_ids
        retries:requests_retried attempts recovered failed_after_retry wasted_sec_total wasted_sec*",
        SPREAD,
        &["failures/by_label/504 - Gateway Timeout/messages[]/count"],
    );
}

#[test]
fn an_entry_of_a_request() {
    let bodies = EntryBodies::default();
    let fields = EntryFields {
        request: true,
        response: true,
        info: true,
        response_chunks: true,
        computed_metrics: true,
    };
    let mut record = request(0, 50, 10, 5);
    record.cached_tokens = Some(3);
    let entry = entry(&record, bodies, fields, &settings()).unwrap();
    assert_keys(
        &entry,
        ":start_time end_time request response info computed_metrics error
        info:request_metrics response_metrics extra_info lora_adapter graph_event_id labels input_tokens
        info/request_metrics:text image video audio
        info/request_metrics/text:input_tokens
        info/response_metrics:output_tokens server_usage response_chunks chunk_times output_token_times
        info/response_metrics/server_usage:prompt_tokens completion_tokens total_tokens prompt_tokens_details
        info/response_metrics/server_usage/prompt_tokens_details:cached_tokens
        info/extra_info:user_session chat_round
        computed_metrics:request_latency normalized_time_per_output_token time_to_first_token time_per_output_token
        computed_metrics:inter_token_latency inter_token_latencies input_tokens output_tokens ttft_slo_sec tpot_slo_sec",
        SPREAD,
        &["scheduled_time", "stage_id", "request_id", "session_id", "status", "url"],
    );
}

#[test]
fn sessions() {
    let mut sessions = SessionCollector::new(settings());
    for (session, failed) in [(1, false), (2, true)] {
        let mut record = if failed { failure(100, 50, Outcome::Timeout) } else { request(0, 50, 10, 5) };
        (record.session, record.cached_tokens) = (session, Some(3));
        sessions.push(&record);
    }
    let stage = StageResult {
        number: 0,
        requested_rate: None,
        concurrency: None,
        sessions: Some((2, None)),
        timeout: None,
        start: ms(0),
        end: ms(100),
        started_at_ns: 0,
        status: StageStatus::Completed,
        teardown: ms(0),
    };
    assert_keys(
        &sessions.stage(&stage, &collected()),
        ":stage_metadata num_sessions num_sessions_succeeded num_sessions_failed failures total_events
        :total_events_completed total_events_cancelled sessions_with_recorded_substitution
        :total_recorded_substitutions sessions_per_second session_duration_sec* num_events* num_events_cancelled*
        :total_input_tokens* total_output_tokens* total_cached_tokens* total_cacheable_input_tokens*
        :sessions_with_cache_info kv_cache_hit_percent kv_cache_hit_per_session_percent* tfut_sec* sessions_with_tfut
        :tfut_none_reasons num_user_facing_events* num_structured_output_excluded*
        stage_metadata:stage_id status timeout_configured actual_duration teardown_duration dropped_requests
        stage_metadata:concurrent_sessions session_rate
        failures:count by_label
        failures/by_label:TimeoutError
        failures/by_label/TimeoutError:count messages
        failures/by_label/TimeoutError/messages[]:message session_ids
        total_recorded_substitutions:count messages
        tfut_none_reasons:no_streamed_token",
        SPREAD,
        &[],
    );
    assert_keys(
        &sessions.entries()[0],
        ":session_id stage_id file_path start_time end_time duration_sec num_events num_events_completed
        :num_events_cancelled n_recorded_substitutions recorded_substitution_event_ids success error
        :total_input_tokens total_output_tokens total_cached_tokens total_cacheable_input_tokens
        :user_facing_event_ids num_structured_output_excluded tfut_sec tfut_none_reason",
        SPREAD,
        &[],
    );
}

#[test]
fn the_partial_of_a_stage() {
    let times = PartialTimes {
        uid: String::new(),
        eid: String::new(),
        start: String::new(),
        end: String::new(),
        duration: Duration::ZERO,
    };
    let aggregate = "results/request_performance/aggregate";
    assert_keys(
        &partial(&collected(), &times),
        &format!(
            ":version run results
            run:uid eid time
            run/time:start end duration
            results:request_performance
            results/request_performance:aggregate
            {aggregate}:requests latency throughput
            {aggregate}/requests:total failures input_length* output_length*
            {aggregate}/latency:time_to_first_token* normalized_time_per_output_token* time_per_output_token*
            {aggregate}/latency:inter_token_latency* request_latency*
            {aggregate}/throughput:input_token_rate output_token_rate total_token_rate request_rate
            {aggregate}/throughput/input_token_rate:units mean
            {aggregate}/throughput/output_token_rate:units mean
            {aggregate}/throughput/total_token_rate:units mean
            {aggregate}/throughput/request_rate:units mean"
        ),
        STATISTICS,
        &[],
    );
}

#[test]
fn the_servers_own_figures() {
    let queries = queries(MetricFamily::Vllm, "", Duration::from_secs(1));
    let answers: Vec<_> = queries.into_iter().map(|query| (query, Some(1.0))).collect();
    assert_keys(
        &prometheus_report(&answers),
        ":benchmark_time_seconds load_summary successes failures
        successes:count rate prompt_len output_len queue_len request_latency* time_to_first_token*
        successes:time_per_output_token* kv_cache_usage_percentage* inter_token_latency* request_queue_time*
        successes:request_inference_time* request_prefill_time* request_decode_time* request_prompt_tokens*
        successes:request_generation_tokens* request_max_num_generation_tokens* request_params_n*
        successes:request_params_max_tokens* iteration_tokens* request_prefill_kv_computed_tokens*
        successes:kv_block_idle_before_evict* kv_block_lifetime* kv_block_reuse_gap* num_requests_swapped
        successes:num_preemptions_total prefix_cache_hit_percent external_prefix_cache_hit_percent
        successes:mm_cache_hit_percent num_requests_running request_success_count prompt_tokens_cached
        successes:corrupted_requests
        successes/prompt_len:mean rate
        successes/output_len:mean rate
        successes/queue_len:mean
        successes/num_requests_swapped:mean
        successes/num_preemptions_total:mean
        successes/prefix_cache_hit_percent:mean
        successes/external_prefix_cache_hit_percent:mean
        successes/mm_cache_hit_percent:mean
        successes/num_requests_running:mean",
        "mean median p90 p99",
        &[],
    );
}
