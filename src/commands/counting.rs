//! Counts prompts and answers with the user's tokenizer, for the dialects that are given one.

use std::sync::Arc;

use loadgen::{AnswerText, CountPrompt};
use report::{Count, CountSource, Record};
use workload::Tokenizer;

/// Counts prompts before they are sent; `special`: with the tokens that the tokenizer puts around a prompt.
pub(crate) fn count_prompts(counter: Arc<Tokenizer>, special: bool) -> CountPrompt {
    Arc::new(move |request, history| counter.count(&request.text(history), special).ok())
}

/// Counts an answer; the count stands where the server gave none.
pub(crate) fn count_answer(record: &mut Record, text: &AnswerText, counter: &Tokenizer) {
    let reasoning = tokens(counter, &text.reasoning);
    let own = tokens(counter, &text.text) + reasoning;
    (record.own_output_tokens, record.own_reasoning_tokens) = (Some(own), Some(reasoning));
    if record.output_tokens.source != CountSource::Usage {
        record.output_tokens = Count { tokens: own, source: CountSource::Tokenizer };
    }
}

/// Counts the tokens of each event. One that holds no words, such as the call of a tool, keeps its one.
pub(crate) fn count_events(record: &mut Record, text: &AnswerText, counter: &Tokenizer) {
    let mut start = (0, 0);
    for (chunk, &end) in record.chunks.iter_mut().zip(&text.ends) {
        let words = [text.text.get(start.0..end.0), text.reasoning.get(start.1..end.1)];
        chunk.tokens = words.into_iter().flatten().map(|words| tokens(counter, words)).sum::<u32>().max(1);
        start = end;
    }
}

fn tokens(counter: &Tokenizer, text: &str) -> u32 {
    if text.is_empty() { 0 } else { counter.count(text, false).unwrap_or(0) }
}
