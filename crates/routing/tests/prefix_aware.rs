//! `prefix_aware`: affinity, spread, load, speed, and what happens when caches are not what they were.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{generator, name, numbered, router, seconds, specs, weighted, with};
use rand_chacha::ChaCha8Rng;
use routing::{EngineReport, Lease, Outcome, Pick, PickReason, Query, Router};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const NOW: Duration = Duration::from_secs(1000);

/// Chained hashes of blocks with these contents.
fn blocks(contents: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut hash = 0;
    contents
        .into_iter()
        .map(|content| {
            hash = xxh3_64_with_seed(&content.to_le_bytes(), hash);
            hash
        })
        .collect()
}

/// A prompt of `own` blocks of its own after `shared` ones that all have.
fn prompt(id: u64, shared: u64, own: u64) -> Vec<u64> {
    blocks((0..shared).chain((0..own).map(|block| 1_000_000 * (id + 1) + block)))
}

fn query(blocks: &[u64]) -> Query<'_> {
    Query {
        blocks,
        block_tokens: 16,
        prompt_tokens: 16 * blocks.len() as u32 + 5,
        output_tokens: Some(50),
        ..Query::default()
    }
}

fn pick(pool: &Router, blocks: &[u64], random: &mut ChaCha8Rng) -> Pick {
    pool.pick(&query(blocks), NOW, random).unwrap()
}

fn counts(picks: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in picks {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[test]
fn a_conversation_stays_where_its_cache_is() {
    let pool = router("prefix_aware", numbered(8));
    let mut random = generator(1);
    for conversation in 0..40 {
        let first = pick(&pool, &prompt(conversation, 20, 10), &mut random);
        let home = name(&first);
        drop(first);
        for turn in 2..6 {
            let blocks = prompt(conversation, 20, 10 * turn);
            let next = pick(&pool, &blocks, &mut random);
            assert_eq!((name(&next), next.reason), (home.clone(), PickReason::Prefix));
            assert_eq!(next.cached_tokens, Some(16 * (20 + 10 * (turn as u32 - 1))));
            assert_eq!(next.lease.replica().load.snapshot().waiting_tokens, 165, "the new part only");
        }
    }
}

#[test]
fn without_load_new_prefixes_go_everywhere_with_a_shared_preamble_too() {
    for shared in [0, 32] {
        let pool = router("prefix_aware", numbered(8));
        let mut random = generator(1);
        let picks = (0..800).map(|id| name(&pick(&pool, &prompt(id, shared, 10), &mut random)));
        let counts = counts(picks);
        assert_eq!(counts.len(), 8);
        assert!(counts.values().all(|count| (60..150).contains(count)), "{shared}: {counts:?}");
    }
}

#[test]
fn a_document_that_some_ask_about_stays_on_one_replica() {
    const DOCUMENTS: u64 = 40;
    let pool = router("prefix_aware", numbered(4));
    let mut random = generator(1);
    let mut homes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for question in 0..20 {
        for document in 0..DOCUMENTS {
            let text = (0..200).map(|block| document * 1000 + block);
            let asked = blocks(text.chain((0..10).map(|block| 1_000_000 * (question + 1) + block)));
            homes.entry(document).or_default().push(name(&pick(&pool, &asked, &mut random)));
        }
    }
    assert!(homes.values().all(|picks| picks.iter().all(|name| *name == picks[0])), "{homes:?}");
    let counts = counts(homes.into_values().map(|mut picks| picks.remove(0)));
    assert!(counts.len() == 4 && counts.values().all(|count| (4..=18).contains(count)), "{counts:?}");
}

#[test]
fn a_wait_costs_more_where_other_engines_have_no_queue() {
    let pool = router("prefix_aware", numbered(4));
    let mut random = generator(1);
    let _held: Vec<Pick> = (0..40).map(|id| pick(&pool, &prompt(id, 0, 40), &mut random)).collect();
    let asked = prompt(99, 0, 40);
    let waits = |now: Duration| {
        let explained = pool.explain(&query(&asked), now, &mut generator(1));
        explained.candidates.iter().map(|row| row.cost.unwrap().wait_s).collect::<Vec<f32>>()
    };
    let report = |waiting: [u64; 4]| {
        for (replica, waiting) in pool.replicas().iter().zip(waiting) {
            replica.report(EngineReport::new(20, waiting, Some(0.97)), NOW);
        }
    };
    let before = waits(NOW);
    assert!(before.iter().all(|wait| *wait > 0.0), "all have requests without a first token");
    report([5, 0, 0, 0]);
    let one_queue = waits(NOW);
    assert!((one_queue[0] / before[0] - 10.0).abs() < 1e-3, "twelve times three quarters more");
    assert_eq!(one_queue[1..], before[1..]);
    report([5; 4]);
    assert_eq!(waits(NOW), before, "where all wait it cannot be avoided");
    report([5, 0, 0, 0]);
    assert_eq!(waits(NOW + Duration::from_secs(6)), before, "a report grows stale");
}

#[test]
fn requests_of_other_balancers_count() {
    for balancers in [1, 2] {
        let settings = format!(r#"{{"prefix_aware": {{"balancers": {balancers}, "home_weight": 0.0}}}}"#);
        let pool = with(&settings, numbered(4));
        for (replica, running) in pool.replicas().iter().zip([30, 30, 0, 30]) {
            replica.report(EngineReport::new(running, 0, None), NOW);
        }
        let mut random = generator(2);
        let picks: Vec<Pick> = (0..12).map(|id| pick(&pool, &prompt(id, 0, 20), &mut random)).collect();
        let to_the_idle = picks.iter().filter(|pick| *name(pick) == *pool.replicas()[2].spec.name).count();
        let expected = if balancers == 1 { 3..=3 } else { 10..=12 };
        assert!(expected.contains(&to_the_idle), "{to_the_idle} of 12, {balancers} balancers");
    }
}

#[test]
fn short_prompts_without_a_single_block_are_balanced() {
    let pool = router("prefix_aware", numbered(4));
    let mut random = generator(1);
    let held: Vec<Pick> = (0..40).map(|_| pick(&pool, &[], &mut random)).collect();
    let counts = counts(held.iter().map(name));
    assert!(counts.values().all(|count| (9..=11).contains(count)), "{counts:?}");
    assert!(held.iter().all(|pick| pick.reason == PickReason::LeastCost));
}

#[test]
fn affinity_has_its_price() {
    let pool = router("prefix_aware", specs(&["a", "b"]));
    let mut random = generator(1);
    let blocks = prompt(1, 0, 200);
    let warm = name(&pick(&pool, &blocks, &mut random));
    let mut held: Vec<Pick> = Vec::new();
    while held.len() < 500 {
        let mut next = pick(&pool, &blocks, &mut random);
        if name(&next) != warm {
            break;
        }
        next.lease.produced(1, NOW);
        held.push(next);
    }
    assert!((4..200).contains(&held.len()), "{} requests before another replica is cheaper", held.len());
}

#[test]
fn where_known_prompts_are_missed_a_full_cache_is_left_alone() {
    // With and without engines that say that they forgot them.
    let price = |balancers: u32, tell: bool| {
        let settings = format!(r#"{{"prefix_aware": {{"balancers": {balancers}, "home_weight": 0.0}}}}"#);
        let pool = with(&settings, specs(&["small", "large"]));
        pool.replicas()[0].set_cache_tokens(500);
        pool.replicas()[1].set_cache_tokens(50_000);
        let mut random = generator(1);
        let known: Vec<Vec<u64>> = (0..10).map(|id| prompt(id, 0, 20)).collect();
        let memory = || {
            let explained = pool.explain(&query(&prompt(99, 0, 20)), NOW, &mut generator(1));
            [0, 1].map(|place| explained.candidates[place].cost.unwrap().memory_s)
        };
        known.iter().for_each(|blocks| drop(pick(&pool, blocks, &mut random)));
        assert_eq!(memory(), [0.0; 2], "nothing was missed");
        if tell {
            pool.replicas().iter().for_each(|replica| replica.cache_lost(&known.concat()));
        }
        for blocks in &known {
            let later = NOW + seconds(60);
            pool.pick(&query(blocks), later, &mut random).unwrap().lease.observed_cached(0, 0);
        }
        let [small, large] = memory();
        assert!(small > 0.0 && large < small / 1e6, "{small} and {large}");
        if balancers == 1 {
            let held: Vec<Pick> = (100..106).map(|id| pick(&pool, &prompt(id, 0, 20), &mut random)).collect();
            let to_the_small = held.iter().filter(|pick| name(pick) == "small").count();
            assert!(to_the_small <= 1, "{to_the_small} of 6");
        }
        small
    };
    let alone = price(1, false);
    assert!(price(1, true) > alone / 4.0, "nobody goes back, but where they happen to");
    assert!((alone / price(8, false) - 64.0).abs() < 1.0, "they would flee to the same place");
}

#[test]
fn answers_that_are_about_to_end_slow_nobody() {
    let pool = with(r#"{"prefix_aware": {"learn": false}}"#, specs(&["ending", "beginning"]));
    let mut random = generator(1);
    let mut held: Vec<Pick> = (0..40).map(|_| pick(&pool, &[], &mut random)).collect();
    for pick in &mut held {
        let ending = name(pick) == "ending";
        pick.lease.produced(if ending { 48 } else { 1 }, NOW);
    }
    let slowed = |output_tokens| {
        let asked = Query { output_tokens: Some(output_tokens), ..query(&[]) };
        let explained = pool.explain(&asked, NOW, &mut generator(1));
        let slowed: Vec<f32> = explained.candidates.iter().map(|row| row.cost.unwrap().decode_s).collect();
        (slowed[0], slowed[1])
    };
    let (ending, beginning) = slowed(500);
    assert!(
        ending > 0.0 && ending < beginning / 10.0,
        "{ending} and {beginning} seconds, 2 or 49 tokens left"
    );
    let ratio = |now: (f32, f32), before: (f32, f32)| (now.0 / before.0, now.1 / before.1);
    let (of_ending, of_beginning) = ratio(slowed(5000), (ending, beginning));
    assert!(of_ending < 1.01 && (1.05..1.1).contains(&of_beginning), "no longer than they run side by side");
}

#[test]
fn the_explanation_is_the_pick() {
    let pool = router("prefix_aware", numbered(5));
    let mut random = generator(3);
    let mut held: Vec<Pick> = Vec::new();
    for round in 0..60 {
        let blocks = prompt(round % 9, 4, 10 + round / 9);
        let explained = pool.explain(&query(&blocks), NOW, &mut random.clone());
        let picked = pick(&pool, &blocks, &mut random);
        let chosen = explained.candidates.iter().find(|row| *row.name == *name(&picked)).unwrap();
        let cost = chosen.cost.unwrap();
        assert_eq!(explained.chosen.as_deref(), Some(name(&picked).as_str()));
        assert_eq!(explained.reason, picked.reason.label());
        assert_eq!((cost.total_s.into(), Some(cost.cached_tokens)), (picked.score, picked.cached_tokens));
        let sum = cost.prefill_s + cost.queue_s + cost.decode_s + cost.wait_s + cost.memory_s - cost.home_s;
        assert!((sum - cost.total_s).abs() < 1e-6 * cost.total_s, "equal replicas: the total is the sum");
        assert!(explained.candidates.iter().all(|row| row.cost.unwrap().total_s >= cost.total_s));
        held.push(picked);
    }
    let json = serde_json::to_value(pool.explain(&query(&prompt(1, 4, 10)), NOW, &mut random)).unwrap();
    assert_eq!(json["policy"], "prefix_aware");
    assert!(json["candidates"][0]["cost"]["prefill_s"].is_f64());
}

#[test]
fn answers_in_one_piece_teach_their_length_and_no_speed() {
    let pool = router("prefix_aware", specs(&["a"]));
    let mut random = generator(1);
    let query = Query { prompt_tokens: 20_000, ..Query::default() };
    let prefill_s = || pool.explain(&query, NOW, &mut generator(1)).candidates[0].cost.unwrap().prefill_s;
    let before = prefill_s();
    for tokens in [7, 500] {
        for _ in 0..3000 {
            let mut lease = pool.pick(&query, NOW, &mut random).unwrap().lease;
            lease.produced_at_once(tokens, NOW + Duration::from_secs(60));
            lease.settle(Outcome::Answered, NOW + Duration::from_secs(60));
        }
        let held = pool.pick(&query, NOW, &mut random).unwrap();
        let expected = held.lease.replica().load.snapshot().output_tokens;
        assert!(expected.abs_diff(tokens.into()) <= 30, "{expected} for {tokens}");
    }
    assert_eq!((prefill_s(), pool.replicas()[0].slowness()), (before, 1.0));
}

/// Sends requests in a closed loop to engines that make a token each `gap` milliseconds; returns who got them.
fn run(pool: &Router, gaps: &[u64], requests: u64) -> BTreeMap<String, usize> {
    let mut random = generator(1);
    let mut open: Vec<(Lease, Duration, u32)> = Vec::new();
    let mut names = Vec::new();
    let mut now = NOW;
    for id in 0..requests {
        while open.len() >= 40 {
            let next = (0..open.len()).min_by_key(|index| open[*index].1).unwrap();
            let (lease, due, left) = &mut open[next];
            now = *due;
            lease.produced(1, now);
            *left -= 1;
            let place = lease.replica().spec.name.parse::<usize>().unwrap();
            *due += Duration::from_millis(gaps[place]);
            if *left == 0 {
                open.swap_remove(next).0.settle(Outcome::Answered, now);
            }
        }
        let blocks = prompt(id, 0, 8);
        let pick = pool.pick(&query(&blocks), now, &mut random).unwrap();
        names.push(name(&pick));
        let gap = gaps[pick.lease.replica().spec.name.parse::<usize>().unwrap()];
        open.push((pick.lease, now + Duration::from_millis(gap), 50));
    }
    counts(names)
}

#[test]
fn a_slow_replica_is_found_out_and_gets_less() {
    let pool = router("prefix_aware", specs(&["0", "1", "2", "3"]));
    let counts = run(&pool, &[50, 50, 50, 120], 3000);
    let slowness: Vec<f64> = pool.replicas().iter().map(|replica| replica.slowness()).collect();
    assert!(slowness[3] > 1.6, "{slowness:?}");
    assert!(slowness[..3].iter().all(|slowness| (0.8..1.3).contains(slowness)), "{slowness:?}");
    assert!(counts["3"] * 3 < counts["0"] * 2, "{counts:?}");
}

#[test]
fn equal_replicas_stay_equal() {
    let pool = router("prefix_aware", specs(&["0", "1", "2"]));
    run(&pool, &[48, 50, 52], 1000);
    assert!(pool.replicas().iter().all(|replica| replica.slowness() == 1.0));
    let step = pool.engine().step_s;
    assert!((0.02..0.08).contains(&step), "50 ms a token: {step}");
}

#[test]
fn weights_shift_the_load() {
    let pool = router("prefix_aware", weighted(&[("a", 3), ("b", 1)]));
    let mut random = generator(1);
    let held: Vec<Pick> = (0..120).map(|id| pick(&pool, &prompt(id, 0, 10), &mut random)).collect();
    let counts = counts(held.iter().map(name));
    assert!(counts["a"] > 2 * counts["b"], "{counts:?}");
}

#[test]
fn a_restarted_engine_is_noticed() {
    let pool = router("prefix_aware", numbered(4));
    let mut random = generator(1);
    let old: Vec<Vec<u64>> = (0..40).map(|id| prompt(id, 0, 20)).collect();
    for blocks in &old {
        pick(&pool, blocks, &mut random);
    }
    let home = name(&pick(&pool, &old[39], &mut random));
    let replicas = pool.replicas();
    let replica = replicas.iter().find(|replica| *replica.spec.name == *home).unwrap();
    let before = replica.history_blocks();
    assert!(before >= 100);
    let later = NOW + seconds(60);
    let mut missed = 0;
    for blocks in &old {
        let mut lease = pool.pick(&query(blocks), later, &mut random).unwrap().lease;
        let restarted = lease.replica().id == replica.id && missed < 3;
        lease.observed_cached(if restarted { 0 } else { 320 }, 0);
        lease.observed_cached(0, 0);
        missed += usize::from(restarted);
        if restarted && missed < 3 {
            assert!(replica.history_blocks() >= before, "one or two may be an accident");
        } else if restarted {
            assert_eq!(replica.history_blocks(), 60, "only what it just got");
        }
    }
    assert_eq!(missed, 3);
    let prediction = replica.load.prediction();
    assert_eq!(prediction.missing_tokens, 3 * 320, "an answer says it once");
    let mut again = pool.pick(&query(&old[39]), later, &mut random).unwrap().lease;
    let surprising = again.replica().load.prediction().surprising_tokens;
    again.observed_cached(320 + 16, 0);
    assert_eq!(again.replica().load.prediction().surprising_tokens, surprising + 16);
}

#[test]
fn replicas_that_leave_take_their_history_along() {
    let pool = router("prefix_aware", numbered(3));
    let mut random = generator(1);
    for id in 0..60 {
        pick(&pool, &prompt(id, 3, 12), &mut random);
    }
    assert!(pool.index_bytes() > 60 * 12 * 8);
    pool.set_replicas(numbered(2));
    pool.set_replicas(numbered(3));
    let returned = pool.replicas()[2].history_blocks();
    assert_eq!(returned, 0, "it may have restarted");
    for id in 0..60 {
        let known = pick(&pool, &prompt(id, 3, 12), &mut random);
        assert!(known.cached_tokens.unwrap() >= 48, "all replicas count as holding the shared part");
    }
    pool.set_replicas(Vec::new());
    assert_eq!(pool.index_bytes(), 0);
}

#[test]
fn memory_stays_within_its_budget() {
    let pool = with(r#"{"prefix_aware": {"index_bytes": 2097152, "history_factor": 1000}}"#, numbered(4));
    let mut random = generator(1);
    let mut most = 0;
    for id in 0..20_000 {
        pick(&pool, &prompt(id, 2, 1 + id % 60), &mut random);
        most = most.max(pool.index_bytes());
    }
    assert!((500_000..=2_097_152).contains(&most), "{most}");
    assert!(pool.index_bytes() > most / 2, "it forgets no more than it must");
}

#[test]
fn memory_stays_within_its_budget_when_replicas_join() {
    let settings = r#"{"prefix_aware": {"index_bytes": 2097152, "history_factor": 1000}}"#;
    let pool = with(settings, numbered(1));
    let mut random = generator(1);
    for id in 0..5_000 {
        pick(&pool, &prompt(id, 2, 1 + id % 60), &mut random);
    }
    let alone = pool.index_bytes();
    pool.set_replicas(numbered(8));
    assert!(pool.index_bytes() * 8 < alone * 2, "{alone} and then {}", pool.index_bytes());
    pool.set_policy(serde_json::from_str(&settings.replace("2097152", "1048576")).unwrap()).unwrap();
    assert!(pool.index_bytes() <= 1_048_576 / 8, "{}", pool.index_bytes());
}

#[test]
fn other_policies_keep_what_was_learned() {
    let pool = router("prefix_aware", numbered(4));
    let mut random = generator(1);
    let blocks = prompt(1, 0, 20);
    let home = name(&pick(&pool, &blocks, &mut random));
    pool.set_policy("random".parse().unwrap()).unwrap();
    assert_eq!(pick(&pool, &blocks, &mut random).cached_tokens, None);
    pool.set_policy("prefix_aware".parse().unwrap()).unwrap();
    assert_eq!(name(&pick(&pool, &blocks, &mut random)), home);
}

/// A conversation of two turns: the first is answered with `produced` tokens, of which `found` are in the cache when
/// the second goes on with `answer` blocks. Returns what was expected to be cached then.
fn second_turn(
    pool: &Router,
    id: u64,
    produced: u32,
    answer: u64,
    found: u32,
    random: &mut ChaCha8Rng,
) -> u32 {
    let mut first = pick(pool, &prompt(id, 0, 10), random).lease;
    first.produced(1, NOW);
    first.produced(produced - 1, NOW + seconds(1));
    first.settle(Outcome::Answered, NOW + seconds(1));
    let mut second = pick(pool, &prompt(id, 0, 10 + answer + 2), random);
    second.lease.observed_cached(160 + found, 0);
    second.cached_tokens.unwrap()
}

#[test]
fn answers_that_are_sent_back_are_expected_in_the_cache() {
    let pool = router("prefix_aware", numbered(4));
    let mut random = generator(1);
    let first = second_turn(&pool, 0, 80, 5, 80, &mut random);
    assert_eq!(first, 160 + 48, "half of five blocks, before any was seen");
    let later: Vec<u32> = (1..200).map(|id| second_turn(&pool, id, 80, 5, 80, &mut random)).collect();
    assert!(later.is_sorted());
    assert_eq!(later.last(), Some(&(160 + 80)));
    let short = second_turn(&pool, 1000, 80, 1, 48, &mut random);
    assert_eq!(short, 160 + 48, "no more than the prompt has");
}

#[test]
fn what_is_learned_of_answers_is_no_difference_of_tokenizers() {
    for engine_tokens in [0.7, 0.85, 1.0, 1.25, 1.6] {
        for (found, expected) in [(80, 160 + 60..=160 + 80), (0, 160..=160 + 20)] {
            let pool = router("prefix_aware", numbered(4));
            let mut random = generator(1);
            let mut last = 0;
            for id in 0..200 {
                let mut first = pick(&pool, &prompt(id, 0, 10), &mut random).lease;
                first.produced_at_once(80, NOW);
                drop(first);
                let mut second = pick(&pool, &prompt(id, 0, 17), &mut random);
                let counted = |tokens: u32| (f64::from(tokens) * engine_tokens) as u32;
                second.lease.observed_cached(counted(160 + found) / 16 * 16, counted(16 * 17 + 5));
                last = second.cached_tokens.unwrap();
            }
            assert!(expected.contains(&last), "{last} with {engine_tokens}, {found} found");
            let prediction: Vec<_> = pool.replicas().iter().map(|one| one.load.prediction()).collect();
            let odd: u64 = prediction.iter().map(|one| one.missing_tokens + one.surprising_tokens).sum();
            let cached: u64 = prediction.iter().map(|one| one.cached_tokens).sum();
            assert!(odd * 5 < cached, "{odd} of {cached} with {engine_tokens}, {found} found");
        }
    }
}

#[test]
fn an_answer_that_an_engine_gave_up_is_not_expected() {
    let pool = router("prefix_aware", numbered(1));
    let mut random = generator(1);
    let mut first = pick(&pool, &prompt(1, 0, 10), &mut random).lease;
    first.produced_at_once(80, NOW);
    drop(first);
    let both = prompt(1, 0, 17);
    let expected = || pool.explain(&query(&both), NOW, &mut generator(1)).candidates[0].cost.unwrap();
    assert_eq!(expected().cached_tokens, 160 + 48, "half of five blocks, before any was seen");
    let replicas = pool.replicas();
    replicas[0].cache_lost(&both[12..15]);
    assert_eq!(expected().cached_tokens, 160 + 16, "half of two");
    replicas[0].cache_lost(&both[10..15]);
    assert_eq!(expected().cached_tokens, 160);
}

#[test]
fn an_answer_is_as_long_as_the_engine_says() {
    let pool = router("prefix_aware", numbered(4));
    let mut random = generator(1);
    let expected = |counted: Option<u32>, random: &mut ChaCha8Rng| {
        let id = 100 + u64::from(counted.unwrap_or_default());
        let mut first = pick(&pool, &prompt(id, 0, 10), random).lease;
        // Three events.
        (0..3).for_each(|_| first.produced(1, NOW));
        counted.into_iter().for_each(|tokens| first.counted(tokens));
        first.settle(Outcome::Answered, NOW);
        pick(&pool, &prompt(id, 0, 20), random).cached_tokens.unwrap()
    };
    assert_eq!(expected(None, &mut random), 160);
    assert_eq!(expected(Some(80), &mut random), 160 + 48, "half of five blocks, before any was seen");
}

#[test]
fn answers_that_are_not_sent_back_are_not_expected() {
    let pool = router("prefix_aware", numbered(4));
    let mut random = generator(1);
    let expected: Vec<u32> = (0..200).map(|id| second_turn(&pool, id, 80, 5, 0, &mut random)).collect();
    assert_eq!(expected.last(), Some(&160));
}

#[test]
fn long_answers_that_are_not_sent_back_say_nothing_about_the_prompts_before_them() {
    let pool = router("prefix_aware", numbered(1));
    let mut random = generator(1);
    let replicas = pool.replicas();
    pick(&pool, &prompt(1000, 0, 30), &mut random);
    for id in 0..20 {
        let mut first = pick(&pool, &prompt(id, 0, 2), &mut random).lease;
        first.produced(4000, NOW);
        first.settle(Outcome::Answered, NOW + seconds(1));
        let mut second =
            pool.pick(&query(&prompt(id, 0, 300)), NOW + seconds(60), &mut random).unwrap().lease;
        second.observed_cached(32, 0);
    }
    assert_eq!(replicas[0].history_blocks(), 30 + 20 * 300, "the engine is not taken for restarted");
}
