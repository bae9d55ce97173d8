//! A request as policies see it: hashes and lengths, no text.

use crate::{
    Replica,
    outputs::{Expected, Outputs},
};

/// Longer prompts and answers count as this long; no engine takes them.
pub(crate) const MOST_TOKENS: u32 = 1 << 22;

/// What a pick may depend on. Absent parts make a policy fall back to load; they never fail a pick. Lengths above
/// four million tokens (2^22) count as that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query<'a> {
    /// The adapter, if the request names one. Only replicas that have it are candidates.
    pub adapter: Option<&'a str>,
    /// Hash of the adapter and the routing prefix, for `prefix_hash`. See [`prefix_key`](crate::prefix_key).
    pub prefix_key: Option<u64>,
    /// Hash of the session name, for `session`.
    pub session_key: Option<u64>,
    /// Chained hashes of the full prompt blocks, first block first, for `prefix_aware`.
    pub blocks: &'a [u64],
    /// Tokens in one block.
    pub block_tokens: u32,
    /// Prompt length, estimated or exact.
    pub prompt_tokens: u32,
    /// Output length, where it is known or limited (`max_tokens`).
    pub output_tokens: Option<u32>,
    /// Replicas that this request was already tried on, by [`Replica::id`].
    pub tried: &'a [u64],
}

impl Query<'_> {
    /// What to expect of the answer.
    pub(crate) fn expected(&self, outputs: &Outputs) -> Expected {
        let limit = self.output_tokens.map(|tokens| tokens.min(MOST_TOKENS));
        // The last block stands for all of them; what follows it is as good as its length.
        let prompt = self.blocks.last().map(|last| last ^ u64::from(self.prompt_tokens).rotate_right(16));
        outputs.expect(limit, prompt)
    }

    /// Whether every replica may serve this request.
    pub(crate) fn is_for_any(&self) -> bool {
        self.tried.is_empty() && self.adapter.is_none()
    }

    /// Whether `replica` may serve this request: it has the adapter and was not tried.
    #[inline]
    pub fn admits(&self, replica: &Replica) -> bool {
        !self.tried.contains(&replica.id)
            && self.adapter.is_none_or(|adapter| replica.spec.has_adapter(adapter))
    }
}
