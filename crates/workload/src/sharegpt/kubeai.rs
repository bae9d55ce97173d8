//! The prompts of KubeAI's multi-turn script.
//!
//! Messages are labelled by their position, whoever said them. The shuffled list is gone through again and again,
//! in the same order, until there are enough requests. Special tokens count in both lengths.

use super::{MIN_TOKENS, Pair, Said, ShareGptSettings};
use crate::{Error, TextPrompt, Tokenizer};

const MAX_PROMPT_TOKENS: u32 = 8192;

/// A prompt for every other message: the messages up to it; the next one is its answer, if there is one.
pub(super) fn expand(messages: &[Said], pairs: &mut Vec<Pair>) {
    let mut prompt = String::new();
    for (place, said) in messages.iter().enumerate() {
        let user = place % 2 == 0;
        prompt.push_str(if user { "User: " } else { "Assistant: " });
        prompt.push_str(&said.value);
        prompt.push('\n');
        if user {
            let answer = messages.get(place + 1).map(|answer| answer.value.clone()).unwrap_or_default();
            pairs.push(Pair { prompt: prompt.clone(), answer });
        }
    }
}

/// The requests, and how many prompts no request is made of.
pub(super) fn repeat(
    pairs: &[Pair],
    settings: &ShareGptSettings,
    tokenizer: &Tokenizer,
) -> Result<(Vec<TextPrompt>, usize), Error> {
    let mut kept = Vec::new();
    let mut left_out = 0;
    for pair in pairs {
        if kept.len() == settings.requests {
            break;
        }
        let input_tokens = tokenizer.count(&pair.prompt, true)?;
        let answer_tokens = tokenizer.count(&pair.answer, true)?;
        let answer_too_short = settings.output_tokens.is_none() && answer_tokens < MIN_TOKENS;
        if answer_too_short || !(MIN_TOKENS..=MAX_PROMPT_TOKENS).contains(&input_tokens) {
            left_out += 1;
            continue;
        }
        let output_tokens = settings.output_tokens.unwrap_or(answer_tokens);
        kept.push(TextPrompt { text: pair.prompt.as_str().into(), input_tokens, output_tokens });
    }
    let requests = if settings.once { kept.len() } else { settings.requests };
    Ok((kept.iter().cycle().take(requests).cloned().collect(), left_out))
}
