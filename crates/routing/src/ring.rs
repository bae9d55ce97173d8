//! Keys, and the ring of virtual nodes that gives each key its home.
//!
//! A ring depends on the names and weights of the replicas and on nothing else, so every balancer with the same
//! configuration has the same homes without talking to the others. When one of `n` replicas leaves, the keys
//! that had their home there move, about one in `n`, and no others; unless the weights of the rest have another common
//! unit, in which case many do.
//!
//! Hashed parts are separated by a NUL, so that `m-1` with index 12 and `m-11` with index 2 are two points.

use std::sync::Arc;

use xxhash_rust::{
    xxh3::{Xxh3, xxh3_64},
    xxh64::{Xxh64, xxh64},
};

use crate::{Replica, snapshot::Standing};

/// Points of one replica. Where the heaviest would have more, every replica gets fewer, in proportion.
const MAXIMUM_POINTS: u64 = 1 << 15;

/// The key of a prompt prefix for `prefix_hash`.
pub fn prefix_key(adapter: Option<&str>, prefix: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(adapter.unwrap_or_default().as_bytes());
    hash.update(&[0]);
    hash.update(prefix);
    hash.digest()
}

/// The key of a session, by its name, for `session`.
pub fn session_key(name: &[u8]) -> u64 {
    xxh3_64(name)
}

/// The key of a prompt prefix as KubeAI makes it.
pub(crate) fn kubeai_key(adapter: Option<&str>, prefix: &[u8]) -> u64 {
    let mut hash = Xxh64::new(0);
    hash.update(adapter.unwrap_or_default().as_bytes());
    hash.update(prefix);
    hash.digest()
}

/// Points in the order of their hashes.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// Hash, and the place of the replica in the list that the ring was made from.
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// `virtual_nodes` points for each unit of a replica's weight, the unit being the largest that measures all
    /// weights: how many others there are changes nothing for a replica.
    pub(crate) fn new(replicas: &[Arc<Replica>], virtual_nodes: u32) -> Self {
        let weight = |replica: &Replica| u64::from(replica.spec.weight.max(1));
        let unit = replicas.iter().fold(0, |unit, replica| common_divisor(unit, weight(replica))).max(1);
        let mut points = Vec::new();
        let wanted = |replica: &Replica| u64::from(virtual_nodes) * (weight(replica) / unit);
        let most = replicas.iter().map(|replica| wanted(replica)).max().unwrap_or_default();
        let divisor = most.div_ceil(MAXIMUM_POINTS).max(1);
        for (place, replica) in (0..).zip(replicas) {
            for point in 0..(wanted(replica) / divisor).max(1) {
                let mut hash = Xxh3::new();
                hash.update(replica.spec.name.as_bytes());
                hash.update(&[0]);
                hash.update(&point.to_le_bytes());
                points.push((hash.digest(), place));
            }
        }
        points.sort_unstable();
        Self { points }
    }

    /// KubeAI's ring: name and decimal index without a separator. Where two points collide, the later replica
    /// has the point, as in a map.
    pub(crate) fn kubeai(replicas: &[Arc<Replica>], virtual_nodes: u32) -> Self {
        let mut points: Vec<(u64, u32)> = (0..)
            .zip(replicas)
            .flat_map(|(place, replica)| {
                (0..virtual_nodes)
                    .map(move |point| (xxh64(format!("{}{point}", replica.spec.name).as_bytes(), 0), place))
            })
            .collect();
        points.sort_by_key(|point| point.0);
        points.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1 = later.1;
            }
            same
        });
        Self { points }
    }

    /// Places of replicas in ring order from `key` on, once around, a place for each of its points.
    pub(crate) fn walk(&self, key: u64) -> impl Iterator<Item = u32> {
        let start = self.points.partition_point(|point| point.0 < key);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|point| point.1)
    }
}

/// The largest number that divides both.
fn common_divisor(left: u64, right: u64) -> u64 {
    if right == 0 { left } else { common_divisor(right, left % right) }
}

/// Who suits `key` best among replicas with these names and weights, by rendezvous hashing: an order of its own
/// for each key, in which each replica comes first in proportion to its weight.
pub(crate) fn best_suited<'a>(
    key: u64,
    replicas: impl Iterator<Item = (usize, &'a Standing, f64)>,
) -> Option<usize> {
    let chance = |replica: &Standing| {
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&key.to_le_bytes());
        hash[8..].copy_from_slice(&replica.name_hash.to_le_bytes());
        unit(xxh3_64(&hash))
    };
    let mut best: Option<(usize, f64, f64)> = None;
    for (index, replica, weight) in replicas {
        let chance = chance(replica);
        let suits_better = best.is_none_or(|(_, best_chance, best_weight)| {
            // `w / -ln(u)` grows with `u`: equal weights need no logarithm.
            if weight == best_weight {
                chance >= best_chance
            } else {
                weight * best_chance.ln() <= best_weight * chance.ln()
            }
        });
        if suits_better {
            best = Some((index, chance, weight));
        }
    }
    best.map(|(index, ..)| index)
}

/// A number in `[0, 1)` from the upper bits of `bits`.
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
