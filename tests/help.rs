//! The help names what a flag takes: no types of the program, and every name that may be chosen.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

fn help(command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_evenload")).args(command).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn values_have_names_for_people() {
    for command in [
        &["serve"][..],
        &["engine"],
        &["demo"],
        &["run"],
        &["profile"],
        &["bench"],
        &["calibrate"],
        &["report"],
        &["simulate", "run"],
        &["simulate", "replay"],
        &["simulate", "fit"],
        &["simulate", "kubeai"],
    ] {
        let help = help(command);
        let lower =
            |value: &&str| value.split('>').next().is_some_and(|name| name.contains(char::is_lowercase));
        let types: Vec<&str> = help.split(" <").skip(1).filter(lower).collect();
        assert!(types.is_empty(), "{command:?}: {types:?}");
    }
}

#[test]
fn names_that_may_be_chosen_are_told() {
    for command in ["serve", "demo"] {
        let help = help(&[command]);
        for policy in routing::PolicyName::ALL {
            assert!(help.contains(policy.label()), "{command}: {policy}");
        }
    }
    assert!(help(&["demo"]).contains("one of 800, 1600, 3200, 8000 [default: 800]"));
    let engine = help(&["engine"]);
    for name in engine::Profile::NAMES
        .into_iter()
        .chain(protocol::kv_events::EventFormat::ALL.map(|format| format.label()))
    {
        assert!(engine.contains(name), "{name}");
    }
}

#[test]
fn a_simulations_values_are_named_as_a_load_generators_are() {
    for command in ["run", "replay", "fit", "kubeai"] {
        let help = help(&["simulate", command]);
        for field in ["SEED", "SEEDS", "FAULTS", "POLICIES", "PROFILES", "THINK_TIME_S", "NETWORK_MS"] {
            assert!(!help.contains(&format!("<{field}>")), "{command}: {field}");
        }
        assert!(!help.contains(". [default: "), "{command}: {help}");
    }
}
