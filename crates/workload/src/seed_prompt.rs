//! Prompts of which only lengths and block ids are known.
//!
//! Counted from real conversations: no text, but which prompts share how long a prefix, which share their first
//! hundred characters, and how long prompts and answers are. That is all a router or an engine reacts to. Text
//! is made from the ids ([`render_blocks`](crate::render_blocks)): blocks of 16 tokens, equal where the ids are.
//!
//! The first hundred characters reach into the second block, and shorter prompts end before it. So the words
//! that follow the last full block ([`SeedPrompt::tail`]) are chosen such that the first hundred characters of
//! two texts are equal exactly where [`SeedPrompt::first_100_chars`] is. (Where two prompts agree in both their
//! first blocks, 128 characters of text, but not in the number, the blocks win.)

use std::{collections::HashMap, path::Path, sync::Arc};

use protocol::BLOCK_TOKENS;
use serde::Deserialize;

use crate::{
    Error, Prompt, Request, RequestTemplate, Turn, lines::for_each_record, words::MAX_PROMPT_TOKENS,
};

/// Full tokens in the first hundred characters.
const FIRST_100_CHARS_TOKENS: usize = 25;
/// Tails that belong to one prompt.
const OWN_TAIL: u64 = 0b10 << 62;
/// Tails shared by all prompts with the same first hundred characters.
const COMMON_TAIL: u64 = 0b11 << 62;

/// One prompt, counted.
#[derive(Clone, Debug)]
pub struct SeedPrompt {
    /// The conversation that it is taken from.
    pub conversation: u32,
    /// Messages in the prompt.
    pub turn: u32,
    /// Prompt length.
    pub input_tokens: u32,
    /// Length of the recorded answer.
    pub output_tokens: u32,
    /// Equal numbers mean equal first hundred characters.
    pub first_100_chars: u32,
    /// One id for each full block of 16 tokens; equal ids mean equal content so far.
    pub hash_ids: Arc<[u64]>,
    /// Names the text after the last full block.
    pub tail: u64,
}

/// A line of a prompt file.
#[derive(Deserialize)]
pub(crate) struct SeedRow {
    pub(crate) conversation: u32,
    pub(crate) turn: u32,
    #[serde(rename = "input_length")]
    pub(crate) input_tokens: u32,
    #[serde(rename = "output_length")]
    pub(crate) output_tokens: u32,
    pub(crate) first_100_chars: u32,
    pub(crate) hash_ids: Vec<u64>,
}

/// Reads a file of JSON lines, plain or gzipped, with the columns `conversation`, `turn`, `input_length`,
/// `output_length`, `first_100_chars` and `hash_ids` (blocks of 16 tokens, the partial last one without an id).
pub fn read_seed_prompts(path: &Path) -> Result<Vec<SeedPrompt>, Error> {
    let mut rows: Vec<SeedRow> = Vec::new();
    for_each_record(path, |line, row: SeedRow| {
        if row.input_tokens > MAX_PROMPT_TOKENS {
            return Err(Error::line(path, line, format_args!("input_length is over {MAX_PROMPT_TOKENS}")));
        }
        if row.hash_ids.len() != row.input_tokens as usize / BLOCK_TOKENS {
            let problem = "hash_ids does not have one id for each full block of 16 tokens of input_length";
            return Err(Error::line(path, line, problem));
        }
        rows.push(row);
        Ok(())
    })?;
    if rows.is_empty() {
        return Err(Error::file(path, "no prompts in it"));
    }
    Ok(with_tails(rows))
}

/// One session a conversation, its turns in order, in the order in which the conversations first appear. With
/// `preamble_tokens`, every prompt starts with the same words, rounded up to whole blocks.
pub fn seed_sessions(
    prompts: &[SeedPrompt],
    template: &RequestTemplate,
    preamble_tokens: u32,
) -> Vec<Vec<Turn>> {
    let blocks = u64::from(preamble_tokens).div_ceil(BLOCK_TOKENS as u64);
    let preamble: Vec<u64> =
        (0..blocks).map(|block| COMMON_TAIL | u64::from(u32::MAX) << 28 | block).collect();
    let mut places = HashMap::new();
    let mut sessions: Vec<Vec<&SeedPrompt>> = Vec::new();
    for prompt in prompts {
        let place = *places.entry(prompt.conversation).or_insert_with(|| {
            sessions.push(Vec::new());
            sessions.len() - 1
        });
        sessions[place].push(prompt);
    }
    let turns = |mut prompts: Vec<&SeedPrompt>| {
        prompts.sort_by_key(|prompt| prompt.turn);
        prompts.into_iter().map(|prompt| Turn::from(prompt.request_after(&preamble, template))).collect()
    };
    sessions.into_iter().map(turns).collect()
}

impl SeedPrompt {
    /// The request that asks for the recorded answer's length.
    pub fn request(&self, template: &RequestTemplate) -> Request {
        self.request_after(&[], template)
    }

    fn request_after(&self, preamble: &[u64], template: &RequestTemplate) -> Request {
        let ids = if preamble.is_empty() {
            self.hash_ids.clone()
        } else {
            preamble.iter().chain(self.hash_ids.iter()).copied().collect()
        };
        let tokens = self.input_tokens + (preamble.len() * BLOCK_TOKENS) as u32;
        let prompt = Prompt::Blocks {
            ids,
            with_answer: false,
            block_tokens: BLOCK_TOKENS as u32,
            tokens,
            tail: self.tail,
        };
        let mut request = template.request(prompt);
        request.input_tokens = Some(tokens);
        request.output_tokens = Some(self.output_tokens);
        request
    }
}

/// Chooses the tails; see the module's head.
pub(crate) fn with_tails(rows: Vec<SeedRow>) -> Vec<SeedPrompt> {
    // What follows a prompt that ends within its first hundred characters, in a longer prompt that shares them.
    let mut continuations: HashMap<(u32, Option<u64>), u64> = HashMap::new();
    for row in &rows {
        for (place, &id) in
            row.hash_ids.iter().enumerate().take(FIRST_100_CHARS_TOKENS.div_ceil(BLOCK_TOKENS))
        {
            let before = place.checked_sub(1).map(|before| row.hash_ids[before]);
            continuations.entry((row.first_100_chars, before)).or_insert(id);
        }
    }
    let tail = |row: &SeedRow| {
        if row.hash_ids.len() * BLOCK_TOKENS >= FIRST_100_CHARS_TOKENS {
            return OWN_TAIL | u64::from(row.conversation) << 30 | u64::from(row.turn);
        }
        let key = (row.first_100_chars, row.hash_ids.last().copied());
        continuations.get(&key).copied().unwrap_or(COMMON_TAIL | u64::from(row.first_100_chars))
    };
    rows.into_iter()
        .map(|row| SeedPrompt {
            tail: tail(&row),
            conversation: row.conversation,
            turn: row.turn,
            input_tokens: row.input_tokens,
            output_tokens: row.output_tokens,
            first_100_chars: row.first_100_chars,
            hash_ids: row.hash_ids.into(),
        })
        .collect()
}
