//! What `evenload run` does about requests that fail, and about configurations that cannot be used.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Output, Stdio},
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use run_support::{MODEL, Stage, Stub, reply, said};
use serde_json::{Value, json};

const BODY: &str = "{\"error\": {\"message\": \"no room\",\n \"type\": \"busy\"}}";

/// A breaker as users of inference-perf write it.
fn guarded(rule: &str) -> String {
    format!(
        "load: {{stages: [{{rate: 50, duration: 20}}], circuit_breakers: [guard]}}\n\
         circuit_breakers:\n- name: guard\n  metrics: {{matches: [\"`true`\"], rules: [\"{rule}\"]}}\n\
         \x20 triggers: [{{type: consecutive, threshold: 5}}]\n"
    )
}

#[test]
fn breakers_see_errors_by_inference_perfs_names_and_with_their_bodies() {
    let server = Stub::new(|_, socket| reply(socket, "503 Service Unavailable", BODY));
    let flags = ["--server.base_url", &server.url, "--server.model_name", MODEL];
    for rule in [
        "error.error_type == 'HTTP Error 503'",
        "contains(error.error_msg || '', '\\\"type\\\": \\\"busy\\\"')",
        "error && info.response_metrics == `null`",
    ] {
        let stage = Stage::new();
        let output = stage.command(&guarded(rule), &flags).output().unwrap();
        let text = said(&output.stderr);
        assert!(text.contains("circuit breaker guard has opened: 5 hits"), "{rule}: {text}");
        assert_eq!(output.status.code(), Some(1));
        let interrupted = &stage.report("validation.json")["evenload"]["assessment"]["warnings"];
        let warnings = interrupted.as_array().unwrap();
        let ended = warnings.iter().find(|warning| warning["kind"] == "interrupted").unwrap();
        let message = ended["message"].as_str().unwrap();
        assert!(message.contains("circuit breaker guard") && !message.contains("by hand"), "{message}");
    }
}

#[test]
fn a_refusal_is_in_the_files_as_inference_perf_writes_it() {
    let server = Stub::new(|_, socket| reply(socket, "503 Service Unavailable", BODY));
    let stage = Stage::new();
    let config =
        "load: {stages: [{rate: 3, duration: 1}]}\nreport: {request_lifecycle: {per_request: true}}\n";
    let flags = ["--server.base_url", &server.url, "--server.model_name", MODEL];
    stage.command(config, &flags).output().unwrap();
    let entries = stage.report("per_request_lifecycle_metrics.json");
    assert_eq!(entries.as_array().unwrap().len(), 3);
    for entry in entries.as_array().unwrap() {
        assert_eq!(entry["error"], json!({ "error_type": "HTTP Error 503", "error_msg": BODY }));
        assert_eq!(entry["info"]["response_metrics"], Value::Null);
        assert_eq!((&entry["info"]["extra_info"], &entry["session_id"]), (&json!({}), &Value::Null));
    }
    let labels = &stage.report("summary_lifecycle_metrics.json")["failures"]["by_label"];
    let messages = &labels["503 - Service Unavailable"]["messages"];
    assert_eq!(messages, &json!([{ "message": "no room", "session_ids": [], "count": 3 }]));
    let checked = stage.report("validation.json")["reports"].clone();
    for name in ["per_request_lifecycle_metrics.json", "inference-perf.partial.stage_0.yaml"] {
        assert!(checked[name]["errors"].is_array(), "{name} in {checked}");
    }
}

#[test]
fn whatever_is_wrong_with_a_configuration_is_said_once_with_its_key() {
    let stage = Stage::new();
    let load = "load: {stages: [{rate: 3, duration: 1}]}\n";
    let traced = "load: {type: trace_replay, trace: {file: gone.csv}}\n";
    let shown = ["--server.cert_path", "gone.pem", "--server.key_path", "gone.key"];
    fs::write(stage.path("empty.yml"), "").unwrap();
    for (text, flags, key, part) in [
        (load, vec!["--data.type", "shareGPT"], "data.path: required", "data.path"),
        (traced, vec![], "cannot read gone.csv", "gone.csv"),
        (load, vec!["--server.base_url", "http://127.0.0.1:99999"], "server.base_url: ", "99999"),
        (load, shown.to_vec(), "server.cert_path: gone.pem: cannot be read: No such file", "gone.pem"),
        (load, vec!["--api.headers", r#"{"x-a": "b\r\nx-c: d"}"#], "api.headers.x-a: ", "control characters"),
        (load, vec!["--config_file", "gone.yml"], "", "gone.yml"),
    ] {
        let mut command = stage.command(text, &[]);
        if flags.first() == Some(&"--config_file") {
            command = std::process::Command::new(env!("CARGO_BIN_EXE_evenload"));
            command.arg("run").current_dir(&stage.folder);
        }
        let output = command.args(&flags).output().unwrap();
        let text = said(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        let problem = text.lines().last().unwrap();
        assert!(problem.contains(key) && problem.matches(part).count() == 1, "{flags:?}: {text}");
        assert!(!stage.path("out").exists(), "{flags:?}");
    }
}

#[test]
fn sections_are_flags_and_prefixes_may_be_folders() {
    let stage = Stage::new();
    let flags = ["--api", r#"{"streaming": true}"#, "--load", r#"{"stages": [{"rate": 3, "duration": 1}]}"#];
    let prefix = ["--storage.local_storage.report_file_prefix", "one/two-"];
    stage.run("", &[flags.as_slice(), &prefix].concat());
    let summary = stage.report("one/two-summary_lifecycle_metrics.json");
    assert!(summary["successes"]["latency"]["time_to_first_token"].is_object(), "{summary}");
}

#[test]
fn pauses_that_were_asked_for_are_no_fault() {
    let stage = Stage::new();
    let config = "api: {type: chat, streaming: true}\n\
                  load: {type: trace_session_replay, stages: [{concurrent_sessions: 3}]}\n\
                  data: {type: conversation_replay, conversation_replay: {num_conversations: 3, shared_system_prompt_len: 8, turns_per_conversation: 3, input_tokens_per_turn: 20, output_tokens_per_turn: 5, tool_call_latency_sec: 0.3}}\n";
    stage.run(config, &[]);
    let warnings = stage.report("validation.json")["evenload"]["assessment"]["warnings"].clone();
    assert!(!warnings.to_string().contains("in flight on average"), "{warnings}");
    assert!(warnings.to_string().contains("Raise load.stages[].num_sessions"), "{warnings}");
    assert_eq!(stage.report("stage_0_lifecycle_metrics.json")["load_summary"]["concurrency"], 3);
}

/// Ends a run by so many signals, the first when it has said `word` and `is_due` has returned; with all that it said on
/// standard error.
fn ended_by_hand(
    config: &str,
    flags: &[&str],
    word: &str,
    times: usize,
    is_due: impl FnOnce(),
) -> (Stage, Output, String) {
    let stage = Stage::new();
    let mut command = stage.command(config, flags);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let (mut said, mut line) = (String::new(), String::new());
    let mut wait_for = |word: &str| loop {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "no {word:?}: {said}");
        said += &line;
        if line.contains(word) {
            return;
        }
    };
    wait_for(word);
    is_due();
    for _ in 0..times {
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
        wait_for("the answers under way");
    }
    let drain = thread::spawn(move || {
        lines.read_to_string(&mut said).unwrap();
        said
    });
    let output = child.wait_with_output().unwrap();
    (stage, output, drain.join().unwrap())
}

#[test]
fn what_is_cut_off_by_hand_is_not_called_failed() {
    let (seen, under_way) = mpsc::channel();
    let seen = Mutex::new(seen);
    let server = Stub::new(move |request, socket| match request.starts_with("GET") {
        true => reply(socket, "404 Not Found", "{}"),
        false => {
            seen.lock().unwrap().send(()).ok();
            thread::sleep(Duration::from_secs(600));
        }
    });
    let is_due = || under_way.recv_timeout(Duration::from_secs(120)).unwrap();
    let flags = [
        "--server.base_url",
        &server.url,
        "--server.model_name",
        MODEL,
        "--load.stage_teardown_grace_seconds",
        "600",
    ];
    let config = "load: {stages: [{rate: 50, duration: 600}]}\n";
    let (stage, output, said) = ended_by_hand(config, &flags, "stage 0: ", 2, is_due);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(!said.contains("requests failed"), "{said}");
    let report = stage.report("validation.json");
    let warnings = report["evenload"]["assessment"]["warnings"].as_array().unwrap();
    assert!(!warnings.iter().any(|warning| warning["kind"] == "failures"), "{report}");
    let summary = stage.report("summary_lifecycle_metrics.json");
    assert_eq!((&summary["failures"]["count"], &summary["load_summary"]["count"]), (&0.into(), &0.into()));
    assert!(summary["evenload"]["cut_off"].as_u64().unwrap() > 0, "{summary}");

    // What is left of an interrupted run can be put together all the same.
    let mut merge = std::process::Command::new(env!("CARGO_BIN_EXE_evenload"));
    merge.args(["report", "merge", "out", "--out", "merged"]).current_dir(&stage.folder);
    let merged = merge.output().unwrap();
    assert_eq!(merged.status.code(), Some(1), "nothing was answered, and nobody ended the merge: {merged:?}");
}

#[test]
fn a_run_that_is_ended_in_the_pause_has_no_files_of_the_stage_after_it() {
    let config = "load: {stages: [{rate: 20, duration: 1}, {rate: 20, duration: 1}], interval: 600}\n";
    let (stage, output, said) = ended_by_hand(config, &[], "stage 1: ", 1, || ());
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("1 stage was not run: stopped by hand"), "{said}");
    assert!(stage.path("out/stage_0_lifecycle_metrics.json").exists(), "{said}");
    assert!(!stage.path("out/stage_1_lifecycle_metrics.json").exists(), "{said}");
    assert!(run_support::said(&output.stdout).contains("The run was ended by hand"), "{output:?}");
}
