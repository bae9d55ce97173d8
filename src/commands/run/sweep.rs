//! Carries out the probes of a sweep.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use loadgen::RunSummary;
use report::{
    Record,
    sweep::{Found, Probe, ProbeShape, drain_saturation, find_knee},
};
use workload::{
    Pattern,
    inference_perf::{StagePlan, Sweep, SweepMode, Workload},
};

use super::sending::Sending;

/// Length of inference-perf's probe, in seconds.
const DRAINED_PROBE_S: u64 = 5;

/// The user ended the sweep; there is nothing to report yet.
#[derive(Debug)]
pub(super) struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("stopped by hand during the sweep")
    }
}

impl std::error::Error for Stopped {}

/// Finds the capacity.
pub(super) fn find(sending: &Sending<'_>, sweep: &Sweep, workload: &mut Workload) -> anyhow::Result<Found> {
    let found = match sending.config.evenload.sweep {
        SweepMode::Knee => knee(sending, sweep, workload)?,
        SweepMode::Compat => drain(sending, sweep, workload)?,
    };
    sending.lines.warn(&found.to_string());
    Ok(found)
}

fn knee(sending: &Sending<'_>, sweep: &Sweep, workload: &mut Workload) -> anyhow::Result<Found> {
    // `timeout` bounds inference-perf's one probe; each of ours is shorter than that.
    let until = Instant::now() + Duration::from_secs_f64(sweep.timeout) * 5;
    let by_chance = sending.config.load.pattern() == Pattern::Poisson;
    let mut count = 0;
    let carry_out = |rate: f64, seconds: u64| -> anyhow::Result<Probe> {
        count += 1;
        let (records, summary) = probe(sending, workload, rate, seconds)?;
        let shape = ProbeShape { rate, sent_for: Duration::from_secs(seconds), by_chance };
        let stolen = summary.client.stolen_share.unwrap_or_default();
        let probe = Probe::judged(shape, &records, summary.client.busiest(), stolen);
        sending.lines.info(&probe.to_string());
        Ok(probe)
    };
    find_knee(carry_out, || Instant::now() < until)?.with_context(|| {
        format!(
            "the sweep found no rate that the server falls behind in {count} probes; raise load.sweep.timeout"
        )
    })
}

fn drain(sending: &Sending<'_>, sweep: &Sweep, workload: &mut Workload) -> anyhow::Result<Found> {
    let rate = sweep.num_requests as f64 / DRAINED_PROBE_S as f64;
    let (records, summary) = probe(sending, workload, rate, DRAINED_PROBE_S)?;
    let end = summary.duration.min(Duration::from_secs_f64(sweep.timeout));
    let saturation = drain_saturation(&records, end, sweep.saturation_percentile).with_context(|| {
        format!(
            "the sweep's probe of {:.1} s shows no saturation: raise load.sweep.num_requests or load.sweep.timeout, or \
             leave evenload.sweep at knee",
            summary.duration.as_secs_f64()
        )
    })?;
    let probes = vec![Probe::measured(rate, &records)];
    Ok(Found { rate: saturation, spread: None, client_limited: false, probes })
}

/// Sends a probe.
fn probe(
    sending: &Sending<'_>,
    workload: &mut Workload,
    rate: f64,
    seconds: u64,
) -> anyhow::Result<(Vec<Record>, RunSummary)> {
    let stage = StagePlan::probe(sending.config, rate, seconds);
    let load = workload.start(&stage, sending.shard)?;
    let control = sending.next_control();
    let records = Mutex::new(Vec::<Record>::new());
    let (summary, _) = sending.send(&stage, load, None, &control, |record, _| {
        records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    })?;
    ensure!(control.stops() == 0, Stopped);
    Ok((records.into_inner().unwrap_or_else(PoisonError::into_inner), summary))
}
