//! Consistent hashing: homes, bounds, overflow, and KubeAI's choices to the letter.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{generator, name, numbered, router, specs, weighted, with};
use proptest::prelude::*;
use routing::{Pick, PickReason, PolicySettings, Query, ReplicaSpec, Router, prefix_key};
use xxhash_rust::xxh64::xxh64;

const NOW: Duration = Duration::ZERO;

fn pick(pool: &Router, key: u64) -> Pick {
    let query = Query { prefix_key: Some(key), ..Query::default() };
    pool.pick(&query, NOW, &mut generator(1)).unwrap()
}

fn keys(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|key| prefix_key(None, &key.to_le_bytes()))
}

fn homes(pool: &Router, count: u64) -> Vec<String> {
    keys(count).map(|key| name(&pick(pool, key))).collect()
}

#[test]
fn a_key_has_one_home_and_homes_are_even() {
    let pool = router("prefix_hash", numbered(8));
    let homes_of_8000 = homes(&pool, 8000);
    assert_eq!(homes_of_8000, homes(&router("prefix_hash", numbered(8)), 8000), "the same in every process");
    let mut counts = BTreeMap::new();
    for home in homes_of_8000 {
        *counts.entry(home).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 8);
    assert!(counts.values().all(|count| (800..1200).contains(count)), "{counts:?}");
}

#[test]
fn homes_follow_weights() {
    let pool = router("prefix_hash", weighted(&[("http://a", 3), ("http://b", 1)]));
    let on_a = homes(&pool, 4000).iter().filter(|home| *home == "http://a").count();
    assert!((2800..3200).contains(&on_a), "{on_a}");
}

#[test]
fn only_the_keys_of_a_leaving_replica_move() {
    let pool = router("prefix_hash", numbered(8));
    let before = homes(&pool, 4000);
    let mut fewer = numbered(8);
    let left = fewer.remove(3).name.to_string();
    pool.set_replicas(fewer);
    let after = homes(&pool, 4000);
    let mut moved = 0;
    for (before, after) in before.iter().zip(&after) {
        if *before == left {
            moved += 1;
            assert_ne!(*after, left);
        } else {
            assert_eq!(before, after);
        }
    }
    assert!((400..600).contains(&moved), "{moved} of 4000");
    pool.set_replicas(numbered(8));
    assert_eq!(homes(&pool, 4000), before, "and they come back");
}

#[test]
fn weights_in_per_cent_move_no_more_keys_than_weights_of_one() {
    let pool = |count: u32| {
        let specs =
            (0..count).map(|index| ReplicaSpec { weight: 100, ..ReplicaSpec::new(format!("r{index}")) });
        router("prefix_hash", specs.collect())
    };
    let (before, after) = (homes(&pool(60), 2000), homes(&pool(61), 2000));
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
    assert!(moved.clone().all(|(_, after)| after == "r60"));
    assert!((5..=80).contains(&moved.count()));
}

#[test]
fn below_the_minimum_load_no_key_leaves_its_home() {
    let pool = router("prefix_hash", numbered(4));
    let held: Vec<_> = (0..8).map(|_| pick(&pool, 5)).collect();
    assert!(held.iter().all(|pick| pick.reason == PickReason::Home && name(pick) == name(&held[0])));
    let ninth = pick(&pool, 5);
    assert_eq!((ninth.reason, name(&ninth) == name(&held[0])), (PickReason::Overflow, false));
    assert_eq!(ninth.score, 0.0);
}

#[test]
fn overflow_of_one_home_spreads_by_key_and_each_key_keeps_its_second_choice() {
    let pool = router("prefix_hash", numbered(8));
    let of_first: Vec<u64> = {
        let first = name(&pick(&pool, keys(1).next().unwrap()));
        keys(2000).filter(|key| name(&pick(&pool, *key)) == first).collect()
    };
    let held: Vec<_> = (0..8).map(|_| pick(&pool, of_first[0])).collect();
    let second = |key: u64| {
        let pick = pick(&pool, key);
        assert_eq!(pick.reason, PickReason::Overflow);
        name(&pick)
    };
    let seconds: BTreeSet<String> = of_first.iter().map(|key| second(*key)).collect();
    assert_eq!(seconds.len(), 7, "a ring successor would have taken them all");
    for key in &of_first {
        assert_eq!(second(*key), second(*key));
    }
    drop(held);
}

#[test]
fn a_home_that_is_away_has_the_same_second_choice_as_a_full_one() {
    let pool = router("prefix_hash", numbered(5));
    let home = pick(&pool, 77);
    let full: Vec<_> = (0..7).map(|_| pick(&pool, 77)).collect();
    let second = name(&pick(&pool, 77));
    drop(full);
    home.lease.replica().health.set_draining(true);
    let away = pick(&pool, 77);
    assert_eq!((away.reason, name(&away)), (PickReason::HomeAway, second));
}

#[test]
fn adapters_have_homes_of_their_own() {
    assert_ne!(prefix_key(Some("a"), b"bc"), prefix_key(Some("ab"), b"c"));
    assert_ne!(prefix_key(None, b"abc"), prefix_key(Some("a"), b"bc"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// The promise in the head of `bounded_hash`, for any mix of keys, weights, bounds and departures.
    #[test]
    fn no_pick_exceeds_the_bound(
        weights in proptest::collection::vec(1..6_u32, 1..9),
        factor in 100..200_u32,
        minimum in 0..12_u64,
        requests in proptest::collection::vec((0..20_u64, any::<Option<usize>>()), 1..300),
    ) {
        let specs: Vec<ReplicaSpec> = weights.iter().enumerate()
            .map(|(index, weight)| ReplicaSpec { weight: *weight, ..ReplicaSpec::new(format!("r{index}")) })
            .collect();
        let json = format!(r#"{{"prefix_hash": {{"load_factor_percent": {factor}, "minimum_load": {minimum}}}}}"#);
        let pool = with(&json, specs);
        let total_weight: u32 = weights.iter().sum();
        let mut held: Vec<Pick> = Vec::new();
        for (key, leaver) in requests {
            if let Some(leaver) = leaver && !held.is_empty() {
                held.swap_remove(leaver % held.len());
            }
            let before = held.len() as u64;
            let pick = pick(&pool, prefix_key(None, &key.to_le_bytes()));
            let replica = pick.lease.replica();
            // In whole numbers: ceil(a / b) with a = factor * (t + 1) * w, b = 100 * W.
            let fair = (u64::from(factor) * (before + 1) * u64::from(replica.spec.weight))
                .div_ceil(100 * u64::from(total_weight));
            let load = replica.load.requests();
            prop_assert!(load <= fair.max(minimum), "{} over {}", load, fair.max(minimum));
            held.push(pick);
        }
    }
}

/// KubeAI's ring and walk, written down a second time, with a map in place of the sorted list.
struct Kubeai {
    points: BTreeMap<u64, usize>,
    names: Vec<String>,
}

impl Kubeai {
    fn new(names: &[String]) -> Self {
        let mut points = BTreeMap::new();
        for (index, name) in names.iter().enumerate() {
            for node in 0..256 {
                points.insert(xxh64(format!("{name}{node}").as_bytes(), 0), index);
            }
        }
        Self { points, names: names.to_vec() }
    }

    fn choose(&self, key: u64, loads: &[u64], can: impl Fn(usize) -> bool) -> Option<&str> {
        let total: u64 = loads.iter().sum();
        let fits = |index: usize| {
            total == 0 || loads[index] as f64 <= (total + 1) as f64 / loads.len() as f64 * 1.25
        };
        let order = || self.points.range(key..).chain(self.points.range(..key)).map(|(_, index)| *index);
        let found =
            order().find(|index| can(*index) && fits(*index)).or_else(|| order().find(|index| can(*index)));
        found.map(|index| self.names[index].as_str())
    }
}

#[test]
fn exact_kubeai_is_exact() {
    assert_eq!(xxh64(b"", 0), 0xEF46_DB37_51D8_E999, "xxHash's published vectors");
    assert_eq!(xxh64(b"a", 0), 0xD24E_C4F1_A98C_6E5B);
    // m-1 with node 2x and m-12 with node x collide, and so on.
    let names: Vec<String> = ["m-1", "m-12", "m-2", "m-25", "default/model-abc-9"].map(String::from).into();
    let model = Kubeai::new(&names);
    assert!(model.points.len() < 5 * 256, "names without a separator collide");
    let mut specs: Vec<ReplicaSpec> = names.iter().map(|name| ReplicaSpec::new(name.as_str())).collect();
    specs[0].adapters = Some(["sql".to_owned()].into());
    for spec in &mut specs[1..] {
        spec.adapters = Some(BTreeSet::new());
    }
    specs[3].adapters = Some(["sql".to_owned()].into());
    let pool = with(r#"{"prefix_hash": {"exact_kubeai": true}}"#, specs);
    let need = pool.policy().needs().prefix.unwrap();
    let mut held: Vec<Pick> = Vec::new();
    let mut defaults = 0;
    for request in 0..3000_usize {
        let adapter = (request % 3 != 0).then_some("sql");
        let text = format!("conversation {}: tell me", request % 41);
        let key = need.key(adapter, text.as_bytes()).unwrap();
        assert_eq!(key, xxh64(format!("{}{text}", adapter.unwrap_or_default()).as_bytes(), 0));
        let loads: Vec<u64> = pool.replicas().iter().map(|replica| replica.load.requests()).collect();
        let query = Query { adapter, prefix_key: Some(key), ..Query::default() };
        let pick = pool.pick(&query, NOW, &mut generator(1)).unwrap();
        let expected = model.choose(key, &loads, |index| adapter.is_none() || index == 0 || index == 3);
        assert_eq!(Some(name(&pick).as_str()), expected, "request {request}");
        defaults += usize::from(pick.reason == PickReason::Default);
        held.push(pick);
        if held.len() > 30 {
            held.swap_remove(request * 7 % 30);
        }
    }
    assert!(defaults > 0, "the adapter's two replicas were full together at least once");
}

#[test]
fn prefixes_are_cut_by_characters_not_bytes() {
    let policy: PolicySettings = serde_json::from_str(r#"{"prefix_hash": {"prefix_chars": 3}}"#).unwrap();
    let need = policy.needs().prefix.unwrap();
    assert_eq!(need.key(None, "äöüx".as_bytes()), need.key(None, "äöüy".as_bytes()));
    assert_ne!(need.key(None, "äöü".as_bytes()), need.key(None, "äöx".as_bytes()));
    assert_eq!(need.key(None, "äöü".as_bytes()), Some(prefix_key(None, "äöü".as_bytes())));
    assert_eq!(need.key(None, b""), None, "no text, no home: least load");
    assert_eq!(need.key(None, b"\xff\xfe").map(|_| ()), Some(()), "broken text is hashed as it is");
}

#[test]
fn exclusion_of_tried_replicas_holds_in_every_mode() {
    for json in [r#""prefix_hash""#, r#"{"prefix_hash": {"exact_kubeai": true}}"#] {
        let pool = with(json, specs(&["a", "b", "c"]));
        let mut tried = Vec::new();
        for _ in 0..3 {
            let query = Query { prefix_key: Some(4), tried: &tried, ..Query::default() };
            let id = pool.pick(&query, NOW, &mut generator(1)).unwrap().lease.replica().id;
            assert!(!tried.contains(&id));
            tried.push(id);
        }
    }
}
