//! The prompts of vLLM's benchmark: first message and first answer, of moderate lengths, the missing requests drawn
//! from those there are with the seed's generator started anew.

use super::{MIN_TOKENS, Pair, Said, ShareGptSettings};
use crate::{Error, PythonRandom, TextPrompt, Tokenizer};

const MAX_PROMPT_TOKENS: u32 = 1024;
const MAX_TOTAL_TOKENS: u32 = 2048;

/// The first two messages.
pub(super) fn expand(messages: Vec<Said>, pairs: &mut Vec<Pair>) {
    let mut messages = messages.into_iter();
    if let (Some(prompt), Some(answer)) = (messages.next(), messages.next()) {
        pairs.push(Pair { prompt: prompt.value, answer: answer.value });
    }
}

/// Whether the benchmark takes a pair of these lengths.
pub(super) fn fits(input_tokens: u32, output_tokens: u32, fixed_output: bool) -> bool {
    (fixed_output || output_tokens >= MIN_TOKENS)
        && (MIN_TOKENS..=MAX_PROMPT_TOKENS).contains(&input_tokens)
        && input_tokens.saturating_add(output_tokens) <= MAX_TOTAL_TOKENS
}

/// The requests, and how many prompts no request is made of.
pub(super) fn oversample(
    pairs: &[Pair],
    settings: &ShareGptSettings,
    tokenizer: &Tokenizer,
    random: &mut PythonRandom,
) -> Result<(Vec<TextPrompt>, usize), Error> {
    let mut prompts = Vec::new();
    let mut left_out = 0;
    for pair in pairs {
        if prompts.len() == settings.requests {
            break;
        }
        let input_tokens = tokenizer.count(&pair.prompt, true)?;
        let output_tokens = match settings.output_tokens {
            Some(tokens) => tokens,
            None => tokenizer.count(&pair.answer, true)?,
        };
        if fits(input_tokens, output_tokens, settings.output_tokens.is_some()) {
            prompts.push(TextPrompt { text: pair.prompt.as_str().into(), input_tokens, output_tokens });
        } else {
            left_out += 1;
        }
    }
    let unique = prompts.len();
    if unique < settings.requests && unique > 0 && !settings.once {
        random.restart();
        for _ in unique..settings.requests {
            prompts.push(prompts[random.below(unique)].clone());
        }
    }
    Ok((prompts, left_out))
}
