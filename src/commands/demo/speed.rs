//! How fast the simulated engines may run on this machine.
//!
//! All parts share this machine's cores, so a run is right as long as they have time to spare. Two short runs say
//! how much processor time a streamed token costs, all parts together. In the first the engines are too fast to
//! follow: tokens come together, and a token looks cheaper than it is. The second runs at half the speed that the
//! first allows, where most tokens come alone as in the demo. The speed-up is chosen such that the busiest policy
//! needs no more than [`LOAD`] of the machine by that measure.

use std::{fs, thread};

use anyhow::Context;
use loadgen::{Control, Targets};
use routing::PolicySettings;

use super::{fleet::DemoFleet, trial};

/// Share of the cores that the busiest policy may need. Its load is not even: it begins with 800 prompts at once.
const LOAD: f64 = 0.5;
/// Tokens a second of the published prefix-hash run with a client that keeps up, in simulated time.
const TOKENS_PER_S: f64 = 6_400.0;
/// Faster than any machine can follow.
const UNBOUND: f64 = 200.0;
/// Beyond this the timers' own error shows in steps of 40 ms.
const MOST: f64 = 16.0;

/// Unit of the times in `/proc`, the same on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// Measures for about two seconds.
pub(super) fn measure() -> anyhow::Result<f64> {
    let at_most = affordable(token_cost_s(UNBOUND, 100, 300)?);
    Ok(affordable(token_cost_s(at_most / 2.0, 400, 400)?))
}

/// The speed-up at which tokens of this cost need [`LOAD`] of the machine.
fn affordable(token_cost_s: f64) -> f64 {
    let cores = thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    (LOAD * cores / (token_cost_s.max(1e-7) * TOKENS_PER_S)).clamp(1.0, MOST)
}

/// Processor time of one streamed token, in a run of `requests` of the demo's.
fn token_cost_s(speedup: f64, concurrency: u32, requests: usize) -> anyhow::Result<f64> {
    let fleet = DemoFleet::start(PolicySettings::LeastRequests, speedup)?;
    let plan = simulate::kubeai::plan(concurrency, 1e6, requests, 1)?;
    let targets = Targets::resolve([fleet.url()])?;
    let control = Control::new();
    let before = processor_s()?;
    loadgen::run(plan, &targets, &trial::options(), &control, |_, _| {})?;
    let tokens = control.progress().tokens.max(1) as f64;
    Ok((processor_s()? - before) / tokens)
}

/// Processor time of this process so far.
fn processor_s() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    let ticks = |place: usize| text.rsplit(')').next()?.split_whitespace().nth(place)?.parse::<f64>().ok();
    let both = ticks(11).zip(ticks(12)).context("/proc/self/stat has another form than expected")?;
    Ok((both.0 + both.1) / TICKS_PER_S)
}
