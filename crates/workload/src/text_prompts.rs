//! A benchmark's prompts as texts with their lengths, whatever they were made of.

use std::{collections::HashSet, sync::Arc};

use protocol::{BLOCK_BYTES, block_hashes};

use crate::{Cut, Prompt, Request, RequestTemplate};

/// The requests of a benchmark.
#[derive(Clone, Debug)]
pub struct TextPrompts {
    /// In the order in which they are sent.
    pub prompts: Vec<TextPrompt>,
    /// Conversations that prompts were made of; 0 where they were made of something else.
    pub conversations: usize,
    /// Different prompts among the requests.
    pub unique_prompts: usize,
    /// Prompts left out for their length, or their answer's.
    pub left_out: usize,
    /// Set if the file is cut off and was read that far.
    pub cut: Option<Cut>,
}

/// A prompt with its lengths.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TextPrompt {
    /// Text.
    pub text: Arc<str>,
    /// Prompt length.
    pub input_tokens: u32,
    /// Length of the answer to ask for.
    pub output_tokens: u32,
}

// === impl TextPrompts ===

impl TextPrompts {
    /// Prompts that were made one for each request.
    pub(crate) fn made(prompts: Vec<TextPrompt>) -> Self {
        let unique_prompts = prompts.len();
        Self { prompts, conversations: 0, unique_prompts, left_out: 0, cut: None }
    }

    /// The share of the prompts' text that a prefix cache without bounds, the same for all, would hold when it
    /// comes: the most that caching can spare. With `warm`, the first prompt was sent before.
    pub fn best_hit_ratio(&self, warm: bool) -> f64 {
        let (mut seen, mut hashes) = (HashSet::new(), Vec::new());
        let (mut held, mut total) = (0, 0);
        if let Some(first) = self.prompts.first().filter(|_| warm) {
            block_hashes(&[], first.text.as_bytes(), &mut hashes);
            seen.extend(hashes.iter().copied());
        }
        for prompt in &self.prompts {
            hashes.clear();
            block_hashes(&[], prompt.text.as_bytes(), &mut hashes);
            held += hashes.iter().filter(|hash| !seen.insert(**hash)).count() * BLOCK_BYTES;
            total += prompt.text.len();
        }
        held as f64 / total.max(1) as f64
    }
}

// === impl TextPrompt ===

impl TextPrompt {
    /// The request that asks for the answer's length.
    pub fn request(&self, template: &RequestTemplate) -> Request {
        let mut request = template.request(Prompt::Text(self.text.clone()));
        request.input_tokens = Some(self.input_tokens);
        request.output_tokens = Some(self.output_tokens);
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_before_could_be_cached() {
        let prompt = |bytes| TextPrompt { text: "a".repeat(bytes).into(), input_tokens: 1, output_tokens: 1 };
        let prompts = [128, 192, 192, 128].map(prompt).to_vec();
        let made = TextPrompts { prompts, conversations: 1, unique_prompts: 2, left_out: 0, cut: None };
        assert_eq!(made.best_hit_ratio(false), 7.0 / 10.0);
        assert_eq!(made.best_hit_ratio(true), 9.0 / 10.0);
    }
}
