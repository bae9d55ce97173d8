//! inference-perf's way to find saturation: one probe of five seconds; the number in flight, looked at twice a second;
//! the rates at which it falls; a percentile of those.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use report::Record;
use workload::inference_perf::{StagePlan, Sweep, Workload};

use super::{Driver, Found, Probe, knee::measure, plan};

/// Length of the probe, in seconds.
const PROBE_S: u64 = 5;
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(500);

pub(super) fn find(driver: &Driver<'_>, sweep: &Sweep, workload: &mut Workload) -> anyhow::Result<Found> {
    let rate = sweep.num_requests as f64 / PROBE_S as f64;
    let probe = plan(driver.config(), StagePlan::PROBE, rate, PROBE_S);
    let load = workload.start(&probe, driver.shard())?;
    let control = driver.next_control();
    let records = Mutex::new(Vec::<Record>::new());
    let started = Instant::now();
    let (summary, _) = driver.send(&probe, load, None, &control, |record, _| {
        records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    })?;
    ensure!(control.stops() == 0, "stopped by hand during the sweep's probe");
    let records = records.into_inner().unwrap_or_else(PoisonError::into_inner);
    let end = summary.duration.min(Duration::from_secs_f64(sweep.timeout));
    let looks = (0..).map(|look| LOOK * look).take_while(|at| *at <= end);
    let flying = |at: Duration| {
        let flies = |record: &&Record| record.scheduled <= at && record.done > at;
        records.iter().filter(flies).count() as f64
    };
    let counts: Vec<f64> = looks.map(flying).collect();
    let mut rates: Vec<f64> = counts
        .windows(2)
        .filter(|pair| pair[1] < pair[0])
        .map(|pair| (pair[0] - pair[1]) / LOOK.as_secs_f64())
        .collect();
    if rates.len() < 2 {
        bail!(
            "the sweep's probe of {:.1} s shows no saturation: raise load.sweep.num_requests or load.sweep.timeout, or leave \
             evenload.sweep at knee",
            started.elapsed().as_secs_f64()
        );
    }
    rates.sort_by(f64::total_cmp);
    let saturation = percentile(&rates, sweep.saturation_percentile);
    let probes = vec![Probe { verdict: "drain rates", ..measure(rate, &records) }];
    Ok(Found { rate: saturation, spread: None, client_limited: false, probes })
}

/// With linear interpolation; `sorted` is not empty.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let place = (sorted.len() - 1) as f64 * percent.clamp(0.0, 100.0) / 100.0;
    let (low, share) = (place.floor() as usize, place.fract());
    sorted[low] + (sorted[(low + 1).min(sorted.len() - 1)] - sorted[low]) * share
}

#[cfg(test)]
mod tests {
    #[test]
    fn percentiles_are_numpys() {
        let between = super::percentile(&[2.0, 111.82, 125.73, 159.79], 95.0);
        assert!((between - 154.681).abs() < 1e-9, "{between}");
        assert_eq!(super::percentile(&[3.0], 95.0), 3.0);
    }
}
