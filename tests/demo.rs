//! `evenload demo`: what it says of its own figures, and what it does when it cannot keep them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, os::unix::fs::symlink, process::Command};

use serde_json::Value;

fn demo(folder: &tempfile::TempDir, flags: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_evenload"))
        .current_dir(folder)
        .args(["demo", "--requests", "30", "--speedup", "100", "--output", "out"])
        .args(flags)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn every_policy_has_a_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let (status, said) = demo(&folder, &["--policy", "random", "--policy", "prefix_aware"]);
    assert_eq!(status, Some(0), "{said}");
    let object: Value =
        serde_json::from_slice(&fs::read(folder.path().join("out/demo.json")).unwrap()).unwrap();
    let page = fs::read_to_string(folder.path().join("out/report.html")).unwrap();
    for (place, policy) in ["random", "prefix_aware"].into_iter().enumerate() {
        let told = &object["assessments"][place];
        assert_eq!(told["policy"], policy);
        let verdict = told["assessment"]["verdict"].as_str().unwrap();
        assert!(said.contains(&format!("{policy}: Verdict: {verdict}\n")), "{said}");
        assert!(page.contains(&format!("<b>{verdict}</b><span>{policy}</span>")), "{policy}");
    }
    let first_figure = page.find("<figure").unwrap();
    assert!(page.find("class=\"verdict").unwrap() < first_figure);
    assert!(page.contains(">replica 8<") && page.contains("caches were still filling"));
}

#[test]
fn records_that_are_lost_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("out")).unwrap();
    symlink("/dev/full", folder.path().join("out/records-random.jsonl")).unwrap();
    let (status, said) = demo(&folder, &["--policy", "random"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("cannot write out/records-random.jsonl") && said.contains("No space left"),
        "{said}"
    );
}

/// At a hundred times the speed a step takes less than a millisecond here, and no engine ends it in time.
#[test]
fn a_verdict_tells_the_time_of_the_engines() {
    let folder = tempfile::tempdir().unwrap();
    let (status, said) = demo(&folder, &["--policy", "random"]);
    assert_eq!(status, Some(0), "{said}");
    let steps = said.split("engine steps of ").nth(1).unwrap_or_else(|| panic!("{said}"));
    let step_ms: f64 = steps.split(' ').next().unwrap().parse().unwrap();
    assert!((10.0..1000.0).contains(&step_ms), "{said}");
}
