use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::*;
use crate::{
    CountSource, Outcome, PhaseShape, Record,
    sample::{failure, ms, request},
};

const URLS: [&str; 2] = ["http://a:8000", "http://b:8000"];

/// Forty requests, 100 ms apart, over two targets; TTFT 50 to 69 ms, 16 tokens, 10 ms apart; two failures.
fn records() -> Vec<Record> {
    let mut records: Vec<Record> = (0..40)
        .map(|index| {
            let mut record = request(1000 + 100 * index, 50 + index / 2, 10, 16);
            record.cached_tokens = Some(40);
            record.target = (index % 2) as u16;
            record
        })
        .collect();
    records[7] = failure(1700, 30, Outcome::Status(503, "overloaded".to_owned()));
    records[7].target = 1;
    records[9] = failure(1900, 80, Outcome::Cancelled);
    records[9].target = 1;
    (0..).zip(&mut records).for_each(|(index, record)| (record.index, record.session) = (index, index / 2));
    records
}

fn collected(records: &[Record], streaming: bool) -> Collector {
    let slos = Slo::parse_list("time_to_first_token:59.5 inter_token_latency:10").unwrap();
    let mut collector = Collector::new(streaming, slos);
    records.iter().for_each(|record| collector.push(record));
    collector
}

fn targets(records: &[Record]) -> Vec<Collector> {
    (0..2)
        .map(|target| {
            let mut collector = Collector::for_target(true, Vec::new());
            records.iter().filter(|record| record.target == target).for_each(|record| collector.push(record));
            collector
        })
        .collect()
}

fn run() -> Run {
    Run {
        id: "1eb06c1df47a".to_owned(),
        started_at: UNIX_EPOCH + Duration::from_secs(1_739_355_300),
        input_config: json!({ "endpoint": { "urls": URLS, "streaming": true } }),
        seed: Some(1),
        command: "evenload profile --model m".to_owned(),
        kind: RunKind::Complete,
        urls: URLS.map(ToOwned::to_owned).to_vec(),
    }
}

fn figure(collector: &Collector, tag: &str, statistic: &str) -> f64 {
    let results = collector.results();
    let result = results.iter().find(|result| result.tag == tag).unwrap_or_else(|| panic!("no {tag}"));
    result.statistic(statistic).unwrap_or_else(|| panic!("no {statistic} of {tag}"))
}

#[test]
fn definitions_are_aiperfs() {
    let mut record = request(100, 50, 10, 4);
    record.output_tokens.tokens = 16;
    record.reasoning_tokens = Some(6);
    record.first_answer = Some(ms(170));
    record.chunks[0].tokens = 6;
    record.done = ms(300);
    record.admitted = ms(90);
    record.scheduled = ms(20);
    record.written = Some(ms(110));
    record.headers = Some(ms(120));
    (record.request_bytes, record.response_bytes, record.response_reads) = (2048, 512, 3);
    let mut collector = Collector::new(true, Vec::new());
    collector.push(&record);
    for (tag, value) in [
        ("time_to_first_token", 50.0),
        ("time_to_second_token", 10.0),
        ("time_to_first_output_token", 70.0),
        ("request_latency", 80.0),
        ("decode_duration", 30.0),
        ("inter_token_latency", 3.0), // 30 ms over 16 tokens less the six of the first chunk
        ("inter_chunk_latency", 10.0),
        ("output_token_throughput_per_user", 1000.0 / 3.0),
        ("e2e_output_token_throughput", 200.0),
        ("prefill_throughput_per_user", 2000.0),
        ("output_sequence_length", 16.0),
        ("output_token_count", 10.0),
        ("reasoning_token_count", 6.0),
        ("input_sequence_length", 100.0),
        ("credit_to_start_latency", 10.0),
        ("effective_latency", 210.0),
        ("http_req_sending", 10.0),
        ("http_req_waiting", 40.0), // to the first byte of the body, not to the head
        ("http_req_receiving", 150.0),
        ("http_req_total", 200.0),
        ("http_req_data_sent", 2.0),
        ("http_req_data_received", 0.5),
        ("http_req_chunks_received", 3.0),
        ("osl_mismatch_diff_pct", 300.0),
        ("stream_setup_latency", 20.0),
        ("benchmark_duration", 0.08),
        ("output_token_throughput", 200.0),
        ("request_throughput", 12.5),
        ("total_reasoning_tokens", 6.0),
    ] {
        assert!(
            (figure(&collector, tag, "avg") - value).abs() < 1e-5,
            "{tag}: {}",
            figure(&collector, tag, "avg")
        );
    }
}

#[test]
fn reasoning_that_the_server_does_not_tell_apart_is_ours() {
    let mut record = request(100, 50, 10, 7);
    record.own_reasoning_tokens = Some(3);
    let mut collector = Collector::new(true, Vec::new());
    collector.push(&record);
    let figures = ["output_sequence_length", "output_token_count", "reasoning_token_count"];
    assert_eq!(figures.map(|tag| figure(&collector, tag, "avg")), [7.0, 4.0, 3.0]);
    assert!(collector.result(Tag::UsageReasoningTokens).is_none(), "the server said nothing of it");
    record.reasoning_tokens = Some(5);
    collector.push(&record);
    assert_eq!(figure(&collector, "reasoning_token_count", "max"), 5.0);
}

#[test]
fn prompts_of_failures_are_counted_and_those_too_long_for_the_model() {
    let mut collector = Collector::new(true, Vec::new());
    collector.push(&request(100, 50, 10, 7));
    assert_eq!(collector.statistic("context_overflow_count", "avg"), None);
    let refused = "This model's maximum context length is 16 tokens.".to_owned();
    for outcome in [Outcome::Cancelled, Outcome::Timeout, Outcome::Status(400, refused)] {
        collector.push(&failure(100, 50, outcome));
    }
    assert_eq!(collector.statistic("error_isl", "sum"), Some(300.0));
    assert_eq!(collector.statistic("input_sequence_length", "sum"), Some(100.0));
    assert_eq!(collector.statistic("context_overflow_count", "avg"), Some(1.0));
}

#[test]
fn a_first_chunk_that_cannot_be_right_counts_as_one_token() {
    let mut record = request(0, 50, 10, 3);
    record.chunks[0].tokens = 9;
    let mut collector = Collector::new(true, Vec::new());
    collector.push(&record);
    assert_eq!(figure(&collector, "inter_token_latency", "avg"), 10.0);
    let mut single = Collector::new(true, Vec::new());
    single.push(&request(0, 50, 10, 1));
    assert!(single.result(Tag::InterTokenLatency).is_none(), "absent, not zero");
}

#[test]
fn failures_are_infinitely_slow_in_the_adjusted_figures() {
    let collector = collected(&records(), true);
    // 38 answers, two each of 200 to 219 ms without one of 203 and of 204: the 20th of all 40 is one of 211.
    assert_eq!(figure(&collector, "request_latency", "p50"), 210.0);
    assert_eq!(figure(&collector, "adj_request_latency", "p50"), 211.0);
    let results = collector.results();
    let adjusted = results.iter().find(|result| result.tag == "adj_time_to_first_token").unwrap();
    assert_eq!((adjusted.statistic("p99"), adjusted.statistic("avg")), (None, None));
    assert_eq!(adjusted.statistic("p95"), Some(69.0));
    let clean: Vec<Record> = records().into_iter().filter(|record| record.outcome.is_success()).collect();
    assert!(collected(&clean, true).results().iter().all(|result| !result.tag.starts_with("adj_")));
}

#[test]
fn goodput_needs_every_objective() {
    let collector = collected(&records(), true);
    // TTFT of 59.5 or less: the first 20, without the two that failed.
    assert_eq!(figure(&collector, "good_request_count", "avg"), 18.0);
    assert_eq!(figure(&collector, "good_request_fraction", "avg"), 18.0 / 40.0);
    assert_eq!(figure(&collector, "goodput", "avg"), 18.0 / figure(&collector, "benchmark_duration", "avg"));
    let wide = Slo::parse_list("output_token_throughput_per_user:101").unwrap();
    let mut slow = Collector::new(true, wide);
    records().iter().for_each(|record| slow.push(record));
    assert_eq!(figure(&slow, "good_request_count", "avg"), 0.0, "100 tokens/s a user are less than 101");
    assert_eq!(Slo::parse_list("ttft:100"), Err(GoodputError::Metric("ttft".to_owned())));
    assert_eq!(Slo::parse_list("request_latency=5"), Err(GoodputError::Form("request_latency=5".to_owned())));
    assert_eq!(Slo::parse_list("request_latency:nan"), Err(GoodputError::Value("nan".to_owned())));
}

#[test]
fn the_console_table_is_aiperfs() {
    let text = metrics_table("evenload | LLM Metrics", &collected(&records(), true));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0].trim(), "evenload | LLM Metrics");
    assert!(lines[1].starts_with("┏━") && lines[1].contains("━┳━") && lines[3].starts_with("┡━"));
    assert_eq!(
        lines[2].split('┃').map(str::trim).collect::<Vec<_>>(),
        ["", "Metric", "avg", "min", "max", "p99", "p90", "p50", "std", ""]
    );
    let names: Vec<&str> =
        lines[4..lines.len() - 1].iter().filter_map(|line| line.split('│').nth(1).map(str::trim)).collect();
    assert_eq!(
        names,
        [
            "Time to First Token (ms)",
            "Time to Second Token (ms)",
            "Time to First Output Token (ms)",
            "Request Latency (ms)",
            "Decode Duration (ms)",
            "Inter Token Latency (ms)",
            "Output Token Throughput Per User",
            "(tokens/sec/user)",
            "E2E Output Token Throughput (tokens/sec/user)",
            "Output Sequence Length (tokens)",
            "Input Sequence Length (tokens)",
            "Output Token Throughput (tokens/sec)",
            "Input Token Throughput (tokens/sec)",
            "Request Throughput (requests/sec)",
            "Goodput (requests/sec)",
            "Completed Requests (Success + Error)",
            "(requests)",
            "Request Error Rate (%)",
            "Request Count (requests)",
        ]
    );
    let row = |name: &str| -> Vec<String> {
        let line = lines.iter().find(|line| line.contains(name)).expect("the row is there");
        line.split('│').map(|cell| cell.trim().to_owned()).collect()
    };
    assert_eq!(
        row("Inter Token Latency")[2..9],
        ["10.00", "10.00", "10.00", "10.00", "10.00", "10.00", "0.00"]
    );
    assert_eq!(row("Request Count")[2..9], ["38.00", "N/A", "N/A", "N/A", "N/A", "N/A", "N/A"]);
    assert_eq!(row("Request Error Rate")[2], "5.00");
}

#[test]
fn without_streaming_there_is_no_first_token() {
    let text = metrics_table("t", &collected(&records(), false));
    assert!(!text.contains("First Token") && !text.contains("Inter Token"));
    assert!(text.contains("Request Latency (ms)"));
}

#[test]
fn targets_and_errors_have_their_tables() {
    let (records, urls) = (records(), run().urls);
    let text = targets_table("evenload | Targets", &urls, &targets(&records), &collected(&records, true));
    let row = text.lines().find(|line| line.contains("http://b:8000")).expect("the row is there");
    let cells: Vec<&str> = row.split('│').map(str::trim).collect();
    assert_eq!(cells[1..5], ["http://b:8000", "18", "2", "50.0 %"]);
    assert!(text.ends_with("Requests: max/mean 1.00, CV 0.000, Jain 1.000\n"), "{text}");
    let text = error_table("evenload | Error Summary", &collected(&records, true));
    let cells: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('│').map(str::trim).collect())
        .filter(|row: &Vec<_>| row.len() > 4)
        .collect();
    assert_eq!(
        cells[0][1..5],
        ["499", "RequestCancellationError", "given up by this side, as it was told to", "1"]
    );
    assert_eq!(cells[1][1..5], ["503", "HTTPError", "overloaded", "1"]);
}

/// A run with everything on: streams, objectives, failures, a trace replayed, a tokenizer, a round trip.
fn full() -> Collector {
    let slos = Slo::parse_list("time_to_first_token:59.5 inter_token_latency:10").unwrap();
    let mut collector = Collector::new(true, slos).over_time().of_replay();
    collector.set_round_trip(Duration::from_millis(2));
    for mut record in records() {
        record.own_input_tokens = Some(80);
        record.own_output_tokens = Some(16);
        record.own_reasoning_tokens = Some(4);
        record.reasoning_tokens = Some(3);
        collector.push(&record);
    }
    collector
}

/// The keys that a reader of AIPerf 0.13's file finds in a streaming run, in the schema's names.
#[test]
fn the_summary_has_every_key() {
    let records = records();
    let warm_up = collected(&[request(0, 5, 5, 5)], true);
    let json = summary_json(&run(), &full(), &warm_up, &targets(&records), json!({ "verdict": "VALID" }));
    let json = serde_json::to_value(&json).unwrap();
    let has = |key: &str| assert!(json.get(key).is_some(), "{key} is missing");
    "schema_version aiperf_version benchmark_id telemetry_data input_config run_info was_cancelled is_complete \
     error_summary start_time end_time warmup_metrics by_url evenload \
     request_throughput request_latency request_count time_to_first_token time_to_second_token inter_token_latency \
     output_token_throughput output_token_throughput_per_user output_sequence_length input_sequence_length goodput \
     good_request_count good_request_fraction output_token_count reasoning_token_count inter_chunk_latency \
     total_output_tokens total_reasoning_tokens benchmark_duration total_isl total_osl error_request_count \
     total_error_isl error_isl context_overflow_count time_to_first_output_token decode_duration e2e_output_token_throughput \
     prefill_throughput_per_user credit_to_start_latency effective_latency adj_request_latency \
     adj_time_to_first_token adj_inter_token_latency adj_decode_duration input_token_throughput \
     total_token_throughput completed_request_count request_error_rate \
     effective_concurrency effective_decode_throughput effective_prefill_throughput effective_decode_concurrency \
     effective_prefill_concurrency effective_total_throughput effective_decode_throughput_per_user \
     effective_prefill_throughput_per_user tokens_in_flight active_decode_throughput active_prefill_throughput \
     active_decode_throughput_per_user active_prefill_throughput_per_user active_total_throughput \
     usage_prompt_tokens usage_completion_tokens usage_total_tokens usage_reasoning_tokens \
     usage_prompt_cache_read_tokens usage_prompt_cache_miss_tokens total_usage_prompt_tokens \
     total_usage_completion_tokens total_usage_total_tokens total_usage_prompt_cache_read_tokens \
     overall_usage_prompt_cache_read_pct usage_prompt_tokens_diff_pct usage_completion_tokens_diff_pct \
     usage_reasoning_tokens_diff_pct total_usage_prompt_cache_miss_tokens total_usage_reasoning_tokens \
     usage_discrepancy_count osl_mismatch_diff_pct osl_mismatch_count \
     http_req_blocked http_req_dns_lookup http_req_connecting http_req_sending http_req_waiting http_req_receiving \
     http_req_duration http_req_total http_req_connection_overhead http_req_connection_reused http_req_data_sent \
     http_req_data_received http_req_chunks_sent http_req_chunks_received \
     network_rtt network_adjusted_request_latency network_adjusted_time_to_first_token \
     network_adjusted_time_to_first_output_token \
     replay_sched_lag_p50 replay_sched_lag_p90 replay_sched_lag_p99 replay_sched_degraded \
     stream_setup_latency stream_prefill_latency"
        .split_whitespace()
        .for_each(has);
    assert_eq!((&json["schema_version"], &json["aiperf_version"]), (&json!("1.4"), &json!("0.13.0")));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&json["request_latency"]),
        "avg count max min p1 p10 p25 p5 p50 p75 p90 p95 p99 std sum unit"
    );
    assert_eq!(json["request_count"], json!({ "unit": "requests", "avg": 38.0 }));
    assert_eq!(json["inter_chunk_latency"]["count"], 38 * 15);
    assert_eq!(json["usage_prompt_tokens_diff_pct"]["avg"], 25.0, "100 tokens where this side counts 80");
    assert_eq!(json["usage_discrepancy_count"]["avg"], 38.0);
    assert_eq!(json["osl_mismatch_diff_pct"]["avg"], 0.0);
    let adjusted = &json["network_adjusted_time_to_first_token"];
    assert_eq!(adjusted["p50"], json["time_to_first_token"]["p50"].as_f64().unwrap() - 2.0);
    assert_eq!(adjusted["std"], json["time_to_first_token"]["std"]);
    assert_eq!(json["replay_sched_lag_p99"]["avg"], 0.0);
    assert_eq!(json["overall_usage_prompt_cache_read_pct"]["avg"], 40.0);
    assert_eq!(json["was_cancelled"], false);
    assert_eq!(json["start_time"], "2025-02-12T10:15:01.000000");
    assert_eq!(json["warmup_metrics"]["request_count"]["avg"], 1.0);
    assert_eq!(json["error_summary"][1]["error_details"]["code"], 503);
    assert_eq!(keys(&json["error_summary"][1]["error_details"]), "cause cause_chain code message type");
    assert_eq!(json["by_url"]["targets"][1]["url"], "http://b:8000");
    assert_eq!(json["by_url"]["targets"][1]["error_request_count"]["avg"], 2.0);
    let rate = |object: &Value| object["request_throughput"]["avg"].as_f64().unwrap();
    let of_urls: f64 = json["by_url"]["targets"].as_array().unwrap().iter().map(rate).sum();
    assert!((of_urls - rate(&json)).abs() < 1e-9, "the URLs' rates add up to the run's");
    assert_eq!(json["by_url"]["imbalance"]["requests"]["jain"], 1.0);
    assert!(json["by_url"]["imbalance"]["tokens"]["max_over_mean"].as_f64().unwrap() > 1.0);
}

#[test]
fn a_run_that_was_cut_short_says_so() {
    let mut run = run();
    run.kind = RunKind::Cancelled;
    let none = Collector::new(true, Vec::new());
    let json = serde_json::to_value(summary_json(&run, &none, &none, &[], Value::Null)).unwrap();
    assert_eq!((&json["was_cancelled"], &json["is_complete"]), (&json!(true), &json!(false)));
    assert!(json.get("request_latency").is_none() && json.get("warmup_metrics").is_none());
}

#[test]
fn the_csv_has_two_blocks_and_ours() {
    let records = records();
    let text = summary_csv(&collected(&records, true), &run().urls, &targets(&records));
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines[0], "Metric,avg,min,max,sum,p1,p5,p10,p25,p50,p75,p90,p95,p99,std");
    let blank = lines.iter().position(|line| line.is_empty()).unwrap();
    assert_eq!(lines[blank + 1], "Metric,Value");
    assert!(lines[..blank].contains(
        &"Input Sequence Length (tokens),100.00,100.00,100.00,3800.00,100.00,100.00,\
                                       100.00,100.00,100.00,100.00,100.00,100.00,100.00,0.00"
    ));
    assert!(
        lines[blank..].contains(&"Request Count,38.00")
            && lines[blank..].contains(&"Request Error Rate (%),5.00")
    );
    let names: Vec<&str> = lines[1..blank].iter().map(|line| line.split(',').next().unwrap()).collect();
    let place = |name: &str| names.iter().position(|known| known.starts_with(name)).unwrap();
    assert!(
        place("Decode Duration") < place("Input Sequence")
            && place("Request Latency") < place("Time to First")
    );
    let ours = lines.iter().position(|line| line.starts_with("URL,")).unwrap();
    assert_eq!(
        (lines[ours - 1], lines[ours - 2]),
        ("", ""),
        "two blank lines before what AIPerf does not have"
    );
    assert!(lines[ours + 2].starts_with("http://b:8000,18,2,50.00,"));
    assert!(lines[ours + 3].starts_with("Imbalance of requests,Max/Mean,1.0000,CV,0.0000,Jain,1.0000,"));
    assert!(lines.iter().all(|line| !line.contains('\n')));
}

#[test]
fn each_request_has_its_line() {
    let phases = [
        PhaseShape { name: "warmup".to_owned(), ..PhaseShape::default() },
        PhaseShape { name: "profiling".to_owned(), measured: true, ..PhaseShape::default() },
    ];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("profile_export.jsonl");
    let mut writer =
        ProfileWriter::create(&path, RecordShape::new(&run(), "r1", &phases, true, &[])).unwrap();
    let mut records = records();
    records.iter_mut().for_each(|record| (record.phase, record.session) = (1, record.session | 1 << 48));
    records[4].conversation = Some(Arc::from("mine"));
    let mut unsent = failure(5000, 0, Outcome::NotSent);
    unsent.sent = None;
    records.push(unsent);
    records[3].chunks.truncate(3);
    records.iter().for_each(|record| writer.write(record).unwrap());
    writer.flush().unwrap();
    assert_eq!(writer.written(), 40);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for key in "session_num x_request_id x_correlation_id conversation_id turn_index credit_issued_ns request_start_ns \
                request_ack_ns request_end_ns worker_id record_processor_id benchmark_phase phase_index \
                profiling_index phase_name phase_kind was_cancelled context_overflow_skip agent_depth \
                root_correlation_id url url_index scheduled_ns model"
        .split_whitespace()
    {
        assert!(lines[3]["metadata"].get(key).is_some(), "{key} is missing");
    }
    let metadata = &lines[3]["metadata"];
    assert_eq!(
        (&metadata["x_request_id"], &metadata["x_correlation_id"]),
        (&json!("r1-1-3"), &json!("r1-281474976710657"))
    );
    assert_eq!(
        (&metadata["session_num"], &metadata["conversation_id"]),
        (&json!(1), &json!("session_000001")),
        "sessions count from 0 in each phase"
    );
    assert_eq!(lines[4]["metadata"]["conversation_id"], "mine");
    assert_eq!(lines[3]["metrics"]["output_sequence_length"], json!({ "value": 16, "unit": "tokens" }));
    assert!(lines[3]["metrics"].get("good_request_count").is_none(), "nobody asked");
    assert_eq!(metadata["request_start_ns"], 1_739_355_301_300_000_000_u64);
    assert_eq!((&metadata["profiling_index"], &metadata["url"]), (&json!(0), &json!("http://b:8000")));
    assert_eq!(lines[3]["metrics"]["time_to_first_token"], json!({ "value": 51.0, "unit": "ms" }));
    assert_eq!(lines[3]["metrics"]["inter_chunk_latency"], json!({ "value": [10.0, 10.0], "unit": "ms" }));
    assert!(lines[3].get("error").is_none());
    assert_eq!(lines[7]["error"]["code"], 503);
    assert_eq!(lines[7]["metrics"], json!({ "error_isl": { "value": 100, "unit": "tokens" } }));
    assert_eq!(lines[9]["metadata"]["was_cancelled"], true);
}

#[test]
fn slices_hold_what_was_sent_in_them() {
    let mut slices = Slices::new(Duration::from_secs(1), Collector::new(true, Vec::new()));
    let mut measured = Collector::new(true, Vec::new()).over_time();
    for record in records() {
        slices.push(&record);
        measured.push(&record);
    }
    let json = serde_json::to_value(slices_json(&run(), &slices, &measured)).unwrap();
    let all = json["timeslices"].as_array().unwrap();
    assert_eq!(all.len(), 4);
    assert_eq!(all[0]["request_count"]["avg"], 8.0);
    assert_eq!(all[1]["request_count"]["avg"], 10.0);
    // Per second of the slice, though the ten were sent within 0.9 s and answered within 1.12 s.
    assert_eq!(all[1]["request_throughput"]["avg"], 10.0);
    assert_eq!(all[1]["output_token_throughput"]["avg"], 160.0);
    assert_eq!(all[1]["benchmark_duration"]["avg"], 1.109);
    let sweeps = [("effective_", 9), ("active_", 5), ("tokens_in_flight", 1)];
    for (start, count) in sweeps {
        let tags = all[1].as_object().unwrap().keys().filter(|tag| tag.starts_with(start));
        assert_eq!(tags.count(), count, "{start}");
    }
    // Ten of 205 to 209 ms, but the last two go on after its end; 4 ms of the one sent at 1.8 s.
    let in_flight = all[1]["effective_concurrency"]["avg"].as_f64().unwrap();
    assert!((in_flight - 1.956).abs() < 1e-3, "{in_flight}");
    assert_eq!(
        (&all[0]["start_ns"], &all[0]["end_ns"]),
        (&json!(1_739_355_301_000_000_000_u64), &json!(1_739_355_302_000_000_000_u64))
    );
    assert!(all[0].get("is_complete").is_none(), "complete ones do not say so");
    assert!(all[3].get("is_complete").is_none(), "the last answer came after its end");
    assert!(json.get("input_config").is_some());
    let csv = slices_csv(&slices, &measured, run().epoch_ns());
    assert!(csv.starts_with("Timeslice,Start_NS,End_NS,Metric,Unit,Stat,Value\r\n"));
    assert!(
        csv.contains("\r\n1,1739355302000000000,1739355303000000000,Request Count,requests,avg,10.00\r\n"),
        "{csv}"
    );
    let mut late = request(5100, 10, 10, 2);
    late.input_tokens.source = CountSource::Estimate;
    late.model = Arc::from("other");
    slices.push(&late);
    measured.push(&late);
    let json = serde_json::to_value(slices_json(&run(), &slices, &measured)).unwrap();
    assert_eq!(
        (&json["timeslices"][4]["is_complete"], &json["timeslices"][4]["end_ns"]),
        (&json!(false), &json!(1_739_355_305_120_000_000_u64))
    );
    assert_eq!(json["timeslices"][4]["request_throughput"]["avg"], 1.0 / 0.12, "what is left of it");
}

#[test]
fn raw_lines_have_events_with_the_times_of_their_reads() {
    let slos = Slo::parse_list("time_to_first_token:40").unwrap();
    let shape = RecordShape::new(&run(), "r1", &[], true, &slos);
    let raw = |record: &Record, wire: Wire<'_>| {
        serde_json::from_str::<Value>(shape.raw(record, wire).unwrap().get()).unwrap()
    };
    let answer = b"data: {\"a\":1}\n\ndata: two\n\nevent: end\ndata: [DONE]\n\n";
    let reads = [(15, ms(20)), (30, ms(30)), (answer.len(), ms(40))];
    let wire = Wire { request: b"{\"model\": \"m\"}", answer, events: true, reads: &reads };
    let mut record = request(10, 50, 10, 4);
    record.phase = 1;
    let line = raw(&record, wire);
    assert_eq!((&line["start_perf_ns"], &line["payload"]["model"]), (&json!(10_000_000), &json!("m")));
    let data = |value: &str| json!({ "name": "data", "value": value });
    assert_eq!(
        line["responses"],
        json!([
            { "perf_ns": 20_000_000, "packets": [data("{\"a\":1}")] },
            { "perf_ns": 30_000_000, "packets": [data("two")] },
            { "perf_ns": 40_000_000, "packets": [{ "name": "event", "value": "end" }, data("[DONE]")] },
        ])
    );
    assert!(line.get("error").is_none() && line["metadata"]["x_request_id"] == "r1-1-0");
    let busy = failure(10, 5, Outcome::Status(503, "busy".to_owned()));
    let line =
        raw(&busy, Wire { request: b"no JSON", answer: b"busy", events: false, reads: &[(4, ms(15))] });
    assert_eq!(line["responses"], json!([{ "perf_ns": 15_000_000, "text": "busy" }]));
    assert_eq!((&line["error"]["code"], line.get("payload")), (&json!(503), None));
    let output = shape.output(&record, "hello").unwrap();
    let metrics = json!({
        "input_sequence_length": 100, "output_token_count": 4, "output_sequence_length": 4,
        "request_latency": 80.0, "time_to_first_token": 50.0, "inter_token_latency": 10.0,
    });
    assert_eq!((&output["metrics"], &output["response_text"]), (&metrics, &json!("hello")));
    assert_eq!(shape.output(&busy, "").unwrap()["response_text"], Value::Null);
    let cut_off = failure(10, 5, Outcome::Incomplete);
    assert!(shape.raw(&cut_off, wire).is_none() && shape.output(&cut_off, "").is_none());
    let mut writer = ProfileWriter::new(Vec::new(), shape);
    writer.write(&record).unwrap();
    writer.flush().unwrap();
    let line: Value = serde_json::from_slice(writer.output()).unwrap();
    assert_eq!(line["metrics"]["good_request_count"], json!({ "value": 0, "unit": "requests" }));
}

#[test]
fn what_has_no_output_has_no_figures_of_it() {
    let mut record = request(0, 50, 0, 1);
    record.output_tokens = crate::Count::default();
    let mut collector = Collector::new(false, Vec::new());
    collector.push(&record);
    let results = collector.results();
    let output = ["output", "osl", "total_token_throughput", "completion"];
    let wrong: Vec<&String> = results
        .iter()
        .map(|result| &result.tag)
        .filter(|tag| output.iter().any(|part| tag.contains(part)))
        .collect();
    assert_eq!(wrong, Vec::<&String>::new());
    assert_eq!(figure(&collector, "total_isl", "avg"), 100.0);
}

#[test]
fn what_was_cut_off_is_in_no_figure() {
    let mut records = records();
    records.extend((0..20).map(|_| failure(2000, 9000, Outcome::Incomplete)));
    let (whole, without) = (collected(&records, true), collected(&records[..40], true));
    assert_eq!((whole.cut_off(), without.cut_off()), (20, 0));
    assert_eq!(whole.results(), without.results());
    assert_eq!(whole.failures(), without.failures());
    let mut writer = ProfileWriter::new(Vec::new(), RecordShape::new(&run(), "r1", &[], true, &[]));
    let mut slices = Slices::new(Duration::from_secs(1), Collector::new(true, Vec::new()));
    for record in &records {
        writer.write(record).unwrap();
        slices.push(record);
    }
    writer.flush().unwrap();
    assert_eq!((writer.written(), slices.collectors().len()), (40, 4));
}

#[test]
fn slices_are_bounded() {
    let mut slices = Slices::new(Duration::ZERO, Collector::new(false, Vec::new()));
    (0..10_000).for_each(|index| slices.push(&request(index, 1, 1, 1)));
    assert_eq!(slices.collectors().len(), 3600);
    assert_eq!(slices.collectors().map(|slice| slice.answered).sum::<u64>(), 10_000);
}
