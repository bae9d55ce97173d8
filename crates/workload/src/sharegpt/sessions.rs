//! Conversations as sessions: every human message is a turn, the recorded answer gives the length to ask for, and
//! the server's own answers become the history.

use std::path::Path;

use super::{Conversations, Cut, Said, pairs::fits};
use crate::{Error, Prompt, RequestTemplate, Tokenizer, Turn};

/// Up to `limit` conversations in which human and model take turns and every pair has a moderate length; and
/// where the file is cut off, if it is and was read that far.
pub fn sharegpt_sessions(
    path: &Path,
    limit: usize,
    template: &RequestTemplate,
    tokenizer: &Tokenizer,
) -> Result<(Vec<Vec<Turn>>, Option<Cut>), Error> {
    let mut file = Conversations::open(path)?;
    let mut sessions = Vec::new();
    while sessions.len() < limit
        && let Some(conversation) = file.next()
    {
        if let Some(turns) = turns(&conversation?.messages, template, tokenizer)? {
            sessions.push(turns);
        }
    }
    if sessions.is_empty() {
        return Err(Error::file(path, "no conversation has turns of human and model of usable lengths"));
    }
    Ok((sessions, file.cut()))
}

fn turns(
    messages: &[Said],
    template: &RequestTemplate,
    tokenizer: &Tokenizer,
) -> Result<Option<Vec<Turn>>, Error> {
    let mut turns = Vec::new();
    for pair in messages.chunks_exact(2) {
        if !matches!((&*pair[0].from, &*pair[1].from), ("human" | "user", "gpt" | "assistant")) {
            return Ok(None);
        }
        let input_tokens = tokenizer.count(&pair[0].value, false)?;
        let output_tokens = tokenizer.count(&pair[1].value, false)?;
        if !fits(input_tokens, output_tokens, false) {
            return Ok(None);
        }
        let mut request = template.request(Prompt::Text(pair[0].value.as_str().into()));
        // Later prompts contain answers of unknown length.
        request.input_tokens = turns.is_empty().then_some(input_tokens);
        request.output_tokens = Some(output_tokens);
        turns.push(Turn::from(request));
    }
    Ok((!turns.is_empty()).then_some(turns))
}
