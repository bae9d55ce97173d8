//! `evenload profile`: searches for the largest load, ramps, repetitions that stop, and the log, against engines whose
//! capacity is known.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, process::Command};

use engine::{Config, Fleet, Profile};
use serde_json::Value;
use tempfile::TempDir;

fn stage() -> (Fleet, TempDir) {
    let config =
        Config { speedup: 100.0, model_names: vec!["llama".to_owned()], ..Config::new(Profile::l4()) };
    (engine::serve(config).unwrap(), tempfile::tempdir().unwrap())
}

fn profile(engines: &Fleet, directory: &TempDir, flags: &[&str]) -> (Option<i32>, String, String) {
    let url = format!("http://{}", engines.addresses()[0]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
    command.args([
        "profile",
        "--model",
        "llama",
        "--url",
        &url,
        "--isl",
        "16",
        "--osl",
        "4",
        "--random-seed",
        "7",
    ]);
    command.args(["--output-artifact-dir", "out", "--no-server-metrics", "--streaming"]).args(flags);
    let output = command.current_dir(directory).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn read(directory: &TempDir, name: &str) -> Value {
    serde_json::from_slice(&fs::read(directory.path().join("out").join(name)).unwrap()).unwrap()
}

/// The knee is put where no machine's speed can move it: into the number of sessions itself.
#[test]
fn a_search_finds_the_largest_load_that_keeps_its_limits() {
    let (engines, directory) = stage();
    // Each run sends twice its concurrency, at least 10: more than 24 requests are more than 12 sessions.
    let flags = [
        "--search-recipe",
        "max-concurrency-under-sla",
        "--search-sla",
        "request_count:avg:le:24",
        "--concurrency-max",
        "64",
    ];
    let (code, console, said) = profile(&engines, &directory, &flags);
    assert_eq!(code, Some(0), "{said}");
    let answer =
        "At most 12 sessions hold request_count avg <= 24 (13 did not: request_count avg was 26.00).";
    assert!(console.contains(answer), "{console}");
    assert!(console.contains("evenload profile | Search"), "{console}");
    let history = read(&directory, "search_history.json");
    assert_eq!(history["convergence_reason"], "monotonic_precision_reached");
    assert_eq!(history["boundary_summary"]["feasible_max"]["value"], 12);
    assert_eq!(history["recipe"], "max-concurrency-under-sla");
    // A busy machine adds a verdict to it.
    assert!(history["evenload"]["answer"].as_str().unwrap().starts_with(answer), "{history}");
    let probes: Vec<u64> = history["iterations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|probe| probe["variation_values"]["phases.profiling.concurrency"].as_u64().unwrap())
        .collect();
    assert_eq!(probes, [1, 2, 4, 8, 16, 12, 14, 13, 12]);
    let last = read(&directory, "search_iter_0008/profile_export_aiperf.json");
    assert_eq!(last["request_count"]["avg"], 24.0);
    let page = fs::read_to_string(directory.path().join("out/report.html")).unwrap();
    assert!(page.contains("At most 12 sessions"));
    let log = fs::read_to_string(directory.path().join("out/logs/aiperf.log")).unwrap();
    assert!(log.contains("INFO Probe 9: concurrency 12") && log.starts_with("20"), "{log}");
}

#[test]
fn limits_that_no_load_keeps_are_said_and_fail() {
    let (engines, directory) = stage();
    let flags = [
        "--search-recipe",
        "max-goodput-under-slo",
        "--ttft-sla-ms",
        "0.000001",
        "--tpot-sla-ms",
        "1",
        "--e2e-sla-ms",
        "5",
    ];
    let (code, console, said) = profile(&engines, &directory, &flags);
    assert_eq!(code, Some(3), "{said}");
    assert!(
        console.contains("No load holds good_request_fraction avg >= 0.95: 1 session is too many"),
        "{console}"
    );
    let history = read(&directory, "search_history.json");
    assert_eq!(history["convergence_reason"], "monotonic_no_pass_in_range");
    assert_eq!(history["boundary_summary"]["feasible_max"], Value::Null);
}

#[test]
fn a_ramp_says_where_a_figure_degrades() {
    let (engines, directory) = stage();
    let flags = [
        "--search-recipe",
        "concurrency-ramp",
        "--concurrency-max",
        "32",
        "--concurrency-steps",
        "3",
        "--degradation-metric-tag",
        "request_count",
        "--degradation-stat",
        "avg",
    ];
    let (code, console, said) = profile(&engines, &directory, &flags);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        console.contains(
            "At 32 sessions request_count avg more than 20 % above that of 1: 64.00 against 10.00."
        ),
        "{console}"
    );
    let knee = read(&directory, "sweep_aggregate/degradation_knee.json");
    assert_eq!((&knee["knee_concurrency"], &knee["baseline_avg"]), (&32.into(), &10.0.into()));
    // 6 is the middle of 1 and 32 on a logarithmic scale: 12 requests are no more than 20 % above 10.
    assert_eq!(knee["all_points"][1]["concurrency"], 6);
    assert_eq!(read(&directory, "sweep.json")["settings"].as_array().unwrap().len(), 3);
}

#[test]
fn repetitions_stop_when_the_metric_is_stable() {
    let (engines, directory) = stage();
    let flags = [
        "--request-count",
        "12",
        "--num-profile-runs",
        "5",
        "--convergence-metric",
        "output_sequence_length",
        "--convergence-mode",
        "cv",
    ];
    let (code, _, said) = profile(&engines, &directory, &flags);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("output_sequence_length is stable after 2 runs: the standard deviation is 0.0 %"),
        "{said}"
    );
    assert!(
        directory.path().join("out/run_0002").exists() && !directory.path().join("out/run_0003").exists()
    );
    let flags = [
        "--request-count",
        "12",
        "--num-profile-runs",
        "3",
        "--convergence-metric",
        "output_sequence_length",
        "--convergence-mode",
        "distribution",
    ];
    let (code, _, said) = profile(&engines, &directory, &flags);
    assert!(code == Some(0) && said.contains("probability of 100.0 %"), "{said}");
}

#[test]
fn searches_that_cannot_be_are_refused() {
    let (engines, directory) = stage();
    let refused = |flags: &[&str], part: &str| {
        let (code, _, said) = profile(&engines, &directory, flags);
        assert!(code == Some(2) && said.contains(part), "{flags:?}: {said}");
    };
    refused(&["--search-recipe", "pareto-sweep"], "lists do it");
    refused(&["--search-recipe", "max-concurrency-under-sla"], "needs a limit");
    refused(
        &["--search-recipe", "max-throughput-itl-sla", "--itl-sla-ms", "5", "--e2e-sla-ms", "5"],
        "--e2e-sla-ms is not for",
    );
    refused(&["--search-recipe", "concurrency-ramp", "--concurrency", "5"], "cannot be used with");
    refused(
        &["--search-planner", "bayesian"],
        "--search-planner is not supported: searches are over the concurrency",
    );
    refused(&["--convergence-metric", "request_latency"], "--num-profile-runs");
}
