//! The replicas of one pool and the policy in force.
//!
//! Picks read one snapshot of both without locks. Changes make a new snapshot and take effect with the next
//! pick; open leases keep the replica they have. A change of policy keeps all loads and all health, since both
//! belong to the replicas.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::Rng;

use crate::{
    Considered, Exclusion, Explanation, Health, HealthSettings, Lease, NoReplica, Pick, PickReason,
    PolicySettings, Query, Replica, ReplicaSpec, SettingsError,
    bounded_hash::{self, Bound},
    candidates::{Candidates, Choice},
    health::Availability,
    ring::Ring,
};

/// Picks replicas for requests.
#[derive(Debug)]
pub struct Router {
    snapshot: ArcSwap<Snapshot>,
    health: Arc<ArcSwap<HealthSettings>>,
    /// Held by those who change something.
    changing: Mutex<()>,
}

#[derive(Debug)]
struct Snapshot {
    replicas: Arc<[Arc<Replica>]>,
    policy: Arc<PolicySettings>,
    /// Empty unless the policy hashes.
    ring: Ring,
}

impl Snapshot {
    fn new(replicas: Arc<[Arc<Replica>]>, policy: Arc<PolicySettings>) -> Self {
        let ring = match &*policy {
            PolicySettings::PrefixHash(settings) if settings.exact_kubeai => {
                Ring::kubeai(&replicas, settings.virtual_nodes)
            }
            PolicySettings::PrefixHash(settings) => Ring::new(&replicas, settings.virtual_nodes),
            PolicySettings::Session(settings) => Ring::new(&replicas, settings.virtual_nodes),
            _ => Ring::default(),
        };
        Self { replicas, policy, ring }
    }

    /// The policy's choice; `take` says that it will be followed.
    fn choose(&self, candidates: &Candidates<'_>, call: &mut Call<'_, '_>, take: bool) -> Choice {
        let only = candidates.list.len() == 1;
        let mut choice = match &*self.policy {
            PolicySettings::RoundRobin => candidates.turn(take),
            PolicySettings::Random => candidates.random(call.random),
            PolicySettings::LeastRequests => candidates.least_requests(call.random),
            PolicySettings::LeastTokens => candidates.least_tokens(call.random),
            PolicySettings::LeastQueue(settings) => candidates.least_queue(settings, call.now, call.random),
            PolicySettings::PrefixHash(settings) if settings.exact_kubeai => match call.query.prefix_key {
                Some(key) => {
                    let factor = settings.load_factor_percent;
                    let pool = call.healthy(&self.replicas);
                    bounded_hash::walk_as_kubeai(&self.ring, factor, key, candidates, &pool)
                }
                None => no_key(candidates, call.random),
            },
            PolicySettings::PrefixHash(settings) => {
                let bound = Bound {
                    load_factor_percent: settings.load_factor_percent,
                    minimum_load: settings.minimum_load,
                };
                self.by_key(call.query.prefix_key, bound, candidates, call.random)
            }
            PolicySettings::Session(settings) => {
                let bound = Bound {
                    load_factor_percent: settings.load_factor_percent,
                    minimum_load: settings.minimum_load,
                };
                self.by_key(call.query.session_key, bound, candidates, call.random)
            }
        };
        if candidates.fallback {
            choice.reason = PickReason::Fallback;
        } else if only {
            choice.reason = PickReason::OnlyCandidate;
        }
        choice
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
struct Call<'a, 'q> {
    query: &'a Query<'q>,
    settings: &'a HealthSettings,
    now: Duration,
    random: &'a mut dyn Rng,
}

impl Call<'_, '_> {
    fn healthy<'r>(&self, replicas: &'r [Arc<Replica>]) -> Vec<&'r Arc<Replica>> {
        let healthy = |replica: &&Arc<Replica>| {
            replica.health.availability(self.now, self.settings) != Availability::Never
        };
        replicas.iter().filter(healthy).collect()
    }
}

impl Router {
    /// A router for these replicas. Of several with one name the first counts.
    pub fn new(policy: PolicySettings, specs: Vec<ReplicaSpec>) -> Result<Self, SettingsError> {
        policy.validate()?;
        let health = Arc::new(ArcSwap::from_pointee(HealthSettings::default()));
        let replicas = merge(&[], specs, &health, false);
        Ok(Self {
            snapshot: ArcSwap::from_pointee(Snapshot::new(replicas, Arc::new(policy))),
            health,
            changing: Mutex::new(()),
        })
    }

    /// Changes the policy from the next pick on.
    pub fn set_policy(&self, policy: PolicySettings) -> Result<(), SettingsError> {
        policy.validate()?;
        let _changing = self.changing.lock();
        let replicas = Arc::clone(&self.snapshot.load().replicas);
        self.snapshot.store(Arc::new(Snapshot::new(replicas, Arc::new(policy))));
        Ok(())
    }

    /// Changes what counts as healthy, for all replicas.
    pub fn set_health(&self, settings: HealthSettings) -> Result<(), SettingsError> {
        settings.validate()?;
        self.health.store(Arc::new(settings));
        Ok(())
    }

    /// Changes the pool. A name that stays keeps its load and health, whatever else changes about it; one that
    /// left and returns is a new replica.
    pub fn set_replicas(&self, specs: Vec<ReplicaSpec>) {
        let _changing = self.changing.lock();
        let old = self.snapshot.load_full();
        let replicas = merge(&old.replicas, specs, &self.health, true);
        self.snapshot.store(Arc::new(Snapshot::new(replicas, Arc::clone(&old.policy))));
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<PolicySettings> {
        Arc::clone(&self.snapshot.load().policy)
    }

    /// What counts as healthy.
    pub fn health(&self) -> Arc<HealthSettings> {
        self.health.load_full()
    }

    /// The replicas, in the order of their specs.
    pub fn replicas(&self) -> Arc<[Arc<Replica>]> {
        Arc::clone(&self.snapshot.load().replicas)
    }

    /// Chooses a replica and opens a lease on it.
    pub fn pick(&self, query: &Query<'_>, now: Duration, random: &mut dyn Rng) -> Result<Pick, NoReplica> {
        let snapshot = self.snapshot.load();
        let settings = self.health.load();
        let mut candidates = Candidates::collect(&snapshot.replicas, query, &settings, now)?;
        let mut call = Call { query, settings: &settings, now, random };
        loop {
            let choice = snapshot.choose(&candidates, &mut call, true);
            let candidate = candidates.list[choice.index];
            if candidate.probe && !candidate.replica.health.claim() {
                // Another pick took the probe in the meantime.
                candidates.list.remove(choice.index);
                if candidates.list.is_empty() {
                    candidates = Candidates::collect(&snapshot.replicas, query, &settings, now)?;
                }
                continue;
            }
            let replica = Arc::clone(candidate.replica);
            let lease = Lease::open(replica, query.prompt_tokens, 0, query.output_tokens, candidate.probe);
            return Ok(Pick { lease, reason: choice.reason, score: choice.score });
        }
    }

    /// Lays a decision open without taking it.
    pub fn explain(&self, query: &Query<'_>, now: Duration, random: &mut dyn Rng) -> Explanation {
        let snapshot = self.snapshot.load();
        let settings = self.health.load();
        let found = Candidates::collect(&snapshot.replicas, query, &settings, now);
        let mut call = Call { query, settings: &settings, now, random };
        let choice = found.as_ref().map(|found| (found, snapshot.choose(found, &mut call, false)));
        let (chosen, reason) = match &choice {
            Ok((found, choice)) => {
                let name = &found.list[choice.index].replica.spec.name;
                (Some(Arc::clone(name)), choice.reason.label())
            }
            Err(none) => (None, none.label()),
        };
        let candidates = (0..)
            .zip(snapshot.replicas.iter())
            .map(|(place, replica)| {
                let index = found.as_ref().ok().and_then(|found| found.at(place));
                let ramp = replica.health.ramp(now, settings.slow_start);
                Considered {
                    name: Arc::clone(&replica.spec.name),
                    excluded: match index {
                        Some(_) => None,
                        None => Some(exclusion(replica, query, &settings, now)),
                    },
                    weight: f64::from(replica.spec.weight.max(1)) * ramp,
                    health: replica.health.state(now),
                    load: replica.load.snapshot(),
                }
            })
            .collect();
        Explanation { policy: snapshot.policy.name(), candidates, chosen, reason }
    }
}

fn exclusion(replica: &Replica, query: &Query<'_>, settings: &HealthSettings, now: Duration) -> Exclusion {
    if query.tried.contains(&replica.id) {
        Exclusion::Tried
    } else if !query.admits(replica) {
        Exclusion::NoAdapter
    } else if replica.health.availability(now, settings) == Availability::Never {
        Exclusion::NotHealthy
    } else {
        Exclusion::Avoided
    }
}

/// The replicas for `specs`: those of `old` that are named again, and new ones.
fn merge(
    old: &[Arc<Replica>],
    specs: Vec<ReplicaSpec>,
    health: &Arc<ArcSwap<HealthSettings>>,
    joins_late: bool,
) -> Arc<[Arc<Replica>]> {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    let mut replicas: Vec<Arc<Replica>> = Vec::with_capacity(specs.len());
    for spec in specs {
        if replicas.iter().any(|replica| replica.spec.name == spec.name) {
            continue;
        }
        let known = old.iter().find(|replica| replica.spec.name == spec.name);
        replicas.push(match known {
            Some(known) if known.spec == spec => Arc::clone(known),
            Some(known) => Arc::new(known.with_spec(spec)),
            None => {
                let id = NEXT_ID.fetch_add(1, Relaxed);
                Arc::new(Replica {
                    id,
                    spec,
                    load: Arc::default(),
                    health: Arc::new(Health::new(id, Arc::clone(health), joins_late)),
                    reported: Arc::default(),
                })
            }
        });
    }
    replicas.into()
}
