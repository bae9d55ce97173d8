//! What the tests share: pools by name, a seeded generator, and picks that are held.

#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use routing::{Pick, PolicySettings, Query, ReplicaSpec, Router};

pub(crate) fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn specs(names: &[&str]) -> Vec<ReplicaSpec> {
    names.iter().map(|name| ReplicaSpec::new(*name)).collect()
}

pub(crate) fn weighted(pool: &[(&str, u32)]) -> Vec<ReplicaSpec> {
    pool.iter().map(|(name, weight)| ReplicaSpec { weight: *weight, ..ReplicaSpec::new(*name) }).collect()
}

pub(crate) fn numbered(count: usize) -> Vec<ReplicaSpec> {
    (0..count).map(|index| ReplicaSpec::new(format!("http://10.0.0.{index}:8000"))).collect()
}

pub(crate) fn router(policy: &str, specs: Vec<ReplicaSpec>) -> Router {
    Router::new(policy.parse().unwrap(), specs).unwrap()
}

pub(crate) fn with(json: &str, specs: Vec<ReplicaSpec>) -> Router {
    let policy: PolicySettings = serde_json::from_str(json).unwrap();
    Router::new(policy, specs).unwrap()
}

pub(crate) fn name(pick: &Pick) -> String {
    pick.lease.replica().spec.name.to_string()
}

/// The names of `count` picks, each given back before the next.
pub(crate) fn sequence(router: &Router, query: &Query<'_>, count: usize) -> Vec<String> {
    let mut random = generator(1);
    (0..count).map(|_| name(&router.pick(query, Duration::ZERO, &mut random).unwrap())).collect()
}
