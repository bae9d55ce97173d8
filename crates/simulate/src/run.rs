//! One run: what it depends on, and what comes of it.

use std::time::Duration;

use report::Record;
use routing::PredictionSnapshot;
use workload::{MAX_PROMPT_TOKENS, Plan};

use crate::{ClientModel, FleetSettings, Learned, ReplicaFigures, simulation::Simulation};

/// Everything a run depends on besides its plan.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Engines, balancers, network.
    pub fleet: FleetSettings,
    /// Who sends.
    pub client: ClientModel,
    /// Random picks flow from it.
    pub seed: u64,
}

/// What only a simulator can know of a run. Warm-up phases count too.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Figures {
    /// Virtual time of the last event.
    pub simulated: Duration,
    /// Events handled, tokens one by one.
    pub events: u64,
    /// Requests that were sent again because their replica was gone.
    pub retries: u64,
    /// How well `prefix_aware` predicted what caches hold.
    pub prediction: PredictionSnapshot,
    /// What the first balancer has learned.
    pub learned: Option<Learned>,
    /// One a replica.
    pub replicas: Vec<ReplicaFigures>,
}

/// Why a run cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No engine profile was given.
    #[error("the fleet has no replicas: give at least one")]
    NoReplicas,
    /// A fault names a replica that is not there.
    #[error("a fault of replica {replica}, but there are {replicas}: the first one is 0")]
    Fault {
        /// As it was written.
        replica: usize,
        /// Replicas in the fleet.
        replicas: usize,
    },
    /// A profile with blocks that prompts are not cut for.
    #[error(
        "an engine with blocks of {0} tokens cannot be simulated: give it block_tokens of a multiple of 16"
    )]
    BlockTokens(u32),
    /// The pace of a file that has none.
    #[error("the workload has no times of its own: give a rate or a concurrency")]
    NoTimes,
    /// More sessions than a file has, at its own times.
    #[error(
        "the workload has times for {times} sessions, not for {asked}: send fewer, or give a rate or a concurrency, \
         which begin it again"
    )]
    FewTimes {
        /// Sessions to send.
        asked: usize,
        /// Sessions in the file.
        times: usize,
    },
    /// An answer that no engine gives.
    #[error("an answer of {tokens} tokens in the workload: at most {MAX_PROMPT_TOKENS} are simulated")]
    Output {
        /// The longest one.
        tokens: u32,
    },
    /// The policy's settings are wrong.
    #[error(transparent)]
    Policy(#[from] routing::SettingsError),
    /// The plan cannot be made.
    #[error(transparent)]
    Workload(#[from] workload::Error),
    /// No replica can serve a request.
    #[error("no replica for a request: {0}")]
    Pick(#[from] routing::NoReplica),
}

/// Runs `plan` on the fleet and hands over each record when its request is over.
pub fn run(settings: &Settings, plan: Plan, mut on_record: impl FnMut(&Record)) -> Result<Figures, Error> {
    let mut simulation = Simulation::new(settings)?;
    for (index, phase) in plan.phases.into_iter().enumerate() {
        simulation.phase(u16::try_from(index).unwrap_or(u16::MAX), phase, &mut on_record)?;
    }
    Ok(simulation.figures())
}
