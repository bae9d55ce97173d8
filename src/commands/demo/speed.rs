//! How fast the simulated engines may run on this machine.
//!
//! All parts share this machine's cores, so a run is right as long as they have time to spare. A short run with
//! engines too fast to follow says how much processor time a streamed token costs, all parts together; the
//! speed-up is chosen such that the busiest policy needs no more than a given share of the machine.
//!
//! In the short run tokens come together, so a token looks cheaper than it will be, about threefold. A slower run
//! would not say it better: there the waiting for the next step costs as much as the tokens.

use std::thread;

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

/// Measures for about half a second. `load` is the share of the cores that the busiest policy may need, by the
/// measure of the short run.
pub(super) fn measure(load: f64) -> anyhow::Result<f64> {
    let fleet = DemoFleet::start(PolicySettings::Random, UNBOUND)?;
    let plan = simulate::kubeai::plan(100, 1e6, REQUESTS, 1)?;
    let targets = Targets::resolve([fleet.url()])?;
    let control = Control::new();
    let before = processor_s()?;
    loadgen::run(plan, &targets, &trial::options(), &control, |_, _| {})?;
    let tokens = control.progress().tokens.max(1) as f64;
    let cost_s = (processor_s()? - before) / tokens;
    let cores = thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    Ok((load * cores / (cost_s.max(1e-7) * TOKENS_PER_S)).clamp(1.0, MOST))
}
