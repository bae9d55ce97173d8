//! `evenload bench` as its users run it: the built binary against simulated engines, with files on disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use engine::{Config, Fleet, Profile};
use serde_json::{Value, json};
use tempfile::TempDir;

const MODEL: &str = "llama-3.1-8b-instruct-fp8-l4";
const CONVERSATIONS: usize = 12;
const MESSAGES: usize = 6;

/// An engine, a dataset, and a place for files.
struct Stage {
    engine: Fleet,
    directory: TempDir,
}

impl Stage {
    fn new() -> Self {
        let config = Config { speedup: 1000.0, ..Config::new(Profile::l4()) };
        let stage = Self { engine: engine::serve(config).unwrap(), directory: tempfile::tempdir().unwrap() };
        fs::write(stage.dataset(), dataset()).unwrap();
        stage
    }

    fn dataset(&self) -> PathBuf {
        self.directory.path().join("sharegpt.json")
    }

    fn url(&self) -> String {
        format!("http://{}", self.engine.addresses()[0])
    }

    /// The benchmark with `flags` besides those that it cannot do without.
    fn command(&self, flags: &[&str]) -> Command {
        let mut command = bench(&self.url(), &self.dataset(), MODEL);
        command.args(flags).current_dir(&self.directory);
        command
    }

    fn run(&self, flags: &[&str]) -> String {
        let output = self.command(flags).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn bench(url: &str, dataset: &Path, model: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
    command.arg("bench").arg(format!("--base-url={url}")).arg(format!("--model={model}"));
    command.arg(format!("--dataset-path={}", dataset.display()));
    command
}

fn message(conversation: usize, place: usize) -> String {
    format!("c{conversation}m{place} {}", "word ".repeat(3 + (7 * conversation + 5 * place) % 11))
}

fn dataset() -> String {
    let conversation = |conversation| {
        let said = (0..MESSAGES).map(|place| json!({"from": "human", "value": message(conversation, place)}));
        json!({"conversations": said.collect::<Vec<_>>()})
    };
    json!((0..CONVERSATIONS).map(conversation).collect::<Vec<_>>()).to_string()
}

/// Prompt and output tokens of all prompts of the dataset, four bytes a token.
fn tokens() -> (usize, usize) {
    let (mut input, mut output) = (0, 0);
    for conversation in 0..CONVERSATIONS {
        let mut prompt = 0;
        for place in 0..MESSAGES {
            let label = if place % 2 == 0 { "User: " } else { "Assistant: " };
            prompt += label.len() + message(conversation, place).len() + 1;
            if place % 2 == 0 {
                input += prompt.div_ceil(4);
                output += message(conversation, place + 1).len().div_ceil(4);
            }
        }
    }
    (input, output)
}

/// The value of a row of the output.
#[track_caller]
fn row<'a>(text: &'a str, label: &str) -> &'a str {
    let row = text.lines().find_map(|line| line.strip_prefix(label));
    row.unwrap_or_else(|| panic!("no row {label:?} in\n{text}")).trim()
}

/// What a run that ended with `status` left on standard error.
#[track_caller]
fn failure(output: &Output, status: i32) -> String {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_block_and_the_file_of_the_script() {
    let stage = Stage::new();
    let text = stage.run(&[
        "--dataset-name=sharegpt",
        "--seed=12345",
        "--tokenizer=neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8",
        "--request-rate=800",
        "--max-concurrency=8",
        "--num-prompts=72",
        "--max-conversations=800",
        "--save-result",
        "--result-dir=results",
        "--metadata",
        "gpu=L4",
        "site=lab",
    ]);
    let (input, output) = tokens();
    let expected = [
        ("Conversations:", "12".to_owned()),
        ("Unique prompts:", "36".to_owned()),
        ("Requests per prompt:", "2.00".to_owned()),
        ("Input tokens:", (2 * input).to_string()),
        ("Input tokens of unique prompts:", input.to_string()),
        ("Traffic request rate:", "800.0".to_owned()),
        ("Burstiness factor:", "1.0 (Poisson process)".to_owned()),
        ("Maximum request concurrency:", "8".to_owned()),
        ("Successful requests:", "72".to_owned()),
        ("Total input tokens:", (2 * input).to_string()),
        ("Total generated tokens:", (2 * output).to_string()),
    ];
    for (label, value) in expected {
        assert_eq!(row(&text, label), value, "{label}\n{text}");
    }
    for label in ["Benchmark duration (s):", "Mean TTFT (ms):"] {
        assert!(row(&text, label).parse::<f64>().unwrap() > 0.0, "{label}");
    }
    // On a busy machine all tokens of such an answer may be there at the first look.
    for label in ["P99 TPOT (ms):", "P99 ITL (ms):"] {
        assert!(row(&text, label).parse::<f64>().unwrap() >= 0.0, "{label}");
    }
    for part in [
        "============ Serving Benchmark Result ============",
        "FP8 is not a file here; lengths are estimated at four bytes a token",
        "--max-conversations takes the first 800 prompts, not conversations",
        "In flight, Little's law:",
        "P99 schedule lag (ms):",
        "Verdict: ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }

    let written = row(&text, "written:");
    assert!(
        written.starts_with("results/vllm-800.0qps-concurrency8-llama-3.1-8b-instruct-fp8-l4-"),
        "{written}"
    );
    let bytes = fs::read(stage.directory.path().join(written)).unwrap();
    let file: Value = serde_json::from_slice(&bytes).unwrap();
    let mut keys: Vec<&str> = file.as_object().unwrap().keys().map(String::as_str).collect();
    let figures = ["ttft", "tpot", "itl"]
        .map(|name| ["mean", "median", "std", "p99"].map(|figure| format!("{figure}_{name}_ms")));
    let lists = ["input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors"];
    let single = "date backend model_id tokenizer_id best_of num_prompts gpu site request_rate burstiness \
        max_concurrency duration completed total_input_tokens total_output_tokens request_throughput \
        request_goodput: output_throughput total_token_throughput evenload";
    let mut expected: Vec<&str> = single.split_whitespace().chain(lists).collect();
    expected.extend(figures.as_flattened().iter().map(String::as_str));
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert!(lists.iter().all(|list| file[list].as_array().unwrap().len() == 72));
    assert_eq!(file["completed"], 72);
    assert_eq!(file["evenload"]["workload"]["unique_prompts"], 36);
}

/// Answers every request, after the first few, which it hangs up on, with `events`: a pause before each but the first,
/// and a usage of 5 tokens after them. Requests can be received.
fn answers(hang_ups: usize, events: &'static [&str], pause: Duration) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (seen, requests) = channel();
    std::thread::spawn(move || {
        for socket in listener.incoming().skip(hang_ups) {
            let mut socket = BufReader::new(socket.unwrap());
            let (mut line, mut length, mut request) = (String::new(), 0, String::new());
            while line != "\r\n" {
                line.clear();
                assert!(socket.read_line(&mut line).unwrap() > 0);
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                request += &line;
            }
            let mut body = vec![0; length];
            socket.read_exact(&mut body).unwrap();
            if request.starts_with("GET /v1/models ") {
                let list = r#"{"data":[{"id":"first"},{"id":"second"}]}"#;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{list}", list.len());
                socket.get_mut().write_all(head.as_bytes()).unwrap();
                continue;
            }
            let _ = seen.send(request + std::str::from_utf8(&body).unwrap());
            let mut say = |text: &str| socket.get_mut().write_all(text.as_bytes()).unwrap();
            say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n");
            for (place, event) in events.iter().enumerate() {
                std::thread::sleep(if place > 0 { pause } else { Duration::ZERO });
                say(&format!("data: {event}\n\n"));
            }
            std::thread::sleep(pause);
            say(r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#);
            say("\n\ndata: [DONE]\n\n");
        }
    });
    (url, requests)
}

#[test]
fn chunks_are_what_the_scripts_count() {
    const PAUSE: Duration = Duration::from_millis(40);
    const COMPLETION: [&str; 4] = [
        r#"{"choices":[{"text":""}]}"#,
        r#"{"choices":[{"text":"hello"}]}"#,
        r#"{"choices":[{"text":" world"}]}"#,
        r#"{"choices":[{"text":"","finish_reason":"stop"}]}"#,
    ];
    const CHAT: [&str; 4] = [
        r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
        r#"{"choices":[{"delta":{"content":"hello"}}]}"#,
        r#"{"choices":[{"delta":{"content":" world"}}]}"#,
        r#"{"choices":[{"delta":{"content":""},"finish_reason":"stop"}]}"#,
    ];
    let stage = Stage::new();
    // Gaps between chunks, and pauses between the first chunk and the end of the answer.
    for (events, flags, gaps, pauses) in [
        (&COMPLETION, ["--backend=vllm", "--script=kubeai"], 3, 3),
        (&COMPLETION, ["--backend=openai", "--script=vllm"], 3, 3),
        (&CHAT, ["--backend=openai-chat", "--script=kubeai"], 3, 4),
        (&CHAT, ["--backend=openai-chat", "--script=vllm"], 2, 2),
    ] {
        let mut command = bench(&answers(0, events, PAUSE).0, &stage.dataset(), MODEL);
        let common = ["--num-prompts=2", "--save-result", "--save-detailed", "--result-filename=chunks.json"];
        command.args(common).args(flags).args(["--percentile-metrics=ttft,tpot,itl,e2el"]);
        let output = command.current_dir(&stage.directory).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let bytes = fs::read(stage.directory.path().join("chunks.json")).unwrap();
        let file: Value = serde_json::from_slice(&bytes).unwrap();
        for list in file["itls"].as_array().unwrap() {
            assert_eq!(list.as_array().unwrap().len(), gaps, "{flags:?}: {list}");
        }
        let figure = |key: &str| file[key].as_f64().unwrap();
        let decode = figure("mean_e2el_ms") - figure("mean_ttft_ms");
        assert!(decode >= (pauses * PAUSE).as_secs_f64() * 1e3, "{flags:?}: {decode}");
        assert!((figure("mean_tpot_ms") - decode / 4.0).abs() < 0.01, "{flags:?}: 5 tokens have 4 gaps");
    }
}

#[test]
fn the_queue_of_todays_script_begins_with_the_run_and_texts_are_kept() {
    const PAUSE: Duration = Duration::from_millis(100);
    const CHAT: [&str; 2] =
        [r#"{"choices":[{"delta":{"content":"hello"}}]}"#, r#"{"choices":[{"delta":{"content":" world"}}]}"#];
    let stage = Stage::new();
    let mut command = bench(&answers(0, &CHAT, PAUSE).0, &stage.dataset(), MODEL);
    command.args(["--script=vllm", "--backend=openai-chat", "--num-prompts=3", "--max-concurrency=1"]);
    command.args(["--percentile-metrics=client_queue_time,e2el_including_client_queue"]);
    command.args(["--save-result", "--save-detailed", "--result-filename=queue.json"]);
    let output = command.current_dir(&stage.directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let file = fs::read(stage.directory.path().join("queue.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    let queue: Vec<f64> =
        file["queue_times"].as_array().unwrap().iter().map(|time| time.as_f64().unwrap()).collect();
    // An answer takes two pauses, and each waits for those before it.
    assert!(queue[0] < queue[1] && queue[1] >= 0.2 && queue[2] >= 0.4, "{queue:?}");
    assert!(file["mean_client_queue_time_ms"].as_f64().unwrap() >= 200.0, "{file}");
    assert!(file["mean_e2el_including_client_queue_ms"].is_null(), "only with a rate: {file}");
    assert_eq!(file["generated_texts"], json!(["hello world", "hello world", "hello world"]));
}

#[test]
fn todays_script_has_its_own_defaults_and_flags() {
    const ANSWER: [&str; 2] = [r#"{"choices":[{"text":"a"}]}"#, r#"{"choices":[{"text":"b"}]}"#];
    let directory = tempfile::tempdir().unwrap();
    let bench = |url: &str, flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
        command.args(["bench", "--script=vllm", "--num-prompts=3", "--base-url", url]).args(flags);
        let output = command.current_dir(&directory).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let read = |request: &str| {
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        (head.to_ascii_lowercase(), serde_json::from_str::<Value>(body).unwrap())
    };

    let (url, requests) = answers(0, &ANSWER, Duration::ZERO);
    let text = bench(&url, &[]);
    assert!(text.contains("no temperature is sent"), "{text}");
    let plain: Vec<String> = requests.try_iter().collect();
    assert_eq!(plain.len(), 3, "nothing is sent before the run");
    let (head, body) = read(&plain[0]);
    assert!(!head.contains("connection: close"), "connections are kept: {head}");
    let expected = json!({
        "model": "first", "prompt": body["prompt"], "max_tokens": 128, "repetition_penalty": 1.0,
        "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true},
    });
    assert_eq!(body, expected);

    // The first connection is hung up on: the server is not ready yet.
    let (url, requests) = answers(1, &ANSWER, Duration::ZERO);
    let flags = [
        "--model=m",
        "--input-len=20",
        "--output-len=9",
        "--temperature=0.5",
        "--top-k=-1",
        "--num-warmups=2",
        "--ready-check-timeout-sec=1",
        "--request-id-prefix=mine-",
        "--header",
        "x-team=red",
        "x-tier=gold",
        "--extra-body",
        r#"{"max_tokens":4,"guided":{"choice":["a"]}}"#,
        "--label=nightly",
        "--ramp-up-strategy=linear",
        "--ramp-up-start-rps=50",
        "--ramp-up-end-rps=100",
        "--max-concurrency=50",
        "--append-result",
        "--lora-modules",
        "one",
        "two",
        "--lora-assignment=round-robin",
    ];
    let text = bench(&url, &flags);
    assert!(text.contains("Will increase RPS from 50 to 100 RPS"), "{text}");
    assert!(!text.contains("in flight on average, not 50"), "a ramp with a cap is no closed loop: {text}");
    let all: Vec<(String, Value)> = requests.try_iter().map(|request| read(&request)).collect();
    assert_eq!(all.len(), 1 + 2 + 3, "a check, two warm-ups, the run");
    let models: Vec<&Value> = all[3..].iter().map(|(_, body)| &body["model"]).collect();
    assert_eq!(models, ["one", "two", "one"]);
    let (head, body) = &all[3];
    for line in ["x-team: red", "x-tier: gold", "x-request-id: mine-0-0"] {
        assert!(head.contains(line), "{line}: {head}");
    }
    assert_eq!(
        (&body["max_tokens"], &body["temperature"], &body["top_k"]),
        (&json!(4), &json!(0.5), &json!(-1))
    );
    assert_eq!((&body["guided"]["choice"][0], body["prompt"].as_str().unwrap().len()), (&json!("a"), 80));

    let written = row(&text, "written:").to_owned();
    assert!(written.starts_with("nightly-ramp-up-linear-50qps-100qps-concurrency50-m-"), "{written}");
    let name = format!("--result-filename={written}");
    let (url, _requests) = answers(0, &ANSWER, Duration::ZERO);
    bench(&url, &["--model=m", "--append-result", "--save-detailed", &name]);
    let lines = fs::read_to_string(directory.path().join(written)).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [first, second] = &lines[..] else { panic!("{} lines", lines.len()) };
    assert_eq!((&first["label"], &first["ramp_up_strategy"]), (&json!("nightly"), &json!("linear")));
    assert_eq!((&second["label"], &second["backend"]), (&Value::Null, &json!("openai")));
    assert!(first["latencies"].is_array() && first["ttfts"].is_null(), "{first}");
    let steps = first["rps_change_events"].as_array().unwrap();
    assert_eq!(
        (&steps[0]["rps"], &steps[steps.len() - 1]["rps"], steps.len()),
        (&json!(50), &json!(100), 51)
    );
    assert!(second["rps_change_events"].is_null());
    assert_eq!((&second["input_lens"], second["ttfts"].as_array().unwrap().len()), (&json!([7, 7, 7]), 3));
}

#[test]
fn todays_script_spreads_the_requests_over_their_number_by_the_rate() {
    let stage = Stage::new();
    for seed in 1..4 {
        let seed = format!("--seed={seed}");
        let flags = ["--script=vllm", "--num-prompts=20", "--request-rate=100", "--burstiness=0.2", &seed];
        let file = ["--save-result", "--save-detailed", "--result-filename=spread.json"];
        stage.run(&[&flags[..], &file].concat());
        let file = fs::read(stage.directory.path().join("spread.json")).unwrap();
        let file: Value = serde_json::from_slice(&file).unwrap();
        let starts = file["start_times"].as_array().unwrap().iter().map(|start| start.as_f64().unwrap());
        assert!(starts.fold(0.0, f64::max) >= 0.2, "{seed}: {file}");
    }
}

#[test]
fn every_flag_of_todays_script_is_in_the_help_or_refused_by_name() {
    let flags = include_str!("data/vllm-bench-serve-0.33-flags.txt");
    let help = Command::new(env!("CARGO_BIN_EXE_evenload")).args(["bench", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '-'));
    let shown: BTreeSet<&str> = words.filter(|word| word.starts_with("--")).collect();
    assert_eq!(flags.lines().count(), 101);
    for flag in flags.lines().filter(|flag| !shown.contains(flag)) {
        let output = Command::new(env!("CARGO_BIN_EXE_evenload")).args(["bench", flag]).output().unwrap();
        let said = failure(&output, 2);
        let first = said.lines().next().unwrap();
        assert!(first.starts_with(&format!("error: {flag} is not supported: ")), "{said}");
    }
}

#[test]
fn a_run_is_not_lost_with_its_file() {
    let stage = Stage::new();
    let taken = stage.directory.path().join("taken");
    fs::create_dir(&taken).unwrap();
    for (flag, said) in
        [("--result-dir=sharegpt.json", "sharegpt.json"), ("--result-filename=taken", "taken is a directory")]
    {
        let output = stage.command(&["--num-prompts=4", "--save-result", flag]).output().unwrap();
        let message = failure(&output, 1);
        assert!(message.contains(said), "{message}");
        assert!(output.stdout.is_empty(), "it is said before the run: {output:?}");
    }
    std::os::unix::fs::symlink("/dev/full", stage.directory.path().join("full.json")).unwrap();
    let flags = ["--num-prompts=4", "--save-result", "--result-filename=full.json"];
    let output = stage.command(&flags).output().unwrap();
    assert!(failure(&output, 1).contains("full.json"), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(row(&text, "Successful requests:"), "4");
}

#[test]
fn what_is_asked_for_is_in_the_output() {
    let stage = Stage::new();
    let text = stage.run(&[
        "--conversations=5",
        "--num-prompts=15",
        "--request-rate=500",
        "--arrival=legacy",
        "--sharegpt-output-len=20",
        "--percentile-metrics=ttft,e2el",
        "--metric-percentiles=50,99.9",
        "--goodput",
        "ttft:60000",
        "e2el:60000",
        "--result-filename=out.json",
        "--save-result",
    ]);
    assert_eq!(row(&text, "Conversations:"), "5");
    assert_eq!(row(&text, "Total generated tokens:"), "300");
    assert_eq!(row(&text, "Request goodput (req/s):"), row(&text, "Request throughput (req/s):"));
    assert!(row(&text, "P99.9 E2EL (ms):").parse::<f64>().unwrap() > 0.0);
    assert!(!text.contains("TPOT (ms)") && !text.contains("--max-conversations"), "{text}");
    assert!(stage.directory.path().join("out.json").exists());

    let text = stage.run(&["--script=vllm", "--backend=openai-chat", "--num-prompts=12", "--threads=2"]);
    assert_eq!(row(&text, "Failed requests:"), "0");
    assert_eq!(row(&text, "Unique prompts:"), "12");
}

#[test]
fn a_file_that_is_cut_off_is_used_as_far_as_it_goes() {
    let stage = Stage::new();
    let whole = dataset();
    let cut = whole.match_indices("]},").nth(6).unwrap().0 + 30;
    fs::write(stage.dataset(), &whole[..cut]).unwrap();
    let text = stage.run(&["--num-prompts=21"]);
    assert_eq!(row(&text, "Conversations:"), "7");
    assert!(text.contains(&format!("cut off at byte {cut}; the 7 complete")), "{text}");
    assert_eq!(row(&text, "Successful requests:"), "21");
}

#[test]
fn what_cannot_be_done_is_said_in_one_line() {
    let stage = Stage::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = format!("http://{closed}");
    let missing = stage.directory.path().join("missing.json");
    for (mut command, said) in [
        (bench(&stage.url(), &missing, MODEL), "missing.json"),
        (bench(&dead, &stage.dataset(), MODEL), "nothing answers at http://127.0.0.1:"),
        (bench(&stage.url(), &stage.dataset(), "unheard-of"), "unheard-of"),
        (stage.command(&["--tokenizer=no/such/tokenizer.json"]), "no/such/tokenizer.json"),
        (stage.command(&["--min-messages=7"]), "no conversation of 7 messages"),
    ] {
        let message = failure(&command.output().unwrap(), 1);
        assert!(message.starts_with("evenload: ") && message.contains(said), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.matches("os error").count() < 2, "a cause is said once: {message}");
    }
}

#[test]
fn flags_that_cannot_be_had_are_refused_by_name() {
    let stage = Stage::new();
    for (flags, said) in [
        (&["--use-beam-search"][..], "--use-beam-search is not supported"),
        (&["--random-range-ratio=1.5"], "--random-range-ratio 1.5"),
        (&["--dataset-name=random"], "reads no file"),
        (&["--hf-split=train"], "--hf-split is not supported"),
        (&["--profile"], "--profile is not supported"),
        (&["--dataset-name=hf"], "hf is a download"),
        (&["--backend=tgi"], "invalid value 'tgi' for '--backend"),
        (&["--tokenizer-mode=mistral"], "invalid value 'mistral'"),
        (&["--request-rate=0"], "--request-rate"),
        (&["--burstiness=0"], "give a number above 0"),
        (&["--random-range-ratio={\"input\":0.1,\"output\":0.2}"], "--script vllm"),
        (&["--goodput", "itl:5"], "ttft, tpot and e2el"),
        (&["--backend=openai-chat", "--endpoint=/v1/completions"], "--endpoint /v1/completions"),
        (&["--num-prompts=0"], "--num-prompts"),
        (&["--max-conversations=0"], "--max-conversations"),
        (&["--ramp-up-strategy=linear"], "required"),
        (
            &[
                "--ramp-up-strategy=linear",
                "--ramp-up-start-rps=1",
                "--ramp-up-end-rps=2",
                "--request-rate=3",
            ],
            "leave --request-rate away",
        ),
        (&["--extra-body=[1]"], "give a JSON object"),
        (&["--plot-timeline"], "--plot-timeline is not supported"),
        (&["--dataset-name=timed_trace"], "evenload profile"),
    ] {
        let message = failure(&stage.command(flags).output().unwrap(), 2);
        assert!(message.lines().next().unwrap().contains(said), "{flags:?}: {message}");
    }
}

#[test]
fn prompts_without_a_dataset() {
    let stage = Stage::new();
    let command = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
        command.args(["bench", "--num-prompts=20", "--model", MODEL, "--base-url", &stage.url()]).args(flags);
        command
    };
    let run = |flags: &[&str]| {
        let output = command(flags).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let random = [
        "--dataset-name=random",
        "--random-input-len=100",
        "--random-prefix-len=60",
        "--random-output-len=7",
    ];
    let text = run(&random);
    assert_eq!(row(&text, "Total input tokens:"), "3200");
    assert_eq!(row(&text, "Total generated tokens:"), "140");
    // The first prompt, of 160 tokens, was sent before the run. 60 shared tokens are three whole blocks of 16.
    assert_eq!(
        row(&text, "Best possible prefix cache hits (%):"),
        format!("{:.2}", 100.0 * (160.0 + 19.0 * 48.0) / 3200.0)
    );
    let spread = [
        r#"--random-range-ratio={"input": 0.5, "output": 0.9}"#,
        "--script=vllm",
        "--seed=3",
        "--num-prompts=400",
        "--request-rate=1000",
        "--burstiness=inf",
    ];
    let short = ["--random-input-len=25", "--random-prefix-len=0", "--random-output-len=10"];
    let file = ["--save-result", "--save-detailed", "--result-filename=spread.json"];
    let mut spreading = Command::new(env!("CARGO_BIN_EXE_evenload"));
    spreading.args(["bench", "--dataset-name=random", "--model", MODEL, "--base-url", &stage.url()]);
    let output =
        spreading.args(spread).args(short).args(file).current_dir(&stage.directory).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let file = fs::read(stage.directory.path().join("spread.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    let range = |list: &str| {
        let lengths: Vec<u64> =
            file[list].as_array().unwrap().iter().map(|length| length.as_u64().unwrap()).collect();
        (*lengths.iter().min().unwrap(), *lengths.iter().max().unwrap())
    };
    assert_eq!(range("input_lens"), (12, 38), "half of 25 rounded down, and one and a half rounded up");
    assert_eq!(range("output_lens"), (1, 19));
    assert_eq!(file["burstiness"], "inf", "as the rate is written");

    let poem = stage.directory.path().join("poem.txt");
    fs::write(&poem, "Shall I compare thee to a summer's day?\n".repeat(40)).unwrap();
    let path = format!("--dataset-path={}", poem.display());
    let text = run(&["--dataset-name=sonnet", &path, "--sonnet-output-len=5"]);
    assert_eq!(row(&text, "Total generated tokens:"), "100");
    let inputs: f64 = row(&text, "Total input tokens:").parse().unwrap();
    assert!((inputs / 20.0 - 550.0).abs() < 11.0, "{inputs} tokens in 20 prompts of 550");

    let message = failure(&command(&["--dataset-name=sonnet"]).output().unwrap(), 2);
    assert!(message.contains("--dataset-path is missing"), "{message}");
}

#[test]
fn numbers_without_end_are_refused() {
    let stage = Stage::new();
    for (flag, said) in [
        ("--temperature=nan", "give a finite number"),
        ("--temperature=inf", "give a finite number"),
        ("--top-p=NaN", "give a finite number"),
        ("--presence-penalty=inf", "give a finite number"),
        ("--burstiness=nan", "give a number above 0"),
        ("--request-rate=1e300", "at most 1e9, or inf"),
        ("--ready-check-timeout-sec=18446744073709551615", "is not in 0..=10000000000"),
    ] {
        let message = failure(&stage.command(&[flag]).output().unwrap(), 2);
        assert!(message.contains(said) && message.contains(flag.split('=').next().unwrap()), "{message}");
    }
}

#[test]
fn an_interrupt_leaves_a_partial_report() {
    let stage = Stage::new();
    let flags = ["--num-prompts=100000", "--request-rate=50", "--save-result", "--result-filename=part.json"];
    let mut child = stage.command(&flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("Maximum request concurrency") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "it ended before it began");
    }
    std::thread::sleep(Duration::from_millis(500));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let asked = Instant::now();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(60), "it went on for {:?}", asked.elapsed());
    assert!(rest.starts_with("PARTIAL RESULTS: stopped by hand after "), "{rest}");
    let answered: u64 = row(&rest, "Successful requests:").parse().unwrap();
    assert!((1..100_000).contains(&answered), "{rest}");
    assert!(rest.contains("The run was ended by hand"), "{rest}");
    assert!(stage.directory.path().join("part.json").exists());
}
