//! A workload, a fleet and a list of policies: which policy serves this traffic best?
//!
//! Every policy meets the same requests at the same times.

use std::time::Duration;

use engine::Profile;
use report::{PhaseShape, Record, Recorder, Report, RunShape, TimeSeries};
use routing::PolicySettings;
use workload::{Arrival, PhaseKind, Plan, Turn};

use crate::{
    ClientModel, Error, Figures, FleetSettings, Pace, Settings, Traffic,
    insight::Demand,
    prompt::{History, output_tokens},
    run,
    traffic::Source,
};

/// Everything that stays the same while policies are compared.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What is sent.
    pub traffic: Traffic,
    /// When.
    pub pace: Pace,
    /// Sessions in all; `None` is the whole file, or 8,000 of what has no end.
    pub sessions: Option<usize>,
    /// Sessions in flight; `None` is an open loop.
    pub concurrency: Option<u32>,
    /// Send everything once before the run that counts, so that caches are warm.
    pub warm: bool,
    /// Engines, balancers, network. Its policy is replaced by each policy compared.
    pub fleet: FleetSettings,
    /// Who sends.
    pub client: ClientModel,
}

/// One policy under one seed.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What was measured, as a load generator reports it. Of each replica only its series is kept: fleets are large.
    pub report: Report,
    /// What only a simulator knows.
    pub figures: Figures,
}

/// Blocks of a replica without limits.
const MOST_BLOCKS: u32 = 1 << 22;
/// Buckets of a replica's series.
const REPLICA_BUCKETS: usize = 256;

/// How far a trial is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Virtual time.
    pub simulated: Duration,
    /// Requests that are over, warm-up included.
    pub requests: u64,
}

impl Scenario {
    /// A warm closed loop of the built-in workload against eight L4 replicas.
    pub fn kubeai(concurrency: u32) -> Self {
        Self {
            traffic: Traffic::Kubeai,
            pace: Pace::AtOnce,
            sessions: None,
            concurrency: Some(concurrency),
            warm: true,
            fleet: FleetSettings::uniform(&Profile::l4(), crate::kubeai::REPLICAS, PolicySettings::Random),
            client: ClientModel::IDEAL,
        }
    }

    /// Reads the workload once for any number of trials.
    pub fn load(self) -> Result<LoadedScenario, Error> {
        let source = Source::load(&self.traffic)?;
        if matches!(self.pace, Pace::OwnTimes { .. }) && !source.has_times() {
            return Err(Error::NoTimes);
        }
        Ok(LoadedScenario { scenario: self, source })
    }
}

/// A scenario with its workload in memory.
#[derive(Clone, Debug)]
pub struct LoadedScenario {
    scenario: Scenario,
    source: Source,
}

impl LoadedScenario {
    /// Runs `policy` under `seed`.
    pub fn trial(&self, policy: PolicySettings, seed: u64) -> Result<Trial, Error> {
        self.trial_watched(policy, seed, |_| {})
    }

    /// The same, saying now and then how far it is.
    pub fn trial_watched(
        &self,
        policy: PolicySettings,
        seed: u64,
        watch: impl FnMut(Progress),
    ) -> Result<Trial, Error> {
        let fleet = FleetSettings { policy, ..self.scenario.fleet.clone() };
        self.run(fleet, seed, watch)
    }

    /// What a perfect cache would give: every prompt finds all that was ever sent before, wherever it goes; it goes
    /// where it is done soonest by what is pending there and how fast the replica is; and memory never limits a
    /// batch.
    pub fn bound(&self, demand: &Demand, seed: u64, watch: impl FnMut(Progress)) -> Result<Trial, Error> {
        let mut fleet = self.scenario.fleet.clone();
        for profile in &mut fleet.profiles {
            let longest = demand.longest_tokens.div_ceil(profile.block_tokens.max(1));
            let longest = longest.saturating_add(profile.preallocated_blocks);
            profile.kv_blocks =
                profile.kv_blocks.max(longest.saturating_mul(profile.max_num_seqs).min(MOST_BLOCKS));
        }
        fleet.policy = PolicySettings::default();
        (fleet.balancers, fleet.output_known, fleet.all_hits) = (1, true, true);
        self.run(fleet, seed, watch)
    }

    fn run(&self, fleet: FleetSettings, seed: u64, mut watch: impl FnMut(Progress)) -> Result<Trial, Error> {
        let fleet = FleetSettings { names: Some(seed), ..fleet };
        let settings = Settings { fleet, client: self.scenario.client, seed };
        let plan = self.plan(seed)?;
        let phases: Vec<PhaseShape> = plan
            .phases
            .iter()
            .map(|phase| PhaseShape {
                name: phase.name.clone(),
                measured: phase.kind == PhaseKind::Measured,
                target_rate: phase.target_rate,
                concurrency: phase.limits.concurrency,
                closed_loop: phase.closed_loop,
            })
            .collect();
        let measured = phases.iter().map(|phase| phase.measured).collect::<Vec<_>>();
        let mut recorder = Recorder::new(RunShape { phases, targets: Vec::new() }, Vec::new());
        let replicas = settings.fleet.profiles.len();
        let mut series = vec![TimeSeries::new(REPLICA_BUCKETS); replicas];
        let mut requests = 0;
        let figures = run(&settings, plan, |record: &Record| {
            recorder.push(record);
            if measured.get(usize::from(record.phase)) == Some(&true)
                && let Some(series) = series.get_mut(usize::from(record.target))
            {
                series.push(record);
            }
            requests += 1;
            watch(Progress { simulated: record.done, requests });
        })?;
        let mut report = recorder.report();
        report.shape.targets = (0..replicas).map(|index| format!("replica-{index:04}")).collect();
        report.target_series = series;
        Ok(Trial { report, figures })
    }

    /// What the workload asks of the caches.
    pub fn demand(&self, seed: u64) -> Result<Demand, Error> {
        let Scenario { pace, concurrency, sessions, .. } = self.scenario;
        let phase = self.source.phase("measured", pace, concurrency, sessions, seed)?;
        let prompts = phase.arrivals.flat_map(|Arrival { session, .. }| {
            let mut history = History::default();
            let last = session.turns.len().saturating_sub(1);
            let prompt = |(turn, Turn { request, .. }): (usize, Turn)| {
                let output = output_tokens(&request);
                (history.turn(&request, session.id, output, turn < last), output)
            };
            session.turns.into_iter().enumerate().map(prompt).collect::<Vec<_>>()
        });
        Ok(Demand::of(prompts, &self.scenario.fleet.profiles, self.scenario.warm))
    }

    /// Requests of a trial, warm-up included.
    pub fn requests(&self, demand: &Demand) -> u64 {
        demand.requests * (1 + u64::from(self.scenario.warm))
    }

    fn plan(&self, seed: u64) -> Result<Plan, Error> {
        let Scenario { pace, concurrency, sessions, warm, .. } = self.scenario;
        let phase = |name, kind| {
            let mut phase = self.source.phase(name, pace, concurrency, sessions, seed)?;
            phase.kind = kind;
            Ok::<_, Error>(phase)
        };
        let measured = phase("measured", PhaseKind::Measured)?;
        let warm_up = warm.then(|| phase("warm-up", PhaseKind::Warmup)).transpose()?;
        Ok(Plan { phases: warm_up.into_iter().chain([measured]).collect() })
    }
}
