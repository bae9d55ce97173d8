//! `evenload simulate` on the command line: what it refuses, the files
//! that it writes, and that traffic which a balancer recorded can be played again.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

fn simulate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
    command.arg("simulate");
    command
}

/// Status and everything that was said.
fn said(arguments: &[&str]) -> (Option<i32>, String) {
    let output = simulate().args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn what_would_do_nothing_is_refused() {
    for (arguments, wanted) in [
        (&["run", "--turns=9"][..], "--turns plays no part in this --workload"),
        (&["run", "--workload=words", "--concurrency=4", "--block-tokens=8"], "--block-tokens plays no part"),
        (&["run", "--workload=conversations", "--concurrency=0"], "--concurrency"),
        (&["run", "--workload=conversations", "--rate=1e-300"], "from 0.000001"),
        (&["run", "--replicas=0"], "--replicas"),
        (&["run", "--workload=words", "--concurrency=4", "--arrival=constant"], "give --rate"),
        (&["run", "--workload=words", "--concurrency=4", "--speed-up=2"], "a file's own times"),
        (&["replay", "none.jsonl", "--replicas=100000"], "--replicas"),
        (
            &["run", "--workload=words", "--concurrency=4", "--preambles=0", "--preamble-tokens=9"],
            "--preambles 0",
        ),
        (&["run", "--policy={\"prefix_hash\": {\"prefix_chars\": 50}}"], "`prefix_chars` plays no part"),
        (&["run", "--policy={\"prefix_hash\": {\"key\": \"whole_prompt\"}}"], "`key` plays no part"),
        (&["run", "--policy={\"session\": {\"headers\": [\"x\"]}}"], "`headers` plays no part"),
        (&["run", "--policy={\"prefix_aware\": {\"balancers\": 3}}"], "--balancers says"),
        (&["kubeai", "--output=/dev/null/x"], "cannot create /dev/null/x"),
        (&["fit", "none.jsonl", "--base=l4-llama-3.1-8b-fp8=3"], "leave =COUNT (=3) out"),
        (&["run", "--profile=l4-llama-3.1-8b-fp8@1e-300"], "from 0.001 to 1000"),
        (&["run", "--fault=0:0:speed=1e-300"], "a factor from 0.001 to 1000"),
        (&["run", "--network-ms=1e22"], "from 0 to 3600000"),
        (&["run", "--workload=conversations", "--rate=1", "--think-time-s=1e19"], "at most 1000000"),
        (&["run", "--policy={\"prefix_aware\": {\"engine\": {\"step_s\": 1e300}}}"], "at most 1000"),
    ] {
        let (status, said) = said(arguments);
        assert!(status.is_some_and(|status| status != 0) && said.contains(wanted), "{arguments:?}: {said}");
    }
}

#[test]
fn what_cannot_be_kept_is_refused_before_the_simulation() {
    let (status, said) = said(&["run", "--workload=conversations", "--rate=1", "--output=/dev/null/x"]);
    assert_ne!(status, Some(0));
    assert!(said.contains("cannot create /dev/null/x") && !said.contains("tokens/s"), "{said}");
}

#[test]
fn a_file_with_times_is_sent_once_and_otherwise_as_often_as_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.jsonl");
    let row = |at: u32| format!("{{\"timestamp\": {at}, \"input_length\": 40, \"output_length\": 3}}\n");
    fs::write(&path, (0..5).map(row).collect::<String>()).unwrap();
    let workload = format!("--workload=mooncake_trace:{}", path.display());
    let run = |more: &[&str]| said(&[&["run", &workload, "--no-bound", "--seed=1"], more].concat());
    let (status, refused) = run(&["--sessions=6"]);
    assert_ne!(status, Some(0));
    assert!(refused.contains("times for 5 sessions, not for 6"), "{refused}");
    for (more, requests) in
        [(&["--sessions=5"][..], "5 requests with"), (&["--sessions=12", "--rate=10"], "12 requests with")]
    {
        let (status, said) = run(more);
        assert!(status == Some(0) && said.starts_with(requests), "{more:?}: {said}");
    }
    fs::write(&path, row(0).replace("3}", "4000000000}")).unwrap();
    let (status, refused) = run(&[]);
    assert!(status != Some(0) && refused.contains("an answer of 4000000000 tokens"), "{refused}");
}

/// A request that a balancer recorded.
fn decision(number: u64, model: &str, replica: &str) -> Value {
    json!({
        "timestamp": number * 20, "input_length": 400, "output_length": 20, "model": model, "block_tokens": 16,
        "hash_ids": (0..25).map(|block| number << 8 | block).collect::<Vec<_>>(), "policy": "random",
        "replica": replica, "outcome": "complete", "status": 200, "ttft_ms": 50, "duration_ms": 500,
    })
}

#[test]
fn models_go_where_they_went_and_what_is_left_out_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    // Nine in ten are for an adapter that one of three replicas has.
    let replicas = ["http://a", "http://b", "http://c"];
    let mut lines: Vec<String> = (0..200)
        .map(|number| match number % 10 {
            0 => decision(number, "base", replicas[number as usize / 10 % 3]),
            _ => decision(number, "support", "http://b"),
        })
        .map(|decision| decision.to_string())
        .collect();
    let mut embedding = decision(9, "base", "http://a");
    embedding["output_length"] = json!(0);
    lines.extend([embedding.to_string(), "{\"cut".to_owned()]);
    fs::write(&path, lines.join("\n")).unwrap();
    let path = path.to_string_lossy();
    let output = folder.path().join("results");
    let output = format!("--output={}", output.display());
    let replay = |more: &[&str]| {
        let arguments = ["replay", &path, "--policy=least_requests", "--no-bound", "--seed=1"];
        let (status, said) = said(&[&arguments, more].concat());
        assert_eq!(status, Some(0), "{said}");
        said
    };
    let imbalance = |more: &[&str]| {
        let said = replay(&[&["--json"], more].concat());
        let rows: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(rows[0]["policy"], "as recorded");
        rows[1]["figures"]["imbalance"].as_f64().unwrap()
    };
    assert!(imbalance(&[]) >= 2.7, "the adapter is on one replica of three");
    assert!(imbalance(&["--models-anywhere"]) < 1.5);
    assert!(imbalance(&["--replicas=4"]) < 1.5);

    let said = replay(&[&output]);
    for wanted in [
        "support (to 1 of 3)",
        "left out: answers without output tokens (embeddings) 1, lines that are no decisions 1",
    ] {
        assert!(said.contains(wanted), "{said}");
    }
    assert!(replay(&["--replicas=4"]).contains("with 4 of them every one serves every model"));
    let file = |name: &str| fs::read_to_string(folder.path().join("results").join(name)).unwrap();
    let results: Value = serde_json::from_str(&file("results.json")).unwrap();
    assert_eq!(results["recorded"]["mean_ttft_ms"].as_f64(), Some(50.0));
    assert_eq!(results["served"], json!({"support": [1]}));
    let page = file("report.html");
    assert!(page.contains(">as recorded<") && page.contains("went to in the log: support (to 1 of 3)."));
    let said = replay(&["--json"]);
    let first: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(first["served"], json!({"support": [1]}));
}

#[test]
fn a_fit_says_what_it_did_not_find_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let lines = (0..3).map(|number| format!("{}\n", decision(number * 100, "m", "http://a")));
    fs::write(&path, lines.collect::<String>()).unwrap();
    let (status, said) = said(&["fit", &path.to_string_lossy()]);
    assert_eq!(status, Some(0), "{said}");
    for wanted in [
        "preallocated_blocks 0, reserve_prompt true, prefix_caching true",
        "held out: nothing; that needs four",
    ] {
        assert!(said.contains(wanted), "{said}");
    }
}

/// A decision of a replica at its second, with an answer of four tokens.
fn decision_of(number: u64, input_length: u64) -> Value {
    json!({
        "timestamp": number * 1000, "input_length": input_length, "output_length": 4, "hash_ids": [], "block_tokens": 16,
        "policy": "random", "replica": "http://a", "outcome": "complete", "status": 200, "ttft_ms": 50.0,
        "duration_ms": 110.0,
    })
}

/// Eight decisions; the last one, which a fit holds out, is about a long prompt.
fn log_with_a_long_prompt(directory: &Path, long: u64) -> String {
    let path = directory.join("decisions.jsonl");
    let lines =
        (0..8).map(|number| format!("{}\n", decision_of(number, if number == 7 { long } else { 100 })));
    fs::write(&path, lines.collect::<String>()).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn a_fit_takes_the_longest_request_or_says_which_one_is_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let base = "--base=rtx4090-llama-3.1-8b-bf16";
    let path = log_with_a_long_prompt(folder.path(), 40_000);
    let (status, text) = said(&["fit", &path, base]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("max_model_len 40004 (raised to the longest that was measured)"), "{text}");
    assert!(text.contains("held out            2"), "{text}");
    let (status, text) = said(&["fit", &path, base, "--max-model-len=32768"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains(
        "decisions.jsonl:8: 40004 tokens of prompt and output, but the engine takes at most 32768"
    ));
    let path = log_with_a_long_prompt(folder.path(), 60_000);
    let (status, text) = said(&["fit", &path, base]);
    assert_eq!(status, Some(1), "{text}");
    assert!(
        text.contains("takes at most 41408") && text.contains("--fit-kv-blocks find the memory"),
        "{text}"
    );
    let (status, text) = said(&["fit", &path, base, "--fit-kv-blocks"]);
    assert!(status == Some(0) && text.contains("\"max_model_len\": 60004"), "{text}");
}

#[test]
fn counts_of_profiles_make_the_fleet_of_a_replay() {
    let folder = tempfile::tempdir().unwrap();
    let path = log_with_a_long_prompt(folder.path(), 100);
    let replicas = |profiles: &[&str]| {
        let output = folder.path().join("results");
        let output_flag = format!("--output={}", output.display());
        let mut arguments = vec!["replay", &path, "--no-bound", "--seed=1", &output_flag];
        arguments.extend(profiles);
        let (status, text) = said(&arguments);
        assert_eq!(status, Some(0), "{text}");
        let results = fs::read(output.join("results.json")).unwrap();
        let results: Value = serde_json::from_slice(&results).unwrap();
        results["policies"][0]["trials"][0]["simulation"]["replicas"].as_array().unwrap().len()
    };
    assert_eq!(replicas(&["--profile=l4-llama-3.1-8b-fp8"]), 1, "as in the log");
    assert_eq!(replicas(&["--profile=l4-llama-3.1-8b-fp8=3", "--profile=h100-llama-3.1-8b-bf16=2"]), 5);
    let (status, text) =
        said(&["replay", &path, "--profile=l4-llama-3.1-8b-fp8=3", "--profile=h100-llama-3.1-8b-bf16"]);
    assert!(status == Some(1) && text.contains("for every --profile or for none"), "{text}");
}

/// Two hundred prompts with one beginning in common, ten to a conversation. Policies that go by a key find it in the
/// log.
#[test]
fn recorded_keys_decide_where_recorded_requests_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let line = |number: u64| {
        let conversation = number % 20;
        let blocks: Vec<u64> =
            (0..100).map(|block| if block < 8 { block } else { conversation << 20 | block }).collect();
        let decision = json!({
            "timestamp": number * 400, "input_length": 1605, "output_length": 4, "hash_ids": blocks,
            "block_tokens": 16, "prefix_key": conversation, "session_key": conversation, "policy": "random",
            "replica": format!("http://{}", number % 4), "outcome": "complete", "status": 200, "duration_ms": 100,
        });
        format!("{decision}\n")
    };
    fs::write(&path, (0..200).map(line).collect::<String>()).unwrap();
    let policies = ["prefix_hash", "session", "random"];
    let flags = policies.map(|policy| format!("--policy={policy}"));
    let path = path.to_string_lossy();
    let mut arguments = vec!["replay", &path, "--json", "--no-bound", "--seed=1"];
    arguments.extend(flags.iter().map(String::as_str));
    let (status, said) = said(&arguments);
    assert_eq!(status, Some(0), "{said}");
    let hits = policies.map(|policy| {
        let rows = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let row = rows.into_iter().find(|row| row["policy"] == policy).unwrap();
        row["figures"]["prefix_hit_ratio"].as_f64().unwrap()
    });
    // 20 of 200 prompts are new to their conversation's replica.
    assert!(hits[0] > 0.88 && hits[1] > 0.88 && hits[2] < 0.8, "{hits:?}");
}

#[test]
fn the_published_tables_are_in_their_file_though_nobody_reads_the_output() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = simulate();
    command.arg("kubeai").arg("--output").arg(directory.path());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let file = fs::read(directory.path().join("kubeai.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(file["rows"].as_array().unwrap().len() % 12, 0);
}

#[test]
fn the_page_does_not_call_the_bound_a_result() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = simulate();
    command.args(["run", "--workload=conversations", "--sessions=20", "--concurrency=4", "--replicas=2"]);
    command.args(["--policy=random", "--policy=least_requests", "--seed=1"]);
    let output = command.arg("--output").arg(directory.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(directory.path().join("report.html")).unwrap();
    assert!(page.contains("the throughput of random, with least_requests"));
    assert!(!page.contains(", with bound") && page.contains(">bound<"), "it is in the tables only");
}

/// The limit holds for most of a short run, and not on average: a client without work of its own is never what was slow.
#[test]
fn a_simulated_client_is_never_blamed() {
    let directory = tempfile::tempdir().unwrap();
    for flags in [
        &["--workload=kubeai", "--concurrency=100", "--rate=100", "--sessions=120"][..],
        &["--workload=conversations", "--concurrency=20", "--rate=50", "--sessions=40", "--think-time-s=5"],
    ] {
        let mut command = simulate();
        command.args(["run", "--policy=random", "--seed=1", "--no-bound"]).args(flags);
        let output = command.arg("--output").arg(directory.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let page = fs::read_to_string(directory.path().join("report.html")).unwrap();
        assert!(!page.contains("requests/s were sent instead of"), "{flags:?}");
        assert!(!page.contains("`bound`"));
    }
}

#[test]
fn the_command_is_kept_as_a_shell_takes_it_whatever_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join(OsStr::from_bytes(b"a \xff.jsonl"));
    fs::write(&log, format!("{}\n", decision(1, "m", "http://a"))).unwrap();
    let trace = folder.path().join("a trace.jsonl");
    fs::write(&trace, "{\"timestamp\": 0, \"input_length\": 40, \"output_length\": 3}\n").unwrap();
    let workload = format!("--workload=mooncake_trace:{}", trace.display());
    let results = folder.path().join(OsStr::from_bytes(b"\xfe"));
    let replay = [OsStr::new("replay"), log.as_os_str()];
    let run = [OsStr::new("run"), OsStr::new(&workload)];
    for (arguments, wanted) in [(replay, "a \u{fffd}.jsonl'"), (run, "a trace.jsonl'")] {
        let output = simulate()
            .args(arguments)
            .args(["--no-bound", "--seed=1", "--output"])
            .arg(&results)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let results: Value =
            serde_json::from_slice(&fs::read(results.join("results.json")).unwrap()).unwrap();
        let command = results["command"].as_str().unwrap();
        assert!(command.starts_with("evenload simulate ") && command.contains(wanted), "{command}");
        assert!(command.contains(" '"), "{command}");
    }
}

#[test]
fn a_fit_reads_a_pipe_and_counts_what_it_leaves_out() {
    let mut failed = decision(9, "m", "http://a");
    failed["outcome"] = json!("client_gone");
    let lines = (0..3).map(|number| decision(number * 100, "m", "http://a")).chain([failed]);
    let lines = lines.map(|line| format!("{line}\n")).collect::<String>();
    let mut child = simulate()
        .args(["fit", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("left out: requests without an answer, an output or its times 1\n"), "{said}");
}

#[test]
fn a_fit_that_cannot_be_kept_is_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let path = log_with_a_long_prompt(folder.path(), 60_000);
    let output = folder.path().join("none/profile.json");
    let (status, text) = said(&["fit", &path, &format!("--output={}", output.display())]);
    // That the prompt is too long for the memory is found out after this.
    assert!(status == Some(1) && text.contains("cannot write") && !text.contains("takes at most"), "{text}");
    let output = folder.path().join("profile.json");
    let (status, _) = said(&["fit", &path, &format!("--output={}", output.display())]);
    assert!(status == Some(1) && !output.exists(), "nothing is left where nothing was found");
}
