//! `evenload profile --config`: AIPerf's YAML, as its users run it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, process::Command};

use engine::{Config, Fleet, Profile};
use serde_json::Value;
use tempfile::TempDir;

/// Four engines with the model of the documents, and a place for files.
fn stage() -> (Fleet, TempDir) {
    let config = Config {
        replicas: 4,
        speedup: 1000.0,
        model_names: vec!["llama".to_owned()],
        ..Config::new(Profile::l4())
    };
    (engine::serve(config).unwrap(), tempfile::tempdir().unwrap())
}

fn profile(directory: &TempDir, document: &str, flags: &[&str]) -> (Option<i32>, String) {
    fs::write(directory.path().join("run.yaml"), document).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
    command.args(["profile", "-f", "run.yaml"]).args(flags).current_dir(directory);
    let output = command.env("OUTPUT_TOKENS", "4").output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn summary(directory: &TempDir) -> Value {
    let text = fs::read(directory.path().join("out/profile_export_aiperf.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn a_document_for_several_urls_is_run_and_the_command_line_wins() {
    let (engines, directory) = stage();
    let urls: Vec<String> =
        engines.addresses().iter().map(|address| format!("http://{address}/v1/chat/completions")).collect();
    let document = format!(
        "schemaVersion: \"2.0\"\nrandomSeed: 42\nvariables: {{sessions: 8}}\nbenchmark:\n  model: llama\n  endpoint:\n    urls: [{}]\n    urlStrategy: round_robin\n    type: chat\n    streaming: true\n    timeout: 120.0\n  dataset:\n    type: synthetic\n    entries: 100\n    prompts:\n      isl: {{mean: 32, stddev: 4}}\n      osl: {{mean: \"${{OUTPUT_TOKENS:9}}\"}}\n  warmup: {{type: concurrency, requests: 4, concurrency: 2}}\n  profiling:\n    type: concurrency\n    requests: 1000\n    concurrency: \"{{{{ sessions * 2 }}}}\"\n    concurrencyRamp: 1\n  artifacts: {{dir: ./out, summary: [json], records: [jsonl]}}\n  serverMetrics: {{enabled: true, formats: [json]}}\n",
        urls.join(", ")
    );
    let (code, said) = profile(&directory, &document, &["--request-count", "40"]);
    assert_eq!(code, Some(0), "{said}");
    let summary = summary(&directory);
    assert_eq!(summary["request_count"]["avg"], 40.0);
    assert_eq!(summary["output_sequence_length"]["max"], 4.0);
    let targets = summary["by_url"]["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 4);
    assert!(targets.iter().all(|target| target["request_count"]["avg"] == 10.0), "{targets:?}");
    let phases = summary["input_config"]["phases"].as_array().unwrap();
    assert_eq!(phases[0]["requests"], 4);
    assert_eq!((&phases[1]["concurrency"], &phases[1]["type"]), (&16.into(), &"concurrency".into()));
    assert_eq!(summary["input_config"]["datasets"][0]["random_seed"], 42);
    // The four engines' pages and no more: csv was not asked for.
    assert!(!directory.path().join("out/server_metrics_export.csv").exists());
}

#[test]
fn what_is_wrong_is_said_with_the_line() {
    let (_engines, directory) = stage();
    let wrong = |document: &str, expected: &str| {
        let (code, said) = profile(&directory, document, &[]);
        assert_eq!((code, said.trim_end()), (Some(2), expected), "{document}");
    };
    wrong(
        "benchmark:\n  model: m\n  endpoint:\n    adress: x\n",
        "error: run.yaml:4: benchmark.endpoint.adress is not a key of AIPerf's configuration",
    );
    wrong(
        "benchmark:\n  model: m\n  profiling:\n    type: concurrency\n    concurrency: 0\n",
        "error: run.yaml:5: benchmark.profiling.concurrency: invalid value '0' for '--concurrency <NUMBER>': 0 is not in 1..=4294967295",
    );
    wrong(
        "benchmark:\n  model: m\n  dataset:\n    video: {fps: 4}\n",
        "error: run.yaml:4: benchmark.dataset.video is not supported: requests hold text only",
    );
    wrong(
        "benchmark:\n  model: m\n  dataset:\n    type: public\n    dataset: sharegpt\n",
        "error: run.yaml:5: benchmark.dataset.dataset is not supported: nothing is downloaded; give a file by --input-file",
    );
    let (code, said) = profile(&directory, "benchmark: {model: m}\n", &["--gpu-telemetry"]);
    assert!(code == Some(2) && said.contains("--gpu-telemetry is not supported"), "{said}");
}

#[test]
fn flags_that_exclude_each_other_are_those_of_the_command_line() {
    let (engines, directory) = stage();
    let url = format!("http://{}", engines.addresses()[0]);
    let document = format!(
        "benchmark:\n  model: llama\n  endpoint: {{url: \"{url}\", streaming: true}}\n  dataset: {{osl: 2, isl: 8}}\n  gpuTelemetry: {{enabled: true}}\n  profiling: {{type: poisson, rate: 1000, requests: 6, prefillRamp: 3}}\n  artifacts: {{dir: out}}\n"
    );
    let (code, said) = profile(&directory, &document, &[]);
    assert!(code == Some(2) && said.contains("run.yaml:5: benchmark.gpuTelemetry"), "{said}");
    let flags = ["--no-gpu-telemetry", "--user-centric-rate", "500", "--num-users", "3"];
    let (code, said) = profile(&directory, &document.replace("type: poisson, ", ""), &flags);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(summary(&directory)["input_config"]["phases"][0]["type"], "user_centric");
}
