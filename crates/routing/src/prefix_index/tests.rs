use std::{
    collections::HashSet,
    sync::{Arc, mpsc},
    thread,
};

use proptest::prelude::*;

use super::{segment::HELD_BYTES, *};

const WIDE: Limits = Limits { blocks: 1_000_000, bytes: 1 << 30 };
const NOW: Duration = Duration::from_secs(100);

/// Chained hashes of a prompt written as letters, a block each.
fn prompt(text: &str) -> Vec<u64> {
    let mut hash = 7;
    text.bytes()
        .map(|byte| {
            hash = xxhash_rust::xxh3::xxh3_64_with_seed(&[byte], hash);
            hash
        })
        .collect()
}

fn matched(index: &PrefixIndex, text: &str) -> (Vec<u32>, u32) {
    let matches = index.matches(&prompt(text), 2, 3);
    (matches.blocks, matches.common)
}

fn is_empty(index: &PrefixIndex) -> bool {
    index.bytes() == 0 && index.segments() == 0 && index.shards.iter().all(|shard| shard.read().is_empty())
}

#[test]
fn one_walk_finds_the_length_on_every_replica() {
    let index = PrefixIndex::new();
    let (a, b) = (History::new(0), History::new(1));
    assert_eq!(matched(&index, "abcdef"), (vec![0, 0], 0));
    index.insert(&a, &prompt("abcdef"), WIDE, NOW);
    index.insert(&b, &prompt("abcx"), WIDE, NOW);
    index.insert(&b, &prompt("abcdyz"), WIDE, NOW);
    assert_eq!(matched(&index, "abcdef"), (vec![6, 4], 0));
    assert_eq!(matched(&index, "abcdyzz").0, [4, 6]);
    assert_eq!(matched(&index, "abcxy").0, [3, 4]);
    assert_eq!(matched(&index, "ab").0, [2, 2]);
    assert_eq!(matched(&index, "xbcd").0, [0, 0]);
    assert_eq!((a.blocks(), b.blocks()), (6, 7), "abcd, x and yz");
}

#[test]
fn a_prompt_that_goes_on_where_one_was_answered_goes_on_with_the_answer() {
    let index = PrefixIndex::new();
    let (a, b) = (History::new(0), History::new(1));
    let end = index.insert(&a, &prompt("turn"), WIDE, NOW).end.expect("it has an end");
    let expected = |text: &str, share| {
        let mut matches = index.matches(&prompt(text), 2, 3);
        matches.expect_answers(share);
        matches.blocks
    };
    assert_eq!(expected("turn+answer", 1.0), [4, 0], "not answered yet");
    index.answered(&a, end, 4);
    assert_eq!(expected("turn+answer", 1.0), [8, 0]);
    assert_eq!(expected("turn+answer", 0.5), [6, 0]);
    assert_eq!(expected("turn+a", 1.0), [6, 0], "no more than the prompt has");
    assert_eq!(expected("turn", 1.0), [4, 0], "nothing goes on");
    assert_eq!(expected("tur+answer", 1.0), [3, 0], "it left before the end");
    index.insert(&b, &prompt("turn+answer"), WIDE, NOW);
    assert_eq!(expected("turn+answer, more", 1.0), [8, 11], "who was sent more of it changes nothing");
    index.insert(&a, &prompt("turn"), WIDE, NOW);
    assert_eq!(expected("turn+answer", 1.0), [8, 11], "sent again, and not answered yet");
    index.insert(&a, &prompt("turn+answer"), WIDE, NOW);
    assert_eq!(expected("turn+answer, more", 1.0), [11, 11], "what was sent needs no guess");
    index.answered(&History::new(1), end, 4);
    index.close(&a);
    index.answered(&a, end, 4);
    assert_eq!(expected("turn+answer", 1.0), [0, 11]);
    let heir = History::new(0);
    index.insert(&heir, &prompt("turn"), WIDE, NOW);
    index.answered(&a, end, 4);
    assert_eq!(expected("turn+answer", 1.0), [4, 11], "an answer of who left is not the heir's");
}

#[test]
fn a_prefix_that_many_follow_is_common() {
    let index = PrefixIndex::new();
    let a = History::new(0);
    for text in ["pre1more", "pre2", "pre2"] {
        index.insert(&a, &prompt(text), WIDE, NOW);
    }
    assert_eq!(matched(&index, "pre9"), (vec![3, 0], 0), "two different ones follow");
    index.insert(&a, &prompt("pre3"), WIDE, NOW);
    assert_eq!(matched(&index, "pre9"), (vec![0, 0], 3), "three do, and who holds it is of no interest");
    assert_eq!(matched(&index, "pre1more"), (vec![8, 0], 3));
    assert_eq!(matched(&index, "pr"), (vec![2, 0], 0), "only one follows these two");
    for text in ["pre", "pre1more"] {
        index.insert(&a, &prompt(text), Limits { blocks: 11, ..WIDE }, NOW);
    }
    assert_eq!(matched(&index, "pre9").1, 3, "room for all: 3 and 5 and 1 and 1");
    index.insert(&a, &prompt("other"), Limits { blocks: 13, ..WIDE }, NOW);
    assert_eq!(matched(&index, "pre9"), (vec![3, 0], 0), "pre2 and pre3 are the oldest, and gone");
}

#[test]
fn the_oldest_goes_first_and_beginnings_outlive_endings() {
    let index = PrefixIndex::new();
    let a = History::new(0);
    let limits = Limits { blocks: 10, ..WIDE };
    index.insert(&a, &prompt("sysaaa"), limits, NOW);
    index.insert(&a, &prompt("sysbbb"), limits, NOW);
    assert_eq!(a.blocks(), 9);
    index.insert(&a, &prompt("syscc"), limits, NOW);
    assert_eq!(matched(&index, "sysaaa").0[0], 3, "the end of the oldest is gone, the shared part is not");
    assert_eq!(matched(&index, "sysbbb").0[0], 6);
    index.insert(&a, &prompt("sysbbbd"), limits, NOW);
    index.insert(&a, &prompt("z"), limits, NOW);
    assert_eq!(a.blocks(), 10);
    index.insert(&a, &prompt("zy"), limits, NOW);
    assert_eq!(matched(&index, "syscc").0[0], 3);
    assert_eq!(matched(&index, "sysbbbd").0[0], 7, "renewed");
    index.insert(&a, &prompt("0123456789"), limits, NOW);
    assert_eq!((matched(&index, "sys").0[0], matched(&index, "0123456789").0[0]), (0, 10));
    index.close(&a);
    assert!(is_empty(&index));
    index.insert(&a, &prompt("late"), limits, NOW);
    assert!(is_empty(&index), "a replica that left stays forgotten");
}

#[test]
fn tables_and_queues_that_were_fuller_give_their_space_back() {
    let index = PrefixIndex::new();
    let a = History::new(0);
    for id in 0..60_000_u64 {
        index.insert(&a, &[id.wrapping_mul(0x9e37_79b9_7f4a_7c15)], WIDE, NOW);
    }
    let places = || index.shards.iter().map(|shard| shard.read().capacity()).sum::<usize>();
    assert!(places() >= 60_000);
    index.limit(&a, Limits { blocks: 10_000, ..WIDE });
    assert_eq!(index.segments(), 10_000);
    assert!(places() <= 30_000, "{}", places());
    assert!(a.state.lock().records.capacity() <= 20_000);
}

#[test]
fn a_prompt_longer_than_the_limit_leaves_nothing() {
    let index = PrefixIndex::new();
    let a = History::new(0);
    index.insert(&a, &prompt("abcdefghij"), Limits { blocks: 9, ..WIDE }, NOW);
    assert!(is_empty(&index));
}

#[test]
fn what_is_old_can_be_forgotten() {
    let second = |second| Duration::from_secs(second);
    let index = PrefixIndex::new();
    let (a, b) = (History::new(0), History::new(1));
    index.insert(&a, &prompt("old"), WIDE, second(10));
    index.insert(&a, &prompt("middle"), WIDE, second(20));
    index.insert(&b, &prompt("middle"), WIDE, second(20));
    index.insert(&a, &prompt("new"), WIDE, second(30));
    assert_eq!(index.insert(&b, &prompt("fresh"), WIDE, second(30)).known_since, None);
    let sent = index.insert(&a, &prompt("middleish"), WIDE, second(40));
    assert_eq!(sent.known_since, Some(second(20)));
    index.forget_before(&a, second(30));
    assert_eq!(matched(&index, "old").0[0], 0);
    assert_eq!(matched(&index, "middleish").0, [9, 6], "renewed since; and others never lost it");
    assert_eq!(matched(&index, "new").0[0], 3);
}

/// Prompts over few letters share and leave prefixes at many places.
fn texts() -> impl Strategy<Value = Vec<(u32, String)>> {
    proptest::collection::vec((0..2_u32, "[ab]{1,12}"), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_limits_matches_are_exact(prompts in texts(), asked in "[ab]{1,14}") {
        let index = PrefixIndex::new();
        let histories = [History::new(0), History::new(1)];
        let common = |sent: &str| asked.bytes().zip(sent.bytes()).take_while(|(x, y)| x == y).count() as u32;
        let mut exact = vec![0, 0];
        let mut held = [HashSet::new(), HashSet::new()];
        for (slot, text) in &prompts {
            let slot = *slot as usize;
            index.insert(&histories[slot], &prompt(text), WIDE, NOW);
            exact[slot] = common(text).max(exact[slot]);
            held[slot].extend(prompt(text));
        }
        prop_assert_eq!(matched(&index, &asked).0, exact);
        // The blocks that three different ones follow are found by counting.
        let all: HashSet<&str> = prompts.iter().flat_map(|(_, text)| (1..=text.len()).map(|end| &text[..end])).collect();
        let followers = |begin: &str| all.iter().filter(|text| text.len() == begin.len() + 1 && text.starts_with(begin)).count();
        let matches = index.matches(&prompt(&asked), 2, 2);
        let wide = (1..=asked.len()).rev().find(|end| followers(&asked[..*end]) >= 2).unwrap_or(0);
        prop_assert_eq!(matches.common as usize, wide);
        for (history, held) in histories.iter().zip(held) {
            prop_assert_eq!(history.blocks(), held.len());
            index.close(history);
        }
        prop_assert!(is_empty(&index));
    }

    #[test]
    fn limits_hold_and_the_latest_is_there(prompts in texts(), blocks in 12..40_usize, segments in 6..12_usize) {
        let index = PrefixIndex::new();
        let histories = [History::new(0), History::new(1)];
        let limits = Limits { blocks, bytes: segments * (HELD_BYTES + RECORD_BYTES + 96) };
        for (slot, text) in &prompts {
            let history = &histories[*slot as usize];
            index.insert(history, &prompt(text), limits, NOW);
            prop_assert!(history.blocks() <= blocks);
            prop_assert!(history.state.lock().bytes() <= limits.bytes);
            let charged: usize = histories.iter().map(|history| history.state.lock().bytes()).sum();
            prop_assert!(index.bytes() <= charged, "{} of {charged}", index.bytes());
            if text.len() <= 3 {
                let expected = text.len() as u32;
                prop_assert_eq!(matched(&index, text).0[*slot as usize], expected);
            }
        }
        histories.iter().for_each(|history| index.close(history));
        prop_assert!(is_empty(&index));
    }
}

#[test]
fn threads_leave_nothing_behind() {
    let index = PrefixIndex::new();
    let histories: Vec<History> = (0..3).map(History::new).collect();
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (index, histories) = (&index, &histories);
            scope.spawn(move || {
                for round in 0..400 {
                    let text = format!("shared{}{}", (round * 7 + thread) % 23, "tail".repeat(round % 5));
                    let limits = Limits { blocks: 80, ..WIDE };
                    index.insert(&histories[(round + thread) % 3], &prompt(&text), limits, NOW);
                    index.matches(&prompt(&text), 3, 4);
                }
            });
        }
    });
    assert!(histories.iter().all(|history| history.blocks() <= 80));
    histories.iter().for_each(|history| index.close(history));
    assert!(is_empty(&index));
}

#[test]
fn a_prefix_in_steady_use_is_renewed_among_readers() {
    let index = Arc::new(PrefixIndex::new());
    let history = Arc::new(History::new(0));
    index.insert(&history, &prompt("preamble"), WIDE, NOW);
    index.insert(&history, &prompt("other"), WIDE, NOW);
    let reading: Vec<_> = index.shards.iter().map(RwLock::read).collect();
    let (done, wait) = mpsc::channel();
    let (own_index, own_history) = (Arc::clone(&index), Arc::clone(&history));
    let later = NOW + Duration::from_secs(5);
    thread::spawn(move || done.send(own_index.insert(&own_history, &prompt("preamble"), WIDE, later)));
    let sent = wait.recv_timeout(Duration::from_secs(60)).expect("it waits for the readers");
    assert_eq!(sent.known_since, Some(NOW), "when it was sent before");
    drop(reading);
    index.insert(&history, &prompt("z"), Limits { blocks: 9, ..WIDE }, later);
    assert_eq!(matched(&index, "preamble").0[0], 8, "`other` has become the oldest");
    assert_eq!(matched(&index, "other").0[0], 0);
}
