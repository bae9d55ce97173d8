//! What goes into the scheduler and what comes out of it.

use std::{sync::Arc, time::Duration};

/// A request, as the scheduler sees it: lengths and hashes, no text.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Names the request in events. The caller keeps it unique among the requests that have not ended.
    pub id: u64,
    /// One chained hash for each full block of the prompt and, where it is known beforehand, of prompt and
    /// output; chained, so no two are equal. Blocks beyond the last hash are private: they are never found by another
    /// request.
    pub block_hashes: Arc<[u64]>,
    /// Prompt length; 0 counts as 1.
    pub prompt_tokens: u32,
    /// It will generate exactly as many; with 0 it ends when its prompt has been computed.
    pub output_tokens: u32,
    /// Number of its LoRA adapter; 0 is the base model.
    pub adapter: u32,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The first output token.
    FirstToken {
        /// The request.
        id: u64,
        /// Prompt tokens that were found in the prefix cache.
        cached_tokens: u32,
        /// From submission until it was first admitted.
        waited: Duration,
    },
    /// Another output token.
    Token {
        /// The request.
        id: u64,
    },
    /// It has all its tokens and holds no block any more. Follows its last token.
    Finished {
        /// The request.
        id: u64,
    },
}

/// Something happened to the prefix cache.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CacheChange {
    /// Blocks of a request can be found from now on. Where a block with the same content could be found already,
    /// there are two now.
    Stored {
        /// The request.
        id: u64,
        /// Place in its list of hashes.
        first_block: u32,
        /// How many.
        blocks: u32,
    },
    /// One block with this content was given to something else.
    Removed {
        /// Its hash.
        hash: u64,
    },
    /// Nothing can be found any more.
    Cleared,
}

/// The request can never run on this engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("prompt and output have {tokens} tokens, but at most {limit} fit (max_model_len and KV memory)")]
pub struct Rejected {
    /// Prompt and output together.
    pub tokens: u64,
    /// The most that can run.
    pub limit: u64,
}

/// The state between two calls.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Snapshot {
    /// Sequences in the batch.
    pub running: u32,
    /// Sequences in the queue, preempted ones included.
    pub waiting: u32,
    /// Blocks in all.
    pub total_blocks: u32,
    /// Blocks that no sequence holds. They may hold cached content.
    pub free_blocks: u32,
}

/// What a step computes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Step {
    /// Sequences that take part.
    pub sequences: u32,
    /// Tokens whose keys and values it reads.
    pub context_tokens: u64,
    /// Tokens it computes in all.
    pub tokens: u32,
    /// Those of them that belong to prompts (or to what a preempted sequence had before), but for a last token alone.
    pub prefill_tokens: u32,
}

/// Sums since the scheduler was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Counters {
    /// Steps begun.
    pub steps: u64,
    /// Time in steps.
    pub busy: Duration,
    /// Prompt tokens of requests that were admitted, each request once: what was looked up in the cache.
    pub prefix_query_tokens: u64,
    /// Those of them that the cache held.
    pub prefix_hit_tokens: u64,
    /// Tokens computed for prompts, and again after preemptions; a prompt's last token, where a step computed it alone,
    /// is not among them.
    pub prefill_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Requests that got all their tokens.
    pub finished: u64,
    /// Requests aborted.
    pub aborted: u64,
    /// Sequences that lost their blocks to others.
    pub preemptions: u64,
    /// Cached blocks that were given to something else.
    pub evictions: u64,
}
