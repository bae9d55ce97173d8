//! `evenload simulate` on the command line: what it refuses, the files
//! that it writes, and that traffic which a balancer recorded can be played again.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

fn simulate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
    command.arg("simulate");
    command
}

/// Status and everything that was said.
fn said(arguments: &[&str]) -> (Option<i32>, String) {
    let output = simulate().args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn what_would_do_nothing_is_refused() {
    for (arguments, wanted) in [
        (&["run", "--turns=9"][..], "--turns plays no part in this --workload"),
        (&["run", "--workload=words", "--concurrency=4", "--block-tokens=8"], "--block-tokens plays no part"),
        (&["run", "--workload=conversations", "--concurrency=0"], "--concurrency"),
        (&["run", "--workload=conversations", "--rate=1e-300"], "from 0.000001"),
        (&["run", "--replicas=0"], "--replicas"),
        (&["run", "--workload=words", "--concurrency=4", "--arrival=constant"], "give --rate"),
        (&["run", "--workload=words", "--concurrency=4", "--speed-up=2"], "a file's own times"),
        (&["replay", "none.jsonl", "--replicas=100000"], "--replicas"),
    ] {
        let (status, said) = said(arguments);
        assert!(status.is_some_and(|status| status != 0) && said.contains(wanted), "{arguments:?}: {said}");
    }
}

/// Two hundred prompts with one beginning in common, ten to a conversation. Policies that go by a key find it in the
/// log.
#[test]
fn recorded_keys_decide_where_recorded_requests_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let line = |number: u64| {
        let conversation = number % 20;
        let blocks: Vec<u64> =
            (0..100).map(|block| if block < 8 { block } else { conversation << 20 | block }).collect();
        let decision = json!({
            "timestamp": number * 400, "input_length": 1605, "output_length": 4, "hash_ids": blocks,
            "block_tokens": 16, "prefix_key": conversation, "session_key": conversation, "policy": "random",
            "replica": format!("http://{}", number % 4), "outcome": "complete", "status": 200, "duration_ms": 100,
        });
        format!("{decision}\n")
    };
    fs::write(&path, (0..200).map(line).collect::<String>()).unwrap();
    let policies = ["prefix_hash", "session", "random"];
    let flags = policies.map(|policy| format!("--policy={policy}"));
    let path = path.to_string_lossy();
    let mut arguments = vec!["replay", &path, "--json", "--no-bound", "--seed=1"];
    arguments.extend(flags.iter().map(String::as_str));
    let (status, said) = said(&arguments);
    assert_eq!(status, Some(0), "{said}");
    let hits = policies.map(|policy| {
        let rows = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let row = rows.into_iter().find(|row| row["policy"] == policy).unwrap();
        row["figures"]["prefix_hit_ratio"].as_f64().unwrap()
    });
    // 20 of 200 prompts are new to their conversation's replica.
    assert!(hits[0] > 0.88 && hits[1] > 0.88 && hits[2] < 0.8, "{hits:?}");
}

#[test]
fn the_published_tables_are_in_their_file_though_nobody_reads_the_output() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = simulate();
    command.arg("kubeai").arg("--output").arg(directory.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let file = fs::read(directory.path().join("kubeai.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(file["rows"].as_array().unwrap().len() % 12, 0);
}

#[test]
fn the_page_does_not_call_the_bound_a_result() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = simulate();
    command.args(["run", "--workload=conversations", "--sessions=20", "--concurrency=4", "--replicas=2"]);
    command.args(["--policy=random", "--policy=least_requests", "--seed=1"]);
    let output = command.arg("--output").arg(directory.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(directory.path().join("report.html")).unwrap();
    assert!(page.contains("the throughput of random, with least_requests"));
    assert!(!page.contains(", with bound") && page.contains(">bound<"), "it is in the tables only");
}
