//! Replicas and the balancers in front of them.

use std::time::Duration;

use engine::{Counters, Profile, Scheduler};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use routing::{Pick, PolicySettings, Query, ReplicaSpec, Router};

use crate::{Error, PromptHashes};

/// What stands between the clients and the answers.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    /// One a replica; mixed fleets have different ones.
    pub profiles: Vec<Profile>,
    /// Relative speed of each replica: 0.5 takes twice as long for a step. Empty means 1 everywhere.
    pub speeds: Vec<f64>,
    /// The rule that picks a replica.
    pub policy: PolicySettings,
    /// Independent balancers, each with its own view; a request reaches one at random.
    pub balancers: u32,
    /// One way, from the client through the balancer to the engine, and back.
    pub network: Duration,
    /// Whether the balancers know the output length of a request.
    pub output_known: bool,
}

impl FleetSettings {
    /// `replicas` equal replicas behind one balancer, 3 ms away.
    pub fn uniform(profile: &Profile, replicas: usize, policy: PolicySettings) -> Self {
        Self {
            profiles: vec![profile.clone(); replicas],
            speeds: Vec::new(),
            policy,
            balancers: 1,
            network: Duration::from_millis(3),
            output_known: true,
        }
    }
}

/// What one replica did in a run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ReplicaFigures {
    /// Requests sent to it.
    pub requests: u64,
    /// The engine's own counters.
    #[serde(flatten)]
    pub counters: Counters,
}

/// Replicas and balancers of one run.
pub(crate) struct Fleet {
    pub(crate) replicas: Vec<SimulatedReplica>,
    routers: Vec<Balancer>,
    generator: ChaCha8Rng,
    output_known: bool,
}

pub(crate) struct SimulatedReplica {
    pub(crate) scheduler: Scheduler,
    pub(crate) stepping: bool,
    speed: f64,
    requests: u64,
}

struct Balancer {
    router: Router,
    /// Replica ids in fleet order: ids are handed out in one run of numbers, so the first one places them all.
    first_id: u64,
}

impl Fleet {
    pub(crate) fn new(settings: &FleetSettings, seed: u64) -> Result<Self, Error> {
        let specs: Vec<ReplicaSpec> = (0..settings.profiles.len())
            .map(|index| ReplicaSpec::new(format!("replica-{index:04}")))
            .collect();
        let balancers = settings.balancers.max(1);
        let mut policy = settings.policy.clone();
        if let PolicySettings::PrefixAware(prefix_aware) = &mut policy {
            prefix_aware.balancers = balancers;
        }
        let routers = (0..balancers)
            .map(|_| {
                let router = Router::new(policy.clone(), specs.clone())?;
                let ids: Vec<u64> = router.replicas().iter().map(|replica| replica.id).collect();
                let first_id = ids.first().copied().ok_or(Error::NoReplicas)?;
                debug_assert!(ids.iter().zip(first_id..).all(|(id, expected)| *id == expected));
                Ok(Balancer { router, first_id })
            })
            .collect::<Result<_, Error>>()?;
        let replicas = settings
            .profiles
            .iter()
            .enumerate()
            .map(|(index, profile)| SimulatedReplica {
                scheduler: Scheduler::new(profile.clone()),
                stepping: false,
                speed: settings.speeds.get(index).copied().unwrap_or(1.0),
                requests: 0,
            })
            .collect();
        Ok(Self {
            replicas,
            routers,
            generator: ChaCha8Rng::seed_from_u64(seed),
            output_known: settings.output_known,
        })
    }

    /// Picks a replica for a request; returns its index with the pick.
    pub(crate) fn pick(
        &mut self,
        prompt: &PromptHashes,
        session: u64,
        output_tokens: u32,
        now: Duration,
    ) -> Result<(usize, Pick), Error> {
        let balancer = match self.routers.len() {
            1 => 0,
            count => self.generator.random_range(0..count),
        };
        let Balancer { router, first_id } = &self.routers[balancer];
        let query = Query {
            prefix_key: Some(routing::prefix_key(None, &prompt.prefix.to_le_bytes())),
            session_key: Some(routing::session_key(&session.to_le_bytes())),
            blocks: &prompt.blocks,
            block_tokens: protocol::BLOCK_TOKENS as u32,
            prompt_tokens: prompt.tokens,
            output_tokens: self.output_known.then_some(output_tokens),
            ..Query::default()
        };
        let pick = router.pick(&query, now, &mut self.generator)?;
        let index = (pick.lease.replica().id - first_id) as usize;
        self.replicas[index].requests += 1;
        Ok((index, pick))
    }

    /// Begins a step on an idle replica that has work; returns when it ends.
    pub(crate) fn start_step(&mut self, replica: usize, now: Duration) -> Option<Duration> {
        let replica = &mut self.replicas[replica];
        if replica.stepping {
            return None;
        }
        let duration = replica.scheduler.start_step(now)?;
        replica.stepping = true;
        Some(now + duration.div_f64(replica.speed))
    }

    pub(crate) fn figures(&self) -> Vec<ReplicaFigures> {
        self.replicas
            .iter()
            .map(|replica| ReplicaFigures {
                requests: replica.requests,
                counters: replica.scheduler.counters(),
            })
            .collect()
    }
}
