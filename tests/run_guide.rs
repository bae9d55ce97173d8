//! Every configuration of inference-perf's load generation guide, as it is printed there, against a simulated engine.
//!
//! The guide leaves the server out, so it is added; nothing else is, where the example is a whole one. Those that
//! last a minute run at the same time. Two are too long for every day, a sweep of eighteen minutes and 600,000
//! requests in a closed loop: they are shortened by flags, and run at their full length by the ignored tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::{fs, thread};

use run_support::{Stage, said};

fn example(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/load_generation_guide");
    fs::read_to_string(format!("{folder}/{name}")).unwrap()
}

const SHORT: [&str; 2] = ["--load.stages", r#"[{"rate": 100, "duration": 2}]"#];

/// Runs an example as it is printed, and looks at how many requests were answered.
fn as_printed(text: &str, adapters: &[&str], requests: u64) -> Stage {
    let stage = Stage::with_adapters(adapters);
    stage.run(text, &[]);
    assert_eq!(stage.report("summary_lifecycle_metrics.json")["successes"]["count"], requests, "{text}");
    stage
}

/// `rate` was sent, within a factor: a busy machine stretches a run.
#[track_caller]
fn assert_rate(stage: &Stage, rate: f64) {
    let load = &stage.report("stage_0_lifecycle_metrics.json")["load_summary"];
    assert_eq!(load["requested_rate"], rate);
    let achieved = load["achieved_rate"].as_f64().unwrap();
    assert!((0.5..1.2).contains(&(achieved / rate)), "{load}");
}

#[test]
fn the_examples_that_last_a_minute() {
    thread::scope(|scope| {
        scope.spawn(a_specific_rate);
        scope.spawn(a_base_seed);
        scope.spawn(adapters_with_their_reports);
        scope.spawn(the_configuration_that_the_guide_shows_as_printed);
    });
}

fn a_specific_rate() {
    let stage = as_printed(&example("02_rate.yaml"), &[], 6000);
    assert_rate(&stage, 100.0);
    let config = fs::read_to_string(stage.path("out/config.yaml")).unwrap();
    for line in ["num_workers: 32", "worker_max_concurrency: 250", "worker_max_tcp_connections: 2500"] {
        assert!(config.contains(line), "{config}");
    }
}

fn a_base_seed() {
    let stage = as_printed(&example("05_base_seed.yaml"), &[], 6000);
    assert!(fs::read_to_string(stage.path("out/config.yaml")).unwrap().contains("base_seed: 12345"));
}

fn adapters_with_their_reports() {
    let text = example("06_lora.yaml") + &example("07_adapter_reports.yaml");
    let stage = as_printed(&text, &["movie", "consumer"], 6000);
    let mut total = 0;
    for name in ["movie", "consumer"] {
        let count = stage.report(&format!("adapter_{name}_lifecycle_metrics.json"))["successes"]["count"]
            .as_u64()
            .unwrap();
        // Half of 6,000, give or take eight standard deviations.
        assert!((2700..=3300).contains(&count), "{name}: {count}");
        total += count;
        let load =
            stage.report(&format!("adapter_{name}_stage_0_lifecycle_metrics.json"))["load_summary"].clone();
        assert_eq!(load["requested_rate"], 50.0, "an adapter's share of the rate");
    }
    assert_eq!(total, 6000);
}

fn the_configuration_that_the_guide_shows_as_printed() {
    let stage = as_printed(&example("13_printed_config.yaml"), &[], 30);
    assert_rate(&stage, 1.0);
}

#[test]
fn fixed_concurrency_levels() {
    let stage = Stage::new();
    stage.run(&example("03_concurrent.yaml"), &[]);
    for (number, count, level) in [(0, 1000, 32), (1, 2000, 64)] {
        let report = stage.report(&format!("stage_{number}_lifecycle_metrics.json"));
        assert_eq!(
            (&report["load_summary"]["count"], &report["load_summary"]["concurrency"]),
            (&count.into(), &level.into())
        );
        assert_eq!(report["successes"]["count"], count);
        let in_flight = report["evenload"]["mean_in_flight"].as_f64().unwrap();
        assert!(
            in_flight <= f64::from(level) + 0.01 && in_flight > f64::from(level) * 0.5,
            "{in_flight} of {level}"
        );
    }
}

/// 32 at a time, 30 tokens of at least 0.4 ms each: under 2,700 requests/s, whatever is asked for.
fn the_legacy_way(flags: &[&str], requests: u64) {
    let stage = Stage::with(engine::Config { speedup: 100.0, ..engine::Config::new(engine::Profile::l4()) });
    let output = stage.run(&example("04_legacy_concurrency.yaml"), flags);
    let report = stage.report("stage_0_lifecycle_metrics.json");
    assert_eq!(
        (&report["load_summary"]["count"], &report["failures"]["count"]),
        (&requests.into(), &0.into())
    );
    assert!(report["evenload"]["mean_in_flight"].as_f64().unwrap() <= 32.01);
    let text = said(&output.stdout);
    assert!(text.contains("the bound on what may be in flight"), "{text}");
    assert!(text.contains("load.num_workers 4 x load.worker_max_concurrency 8"), "{text}");
    assert!(
        report["load_summary"]["achieved_rate"].as_f64().unwrap() < 5_000.0,
        "the rate that came about is stated"
    );
}

#[test]
fn the_legacy_way_is_a_closed_loop_and_says_so() {
    the_legacy_way(&["--load.stages", r#"[{"rate": 10000, "duration": 1}]"#], 10_000);
}

#[test]
#[ignore = "takes minutes: 600,000 requests"]
fn the_legacy_way_at_its_full_length() {
    the_legacy_way(&[], 600_000);
}

/// 8 sequences, 30 tokens each, 5 ms a token: 53.3 requests/s.
#[test]
#[ignore = "takes twenty minutes: stages of three minutes each"]
fn the_sweep_at_its_full_length() {
    let profile = engine::Profile {
        step_base_s: 0.005,
        per_sequence_s: 0.0,
        per_context_token_s: 0.0,
        per_prefill_token_s: 0.0,
        max_num_seqs: 8,
        ..engine::Profile::l4()
    };
    let stage = Stage::with(engine::Config::new(profile));
    stage.run(&example("01_sweep.yaml"), &[]);
    let found = stage.report("summary_lifecycle_metrics.json")["sweep"]["requests_per_sec"].clone();
    let capacity = 8.0 / (30.0 * 0.005);
    assert!((found.as_f64().unwrap() / capacity - 1.0).abs() < 0.05, "{found} of {capacity}");
    for number in 0..6 {
        let report = stage.report(&format!("stage_{number}_lifecycle_metrics.json"));
        let load = &report["load_summary"];
        let (count, rate) = (load["count"].as_f64().unwrap(), load["requested_rate"].as_f64().unwrap());
        assert!((count - rate * 180.0).abs() <= 1.0 && report["failures"]["count"] == 0, "{number}: {load}");
    }
}

#[test]
fn the_splits_of_the_use_cases() {
    for (name, adapters) in [
        ("08_lora_ab.yaml", vec!["baseline", "optimized"]),
        ("09_lora_domains.yaml", vec!["medical", "legal", "technical"]),
        ("10_lora_rollout.yaml", vec!["stable", "experimental"]),
    ] {
        // The guide prints the list alone; it belongs under `load`.
        let indented: String = example(name).lines().map(|line| format!("  {line}\n")).collect();
        let stage = Stage::with_adapters(&adapters);
        stage.run(&format!("load:\n{indented}"), &SHORT);
        for adapter in adapters {
            let report = stage.report(&format!("adapter_{adapter}_lifecycle_metrics.json"));
            assert_eq!(report["failures"]["count"], 0, "{name}: {adapter}");
        }
    }
}

#[test]
fn a_trace_with_its_times_and_lengths() {
    let stage = Stage::new();
    fs::create_dir(stage.path("traces")).unwrap();
    fs::write(stage.path("traces/traces.csv"), example("traces.csv")).unwrap();
    stage.run(&(example("11_trace_load.yaml") + &example("12_trace_data.yaml")), &[]);
    let report = stage.report("stage_0_lifecycle_metrics.json");
    assert_eq!(report["successes"]["count"], 2);
    assert_eq!(report["successes"]["prompt_tokens"]["total"], 450.0);
    assert_eq!(report["successes"]["output_tokens"]["total"], 350.0);
    let sent = report["load_summary"]["send_duration"].as_f64().unwrap();
    assert!((5.0..11.0).contains(&sent), "5.5 s: {sent}");
}
