//! Which token blocks one engine's cache holds, by its own account.
//!
//! Engines name blocks by hashes that nobody else can compute. The events say which tokens are in a block and
//! which block it follows, so each gets a name here that depends on its tokens and all before it, and on the
//! adapter: see [`token_blocks`]. An engine may hold a block twice; it is gone when it was removed as often as it
//! was stored. Blocks outside the GPU, of caches other than that of full attention, and of prompts about which
//! tokens do not say everything (images, salts) are no part of it, and neither is what follows an unknown block.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use protocol::kv_events::{BlocksRemoved, BlocksStored, CacheEvent, is_on_gpu};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::counters::KvEventCounters;

/// Blocks of one engine that are kept; more are not looked at.
const MOST_BLOCKS: usize = 1 << 20;
/// Names of adapters that are kept.
const MOST_ADAPTERS: usize = 1024;
/// Kinds of caches from which whole prefixes can be used.
const FULL_ATTENTION: [&str; 3] = ["full_attention", "mla_attention", "sink_full_attention"];

/// One engine's account.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By the engine's hash.
    blocks: HashMap<u64, Block>,
    /// How many blocks have this content.
    held: HashMap<u64, u32>,
    block_tokens: Option<u32>,
    adapters: HashSet<String>,
    /// Caches whose blocks are not kept.
    other_groups: HashSet<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    /// None where tokens do not say everything.
    content: Option<u64>,
    count: u32,
}

/// What an event changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// A content that was not held before.
    Held(u64),
    /// A content that is not held any more.
    Lost(u64),
    /// Everything is gone.
    Cleared,
}

/// Names of the full blocks of a prompt with these tokens.
pub(super) fn token_blocks(
    adapter: Option<&str>,
    tokens: &[u32],
    block_tokens: u32,
) -> impl Iterator<Item = u64> {
    let mut name = beginning(adapter);
    tokens.chunks_exact(block_tokens.max(1) as usize).map(move |block| {
        name = next(name, block);
        name
    })
}

fn beginning(adapter: Option<&str>) -> u64 {
    adapter.map_or(0, |adapter| xxh3_64(adapter.as_bytes()))
}

fn next(before: u64, tokens: &[u32]) -> u64 {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    xxh3_64_with_seed(&bytes, before)
}

impl Ledger {
    /// Takes an event over and tells what changed.
    pub(super) fn apply(
        &mut self,
        event: CacheEvent,
        counters: &KvEventCounters,
        mut tell: impl FnMut(Change),
    ) {
        match event {
            CacheEvent::Stored(stored) => {
                counters.stored.add(stored.hashes.len() as u64);
                self.stored(stored, &mut tell);
            }
            CacheEvent::Removed(removed) => {
                counters.removed.add(removed.hashes.len() as u64);
                self.removed(&removed, &mut tell);
            }
            CacheEvent::Cleared => {
                self.clear();
                tell(Change::Cleared);
            }
        }
    }

    fn stored(&mut self, stored: BlocksStored, tell: &mut impl FnMut(Change)) {
        let size = stored.block_tokens.max(1) as usize;
        if stored.group_kind.as_deref().is_some_and(|kind| !FULL_ATTENTION.contains(&kind)) {
            self.other_groups.extend(stored.group);
            return;
        }
        if !is_on_gpu(stored.medium.as_deref()) || self.is_other(stored.group) {
            return;
        }
        self.block_tokens = Some(stored.block_tokens.max(1));
        let mut before = match stored.parent {
            None => Some(beginning(stored.lora_name.as_deref())),
            Some(parent) => self.blocks.get(&parent).and_then(|parent| parent.content),
        };
        if stored.keyed {
            before = None;
        }
        if let Some(adapter) = stored.lora_name
            && self.adapters.len() < MOST_ADAPTERS
        {
            self.adapters.insert(adapter);
        }
        let mut tokens = stored.tokens.chunks_exact(size);
        for hash in stored.hashes {
            before = before.zip(tokens.next()).map(|(before, tokens)| next(before, tokens));
            self.store(hash, before, tell);
        }
    }

    fn store(&mut self, hash: u64, content: Option<u64>, tell: &mut impl FnMut(Change)) {
        let room = self.blocks.len() < MOST_BLOCKS;
        match self.blocks.entry(hash) {
            Entry::Occupied(mut entry) => entry.get_mut().count += 1,
            Entry::Vacant(entry) if room => {
                entry.insert(Block { content, count: 1 });
                if let Some(content) = content {
                    let count = self.held.entry(content).or_default();
                    *count += 1;
                    if *count == 1 {
                        tell(Change::Held(content));
                    }
                }
            }
            Entry::Vacant(_) => {}
        }
    }

    fn removed(&mut self, removed: &BlocksRemoved, tell: &mut impl FnMut(Change)) {
        if !is_on_gpu(removed.medium.as_deref()) || self.is_other(removed.group) {
            return;
        }
        for hash in &removed.hashes {
            let Entry::Occupied(mut entry) = self.blocks.entry(*hash) else { continue };
            entry.get_mut().count -= 1;
            if entry.get().count > 0 {
                continue;
            }
            let Some(content) = entry.remove().content else { continue };
            if let Entry::Occupied(mut held) = self.held.entry(content) {
                *held.get_mut() -= 1;
                if *held.get() == 0 {
                    held.remove();
                    tell(Change::Lost(content));
                }
            }
        }
    }

    fn is_other(&self, group: Option<u32>) -> bool {
        group.is_some_and(|group| self.other_groups.contains(&group))
    }

    /// Forgets all blocks.
    pub(super) fn clear(&mut self) {
        self.blocks.clear();
        self.held.clear();
    }

    /// Blocks in the account.
    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Contents that are held.
    pub(super) fn held(&self) -> impl Iterator<Item = u64> {
        self.held.keys().copied()
    }

    pub(super) fn holds(&self, content: u64) -> bool {
        self.held.contains_key(&content)
    }

    /// Tokens in a block, once the engine has said it.
    pub(super) fn block_tokens(&self) -> Option<u32> {
        self.block_tokens
    }

    pub(super) fn knows_adapter(&self, name: &str) -> bool {
        self.adapters.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(hashes: &[u64], parent: Option<u64>, tokens: &[u32]) -> BlocksStored {
        BlocksStored {
            hashes: hashes.into(),
            parent,
            tokens: tokens.into(),
            block_tokens: 2,
            ..BlocksStored::default()
        }
    }

    fn removed(hashes: &[u64]) -> CacheEvent {
        CacheEvent::Removed(BlocksRemoved { hashes: hashes.into(), ..BlocksRemoved::default() })
    }

    fn changes(ledger: &mut Ledger, event: CacheEvent) -> Vec<Change> {
        let mut changes = Vec::new();
        ledger.apply(event, &KvEventCounters::default(), |change| changes.push(change));
        changes
    }

    #[test]
    fn blocks_are_known_by_their_tokens_and_all_before_them() {
        let mut ledger = Ledger::default();
        let names: Vec<u64> = token_blocks(None, &[1, 2, 3, 4, 5, 6, 7], 2).collect();
        assert_eq!(names.len(), 3);
        let first = changes(&mut ledger, CacheEvent::Stored(stored(&[100, 101], None, &[1, 2, 3, 4])));
        assert_eq!(first, [Change::Held(names[0]), Change::Held(names[1])]);
        let next = changes(&mut ledger, CacheEvent::Stored(stored(&[102], Some(101), &[5, 6])));
        assert_eq!(next, [Change::Held(names[2])]);
        assert_eq!(changes(&mut ledger, removed(&[102, 999])), [Change::Lost(names[2])]);
        assert_eq!(changes(&mut ledger, CacheEvent::Cleared), [Change::Cleared]);
        assert_eq!((ledger.blocks(), ledger.held().count()), (0, 0));
    }

    #[test]
    fn a_block_that_is_held_twice_is_lost_when_both_are() {
        let mut ledger = Ledger::default();
        let event = || CacheEvent::Stored(stored(&[100], None, &[1, 2]));
        assert_eq!(changes(&mut ledger, event()).len(), 1);
        assert_eq!(changes(&mut ledger, event()), []);
        assert_eq!(changes(&mut ledger, removed(&[100])), []);
        assert_eq!(changes(&mut ledger, removed(&[100])).len(), 1);
    }

    #[test]
    fn what_cannot_be_placed_or_used_is_left_out() {
        let mut ledger = Ledger::default();
        let orphan = stored(&[7], Some(6), &[1, 2]);
        let salted = BlocksStored { keyed: true, ..stored(&[8], None, &[1, 2]) };
        let on_cpu = BlocksStored { medium: Some("CPU".into()), ..stored(&[9], None, &[1, 2]) };
        let window = BlocksStored {
            group: Some(1),
            group_kind: Some("sliding_window".into()),
            ..stored(&[10], None, &[1, 2])
        };
        let follows = stored(&[11], Some(8), &[3, 4]);
        for event in [orphan, salted, on_cpu, window, follows] {
            assert_eq!(changes(&mut ledger, CacheEvent::Stored(event)), []);
        }
        let adapter = BlocksStored { lora_name: Some("sql".into()), ..stored(&[12], None, &[1, 2]) };
        let name = token_blocks(Some("sql"), &[1, 2], 2).next().unwrap();
        assert_eq!(changes(&mut ledger, CacheEvent::Stored(adapter)), [Change::Held(name)]);
        assert!(ledger.knows_adapter("sql"));
        assert_ne!(name, token_blocks(None, &[1, 2], 2).next().unwrap());
        let other_group = BlocksRemoved { hashes: vec![12], group: Some(1), ..BlocksRemoved::default() };
        assert_eq!(changes(&mut ledger, CacheEvent::Removed(other_group)), []);
    }
}
