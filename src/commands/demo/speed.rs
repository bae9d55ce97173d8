//! How fast the simulated engines may run on this machine.
//!
//! All parts share this machine's cores, so a run is right as long as they have time to spare. A short run with
//! engines too fast to follow says how much processor time a streamed token costs, all parts together; the
//! speed-up is chosen such that the busiest policy needs no more than a given share of the machine.
//!
//! In the short run tokens come together, so a token looks cheaper than it will be, about threefold. A slower run
//! would not say it better: there the waiting for the next step costs as much as the tokens.
//!
//! The first sessions come faster than anything later, and each opens connections: to the balancer, and from it to an
//! engine. A second run sends as many at one moment; what this machine takes of them in a second bounds the speed-up too.

use std::{thread, time::Duration};

use loadgen::{Control, Targets};
use routing::PolicySettings;

use super::{fleet::DemoFleet, trial};
use crate::commands::process::processor_s;

/// Tokens a second of the published prefix-hash run with a client that keeps up, in simulated time.
const TOKENS_PER_S: f64 = 6_400.0;
/// Requests of the short run.
const REQUESTS: usize = 300;
/// Faster than any machine can follow.
const UNBOUND: f64 = 200.0;
/// Beyond this the timers' own error shows in steps of 40 ms.
const MOST: f64 = 16.0;

/// Requests of the second run; each needs new connections.
const AT_ONCE: u32 = 800;
/// They are cut off after this.
const AT_ONCE_ENDS: Duration = Duration::from_secs(1);
/// Speed of its engines: as in a usual trial, so that their work beside it is the usual one.
const USUAL: f64 = 4.0;
/// Share of what can be opened that the published rate may ask for.
const OPENING: f64 = 0.75;

/// Measures for about two seconds. `load` is the share of the cores that the busiest policy may need, by the measure of
/// the short run; `rate` is the sessions of a simulated second.
pub(super) fn measure(load: f64, rate: f64) -> anyhow::Result<f64> {
    Ok(by_tokens(load)?.min(OPENING * opened_per_s()? / rate).clamp(1.0, MOST))
}

/// The speed-up at which tokens need this share of the cores.
fn by_tokens(load: f64) -> anyhow::Result<f64> {
    let fleet = DemoFleet::start(PolicySettings::Random, UNBOUND)?;
    let plan = simulate::kubeai::plan(100, 1e6, REQUESTS, 1)?;
    let targets = Targets::resolve([fleet.url()])?;
    let control = Control::new();
    let before = processor_s()?;
    loadgen::run(plan, &targets, &trial::options(), &control, |_, _| {})?;
    let tokens = control.progress().tokens.max(1) as f64;
    let cost_s = (processor_s()? - before) / tokens;
    let cores = thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    Ok(load * cores / (cost_s.max(1e-7) * TOKENS_PER_S))
}

/// Requests a second that leave while each needs a connection of its own.
fn opened_per_s() -> anyhow::Result<f64> {
    let fleet = DemoFleet::start(PolicySettings::Random, USUAL)?;
    let mut plan = simulate::kubeai::plan(AT_ONCE, 1e6, AT_ONCE as usize, 1)?;
    for phase in &mut plan.phases {
        (phase.limits.duration, phase.limits.grace) = (Some(AT_ONCE_ENDS), Some(Duration::ZERO));
    }
    let targets = Targets::resolve([fleet.url()])?;
    let (mut sent, mut last) = (0_u32, Duration::ZERO);
    loadgen::run(plan, &targets, &trial::options(), &Control::new(), |record, _| {
        if let Some(at) = record.sent {
            (sent, last) = (sent + 1, last.max(at.saturating_sub(record.scheduled)));
        }
    })?;
    Ok(f64::from(sent) / last.as_secs_f64().max(1e-3))
}
