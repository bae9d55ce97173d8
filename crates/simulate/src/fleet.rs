//! Replicas and the balancers in front of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use engine::{Counters, Profile, Scheduler};
use protocol::BLOCK_TOKENS;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use routing::{
    Coefficients, EngineReport, Lease, PolicySettings, PredictionSnapshot, Query, ReplicaSpec, RetryBudget,
    Router,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{Error, Fault, FaultKind, PromptHashes};

/// What stands between the clients and the answers.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    /// One a replica; mixed fleets have different ones.
    pub profiles: Vec<Profile>,
    /// The rule that picks a replica.
    pub policy: PolicySettings,
    /// Independent balancers, each with its own view; a request reaches one at random.
    pub balancers: u32,
    /// One way, from the client through the balancer to the engine, and back.
    pub network: Duration,
    /// Whether the balancers know the output length of a request.
    pub output_known: bool,
    /// How balancers learn of queues, for `least_queue` and `prefix_aware`.
    pub scrape: Scrape,
    /// In any order.
    pub faults: Vec<Fault>,
    /// Every prompt finds all that was ever sent before, wherever it goes: what no cache can beat.
    pub all_hits: bool,
    /// Goes into the replicas' names. Homes are found by hashing them, so how even these are is luck: a run of
    /// a scenario has names of its own for each seed.
    pub names: Option<u64>,
    /// Models that only some replicas serve, with the places of these.
    pub served: BTreeMap<String, BTreeSet<usize>>,
}

/// How balancers learn of engines' queues.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scrape {
    /// Between two readings of a replica by a balancer.
    pub interval: Duration,
    /// Age of a reading when it arrives.
    pub delay: Duration,
}

/// What one replica did in a run.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct ReplicaFigures {
    /// Requests sent to it since the last phase began.
    pub requests: u64,
    /// The engine's own counters, its time in steps as faults had it.
    #[serde(flatten)]
    pub counters: Counters,
}

/// What a balancer has learned about the engines, for `prefix_aware`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Learned {
    /// A step's costs.
    pub engine: Coefficients,
    /// One a replica: how many times as long as that its steps take.
    pub slowness: Vec<f64>,
}

/// Replicas and balancers of one run.
pub(crate) struct Fleet {
    pub(crate) replicas: Vec<SimulatedReplica>,
    balancers: Vec<Balancer>,
    generator: ChaCha8Rng,
    output_known: bool,
    /// Models that only some replicas serve, in order.
    restricted: Vec<String>,
    /// Every block ever sent, where all of them are hits.
    sent: Option<HashSet<u64>>,
}

pub(crate) struct SimulatedReplica {
    pub(crate) scheduler: Scheduler,
    /// End of the step under way.
    pub(crate) step_ends: Option<Duration>,
    pub(crate) alive: bool,
    /// How often it died: what happened before says nothing about it now.
    pub(crate) deaths: u32,
    speed: f64,
    requests: u64,
    /// Time in steps: a step is longer or shorter at another speed, and a death cuts it off.
    busy: Duration,
    /// Of the engines that died.
    buried: Vec<Counters>,
}

struct Balancer {
    router: Router,
    /// Replica ids in fleet order: ids are handed out in one run of numbers, so the first one places them all.
    first_id: u64,
    budget: Arc<RetryBudget>,
}

/// A request that has come to a balancer.
#[derive(Clone, Copy)]
pub(crate) struct Reached {
    balancer: usize,
    /// Place of its model among those that only some replicas serve.
    model: Option<usize>,
    /// Prompt tokens that need not be computed, whatever the replica's cache holds.
    pub(crate) loaded_tokens: u32,
}

impl FleetSettings {
    /// `replicas` equal replicas behind one balancer, 3 ms away.
    pub fn uniform(profile: &Profile, replicas: usize, policy: PolicySettings) -> Self {
        Self {
            profiles: vec![profile.clone(); replicas],
            policy,
            balancers: 1,
            network: Duration::from_millis(3),
            output_known: true,
            scrape: Scrape::default(),
            faults: Vec::new(),
            all_hits: false,
            names: None,
            served: BTreeMap::new(),
        }
    }
}

impl Default for Scrape {
    /// As `serve` does.
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), delay: Duration::ZERO }
    }
}

impl Fleet {
    pub(crate) fn new(settings: &FleetSettings, seed: u64) -> Result<Self, Error> {
        let fault = settings.faults.iter().find(|fault| fault.replica >= settings.profiles.len());
        if let Some(fault) = fault {
            return Err(Error::Fault { replica: fault.replica, replicas: settings.profiles.len() });
        }
        let cut = |profile: &&Profile| !(profile.block_tokens as usize).is_multiple_of(BLOCK_TOKENS);
        if let Some(Profile { block_tokens, .. }) = settings.profiles.iter().find(cut) {
            return Err(Error::BlockTokens(*block_tokens));
        }
        let names = settings.names.map(|names| format!("-{names}")).unwrap_or_default();
        let specs: Vec<ReplicaSpec> = (0..settings.profiles.len())
            .map(|index| {
                let models = settings.served.iter().filter(|(_, replicas)| replicas.contains(&index));
                let adapters = models.map(|(model, _)| model.clone()).collect();
                let spec = ReplicaSpec::new(format!("replica-{index:04}{names}"));
                ReplicaSpec { adapters: Some(adapters), ..spec }
            })
            .collect();
        let count = settings.balancers.max(1);
        let mut policy = settings.policy.clone();
        if let PolicySettings::PrefixAware(prefix_aware) = &mut policy {
            prefix_aware.balancers = count;
        }
        let balancer = |balancer: u32| {
            let router = Router::new(policy.clone(), specs.clone())?;
            router.scatter(xxh3_64_with_seed(&balancer.to_le_bytes(), seed));
            let replicas = router.replicas();
            let first_id = replicas.first().ok_or(Error::NoReplicas)?.id;
            debug_assert!((first_id..).zip(&*replicas).all(|(id, replica)| replica.id == id));
            for (replica, profile) in replicas.iter().zip(&settings.profiles) {
                replica.set_cache_tokens(profile.kv_tokens());
            }
            Ok(Balancer { router, first_id, budget: Arc::default() })
        };
        Ok(Self {
            balancers: (0..count).map(balancer).collect::<Result<_, Error>>()?,
            replicas: settings.profiles.iter().map(SimulatedReplica::new).collect(),
            generator: ChaCha8Rng::seed_from_u64(seed),
            output_known: settings.output_known,
            restricted: settings.served.keys().cloned().collect(),
            sent: settings.all_hits.then(HashSet::new),
        })
    }

    /// A request with an answer of so many tokens comes to one of the balancers.
    pub(crate) fn reach(&mut self, model: &str, prompt: &PromptHashes, output_tokens: u32) -> Reached {
        let balancer = match self.balancers.len() {
            1 => 0,
            count => self.generator.random_range(0..count),
        };
        let loaded_tokens = self.sent.as_mut().map_or(0, |sent| {
            let held = prompt.looked_up().iter().take_while(|block| sent.contains(*block)).count();
            sent.extend(&prompt.computed(output_tokens)[held..]);
            (held * BLOCK_TOKENS) as u32
        });
        let model = self.restricted.binary_search_by(|restricted| restricted.as_str().cmp(model)).ok();
        Reached { balancer, model, loaded_tokens }
    }

    /// What limits the retries of a balancer.
    pub(crate) fn budget(&self, reached: Reached) -> &Arc<RetryBudget> {
        &self.balancers[reached.balancer].budget
    }

    /// Picks a replica for a request that failed on those `tried` (places in the fleet).
    pub(crate) fn pick(
        &mut self,
        reached: Reached,
        prompt: &PromptHashes,
        session_key: Option<u64>,
        output_tokens: Option<u32>,
        tried: &[usize],
        now: Duration,
    ) -> Result<(usize, Lease), Error> {
        let Balancer { router, first_id, .. } = &self.balancers[reached.balancer];
        let tried: Vec<u64> = tried.iter().map(|replica| first_id + *replica as u64).collect();
        let query = Query {
            adapter: reached.model.map(|place| &*self.restricted[place]),
            prefix_key: prompt.prefix.map(|prefix| routing::prefix_key(None, &prefix.to_le_bytes())),
            session_key,
            blocks: if self.sent.is_some() { &[] } else { &prompt.blocks },
            block_tokens: BLOCK_TOKENS as u32,
            prompt_tokens: prompt.tokens - reached.loaded_tokens.min(prompt.tokens - 1),
            output_tokens: output_tokens.filter(|_| self.output_known),
            tried: &tried,
        };
        let lease = router.pick(&query, now, &mut self.generator)?.lease;
        let replica = (lease.replica().id - first_id) as usize;
        self.replicas[replica].requests += 1;
        Ok((replica, lease))
    }

    /// Begins a step on an idle replica that has work; returns when it ends.
    pub(crate) fn start_step(&mut self, replica: usize, now: Duration) -> Option<Duration> {
        let replica = &mut self.replicas[replica];
        if replica.step_ends.is_some() || !replica.alive {
            return None;
        }
        let lasts = replica.scheduler.start_step(now)?.div_f64(replica.speed);
        replica.busy += lasts;
        replica.step_ends = Some(now + lasts);
        replica.step_ends
    }

    /// Does what a fault says. True if everything on the replica is lost.
    pub(crate) fn fault(&mut self, fault: Fault, now: Duration) -> bool {
        let replica = &mut self.replicas[fault.replica];
        match fault.kind {
            FaultKind::Speed(factor) => replica.speed = factor,
            FaultKind::Up => replica.alive = true,
            FaultKind::Down if replica.alive => {
                replica.buried.push(replica.scheduler.counters());
                replica.scheduler = Scheduler::new(replica.scheduler.profile().clone());
                replica.deaths += 1;
                replica.alive = false;
                if let Some(end) = replica.step_ends.take() {
                    replica.busy -= end.saturating_sub(now);
                }
                return true;
            }
            FaultKind::Down => {}
        }
        false
    }

    /// What the engines' pages say now.
    pub(crate) fn queues(&self) -> Vec<Option<EngineReport>> {
        let queue = |replica: &SimulatedReplica| {
            let snapshot = replica.scheduler.snapshot();
            let usage = 1.0 - f64::from(snapshot.free_blocks) / f64::from(snapshot.total_blocks);
            replica
                .alive
                .then(|| EngineReport::new(snapshot.running.into(), snapshot.waiting.into(), Some(usage)))
        };
        self.replicas.iter().map(queue).collect()
    }

    /// Forgets how many requests went where: a phase begins.
    pub(crate) fn count_anew(&mut self) {
        self.replicas.iter_mut().for_each(|replica| replica.requests = 0);
    }

    pub(crate) fn balancers(&self) -> usize {
        self.balancers.len()
    }

    /// A balancer gets a reading of all replicas.
    pub(crate) fn report(&self, balancer: usize, queues: &[Option<EngineReport>], now: Duration) {
        for (replica, queue) in self.balancers[balancer].router.replicas().iter().zip(queues) {
            if let Some(queue) = queue {
                replica.report(*queue, now);
            }
        }
    }

    /// All balancers check the health of all replicas; between full rounds only where something changes.
    pub(crate) fn check(&self, all: bool, now: Duration) {
        for balancer in &self.balancers {
            for (replica, simulated) in balancer.router.replicas().iter().zip(&self.replicas) {
                if all || replica.health.in_transition() {
                    replica.health.record_check(simulated.alive, now);
                }
            }
        }
    }

    pub(crate) fn figures(&self) -> Vec<ReplicaFigures> {
        let figures = |replica: &SimulatedReplica| {
            let sums = replica.buried.iter().fold(replica.scheduler.counters(), |sum, dead| add(sum, *dead));
            ReplicaFigures { requests: replica.requests, counters: Counters { busy: replica.busy, ..sums } }
        };
        self.replicas.iter().map(figures).collect()
    }

    /// What the first balancer has learned about the engines.
    pub(crate) fn learned(&self) -> Option<Learned> {
        let router = &self.balancers.first()?.router;
        let slowness = router.replicas().iter().map(|replica| replica.slowness()).collect();
        Some(Learned { engine: router.engine(), slowness })
    }

    /// How well cached parts were predicted, over all balancers and replicas.
    pub(crate) fn prediction(&self) -> PredictionSnapshot {
        let replicas = self.balancers.iter().flat_map(|balancer| balancer.router.replicas().to_vec());
        replicas.map(|replica| replica.load.prediction()).fold(PredictionSnapshot::default(), |sum, one| {
            PredictionSnapshot {
                answers: sum.answers + one.answers,
                expected_tokens: sum.expected_tokens + one.expected_tokens,
                cached_tokens: sum.cached_tokens + one.cached_tokens,
                missing_tokens: sum.missing_tokens + one.missing_tokens,
                surprising_tokens: sum.surprising_tokens + one.surprising_tokens,
            }
        })
    }
}

impl SimulatedReplica {
    fn new(profile: &Profile) -> Self {
        Self {
            scheduler: Scheduler::new(profile.clone()),
            step_ends: None,
            alive: true,
            deaths: 0,
            speed: 1.0,
            requests: 0,
            busy: Duration::ZERO,
            buried: Vec::new(),
        }
    }
}

fn add(left: Counters, right: Counters) -> Counters {
    Counters {
        steps: left.steps + right.steps,
        busy: left.busy + right.busy,
        prefix_query_tokens: left.prefix_query_tokens + right.prefix_query_tokens,
        prefix_hit_tokens: left.prefix_hit_tokens + right.prefix_hit_tokens,
        prefill_tokens: left.prefill_tokens + right.prefill_tokens,
        output_tokens: left.output_tokens + right.output_tokens,
        finished: left.finished + right.finished,
        aborted: left.aborted + right.aborted,
        preemptions: left.preemptions + right.preemptions,
        evictions: left.evictions + right.evictions,
    }
}
