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
use report::{
    Compared, Flags, PhaseShape, PolicyFigures, PolicyRun, RecordWriter, Recorder, ReplicaLoads, RunShape,
    judge, published_figures,
};
use routing::PolicySettings;
use workload::{BodyOptions, write_body};

use super::{Load, fleet::DemoFleet};

/// Time between two looks at the run.
const LOOK: Duration = Duration::from_millis(200);

/// What a trial depends on.
pub(super) struct TrialSettings {
    pub(super) policy: PolicySettings,
    pub(super) load: Load,
    pub(super) requests: usize,
    pub(super) speedup: f64,
    pub(super) seed: u64,
}

pub(super) fn run(fleet: &DemoFleet, settings: &TrialSettings, output: &Path) -> anyhow::Result<PolicyRun> {
    let TrialSettings { load: Load { sessions: concurrency, rate }, requests, speedup, seed, .. } = *settings;
    let name = settings.policy.name().to_string();
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
                "{:.0} tokens/s, TTFT {:.0} ms",
                (seen.input_tokens + seen.output_tokens) as f64 / simulated,
                seen.mean_ttft_s.unwrap_or(0.0) * 1e3 * speedup
            ));
        }
        run.join().map_err(|_| anyhow::anyhow!("the load generator broke down"))?.map_err(anyhow::Error::from)
    })?;
    progress.finish();
    write_error
        .map_or_else(|| writer.flush(), Err)
        .with_context(|| format!("cannot write {}", records_path.display()))?;
    let report = recorder.into_inner().unwrap_or_else(PoisonError::into_inner).report();
    let mut assessment = judge(&report, &summary.health(), &Flags::DEMO).with(fleet.lateness()?);
    // The verdict is about this machine's time; it is told, as everything else is, in that of the simulated engines.
    assessment.warnings.iter_mut().for_each(|warning| warning.speed_up(speedup));
    let measured = PolicyFigures::new(name.as_str(), &report.total, speedup);
    let compared = Compared { measured, published: published_figures(&name, concurrency) };
    let replicas = Some(loads(&in_flight));
    Ok(PolicyRun { compared, report, assessment, speedup, bound: false, replicas })
}

/// What was seen at each replica, at equal steps from the first look to the last.
fn loads(in_flight: &[(f64, Vec<u64>)]) -> ReplicaLoads {
    let step_s = match in_flight {
        [first, .., last] => (last.0 - first.0) / (in_flight.len() - 1) as f64,
        _ => 1.0,
    };
    let replicas = in_flight.first().map_or(0, |(_, loads)| loads.len());
    let row = |replica: usize| {
        (format!("replica {}", replica + 1), in_flight.iter().map(|(_, loads)| loads[replica]).collect())
    };
    ReplicaLoads { step_s, rows: (0..replicas).map(row).collect() }
}

/// As the published benchmark sends: streamed completions at temperature 0, with the usage at the end.
pub(super) fn options() -> Options {
    let body = BodyOptions { temperature: Some(0.0), include_usage: true, ..BodyOptions::default() };
    Options::new(Arc::new(move |request, history, out| write_body(request, history, &body, out)))
}

fn progress_bar(policy: &str, requests: usize) -> ProgressBar {
    let bar = ProgressBar::new(requests as u64);
    // As wide as the terminal, whose 80 columns it must not leave.
    let template = "{prefix:<15} {wide_bar} {pos:>5}/{len} {elapsed} {msg:>29}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(policy.to_owned());
    bar
}
