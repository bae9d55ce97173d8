//! The replicas and the policy that a pick works with, and the policy's choice.

use std::{sync::Arc, time::Duration};

use rand::Rng;

use crate::{
    Cost, HealthSettings, PickReason, PolicySettings, PrefixAwareSettings, Query, Replica,
    bounded_hash::{self, Bound},
    candidates::{Candidates, Choice},
    experience::Experience,
    health::Availability,
    prefix_aware::Weighing,
    ring::Ring,
};

#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) replicas: Arc<[Arc<Replica>]>,
    pub(crate) policy: Arc<PolicySettings>,
    experience: Arc<Experience>,
    /// Empty unless the policy hashes.
    ring: Ring,
    /// One more than the highest slot of a replica's history.
    slots: usize,
}

impl Snapshot {
    pub(crate) fn new(
        replicas: Arc<[Arc<Replica>]>,
        policy: Arc<PolicySettings>,
        experience: Arc<Experience>,
    ) -> Self {
        let ring = match &*policy {
            PolicySettings::PrefixHash(settings) if settings.exact_kubeai => {
                Ring::kubeai(&replicas, settings.virtual_nodes)
            }
            PolicySettings::PrefixHash(settings) => Ring::new(&replicas, settings.virtual_nodes),
            PolicySettings::Session(settings) => Ring::new(&replicas, settings.virtual_nodes),
            _ => Ring::default(),
        };
        let slots = replicas.iter().map(|replica| replica.history.slot as usize + 1).max();
        Self { replicas, policy, experience, ring, slots: slots.unwrap_or_default() }
    }

    /// The policy's choice; `take` says that it will be followed. `see` gets the costs that were weighed.
    pub(crate) fn choose(
        &self,
        candidates: &Candidates<'_>,
        call: Call<'_>,
        random: &mut dyn Rng,
        take: bool,
        see: impl FnMut(usize, Cost),
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
                    let pool = call.healthy(&self.replicas);
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
            query: call.query,
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
    pub(crate) settings: &'a HealthSettings,
    pub(crate) now: Duration,
}

impl Call<'_> {
    fn healthy<'r>(&self, replicas: &'r [Arc<Replica>]) -> Vec<&'r Arc<Replica>> {
        let healthy = |replica: &&Arc<Replica>| {
            replica.health.availability(self.now, self.settings) != Availability::Never
        };
        replicas.iter().filter(healthy).collect()
    }
}
