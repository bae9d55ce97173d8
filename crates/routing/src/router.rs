//! The replicas of one pool and the policy in force.
//!
//! Picks read one snapshot of both without locks. Changes make a new snapshot and take effect with the next
//! pick; open leases keep the replica they have. A change of policy keeps all loads and all health, since both
//! belong to the replicas.

use std::{
    collections::HashSet,
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
    Coefficients, Health, HealthSettings, Lease, NoReplica, Pick, PolicySettings, PrefixAwareSettings, Query,
    Replica, ReplicaSpec, SettingsError,
    candidates::Choice,
    experience::Experience,
    health::Rules,
    lease::Opening,
    prefix_index::{History, Limits},
    snapshot::{Call, Snapshot},
};

/// Picks replicas for requests.
#[derive(Debug)]
pub struct Router {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) rules: Arc<Rules>,
    experience: Arc<Experience>,
    /// Held by those who change something.
    changing: Mutex<()>,
}

impl Router {
    /// A router for these replicas. Of several with one name the first counts.
    pub fn new(policy: PolicySettings, specs: Vec<ReplicaSpec>) -> Result<Self, SettingsError> {
        policy.validate()?;
        let rules = Arc::new(Rules::default());
        let experience = Arc::new(Experience::new());
        experience.follow(&policy);
        let router = Self {
            snapshot: ArcSwap::from_pointee(Snapshot::new(
                Arc::new([]),
                Arc::new(policy),
                Arc::clone(&experience),
                Arc::clone(&rules),
            )),
            rules,
            experience,
            changing: Mutex::new(()),
        };
        router.change_replicas(specs, false, |_| {});
        Ok(router)
    }

    /// Changes the policy from the next pick on.
    pub fn set_policy(&self, policy: PolicySettings) -> Result<(), SettingsError> {
        policy.validate()?;
        let _changing = self.changing.lock();
        self.experience.follow(&policy);
        let replicas = Arc::clone(&self.snapshot.load().replicas);
        self.keep_within(&policy, &replicas);
        self.store(replicas, Arc::new(policy));
        Ok(())
    }

    /// Changes what counts as healthy, for all replicas.
    pub fn set_health(&self, settings: HealthSettings) -> Result<(), SettingsError> {
        settings.validate()?;
        self.rules.change(settings);
        Ok(())
    }

    /// Gives this balancer a number of its own, so that it does not probe ejected replicas at the same moments as others.
    pub fn scatter(&self, seed: u64) {
        self.rules.scatter.store(seed, Relaxed);
    }

    /// Changes the pool. A name that stays keeps its load and health, whatever else changes about it; one that
    /// left and returns is a new replica.
    pub fn set_replicas(&self, specs: Vec<ReplicaSpec>) {
        self.set_replicas_after(specs, |_| {});
    }

    /// Likewise; `prepare` sees the new pool before a pick can.
    pub fn set_replicas_after(&self, specs: Vec<ReplicaSpec>, prepare: impl FnOnce(&[Arc<Replica>])) {
        self.change_replicas(specs, true, prepare);
    }

    fn change_replicas(
        &self,
        specs: Vec<ReplicaSpec>,
        joins_late: bool,
        prepare: impl FnOnce(&[Arc<Replica>]),
    ) {
        let _changing = self.changing.lock();
        let old = self.snapshot.load_full();
        let replicas = self.merge(&old.replicas, specs, joins_late);
        prepare(&replicas);
        self.store(Arc::clone(&replicas), Arc::clone(&old.policy));
        for replica in &*old.replicas {
            if !replicas.iter().any(|kept| kept.id == replica.id) {
                self.experience.index.close(&replica.history);
                self.experience.caches.clear(replica.history.slot);
            }
        }
        self.keep_within(&old.policy, &replicas);
    }

    /// Forgets what is too much for histories whose share of the memory has become smaller.
    fn keep_within(&self, policy: &PolicySettings, replicas: &[Arc<Replica>]) {
        if let PolicySettings::PrefixAware(settings) = policy {
            let bytes = share_of_index(settings, replicas.len());
            let limits = Limits { blocks: usize::MAX, bytes };
            replicas.iter().for_each(|replica| self.experience.index.limit(&replica.history, limits));
        }
    }

    fn store(&self, replicas: Arc<[Arc<Replica>]>, policy: Arc<PolicySettings>) {
        self.snapshot.store(Arc::new(Snapshot::new(
            replicas,
            policy,
            Arc::clone(&self.experience),
            Arc::clone(&self.rules),
        )));
    }

    /// The replicas for `specs`: those of `old` that are named again, and new ones.
    fn merge(&self, old: &[Arc<Replica>], specs: Vec<ReplicaSpec>, joins_late: bool) -> Arc<[Arc<Replica>]> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        // New replicas get one run of numbers, whoever else makes some meanwhile.
        let mut ids = NEXT_ID.fetch_add(specs.len() as u64, Relaxed)..;
        // Slots of those who leave are free again once their histories are closed: not for this change.
        let taken: HashSet<u32> = old.iter().map(|replica| replica.history.slot).collect();
        let mut free = (0..).filter(|slot| !taken.contains(slot));
        let mut replicas: Vec<Arc<Replica>> = Vec::with_capacity(specs.len());
        let mut names = HashSet::new();
        for spec in specs {
            if !names.insert(Arc::clone(&spec.name)) {
                continue;
            }
            let known = old.iter().find(|replica| replica.spec.name == spec.name);
            replicas.push(match known {
                Some(known) if known.spec == spec => Arc::clone(known),
                Some(known) => Arc::new(known.with_spec(spec)),
                None => {
                    let id = ids.next().unwrap_or_default();
                    let slot = free.next().unwrap_or_default();
                    Arc::new(Replica {
                        id,
                        health: Arc::new(Health::new(&spec.name, Arc::clone(&self.rules), joins_late)),
                        spec,
                        load: Arc::default(),
                        reported: Arc::default(),
                        history: Arc::new(History::new(slot)),
                        experience: Arc::clone(&self.experience),
                    })
                }
            });
        }
        replicas.into()
    }

    /// Memory of the prefix histories, in bytes.
    pub fn index_bytes(&self) -> usize {
        self.experience.index.bytes()
    }

    /// Forgets what engines said about these blocks.
    pub fn forget_blocks(&self, blocks: &[u64]) {
        blocks.iter().for_each(|block| self.experience.caches.forget(*block));
    }

    /// Memory of what engines said about their caches, in bytes.
    pub fn engine_caches_bytes(&self) -> usize {
        self.experience.caches.bytes()
    }

    /// What an engine's step costs, as configured and learned.
    pub fn engine(&self) -> Coefficients {
        self.snapshot.load().engine()
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<PolicySettings> {
        Arc::clone(&self.snapshot.load().policy)
    }

    /// What counts as healthy.
    pub fn health(&self) -> Arc<HealthSettings> {
        self.rules.settings.load_full()
    }

    /// The replicas, in the order of their specs.
    pub fn replicas(&self) -> Arc<[Arc<Replica>]> {
        Arc::clone(&self.snapshot.load().replicas)
    }

    /// Chooses a replica and opens a lease on it.
    pub fn pick(&self, query: &Query<'_>, now: Duration, random: &mut dyn Rng) -> Result<Pick, NoReplica> {
        let snapshot = self.snapshot.load();
        self.experience.fade(&snapshot.replicas, now);
        let mut candidates = snapshot.candidates(query, now)?;
        let engine = snapshot.engine();
        let expected = snapshot.expected(query);
        let call = Call { query, engine: &engine, expected, now };
        loop {
            let choice = snapshot.choose(&candidates, call, random, true, None);
            let candidate = candidates.list[choice.index];
            let standing = candidates.standing(&candidate);
            if candidate.probe && !standing.health.claim() {
                candidates = match candidates.without(choice.index) {
                    Some(others) => others,
                    None => snapshot.candidates(query, now)?,
                };
                continue;
            }
            let mut lease = open(&standing.replica, candidate.probe, &choice, call);
            if let PolicySettings::PrefixAware(settings) = &*snapshot.policy {
                lease.known_since =
                    self.remember(settings, &standing.replica, snapshot.replicas.len(), query, now);
            }
            let Choice { reason, score, cached_tokens, .. } = choice;
            return Ok(Pick { lease, reason, score, cached_tokens });
        }
    }

    /// Keeps in the history that the replica gets this prompt.
    fn remember(
        &self,
        settings: &PrefixAwareSettings,
        replica: &Replica,
        replicas: usize,
        query: &Query<'_>,
        now: Duration,
    ) -> Option<Duration> {
        let cache_tokens = replica.cache_tokens().unwrap_or(settings.engine.cache_tokens);
        let cache_blocks = cache_tokens as f64 / f64::from(query.block_tokens.max(1));
        let limits = Limits {
            blocks: (settings.history_factor * cache_blocks) as usize,
            bytes: share_of_index(settings, replicas),
        };
        self.experience.caches.sent(replica.history.slot, query.blocks);
        self.experience.index.insert(&replica.history, query.blocks, limits, now)
    }
}

/// Bytes of one replica's history.
fn share_of_index(settings: &PrefixAwareSettings, replicas: usize) -> usize {
    settings.index_bytes / replicas.max(1)
}

fn open(replica: &Arc<Replica>, probe: bool, choice: &Choice, call: Call<'_>) -> Lease {
    let engine = call.engine.slowed(replica.slowness());
    let opening = Opening {
        query: call.query,
        engine: &engine,
        expected: call.expected,
        cached_tokens: choice.cached_tokens,
        probe,
        now: call.now,
    };
    Lease::open(Arc::clone(replica), opening)
}
