//! `evenload report --analyze`: what it draws of which folders, and what it says of those that it cannot read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A stage's report as inference-perf writes it, as far as it is read.
fn stage(rate: f64) -> String {
    let report = json!({
        "load_summary": {"requested_rate": rate, "achieved_rate": rate, "schedule_delay": {"p99": 0.001}},
        "successes": {
            "latency": {"request_latency": {"mean": 0.4, "median": 0.3, "p90": 0.6, "p99": 0.9}},
            "throughput": {"output_tokens_per_sec": 4.0 * rate, "requests_per_sec": rate},
        },
    });
    report.to_string()
}

/// Writes the reports of a run's stages, whose names begin with `prefix`.
fn reports(folder: &Path, prefix: &str, numbers: &[u32]) {
    fs::create_dir_all(folder).unwrap();
    for number in numbers {
        let name = format!("{prefix}stage_{number}_lifecycle_metrics.json");
        fs::write(folder.join(name), stage(f64::from(number + 1) * 10.0)).unwrap();
    }
}

fn analyze(root: &TempDir, folders: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_evenload"))
        .current_dir(root)
        .args(["report", "--analyze"])
        .args(folders)
        .args(["-u", "together"])
        .output()
        .unwrap();
    (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

fn legend(root: &TempDir) -> Value {
    serde_json::from_slice(&fs::read(root.path().join("together/analyzed_reports_legend.json")).unwrap())
        .unwrap()
}

#[test]
fn all_runs_are_drawn_under_names_of_their_own() {
    let root = tempfile::tempdir().unwrap();
    for folder in ["a/reports", "b/reports", "c", "d"] {
        reports(&root.path().join(folder), "", &[0, 1, 2]);
    }
    let (status, said) = analyze(&root, &["a/reports", "b/reports", "c", "d"]);
    assert_eq!(status, Some(0), "{said}");
    let expected =
        json!({"Report 1": "a/reports", "Report 2": "b/reports", "Report 3": "c", "Report 4": "d"});
    assert_eq!(legend(&root), expected);
    let svg = fs::read_to_string(root.path().join("together/throughput_vs_qps.svg")).unwrap();
    for name in ["Report 1: a/reports", "Report 2: b/reports", "Report 3: c", "Report 4: d"] {
        assert!(svg.contains(&format!(">{name}</text>")), "{name}: {svg}");
    }
    assert!(!svg.contains("not shown"));
}

#[test]
fn runs_in_one_folder_are_told_apart_by_their_prefixes() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("both");
    // An adapter's files are no run; neither "stage_" nor "adapter_" in a prefix hides one.
    for (prefix, numbers) in
        [("A_prestage_", &[0, 4][..]), ("my_adapter_", &[1]), ("my_adapter_adapter_x_", &[1])]
    {
        reports(&folder, prefix, numbers);
    }
    let (status, said) = analyze(&root, &["both"]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(legend(&root), json!({"Report 1": "both/A_prestage_", "Report 2": "both/my_adapter_"}));
    let page = fs::read_to_string(folder.join("analysis.html")).unwrap();
    assert!(page.contains("2 runs, 3 stages"), "{page}");
    assert!(page.contains("<td>both/A_prestage_</td><td>4</td>"), "stages keep their numbers");
}

#[test]
fn what_cannot_be_read_is_said_and_the_rest_is_drawn() {
    let root = tempfile::tempdir().unwrap();
    let place = |name: &str| root.path().join(name);
    for folder in ["good", "nan", "foreign"] {
        reports(&place(folder), "", &[0, 1]);
    }
    fs::write(place("nan/stage_1_lifecycle_metrics.json"), "{\"load_summary\": NaN}").unwrap();
    fs::write(place("foreign/records.jsonl"), "{\"text\": \"no record\"}\n").unwrap();
    fs::write(place("good/records.jsonl"), "").unwrap();
    let (status, said) = analyze(&root, &["nan", "foreign", "good"]);
    assert_eq!(status, Some(0), "{said}");
    for file in ["nan/stage_1_lifecycle_metrics.json", "foreign/records.jsonl", "good/records.jsonl"] {
        assert!(said.contains(&format!("warning: {file}: ")), "{file}: {said}");
    }
    assert_eq!(legend(&root).as_object().unwrap().len(), 3);

    fs::create_dir(place("nothing")).unwrap();
    reports(&place("list"), "", &[0]);
    fs::write(place("list/stage_0_lifecycle_metrics.json"), "[]").unwrap();
    let (status, said) = analyze(&root, &["missing", "nothing", "list", "good"]);
    assert_eq!(status, Some(1), "{said}");
    for part in [
        "cannot read missing",
        "nothing: no stage_N_lifecycle_metrics.json",
        "list: none of its reports can be read",
        "written: good/analysis.html",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }

    fs::write(place("list/stage_0_lifecycle_metrics.json"), "{\"load_summary\": {}}").unwrap();
    let (status, said) = analyze(&root, &["list"]);
    assert!(status == Some(0) && said.contains("warning: list: the reports hold no figure"), "{said}");
}
