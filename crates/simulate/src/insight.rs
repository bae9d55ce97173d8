//! What a workload asks of a fleet's caches, known before anything runs.
//!
//! Affinity pays where the working set fits into all caches together and not into one. The three numbers here,
//! the working set, the cache of one replica and the cache of all, say in advance what routing can win.

use std::collections::HashSet;

use engine::Profile;
use protocol::BLOCK_TOKENS;

use crate::PromptHashes;

/// Cache demand of a workload beside the cache of a fleet.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Demand {
    /// Requests looked at.
    pub requests: u64,
    /// Prompt tokens of all requests.
    pub prompt_tokens: u64,
    /// Tokens of the distinct prompt blocks: what a cache must hold to miss nothing twice.
    pub working_set_tokens: u64,
    /// Share of prompt tokens that a cache without limits would hold when they are asked for.
    pub best_hit_ratio: f64,
    /// Cache of the smallest replica.
    pub replica_capacity_tokens: u64,
    /// Cache of all replicas together.
    pub fleet_capacity_tokens: u64,
}

impl Demand {
    /// Counts the blocks of `prompts`, in the order in which they are sent, against the caches of `profiles`.
    pub fn of(prompts: impl IntoIterator<Item = PromptHashes>, profiles: &[Profile]) -> Self {
        let mut demand = Self::default();
        let mut seen = HashSet::new();
        let mut hits = 0;
        for prompt in prompts {
            demand.requests += 1;
            demand.prompt_tokens += u64::from(prompt.tokens);
            // An engine computes at least the last token, so a block that ends the prompt is never taken whole.
            let usable = (prompt.tokens.saturating_sub(1) as usize / BLOCK_TOKENS).min(prompt.blocks.len());
            let held = prompt.blocks[..usable].iter().take_while(|block| seen.contains(*block)).count();
            hits += (held * BLOCK_TOKENS) as u64;
            seen.extend(prompt.blocks.iter().copied());
        }
        demand.working_set_tokens = (seen.len() * BLOCK_TOKENS) as u64;
        demand.best_hit_ratio = hits as f64 / demand.prompt_tokens.max(1) as f64;
        let capacity = Profile::kv_tokens;
        demand.replica_capacity_tokens = profiles.iter().map(capacity).min().unwrap_or(0);
        demand.fleet_capacity_tokens = profiles.iter().map(capacity).sum();
        demand
    }
}
