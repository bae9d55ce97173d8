//! `prefix_hash` and `session`: consistent hashing with bounded loads.
//!
//! A key's home is the replica of the first point of the [`Ring`] at or after the key. The home takes the
//! request unless it is full; then the key's own second choice does, the candidate with room that suits the key
//! best by rendezvous hashing. With `t` requests in flight on the candidates, `w` of their total weight `W` and
//! load factor `f >= 1`, a replica has room while
//!
//! ```text
//! load + 1 <= max(minimum_load, ceil(f * (t + 1) * w / W))
//! ```
//!
//! Promise: after a pick no replica that was picked is above this bound (softly, by the picks under way in other
//! threads), and some candidate always has room, since all bounds together exceed `t`. A key moves from its home
//! only while the home is full or away. When one of `n` replicas leaves or joins, about one key in `n` moves.
//!
//! The bound is that of Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (arXiv
//! 1608.01350), used online: running requests stay where they are. Overflow does not walk on to the ring's next
//! replica, which would get the overflow of all keys of a full one on top of its own and fill up in turn (arXiv
//! 1908.08762): each key has its own order of second choices, and its overflow always finds the same warm one.
//! Only candidates count in `t` and `W`: a dead replica's idle slots are no room.
//!
//! [`walk_as_kubeai`] is KubeAI's rule to the letter, kept for fleets that both serve.

use std::sync::Arc;

use crate::{
    PickReason, Replica,
    candidates::{Candidate, Candidates, Choice},
    ring::{Ring, best_suited},
};

/// How full a replica may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) load_factor_percent: u32,
    pub(crate) minimum_load: u64,
}

impl Bound {
    /// The most requests a candidate may have after a pick.
    fn of(self, candidate: &Candidate, requests: u64, total_weight: f64) -> u64 {
        let share = candidate.weight / total_weight;
        // The small part taken off keeps 1.25 x 8 x 0.1 from being rounded up to 2.
        let fair = f64::from(self.load_factor_percent) / 100.0 * (requests + 1) as f64 * share - 1e-9;
        (fair.ceil() as u64).max(self.minimum_load)
    }
}

/// The home of `key`, or its overflow.
pub(crate) fn choose(ring: &Ring, bound: Bound, key: u64, candidates: &Candidates<'_>) -> Choice {
    let requests = candidates.list.iter().map(|candidate| candidates.load(candidate).requests()).sum();
    let total_weight = candidates.total_weight;
    let has_room = |candidate: &Candidate| {
        candidates.load(candidate).requests() < bound.of(candidate, requests, total_weight)
    };
    let home = ring.walk(key).next().and_then(|place| candidates.at(place));
    let choice = |index: usize, reason| {
        Choice::new(index, reason, candidates.requests_per_weight(&candidates.list[index]))
    };
    if let Some(home) = home
        && has_room(&candidates.list[home])
    {
        return choice(home, PickReason::Home);
    }
    let best = |only_with_room: bool| {
        let all = candidates.list.iter().enumerate();
        let fitting = all.filter(|(_, candidate)| !only_with_room || has_room(candidate));
        best_suited(
            key,
            fitting.map(|(index, candidate)| (index, candidates.standing(candidate), candidate.weight)),
        )
    };
    // Loads may have grown since they were summed; then nobody has room, and any order will do.
    let index = best(true).or_else(|| best(false)).unwrap_or_default();
    choice(index, if home.is_some() { PickReason::Overflow } else { PickReason::HomeAway })
}

/// KubeAI's choice. Every healthy replica of `pool` counts in the mean, with or without the adapter; points of
/// the ring are tried one by one; where none has room the first candidate gets the request, however full.
pub(crate) fn walk_as_kubeai(
    ring: &Ring,
    load_factor_percent: u32,
    key: u64,
    candidates: &Candidates<'_>,
    pool: &[&Arc<Replica>],
) -> Choice {
    let total: u64 = pool.iter().map(|replica| replica.load.requests()).sum();
    let mean = (total + 1) as f64 / pool.len() as f64;
    let threshold = mean * f64::from(load_factor_percent) / 100.0;
    let mut first = None;
    for index in ring.walk(key).filter_map(|place| candidates.at(place)) {
        let load = candidates.load(&candidates.list[index]).requests();
        let home = *first.get_or_insert(index);
        if total == 0 || load as f64 <= threshold {
            let reason = if index == home { PickReason::Home } else { PickReason::Overflow };
            return Choice::new(index, reason, candidates.requests_per_weight(&candidates.list[index]));
        }
    }
    let index = first.unwrap_or_default();
    Choice::new(index, PickReason::Default, candidates.requests_per_weight(&candidates.list[index]))
}
