//! One run on several machines: shares of one schedule, merged into one report.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use run_support::{Stage, read, said};
use serde_json::Value;

const CONFIG: &str = "load:\n  type: poisson\n  base_seed: 7\n  interval: 0.2\n  stages:\n  - {rate: 80, duration: 2}\n  - {rate: 40, duration: 1}\n\
                      \x20 lora_traffic_split: [{name: a, split: 0.7}, {name: b, split: 0.2}, {name: c, split: 0.1}]\n\
                      data: {type: random, input_distribution: {max: 60, mean: 30, std_dev: 9}}\n\
                      report: {request_lifecycle: {per_adapter_stage: true}}\n";

/// What was asked for and when: stage, index, time in the stage, adapter, prompt length.
fn requests(path: &std::path::Path, manifest: &Value) -> BTreeSet<(u64, u64, u64, String, u64)> {
    let starts: Vec<u64> = manifest["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| {
            stage["start"]["secs"].as_u64().unwrap() * 1_000_000_000
                + stage["start"]["nanos"].as_u64().unwrap()
        })
        .collect();
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .skip(1)
        .map(|line| {
            let record: Value = serde_json::from_str(line).unwrap();
            let number = |key: &str| record[key].as_u64().unwrap();
            let at = number("scheduled_ns") - starts[number("phase") as usize];
            (
                number("phase"),
                number("index"),
                at,
                record["model"].as_str().unwrap().to_owned(),
                number("requested_tokens"),
            )
        })
        .collect()
}

#[test]
fn four_shares_are_the_whole_and_their_report_is_that_of_one() {
    let stage = Stage::with_adapters(&["a", "b", "c"]);
    stage.run(CONFIG, &["--storage.local_storage.path", "whole"]);
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 4;
    let start_ns = start * 1_000_000_000;
    let start = start.to_string();
    let shares: Vec<_> = (1..=4)
        .map(|share| {
            let (shard, folder) = (format!("{share}/4"), format!("share{share}"));
            let flags = ["--shard", &shard, "--start-at", &start, "--storage.local_storage.path", &folder];
            stage.command(CONFIG, &flags).stdout(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut share in shares {
        assert!(share.wait().unwrap().success());
    }
    let mut starts = Vec::new();
    let mut together = BTreeSet::new();
    for share in 1..=4 {
        let folder = stage.path(&format!("share{share}"));
        let manifest = read(&folder.join("run.json"));
        starts.push(manifest["stages"][0]["started_at_ns"].as_u64().unwrap());
        together.extend(requests(&folder.join("records.jsonl"), &manifest));
    }
    let whole = stage.path("whole");
    assert_eq!(together, requests(&whole.join("records.jsonl"), &read(&whole.join("run.json"))));
    // The two clocks differ by less than a millisecond.
    assert!(
        starts.iter().all(|&at| at + 1_000_000 >= start_ns),
        "each waits for the moment {start_ns}: {starts:?}"
    );

    let merged = Command::new(env!("CARGO_BIN_EXE_evenload"))
        .args(["report", "merge", "share1", "share2", "share3", "share4", "--out", "merged"])
        .current_dir(&stage.folder)
        .output()
        .unwrap();
    assert!(merged.status.success(), "{}", said(&merged.stderr));
    for name in [
        "summary_lifecycle_metrics.json",
        "stage_0_lifecycle_metrics.json",
        "adapter_b_stage_1_lifecycle_metrics.json",
    ] {
        let (one, four) = (read(&whole.join(name)), read(&stage.path("merged").join(name)));
        for path in [
            "/load_summary/count",
            "/load_summary/requested_rate",
            "/successes/count",
            "/successes/prompt_tokens/total",
            "/successes/output_tokens/median",
            "/successes/prompt_tokens/p99",
            "/failures/count",
        ] {
            assert_eq!(one.pointer(path), four.pointer(path), "{name}{path}");
        }
        let theirs = |report: &Value| {
            let paths = run_support::key_paths(report).into_iter();
            paths.filter(|path| !path.starts_with("evenload")).collect::<Vec<_>>()
        };
        assert_eq!(theirs(&one), theirs(&four), "{name}");
    }
    let rate = |folder: &str| {
        let report = read(&stage.path(folder).join("stage_0_lifecycle_metrics.json"));
        report["load_summary"]["achieved_rate"].as_f64().unwrap()
    };
    // Four shares make four times the rate of one; a busy machine may stretch any of them.
    let [merged, whole, share] = ["merged", "whole", "share1"].map(rate);
    assert!((0.5..2.0).contains(&(merged / whole)), "{merged} {whole}");
    assert!((2.0..8.0).contains(&(merged / share)), "a share has a share of the rate: {merged} {share}");

    let missing = Command::new(env!("CARGO_BIN_EXE_evenload"))
        .args(["report", "merge", "share1", "share3"])
        .current_dir(&stage.folder)
        .output()
        .unwrap();
    assert!(said(&missing.stderr).contains("shares 2/4, 4/4 are missing"), "{}", said(&missing.stderr));
}

#[test]
fn a_merge_never_writes_over_a_run() {
    let stage = Stage::new();
    for share in ["1/2", "2/2"] {
        let folder = format!("share{}", &share[..1]);
        let config = "load: {base_seed: 7, stages: [{rate: 20, duration: 1}]}\n";
        stage.run(config, &["--shard", share, "--storage.local_storage.path", &folder]);
    }
    std::os::unix::fs::symlink(stage.path("share1"), stage.path("link")).unwrap();
    fs::create_dir(stage.path("other")).unwrap();
    fs::copy(stage.path("share1/run.json"), stage.path("other/run.json")).unwrap();
    let before = fs::read(stage.path("share1/records.jsonl")).unwrap();
    let merge = |out: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
        command.args(["report", "merge", "share1", "share2", "-o", out]).current_dir(&stage.folder);
        command.output().unwrap()
    };
    for (out, why) in [
        ("share1", "one of the folders to merge"),
        ("share2/.", "one of the folders to merge"),
        ("link", "one of the folders to merge"),
        ("other", "it holds a run already"),
    ] {
        let refused = merge(out);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(said(&refused.stderr).contains(why), "{out}: {}", said(&refused.stderr));
    }
    assert_eq!(fs::read(stage.path("share1/records.jsonl")).unwrap(), before);
    assert!(merge("merged").status.success());
    assert_eq!(read(&stage.path("merged/summary_lifecycle_metrics.json"))["successes"]["count"], 20);
}

#[test]
fn a_level_that_shares_cannot_divide_is_refused() {
    let stage = Stage::new();
    let config = "load: {type: concurrent, stages: [{concurrency_level: 2, num_requests: 8}]}\n";
    let refused = stage.command(config, &["--shard", "1/4"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let why = "load.stages[0].concurrency_level is 2, which 4 shares cannot divide";
    assert!(said(&refused.stderr).contains(why), "{}", said(&refused.stderr));
    stage.run(config, &["--shard", "1/2"]);
}

#[test]
fn the_same_seed_gives_the_same_requests_for_any_number_of_threads() {
    let stage = Stage::with_adapters(&["a", "b", "c"]);
    let runs: Vec<_> = ["1", "2", "8"]
        .map(|threads| {
            let folder = format!("threads{threads}");
            stage.run(
                CONFIG,
                &[
                    "--evenload.threads",
                    threads,
                    "--load.num_workers",
                    threads,
                    "--storage.local_storage.path",
                    &folder,
                ],
            );
            let folder = stage.path(&folder);
            requests(&folder.join("records.jsonl"), &read(&folder.join("run.json")))
        })
        .into();
    assert_eq!(runs[0].len(), 200);
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0], runs[2]);
}

#[test]
fn a_merged_report_has_no_shares_prefix_and_two_runs_in_a_folder_are_refused() {
    let stage = Stage::new();
    let config = "load: {interval: 0, base_seed: 3, stages: [{rate: 20, duration: 1}]}\ndata: {type: mock}\n";
    let run = |shard: &str, folder: &str, prefix: &str| {
        let flags = [
            "--shard",
            shard,
            "--storage.local_storage.path",
            folder,
            "--storage.local_storage.report_file_prefix",
            prefix,
        ];
        stage.run(config, &flags);
    };
    run("1/2", "one", "A_");
    run("2/2", "two", "B_");
    let merge = |folders: [&str; 2], out: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
        command.args(["report", "merge"]).args(folders).args(["--out", out]).current_dir(&stage.folder);
        command.output().unwrap()
    };
    let merged = merge(["one", "two"], "merged");
    assert!(merged.status.success(), "{}", said(&merged.stderr));
    assert!(stage.path("merged/summary_lifecycle_metrics.json").is_file());
    let config = fs::read_to_string(stage.path("merged/config.yaml")).unwrap();
    assert!(!config.contains("A_") && config.contains("path: merged"), "{config}");

    fs::copy(stage.path("two/B_run.json"), stage.path("one/B_run.json")).unwrap();
    let refused = merge(["one", "two"], "again");
    let said = said(&refused.stderr);
    assert!(!refused.status.success() && said.contains("are two runs in one folder"), "{said}");
}
