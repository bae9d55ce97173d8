//! The token rule and the chain of prefix blocks.
//!
//! Without a tokenizer, a token is [`BYTES_PER_TOKEN`] bytes of canonical prompt text, counted from its start;
//! the last one may be shorter. The rule is deterministic and prefix-stable: two texts that agree in their
//! first `n` bytes agree in their first `n / 4` tokens. A block is [`BLOCK_TOKENS`] tokens. Blocks are chained:
//! a block's hash covers everything before it, so equal hashes mean equal prefixes, not only equal blocks.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes of canonical prompt text in one estimated token.
pub const BYTES_PER_TOKEN: usize = 4;
/// Tokens in one block, vLLM's default on GPUs.
pub const BLOCK_TOKENS: usize = 16;
/// Bytes of canonical prompt text in one full block.
pub const BLOCK_BYTES: usize = BYTES_PER_TOKEN * BLOCK_TOKENS;

/// The number of tokens in `bytes` bytes of canonical text, the partial last one included.
pub fn estimate_tokens(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX)
}

/// A running hash over blocks; each [`push`](Self::push) gives the hash of the prefix that ends there.
#[derive(Clone, Copy, Debug)]
pub struct BlockChain(u64);

impl BlockChain {
    /// Starts a chain. Prompts with different salts (model and adapter) never share a block.
    pub fn new(salt: &[u8]) -> Self {
        Self(xxh3_64(salt))
    }

    /// Appends one block and returns the hash of the whole prefix up to its end.
    pub fn push(&mut self, block: &[u8]) -> u64 {
        self.0 = xxh3_64_with_seed(block, self.0);
        self.0
    }
}

/// Appends to `hashes` one chained hash for each full block of `prompt`; the partial last block has none.
pub fn block_hashes(salt: &[u8], prompt: &[u8], hashes: &mut Vec<u64>) {
    let mut chain = BlockChain::new(salt);
    hashes.extend(prompt.chunks_exact(BLOCK_BYTES).map(|block| chain.push(block)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_prefixes_share_exactly_their_full_blocks() {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        block_hashes(b"m", &[7; 200], &mut a);
        let mut other = [7; 200];
        other[130] = 8;
        block_hashes(b"m", &other, &mut b);
        assert_eq!((a.len(), b.len()), (3, 3));
        assert_eq!(a[..2], b[..2]);
        assert_ne!(a[2], b[2]);
        assert_ne!(a[0], a[1], "equal blocks at different places have different hashes");
    }

    #[test]
    fn the_salt_separates_models() {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        block_hashes(b"base", &[1; 64], &mut a);
        block_hashes(b"adapter", &[1; 64], &mut b);
        assert_ne!(a, b);
    }

    #[test]
    fn a_partial_token_counts() {
        assert_eq!([0, 1, 4, 5].map(estimate_tokens), [0, 1, 1, 2]);
    }
}
