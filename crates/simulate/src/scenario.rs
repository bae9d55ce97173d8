//! A workload, a fleet and a list of policies: which policy serves this traffic best?
//!
//! Every policy meets the same requests at the same times. A closed loop sends the next session when one ends;
//! a rate sends at Poisson times; a trace brings its own times.

use std::{path::PathBuf, sync::Arc, time::Duration};

use engine::Profile;
use protocol::Endpoint;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use report::{PhaseShape, Recorder, Report, RunShape};
use routing::PolicySettings;
use workload::{
    Arrival, Arrivals, Limits, Pattern, Phase, PhaseKind, Plan, Rate, RequestTemplate, SeedPrompt, Session,
    Turn, kubeai_seed, read_seed_prompts, seed_sessions,
};

use crate::{ClientModel, Error, Figures, FleetSettings, PromptHashes, Settings, insight::Demand, run};

/// What is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Traffic {
    /// The built-in workload of KubeAI's comparison, repeated up to this many requests.
    Kubeai(usize),
    /// Every prompt of a file once, in an order shuffled by the seed.
    Prompts(PathBuf),
    /// The conversations of a file: a turn is sent when the one before it has been answered.
    Sessions(PathBuf),
}

/// Everything that stays the same while policies are compared.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What is sent.
    pub traffic: Traffic,
    /// Sessions in flight; `None` is an open loop.
    pub concurrency: Option<u32>,
    /// Arrivals per second; `None` sends as soon as there is room.
    pub rate: Option<f64>,
    /// Tokens that every prompt of a sessions file starts with.
    pub preamble_tokens: u32,
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
    /// What was measured, as a load generator reports it.
    pub report: Report,
    /// What only a simulator knows.
    pub figures: Figures,
}

impl Scenario {
    /// A warm closed loop of the built-in workload against eight L4 replicas.
    pub fn kubeai(concurrency: u32) -> Self {
        Self {
            traffic: Traffic::Kubeai(crate::kubeai::REQUESTS),
            concurrency: Some(concurrency),
            rate: None,
            preamble_tokens: 0,
            warm: true,
            fleet: FleetSettings::uniform(&Profile::l4(), crate::kubeai::REPLICAS, PolicySettings::Random),
            client: ClientModel::IDEAL,
        }
    }

    /// Reads the workload once for any number of trials.
    pub fn load(self) -> Result<LoadedScenario, Error> {
        let prompts: Arc<[SeedPrompt]> = match &self.traffic {
            Traffic::Kubeai(_) => kubeai_seed().into(),
            Traffic::Prompts(path) | Traffic::Sessions(path) => read_seed_prompts(path)?.into(),
        };
        let template = RequestTemplate::new(Endpoint::Completions, "simulated");
        Ok(LoadedScenario { scenario: self, prompts, template })
    }
}

/// A scenario with its workload in memory.
#[derive(Clone, Debug)]
pub struct LoadedScenario {
    scenario: Scenario,
    prompts: Arc<[SeedPrompt]>,
    template: RequestTemplate,
}

impl LoadedScenario {
    /// Runs `policy` under `seed`.
    pub fn trial(&self, policy: PolicySettings, seed: u64) -> Result<Trial, Error> {
        let fleet = FleetSettings { policy, ..self.scenario.fleet.clone() };
        let settings = Settings { fleet, client: self.scenario.client, seed };
        let plan = self.plan(seed)?;
        let shape = RunShape {
            phases: plan
                .phases
                .iter()
                .map(|phase| PhaseShape {
                    name: phase.name.clone(),
                    measured: phase.kind == PhaseKind::Measured,
                    target_rate: phase.target_rate,
                    concurrency: phase.limits.concurrency,
                })
                .collect(),
            targets: (0..settings.fleet.profiles.len()).map(|index| format!("replica-{index:04}")).collect(),
        };
        let mut recorder = Recorder::new(shape, Vec::new());
        let figures = run(&settings, plan, |record| recorder.push(record))?;
        Ok(Trial { report: recorder.report(), figures })
    }

    /// What the workload asks of the caches.
    pub fn demand(&self, seed: u64) -> Demand {
        let sessions = self.sessions(seed);
        let prompts = sessions.iter().flatten().map(|turn| PromptHashes::of(&turn.request));
        Demand::of(prompts, &self.scenario.fleet.profiles)
    }

    fn sessions(&self, seed: u64) -> Vec<Vec<Turn>> {
        let single = |prompt: &SeedPrompt| {
            vec![Turn { request: prompt.request(&self.template), delay: Duration::ZERO, not_before: None }]
        };
        match &self.scenario.traffic {
            Traffic::Kubeai(count) => self.prompts.iter().cycle().take(*count).map(single).collect(),
            Traffic::Prompts(_) => {
                let mut sessions: Vec<_> = self.prompts.iter().map(single).collect();
                sessions.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
                sessions
            }
            Traffic::Sessions(_) => {
                let mut sessions =
                    seed_sessions(&self.prompts, &self.template, self.scenario.preamble_tokens);
                sessions.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
                sessions
            }
        }
    }

    fn plan(&self, seed: u64) -> Result<Plan, Error> {
        let measured = self.phase("measured", PhaseKind::Measured, seed)?;
        let phases = if self.scenario.warm {
            vec![self.phase("warm-up", PhaseKind::Warmup, seed)?, measured]
        } else {
            vec![measured]
        };
        Ok(Plan { phases })
    }

    fn phase(&self, name: &str, kind: PhaseKind, seed: u64) -> Result<Phase, Error> {
        let sessions = self.sessions(seed);
        let requests = sessions.iter().map(Vec::len).sum::<usize>() as u64;
        let times: Box<dyn Iterator<Item = Duration> + Send> = match self.scenario.rate {
            Some(rate) => Box::new(Arrivals::new(Pattern::Poisson, Rate::constant(rate)?, seed)?),
            None => Box::new(std::iter::repeat(Duration::ZERO)),
        };
        let arrivals = (0..)
            .zip(times.zip(sessions))
            .map(|(id, (at, turns))| Arrival { at, session: Session { id, turns, target: None } });
        Ok(Phase {
            name: name.into(),
            kind,
            limits: Limits { concurrency: self.scenario.concurrency, ..Limits::default() },
            target_rate: self.scenario.rate,
            expected_requests: Some(requests),
            arrivals: Box::new(arrivals),
        })
    }
}
