//! Which token blocks stand behind which blocks of text.
//!
//! The router cuts a prompt's text every 64 bytes, an engine cuts its tokens every 16 or so. For a prompt whose
//! tokens are known, the token at which a text block ends is found in proportion to the bytes, between the places
//! that are known: the beginning, the end, and wherever an earlier prompt of the same conversation ended. The text
//! block stands for the last token block that ends before. Both are named with all that goes before them, so what
//! was learned from one prompt holds for every prompt that begins alike, and it is never learned twice.
//!
//! The place is off by as much as the text's density varies between two known places: where it is too late, the
//! token block belongs to this prompt alone, and for others that begin alike the router's history decides as it
//! would without. Where texts are four bytes a token, as in the simulated engine, it is exact.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use protocol::{BLOCK_BYTES, BLOCK_TOKENS};

use super::ledger::token_blocks;

/// Text blocks that are kept; the oldest are forgotten for new ones. About 150 bytes each.
const MOST_BLOCKS: usize = 1 << 19;

/// What was learned so far.
#[derive(Debug, Default)]
pub(super) struct Correspondence {
    text: HashMap<u64, Known>,
    /// Text blocks by token block.
    tokens: HashMap<u64, Vec<u64>>,
    /// Text blocks, the oldest first.
    order: VecDeque<u64>,
}

#[derive(Debug)]
struct Known {
    /// Where the text block ends, in tokens.
    end: u32,
    /// The token blocks behind it, one for each size of blocks.
    tokens: Vec<u64>,
}

/// A prompt of which both sides are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prompt<'a> {
    pub(super) adapter: Option<&'a str>,
    /// Names of the blocks of its text.
    pub(super) blocks: &'a [u64],
    /// Length of its text.
    pub(super) bytes: usize,
    pub(super) tokens: &'a [u32],
}

impl Correspondence {
    /// Text blocks that are known.
    pub(super) fn blocks(&self) -> usize {
        self.text.len()
    }

    /// The text blocks for which a token block stands.
    pub(super) fn text_blocks(&self, token_block: u64) -> &[u64] {
        self.tokens.get(&token_block).map_or(&[], Vec::as_slice)
    }

    /// Whether there is nothing to learn from a prompt with these blocks.
    pub(super) fn knows(&self, blocks: &[u64]) -> bool {
        blocks.last().is_none_or(|last| self.text.contains_key(last))
    }

    /// Learns from a prompt, for engines with blocks of these sizes, and tells each pair of a text block and a
    /// token block. Returns the text blocks that were forgotten for it.
    pub(super) fn learn(
        &mut self,
        prompt: &Prompt<'_>,
        sizes: impl Iterator<Item = u32>,
        mut tell: impl FnMut(u64, u64),
    ) -> Vec<u64> {
        let mut sizes: Vec<u32> = sizes.collect();
        sizes.sort_unstable();
        sizes.dedup();
        if sizes.is_empty() {
            sizes.push(BLOCK_TOKENS as u32);
        }
        let chains: Vec<(u32, Vec<u64>)> = sizes
            .into_iter()
            .map(|size| (size, token_blocks(prompt.adapter, prompt.tokens, size).collect()))
            .collect();
        let known = prompt.blocks.iter().rposition(|block| self.text.contains_key(block));
        let (first, start) = known.map_or((0, 0), |at| {
            (at + 1, self.text.get(&prompt.blocks[at]).map_or(0, |known| known.end as usize))
        });
        let start_bytes = first * BLOCK_BYTES;
        let (bytes, tokens) =
            (prompt.bytes.saturating_sub(start_bytes), prompt.tokens.len().saturating_sub(start));
        for (at, block) in prompt.blocks.iter().enumerate().skip(first) {
            let passed = (at + 1) * BLOCK_BYTES - start_bytes;
            let end = start + passed * tokens / bytes.max(1);
            let behind = chains.iter().filter_map(|(size, chain)| {
                (end / *size as usize).checked_sub(1).and_then(|last| chain.get(last)).copied()
            });
            self.add(*block, end as u32, behind.collect(), &mut tell);
        }
        self.make_room()
    }

    fn add(&mut self, block: u64, end: u32, tokens: Vec<u64>, tell: &mut impl FnMut(u64, u64)) {
        let Entry::Vacant(entry) = self.text.entry(block) else { return };
        for token_block in &tokens {
            self.tokens.entry(*token_block).or_default().push(block);
            tell(block, *token_block);
        }
        entry.insert(Known { end, tokens });
        self.order.push_back(block);
    }

    fn make_room(&mut self) -> Vec<u64> {
        let mut forgotten = Vec::new();
        while self.text.len() > MOST_BLOCKS
            && let Some(block) = self.order.pop_front()
        {
            for token_block in self.text.remove(&block).map_or(Vec::new(), |known| known.tokens) {
                if let Entry::Occupied(mut entry) = self.tokens.entry(token_block) {
                    entry.get_mut().retain(|other| *other != block);
                    if entry.get().is_empty() {
                        entry.remove();
                    }
                }
            }
            forgotten.push(block);
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(
        correspondence: &mut Correspondence,
        blocks: &[u64],
        bytes: usize,
        tokens: &[u32],
    ) -> Vec<(u64, u64)> {
        let mut pairs = Vec::new();
        let prompt = Prompt { adapter: None, blocks, bytes, tokens };
        correspondence.learn(&prompt, [16, 16].into_iter(), |text, token| pairs.push((text, token)));
        pairs
    }

    #[test]
    fn four_bytes_a_token_are_exact() {
        let mut correspondence = Correspondence::default();
        let tokens: Vec<u32> = (0..50).collect();
        let names: Vec<u64> = token_blocks(None, &tokens, 16).collect();
        let pairs = learn(&mut correspondence, &[10, 11, 12], 199, &tokens);
        assert_eq!(pairs, [(10, names[0]), (11, names[1]), (12, names[2])]);
        assert_eq!(correspondence.text_blocks(names[1]), [11]);
        assert!(correspondence.knows(&[10, 11, 12]) && !correspondence.knows(&[10, 11, 12, 13]));
        assert_eq!(learn(&mut correspondence, &[10, 11, 12], 199, &tokens), [], "it is learned once");
    }

    #[test]
    fn sparse_texts_have_fewer_token_blocks_and_dense_ones_more() {
        let mut correspondence = Correspondence::default();
        let tokens: Vec<u32> = (0..32).collect();
        let names: Vec<u64> = token_blocks(None, &tokens, 16).collect();
        // Eight bytes a token: two text blocks are one token block.
        let pairs = learn(&mut correspondence, &[20, 21, 22, 23], 256, &tokens);
        assert_eq!(pairs, [(21, names[0]), (22, names[0]), (23, names[1])]);
        assert_eq!(correspondence.text_blocks(names[0]), [21, 22]);
        // Two bytes a token.
        let tokens: Vec<u32> = (0..64).collect();
        let names: Vec<u64> = token_blocks(None, &tokens, 16).collect();
        assert_eq!(learn(&mut correspondence, &[30, 31], 128, &tokens), [(30, names[1]), (31, names[3])]);
    }

    #[test]
    fn a_conversation_that_goes_on_is_measured_from_where_it_was() {
        let mut correspondence = Correspondence::default();
        let tokens: Vec<u32> = (0..96).collect();
        let names: Vec<u64> = token_blocks(None, &tokens, 16).collect();
        assert_eq!(learn(&mut correspondence, &[40, 41], 128, &tokens[..32]).len(), 2);
        // What was added is twice as dense, which does not move what is known.
        let pairs = learn(&mut correspondence, &[40, 41, 42, 43], 256, &tokens);
        assert_eq!(pairs, [(42, names[3]), (43, names[5])]);
    }
}
