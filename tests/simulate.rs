//! `evenload simulate` as its users run it: the built binary, and the files that it writes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    process::{Command, Stdio},
};

fn simulate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
    command.arg("simulate");
    command
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
