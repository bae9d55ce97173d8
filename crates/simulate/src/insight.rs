//! What a workload asks of a fleet's caches, known before anything runs.
//!
//! Affinity pays where the working set fits into all caches together and not into one. The numbers here, the
//! working set, the cache of one replica and the cache of all, say in advance what routing can win.
//!
//! Blocks are remembered by their hashes. Beyond a million of them only a sample is kept, chosen by hash: of the
//! blocks that remain, every use is seen.

use std::collections::HashSet;

use engine::Profile;
use protocol::BLOCK_TOKENS;

use crate::PromptHashes;

/// Blocks kept before the sample is halved.
const MOST_BLOCKS: usize = 1 << 20;

/// Cache demand of a workload beside the cache of a fleet.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Demand {
    /// Requests looked at.
    pub requests: u64,
    /// Prompt tokens of all requests.
    pub prompt_tokens: u64,
    /// Tokens of the distinct blocks of prompts and, as far as they are known, answers: what a cache must hold to miss
    /// nothing twice.
    pub working_set_tokens: u64,
    /// Prompt and output of the longest request.
    pub longest_tokens: u32,
    /// Share of prompt tokens that a cache without limits would hold when they are asked for.
    pub best_hit_ratio: f64,
    /// Cache of the smallest replica.
    pub replica_capacity_tokens: u64,
    /// Cache of all replicas together.
    pub fleet_capacity_tokens: u64,
}

impl Demand {
    /// Counts the blocks of prompts with the lengths of their answers, in the order in which they are sent, against the
    /// caches of `profiles`; `warm` ones were sent all before.
    pub fn of(
        requests: impl IntoIterator<Item = (PromptHashes, u32)>,
        profiles: &[Profile],
        warm: bool,
    ) -> Self {
        Self::counted(requests, profiles, warm, MOST_BLOCKS)
    }

    fn counted(
        requests: impl IntoIterator<Item = (PromptHashes, u32)>,
        profiles: &[Profile],
        warm: bool,
        most_blocks: usize,
    ) -> Self {
        let mut demand = Self::default();
        let mut seen = HashSet::new();
        let (mut hits, mut halvings) = (0.0, 0_u32);
        // No engine takes less of a prompt than a block of its own.
        let parts = profiles.iter().map(|profile| profile.block_tokens as usize / BLOCK_TOKENS).min();
        let parts = parts.unwrap_or(1).max(1) as f64;
        for (prompt, output) in requests {
            demand.requests += 1;
            demand.longest_tokens = demand.longest_tokens.max(prompt.tokens.saturating_add(output));
            demand.prompt_tokens += u64::from(prompt.tokens);
            let asked = prompt.looked_up();
            let found = if warm { asked.len() as f64 } else { held(asked, &seen, halvings) };
            hits += (found / parts).floor() * parts;
            let computed = prompt.computed(output).iter().copied();
            seen.extend(computed.filter(|block| in_sample(*block, halvings)));
            while seen.len() > most_blocks && halvings < 31 {
                halvings += 1;
                seen.retain(|block| in_sample(*block, halvings));
            }
        }
        demand.working_set_tokens = ((seen.len() * BLOCK_TOKENS) as u64) << halvings;
        demand.best_hit_ratio = hits * BLOCK_TOKENS as f64 / demand.prompt_tokens.max(1) as f64;
        let capacity = Profile::kv_tokens;
        demand.replica_capacity_tokens = profiles.iter().map(capacity).min().unwrap_or(0);
        demand.fleet_capacity_tokens = profiles.iter().map(capacity).sum();
        demand
    }
}

/// How many blocks were seen before. A block stands for all before it, so the end of what was seen lies between the
/// last sampled block that was and the next one that was not: exactly there, or in the middle.
fn held(blocks: &[u64], seen: &HashSet<u64>, halvings: u32) -> f64 {
    let mut sampled = (0..).zip(blocks).filter(|(_, block)| in_sample(**block, halvings));
    let mut least = 0_u32;
    let most = loop {
        match sampled.next() {
            Some((at, block)) if seen.contains(block) => least = at + 1,
            Some((at, _)) => break at,
            None => break blocks.len() as u32,
        }
    };
    f64::from(least + most) / 2.0
}

/// Half of all blocks are in the sample after each halving.
fn in_sample(block: u64, halvings: u32) -> bool {
    halvings == 0 || block.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - halvings) == 0
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    /// Conversations of four turns, 10 blocks longer each, all after one preamble of 20 blocks.
    fn prompts() -> impl Iterator<Item = (PromptHashes, u32)> {
        (0..2000_u64).map(|request| {
            let (conversation, turn) = (request % 500, request / 500 + 1);
            let own = |block: u64| if block < 20 { block } else { conversation << 32 | block };
            let blocks = (0..20 + turn * 10).map(|at| xxh3_64(&own(at).to_le_bytes()));
            let blocks: std::sync::Arc<[u64]> = blocks.collect();
            (
                PromptHashes {
                    tokens: blocks.len() as u32 * 16 + 1,
                    with_answer: std::sync::Arc::clone(&blocks),
                    blocks,
                    prefix: None,
                },
                9,
            )
        })
    }

    #[test]
    fn the_demand_is_counted_exactly_while_it_is_small() {
        let demand = Demand::of(prompts(), &[Profile::l4(), Profile::rtx4090()], false);
        assert_eq!(demand.longest_tokens, 60 * 16 + 10);
        assert_eq!(demand.working_set_tokens, (20 + 500 * 40) * 16);
        let hits = 16 * (20 * 499 + 500 * (30 + 40 + 50));
        assert_eq!(demand.best_hit_ratio, f64::from(hits) / demand.prompt_tokens as f64);
        assert_eq!(
            (demand.replica_capacity_tokens, demand.fleet_capacity_tokens),
            (2588 * 16, (2588 + 4134) * 16)
        );
    }

    #[test]
    fn a_sample_estimates_the_same() {
        let (whole, sample) = (
            Demand::of(prompts(), &[Profile::l4()], false),
            Demand::counted(prompts(), &[Profile::l4()], false, 3000),
        );
        let close =
            |sample: f64, whole: f64| assert!((sample / whole - 1.0).abs() < 0.05, "{sample} for {whole}");
        close(sample.working_set_tokens as f64, whole.working_set_tokens as f64);
        close(sample.best_hit_ratio, whole.best_hit_ratio);
    }
}
