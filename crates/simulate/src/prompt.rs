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
    /// Stands for the first hundred characters, which reach into the second block.
    pub prefix: u64,
}

/// What was said in a session so far, for turns that add to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    text: Vec<u8>,
    tokens: u32,
}

impl History {
    /// The answer to the last turn is made up: its length is known, and that it differs from others.
    pub(crate) fn answered(&mut self, session: u64, tokens: u32) {
        if self.text.is_empty() {
            return;
        }
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

impl PromptHashes {
    /// Derives the hashes of the first request of a session. Trace blocks keep their ids; text is cut by the
    /// common token rule.
    pub fn of(request: &Request) -> Self {
        Self::after(request, &mut History::default())
    }

    /// The same for a later turn: texts and messages add to what was said, other prompts are whole.
    pub(crate) fn after(request: &Request, history: &mut History) -> Self {
        match &request.prompt {
            Prompt::Blocks { ids, block_tokens, tokens, tail } => {
                Self::of_trace(ids, *block_tokens, *tokens, *tail)
            }
            Prompt::Raw(body) => {
                let tokens = request.input_tokens.unwrap_or_else(|| estimate_tokens(body.len()));
                Self::of_text(&request.model, body, tokens)
            }
            Prompt::Text(text) => {
                history.said(text.as_bytes(), request.input_tokens);
                Self::of_text(&request.model, &history.text, history.tokens)
            }
            Prompt::Messages(messages) => {
                let mut text = Vec::new();
                for message in messages.iter() {
                    text.extend_from_slice(message.role.as_bytes());
                    text.push(0);
                    text.extend_from_slice(message.content.as_bytes());
                    text.push(0);
                }
                history.said(&text, request.input_tokens);
                Self::of_text(&request.model, &history.text, history.tokens)
            }
        }
    }

    fn of_trace(ids: &[u64], block_tokens: u32, tokens: u32, tail: u64) -> Self {
        let small = BLOCK_TOKENS as u64;
        let parts = (u64::from(block_tokens) / small).max(1);
        let full = u64::from(tokens) / small;
        let all = || {
            ids.iter().flat_map(move |id| {
                (0..parts).map(move |part| {
                    xxh3_64_with_seed(&id.to_le_bytes(), if parts == 1 { small } else { part })
                })
            })
        };
        let blocks: Arc<[u64]> = all().take(full as usize).collect();
        // Ids beyond the prompt's last, partial block are the answer's.
        let goes_on = ids.len() as u64 > u64::from(tokens).div_ceil(small * parts);
        let with_answer = if goes_on { all().collect() } else { Arc::clone(&blocks) };
        Self { prefix: prefix(&blocks, tail), blocks, with_answer, tokens: tokens.max(1) }
    }

    fn of_text(model: &str, text: &[u8], tokens: u32) -> Self {
        let tokens = tokens.max(1);
        let mut blocks = Vec::new();
        block_hashes(model.as_bytes(), text, &mut blocks);
        blocks.truncate(tokens as usize / BLOCK_TOKENS);
        let tail = xxh3_64(&text[text.len() - text.len() % BLOCK_BYTES..]);
        let blocks: Arc<[u64]> = blocks.into();
        Self { prefix: prefix(&blocks, tail), with_answer: Arc::clone(&blocks), blocks, tokens }
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
        let first = PromptHashes::after(&text(&"a".repeat(200)), &mut history);
        history.answered(7, 100);
        let second = PromptHashes::after(&text(&"b".repeat(80)), &mut history);
        assert_eq!((first.tokens, second.tokens), (50, 50 + 100 + 20));
        assert_eq!(first.blocks.len(), 3);
        assert!(second.blocks.starts_with(&first.blocks) && second.blocks.len() == 10);
        let mut other = History::default();
        PromptHashes::after(&text(&"a".repeat(200)), &mut other);
        other.answered(8, 100);
        let elsewhere = PromptHashes::after(&text(&"b".repeat(80)), &mut other);
        assert_eq!(second.blocks[..3], elsewhere.blocks[..3]);
        assert_ne!(second.blocks[4], elsewhere.blocks[4], "another session got another answer");
    }

    #[test]
    fn large_trace_blocks_are_cut_into_small_ones() {
        let ids: Arc<[u64]> = [5, 9].into();
        let request = |tokens| {
            let prompt = Prompt::Blocks { ids: Arc::clone(&ids), block_tokens: 512, tokens, tail: 0 };
            PromptHashes::of(&Request::new(Endpoint::Completions, "m", prompt))
        };
        let (long, short) = (request(1000), request(600));
        assert_eq!((long.blocks.len(), short.blocks.len()), (62, 37));
        assert!(long.blocks.starts_with(&short.blocks));
    }
}
