//! One request on its way through the scheduler, and the blocks it holds.

use std::{sync::Arc, time::Duration};

use crate::{
    pool::{Block, Pool},
    scheduler::{CacheChange, Submission},
};

/// Slots are used again by later requests, with the capacity of their block list.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    pub(crate) id: u64,
    /// Contents of the first blocks; what lies beyond is never shared.
    hashes: Arc<[u64]>,
    /// Held now, in order.
    blocks: Vec<Block>,
    /// How many of them are in the cache, or would be if they had a hash.
    cached_blocks: u32,
    /// Up to so many tokens nothing changes: no block is missing, and none becomes full.
    room: u32,
    pub(crate) prompt_tokens: u32,
    pub(crate) output_tokens: u32,
    /// Prompt tokens that come from outside.
    loaded_tokens: u32,
    /// 0 is the base model.
    pub(crate) adapter: u32,
    /// Output tokens so far. They stay when the sequence is preempted.
    pub(crate) generated: u32,
    /// Tokens whose keys and values are in the blocks.
    pub(crate) computed: u32,
    /// Tokens that the step in flight computes.
    pub(crate) scheduled: u32,
    /// Prompt tokens found in the cache when the sequence was first admitted.
    pub(crate) hit_tokens: u32,
    pub(crate) submitted: Duration,
    /// From submission to the first admission.
    pub(crate) waited: Option<Duration>,
    /// To be dropped at the end of the step in flight.
    pub(crate) aborted: bool,
}

impl Sequence {
    pub(crate) fn begin(&mut self, submission: Submission, loaded_tokens: u32, now: Duration) {
        *self = Self {
            id: submission.id,
            hashes: submission.block_hashes,
            blocks: std::mem::take(&mut self.blocks),
            prompt_tokens: submission.prompt_tokens.max(1),
            output_tokens: submission.output_tokens,
            loaded_tokens,
            adapter: submission.adapter,
            submitted: now,
            ..Self::default()
        };
    }

    /// Prompt and output so far.
    pub(crate) fn tokens(&self) -> u32 {
        self.prompt_tokens + self.generated
    }

    /// Looks up the prefix and, if there is room for the sequence, takes the blocks for its first chunk of at
    /// most `budget` tokens. Says how many tokens the cache held.
    pub(crate) fn admit(&mut self, pool: &mut Pool, rules: &Rules, budget: u32) -> Option<u32> {
        debug_assert!(self.blocks.is_empty(), "only sequences without blocks are admitted");
        let mut free_hits = 0;
        let limit = (self.tokens() - 1) / rules.block_tokens;
        if rules.prefix_caching {
            for &hash in self.hashes.iter().take(limit as usize) {
                let Some(block) = pool.find(hash) else { break };
                free_hits += u32::from(pool.is_free(block));
                self.blocks.push(block);
            }
        }
        let hits = self.blocks.len() as u32;
        let hit_tokens = hits.max(limit.min(self.loaded_tokens / rules.block_tokens)) * rules.block_tokens;
        let end = hit_tokens + budget.min(self.tokens() - hit_tokens);
        let needed = if rules.reserve_prompt { self.tokens() } else { end };
        // Where hashes repeat, against the promise, a free block was counted several times: then less is free than it seems.
        if needed.div_ceil(rules.block_tokens) - hits > pool.free().saturating_sub(free_hits) {
            self.blocks.clear();
            return None;
        }
        for &block in &self.blocks {
            pool.share(block);
        }
        (self.computed, self.cached_blocks) = (hit_tokens, hits);
        self.grow(pool, rules, end);
        Some(hit_tokens)
    }

    /// Takes the blocks for the tokens up to `end` and enters the full ones into the cache, at once: a prompt
    /// that is admitted in the same step may share them. False, and nothing done, if there are not enough.
    pub(crate) fn grow(&mut self, pool: &mut Pool, rules: &Rules, end: u32) -> bool {
        if end <= self.room {
            return true;
        }
        let held = self.blocks.len() as u32;
        let missing = end.div_ceil(rules.block_tokens).saturating_sub(held);
        if missing > 0 {
            if missing > pool.free() {
                return false;
            }
            let most = rules.most_blocks.saturating_sub(held).max(missing);
            let wanted = missing.saturating_add(rules.preallocated_blocks).min(most);
            self.blocks.extend((0..wanted).map_while(|_| pool.take()));
        }
        let full = end / rules.block_tokens;
        if rules.prefix_caching && full > self.cached_blocks {
            let (id, first_block) = (self.id, self.cached_blocks);
            let new = first_block as usize..full as usize;
            let hashes = self.hashes.get(new.start..new.end.min(self.hashes.len())).unwrap_or_default();
            for (&block, &hash) in self.blocks[new].iter().zip(hashes) {
                pool.cache(block, hash);
            }
            if !hashes.is_empty() {
                pool.note(CacheChange::Stored { id, first_block, blocks: hashes.len() as u32 });
            }
            self.cached_blocks = full;
        }
        let held = (self.blocks.len() as u32).saturating_mul(rules.block_tokens);
        let becomes_full = (full + 1).saturating_mul(rules.block_tokens);
        self.room = if rules.prefix_caching { held.min(becomes_full - 1) } else { held };
        true
    }

    /// Gives all blocks back, the last one first, so that the beginning of a prompt outlives its end. What was
    /// computed is forgotten; what was generated stays.
    pub(crate) fn release(&mut self, pool: &mut Pool) {
        for block in self.blocks.drain(..).rev() {
            pool.release(block);
        }
        (self.computed, self.cached_blocks, self.room, self.scheduled) = (0, 0, 0, 0);
    }

    /// Blocks held now.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.blocks.len()
    }

    /// Ends the use of the slot.
    pub(crate) fn end(&mut self, pool: &mut Pool) {
        self.release(pool);
        self.hashes = Arc::default();
    }
}

/// The parts of the profile that decide about memory.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) block_tokens: u32,
    pub(crate) prefix_caching: bool,
    pub(crate) reserve_prompt: bool,
    pub(crate) preallocated_blocks: u32,
    /// No sequence is given more blocks beforehand than the longest possible one needs.
    pub(crate) most_blocks: u32,
}
