//! The reports of `evenload run`, key by key against the files that inference-perf 0.7.0 writes; and what is on disk
//! when things go wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpListener,
    process::Command,
    thread,
};

use run_support::{MODEL, Stage, key_paths, said};
use serde_json::Value;

/// Keys of a distribution.
const DISTRIBUTION: [&str; 14] =
    ["mean", "min", "p0.1", "p1", "p5", "p10", "p25", "median", "p75", "p90", "p95", "p99", "p99.9", "max"];

const FULL: &str = "api: {type: chat, streaming: true}\n\
load:\n  interval: 0\n  stages:\n  - {rate: 100, duration: 1}\n  - {rate: 50, duration: 1}\n\
\x20 lora_traffic_split: [{name: one, split: 0.5}, {name: two, split: 0.5}]\n\
data: {type: shared_prefix, shared_prefix: {num_groups: 4, num_prompts_per_group: 5, output_len: 20}}\n\
report:\n  goodput: {constraints: {ttft: 0.5, tpot: 0.5}}\n\
\x20 request_lifecycle:\n    per_request: true\n    per_adapter_stage: true\n    per_request_fields: {computed_metrics: true}\n";

fn distribution(path: &str) -> Vec<String> {
    let keys = DISTRIBUTION.iter().map(|key| format!("{path}/{key}"));
    std::iter::once(path.to_owned()).chain(keys).collect()
}

/// Every key path of a stage's report in inference-perf's schema.
fn stage_schema() -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    paths.extend(["benchmark_time_seconds", "load_summary", "successes", "failures"].map(String::from));
    for key in ["count", "send_duration", "requested_rate", "achieved_rate"] {
        paths.push(format!("load_summary/{key}"));
    }
    paths.extend(distribution("load_summary/schedule_delay"));
    for key in [
        "count",
        "latency",
        "throughput",
        "token_count_mismatches",
        "client_fallback_requests",
        "goodput_metrics",
    ] {
        paths.push(format!("successes/{key}"));
    }
    for key in [
        "request_latency",
        "normalized_time_per_output_token",
        "time_per_output_token",
        "time_to_first_token",
        "inter_token_latency",
    ] {
        paths.extend(distribution(&format!("successes/latency/{key}")));
    }
    for key in [
        "input_tokens_per_sec",
        "output_tokens_per_sec",
        "total_tokens_per_sec",
        "requests_per_sec",
        "images_per_sec",
        "videos_per_sec",
        "audios_per_sec",
    ] {
        paths.push(format!("successes/throughput/{key}"));
    }
    for key in [
        "request_size_bytes",
        "output_len",
        "prompt_tokens",
        "output_tokens",
        "image/count",
        "video/count",
        "audio/count",
    ] {
        paths.extend(distribution(&format!("successes/{key}")));
    }
    for key in [
        "prompt_tokens/total",
        "prompt_tokens/cached",
        "prompt_tokens/uncached",
        "output_tokens/total",
        "image",
        "image/pixels",
        "image/bytes",
        "image/aspect_ratio",
        "video",
        "video/frames",
        "video/pixels",
        "video/bytes",
        "video/aspect_ratio",
        "audio",
        "audio/seconds",
        "audio/bytes",
        "client_fallback_requests/prompt",
        "client_fallback_requests/output",
    ] {
        paths.push(format!("successes/{key}"));
    }
    for key in [
        "goodput_percentage",
        "request_goodput",
        "token_goodput",
        "good_requests",
        "total_requests",
        "ttft_attainment_percentage",
        "tpot_attainment_percentage",
    ] {
        paths.push(format!("successes/goodput_metrics/{key}"));
    }
    for key in [
        "count",
        "request_latency",
        "prompt_tokens",
        "prompt_tokens/total",
        "prompt_tokens/cached",
        "prompt_tokens/uncached",
        "by_label",
    ] {
        paths.push(format!("failures/{key}"));
    }
    paths
}

/// Every path of `theirs` is there, and what is added stands under `evenload`.
#[track_caller]
fn assert_schema(report: &Value, theirs: impl IntoIterator<Item = String>, name: &str) {
    let ours: BTreeSet<String> =
        key_paths(report).into_iter().filter(|path| !path.starts_with("evenload")).collect();
    let theirs: BTreeSet<String> = theirs.into_iter().collect();
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let added: Vec<_> = ours.difference(&theirs).collect();
    assert!(missing.is_empty() && added.is_empty(), "{name}: missing {missing:?}, added {added:?}");
}

#[test]
fn the_files_have_inference_perfs_names_and_keys() {
    let stage = Stage::with_adapters(&["one", "two"]);
    let output = stage.run(FULL, &[]);
    let mut names: Vec<String> = fs::read_dir(stage.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut expected = vec![
        "config.yaml",
        "per_request_lifecycle_metrics.json",
        "summary_lifecycle_metrics.json",
        "validation.json",
        "inference-perf.partial.stage_0.yaml",
        "inference-perf.partial.stage_1.yaml",
        "stage_0_lifecycle_metrics.json",
        "stage_1_lifecycle_metrics.json",
        "adapter_one_lifecycle_metrics.json",
        "adapter_two_lifecycle_metrics.json",
        "adapter_one_stage_0_lifecycle_metrics.json",
        "adapter_one_stage_1_lifecycle_metrics.json",
        "adapter_two_stage_0_lifecycle_metrics.json",
        "adapter_two_stage_1_lifecycle_metrics.json",
        // Ours.
        "records.jsonl",
        "report.html",
        "run.json",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);

    for name in ["stage_0", "stage_1", "adapter_one_stage_0"] {
        assert_schema(&stage.report(&format!("{name}_lifecycle_metrics.json")), stage_schema(), name);
    }
    let in_stages =
        ["load_summary/send_duration", "load_summary/requested_rate", "load_summary/achieved_rate"];
    let summary = || stage_schema().into_iter().filter(|path| !in_stages.contains(&path.as_str()));
    for name in ["summary", "adapter_two"] {
        assert_schema(&stage.report(&format!("{name}_lifecycle_metrics.json")), summary(), name);
    }

    let text = said(&output.stdout);
    for marker in
        ["START_SUMMARY", "END_SUMMARY", "START_STAGE_1", "END_STAGE_1", "START_PARTIAL_BR_V0_2_STAGE_0"]
    {
        assert!(text.contains(&format!("=== {marker} ===")), "{marker}");
    }
    let printed = text.split("=== START_STAGE_1 ===\n").nth(1).unwrap().split("\n=== END").next().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(printed).unwrap(),
        stage.report("stage_1_lifecycle_metrics.json")
    );
    let tables =
        text.split("END_PARTIAL_BR_V0_2_STAGE_1 ===").nth(1).unwrap().split("Verdict").next().unwrap();
    assert!(tables.lines().all(|line| line.chars().count() <= 80), "{tables}");

    let entries = stage.report("per_request_lifecycle_metrics.json");
    let entry = &entries.as_array().unwrap()[0];
    assert_eq!(entries.as_array().unwrap().len(), 150);
    for path in [
        "/start_time",
        "/end_time",
        "/request",
        "/response",
        "/error",
        "/info/request_metrics/text/input_tokens",
        "/info/response_metrics/output_tokens",
        "/info/response_metrics/server_usage",
        "/info/response_metrics/response_chunks/0",
        "/info/response_metrics/chunk_times/0",
        "/info/response_metrics/output_token_times/0",
        "/info/extra_info",
        "/info/lora_adapter",
        "/info/graph_event_id",
        "/info/labels",
        "/info/input_tokens",
        "/computed_metrics/request_latency",
        "/computed_metrics/inter_token_latencies/0",
        "/computed_metrics/ttft_slo_sec",
        "/scheduled_time",
        "/stage_id",
        "/session_id",
    ] {
        assert!(entry.pointer(path).is_some(), "{path} in {entry}");
    }
    assert!(entry["request"].as_str().unwrap().contains("\"messages\""));
    assert!(entry["response"].as_str().unwrap().contains("data: [DONE]"));

    let partial = fs::read_to_string(stage.path("out/inference-perf.partial.stage_0.yaml")).unwrap();
    for part in [
        "version: \"0.2.1\"",
        "uid:",
        "eid:",
        "request_performance:",
        "time_to_first_token:",
        "p0p1:",
        "p99p9:",
        "stddev:",
        "output_token_rate:",
    ] {
        assert!(partial.contains(part), "{part} in\n{partial}");
    }
    let validation = stage.report("validation.json");
    assert!(validation["global"]["warnings"].is_array() && validation["global"]["errors"].is_array());
    assert_eq!(validation["reports"]["stage_0_lifecycle_metrics.json"]["errors"], serde_json::json!([]));

    let analyzed = Command::new(env!("CARGO_BIN_EXE_evenload"))
        .args(["report", "--analyze", "out", "-u", "both"])
        .current_dir(&stage.folder)
        .output()
        .unwrap();
    assert!(analyzed.status.success(), "{}", said(&analyzed.stderr));
    for name in [
        "out/latency_vs_qps.svg",
        "out/throughput_vs_qps.svg",
        "out/goodput_vs_qps.svg",
        "out/throughput_vs_latency.svg",
        "out/analysis.html",
        "both/analyzed_reports_legend.json",
    ] {
        assert!(stage.path(name).exists(), "{name}");
    }
}

#[test]
fn figures_are_those_of_the_records() {
    let stage = Stage::new();
    let config = "api: {streaming: true}\nload: {stages: [{rate: 50, duration: 2}]}\n\
                  data: {type: random, input_distribution: {type: fixed, mean: 40}, output_distribution: {type: fixed, mean: 12}}\n";
    stage.run(config, &[]);
    let report = stage.report("stage_0_lifecycle_metrics.json");
    let at = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}"));
    assert_eq!((at("/successes/count"), at("/successes/output_tokens/total")), (100.0, 1200.0));
    assert_eq!(at("/successes/prompt_tokens/median"), 40.0);
    let text = fs::read_to_string(stage.path("out/records.jsonl")).unwrap();
    let records: Vec<Value> = text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let number = |record: &Value, key: &str| record[key].as_f64().unwrap_or(0.0) / 1e9;
    let start = |record: &Value| number(record, "sent_ns") - number(record, "connect_ns");
    let ttft =
        records.iter().map(|record| number(record, "ttft_ns") + number(record, "connect_ns")).sum::<f64>()
            / 100.0;
    assert!((at("/successes/latency/time_to_first_token/mean") - ttft).abs() < 1e-6);
    let latency = records.iter().map(|record| number(record, "done_ns") - start(record)).sum::<f64>() / 100.0;
    assert!((at("/successes/latency/request_latency/mean") - latency).abs() < 1e-6);
    let starts: Vec<f64> = records.iter().map(start).collect();
    let span = starts.iter().copied().fold(0.0, f64::max) - starts.iter().copied().fold(f64::MAX, f64::min);
    assert!((at("/load_summary/achieved_rate") - 99.0 / span).abs() < 1e-3, "N requests are N - 1 gaps");
}

#[test]
fn an_adapter_that_the_server_lacks_fails_under_its_own_name() {
    let stage = Stage::with_adapters(&["here"]);
    let config = "load:\n  stages: [{rate: 100, duration: 1}]\n  lora_traffic_split: [{name: here, split: 0.5}, {name: gone, split: 0.5}]\n";
    let output = stage.run(config, &[]);
    assert!(said(&output.stderr).contains("the server does not list adapter gone"));
    let gone = stage.report("adapter_gone_lifecycle_metrics.json");
    let here = stage.report("adapter_here_lifecycle_metrics.json");
    let failures = gone["failures"]["count"].as_u64().unwrap();
    assert!(failures > 20 && gone["successes"]["count"] == 0 && here["failures"]["count"] == 0);
    assert_eq!(gone["failures"]["by_label"]["404 - other"]["count"], failures);
    assert!(said(&output.stdout).contains("requests failed (status 404 The model `gone` does not exist.)"));
}

#[test]
fn a_server_that_dies_in_mid_stage_leaves_what_was_measured() {
    let stage = Stage::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let body = r#"{"choices":[{"text":"x"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
        for socket in listener.incoming().take(20) {
            let mut socket = socket.unwrap();
            let mut bytes = [0; 4096];
            let _ = socket.read(&mut bytes);
            let _ = write!(
                socket,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    let config = "load: {stages: [{rate: 50, duration: 1}, {rate: 50, duration: 1}], interval: 0}\nreport: {request_lifecycle: {per_request: true}}\n";
    let flags = ["--server.base_url", &url, "--server.model_name", MODEL];
    let output = stage.command(config, &flags).output().unwrap();
    assert!(output.status.success(), "{}", said(&output.stderr));
    let summary = stage.report("summary_lifecycle_metrics.json");
    let (good, bad) =
        (summary["successes"]["count"].as_u64().unwrap(), summary["failures"]["count"].as_u64().unwrap());
    assert!((15..=20).contains(&good) && good + bad == 100, "{good} {bad}");
    assert!(summary["failures"]["by_label"]["Connection Error"]["count"].as_u64().unwrap() > 0);
    assert_eq!(stage.report("per_request_lifecycle_metrics.json").as_array().unwrap().len(), 100);
    assert_eq!(fs::read_to_string(stage.path("out/records.jsonl")).unwrap().lines().count(), 101);
    assert!(said(&output.stderr).contains("requests failed"), "{}", said(&output.stderr));
}

#[test]
fn a_stage_that_outruns_the_server_says_what_set_the_pace() {
    let slow = engine::Profile { step_base_s: 0.002, max_num_seqs: 4, ..engine::Profile::l4() };
    let stage = Stage::with(engine::Config::new(slow));
    let config = "load: {stages: [{rate: 400, duration: 1}], num_workers: 2, worker_max_concurrency: 10}\n";
    let output = stage.run(config, &[]);
    let report = stage.report("stage_0_lifecycle_metrics.json");
    assert_eq!(report["successes"]["count"], 400, "everything is sent all the same");
    assert!(report["evenload"]["waited_for_bound"]["requests"].as_u64().unwrap() > 300);
    assert!(report["load_summary"]["achieved_rate"].as_f64().unwrap() < 350.0);
    let delay = |part: &str| report["evenload"]["schedule_delay"][part]["p99"].as_f64().unwrap();
    assert!(delay("bound") > 0.2 && delay("client") < delay("bound"), "the delay is the bound's, not ours");
    assert!(said(&output.stdout).contains("from there on the server set the pace"));
    assert_eq!(stage.report("validation.json")["evenload"]["load_valid"], false);
    let strict = stage.command(config, &["--evenload.strict", "true"]).output().unwrap();
    assert_eq!(strict.status.code(), Some(3));
}

#[test]
fn a_circuit_breaker_ends_the_run_and_the_reports_are_there() {
    let stage = Stage::new();
    let config = "load:\n  interval: 0\n  stages: [{rate: 50, duration: 20}, {rate: 50, duration: 1}]\n  circuit_breakers: [many]\n  lora_traffic_split: [{name: none, split: 1}]\n\
                  circuit_breakers:\n- name: many\n  metrics: {matches: [\"`true`\"], rules: [\"error\"]}\n  triggers: [{type: consecutive, threshold: 10}]\n";
    let output = stage.command(config, &[]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output.stderr);
    assert!(
        text.contains("stage 0 has failed: circuit breaker many has opened: 10 hits one after the other"),
        "{text}"
    );
    assert!(text.contains("1 stage was not run"), "{text}");
    let report = stage.report("stage_0_lifecycle_metrics.json");
    assert!((10..900).contains(&report["failures"]["count"].as_u64().unwrap()));
}

#[test]
fn a_trace_with_bad_lines_and_a_stage_that_asks_for_more() {
    let stage = Stage::new();
    let trace = "TIMESTAMP,ContextTokens,GeneratedTokens\nbad,1,1\n2023-01-01 02:00:00+02:00,5,2\n2023-01-01 00:00:00.2Z,6,3\n";
    fs::write(stage.path("trace.csv"), trace).unwrap();
    let config = "load: {type: trace_replay, trace: {file: trace.csv, format: AzurePublicDataset}, stages: [{rate: 5, duration: 2}]}\n";
    let output = stage.run(config, &[]);
    let text = said(&output.stderr);
    assert!(text.contains("1 of 3 lines left out: line 2"), "{text}");
    assert!(text.contains("stage 0 asks for 10 requests, and the trace has 2"), "{text}");
    let report = stage.report("stage_0_lifecycle_metrics.json");
    assert_eq!(
        (&report["successes"]["count"], &report["load_summary"]["requested_rate"]),
        (&2.into(), &5.0.into())
    );
}

#[test]
fn sessions_have_their_own_reports() {
    let stage = Stage::new();
    let config = "api: {type: chat, streaming: true}\n\
                  load: {type: trace_session_replay, stages: [{concurrent_sessions: 3, num_sessions: 6}]}\n\
                  data: {type: conversation_replay, conversation_replay: {num_conversations: 6, shared_system_prompt_len: 64, turns_per_conversation: 3, input_tokens_per_turn: 20, output_tokens_per_turn: 5}}\n\
                  report: {session_lifecycle: {per_session: true}}\n";
    stage.run(config, &[]);
    let report = stage.report("stage_0_session_lifecycle_metrics.json");
    assert_eq!((&report["num_sessions"], &report["total_events"]), (&6.into(), &18.into()));
    assert_eq!(
        (&report["stage_metadata"]["status"], &report["stage_metadata"]["concurrent_sessions"]),
        (&"COMPLETED".into(), &3.into())
    );
    assert!(
        report["kv_cache_hit_percent"].as_f64().unwrap() > 0.0 && report["tfut_sec"]["median"].is_number()
    );
    assert_eq!(stage.report("per_session_lifecycle_metrics.json").as_array().unwrap().len(), 6);
    assert!(stage.path("out/summary_session_lifecycle_metrics.json").exists());
}

#[test]
fn a_mock_server_needs_no_server() {
    for api in ["completion", "chat"] {
        let stage = Stage::new();
        let flags =
            ["--server.type", "mock", "--api.type", api, "--load.stages", r#"[{"rate": 50, "duration": 1}]"#];
        stage.run("", &flags);
        assert_eq!(stage.report("summary_lifecycle_metrics.json")["successes"]["count"], 50, "{api}");
    }
}

#[test]
fn anthropic_messages_have_their_path_their_key_and_their_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let body = r#"{"type":"message","role":"assistant","content":[{"type":"text","text":"x"}],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":4}}"#;
        let mut seen = String::new();
        for socket in listener.incoming().take(4) {
            let mut socket = socket.unwrap();
            let mut bytes = [0; 4096];
            let read = socket.read(&mut bytes).unwrap_or(0);
            seen += &String::from_utf8_lossy(&bytes[..read]);
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = socket.write_all((head + body).as_bytes());
        }
        seen
    });
    let stage = Stage::new();
    let config = "api: {type: anthropic_messages}\nload: {stages: [{rate: 3, duration: 1}]}\n";
    let flags = ["--server.base_url", &url, "--server.model_name", MODEL, "--server.api_key", "secret"];
    stage.run(config, &flags);
    let seen = server.join().unwrap().to_lowercase();
    for part in [
        "post /v1/messages",
        "x-api-key: secret",
        "anthropic-version: ",
        "\"max_tokens\":30",
        "mock prompt 2",
    ] {
        assert!(seen.contains(part), "{part} in {seen}");
    }
    assert_eq!(stage.report("summary_lifecycle_metrics.json")["successes"]["output_tokens"]["total"], 12.0);
}

#[test]
fn a_wrong_configuration_costs_nothing_and_says_where() {
    let stage = Stage::new();
    for (text, flags, part) in [
        ("load:\n  stagess: []\n", vec![], "config.yml:2:3: unknown key `stagess`; did you mean `stages`?"),
        (
            "data: {type: visionarena}\n",
            vec!["--load.stages", r#"[{"rate":1,"duration":1}]"#],
            "data.type: visionarena: not implemented",
        ),
        ("", vec!["--load.stages", "[1"], "--load.stages: \"[1\" is not JSON"),
    ] {
        let output = stage.command(text, &flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(said(&output.stderr).contains(part), "{}", said(&output.stderr));
        assert!(!stage.path("out").exists());
    }
}
