//! One policy's run: the published workload, sent and measured.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use loadgen::{Control, Options, Targets};
use report::{PhaseShape, PolicyFigures, RecordWriter, Recorder, Report, RunShape};
use routing::PolicySettings;
use workload::{BodyOptions, write_body};

use super::fleet::DemoFleet;

/// Time between two looks at the run.
const LOOK: Duration = Duration::from_millis(200);

/// What a trial depends on.
pub(super) struct TrialSettings {
    pub(super) policy: PolicySettings,
    pub(super) concurrency: u32,
    pub(super) requests: usize,
    pub(super) speedup: f64,
    pub(super) seed: u64,
}

/// What came of it.
pub(super) struct Trial {
    /// In simulated time.
    pub(super) figures: PolicyFigures,
    /// In real time.
    pub(super) report: Report,
    /// Requests in flight at each replica, at times since the start, in simulated seconds.
    pub(super) in_flight: Vec<(f64, Vec<u64>)>,
    /// What a reader of the figures should know.
    pub(super) notes: Vec<String>,
}

pub(super) fn run(fleet: &DemoFleet, settings: &TrialSettings, output: &Path) -> anyhow::Result<Trial> {
    let TrialSettings { concurrency, requests, speedup, seed, .. } = *settings;
    let name = settings.policy.name().to_string();
    let rate = simulate::kubeai::LOADS.iter().find(|load| load.0 == concurrency).map_or(800.0, |load| load.1);
    let plan = simulate::kubeai::plan(concurrency, rate * speedup, requests, seed)?;
    let shape = RunShape {
        phases: vec![PhaseShape {
            name: format!("{concurrency} in flight"),
            measured: true,
            target_rate: Some(rate * speedup),
            concurrency: Some(concurrency),
            closed_loop: false,
        }],
        targets: vec![fleet.url()],
    };
    let records_path = output.join(format!("records-{name}.jsonl"));
    let mut writer = RecordWriter::create(&records_path, &shape)?;
    let recorder = Mutex::new(Recorder::new(shape, Vec::new()));
    let mut write_error = None;
    let control = Control::new();
    let targets = Targets::resolve([fleet.url()])?;
    let options = options();

    let progress = progress_bar(&name, requests);
    let mut in_flight = Vec::new();
    let summary = thread::scope(|scope| {
        let run = scope.spawn(|| {
            loadgen::run(plan, &targets, &options, &control, |record, _| {
                recorder.lock().unwrap_or_else(PoisonError::into_inner).push(&record);
                if write_error.is_none() {
                    write_error = writer.write(&record).err();
                }
            })
        });
        let start = std::time::Instant::now();
        while !run.is_finished() {
            thread::sleep(LOOK);
            let simulated = start.elapsed().as_secs_f64() * speedup;
            in_flight.push((simulated, fleet.in_flight()));
            let seen = recorder.lock().unwrap_or_else(PoisonError::into_inner).progress(0);
            progress.set_position(seen.requests);
            progress.set_message(format!(
                "{:>7.0} tokens/s, mean TTFT {:>6.0} ms",
                (seen.input_tokens + seen.output_tokens) as f64 / simulated,
                seen.mean_ttft_s.unwrap_or(0.0) * 1e3 * speedup
            ));
        }
        run.join().map_err(|_| anyhow::anyhow!("the load generator broke down"))?.map_err(anyhow::Error::from)
    })?;
    progress.finish();
    writer.flush().ok();
    if let Some(error) = write_error {
        return Err(error).with_context(|| format!("cannot write {}", records_path.display()));
    }
    let report = recorder.into_inner().unwrap_or_else(PoisonError::into_inner).report();
    let notes = fleet.notes(&summary);
    Ok(Trial { figures: PolicyFigures::new(name, &report.total, speedup), report, in_flight, notes })
}

/// As the published benchmark sends: streamed completions at temperature 0, with the usage at the end.
pub(super) fn options() -> Options {
    let body = BodyOptions { temperature: Some(0.0), include_usage: true, ..BodyOptions::default() };
    Options::new(Arc::new(move |request, history, out| write_body(request, history, &body, out)))
}

fn progress_bar(policy: &str, requests: usize) -> ProgressBar {
    let bar = ProgressBar::new(requests as u64);
    let template = "{prefix:<15} {bar:30} {pos:>5}/{len} {elapsed_precise} {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(policy.to_owned());
    bar
}
