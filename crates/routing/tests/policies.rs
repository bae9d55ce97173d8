//! The policies that need no more than loads, and what all policies keep.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{generator, name, numbered, router, seconds, sequence, specs, weighted, with};
use proptest::prelude::*;
use routing::{
    EngineReport, Lease, NoReplica, PickReason, PolicyName, Query, ReplicaSpec, Router, session_key,
};

const NOW: Duration = Duration::ZERO;

fn counts(names: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[test]
fn weighted_turns_are_smooth_as_in_nginx() {
    let pool = router("round_robin", weighted(&[("a", 5), ("b", 1), ("c", 1)]));
    let names = sequence(&pool, &Query::default(), 14).concat();
    assert_eq!(names, "aabacaaaabacaa");
}

#[test]
fn explaining_takes_no_turn() {
    let pool = router("round_robin", specs(&["a", "b"]));
    let query = Query::default();
    for expected in ["a", "b", "a"] {
        let explanation = pool.explain(&query, NOW, &mut generator(1));
        assert_eq!(explanation.chosen.as_deref(), Some(expected));
        assert_eq!(explanation.reason, "turn");
        assert_eq!(name(&pool.pick(&query, NOW, &mut generator(1)).unwrap()), expected);
    }
}

#[test]
fn random_keeps_the_proportion_of_the_weights() {
    let pool = router("random", weighted(&[("a", 3), ("b", 1)]));
    let counts = counts(sequence(&pool, &Query::default(), 4000));
    // 3000 expected; four standard deviations are 110.
    assert!((2890..=3110).contains(&counts["a"]), "{counts:?}");
}

#[test]
fn least_requests_fills_in_proportion_to_weights() {
    let pool = router("least_requests", weighted(&[("a", 3), ("b", 1)]));
    let mut random = generator(3);
    let held: Vec<_> = (0..40).map(|_| pool.pick(&Query::default(), NOW, &mut random).unwrap()).collect();
    let loads: Vec<u64> = pool.replicas().iter().map(|replica| replica.load.requests()).collect();
    assert_eq!(loads, [30, 10]);
    assert!(held.iter().all(|pick| pick.reason == PickReason::LeastLoad));
}

#[test]
fn ties_do_not_go_to_the_first() {
    let pool = router("least_requests", numbered(4));
    let counts = counts(sequence(&pool, &Query::default(), 400));
    assert_eq!(counts.len(), 4);
    assert!(counts.values().all(|count| (60..=140).contains(count)), "{counts:?}");
}

#[test]
fn least_tokens_weighs_requests_by_their_length() {
    let pool = router("least_tokens", specs(&["a", "b"]));
    let mut random = generator(1);
    let long = Query { prompt_tokens: 1000, output_tokens: Some(10), ..Query::default() };
    let short = Query { prompt_tokens: 10, output_tokens: Some(10), ..Query::default() };
    let mut first = pool.pick(&long, NOW, &mut random).unwrap();
    let loaded = name(&first);
    let held: Vec<_> = (0..50).map(|_| pool.pick(&short, NOW, &mut random).unwrap()).collect();
    assert!(held.iter().all(|pick| name(pick) != loaded), "50 x 20 tokens are fewer than 1010");
    first.lease.produced(1, NOW);
    let next = pool.pick(&short, NOW, &mut random).unwrap();
    assert_eq!(name(&next), loaded, "its prompt is done: 9 output tokens are left there");
    assert_eq!(next.score, 9.0);
}

#[test]
fn least_queue_follows_reports_and_what_happened_since() {
    let pool = router("least_queue", specs(&["a", "b"]));
    let mut random = generator(1);
    let query = Query::default();
    let replicas = pool.replicas();
    replicas[0].report(EngineReport::new(4, 3, None), NOW);
    let one = pool.pick(&query, NOW, &mut random).unwrap();
    let two = pool.pick(&query, NOW, &mut random).unwrap();
    assert_ne!(name(&one), name(&two), "one report is missing: fewest requests");
    drop((one, two));
    replicas[1].report(EngineReport::new(9, 0, None), NOW);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(pool.pick(&query, NOW, &mut random).unwrap());
    }
    assert!(held.iter().all(|pick| name(pick) == "b"), "until its own arrivals make the queues equal");
    let next = pool.pick(&query, NOW, &mut random).unwrap();
    assert_eq!((name(&next).as_str(), next.score), ("a", 3.0), "the tie goes to fewest requests");
    drop(held);
    let stale = pool.pick(&query, seconds(6), &mut random).unwrap();
    assert_eq!(name(&stale), "b", "by own requests: the reports are forgotten");
}

#[test]
fn replicas_keep_their_load_unless_they_leave() {
    let pool = router("least_requests", specs(&["a", "b"]));
    let mut random = generator(1);
    let on_b = Query { adapter: None, tried: &[pool.replicas()[0].id], ..Query::default() };
    let held = pool.pick(&on_b, NOW, &mut random).unwrap();
    let before = pool.replicas();
    pool.set_policy("prefix-hash".parse().unwrap()).unwrap();
    assert_eq!(pool.policy().name(), PolicyName::PrefixHash);
    pool.set_replicas(weighted(&[("c", 1), ("b", 7), ("b", 9)]));
    let after = pool.replicas();
    assert_eq!(after.len(), 2, "the second b is ignored");
    assert_eq!((after[1].id, after[1].spec.weight, after[1].load.requests()), (before[1].id, 7, 1));
    drop(held);
    assert_eq!(after[1].load.requests(), 0);
    pool.set_replicas(specs(&["a"]));
    assert_ne!(pool.replicas()[0].id, before[0].id, "it left and returned");
}

#[test]
fn who_can_serve_is_said_precisely() {
    let with_adapter = ReplicaSpec { adapters: Some(["sql".to_owned()].into()), ..ReplicaSpec::new("a") };
    let without = ReplicaSpec { adapters: Some([].into()), ..ReplicaSpec::new("b") };
    let pool = router("random", vec![with_adapter, without]);
    let ids: Vec<u64> = pool.replicas().iter().map(|replica| replica.id).collect();
    let mut random = generator(1);
    let mut pick =
        |query: &Query<'_>| pool.pick(query, NOW, &mut random).map(|pick| (name(&pick), pick.reason));
    let sql = Query { adapter: Some("sql"), ..Query::default() };
    assert_eq!(pick(&sql), Ok(("a".into(), PickReason::OnlyCandidate)));
    assert_eq!(pick(&Query { adapter: Some("other"), ..sql }), Err(NoReplica::NoAdapter));
    assert_eq!(pick(&Query { tried: &ids[..1], ..sql }), Err(NoReplica::AllTried));
    assert_eq!(pick(&Query { tried: &ids, ..Query::default() }), Err(NoReplica::AllTried));
    pool.replicas()[0].health.set_draining(true);
    assert_eq!(pick(&sql), Err(NoReplica::NoneHealthy));
    let empty = router("random", Vec::new());
    assert_eq!(empty.pick(&sql, NOW, &mut random).err(), Some(NoReplica::Empty));
    let explained = serde_json::to_value(pool.explain(&sql, NOW, &mut random)).unwrap();
    assert_eq!(explained["reason"], "none_healthy");
    assert_eq!(explained["candidates"][0]["excluded"], "not_healthy");
    assert_eq!(explained["candidates"][0]["health"], "draining");
    assert_eq!(explained["candidates"][1]["excluded"], "no_adapter");
}

#[test]
fn the_same_seed_gives_the_same_picks() {
    for policy in PolicyName::ALL {
        let run = || {
            let pool = Router::new(policy.into(), numbered(5)).unwrap();
            let mut random = generator(9);
            let mut held = Vec::new();
            for request in 0..200_u64 {
                let key = session_key(&(request % 17).to_le_bytes());
                let query = Query {
                    prefix_key: Some(key),
                    session_key: Some(key),
                    prompt_tokens: 100 * (request as u32 % 7),
                    ..Query::default()
                };
                held.push(pool.pick(&query, NOW, &mut random).unwrap());
                if request % 3 == 0 {
                    held.swap_remove(held.len() / 2);
                }
            }
            held.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(run(), run(), "{policy}");
    }
}

#[test]
fn threads_leave_no_load_behind() {
    for policy in PolicyName::ALL {
        let pool = Router::new(policy.into(), numbered(3)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let pool = &pool;
                scope.spawn(move || {
                    let mut random = generator(thread);
                    let mut held: Vec<Lease> = Vec::new();
                    for request in 0..500_u32 {
                        let key = Some(u64::from(request) << 40);
                        let query = Query {
                            prefix_key: key,
                            session_key: key,
                            prompt_tokens: request,
                            ..Query::default()
                        };
                        let mut lease = pool.pick(&query, NOW, &mut random).unwrap().lease;
                        lease.produced(request % 300, NOW);
                        held.push(lease);
                        if held.len() > 8 {
                            held.swap_remove(request as usize % 8);
                        }
                    }
                });
            }
        });
        let picked: u64 = pool.replicas().iter().map(|replica| replica.load.snapshot().picked).sum();
        assert_eq!(picked, 2000);
        for replica in &*pool.replicas() {
            let load = replica.load.snapshot();
            assert_eq!(
                (load.requests, load.waiting, load.prompt_tokens, load.pending_tokens()),
                (0, 0, 0, 0)
            );
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Pick { prompt: u32, output: Option<u32>, tried: Option<usize> },
    Produce { lease: usize, tokens: u32 },
    Drop { lease: usize },
    Reload { replicas: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u32>(), any::<Option<u32>>(), any::<Option<usize>>())
            .prop_map(|(prompt, output, tried)| Step::Pick { prompt, output, tried }),
        3 => (any::<usize>(), 0..500_u32).prop_map(|(lease, tokens)| Step::Produce { lease, tokens }),
        3 => any::<usize>().prop_map(|lease| Step::Drop { lease }),
        1 => (1..6_usize).prop_map(|replicas| Step::Reload { replicas }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn loads_are_the_sums_of_open_leases(
        steps in proptest::collection::vec(step(), 1..120),
        policy in 0..PolicyName::ALL.len(),
    ) {
        let pool = Router::new(PolicyName::ALL[policy].into(), numbered(4)).unwrap();
        let mut random = generator(7);
        let mut held: Vec<(Lease, u64)> = Vec::new();
        let mut seen = pool.replicas().to_vec();
        for step in steps {
            match step {
                Step::Pick { prompt, output, tried } => {
                    let replicas = pool.replicas();
                    let tried: Vec<u64> = tried.map(|index| replicas[index % replicas.len()].id).into_iter().collect();
                    let query = Query {
                        prompt_tokens: prompt, output_tokens: output, tried: &tried, ..Query::default()
                    };
                    match pool.pick(&query, NOW, &mut random) {
                        Ok(pick) => {
                            prop_assert!(!tried.contains(&pick.lease.replica().id));
                            held.push((pick.lease, prompt.min(1 << 22).into()));
                        }
                        Err(none) => prop_assert_eq!((none, replicas.len()), (NoReplica::AllTried, 1)),
                    }
                }
                Step::Produce { lease, tokens } => {
                    let count = held.len();
                    if let Some((lease, _)) = held.get_mut(lease % count.max(1)) {
                        lease.produced(tokens, NOW);
                    }
                }
                Step::Drop { lease } => {
                    if !held.is_empty() {
                        held.swap_remove(lease % held.len());
                    }
                }
                Step::Reload { replicas } => {
                    pool.set_replicas(numbered(replicas));
                    seen.extend(pool.replicas().iter().cloned());
                }
            }
            for replica in &*pool.replicas() {
                let own = || held.iter().filter(|(lease, _)| lease.replica().id == replica.id);
                let load = replica.load.snapshot();
                prop_assert_eq!(load.requests, own().count() as u64);
                prop_assert_eq!(load.prompt_tokens, own().map(|(_, prompt)| prompt).sum::<u64>());
            }
        }
        held.clear();
        for replica in seen {
            let load = replica.load.snapshot();
            let left = (load.requests, load.waiting, load.prompt_tokens, load.waiting_tokens, load.output_tokens);
            prop_assert_eq!(left, (0, 0, 0, 0, 0));
        }
    }
}

#[test]
fn sessions_without_a_name_go_where_the_load_is_least() {
    let pool = with(r#"{"session": {"minimum_load": 1}}"#, numbered(3));
    let mut random = generator(1);
    let held: Vec<_> = (0..3).map(|_| pool.pick(&Query::default(), NOW, &mut random).unwrap()).collect();
    assert!(held.iter().all(|pick| pick.reason == PickReason::NoKey));
    assert!(pool.replicas().iter().all(|replica| replica.load.requests() == 1));
}

#[test]
fn replicas_of_one_pool_are_numbered_in_a_row_whoever_makes_others() {
    let is_in_a_row = || {
        let specs = (0..50).map(|number| ReplicaSpec::new(format!("http://{number}"))).collect();
        let replicas = Router::new(PolicyName::Random.into(), specs).unwrap().replicas();
        replicas.windows(2).all(|pair| pair[1].id == pair[0].id + 1)
    };
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..200).all(|_| is_in_a_row()))).collect();
        assert!(makers.into_iter().all(|maker| maker.join().unwrap()));
    });
}
