//! The replicas that may serve one request, and the choices that need no more than their loads.
//!
//! Candidates admit the request (adapter, not tried) and are available. Ejected and busy ones are candidates
//! only where there are no others, and those that joined and were not checked yet only after these. Ties go to one of
//! the best at random, in proportion to weights, never to the first in the list.

use std::{borrow::Cow, sync::atomic::Ordering::Relaxed, time::Duration};

use rand::Rng;

use crate::{
    HealthSettings, LeastQueueSettings, Load, NoReplica, PickReason, Query, Replica, health::Availability,
    prefix_index::Answer, ring::unit, snapshot::Standing,
};

/// One replica that may serve the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Its place in the pool.
    pub(crate) place: u32,
    /// Slow start included.
    pub(crate) weight: f64,
    /// A pick must claim the probe.
    pub(crate) probe: bool,
}

/// All of them, in the order of the pool; at least one.
#[derive(Debug)]
pub(crate) struct Candidates<'a> {
    /// The whole pool.
    standings: &'a [Standing],
    pub(crate) list: Cow<'a, [Candidate]>,
    pub(crate) total_weight: f64,
    /// They are ejected or busy, or not checked yet; there are no others.
    pub(crate) fallback: bool,
}

/// What a policy decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    /// Index into the list of candidates.
    pub(crate) index: usize,
    pub(crate) reason: PickReason,
    pub(crate) score: f64,
    pub(crate) cached_tokens: Option<u32>,
    /// An answer counted in that.
    pub(crate) answer: Option<Answer>,
}

impl Choice {
    /// By a policy that knows nothing of caches.
    pub(crate) fn new(index: usize, reason: PickReason, score: f64) -> Self {
        Self { index, reason, score, cached_tokens: None, answer: None }
    }
}

impl<'a> Candidates<'a> {
    pub(crate) fn collect(
        standings: &'a [Standing],
        query: &Query<'_>,
        settings: &HealthSettings,
        now: Duration,
    ) -> Result<Self, NoReplica> {
        let those = |wanted: fn(Availability) -> bool| {
            let (mut list, mut total_weight) = (Vec::with_capacity(standings.len()), 0.0);
            for (place, standing) in (0..).zip(standings) {
                if !query.admits(&standing.replica) {
                    continue;
                }
                let availability = standing.health.availability(now, settings);
                if wanted(availability) {
                    let weight = standing.weight * standing.health.ramp(now, settings.slow_start);
                    total_weight += weight;
                    let probe = availability == Availability::Probe;
                    list.push(Candidate { place, weight, probe });
                }
            }
            let some = !list.is_empty();
            some.then(|| Self { standings, list: list.into(), total_weight, fallback: false })
        };
        if let Some(ready) = those(|one| matches!(one, Availability::Ready | Availability::Probe)) {
            return Ok(ready);
        }
        let others =
            those(|one| one == Availability::Avoid).or_else(|| those(|one| one == Availability::Untried));
        others.map(|others| Self { fallback: true, ..others }).ok_or_else(|| why_none(standings, query))
    }

    /// Leaves out one whose probe another pick has taken. `None` when it was the last.
    pub(crate) fn without(mut self, index: usize) -> Option<Self> {
        self.total_weight -= self.list.to_mut().remove(index).weight;
        (!self.list.is_empty()).then_some(self)
    }

    /// All of a pool in which every replica is ready with its full weight.
    pub(crate) fn everyone(standings: &'a [Standing], list: &'a [Candidate], total_weight: f64) -> Self {
        Self { standings, list: list.into(), total_weight, fallback: false }
    }

    /// What is read of a candidate.
    pub(crate) fn standing(&self, candidate: &Candidate) -> &'a Standing {
        &self.standings[candidate.place as usize]
    }

    pub(crate) fn load(&self, candidate: &Candidate) -> &'a Load {
        &self.standing(candidate).load
    }

    /// Open requests per weight.
    pub(crate) fn requests_per_weight(&self, candidate: &Candidate) -> f64 {
        self.load(candidate).requests() as f64 / candidate.weight
    }

    /// The candidate at a place in the pool.
    pub(crate) fn at(&self, place: u32) -> Option<usize> {
        self.list.binary_search_by_key(&place, |candidate| candidate.place).ok()
    }

    pub(crate) fn least_requests(&self, random: &mut dyn Rng) -> Choice {
        self.least(random, |candidate| (self.requests_per_weight(candidate), 0.0))
    }

    pub(crate) fn least_tokens(&self, random: &mut dyn Rng) -> Choice {
        self.least(random, |candidate| {
            let tokens = self.load(candidate).pending_tokens() as f64 / candidate.weight;
            (tokens, self.requests_per_weight(candidate))
        })
    }

    /// By reported queues; by own requests alone unless all of them are known.
    pub(crate) fn least_queue(
        &self,
        settings: &LeastQueueSettings,
        now: Duration,
        random: &mut dyn Rng,
    ) -> Choice {
        let queue = |candidate: &Candidate| {
            let own = self.load(candidate).requests();
            self.standing(candidate).replica.reported.waiting(own, now, settings.stale_after)
        };
        if self.list.iter().any(|candidate| queue(candidate).is_none()) {
            return self.least_requests(random);
        }
        self.least(random, |candidate| {
            let waiting = queue(candidate).unwrap_or_default() as f64;
            (waiting / candidate.weight, self.requests_per_weight(candidate))
        })
    }

    /// The smallest key; the first part of it is the score.
    fn least(&self, random: &mut dyn Rng, key: impl Fn(&Candidate) -> (f64, f64)) -> Choice {
        let mut best = (f64::INFINITY, f64::INFINITY);
        let (mut index, mut tied_weight) = (0, 0.0);
        for (at, candidate) in self.list.iter().enumerate() {
            let key = key(candidate);
            if key < best {
                (best, index, tied_weight) = (key, at, candidate.weight);
            } else if key == best {
                tied_weight += candidate.weight;
                if unit(random.next_u64()) * tied_weight < candidate.weight {
                    index = at;
                }
            }
        }
        Choice::new(index, PickReason::LeastLoad, best.0)
    }

    pub(crate) fn random(&self, random: &mut dyn Rng) -> Choice {
        let mut left = unit(random.next_u64()) * self.total_weight;
        let index = self.list.iter().position(|candidate| {
            left -= candidate.weight;
            left < 0.0
        });
        Choice::new(index.unwrap_or(self.list.len() - 1), PickReason::Random, 0.0)
    }

    /// Smooth weighted round robin as in nginx: everyone earns its weight, the richest is picked and pays for
    /// all. Several picks at once may see the same credit; the sum stays right and the next picks even it out.
    pub(crate) fn turn(&self, take: bool) -> Choice {
        let mut best = (i64::MIN, 0);
        let mut total = 0;
        for (at, candidate) in self.list.iter().enumerate() {
            // Slow starts need parts of a weight.
            let earned = (candidate.weight * 1024.0) as i64;
            total += earned;
            let turn = &self.load(candidate).turn;
            let credit = if take { turn.fetch_add(earned, Relaxed) } else { turn.load(Relaxed) } + earned;
            if credit > best.0 {
                best = (credit, at);
            }
        }
        if take {
            self.load(&self.list[best.1]).turn.fetch_sub(total, Relaxed);
        }
        Choice::new(best.1, PickReason::Turn, 0.0)
    }
}

fn why_none(standings: &[Standing], query: &Query<'_>) -> NoReplica {
    let replicas = || standings.iter().map(|standing| &*standing.replica);
    let has_adapter =
        |replica: &Replica| query.adapter.is_none_or(|adapter| replica.spec.has_adapter(adapter));
    if standings.is_empty() {
        NoReplica::Empty
    } else if !replicas().any(has_adapter) {
        NoReplica::NoAdapter
    } else if !replicas().any(|replica| query.admits(replica)) {
        NoReplica::AllTried
    } else {
        NoReplica::NoneHealthy
    }
}
