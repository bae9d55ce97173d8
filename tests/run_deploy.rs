//! The Kubernetes manifests for several machines: they are what they should be, and their own commands run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod run_support;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use run_support::{MODEL, Stage, read, said};
use serde_json::Value;

const CONFIG: &str = "load: {base_seed: 3, interval: 0.5, stages: [{rate: 40, duration: 1}, {rate: 20, duration: 1}]}\n\
                      report: {request_lifecycle: {per_request: true}}\n";

/// A manifest, with the moment of the start put in as its head says.
fn manifest(name: &str, start_at: u64) -> Value {
    let path = format!("{}/deploy/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).unwrap().replace("$START_AT", &start_at.to_string());
    serde_saphyr::from_str(&text).unwrap()
}

fn names(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

/// The shell command of a Job's container, on this machine: our binary, and paths below a folder.
fn command(stage: &Stage, job: &Value) -> Command {
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let words = container["command"].as_array().unwrap().iter();
    let words =
        words.chain(container["args"].as_array().into_iter().flatten()).map(|word| word.as_str().unwrap());
    let words: Vec<String> = words
        .map(|word| {
            let local = |path: &str| stage.path(path).display().to_string();
            word.replace("/etc/evenload", &local("config")).replace("/reports", &local("reports"))
        })
        .collect();
    let mut command = Command::new(&words[0]);
    let path = format!("{}:{}", stage.path("bin").display(), std::env::var("PATH").unwrap());
    command.args(&words[1..]).env("PATH", path).current_dir(&stage.folder);
    command
}

#[test]
fn the_manifests_hold_together() {
    let claim = manifest("run-reports-claim.yaml", 0);
    assert_eq!(
        (&claim["kind"], &claim["spec"]["accessModes"][0]),
        (&"PersistentVolumeClaim".into(), &"ReadWriteMany".into())
    );
    for (name, run) in [("run-indexed-job.yaml", true), ("run-merge-job.yaml", false)] {
        let job = manifest(name, 0);
        assert_eq!((&job["apiVersion"], &job["kind"]), (&"batch/v1".into(), &"Job".into()), "{name}");
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["restartPolicy"], "Never", "{name}: a share that is run again would be another one");
        let mounted = names(&pod["containers"][0]["volumeMounts"]);
        assert_eq!(mounted, names(&pod["volumes"]), "{name}");
        assert_eq!(
            pod["containers"][0]["imagePullPolicy"], "IfNotPresent",
            "{name}: the image may be on the nodes only"
        );
        let volumes = pod["volumes"].as_array().unwrap();
        let claimed = volumes.iter().find_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
        assert_eq!(claimed, claim["metadata"]["name"].as_str(), "{name}");
        if run {
            let spec = &job["spec"];
            assert_eq!(spec["completionMode"], "Indexed");
            assert_eq!(spec["completions"], spec["parallelism"], "shares run at the same time");
            let script = pod["containers"][0]["args"][0].as_str().unwrap();
            assert!(script.contains(&format!("/{}\"", spec["completions"])), "{script}");
        }
    }
}

#[test]
fn the_jobs_run_their_shares_and_merge_them() {
    let stage = Stage::new();
    for folder in ["bin", "config", "reports"] {
        fs::create_dir(stage.path(folder)).unwrap();
    }
    symlink(env!("CARGO_BIN_EXE_evenload"), stage.path("bin/evenload")).unwrap();
    let server = format!("server: {{base_url: \"{}\", model_name: {MODEL}}}\n", stage.url());
    fs::write(stage.path("config/config.yml"), CONFIG.to_owned() + &server).unwrap();
    let start_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 5;
    let job = manifest("run-indexed-job.yaml", start_at);
    let shares = job["spec"]["completions"].as_u64().unwrap();
    let running: Vec<_> = (0..shares)
        .map(|index| {
            let mut command = command(&stage, &job);
            command.env("JOB_COMPLETION_INDEX", index.to_string());
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for share in running {
        let done = share.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", said(&done.stderr));
    }
    let mut starts: Vec<Vec<u64>> = Vec::new();
    for share in 1..=shares {
        let run = read(&stage.path(&format!("reports/share-{share}/run.json")));
        let stages = run["stages"].as_array().unwrap().iter();
        starts.push(stages.map(|stage| stage["started_at_ns"].as_u64().unwrap()).collect());
    }
    // A second and a half after the first stage; the clocks of a process and of the day differ by a little.
    let second = (start_at * 10 + 15) * 100_000_000;
    assert!(starts.iter().all(|starts| starts[1] + 10_000_000 >= second), "{second}: {starts:?}");

    let merged = command(&stage, &manifest("run-merge-job.yaml", 0)).output().unwrap();
    assert!(merged.status.success(), "{}", said(&merged.stderr));
    let summary = read(&stage.path("reports/merged/summary_lifecycle_metrics.json"));
    assert_eq!(summary["successes"]["count"], 60);
    let entries = read(&stage.path("reports/merged/per_request_lifecycle_metrics.json"));
    let entries = entries.as_array().unwrap();
    let ids: BTreeSet<_> =
        entries.iter().map(|entry| (entry["stage_id"].as_u64(), entry["request_id"].as_u64())).collect();
    assert_eq!((entries.len(), ids.len()), (60, 60), "every request once");
    let mut first: Vec<f64> = entries
        .iter()
        .filter(|entry| entry["stage_id"] == 0)
        .map(|entry| entry["scheduled_time"].as_f64().unwrap())
        .collect();
    first.sort_by(f64::total_cmp);
    let gaps: Vec<f64> = first.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    assert!((0.0125..0.05).contains(&mean), "one clock, 40 a second: {mean}");
}
