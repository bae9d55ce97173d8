//! Sweeps against servers whose capacity is known by construction, and against one without a limit.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use engine::{Config, Profile};
use run_support::{MODEL, Stage, said};

const GUIDE: &str = include_str!("data/load_generation_guide/01_sweep.yaml");

/// An engine that runs so many sequences at a time, each for 30 steps of this length and no prefill: its capacity is
/// sequences / (30 steps).
fn limited(sequences: u32, step_s: f64) -> Stage {
    let profile = Profile {
        step_base_s: step_s,
        per_sequence_s: 0.0,
        per_context_token_s: 0.0,
        per_prefill_token_s: 0.0,
        max_num_seqs: sequences,
        ..Profile::l4()
    };
    Stage::with(Config::new(profile))
}

#[test]
fn a_sweep_finds_a_capacity_that_is_known() {
    // Answers are due at times of their own: a machine that is late with one is not late with those after it.
    let capacity = 160.0 / 3.0;
    let stage = Stage::new();
    let url = server_of(capacity, Duration::from_millis(600));
    let flags = ["--load.sweep.stage_duration", "1", "--load.sweep.num_stages", "2", "--load.interval", "0"];
    let server = ["--server.base_url", &url, "--server.model_name", MODEL, "--data.type", "mock"];
    let flags = [&flags[..], &server].concat();
    let mut output = stage.run(GUIDE, &flags);
    let sweep = || stage.report("summary_lifecycle_metrics.json")["sweep"].clone();
    let mut found = sweep();
    let disturbed = |found: &serde_json::Value| {
        found["probes"].as_array().unwrap().iter().any(|probe| probe["verdict"] == "disturbed")
    };
    // A machine that gives this side no time to send a hundred requests a second may do so later.
    for _ in 0..2 {
        if found["client_limited"] == true || disturbed(&found) {
            output = stage.run(GUIDE, &flags);
            found = sweep();
        }
    }
    let rate = found["requests_per_sec"].as_f64().unwrap();
    assert!((rate / capacity - 1.0).abs() < 0.05, "{rate} of {capacity}: {found}\n{}", said(&output.stderr));
    assert_eq!(found["client_limited"], false);
    let probes = found["probes"].as_array().unwrap();
    let past = probes.iter().filter(|probe| {
        probe["verdict"] == "falls behind" && probe["requested_rate"].as_f64() > Some(capacity)
    });
    assert!(past.count() >= 2, "it looks past the knee, twice: {found}");
    assert!(stage.path("out/stage_2_lifecycle_metrics.json").exists(), "one stage lies past the knee");
}

#[test]
fn inference_perfs_own_way_is_there_too() {
    let stage = limited(8, 0.005);
    stage.run(
        GUIDE,
        &[
            "--evenload.sweep",
            "compat",
            "--evenload.arrival",
            "compat",
            "--load.sweep.num_requests",
            "600",
            "--load.sweep.stage_duration",
            "1",
            "--load.sweep.num_stages",
            "2",
            "--load.interval",
            "0",
            "--load.sweep.type",
            "geometric",
        ],
    );
    let found = stage.report("summary_lifecycle_metrics.json")["sweep"].clone();
    assert_eq!(found["probes"][0]["verdict"], "drain rates", "{found}");
    let first = stage.report("stage_0_lifecycle_metrics.json")["load_summary"]["requested_rate"].clone();
    assert_eq!(first, 1.0);
}

/// Answers so many requests a second, each so long after it was taken up; takes them up as they come, one after the
/// other.
fn server_of(per_second: f64, time: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let apart = Duration::from_secs_f64(1.0 / per_second);
    let next = Arc::new(Mutex::new(Instant::now()));
    thread::spawn(move || {
        for socket in listener.incoming() {
            let (mut socket, next) = (socket.unwrap(), Arc::clone(&next));
            thread::spawn(move || {
                socket.set_nodelay(true).ok();
                let mut reader = BufReader::new(socket.try_clone().unwrap());
                loop {
                    let (mut line, mut length) = (String::new(), 0);
                    while reader.read_line(&mut line).is_ok_and(|read| read > 0) && line != "\r\n" {
                        if let Some(value) = line.strip_prefix("Content-Length: ") {
                            length = value.trim().parse().unwrap();
                        }
                        line.clear();
                    }
                    if line.is_empty() || reader.read_exact(&mut vec![0; length]).is_err() {
                        return;
                    }
                    let taken = {
                        let mut next = next.lock().unwrap();
                        let taken = Instant::now().max(*next);
                        *next = taken + apart;
                        taken
                    };
                    thread::sleep((taken + time).saturating_duration_since(Instant::now()));
                    let body = r#"{"choices":[{"text":"x"}],"usage":{"prompt_tokens":3,"completion_tokens":1},"data":[]}"#;
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    if socket.write_all((head + body).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

#[test]
fn a_server_without_a_limit_is_not_given_one() {
    let stage = Stage::new();
    let url = server_of(1e9, Duration::ZERO);
    let output = stage.run(
        GUIDE,
        &[
            "--server.base_url",
            &url,
            "--server.model_name",
            MODEL,
            "--load.worker_max_concurrency",
            "5000",
            "--load.sweep.stage_duration",
            "1",
            "--load.sweep.num_stages",
            "1",
            "--load.interval",
            "0",
            "--data.type",
            "mock",
        ],
    );
    let found = stage.report("summary_lifecycle_metrics.json")["sweep"].clone();
    assert_eq!(found["client_limited"], true, "{found}");
    assert!(said(&output.stderr).contains("client-limited"), "{}", said(&output.stderr));
}
