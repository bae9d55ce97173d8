//! What engines say about their caches, block by block, and how that corrects the history.
//!
//! The history says what a replica was sent. An engine that publishes its cache's events says what became of it:
//! that a block is held, or that it is gone. What it said counts; where it said nothing, the history does. So
//! events may start late, stop, or cover a part of the traffic, and a replica that publishes none is as before:
//!
//! ```text
//! matched = the longest beginning of the prompt whose last block is held,
//!           or was sent there and is not known to be gone
//! ```
//!
//! Engines give up the end of a prompt before its beginning, so the last block stands for those before it. A
//! block that is sent again to where it is gone is on its way back: from then on the history counts again.
//!
//! The caller says which of the engine's blocks is which of the router's, and limits their number by forgetting
//! some; see [`Router::forget_blocks`](crate::Router::forget_blocks).

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::BuildHasherDefault,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use parking_lot::RwLock;

use crate::prefix_index::{Answer, Identity, release_table};

const SHARDS: usize = 64;

/// What was said about blocks, for all replicas of a pool.
#[derive(Debug)]
pub(crate) struct EngineCaches {
    shards: Box<[RwLock<Shard>]>,
    blocks: AtomicUsize,
}

type Shard = HashMap<u64, Said, BuildHasherDefault<Identity>>;

/// What is known of one block, by slot. A slot is in one of the sets at most.
#[derive(Debug, Default)]
struct Said {
    held: Slots,
    gone: Slots,
}

/// A set of slots.
#[derive(Clone, Debug, Default)]
struct Slots {
    /// The first 64.
    first: u64,
    more: Vec<u64>,
}

/// In tables that have room for up to three times as many.
const BLOCK_BYTES: usize = 3 * size_of::<(u64, Said)>();

impl Slots {
    fn with(&mut self, slot: u32) {
        let (word, bit) = place(slot);
        if self.more.len() < word {
            self.more.resize(word, 0);
        }
        *self.word_mut(word).unwrap_or(&mut 0) |= bit;
    }

    fn without(&mut self, slot: u32) {
        let (word, bit) = place(slot);
        if let Some(word) = self.word_mut(word) {
            *word &= !bit;
        }
    }

    fn has(&self, slot: u32) -> bool {
        let (word, bit) = place(slot);
        self.word(word) & bit != 0
    }

    fn word(&self, index: usize) -> u64 {
        match index.checked_sub(1) {
            None => self.first,
            Some(more) => self.more.get(more).copied().unwrap_or_default(),
        }
    }

    fn word_mut(&mut self, index: usize) -> Option<&mut u64> {
        match index.checked_sub(1) {
            None => Some(&mut self.first),
            Some(more) => self.more.get_mut(more),
        }
    }

    fn is_empty(&self) -> bool {
        self.first == 0 && self.more.iter().all(|word| *word == 0)
    }
}

fn place(slot: u32) -> (usize, u64) {
    ((slot / u64::BITS) as usize, 1 << (slot % u64::BITS))
}

impl EngineCaches {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), blocks: AtomicUsize::new(0) }
    }

    /// Memory in use, estimated from above for pools of up to 64 replicas.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.load(Relaxed) * BLOCK_BYTES
    }

    fn shard(&self, block: u64) -> &RwLock<Shard> {
        &self.shards[(block >> 40) as usize % SHARDS]
    }

    /// The engine holds the block.
    pub(crate) fn holds(&self, slot: u32, block: u64) {
        self.say(block, |said| {
            said.held.with(slot);
            said.gone.without(slot);
        });
    }

    /// The engine held the block, and does not any more.
    pub(crate) fn lost(&self, slot: u32, block: u64) {
        self.say(block, |said| {
            said.held.without(slot);
            said.gone.with(slot);
        });
    }

    fn say(&self, block: u64, change: impl FnOnce(&mut Said)) {
        let mut shard = self.shard(block).write();
        change(match shard.entry(block) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.blocks.fetch_add(1, Relaxed);
                entry.insert(Said::default())
            }
        });
    }

    /// The blocks are on their way to the engine.
    pub(crate) fn sent(&self, slot: u32, blocks: &[u64]) {
        if self.blocks.load(Relaxed) == 0 {
            return;
        }
        for block in blocks {
            let shard = self.shard(*block);
            if shard.read().get(block).is_some_and(|said| said.gone.has(slot))
                && let Some(said) = shard.write().get_mut(block)
            {
                said.gone.without(slot);
            }
        }
    }

    /// Nothing is known about the engine any more.
    pub(crate) fn clear(&self, slot: u32) {
        for shard in &self.shards {
            self.retain(&mut shard.write(), |said| {
                said.held.without(slot);
                said.gone.without(slot);
            });
        }
    }

    fn retain(&self, shard: &mut Shard, change: impl Fn(&mut Said)) {
        let before = shard.len();
        shard.retain(|_, said| {
            change(said);
            !(said.held.is_empty() && said.gone.is_empty())
        });
        self.blocks.fetch_sub(before - shard.len(), Relaxed);
        release_table(shard);
    }

    /// Nothing is known about the block any more.
    pub(crate) fn forget(&self, block: u64) {
        let mut shard = self.shard(block).write();
        if shard.remove(&block).is_some() {
            release_table(&mut shard);
            self.blocks.fetch_sub(1, Relaxed);
        }
    }

    /// Takes off answers what the engine is known to have given up of them.
    pub(crate) fn cut(&self, blocks: &[u64], answers: &mut [Answer]) {
        if self.blocks.load(Relaxed) == 0 {
            return;
        }
        for answer in answers {
            let gone = |block: &u64| {
                self.shard(*block).read().get(block).is_some_and(|said| said.gone.has(answer.slot))
            };
            let places = answer.after as usize..(answer.after + answer.blocks) as usize;
            answer.blocks = blocks[places].iter().take_while(|block| !gone(block)).count() as u32;
        }
    }

    /// Corrects what the history says was matched of a prompt, by slot.
    pub(crate) fn correct(&self, blocks: &[u64], matched: &mut [u32]) {
        if self.blocks.load(Relaxed) == 0 {
            return;
        }
        let mut sent: Vec<(u32, u32)> = (0..).zip(&*matched).map(|(slot, blocks)| (*blocks, slot)).collect();
        sent.sort_unstable();
        let words = matched.len().div_ceil(u64::BITS as usize);
        let (mut open, mut believed) = (vec![0_u64; words], vec![0_u64; words]);
        let add = |set: &mut [u64], slot: u32| {
            let (word, bit) = place(slot);
            set[word] |= bit;
        };
        (0..matched.len() as u32).for_each(|slot| add(&mut open, slot));
        matched.fill(0);
        for (at, block) in blocks.iter().enumerate().rev() {
            while let Some(&(blocks, slot)) = sent.last()
                && blocks as usize > at
            {
                add(&mut believed, slot);
                sent.pop();
            }
            let shard = self.shard(*block).read();
            let said = shard.get(block);
            let mut left = 0;
            for word in 0..words {
                let (held, gone) = said.map_or((0, 0), |said| (said.held.word(word), said.gone.word(word)));
                let mut found = open[word] & (held | believed[word] & !gone);
                open[word] &= !found;
                left |= open[word];
                while found != 0 {
                    let slot = word * u64::BITS as usize + found.trailing_zeros() as usize;
                    matched[slot] = at as u32 + 1;
                    found &= found - 1;
                }
            }
            if left == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corrected(caches: &EngineCaches, blocks: &[u64], history: &[u32]) -> Vec<u32> {
        let mut matched = history.to_vec();
        caches.correct(blocks, &mut matched);
        matched
    }

    const PROMPT: [u64; 4] = [10, 11, 12, 13];

    #[test]
    fn what_engines_say_counts_and_the_history_where_they_say_nothing() {
        let caches = EngineCaches::new();
        assert_eq!(corrected(&caches, &PROMPT, &[4, 0, 2]), [4, 0, 2], "nobody said anything");
        caches.lost(0, 12);
        caches.lost(0, 13);
        caches.holds(1, 10);
        caches.holds(1, 11);
        caches.holds(1, 12);
        assert_eq!(corrected(&caches, &PROMPT, &[4, 0, 2]), [2, 3, 2]);
        assert_eq!(corrected(&caches, &PROMPT[..1], &[1, 0, 1]), [1, 1, 1]);
        caches.lost(1, 12);
        assert_eq!(corrected(&caches, &PROMPT, &[0, 0, 0]), [0, 2, 0]);
    }

    #[test]
    fn a_block_that_is_sent_again_is_on_its_way() {
        let caches = EngineCaches::new();
        PROMPT.iter().for_each(|block| caches.lost(0, *block));
        assert_eq!(corrected(&caches, &PROMPT, &[4]), [0]);
        caches.sent(0, &PROMPT[..2]);
        assert_eq!(corrected(&caches, &PROMPT, &[4]), [2]);
    }

    #[test]
    fn an_answer_ends_where_the_engine_gave_it_up() {
        let caches = EngineCaches::new();
        let cut = |after, blocks| {
            let mut answers = [0, 1].map(|slot| Answer { slot, after, blocks });
            caches.cut(&PROMPT, &mut answers);
            answers.map(|answer| answer.blocks)
        };
        assert_eq!(cut(1, 3), [3, 3], "nobody said anything");
        caches.lost(0, 12);
        assert_eq!((cut(1, 3), cut(1, 1), cut(2, 2)), ([1, 3], [1, 1], [0, 2]));
        caches.sent(0, &PROMPT);
        assert_eq!(cut(1, 3), [3, 3], "on its way again");
    }

    #[test]
    fn what_is_forgotten_takes_no_memory() {
        let caches = EngineCaches::new();
        for slot in [0, 3, 70] {
            PROMPT.iter().for_each(|block| caches.holds(slot, *block));
        }
        assert_eq!(corrected(&caches, &PROMPT, &[0; 71])[70], 4, "any number of replicas");
        caches.clear(70);
        assert_eq!(corrected(&caches, &PROMPT, &[0; 71])[70], 0);
        assert!(caches.bytes() > 0);
        caches.clear(0);
        caches.forget(13);
        assert_eq!(corrected(&caches, &PROMPT, &[0, 0, 0, 0]), [0, 0, 0, 3]);
        caches.clear(3);
        assert_eq!(caches.bytes(), 0);
        let many = || (0..100_000_u64).map(|block| block.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        many().for_each(|block| caches.holds(0, block));
        many().skip(1000).for_each(|block| caches.forget(block));
        let places: usize = caches.shards.iter().map(|shard| shard.read().capacity()).sum();
        assert!(places <= 64 * 64, "small tables keep some: {places}");
    }
}
