//! What becomes of a command whose output nobody reads, or whose output cannot be written: it goes on to its end, and
//! its files are there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::{
    fs::File,
    io,
    path::Path,
    process::{Command, Stdio},
};

use run_support::{MODEL, Stage, said};

/// A pipe without a reader.
fn closed() -> Stdio {
    io::pipe().unwrap().1.into()
}

/// A command and the files that it leaves in its folder, in a folder with an engine beside it.
fn commands(stage: &Stage) -> Vec<(Vec<String>, Vec<&'static str>)> {
    let load = "load:\n  interval: 0\n  stages:\n  - {rate: 40, duration: 1}\n  - {rate: 20, duration: 1}\n\
                data: {type: shared_prefix, shared_prefix: {num_groups: 2, num_prompts_per_group: 2, output_len: 5}}\n";
    let config = stage.config(load).display().to_string();
    let url = stage.url();
    let words = |line: &str| line.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>();
    let bench = format!(
        "profile -m {MODEL} -u {url} --endpoint-type completions --streaming --isl 8 --osl 4 --concurrency 1,2 \
         --request-count 4 --artifact-dir profiled"
    );
    vec![
        (
            words(&format!("run -c {config} --storage.local_storage.path out")),
            vec![
                "out/stage_1_lifecycle_metrics.json",
                "out/run.json",
                "out/validation.json",
                "out/report.html",
            ],
        ),
        (words("report -a out -u both"), vec!["out/analysis.html", "both/analyzed_reports_legend.json"]),
        (words(&bench), vec!["profiled/sweep.csv", "profiled/sweep.json"]),
        (
            words(
                "simulate run --workload conversations --sessions 4 --concurrency 2 --seed 1 --output simulated",
            ),
            vec!["simulated/results.json", "simulated/report.html"],
        ),
        (
            words("demo --requests 20 --policy random --speedup 200 --output shown"),
            vec!["shown/demo.json", "shown/report.html", "shown/records-random.jsonl"],
        ),
    ]
}

fn carry_out(arguments: &[String], folder: &Path, out: Stdio, err: Stdio) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenload"));
    let output = command.args(arguments).current_dir(folder).stdout(out).stderr(err).output().unwrap();
    (output.status.code(), said(&output.stderr))
}

#[test]
fn nobody_has_to_read() {
    let stage = Stage::new();
    for (arguments, files) in commands(&stage) {
        let (code, said) = carry_out(&arguments, stage.folder.path(), closed(), Stdio::piped());
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        for file in files {
            assert!(stage.path(file).is_file(), "{arguments:?}: no {file}: {said}");
        }
    }
}

#[test]
fn not_even_the_errors() {
    let stage = Stage::new();
    for (arguments, files) in commands(&stage) {
        let (code, _) = carry_out(&arguments, stage.folder.path(), closed(), closed());
        assert_eq!(code, Some(0), "{arguments:?}");
        assert!(files.iter().all(|file| stage.path(file).is_file()), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_told_when_the_files_are_there() {
    let stage = Stage::new();
    for (arguments, files) in commands(&stage) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (code, said) = carry_out(&arguments, stage.folder.path(), full.into(), Stdio::piped());
        assert_eq!(code, Some(1), "{arguments:?}: {said}");
        assert!(said.contains("evenload: cannot print: No space left on device"), "{said}");
        assert!(files.iter().all(|file| stage.path(file).is_file()), "{arguments:?}: {said}");
    }
}
