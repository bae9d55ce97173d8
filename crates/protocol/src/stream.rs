//! What one event of a streamed answer says.
//!
//! Reads the shapes of chat, completions, responses and Anthropic's messages into one. Engines report failures
//! inside a stream that began with status 200; those come out as [`StreamEvent::error`], not as a
//! [`StreamError`], which means that the event could not be read at all.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::{
    Endpoint, Usage, error_message,
    json::{Text, append},
};

/// An event that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a stream event is not valid for {path}: {source}")]
pub struct StreamError {
    path: &'static str,
    source: serde_json::Error,
}

/// One event of a streamed answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamEvent<'a> {
    /// The stream ends as agreed: `[DONE]`, `message_stop`, `response.completed`, or the end of a response that
    /// failed or is incomplete.
    pub done: bool,
    /// The visible text that this event adds.
    pub text: Cow<'a, str>,
    /// The reasoning that this event adds.
    pub reasoning: Cow<'a, str>,
    /// Whether it adds to a tool call.
    pub tool_call: bool,
    /// Why generation ended, in the API's own word.
    pub finish_reason: Option<Cow<'a, str>>,
    /// Token counts. Anthropic's messages spread them over two events, see [`Usage::update`].
    pub usage: Option<Usage>,
    /// The message of a failure that the engine reports.
    pub error: Option<String>,
}

impl StreamEvent<'_> {
    /// Whether the event carries output: text, reasoning or a tool call. The first such event ends the time to
    /// first token; a chat stream's opening chunk, which holds only the role, does not.
    pub fn is_payload(&self) -> bool {
        self.tool_call || !self.text.is_empty() || !self.reasoning.is_empty()
    }
}

/// Reads the data of one event.
///
/// # Errors
/// When it is neither `[DONE]` nor an object of the shape that `endpoint` streams.
pub fn parse_event(endpoint: Endpoint, data: &[u8]) -> Result<StreamEvent<'_>, StreamError> {
    if data.trim_ascii() == b"[DONE]" {
        return Ok(StreamEvent { done: true, ..StreamEvent::default() });
    }
    match endpoint {
        Endpoint::Responses => {
            serde_json::from_slice::<ResponsesEvent<'_>>(data).map(|event| event.read(data))
        }
        Endpoint::Messages => serde_json::from_slice::<MessagesEvent<'_>>(data).map(|event| event.read(data)),
        Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Embeddings | Endpoint::Other => {
            serde_json::from_slice::<Chunk<'_>>(data).map(|chunk| chunk.read(data))
        }
    }
    .map_err(|source| StreamError { path: endpoint.path(), source })
}

/// A chunk of chat or completions; also their whole answer, which has `message` in place of `delta`.
#[derive(Deserialize)]
pub(crate) struct Chunk<'a> {
    #[serde(borrow)]
    object: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) model: Option<Text<'a>>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<Usage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    message: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning: Option<Text<'a>>,
    tool_calls: Option<Vec<IgnoredAny>>,
    function_call: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct ResponsesEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<ResponseEnd<'a>>,
}

#[derive(Default, Deserialize)]
struct ResponseEnd<'a> {
    usage: Option<Usage>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(borrow)]
    incomplete_details: Option<IncompleteDetails<'a>>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(crate) struct IncompleteDetails<'a> {
    #[serde(borrow)]
    pub(crate) reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct MessagesEvent<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    message: Option<MessageStart>,
    #[serde(borrow)]
    content_block: Option<Block<'a>>,
    #[serde(borrow)]
    delta: Option<Block<'a>>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct MessageStart {
    usage: Option<Usage>,
}

/// A content block, a part of one, or the delta of the whole message.
#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
    #[serde(borrow)]
    stop_reason: Option<Text<'a>>,
}

// === impl Chunk ===

impl<'a> Chunk<'a> {
    pub(crate) fn read(self, data: &'a [u8]) -> StreamEvent<'a> {
        let mut event = StreamEvent { usage: self.usage, ..StreamEvent::default() };
        if self.error.is_some() || self.object.is_some_and(|object| object.0 == "error") {
            event.error = Some(failure(data));
        }
        for choice in self.choices.unwrap_or_default() {
            append(&mut event.text, choice.text.unwrap_or_default().0);
            if let Some(delta) = choice.delta.or(choice.message) {
                append(&mut event.text, delta.content.unwrap_or_default().0);
                append(&mut event.text, delta.refusal.unwrap_or_default().0);
                let reasoning = delta.reasoning_content.or(delta.reasoning);
                append(&mut event.reasoning, reasoning.unwrap_or_default().0);
                event.tool_call |=
                    delta.tool_calls.is_some_and(|calls| !calls.is_empty()) || delta.function_call.is_some();
            }
            event.finish_reason = choice.finish_reason.map(|reason| reason.0).or(event.finish_reason);
        }
        event
    }
}

// === impl ResponsesEvent ===

impl<'a> ResponsesEvent<'a> {
    fn read(self, data: &'a [u8]) -> StreamEvent<'a> {
        let mut event = StreamEvent::default();
        let kind = self.kind.0.as_ref();
        if let (Some(subject), Some(delta)) = (kind.strip_suffix(".delta"), self.delta) {
            let text = || serde_json::from_str::<Text<'a>>(delta.get()).unwrap_or_default().0;
            if subject.contains("reasoning") {
                event.reasoning = text();
            } else if subject.ends_with("output_text") || subject.ends_with("refusal") {
                event.text = text();
            } else {
                event.tool_call = subject.contains("_call");
            }
        }
        event.done = matches!(kind, "response.completed" | "response.incomplete" | "response.failed");
        let end = self.response.unwrap_or_default();
        event.usage = end.usage;
        if event.done {
            event.finish_reason =
                end.incomplete_details.and_then(|details| details.reason).or(end.status).map(|word| word.0);
        }
        if kind == "error" {
            event.error = Some(failure(data));
        } else if let Some(error) = end.error {
            event.error = Some(failure(error.get().as_bytes()));
        } else if kind == "response.failed" {
            event.error = Some("the response failed; the engine gives no reason".to_owned());
        }
        event
    }
}

// === impl MessagesEvent ===

impl<'a> MessagesEvent<'a> {
    fn read(self, data: &'a [u8]) -> StreamEvent<'a> {
        let mut event = StreamEvent {
            done: self.kind.0 == "message_stop",
            usage: self.usage.or_else(|| self.message?.usage),
            ..StreamEvent::default()
        };
        if self.kind.0 == "error" {
            event.error = Some(failure(data));
        }
        for block in [self.content_block, self.delta].into_iter().flatten() {
            let kind = block.kind.unwrap_or_default().0;
            event.tool_call |= kind.ends_with("tool_use") || kind == "input_json_delta";
            append(&mut event.text, block.text.unwrap_or_default().0);
            append(&mut event.reasoning, block.thinking.unwrap_or_default().0);
            event.finish_reason = block.stop_reason.map(|reason| reason.0).or(event.finish_reason);
        }
        event
    }
}

/// The message of a failure; the whole text where it has an unknown shape.
pub(crate) fn failure(data: &[u8]) -> String {
    error_message(data).unwrap_or_else(|| String::from_utf8_lossy(data).into_owned())
}
