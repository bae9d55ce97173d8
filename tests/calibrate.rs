//! `evenload calibrate` as its users run it: a short run, of which only the shape is asserted. What the figures mean is
//! tested in `report`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, process::Command};

use serde_json::Value;

#[test]
fn it_prints_each_rate_and_says_what_they_come_to() {
    let directory = tempfile::tempdir().unwrap();
    let flags = [
        "calibrate",
        "--rates=500,250",
        "--seconds=0.5",
        "--ttft-ms=5",
        "--itl-ms=1",
        "--tokens=3",
        "--no-ceiling",
        "--tries=1",
    ];
    let output = Command::new(env!("CARGO_BIN_EXE_evenload"))
        .args(flags)
        .args(["--json", "points.jsonl"])
        .current_dir(&directory)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    let points = fs::read_to_string(directory.path().join("points.jsonl")).unwrap();
    let points: Vec<Value> = points.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rates: Vec<&Value> = points.iter().map(|point| &point["rate"]).collect();
    assert_eq!(rates, [250.0, 500.0], "in rising order");
    for (point, rate) in points.iter().zip(["250", "500"]) {
        // About rate x 0.5 s, and never fewer than a hundred in the plan.
        assert!(point["answered"].as_u64().unwrap() > 50, "{point}");
        for key in [
            "ttft_error_p50_ms",
            "ttft_error_p99_ms",
            "itl_error_p50_ms",
            "send_lag_p99_ms",
            "engine_late_max_ms",
        ] {
            assert!(point[key].as_f64().unwrap().is_finite(), "{key}: {point}");
        }
        // An engine never answers early.
        assert!(point["ttft_error_p50_ms"].as_f64().unwrap() > -0.5, "{point}");
        let row = said
            .lines()
            .find(|line| line.contains(&format!("│ {rate} │")) || line.contains(&format!(" {rate} │")));
        assert!(row.is_some(), "{rate}: {said}");
    }
    let right = points.iter().any(|point| point["right"] == true);
    let verdict = if right { "Ceiling: " } else { "No rate was measured right: " };
    assert!(said.contains(verdict) && said.contains("beyond 5 and 1 ms"), "{said}");
    assert_eq!(output.status.code(), Some(if right { 0 } else { 1 }), "{said}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for (flag, said) in [("--rates=0", "--rates"), ("--seconds=0", "--seconds"), ("--tokens=1", "--tokens")] {
        let output = Command::new(env!("CARGO_BIN_EXE_evenload")).args(["calibrate", flag]).output().unwrap();
        assert!(!output.status.success(), "{flag}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{flag}: {output:?}");
    }
}
