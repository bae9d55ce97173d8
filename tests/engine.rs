//! `evenload engine` as its users run it: what it says at the start.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// The first line on standard error of an engine with these flags, and whether the engine goes on after it.
fn first_words(flags: &[&str]) -> (String, bool) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_evenload"))
        .args(["engine", "--port=0"])
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = errors.next().unwrap().unwrap();
    let goes_on = line.ends_with("Ctrl-C stops");
    if goes_on {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    assert!(goes_on || status.code() == Some(1), "{status}");
    (line, goes_on)
}

#[test]
fn it_is_ready_when_it_answers_and_not_before() {
    let (line, goes_on) = first_words(&[]);
    assert!(goes_on && line.starts_with("1 engine(s) ready, "), "{line}");
    let (line, goes_on) = first_words(&["--startup-delay=3600", "--replicas=2"]);
    assert!(goes_on && line.starts_with("2 engine(s) listening, ready in 3600s, "), "{line}");
}

#[test]
fn one_name_for_two_is_refused_at_the_start() {
    for flags in [
        &["--lora-modules", "a=/x", "a=/y"][..],
        &["--served-model-name", "a", "a"],
        &["--served-model-name", "a", "--lora-modules", "a=/x"],
    ] {
        let (line, goes_on) = first_words(flags);
        assert!(!goes_on && line.contains("\"a\""), "{line}");
    }
}

#[test]
fn fixed_times_have_an_end() {
    for flag in ["--fixed-ttft-ms=1e30", "--fixed-ttft-ms=-1", "--fixed-ttft-ms=NaN"] {
        let output = Command::new(env!("CARGO_BIN_EXE_evenload"))
            .args(["engine", "--port=0", "--fixed-itl-ms=1", flag])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains("milliseconds from 0 to 1000000"),
            "{flag}: {said}"
        );
    }
}
