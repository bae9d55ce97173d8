//! The replicas and the policy that a pick works with, and the policy's choice.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed},
        },
    },
    time::Duration,
};

use rand::Rng;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Coefficients, Cost, Health, Load, NoReplica, PickReason, PolicySettings, PrefixAwareSettings, Query,
    Replica,
    bounded_hash::{self, Bound},
    candidates::{Candidate, Candidates, Choice},
    experience::Experience,
    health::{Availability, Rules},
    outputs::Expected,
    prefix_aware::Weighing,
    ring::Ring,
};

#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) replicas: Arc<[Arc<Replica>]>,
    /// The same, as picks go through them.
    pub(crate) standings: Vec<Standing>,
    pub(crate) policy: Arc<PolicySettings>,
    experience: Arc<Experience>,
    /// As configured.
    engine: Coefficients,
    rules: Arc<Rules>,
    /// All replicas as candidates, and their weight: who may serve a request that any replica may serve, as long
    /// as all are ordinary.
    everyone: (Vec<Candidate>, f64),
    /// They were when this many disturbances had been counted.
    ordinary_at: AtomicU64,
    /// Empty unless the policy hashes.
    ring: Ring,
    /// One more than the highest slot of a replica's history.
    slots: usize,
}

/// What picks read of a replica, beside that of the next.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) load: Arc<Load>,
    pub(crate) health: Arc<Health>,
    /// As the operator says.
    pub(crate) weight: f64,
    pub(crate) name_hash: u64,
    /// Of its history.
    pub(crate) slot: u32,
    pub(crate) replica: Arc<Replica>,
}

impl Standing {
    fn of(replica: &Arc<Replica>) -> Self {
        Self {
            load: Arc::clone(&replica.load),
            health: Arc::clone(&replica.health),
            weight: replica.spec.weight.max(1).into(),
            name_hash: xxh3_64(replica.spec.name.as_bytes()),
            slot: replica.history.slot,
            replica: Arc::clone(replica),
        }
    }
}

impl Snapshot {
    pub(crate) fn new(
        replicas: Arc<[Arc<Replica>]>,
        policy: Arc<PolicySettings>,
        experience: Arc<Experience>,
        rules: Arc<Rules>,
    ) -> Self {
        let ring = match &*policy {
            PolicySettings::PrefixHash(settings) if settings.exact_kubeai => {
                Ring::kubeai(&replicas, settings.virtual_nodes)
            }
            PolicySettings::PrefixHash(settings) => Ring::new(&replicas, settings.virtual_nodes),
            PolicySettings::Session(settings) => Ring::new(&replicas, settings.virtual_nodes),
            _ => Ring::default(),
        };
        let standings: Vec<Standing> = replicas.iter().map(Standing::of).collect();
        let slots = standings.iter().map(|standing| standing.slot as usize + 1).max();
        let candidate =
            |(place, standing): (u32, &Standing)| Candidate { place, weight: standing.weight, probe: false };
        let everyone: Vec<Candidate> = (0..).zip(&standings).map(candidate).collect();
        let total_weight = everyone.iter().map(|candidate| candidate.weight).sum();
        Self {
            replicas,
            policy,
            engine: experience.basis.load().engine,
            experience,
            rules,
            everyone: (everyone, total_weight),
            ordinary_at: AtomicU64::new(u64::MAX),
            ring,
            slots: slots.unwrap_or_default(),
            standings,
        }
    }

    /// Who may serve a request.
    pub(crate) fn candidates(&self, query: &Query<'_>, now: Duration) -> Result<Candidates<'_>, NoReplica> {
        if query.is_for_any() && self.all_are_ordinary(now) {
            let (everyone, total_weight) = &self.everyone;
            return Ok(Candidates::everyone(&self.standings, everyone, *total_weight));
        }
        Candidates::collect(&self.standings, query, &self.rules.settings.load(), now)
    }

    /// Looks at them again only after a disturbance.
    fn all_are_ordinary(&self, now: Duration) -> bool {
        let disturbances = self.rules.disturbances.load(Acquire);
        if self.ordinary_at.load(Relaxed) == disturbances {
            return true;
        }
        // Younger than the count, so that what the count stands for is in them.
        let settings = self.rules.settings.load();
        let all = !self.standings.is_empty()
            && self.standings.iter().all(|standing| standing.health.is_ordinary(now, &settings));
        if all {
            self.ordinary_at.store(disturbances, Relaxed);
        }
        all
    }

    fn healthy(&self, now: Duration) -> Vec<&Arc<Replica>> {
        let settings = self.rules.settings.load();
        let healthy = |replica: &&Arc<Replica>| {
            let availability = replica.health.availability(now, &settings);
            !matches!(availability, Availability::Untried | Availability::Never)
        };
        self.replicas.iter().filter(healthy).collect()
    }

    /// What an engine's step costs, as far as is known.
    pub(crate) fn engine(&self) -> Coefficients {
        self.experience.learner.apply(&self.engine)
    }

    /// What to expect of the answer to a query.
    pub(crate) fn expected(&self, query: &Query<'_>) -> Expected {
        query.expected(&self.experience.outputs)
    }

    /// The policy's choice; `take` says that it will be followed. `see` gets the costs that were weighed.
    pub(crate) fn choose(
        &self,
        candidates: &Candidates<'_>,
        call: Call<'_>,
        random: &mut dyn Rng,
        take: bool,
        see: Option<&mut dyn FnMut(usize, Cost)>,
    ) -> Choice {
        let only = candidates.list.len() == 1;
        let mut choice = match &*self.policy {
            PolicySettings::RoundRobin => candidates.turn(take),
            PolicySettings::Random => candidates.random(random),
            PolicySettings::LeastRequests => candidates.least_requests(random),
            PolicySettings::LeastTokens => candidates.least_tokens(random),
            PolicySettings::LeastQueue(settings) => candidates.least_queue(settings, call.now, random),
            PolicySettings::PrefixHash(settings) if settings.exact_kubeai => match call.query.prefix_key {
                Some(key) => {
                    let factor = settings.load_factor_percent;
                    let pool = self.healthy(call.now);
                    bounded_hash::walk_as_kubeai(&self.ring, factor, key, candidates, &pool)
                }
                None => no_key(candidates, random),
            },
            PolicySettings::PrefixHash(settings) => {
                let bound = Bound {
                    load_factor_percent: settings.load_factor_percent,
                    minimum_load: settings.minimum_load,
                };
                self.by_key(call.query.prefix_key, bound, candidates, random)
            }
            PolicySettings::PrefixAware(settings) => {
                self.weighing(settings, call).choose(candidates, random, take, see)
            }
            PolicySettings::Session(settings) => {
                let bound = Bound {
                    load_factor_percent: settings.load_factor_percent,
                    minimum_load: settings.minimum_load,
                };
                self.by_key(call.query.session_key, bound, candidates, random)
            }
        };
        if candidates.fallback {
            choice.reason = PickReason::Fallback;
        } else if only {
            choice.reason = PickReason::OnlyCandidate;
        }
        choice
    }

    fn weighing<'a>(&'a self, settings: &'a PrefixAwareSettings, call: Call<'a>) -> Weighing<'a> {
        Weighing {
            settings,
            experience: &self.experience,
            engine: call.engine,
            query: call.query,
            expected: call.expected,
            replicas: self.replicas.len(),
            slots: self.slots,
            now: call.now,
        }
    }

    fn by_key(
        &self,
        key: Option<u64>,
        bound: Bound,
        candidates: &Candidates<'_>,
        random: &mut dyn Rng,
    ) -> Choice {
        match key {
            Some(key) => bounded_hash::choose(&self.ring, bound, key, candidates),
            None => no_key(candidates, random),
        }
    }
}

fn no_key(candidates: &Candidates<'_>, random: &mut dyn Rng) -> Choice {
    Choice { reason: PickReason::NoKey, ..candidates.least_requests(random) }
}

/// The arguments of a pick.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) query: &'a Query<'a>,
    pub(crate) engine: &'a Coefficients,
    pub(crate) expected: Expected,
    pub(crate) now: Duration,
}
