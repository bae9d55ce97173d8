//! `evenload bench` as its users run it: the built binary against simulated engines, with files on disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
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
        (&["--burstiness=0"], "--burstiness 0"),
        (&["--goodput", "itl:5"], "ttft, tpot and e2el"),
        (&["--backend=openai-chat", "--endpoint=/v1/completions"], "--endpoint /v1/completions"),
        (&["--num-prompts=0"], "--num-prompts"),
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
    // 60 shared tokens are three whole blocks of 16; 19 of 20 prompts find them.
    assert_eq!(
        row(&text, "Best possible prefix cache hits (%):"),
        format!("{:.2}", 100.0 * 19.0 * 48.0 / 3200.0)
    );
    let spread = run(&[&random[..], &["--random-range-ratio=0.5", "--script=vllm", "--seed=3"]].concat());
    assert_ne!(row(&spread, "Total input tokens:"), "3200");

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
    assert!(child.wait().unwrap().success());
    assert!(asked.elapsed() < Duration::from_secs(60), "it went on for {:?}", asked.elapsed());
    assert!(rest.starts_with("PARTIAL RESULTS: stopped by hand after "), "{rest}");
    let answered: u64 = row(&rest, "Successful requests:").parse().unwrap();
    assert!((1..100_000).contains(&answered), "{rest}");
    assert!(rest.contains("The run was ended by hand"), "{rest}");
    assert!(stage.directory.path().join("part.json").exists());
}
