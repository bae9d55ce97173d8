//! Finds the rate that the server just keeps up with, and chooses the stages by it.
//!
//! *Knee.* Short probes at growing rates bracket the capacity: a probe keeps up if as many requests are answered in its
//! second half as come in it, but for a few, and the queue does not grow through it. Falling behind counts when it
//! happens twice: a pause of this machine happens once. The rate doubles until the server falls behind; what it answers
//! while it is overloaded is an estimate of its capacity from above, and the bracket is narrowed by probes between its ends
//! until they are 4 % apart. Two probes past it give the estimate, kept inside the bracket, and the reported spread; if
//! the server keeps up there, the bracket was wrong, and the search goes on above. If this side cannot send a probe's
//! requests at their times before the server falls behind, the result is `client-limited`, and the highest rate that was
//! held is the rate up to which the stages go.
//!
//! *Compat.* inference-perf's algorithm: one probe, and a percentile of the rates at which the number in flight falls.

mod compat;
mod knee;

use std::time::Duration;

use report::Object;
use workload::{
    Pattern,
    inference_perf::{Config, Law, LoadType, StagePlan, Sweep, SweepMode, SweepType, Workload},
};

use super::driver::Driver;

/// What a sweep has found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Requests a second up to which the stages go.
    pub(super) rate: f64,
    /// Of the capacity, as far as it was measured.
    pub(super) spread: Option<(f64, f64)>,
    /// This side was the bottleneck: the capacity is not known, and higher than the rate.
    pub(super) client_limited: bool,
    pub(super) probes: Vec<Probe>,
}

/// A probe of a sweep.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) asked: f64,
    pub(super) sent: f64,
    pub(super) answered: f64,
    pub(super) median_latency: Duration,
    pub(super) verdict: &'static str,
}

/// Finds the capacity.
pub(super) fn find(driver: &Driver<'_>, sweep: &Sweep, workload: &mut Workload) -> anyhow::Result<Found> {
    let found = match driver.config().evenload.sweep {
        SweepMode::Knee => knee::find(driver, sweep, workload)?,
        SweepMode::Compat => compat::find(driver, sweep, workload)?,
    };
    let Found { rate, spread, client_limited, .. } = &found;
    let text = match (client_limited, spread) {
        (true, _) => format!(
            "sweep: client-limited: this side cannot send faster than {rate:.1} requests/s, and the server keeps up with \
             that; its capacity is higher"
        ),
        (false, Some((low, high))) => {
            format!("sweep: the server keeps up with {rate:.1} requests/s (measured {low:.1} to {high:.1})")
        }
        (false, None) => format!("sweep: saturation at {rate:.1} requests/s by the drain rates of one probe"),
    };
    driver.lines.warn(&text);
    Ok(found)
}

impl Found {
    /// The stages of the sweep.
    pub(super) fn stages(&self, config: &Config) -> Vec<StagePlan> {
        let Some(sweep) = &config.load.sweep else { return Vec::new() };
        let past =
            (config.evenload.sweep == SweepMode::Knee && !self.client_limited).then_some(self.rate * 1.2);
        let rates = rates(sweep, self.rate).into_iter().chain(past);
        (0_u16..).zip(rates).map(|(number, rate)| plan(config, number, rate, sweep.stage_duration)).collect()
    }

    pub(super) fn object(&self) -> Object {
        let mut object = Object::default();
        object.set("requests_per_sec", self.rate);
        object.set("measured_between", self.spread.map(|(low, high)| [low, high]));
        object.set("client_limited", self.client_limited);
        object.nest_all("probes", self.probes.iter().map(Probe::object));
        object
    }
}

impl Probe {
    fn object(&self) -> Object {
        let mut object = Object::default();
        object.set("requested_rate", self.asked);
        object.set("achieved_rate", self.sent);
        object.set("answered_per_sec", self.answered);
        object.set("median_request_latency", self.median_latency.as_secs_f64());
        object.set("verdict", self.verdict);
        object
    }
}

fn plan(config: &Config, number: u16, rate: f64, duration_s: u64) -> StagePlan {
    let pattern = if config.load.r#type == LoadType::Poisson { Pattern::Poisson } else { Pattern::Constant };
    StagePlan {
        number,
        law: Law::Rate(pattern, rate, duration_s),
        requested_rate: Some(rate),
        duration: Some(Duration::from_secs(duration_s)),
        count: Some((rate * duration_s as f64 + 1e-6).floor() as u64),
    }
}

/// inference-perf's: from 1 to `most`, in equal steps rounded to cents, or geometrically and close together near `most`.
fn rates(sweep: &Sweep, most: f64) -> Vec<f64> {
    let steps = f64::from(sweep.num_stages.saturating_sub(1)).max(1.0);
    let rate = |place: u32| {
        let share = f64::from(place) / steps;
        let rate = match sweep.r#type {
            Some(SweepType::Geometric) => 1.0 + most - most.powf(1.0 - share),
            _ => 1.0 + (most - 1.0) * share,
        };
        (rate * 100.0).round() / 100.0
    };
    match sweep.num_stages {
        1 => vec![1.0],
        stages => (0..stages).map(rate).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(kind: SweepType, stages: u32) -> Sweep {
        Sweep { r#type: Some(kind), num_stages: stages, ..Sweep::default() }
    }

    #[test]
    fn rates_grow_as_theirs_do() {
        assert_eq!(rates(&sweep(SweepType::Geometric, 5), 154.68), [1.0, 111.82, 143.24, 152.15, 154.68]);
        assert_eq!(rates(&sweep(SweepType::Linear, 3), 154.68), [1.0, 77.84, 154.68]);
        assert_eq!(rates(&sweep(SweepType::Linear, 1), 154.68), [1.0]);
    }
}
