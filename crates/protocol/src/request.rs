//! A view of a request body: what routing, accounting and the simulated engine need, borrowed from the bytes.
//!
//! The body itself is never rewritten; this is only a look at it. The view is as tolerant as it can be without
//! guessing: unknown members are skipped, of a repeated member the last counts, and an optional member of the
//! wrong type counts as absent, because refusing it is the engine's business. What cannot be read is an error:
//! bytes that are not JSON, a `model` that is not a string, and a prompt whose text cannot be known.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use crate::{
    Endpoint,
    json::Text,
    prompt::{BatchInput, Content, Input, ItemsInput, Message, NEXT_PROMPT, close, open},
};

/// Role of the message that is about to be generated.
const ASSISTANT: &str = "assistant";

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not JSON, or cut off.
    #[error("the request body is not valid JSON: {0}")]
    Syntax(#[source] serde_json::Error),
    /// JSON, but not a request.
    #[error("the request body is not a valid request for {path}: {source}")]
    Shape {
        /// The path of the operation.
        path: &'static str,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
}

/// What a request body says, borrowed from it.
#[derive(Clone, Debug, Default)]
pub struct RequestView<'a> {
    /// `model`; empty where the body names none.
    pub model: Cow<'a, str>,
    /// `stream`.
    pub stream: bool,
    /// `stream_options.include_usage`.
    pub include_usage: bool,
    /// The limit on the answer's length: `max_completion_tokens`, else `max_tokens`; `max_output_tokens` for
    /// responses.
    pub max_tokens: Option<u32>,
    /// `user`; `metadata.user_id` for messages.
    pub user: Option<Cow<'a, str>>,
    /// `prompt_cache_key`.
    pub prompt_cache_key: Option<Cow<'a, str>>,
    /// `stop`, as a list. For messages: `stop_sequences`.
    pub stop: Vec<Cow<'a, str>>,
    /// `ignore_eos`, vLLM's extension: generate to the limit.
    pub ignore_eos: bool,
    /// `n`, the number of answers asked for.
    pub choices: Option<u32>,
    tools: Option<&'a str>,
    functions: Option<&'a str>,
    system: Content<'a>,
    input: Input<'a>,
}

struct BodySeed(Endpoint);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Member {
    Model,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    User,
    Metadata,
    PromptCacheKey,
    Stop,
    StopSequences,
    IgnoreEos,
    N,
    Tools,
    Functions,
    System,
    Instructions,
    Messages,
    Prompt,
    Input,
    #[serde(other)]
    Other,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata<'a> {
    #[serde(borrow)]
    user_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop<'a> {
    #[serde(borrow)]
    One(Text<'a>),
    Many(Vec<Text<'a>>),
}

// === impl RequestView ===

impl<'a> RequestView<'a> {
    /// Reads the body of a request to `endpoint`.
    ///
    /// # Errors
    /// When the body is not JSON, `model` is not a string, or the prompt has no readable shape. A body without
    /// a prompt is not an error, see [`has_prompt`](Self::has_prompt).
    pub fn parse(endpoint: Endpoint, body: &'a [u8]) -> Result<Self, RequestError> {
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        BodySeed(endpoint)
            .deserialize(&mut deserializer)
            .and_then(|view| deserializer.end().map(|()| view))
            .map_err(|source| match source.classify() {
                Category::Data => RequestError::Shape { path: endpoint.path(), source },
                Category::Io | Category::Syntax | Category::Eof => RequestError::Syntax(source),
            })
    }

    /// Whether the body has a prompt, of any shape, an empty one included.
    pub fn has_prompt(&self) -> bool {
        !matches!(self.input, Input::Absent)
    }

    /// Appends the canonical prompt text to `out`.
    ///
    /// A plain prompt is its own text. Token ids are four little-endian bytes each. A conversation is its tools,
    /// then its messages, each `<|role|>\n`, its content and `<|end|>\n`, then `<|assistant|>\n`: a later turn
    /// that repeats the conversation with the answer has this text as an exact prefix.
    pub fn render_prompt(&self, out: &mut Vec<u8>) {
        match &self.input {
            Input::Absent => {}
            Input::Text(text) => out.extend_from_slice(text.as_bytes()),
            Input::Texts(texts) => {
                for (index, text) in texts.iter().enumerate() {
                    if index > 0 {
                        out.push(0);
                    }
                    out.extend_from_slice(text.as_bytes());
                }
            }
            Input::Tokens(tokens) => out.extend(tokens.iter().flat_map(|token| token.to_le_bytes())),
            Input::Messages(messages) => {
                for (label, json) in [("tools", self.tools), ("functions", self.functions)] {
                    if let Some(json) = json {
                        open(label, out);
                        out.extend_from_slice(json.as_bytes());
                        close(out);
                    }
                }
                if !matches!(&self.system, Content::Text(text) if text.is_empty()) {
                    self.system.render_as("system", out);
                }
                for message in messages {
                    message.render(out);
                }
                open(ASSISTANT, out);
            }
        }
    }

    /// KubeAI's routing text: the text of the first user message of a conversation, or the first prompt of a
    /// completion. `None` without one, for token ids, and for embeddings.
    pub fn first_user_text(&self) -> Option<Cow<'_, str>> {
        match &self.input {
            Input::Text(text) => Some(Cow::Borrowed(text)),
            Input::Texts(texts) => texts.first().map(|text| Cow::Borrowed(text.as_ref())),
            Input::Messages(messages) => {
                messages.iter().find(|message| message.role == "user").map(|message| message.content.text())
            }
            Input::Absent | Input::Tokens(_) => None,
        }
    }

    /// The token ids of the prompt, where it is given as one list of them.
    pub fn token_ids(&self) -> Option<&[u32]> {
        match &self.input {
            Input::Tokens(tokens) if !tokens.contains(&NEXT_PROMPT) => Some(tokens),
            _ => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for BodySeed {
    type Value = RequestView<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RequestView<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BodySeed {
    type Value = RequestView<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RequestView<'de>, A::Error> {
        let Self(endpoint) = self;
        let mut view = RequestView::default();
        let mut max_tokens = None;
        while let Some(member) = map.next_key::<Member>()? {
            match (member, endpoint) {
                (Member::Model, _) => {
                    view.model = map.next_value::<Option<Text<'de>>>()?.unwrap_or_default().0;
                }
                (Member::Stream, _) => view.stream = lenient(&mut map)?,
                (Member::StreamOptions, _) => {
                    view.include_usage = lenient::<StreamOptions, A>(&mut map)?.include_usage;
                }
                (Member::MaxTokens, _) => max_tokens = lenient(&mut map)?,
                (Member::MaxCompletionTokens, _) | (Member::MaxOutputTokens, Endpoint::Responses) => {
                    view.max_tokens = lenient(&mut map)?
                }
                (Member::User, _) => view.user = lenient_text(&mut map)?,
                (Member::Metadata, Endpoint::Messages) => {
                    view.user = lenient::<Metadata<'de>, A>(&mut map)?.user_id.map(|text| text.0);
                }
                (Member::PromptCacheKey, _) => view.prompt_cache_key = lenient_text(&mut map)?,
                (Member::Stop | Member::StopSequences, _) => view.stop = lenient_stop(&mut map)?,
                (Member::IgnoreEos, _) => view.ignore_eos = lenient(&mut map)?,
                (Member::N, _) => view.choices = lenient(&mut map)?,
                (Member::Tools, _) => view.tools = raw(&mut map)?,
                (Member::Functions, _) => view.functions = raw(&mut map)?,
                (Member::System, Endpoint::Messages) | (Member::Instructions, Endpoint::Responses) => {
                    view.system = map.next_value()?;
                }
                (Member::Messages, Endpoint::ChatCompletions | Endpoint::Messages) => {
                    view.input =
                        map.next_value::<Option<Vec<Message<'de>>>>()?.map_or(Input::Absent, Input::Messages);
                }
                (Member::Prompt, Endpoint::Completions) | (Member::Input, Endpoint::Embeddings) => {
                    view.input = map.next_value::<BatchInput<'de>>()?.0;
                }
                (Member::Input, Endpoint::Responses) => {
                    view.input = map.next_value::<ItemsInput<'de>>()?.0;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        view.max_tokens = view.max_tokens.or(max_tokens);
        Ok(view)
    }
}

/// Reads a member whose wrong type is not our business.
fn lenient<'de, T, A>(map: &mut A) -> Result<T, A::Error>
where
    T: Deserialize<'de> + Default,
    A: MapAccess<'de>,
{
    let value: &RawValue = map.next_value()?;
    Ok(serde_json::from_str(value.get()).unwrap_or_default())
}

fn lenient_text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Cow<'de, str>>, A::Error> {
    Ok(lenient::<Option<Text<'de>>, A>(map)?.map(|text| text.0))
}

fn lenient_stop<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Vec<Cow<'de, str>>, A::Error> {
    Ok(match lenient::<Option<Stop<'de>>, A>(map)? {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text.0],
        Some(Stop::Many(texts)) => texts.into_iter().map(|text| text.0).collect(),
    })
}

/// A member as it stands in the body; null is nothing.
fn raw<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<&'de str>, A::Error> {
    Ok(map.next_value::<Option<&RawValue>>()?.map(RawValue::get))
}
