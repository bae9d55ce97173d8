//! `evenload calibrate` as its users run it: a short run, of which only the shape is asserted. What the figures mean is
//! tested in `report`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use serde_json::Value;

fn calibrate(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
    command.arg("calibrate").args(flags);
    command
}

#[test]
fn it_prints_each_rate_and_says_what_they_come_to() {
    let directory = tempfile::tempdir().unwrap();
    let flags = [
        "--rates=500,250",
        "--seconds=0.5",
        "--ttft-ms=5",
        "--itl-ms=1",
        "--tokens=3",
        "--no-ceiling",
        "--tries=1",
    ];
    let output = calibrate(&flags).args(["--json", "points.jsonl"]).current_dir(&directory).output().unwrap();
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
fn what_cannot_be_measured_is_refused_before_a_word_is_said() {
    for (flag, said) in [
        ("--rates=0", "--rates"),
        ("--rates=1e-300", "--rates"),
        ("--rates=nan", "--rates"),
        ("--rates=1e300", "--rates"),
        ("--seconds=0", "--seconds"),
        ("--seconds=inf", "--seconds"),
        ("--ttft-ms=-1", "--ttft-ms"),
        ("--itl-ms=NaN", "--itl-ms"),
        ("--tokens=1", "--tokens"),
    ] {
        let output = calibrate(&[flag]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flag}: {output:?}");
        assert!(output.stdout.is_empty(), "{flag}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{flag}: {output:?}");
    }
    let output = calibrate(&["--json=/dev/null/points.jsonl"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("cannot write /dev/null/points.jsonl"),
        "{output:?}"
    );
}

#[test]
fn one_that_is_ended_by_hand_finds_nothing_about_the_machine() {
    let mut child =
        calibrate(&["--seconds=600"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    assert!(out.read_line(&mut line).unwrap() > 0, "it ended before it began");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("ended by hand"), "{output:?}");
    assert!(!rest.contains("No rate was measured right") && !rest.contains("idle machine"), "{rest}");
}
