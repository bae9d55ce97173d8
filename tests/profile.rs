//! `evenload profile` as its users run it: the built binary against simulated engines and misbehaving servers, with
//! files on disk. AIPerf's flags and files are checked against lists of its version 0.13.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, SystemTime},
};

use engine::{Config, Fleet, Profile};
use serde_json::Value;
use tempfile::TempDir;

/// Engines, and a place for files.
struct Stage {
    engines: Fleet,
    directory: TempDir,
}

impl Stage {
    fn new(replicas: u16) -> Self {
        let config = Config {
            replicas,
            speedup: 1000.0,
            model_names: vec!["llama".to_owned(), "other".to_owned()],
            ..Config::new(Profile::l4())
        };
        Self { engines: engine::serve(config).unwrap(), directory: tempfile::tempdir().unwrap() }
    }

    fn urls(&self) -> Vec<String> {
        self.engines.addresses().iter().map(|address| format!("http://{address}")).collect()
    }

    /// The command with these URLs and flags; its files go to `out`.
    fn command(&self, urls: &[String], flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
        command.args([
            "profile",
            "--model",
            "llama",
            "--output-artifact-dir",
            "out",
            "--osl",
            "4",
            "--random-seed",
            "7",
        ]);
        for url in urls {
            command.args(["--url", url]);
        }
        command.args(flags).current_dir(&self.directory);
        command
    }

    fn output(&self, flags: &[&str]) -> Output {
        self.command(&self.urls(), flags).output().unwrap()
    }

    /// What a good run prints.
    #[track_caller]
    fn run(&self, flags: &[&str]) -> String {
        let output = self.output(flags);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("out").join(name)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("profile_export_aiperf.json")).unwrap()).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("profile_export.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A server that does this with each request, after it has read it.
fn server(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for socket in listener.incoming() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                let mut socket = socket.unwrap();
                let mut buffer = [0; 64 << 10];
                while socket.read(&mut buffer).is_ok_and(|count| count > 0) {
                    answer(&mut socket);
                }
            });
        }
    });
    url
}

const STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const TOKEN: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";

fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// The flags of AIPerf 0.13, all names of one a line.
const AIPERF_FLAGS: &str = include_str!("data/aiperf-0.13-flags.txt");

/// The long flags in the help.
fn shown_flags() -> BTreeSet<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_evenload")).args(["profile", "--help"]).output().unwrap();
    let help = text(&help.stdout);
    let words = help.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '-'));
    words.filter(|word| word.starts_with("--")).map(ToOwned::to_owned).collect()
}

#[test]
fn every_flag_of_aiperf_is_in_the_help_by_all_its_names_or_refused_by_name() {
    let (stage, shown) = (Stage::new(1), shown_flags());
    assert_eq!(AIPERF_FLAGS.lines().count(), 264);
    let mut supported = 0;
    for line in AIPERF_FLAGS.lines() {
        let names: Vec<&str> = line.split(' ').collect();
        if shown.contains(names[0]) {
            supported += 1;
            for alias in names.iter().filter(|name| name.starts_with("--")) {
                assert!(shown.contains(*alias), "{alias} is not in the help beside {}", names[0]);
            }
            continue;
        }
        for name in names {
            let output = stage.output(&[name]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{name}: {said}");
            let first = said.lines().next().unwrap();
            assert!(
                first.starts_with("error: --")
                    && first.contains(" is not supported: ")
                    && said.trim_end().lines().count() == 1,
                "{name}: {said}"
            );
        }
    }
    assert!(supported >= 120, "{supported}");
}

#[test]
fn several_urls_share_the_load_and_every_output_says_how() {
    let stage = Stage::new(2);
    let console = stage.run(&["--streaming", "--concurrency", "10", "--request-count", "100"]);
    for part in [
        "evenload profile | LLM Metrics",
        "Time to First Token (ms)",
        "Request Throughput (requests/sec)",
        "evenload profile | URLs",
        "Requests: max/mean 1.00, CV 0.000, Jain 1.000",
        "JSON Export: out/profile_export_aiperf.json",
        "Verdict: ",
    ] {
        assert!(console.contains(part), "{part}\n{console}");
    }
    let json = stage.json();
    assert_eq!(json["request_count"]["avg"], 100.0);
    assert_eq!(json["time_to_first_token"]["count"], 100);
    assert_eq!(json["output_sequence_length"]["p50"], 4.0);
    let targets = json["by_url"]["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 2);
    for (target, url) in targets.iter().zip(stage.urls()) {
        assert_eq!((&target["url"], &target["request_count"]["avg"]), (&url.into(), &50.0.into()));
        assert!(target["time_to_first_token"]["p99"].as_f64().unwrap() > 0.0);
    }
    let lines = stage.lines();
    assert_eq!(lines.len(), 100);
    let at = |url: usize| lines.iter().filter(|line| line["metadata"]["url_index"] == url).count();
    assert_eq!((at(0), at(1)), (50, 50));
    assert!(lines.iter().all(|line| line["metrics"]["time_to_first_token"]["value"].as_f64().unwrap() > 0.0));
    let csv = fs::read_to_string(stage.path("profile_export_aiperf.csv")).unwrap();
    assert!(csv.starts_with("Metric,avg,min,max,sum,p1,p5,p10,p25,p50,p75,p90,p95,p99,std\r\n"));
    assert!(csv.contains("URL,Requests,Errors,Share (%)"));
    assert!(fs::read_to_string(stage.path("report.html")).unwrap().contains("Engines"));
    let metrics: Value =
        serde_json::from_slice(&fs::read(stage.path("server_metrics_export.json")).unwrap()).unwrap();
    let generated = |url: &str| {
        let series = metrics["metrics"]["vllm:generation_tokens"]["series"].as_array().unwrap();
        let own =
            series.iter().find(|series| series["endpoint_url"] == format!("{url}/metrics").as_str()).unwrap();
        own["stats"]["total"].as_f64().unwrap().round()
    };
    assert_eq!(stage.urls().iter().map(|url| generated(url)).collect::<Vec<_>>(), [200.0, 200.0]);
}

#[test]
fn without_streaming_the_console_says_what_is_missing() {
    let stage = Stage::new(1);
    let console = stage.run(&["--request-rate", "200", "--request-count", "20"]);
    assert!(!console.contains("Time to First Token (ms)"));
    assert!(console.contains("add --streaming to measure them"), "{console}");
    let output = stage.output(&["--fail-if", "p99 ttft > 5ms"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("only with --streaming"));
}

#[test]
fn every_policy_of_the_balancer_is_a_strategy() {
    let stage = Stage::new(3);
    for policy in
        ["random", "least_requests", "least-tokens", "least_queue", "prefix_hash", "session", "prefix_aware"]
    {
        let flags = ["--streaming", "--concurrency", "6", "--request-count", "60", "--url-strategy", policy];
        stage.run(&flags);
        let json = stage.json();
        assert_eq!(json["request_count"]["avg"], 60.0, "{policy}");
        assert_eq!(json["evenload"]["url_strategy"], policy.replace('-', "_"));
        let counts = json["by_url"]["targets"].as_array().unwrap().iter();
        let counts: Vec<f64> =
            counts.map(|target| target["request_count"]["avg"].as_f64().unwrap()).collect();
        assert_eq!(counts.iter().sum::<f64>(), 60.0, "{policy}");
    }
    let output = stage.output(&["--url-strategy", "fastest"]);
    assert!(text(&output.stderr).contains("unknown policy `fastest`"), "{output:?}");
}

#[test]
fn turns_stay_on_their_url() {
    let stage = Stage::new(2);
    for strategy in ["round_robin", "random", "least_requests"] {
        let flags = [
            "--streaming",
            "--conversation-num=8",
            "--conversation-turn-mean=3",
            "--concurrency=4",
            "--connection-reuse-strategy=sticky-user-sessions",
            "--url-strategy",
            strategy,
        ];
        stage.run(&flags);
        let lines = stage.lines();
        assert_eq!(lines.len(), 24);
        for session in 0..8 {
            let own = lines.iter().filter(|line| line["metadata"]["session_num"] == session);
            let urls: BTreeSet<u64> =
                own.map(|line| line["metadata"]["url_index"].as_u64().unwrap()).collect();
            assert_eq!(urls.len(), 1, "{strategy}: session {session} moved");
        }
    }
}

#[test]
fn a_warm_up_is_recorded_and_left_out() {
    let stage = Stage::new(1);
    stage.run(&["--streaming", "--concurrency=4", "--request-count=12", "--warmup-request-count=5"]);
    let json = stage.json();
    assert_eq!(
        (&json["request_count"]["avg"], &json["warmup_metrics"]["request_count"]["avg"]),
        (&12.0.into(), &5.0.into())
    );
    let lines = stage.lines();
    let warm = lines.iter().filter(|line| line["metadata"]["benchmark_phase"] == "warmup").count();
    assert_eq!((lines.len(), warm), (17, 5));
    let sessions = |phase: &str| -> BTreeSet<u64> {
        let own = lines.iter().filter(|line| line["metadata"]["benchmark_phase"] == phase);
        own.map(|line| line["metadata"]["session_num"].as_u64().unwrap()).collect()
    };
    assert_eq!((sessions("warmup"), sessions("profiling")), ((0..5).collect(), (0..12).collect()));
    // What the server counted is that of each phase, whole and alone.
    let metrics: Value =
        serde_json::from_slice(&fs::read(stage.path("server_metrics_export.json")).unwrap()).unwrap();
    let counted = |metrics: &Value| {
        let stats = |name: &str| metrics[name]["series"][0]["stats"].clone();
        (
            stats("vllm:generation_tokens")["total"].clone(),
            stats("vllm:e2e_request_latency_seconds")["count"].clone(),
        )
    };
    assert_eq!(counted(&metrics["metrics"]), (48.0.into(), 12.into()));
    assert_eq!(counted(&metrics["warmup_metrics"]), (20.0.into(), 5.into()));
    stage.run(&["--streaming", "--request-count=3", "--warmup-request-count=0"]);
    assert!(stage.json().get("warmup_metrics").is_none());
}

#[test]
fn times_of_day_are_those_at_which_it_happened() {
    let stage = Stage::new(1);
    let answered = Arc::new(OnceLock::new());
    let first = Arc::clone(&answered);
    let pages = server(move |socket| {
        thread::sleep(Duration::from_millis(300));
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        first.get_or_init(|| u64::try_from(since.as_nanos()).unwrap());
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nqueue 1\n");
    });
    stage.run(&["--request-count=3", "--slice-duration=1", "--server-metrics", &pages]);
    let read = *answered.get().unwrap();
    let first = stage.lines().iter().map(|line| line["metadata"]["request_start_ns"].as_u64()).min();
    let first = first.unwrap().unwrap();
    assert!(first >= read, "sent {} us before the pages were read", (read - first) / 1000);
    let slices = fs::read(stage.path("profile_export_aiperf_timeslices.json")).unwrap();
    let slices: Value = serde_json::from_slice(&slices).unwrap();
    assert_eq!(slices["timeslices"][0]["start_ns"], first, "one origin for all files");
}

#[test]
fn arrivals_come_as_they_are_asked_for() {
    let stage = Stage::new(1);
    fs::write(
        stage.directory.path().join("series.json"),
        r#"[{"time_s": 0, "qps": 50}, {"time_s": 0.5, "qps": 400}]"#,
    )
    .unwrap();
    let trace: String = (0..20)
        .map(|row| {
            format!(
                "{{\"timestamp\": {}, \"input_length\": 64, \"output_length\": 3, \"hash_ids\": [1]}}\n",
                row * 10
            )
        })
        .collect();
    fs::write(stage.directory.path().join("trace.jsonl"), trace).unwrap();
    for (flags, requests) in [
        (&["--request-rate=400", "--arrival-pattern=constant", "--request-count=40"][..], 40.0),
        (
            &[
                "--request-rate=400",
                "--arrival-pattern=gamma",
                "--arrival-smoothness=0.5",
                "--request-count=40",
            ],
            40.0,
        ),
        (
            &[
                "--request-rate=400",
                "--concurrency=3",
                "--request-count=40",
                "--request-rate-ramp-duration=0.1",
            ],
            40.0,
        ),
        (&["--request-rate-series=series.json", "--request-count=40"], 40.0),
        (&["--concurrency=8", "--concurrency-ramp-duration=0.2", "--request-count=40"], 40.0),
        (&["--streaming", "--concurrency=8", "--prefill-concurrency=2", "--request-count=40"], 40.0),
        (&["--arrival-pattern=concurrency_burst", "--concurrency=5", "--request-count=25"], 25.0),
        (
            &[
                "--user-centric-rate=200",
                "--num-users=10",
                "--conversation-turn-mean=4",
                "--request-count=40",
            ],
            40.0,
        ),
        (&["--input-file=trace.jsonl"], 20.0),
        (
            &[
                "--input-file=trace.jsonl",
                "--fixed-schedule-start-offset=50",
                "--fixed-schedule-end-offset=99",
            ],
            5.0,
        ),
        (&["--input-file=trace.jsonl", "--no-fixed-schedule", "--concurrency=2", "--request-count=7"], 7.0),
    ] {
        // A trace brings its own lengths.
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
        command
            .args(["profile", "-m", "llama", "--artifact-dir", "out", "--ui", "none", "-u"])
            .args(stage.urls());
        if !flags[0].starts_with("--input-file") {
            command.args(["--osl", "4"]);
        }
        let output = command.args(flags).current_dir(&stage.directory).output().unwrap();
        assert!(output.status.success(), "{flags:?}: {output:?}");
        let json = stage.json();
        assert_eq!(json["request_count"]["avg"], requests, "{flags:?}");
        assert_eq!(
            json.get("replay_sched_lag_p99").is_some(),
            flags.len() < 4 && flags[0].starts_with("--input") && requests != 7.0,
            "{flags:?}"
        );
    }
}

#[test]
fn cancelled_requests_are_failures_with_their_own_code() {
    let stage = Stage::new(1);
    let slow = server(|_| thread::sleep(Duration::from_secs(30)));
    let flags = [
        "--request-cancellation-rate=100",
        "--request-cancellation-delay=0.05",
        "--request-count=4",
        "--concurrency=4",
    ];
    let output = stage.command(&[slow], &flags).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "nothing was answered");
    let json = stage.json();
    let error = &json["error_summary"][0];
    assert_eq!(
        (&error["error_details"]["type"], &error["error_details"]["code"]),
        (&"RequestCancellationError".into(), &499.into())
    );
    assert_eq!(error["count"], 4);
}

#[test]
fn a_dead_url_fails_its_own_requests_and_the_rest_go_on() {
    let stage = Stage::new(2);
    let dead = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let mut urls = stage.urls();
    urls.push(dead.clone());
    let output =
        stage.command(&urls, &["--streaming", "--request-rate=300", "--request-count=60"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let console = text(&output.stdout);
    assert!(console.contains("Error Summary") && console.contains("20 of 60 requests failed"), "{console}");
    let line = format!("evenload: {dead}: 20 of 20 requests failed: ");
    assert!(text(&output.stderr).contains(&line), "{output:?}");
    let json = stage.json();
    assert_eq!(
        (&json["request_count"]["avg"], &json["error_request_count"]["avg"]),
        (&40.0.into(), &20.0.into())
    );
    assert_eq!(json["by_url"]["targets"][2]["error_request_count"]["avg"], 20.0);
    assert_eq!(json["by_url"]["targets"][0].get("error_request_count"), None);
    let failed = stage.lines().into_iter().filter(|line| line.get("error").is_some());
    assert!(failed.clone().all(|line| line["metadata"]["url"] == dead.as_str()));
    assert_eq!(failed.count(), 20);
    // The balancer's policies keep away from it after some failures.
    stage
        .command(
            &urls,
            &["--streaming", "--concurrency=4", "--request-count=120", "--url-strategy=least_requests"],
        )
        .output()
        .unwrap();
    let failed = stage.json()["error_request_count"]["avg"].as_f64().unwrap();
    assert!((1.0..40.0).contains(&failed), "{failed}");
    let mostly = [dead.clone(), dead.clone(), stage.urls()[0].clone()];
    let output = stage.command(&mostly, &["--request-rate=300", "--request-count=30"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("more than half of the requests failed"), "{output:?}");
    let output = stage
        .command(&urls, &["--request-rate=300", "--request-count=60", "--failed-request-threshold=0.1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stage.json()["is_complete"], false);
    assert!(text(&output.stderr).contains("--failed-request-threshold"));
}

#[test]
fn misbehaving_servers_are_named_and_nothing_hangs() {
    let stage = Stage::new(1);
    let answer = |bytes: String| {
        server(move |socket| {
            let _ = socket.write_all(bytes.as_bytes());
            let _ = socket.shutdown(std::net::Shutdown::Both);
        })
    };
    let busy =
        "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 29\r\n\r\n{\"error\":{\"message\":\"busy\"}} "
            .to_owned();
    for (url, kind, code) in [
        (answer(STREAM.to_owned() + &chunk(TOKEN)), "ClientPayloadError", None),
        (answer(busy), "HTTPError", Some(429)),
        (
            answer(
                STREAM.to_owned() + &chunk("data: {\"id\":\n\n") + &chunk("data: [DONE]\n\n") + "0\r\n\r\n",
            ),
            "InvalidInferenceResultError",
            None,
        ),
        (
            answer(STREAM.to_owned() + &chunk("data: [DONE]\n\n") + "0\r\n\r\n"),
            "InvalidInferenceResultError",
            None,
        ),
        (
            answer(STREAM.to_owned() + &chunk("data: {\"error\":{\"message\":\"died\",\"code\":500}}\n\n")),
            "SSEResponseError",
            None,
        ),
        (server(|_| thread::sleep(Duration::from_secs(60))), "TimeoutError", None),
    ] {
        let urls = [stage.urls()[0].clone(), url];
        let flags = [
            "--streaming",
            "--concurrency=4",
            "--request-count=12",
            "--request-timeout-seconds=1",
            "--no-server-metrics",
        ];
        let output = stage.command(&urls, &flags).output().unwrap();
        assert!(output.status.success(), "{kind}: {output:?}");
        let json = stage.json();
        assert_eq!(
            (&json["request_count"]["avg"], &json["error_request_count"]["avg"]),
            (&6.0.into(), &6.0.into()),
            "{kind}"
        );
        let details = &json["error_summary"][0]["error_details"];
        assert_eq!(details["type"], kind, "{details}");
        assert_eq!(details.get("code").and_then(Value::as_u64), code);
    }
}

#[test]
fn a_full_disk_costs_lines_and_not_figures() {
    let stage = Stage::new(1);
    fs::create_dir_all(stage.path("")).unwrap();
    symlink("/dev/full", stage.path("profile_export.jsonl")).unwrap();
    let output = stage.output(&["--streaming", "--concurrency=8", "--request-count=200"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("No space left on device")
            && said.contains("the figures above are those of all requests"),
        "{said}"
    );
    assert!(text(&output.stdout).contains("evenload profile | LLM Metrics"));
    assert_eq!(stage.json()["request_count"]["avg"], 200.0);
    fs::remove_file(stage.path("profile_export.jsonl")).unwrap();
    fs::remove_file(stage.path("profile_export_aiperf.json")).unwrap();
    symlink("/dev/full", stage.path("profile_export_aiperf.json")).unwrap();
    let output = stage.output(&["--streaming", "--request-count=5"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stage.lines().len(), 5);
    let (said, printed) = (text(&output.stderr), text(&output.stdout));
    assert!(said.contains("not written: profile_export_aiperf.json\n"), "{said}");
    assert!(!printed.contains("JSON Export") && printed.contains("CSV Export"), "{printed}");
}

#[test]
fn limits_and_the_verdict_become_the_exit_status() {
    let stage = Stage::new(1);
    let run = |more: &[&str]| {
        let flags: Vec<&str> =
            ["--streaming", "--concurrency=4", "--request-count=40"].iter().chain(more).copied().collect();
        stage.output(&flags)
    };
    let output = run(&["--fail-if", "p99 ttft > 60s", "--fail-if", "error_rate > 0%"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = run(&["--fail-if", "goodput < 1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("say with --goodput which answers are good"), "{output:?}");
    let output = run(&["--fail-if", "request_throughput > 0"]);
    let printed = stage.json();
    let said = printed["evenload"]["limits_broken"][0].as_str().unwrap();
    let figure = format!("(it is {:.2} req/s)", printed["request_throughput"]["avg"].as_f64().unwrap());
    assert!(output.status.code() == Some(3) && said.ends_with(&figure), "the figure of the table: {said}");
    let output = run(&["--fail-if", "p50 ttft > 1us"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("--fail-if p50 ttft > 1us (it is "), "{output:?}");
    assert!(stage.json()["evenload"]["limits_broken"][0].as_str().unwrap().starts_with("p50 ttft > 1us"));
    // Ten requests say too little about anything.
    let output = stage.output(&["--streaming", "--concurrency=2", "--request-count=10", "--strict"]);
    assert!(matches!(output.status.code(), Some(4 | 5)), "{output:?}");
    let wrong = run(&["--fail-if", "p99 speed > 1"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("unknown metric"));
    let output =
        run(&["--goodput", "time_to_first_token:60000 request_latency:60000", "--slice-duration=0.5"]);
    assert!(output.status.success());
    assert_eq!(stage.json()["good_request_count"]["avg"], 40.0);
    let slices: Value =
        serde_json::from_slice(&fs::read(stage.path("profile_export_aiperf_timeslices.json")).unwrap())
            .unwrap();
    assert!(!slices["timeslices"].as_array().unwrap().is_empty());
}

/// Starts a long run, and interrupts it once some requests are answered.
fn interrupted(url: String, times: usize) -> (Stage, Output) {
    let stage = Stage::new(1);
    let flags = [
        "--streaming",
        "--request-rate=100",
        "--request-count=100000",
        "--stats-interval=0.2",
        "--no-server-metrics",
    ];
    let urls = [stage.urls()[0].clone(), url];
    let mut child =
        stage.command(&urls, &flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let answered = |line: &str| line.contains("Profiling: ") && !line.contains("Profiling: 0/");
    assert!(lines.by_ref().any(|line| answered(&line.unwrap())), "it ended before it began");
    for _ in 0..times {
        let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert!(
            lines.by_ref().any(|line| line.unwrap().starts_with("evenload: ")),
            "no word about the signal"
        );
    }
    let drain = thread::spawn(move || lines.for_each(drop));
    let output = child.wait_with_output().unwrap();
    drain.join().unwrap();
    (stage, output)
}

#[test]
fn one_interrupt_leaves_a_partial_report() {
    let other = Stage::new(1);
    let (stage, output) = interrupted(other.urls()[0].clone(), 1);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let console = text(&output.stdout);
    assert!(console.starts_with("PARTIAL RESULTS: the run ended early, after "), "{console}");
    let json = stage.json();
    assert_eq!((&json["was_cancelled"], &json["is_complete"]), (&true.into(), &false.into()));
    let answered = json["request_count"]["avg"].as_f64().unwrap();
    assert!((1.0..100_000.0).contains(&answered));
    assert_eq!(stage.lines().len() as f64, answered, "every answer has its line");
}

#[test]
fn two_interrupts_cut_off_what_never_ends() {
    let silent = server(|_| thread::sleep(Duration::from_secs(600)));
    let (stage, output) = interrupted(silent, 2);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let json = stage.json();
    assert!(json["request_count"]["avg"].as_f64().unwrap() >= 1.0);
    assert_eq!(json["error_summary"], serde_json::json!([]), "cut off is not failed");
    assert!(json["evenload"]["cut_off_request_count"].as_u64().unwrap() >= 1);
    let console = text(&output.stdout);
    assert!(console.contains(" requests were cut off at the end of the run: "), "{console}");
}

#[test]
fn what_is_cut_off_at_the_end_has_not_failed() {
    let stage = Stage::new(1);
    // One in two requests never ends.
    let urls = [stage.urls()[0].clone(), server(|_| thread::sleep(Duration::from_secs(600)))];
    let flags = [
        "--streaming",
        "--request-rate=40",
        "--arrival-pattern=constant",
        "--benchmark-duration=1",
        "--benchmark-grace-period=1",
        "--no-server-metrics",
        "--goodput=request_latency:60000",
        "--fail-if=error_rate > 0%",
        "--failed-request-threshold=0.1",
    ];
    let output = stage.command(&urls, &flags).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json = stage.json();
    let figure = |name: &str| json[name]["avg"].as_f64();
    let answered = figure("request_count").unwrap();
    assert_eq!(figure("request_error_rate"), Some(0.0));
    assert_eq!((figure("completed_request_count"), figure("error_request_count")), (Some(answered), None));
    assert_eq!(figure("good_request_fraction"), Some(1.0));
    assert!(json.get("adj_request_latency").is_none());
    assert_eq!(stage.lines().len() as f64, answered);
    assert_eq!(answered + json["evenload"]["cut_off_request_count"].as_f64().unwrap(), 40.0);
    let warnings = json["evenload"]["assessment"]["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|warning| warning["kind"] == "cut_off"), "{warnings:?}");
}

/// The figures of a run of four seconds in which the client stood still for one.
fn stopped_for_a_second(flags: &[&str]) -> Value {
    let stage = Stage::new(1);
    let mut command = stage.command(&stage.urls(), flags);
    command.args(["--streaming", "--benchmark-duration=4", "--stats-interval=0.2", "--no-server-metrics"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let answered = |line: String| line.contains("Profiling: ") && !line.contains("Profiling: 0 ");
    assert!(lines.by_ref().any(answered), "it ended before it began");
    let signal = |name: &str| Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(signal("-STOP").success());
    thread::sleep(Duration::from_secs(1));
    assert!(signal("-CONT").success());
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
    stage.json()["evenload"].clone()
}

fn warning(ours: &Value, kind: &str) -> Option<String> {
    let warnings = ours["assessment"]["warnings"].as_array().unwrap();
    let found = warnings.iter().find(|warning| warning["kind"] == kind)?;
    Some(found["message"].as_str().unwrap().to_owned())
}

#[test]
fn a_pause_of_the_client_is_not_the_servers() {
    let ours = stopped_for_a_second(&["--concurrency=2"]);
    // How much of the run it touches depends on how many requests there were beside the two.
    assert!(warning(&ours, "stood_still").is_some(), "{ours}");
    // An appointment every 10 ms may be missed by so much less.
    assert!(ours["client"]["stalls"]["longest_ms"].as_f64().unwrap() >= 980.0, "{ours}");
}

#[test]
fn advice_names_the_flags_of_the_run() {
    let ours = stopped_for_a_second(&["--user-centric-rate=50", "--num-users=5"]);
    assert_ne!(
        ours["assessment"]["verdict"], "VALID",
        "a quarter of the requests fell due meanwhile: {ours}"
    );
    let late = warning(&ours, "late").unwrap_or_else(|| panic!("{ours}"));
    assert!(late.contains("--user-centric-rate") && !late.contains("--request-rate"), "{late}");
    let few = warning(&ours, "too_few_samples").unwrap_or_else(|| panic!("{ours}"));
    assert!(few.contains("Raise --benchmark-duration"), "{few}");
}

#[test]
fn a_trace_is_made_longer_in_its_file() {
    let stage = Stage::new(1);
    let line = |at: u32| format!("{{\"timestamp\": {at}, \"input_length\": 20, \"output_length\": 4}}\n");
    fs::write(stage.directory.path().join("trace.jsonl"), [0, 10, 20].map(line).concat()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
    command.args(["profile", "-m", "llama", "--artifact-dir", "out", "-u"]).args(stage.urls());
    command.args(["--input-file=trace.jsonl", "--custom-dataset-type=mooncake_trace", "--fixed-schedule"]);
    let output = command.current_dir(&stage.directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let few = warning(&stage.json()["evenload"], "too_few_samples").unwrap();
    assert!(few.contains("Raise the number of requests in --input-file"), "{few}");
}

#[test]
fn reasoning_is_told_apart_from_the_answer() {
    let stage = Stage::new(1);
    let thought = TOKEN.replace("content", "reasoning_content");
    let events =
        format!("{}{}{}", chunk(&thought).repeat(3), chunk(TOKEN).repeat(4), chunk("data: [DONE]\n\n"));
    let url = server(move |socket| {
        let _ = socket.write_all(format!("{STREAM}{events}0\r\n\r\n").as_bytes());
    });
    let flags = ["--streaming", "--request-count=2", "--no-server-metrics"];
    let output = stage.command(&[url], &flags).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let json = stage.json();
    let figures = ["output_sequence_length", "output_token_count", "reasoning_token_count"];
    assert_eq!(figures.map(|tag| json[tag]["avg"].as_f64()), [Some(7.0), Some(4.0), Some(3.0)]);
    assert_eq!(json["total_reasoning_tokens"]["avg"], 6.0);
}

#[test]
fn an_interrupted_warm_up_begins_nothing() {
    let stage = Stage::new(1);
    let flags =
        ["--request-rate=50", "--warmup-request-count=100000", "--request-count=5", "--stats-interval=0.2"];
    let mut child =
        stage.command(&stage.urls(), &flags).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.by_ref().any(|line| line.contains("Warmup: ")), "it ended before it began");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("PROFILING") || line.contains("Profiling")), "{rest:?}");
}

#[test]
fn lists_of_values_and_repetitions_are_runs_of_their_own() {
    let stage = Stage::new(1);
    let console =
        stage.run(&["--streaming", "--concurrency=1,4", "--request-count=20", "--num-profile-runs=2"]);
    assert!(
        console.contains("evenload profile | Settings") && console.contains("concurrency=4"),
        "{console}"
    );
    for run in [
        "concurrency=1/run_0001",
        "concurrency=1/run_0002",
        "concurrency=4/run_0001",
        "concurrency=4/run_0002",
    ] {
        assert!(stage.path(run).join("profile_export_aiperf.json").exists(), "{run}");
    }
    let sweep: Value = serde_json::from_slice(&fs::read(stage.path("sweep.json")).unwrap()).unwrap();
    assert_eq!((sweep["settings"].as_array().unwrap().len(), &sweep["settings"][1]["runs"]), (2, &2.into()));
    assert!(sweep["settings"][0]["figures"]["TTFT p50 (ms)"]["interval_half_width"].as_f64().is_some());
    let throughput = |run: &str| -> f64 {
        let file = fs::read(stage.path(run).join("profile_export_aiperf.json")).unwrap();
        let json: Value = serde_json::from_slice(&file).unwrap();
        json["request_throughput"]["avg"].as_f64().unwrap()
    };
    let mean = (throughput("concurrency=1/run_0001") + throughput("concurrency=1/run_0002")) / 2.0;
    let shown = sweep["settings"][0]["figures"]["requests/s"]["mean"].as_f64().unwrap();
    assert!((shown / mean - 1.0).abs() < 1e-9, "the runs' own figure, {mean}, and not {shown}");
}

/// Bodies in the order of the plan, and send times of the schedule since the first.
fn sent(stage: &Stage, threads: &str) -> Vec<(u64, u64, Value)> {
    let flags = [
        "--streaming",
        "--request-rate=400",
        "--request-count=60",
        "--isl=40",
        "--isl-stddev=10",
        "--export-level=raw",
        "--workers-max",
        threads,
    ];
    stage.run(&flags);
    let raw = fs::read_to_string(stage.path("profile_export_raw.jsonl")).unwrap();
    let raw: Vec<Value> = raw.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines = stage.lines();
    let first = lines.iter().map(|line| line["metadata"]["scheduled_ns"].as_u64().unwrap()).min().unwrap();
    let mut all: Vec<(u64, u64, Value)> = lines
        .iter()
        .map(|line| {
            let session = line["metadata"]["session_num"].as_u64().unwrap();
            let of = |line: &&Value| {
                line["metadata"]["conversation_id"] == format!("session_{session:06}").as_str()
            };
            let body = raw.iter().find(of).unwrap()["payload"].clone();
            (session, line["metadata"]["scheduled_ns"].as_u64().unwrap() - first, body)
        })
        .collect();
    all.sort_by_key(|(session, ..)| *session);
    all
}

#[test]
fn one_seed_sends_the_same_at_the_same_times_from_any_number_of_threads() {
    let stage = Stage::new(1);
    let one = sent(&stage, "1");
    assert_eq!(one.len(), 60);
    assert!(one.iter().all(|(_, _, body)| body["model"] == "llama" && body["stream"] == true));
    assert_eq!(one, sent(&stage, "2"));
    assert_eq!(one, sent(&stage, "8"));
    let different: BTreeSet<String> = one.iter().map(|(_, _, body)| body.to_string()).collect();
    assert_eq!(different.len(), 60, "every prompt is sent once");
}

#[test]
fn a_local_tokenizer_counts_beside_the_server() {
    let stage = Stage::new(1);
    // Every byte is a token.
    let letters: serde_json::Map<String, Value> = (33_u8..127)
        .map(|byte| (char::from(byte).to_string(), Value::from(byte)))
        .chain([("\u{120}".to_owned(), 200.into())])
        .collect();
    let model = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "vocab": letters, "merges": []},
    });
    fs::write(stage.directory.path().join("tokenizer.json"), model.to_string()).unwrap();
    stage.run(&["--streaming", "--request-count=4", "--isl=16", "--tokenizer=tokenizer.json"]);
    let json = stage.json();
    // 64 bytes where the server counts the template's words too; an answer of 4 tokens has about 16 bytes.
    assert!(json["usage_prompt_tokens_diff_pct"]["avg"].as_f64().unwrap() > 10.0);
    assert!(json["usage_completion_tokens_diff_pct"]["avg"].as_f64().unwrap() > 50.0);
    assert_eq!(json["usage_discrepancy_count"]["avg"], 4.0);
    assert_eq!(json["output_sequence_length"]["avg"], 4.0, "the server's count is the one that counts");
    stage.run(&[
        "--streaming",
        "--request-count=4",
        "--tokenizer=tokenizer.json",
        "--use-server-token-count",
    ]);
    assert!(stage.json().get("usage_completion_tokens_diff_pct").is_none());
}

#[test]
fn the_inputs_can_be_sent_again() {
    let stage = Stage::new(1);
    let flags = [
        "--request-rate=400",
        "--conversation-num=5",
        "--conversation-turn-mean=2",
        "--warmup-request-count=3",
    ];
    stage.run(&flags);
    let sessions: BTreeSet<String> = stage
        .lines()
        .iter()
        .filter(|line| line["metadata"]["benchmark_phase"] == "profiling")
        .map(|line| line["metadata"]["conversation_id"].as_str().unwrap().to_owned())
        .collect();
    let inputs: Value = serde_json::from_slice(&fs::read(stage.path("inputs.json")).unwrap()).unwrap();
    let data = inputs["data"].as_array().unwrap();
    let named: BTreeSet<String> =
        data.iter().map(|session| session["session_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        (named, data.len()),
        (sessions, 5),
        "the sessions of the measured phase, by the names of their records"
    );
    assert!(data.iter().all(|session| session["payloads"].as_array().unwrap().len() == 2), "{inputs}");
    assert_eq!(data[0]["payloads"][1]["messages"].as_array().unwrap().len(), 1, "a turn alone");
    fs::copy(stage.path("inputs.json"), stage.directory.path().join("again.json")).unwrap();
    let again = ["--endpoint-type=raw", "--custom-endpoint=/v1/chat/completions", "--input-file=again.json"];
    let output = Command::new(env!("CARGO_BIN_EXE_evenload"))
        .args(["profile", "--model=llama", "--output-artifact-dir=again", "--url", &stage.urls()[0]])
        .args(again)
        .current_dir(&stage.directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let ready = fs::read(stage.directory.path().join("again/.aiperf_results_ready.json")).unwrap();
    let ready: Value = serde_json::from_slice(&ready).unwrap();
    assert_eq!(ready, serde_json::json!({ "ready": true, "was_cancelled": false, "partial": false }));
}

#[test]
fn sessions_keep_the_names_that_the_file_gives_them() {
    let stage = Stage::new(1);
    let file = r#"{"session_id": "first", "turns": [{"text": "a"}, {"text": "b"}]}
        {"turns": [{"text": "c"}]}"#;
    fs::write(stage.directory.path().join("talks.jsonl"), file).unwrap();
    stage.run(&[
        "--streaming",
        "--input-file=talks.jsonl",
        "--custom-dataset-type=multi-turn",
        "--export-level=raw",
        "--export-outputs-json",
    ]);
    let names = |entries: &[Value], name: fn(&Value) -> &Value| -> Vec<String> {
        let mut names: Vec<String> =
            entries.iter().map(|entry| name(entry).as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let requests = ["first", "first", "session_000001"];
    assert_eq!(names(&stage.lines(), |line| &line["metadata"]["conversation_id"]), requests);
    let read = |name: &str| serde_json::from_slice::<Value>(&fs::read(stage.path(name)).unwrap()).unwrap();
    let (inputs, outputs) = (read("inputs.json"), read("outputs.json"));
    assert_eq!(names(inputs["data"].as_array().unwrap(), |entry| &entry["session_id"]), requests[1..]);
    let outputs = outputs["data"].as_array().unwrap();
    assert_eq!(names(outputs, |entry| &entry["conversation_id"]), requests);
    assert!(outputs.iter().all(|entry| !entry["response_text"].as_str().unwrap().is_empty()), "{outputs:?}");
    let raw = fs::read_to_string(stage.path("profile_export_raw.jsonl")).unwrap();
    for line in raw.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let responses = line["responses"].as_array().unwrap();
        assert_eq!(responses.last().unwrap()["packets"][0]["value"], "[DONE]");
        let times: Vec<u64> = responses.iter().map(|event| event["perf_ns"].as_u64().unwrap()).collect();
        assert!(times.is_sorted() && times[0] >= line["start_perf_ns"].as_u64().unwrap(), "{times:?}");
    }
}

#[test]
fn a_batch_of_texts_is_one_request() {
    let bodies = Arc::new(std::sync::Mutex::new(Vec::<Value>::new()));
    let seen = Arc::clone(&bodies);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for socket in listener.incoming() {
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                let mut reader = BufReader::new(socket.unwrap());
                loop {
                    let (mut length, mut line) = (0, String::new());
                    while reader.read_line(&mut line).unwrap() > 2 {
                        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                            length = value.trim().parse().unwrap();
                        }
                        line.clear();
                    }
                    if length == 0 {
                        return;
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    seen.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                    let answer = r#"{"data":[],"usage":{"prompt_tokens":30,"total_tokens":30}}"#;
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
                    reader.get_mut().write_all((head + answer).as_bytes()).unwrap();
                }
            });
        }
    });
    let stage = Stage::new(1);
    let flags =
        ["--endpoint-type=embeddings", "-b=3", "--isl=10", "--request-count=4", "--no-server-metrics"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
    command.args(["profile", "--model=llama", "--output-artifact-dir=out", "--url", &url]).args(flags);
    let output = command.current_dir(&stage.directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), 4);
    let texts: Vec<&Value> = bodies.iter().flat_map(|body| body["input"].as_array().unwrap()).collect();
    let different: BTreeSet<&str> = texts.iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!((texts.len(), different.len()), (12, 12), "three texts a request, each its own");
    assert_eq!(stage.json()["input_sequence_length"]["avg"], 30.0);
}

/// What stands between backquotes in a text.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn the_guide_names_flags_and_files_that_there_are() {
    let guide = include_str!("../docs/profile.md");
    let mut known = shown_flags();
    for command in ["calibrate", "serve"] {
        let help = Command::new(env!("CARGO_BIN_EXE_evenload")).args([command, "--help"]).output().unwrap();
        known.extend(text(&help.stdout).split_whitespace().map(|word| word.trim_end_matches(',').to_owned()));
    }
    let flags = quoted(guide).flat_map(str::split_whitespace).filter(|word| word.starts_with("--"));
    let unknown: Vec<&str> = flags.filter(|flag| !known.contains(*flag)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");

    let stage = Stage::new(1);
    stage.run(&[
        "--request-count=3",
        "--slice-duration=1",
        "--export-level=raw",
        "--export-outputs-json",
        "--server-metrics-formats=json,csv,jsonl",
    ]);
    let names = |directory: PathBuf| {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
    };
    let mut written: BTreeSet<String> = names(stage.path("")).filter(|name| name != "logs").collect();
    written.extend(names(stage.path("logs")).map(|name| format!("logs/{name}")));
    let (_, table) = guide.split_once("| file | content |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let mut named = BTreeSet::new();
    for row in table.lines().skip(2) {
        let mut stem = "";
        // `name.json`, `.csv` are two files of one name.
        for file in quoted(row.split('|').nth(1).unwrap()) {
            match file.strip_prefix('.').filter(|_| !stem.is_empty()) {
                Some(ending) => named.insert(format!("{stem}.{ending}")),
                None => {
                    stem = file.rsplit_once('.').unwrap().0;
                    named.insert(file.to_owned())
                }
            };
        }
    }
    assert_eq!(named, written);

    let (_, limits) = guide.split_once("`--fail-if 'p99 ttft > 500ms'`: ").unwrap();
    let (limits, _) = limits.split_once("\n\n").unwrap();
    let [statistics, metrics, numbers] =
        [0, 1, 2].map(|part| quoted(limits.split('(').nth(part + 1).unwrap().split(')').next().unwrap()));
    for limit in statistics
        .map(|statistic| format!("{statistic} ttft > 1"))
        .chain(metrics.map(|metric| format!("p50 {metric} > 1")))
        .chain(numbers.map(|number| format!("{number} < 0.5")))
    {
        let flags = ["--streaming", "--request-count=1", "--goodput=request_latency:1", "--fail-if", &limit];
        let output = stage.output(&flags);
        assert!(output.status.code() != Some(2), "{limit}: {output:?}");
    }
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let stage = Stage::new(1);
    for (flags, said) in [
        (&["--arrival-pattern=gamma"][..], "--arrival-pattern needs --request-rate"),
        (&["--arrival-pattern=concurrency-burst"], "needs --concurrency"),
        (&["--fixed-schedule"], "needs a trace"),
        (&["--warmup-concurrency=2"], "--warmup-concurrency needs --warmup-request-count"),
        (
            &["--warmup-request-count=2", "--warmup-grace-period=1"],
            "--warmup-grace-period counts from the end of --warmup-duration",
        ),
        (&["--per-chunk-usage"], "--per-chunk-usage needs --streaming"),
        (&["--endpoint-type=raw"], "give --input-file"),
        (&["--synthesis-max-isl=5"], "--synthesis-max-isl is for --input-file"),
        (&["--prompt-batch-size=2"], "--prompt-batch-size is for --endpoint-type embeddings"),
    ] {
        let output = stage.output(flags);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {message}");
        assert!(message.contains(said) && message.lines().count() == 1, "{flags:?}: {message}");
    }
    for (flags, said) in [
        (&["--isl=0"][..], "--prompt-input-tokens-mean"),
        (&["--url="], "--url: a URL is empty"),
        (&["--wait-for-model-timeout=1.8446744e19"], "give a number of seconds from 0 to 1e10"),
        (&["--num-profile-runs=2", "--profile-run-cooldown-seconds=1e19"], "seconds from 0 to 1e10"),
        (&["--reset-kv-cache", "--reset-kv-cache-timeout-seconds=1e19"], "seconds from 0 to 1e10"),
        (&["--request-rate=1e300"], "give a number above 0, at most 1e9"),
        (&["--url=ftp://x"], "ftp://x: only http and https URLs are supported"),
        (&["--url=h:99999"], "the port is not a number from 1 to 65535"),
        (
            &["--arrival-smoothness=2", "--request-rate=5", "--arrival-pattern=constant"],
            "is for --arrival-pattern",
        ),
    ] {
        let output = stage.output(flags);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {message}");
        assert!(message.contains(said) && !message.contains("evenload: :"), "{flags:?}: {message}");
    }
    fs::write(stage.directory.path().join("cut.jsonl"), "{\"text\": \"a\"}\n{\"text\": ").unwrap();
    let cut = stage.output(&["--input-file=cut.jsonl"]);
    assert_eq!(cut.status.code(), Some(1), "{cut:?}");
    let message = text(&cut.stderr);
    assert!(message.ends_with("cut.jsonl, line 2: EOF while parsing a value at column 8\n"), "{message}");
    for flags in [
        &["--isl=10", "--isl-stddev=3", "--random-range-ratio=0.5"][..],
        &["--isl-stddev=3", "--seq-dist=10,4:100"],
        &["--osl-stddev=3", "--isl=10", "--random-range-ratio=0.5"],
        &["--random-corpus-style=sglang"],
    ] {
        let output = stage.output(flags);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {output:?}");
    }
    let missing = stage.command(&stage.urls(), &["--input-file=missing.jsonl"]).output().unwrap();
    assert_eq!((missing.status.code(), text(&missing.stderr).lines().count()), (Some(1), 1), "{missing:?}");
    let output =
        stage.output(&["--request-count=3", "--wait-for-model-timeout=1", "--wait-for-model-mode=models"]);
    assert!(output.status.success(), "{output:?}");
    let dead = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let output = stage
        .command(&[dead], &["--wait-for-model-timeout=0.3", "--wait-for-model-interval=0.1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("was not ready within --wait-for-model-timeout"), "{output:?}");
}
