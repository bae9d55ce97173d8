//! Prompts as hashes: what routers and engines need of a prompt when nobody sends text.

use std::sync::Arc;

use protocol::{BLOCK_BYTES, BLOCK_TOKENS, block_hashes, estimate_tokens};
use workload::{Prompt, Request};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// A prompt's blocks and length.
#[derive(Clone, Debug)]
pub struct PromptHashes {
    /// Chained hashes of the full blocks of 16 tokens.
    pub blocks: Arc<[u64]>,
    /// The same of prompt and answer, as far as the latter is known.
    pub with_answer: Arc<[u64]>,
    /// Length; at least 1.
    pub tokens: u32,
    /// Stands for the first hundred characters, which reach into the second block. Absent where a balancer saw none.
    pub prefix: Option<u64>,
}

/// Output of a request that does not say its length.
const UNSAID_OUTPUT: u32 = 128;

/// What was said in a session so far, for turns that add to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    text: Vec<u8>,
    tokens: u32,
}

impl History {
    /// What a turn's prompt is, after all that was said before; its answer, of `output` tokens, is said then too. A whole
    /// prompt begins anew.
    pub(crate) fn turn(
        &mut self,
        request: &Request,
        session: u64,
        output: u32,
        goes_on: bool,
    ) -> PromptHashes {
        if request.is_whole {
            *self = Self::default();
        }
        let mut hashes = match &request.prompt {
            Prompt::Blocks { ids, with_answer, block_tokens, tokens, tail } if request.is_whole => {
                PromptHashes::of_trace(ids, *with_answer, *block_tokens, *tokens, *tail)
            }
            Prompt::Blocks { tokens, .. } => {
                self.said(request.text(&[]).as_bytes(), Some(*tokens));
                PromptHashes::of_text(&request.model, &self.text, self.tokens)
            }
            Prompt::Raw(body) => {
                let tokens = request.input_tokens.unwrap_or_else(|| estimate_tokens(body.len()));
                PromptHashes::of_text(&request.model, body, tokens)
            }
            Prompt::Text(text) => {
                self.said(text.as_bytes(), request.input_tokens);
                PromptHashes::of_text(&request.model, &self.text, self.tokens)
            }
            Prompt::Messages(messages) => {
                let mut text = Vec::new();
                for message in messages.iter() {
                    text.extend_from_slice(message.role.as_bytes());
                    text.push(0);
                    text.extend_from_slice(message.content.as_bytes());
                    text.push(0);
                }
                self.said(&text, request.input_tokens);
                PromptHashes::of_text(&request.model, &self.text, self.tokens)
            }
        };
        if goes_on && !self.text.is_empty() {
            self.answered(session, output);
            hashes.with_answer = PromptHashes::of_text(&request.model, &self.text, self.tokens).blocks;
        }
        if let Some(seen) = request.seen {
            hashes.prefix = seen.prefix_key;
        }
        hashes
    }

    /// The answer to the last turn is made up: its length is known, and that it differs from others.
    fn answered(&mut self, session: u64, tokens: u32) {
        let words = (u64::from(tokens) * (BLOCK_BYTES / BLOCK_TOKENS) as u64).div_ceil(8);
        let start = self.text.len() as u64;
        for word in 0..words {
            self.text.extend(xxh3_64_with_seed(&(start + word).to_le_bytes(), session).to_le_bytes());
        }
        self.tokens = self.tokens.saturating_add(tokens);
    }

    fn said(&mut self, text: &[u8], tokens: Option<u32>) {
        self.text.extend_from_slice(text);
        self.tokens = self.tokens.saturating_add(tokens.unwrap_or_else(|| estimate_tokens(text.len())));
    }
}

/// Length of the answer to a request.
pub(crate) fn output_tokens(request: &Request) -> u32 {
    request.output_tokens.unwrap_or(UNSAID_OUTPUT).max(1)
}

impl PromptHashes {
    /// Prompt and answer as an engine knows them whose blocks have `block_tokens` tokens, a multiple of 16: hashes are
    /// chained, so that the last one of its small blocks stands for each.
    pub(crate) fn engine_blocks(&self, block_tokens: u32) -> Arc<[u64]> {
        match block_tokens as usize / BLOCK_TOKENS {
            0 | 1 => Arc::clone(&self.with_answer),
            parts => self.with_answer.iter().skip(parts - 1).step_by(parts).copied().collect(),
        }
    }

    /// Blocks that a cache is asked for: an engine computes at least the prompt's last token, so that one which ends
    /// there is never taken.
    pub(crate) fn looked_up(&self) -> &[u64] {
        self.within(self.tokens)
    }

    /// Blocks that a cache has after an answer of so many tokens, whose last one is never computed.
    pub(crate) fn computed(&self, output_tokens: u32) -> &[u64] {
        self.within(self.tokens.saturating_add(output_tokens))
    }

    /// Full blocks before the last of so many tokens.
    fn within(&self, tokens: u32) -> &[u64] {
        let full = tokens.saturating_sub(1) as usize / BLOCK_TOKENS;
        &self.with_answer[..full.min(self.with_answer.len())]
    }

    /// Cuts a trace's blocks, whatever their size, into those of 16 tokens: one is known by the ids that it lies in, by
    /// where it begins in the first of them, and by the block before it.
    fn of_trace(ids: &[u64], with_answer: bool, block_tokens: u32, tokens: u32, tail: u64) -> Self {
        let (small, size) = (BLOCK_TOKENS as u64, u64::from(block_tokens.max(1)));
        let block = |number: u64| {
            let (first, last) = (number * small / size, (number * small + small - 1) / size);
            let place = if size == small { small } else { number * small % size / small };
            ids[first as usize..=last as usize]
                .iter()
                .fold(place, |hash, id| xxh3_64_with_seed(&id.to_le_bytes(), hash))
        };
        let known = ids.len() as u64 * size / small;
        let in_prompt = known.min(u64::from(tokens) / small);
        // A key stays the same whether ids are chained, as those of Mooncake are, or not; a place in a cache does not.
        let first: Vec<u64> = (0..in_prompt.min(2)).map(block).collect();
        let chained = (0..if with_answer { known } else { in_prompt }).scan(None, |before, number| {
            let own = block(number);
            *before = Some(before.map_or(own, |before| xxh3_64_with_seed(&own.to_le_bytes(), before)));
            *before
        });
        let all: Arc<[u64]> = chained.collect();
        let blocks = match with_answer {
            true => all[..in_prompt as usize].into(),
            false => Arc::clone(&all),
        };
        Self { prefix: Some(prefix(&first, tail)), blocks, with_answer: all, tokens: tokens.max(1) }
    }

    fn of_text(model: &str, text: &[u8], tokens: u32) -> Self {
        let tokens = tokens.max(1);
        let mut blocks = Vec::new();
        block_hashes(model.as_bytes(), text, &mut blocks);
        blocks.truncate(tokens as usize / BLOCK_TOKENS);
        let tail = xxh3_64(&text[text.len() - text.len() % BLOCK_BYTES..]);
        let blocks: Arc<[u64]> = blocks.into();
        Self { prefix: Some(prefix(&blocks, tail)), with_answer: Arc::clone(&blocks), blocks, tokens }
    }
}

/// Text of two blocks or more is known by its second block, shorter text by everything it has.
fn prefix(blocks: &[u64], tail: u64) -> u64 {
    match blocks {
        [_, second, ..] => *second,
        [first] => xxh3_64_with_seed(&tail.to_le_bytes(), *first),
        [] => tail,
    }
}

#[cfg(test)]
mod tests {
    use protocol::Endpoint;

    use super::*;

    fn text(text: &str) -> Request {
        Request::new(Endpoint::Completions, "m", Prompt::Text(text.into()))
    }

    #[test]
    fn a_turn_is_asked_with_all_that_was_said_before() {
        let mut history = History::default();
        let first = history.turn(&text(&"a".repeat(200)), 7, 100, true);
        let second = history.turn(&text(&"b".repeat(80)), 7, 9, false);
        assert_eq!((first.tokens, second.tokens), (50, 50 + 100 + 20));
        assert_eq!(first.blocks.len(), 3);
        assert!(second.blocks.starts_with(&first.blocks) && second.blocks.len() == 10);
        assert_eq!(
            first.with_answer[..],
            second.blocks[..(50 + 100) / 16],
            "what was answered is asked again"
        );
        let mut other = History::default();
        other.turn(&text(&"a".repeat(200)), 8, 100, true);
        let elsewhere = other.turn(&text(&"b".repeat(80)), 8, 9, false);
        assert_eq!(second.blocks[..3], elsewhere.blocks[..3]);
        assert_ne!(second.blocks[4], elsewhere.blocks[4], "another session got another answer");
    }

    #[test]
    fn large_trace_blocks_are_cut_into_small_ones() {
        let ids: Arc<[u64]> = [5, 9].into();
        let request = |tokens| {
            let prompt = Prompt::Blocks {
                ids: Arc::clone(&ids),
                with_answer: false,
                block_tokens: 512,
                tokens,
                tail: 0,
            };
            History::default().turn(&Request::new(Endpoint::Completions, "m", prompt), 0, 1, false)
        };
        let (long, short) = (request(1000), request(600));
        assert_eq!((long.blocks.len(), short.blocks.len()), (62, 37));
        assert!(long.blocks.starts_with(&short.blocks));
    }

    #[test]
    fn trace_blocks_of_any_size_share_what_they_share() {
        // 8, 16, 24, 100 and 512 tokens a block: of 960 tokens, as many as whole blocks cover are the same.
        for size in [8, 16, 24, 100, 512_u32] {
            let shared = 480 / size * size;
            let request = |own: u64| {
                let ids = (0..960_u32.div_ceil(size)).map(|block| match block * size < shared {
                    true => u64::from(block),
                    false => own << 32 | u64::from(block),
                });
                let prompt = Prompt::Blocks {
                    ids: ids.collect(),
                    with_answer: false,
                    block_tokens: size,
                    tokens: 960,
                    tail: 0,
                };
                History::default().turn(&Request::new(Endpoint::Completions, "m", prompt), 0, 1, false)
            };
            let (one, other) = (request(1), request(2));
            assert_eq!(one.blocks.len(), 60, "{size}");
            let same = one.blocks.iter().zip(&*other.blocks).take_while(|(one, other)| one == other).count();
            assert_eq!(same as u32, shared / 16, "{size}");
            let different: std::collections::HashSet<u64> = one.blocks.iter().copied().collect();
            assert_eq!(different.len(), 60, "{size}");
        }
    }

    #[test]
    fn a_trace_block_is_known_by_all_before_it_whatever_its_id() {
        let request = |ids: &[u64]| {
            let tokens = ids.len() as u32 * 16;
            let prompt =
                Prompt::Blocks { ids: ids.into(), with_answer: false, block_tokens: 16, tokens, tail: 0 };
            History::default().turn(&Request::new(Endpoint::Completions, "m", prompt), 0, 1, false)
        };
        let (one, other) = (request(&[1, 9, 9, 9]), request(&[2, 9, 9, 9]));
        let different: std::collections::HashSet<&u64> = one.blocks.iter().chain(&*other.blocks).collect();
        assert_eq!(different.len(), 8);
        assert_eq!(one.blocks[..2], request(&[1, 9]).blocks[..]);
        assert_eq!((one.looked_up().len(), one.computed(1).len(), one.computed(9).len()), (3, 4, 4));
    }

    #[test]
    fn an_engine_with_larger_blocks_knows_each_by_its_end() {
        let ids: Arc<[u64]> = (0..10).collect();
        let prompt = Prompt::Blocks { ids, with_answer: false, block_tokens: 16, tokens: 160, tail: 0 };
        let hashes = History::default().turn(&Request::new(Endpoint::Completions, "m", prompt), 0, 1, false);
        assert_eq!(hashes.engine_blocks(16), hashes.blocks);
        assert_eq!(*hashes.engine_blocks(64), [hashes.blocks[3], hashes.blocks[7]]);
    }
}
