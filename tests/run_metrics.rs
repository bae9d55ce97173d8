//! The servers' own figures in the reports of `evenload run`: off their metrics pages, and from a Prometheus server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
};

use run_support::{MODEL, Stage, said};
use serde_json::Value;

const CONFIG: &str = "api: {streaming: true}\n\
load: {interval: 0.1, stages: [{rate: 50, duration: 1}, {rate: 50, duration: 2}]}\n\
data: {type: random, input_distribution: {type: fixed, mean: 40}, output_distribution: {type: fixed, mean: 12}}\n\
report: {prometheus: {per_stage: true}}\n";

#[test]
fn they_are_read_off_the_metrics_pages_where_no_prometheus_is_named() {
    let stage = Stage::new();
    stage.run(&format!("{CONFIG}metrics: {{type: prometheus}}\n"), &[]);
    let summary = stage.report("summary_prometheus_metrics.json");
    let at = |report: &Value, path: &str| report["successes"].pointer(path).and_then(Value::as_f64);
    for (file, requests) in [("stage_0", 50.0), ("stage_1", 100.0)] {
        let report = stage.report(&format!("{file}_prometheus_metrics.json"));
        assert_eq!(at(&report, "/count"), Some(requests), "{file}: {report}");
        assert_eq!(at(&report, "/prompt_len/mean"), Some(40.0));
        assert_eq!(at(&report, "/output_len/mean"), Some(12.0));
    }
    assert_eq!(at(&summary, "/request_success_count"), Some(150.0));
    // The client cannot have seen answers sooner than the server had them.
    let ours = stage.report("summary_lifecycle_metrics.json");
    let latency = ours["successes"]["latency"]["request_latency"]["mean"].as_f64().unwrap();
    let theirs = at(&summary, "/request_latency/mean").unwrap();
    assert!(theirs > 0.0 && theirs <= latency * 1.01, "{theirs} {latency}");
    assert!(at(&summary, "/time_to_first_token/p99").unwrap() > 0.0);
    assert!(at(&summary, "/kv_cache_usage_percentage/mean").is_some());
    assert!(summary["successes"]["mm_cache_hit_percent"]["mean"].is_null(), "what the page lacks is null");
}

#[test]
fn a_server_without_a_page_costs_the_file_only() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for socket in listener.incoming() {
            answer(socket.unwrap(), |path| {
                if path.starts_with("/metrics") {
                    String::new()
                } else {
                    r#"{"choices":[{"text":"x"}],"data":[]}"#.to_owned()
                }
            });
        }
    });
    let stage = Stage::new();
    let flags = ["--server.base_url", &url, "--load.stages", r#"[{"rate": 10, "duration": 1}]"#];
    let output = stage.run("metrics: {type: default}\n", &flags);
    assert!(
        said(&output.stderr).contains("no metrics page of the servers could be read"),
        "{}",
        said(&output.stderr)
    );
    assert!(!stage.path("out/summary_prometheus_metrics.json").exists());
    assert_eq!(stage.report("summary_lifecycle_metrics.json")["successes"]["count"], 10);
}

/// Answers one request on a connection.
fn answer(mut socket: std::net::TcpStream, body: impl Fn(&str) -> String) -> String {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let (mut line, mut first, mut length) = (String::new(), String::new(), 0);
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) && line != "\r\n" {
        if first.is_empty() {
            first.clone_from(&line);
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut sent = vec![0; length];
    let _ = std::io::Read::read_exact(&mut reader, &mut sent);
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let body = body(&path);
    let _ = write!(
        socket,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    path
}

/// A Prometheus server that knows two series; and the queries that it was asked.
fn prometheus() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        for socket in listener.incoming() {
            let path = answer(socket.unwrap(), |path| {
                let value = if path.contains("request_success") {
                    "150"
                } else if path.contains("kv_cache_usage") {
                    "NaN"
                } else {
                    return r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#.to_owned();
                };
                format!(
                    r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"value":[1.5,"{value}"]}}]}}}}"#
                )
            });
            seen.lock().unwrap().push(path);
        }
    });
    (url, asked)
}

#[test]
fn a_prometheus_server_that_cannot_be_is_said_before_anything_is_sent() {
    let stage = Stage::new();
    for (url, why) in
        [("ftp://a:1", "only http and https"), ("http://no-such-host.invalid:1", "cannot be looked up")]
    {
        let metrics = format!("metrics: {{type: prometheus, prometheus: {{url: \"{url}\"}}}}\n");
        let output = stage.command(&(CONFIG.to_owned() + &metrics), &[]).output().unwrap();
        let said = said(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("metrics.prometheus.url") && said.contains(why), "{said}");
        assert!(!stage.path("out/records.jsonl").exists());
    }
}

#[test]
fn a_prometheus_server_that_does_not_answer_costs_its_file_only_and_is_not_waited_for_after_a_signal() {
    let stage = Stage::new();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let metrics = format!(
        "metrics: {{type: prometheus, prometheus: {{url: \"http://{dead}\", scrape_interval: 900000}}}}\n"
    );
    let mut command = stage.command(&(CONFIG.to_owned() + &metrics), &[]);
    let mut run = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stderr.take().unwrap());
    let (mut said, mut line) = (String::new(), String::new());
    while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
        if line.contains("waiting") {
            let id = rustix::process::Pid::from_child(&run);
            rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
        }
        said += &std::mem::take(&mut line);
    }
    let output = run.wait_with_output().unwrap();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("stopped by hand: Prometheus may not have seen") && said.contains("refused"),
        "{said}"
    );
    assert!(run_support::said(&output.stdout).contains("Verdict: "));
}

#[test]
fn they_are_asked_of_a_prometheus_server() {
    let (url, asked) = prometheus();
    let stage = Stage::new();
    let metrics = format!(
        "metrics: {{type: prometheus, prometheus: {{url: \"{url}\", scrape_interval: 1, filters: [\"cluster='a'\"]}}}}\n"
    );
    stage.run(&(CONFIG.to_owned() + &metrics), &[]);
    let report = stage.report("stage_1_prometheus_metrics.json");
    assert_eq!(
        (&report["successes"]["count"], &report["benchmark_time_seconds"]),
        (&150.0.into(), &0.into())
    );
    assert!(
        report["successes"]["queue_len"]["mean"].is_null()
            && report["successes"]["kv_cache_usage_percentage"]["mean"].is_null()
    );
    assert!(stage.path("out/summary_prometheus_metrics.json").exists());
    let asked = asked.lock().unwrap();
    let queries = report::inference_perf::queries(
        report::inference_perf::MetricFamily::Vllm,
        "",
        std::time::Duration::ZERO,
    )
    .len();
    assert_eq!(asked.len(), 3 * queries, "each figure of the summary and of two stages");
    let model = format!("model_name%3D%27{MODEL}%27%2Ccluster%3D%27a%27");
    assert!(
        asked.iter().all(|path| path.starts_with("/api/v1/query?query=") && path.contains(&model)),
        "{:?}",
        asked[0]
    );
    // A stage of at least a second, the interval and the margin.
    let window = |path: &str| path.split("%5B").nth(1)?.split("s%5D").next()?.parse::<u64>().ok();
    assert!(asked.iter().all(|path| window(path) >= Some(4)), "{:?}", asked.last());
}
