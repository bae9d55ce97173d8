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
    /// Length.
    pub tokens: u32,
    /// Stands for the first hundred characters, which reach into the second block.
    pub prefix: u64,
}

impl PromptHashes {
    /// Derives the hashes of a request. Trace blocks keep their ids; text is cut by the common token rule.
    pub fn of(request: &Request) -> Self {
        match &request.prompt {
            Prompt::Blocks { ids, block_tokens, tokens, tail } => {
                Self::of_trace(ids, *block_tokens, *tokens, *tail)
            }
            Prompt::Text(text) => Self::of_text(&request.model, text.as_bytes(), request.input_tokens),
            Prompt::Messages(messages) => {
                let mut text = Vec::new();
                for message in messages.iter() {
                    text.extend_from_slice(message.role.as_bytes());
                    text.push(0);
                    text.extend_from_slice(message.content.as_bytes());
                    text.push(0);
                }
                Self::of_text(&request.model, &text, request.input_tokens)
            }
            Prompt::Raw(body) => Self::of_text(&request.model, body, request.input_tokens),
        }
    }

    fn of_trace(ids: &[u64], block_tokens: u32, tokens: u32, tail: u64) -> Self {
        let small = BLOCK_TOKENS as u64;
        let parts = (u64::from(block_tokens) / small).max(1);
        let full = u64::from(tokens) / small;
        let blocks: Arc<[u64]> = if parts == 1 {
            ids.iter().take(full as usize).map(|id| xxh3_64_with_seed(&id.to_le_bytes(), small)).collect()
        } else {
            ids.iter()
                .flat_map(|id| (0..parts).map(move |part| xxh3_64_with_seed(&id.to_le_bytes(), part)))
                .take(full as usize)
                .collect()
        };
        Self { prefix: prefix(&blocks, tail), blocks, tokens }
    }

    fn of_text(model: &str, text: &[u8], tokens: Option<u32>) -> Self {
        let mut blocks = Vec::new();
        block_hashes(model.as_bytes(), text, &mut blocks);
        let tokens = tokens.unwrap_or_else(|| estimate_tokens(text.len())).max(1);
        blocks.truncate(tokens as usize / BLOCK_TOKENS);
        let tail = xxh3_64(&text[text.len() - text.len() % BLOCK_BYTES..]);
        Self { prefix: prefix(&blocks, tail), blocks: blocks.into(), tokens }
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
