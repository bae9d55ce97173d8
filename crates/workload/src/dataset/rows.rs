//! What rows of different files have in common.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{MAX_PROMPT_TOKENS, MAX_SECONDS, Prompt, Request, RequestTemplate};

/// Tails of rows without block ids to the end.
const ROW_TAIL: u64 = 0b10 << 62;
/// A name that is written as text or as a number.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq)]
#[serde(untagged)]
pub(super) enum Name {
    Number(i64),
    Text(String),
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        match name {
            Name::Number(number) => number.to_string(),
            Name::Text(text) => text,
        }
    }
}

/// A time of a file.
pub(super) fn time(seconds: f64) -> Result<Duration, String> {
    if (0.0..=MAX_SECONDS).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("a time of {seconds} s; times run from 0 to {MAX_SECONDS:e} s"))
    }
}

/// A time of a file in milliseconds.
pub(super) fn time_ms(milliseconds: f64) -> Result<Duration, String> {
    time(milliseconds / 1e3)
}

/// A request that is known by its lengths and block ids; `row` makes the rest of its text unique.
pub(super) fn counted(
    template: &RequestTemplate,
    ids: Arc<[u64]>,
    block_tokens: u32,
    tokens: u32,
    row: u64,
) -> Result<Request, String> {
    if tokens > MAX_PROMPT_TOKENS {
        return Err(format!("a prompt of {tokens} tokens; at most {MAX_PROMPT_TOKENS} are sent"));
    }
    let tail = ROW_TAIL | row;
    let mut request =
        template.request(Prompt::Blocks { ids, with_answer: false, block_tokens, tokens, tail });
    request.input_tokens = Some(tokens);
    Ok(request)
}

/// A request whose body is finished. Whether it streams, and its model, stand in the body.
pub(super) fn finished(template: &RequestTemplate, body: &RawValue) -> Result<Request, String> {
    #[derive(Deserialize)]
    struct Known {
        #[serde(default)]
        stream: bool,
        model: Option<String>,
    }
    let known: Known = serde_json::from_str(body.get()).map_err(|error| format!("the body: {error}"))?;
    let mut request = template.request(Prompt::Raw(body.get().as_bytes().into()));
    request.stream = known.stream;
    if let Some(model) = known.model {
        request.model = model.into();
    }
    Ok(request)
}
