//! Every configuration of inference-perf's load generation guide, as it is printed there, against a simulated engine.
//!
//! The guide leaves the server out, so it is added. Lengths of minutes are shortened by flags; the ignored test runs
//! them at their full length.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::fs;

use run_support::{Stage, said};

fn example(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/load_generation_guide");
    fs::read_to_string(format!("{folder}/{name}")).unwrap()
}

const SHORT: [&str; 2] = ["--load.stages", r#"[{"rate": 100, "duration": 2}]"#];

/// Runs an example for two seconds at 100 requests/s.
fn short(name: &str, adapters: &[&str], more: &str) -> Stage {
    let stage = Stage::with_adapters(adapters);
    stage.run(&(example(name) + more), &SHORT);
    let summary = stage.report("summary_lifecycle_metrics.json");
    assert_eq!(summary["successes"]["count"], 200, "{name}");
    stage
}

#[test]
fn a_specific_rate() {
    let stage = short("02_rate.yaml", &[], "");
    let load = &stage.report("stage_0_lifecycle_metrics.json")["load_summary"];
    assert_eq!((&load["count"], &load["requested_rate"]), (&200.into(), &100.0.into()));
    assert!((load["achieved_rate"].as_f64().unwrap() - 100.0).abs() < 10.0, "{load}");
    let config = fs::read_to_string(stage.path("out/config.yaml")).unwrap();
    for line in ["num_workers: 32", "worker_max_concurrency: 250", "worker_max_tcp_connections: 2500"] {
        assert!(config.contains(line), "{config}");
    }
}

#[test]
fn fixed_concurrency_levels() {
    let stage = Stage::new();
    stage.run(&example("03_concurrent.yaml"), &["--load.interval", "0"]);
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

#[test]
fn the_legacy_way_is_a_closed_loop_and_says_so() {
    // 32 at a time, 30 tokens of at least 0.4 ms each: under 2,700 requests/s.
    let stage = Stage::with(engine::Config { speedup: 100.0, ..engine::Config::new(engine::Profile::l4()) });
    let output = stage.run(
        &example("04_legacy_concurrency.yaml"),
        &["--load.stages", r#"[{"rate": 10000, "duration": 1}]"#],
    );
    let report = stage.report("stage_0_lifecycle_metrics.json");
    assert_eq!(report["load_summary"]["count"], 10_000);
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
fn a_base_seed_is_kept() {
    let stage = short("05_base_seed.yaml", &[], "");
    assert!(fs::read_to_string(stage.path("out/config.yaml")).unwrap().contains("base_seed: 12345"));
}

#[test]
fn adapters_with_their_reports() {
    let stage = short("06_lora.yaml", &["movie", "consumer"], &example("07_adapter_reports.yaml"));
    let mut total = 0;
    for name in ["movie", "consumer"] {
        let count = stage.report(&format!("adapter_{name}_lifecycle_metrics.json"))["successes"]["count"]
            .as_u64()
            .unwrap();
        assert!((60..=140).contains(&count), "{name}: {count}");
        total += count;
        let load =
            stage.report(&format!("adapter_{name}_stage_0_lifecycle_metrics.json"))["load_summary"].clone();
        assert_eq!(load["requested_rate"], 50.0, "an adapter's share of the rate");
    }
    assert_eq!(total, 200);
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
    stage.run(
        &(example("11_trace_load.yaml") + &example("12_trace_data.yaml")),
        &["--evenload.trace_speed", "5"],
    );
    let report = stage.report("stage_0_lifecycle_metrics.json");
    assert_eq!(report["successes"]["count"], 2);
    assert_eq!(report["successes"]["prompt_tokens"]["total"], 450.0);
    assert_eq!(report["successes"]["output_tokens"]["total"], 350.0);
    let sent = report["load_summary"]["send_duration"].as_f64().unwrap();
    assert!((1.05..1.6).contains(&sent), "5.5 s at five times the speed: {sent}");
}

#[test]
fn the_configuration_that_the_guide_shows_as_printed() {
    let stage = Stage::new();
    stage.run(&example("13_printed_config.yaml"), &["--load.stages", r#"[{"rate": 1.0, "duration": 3}]"#]);
    let load = &stage.report("stage_0_lifecycle_metrics.json")["load_summary"];
    let rate = load["achieved_rate"].as_f64().unwrap();
    assert!((rate - 1.0).abs() < 0.1, "three requests are two gaps: {rate}");
}

#[test]
#[ignore = "takes minutes: the examples at their full length"]
fn the_examples_at_their_full_length() {
    for (name, requests) in
        [("02_rate.yaml", 6000), ("05_base_seed.yaml", 6000), ("13_printed_config.yaml", 30)]
    {
        let stage = Stage::new();
        stage.run(&example(name), &[]);
        assert_eq!(stage.report("summary_lifecycle_metrics.json")["successes"]["count"], requests, "{name}");
    }
    let stage = Stage::with_adapters(&["movie", "consumer"]);
    stage.run(&example("06_lora.yaml"), &[]);
    let stage = Stage::new();
    stage.run(&example("01_sweep.yaml"), &["--load.sweep.stage_duration", "10"]);
}
