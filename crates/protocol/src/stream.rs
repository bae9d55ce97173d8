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
    /// Whether it has a choice (chat and completions), with output or without.
    pub choice: bool,
    /// Whether its first choice adds an empty text and is no chat's opening: a token that decodes to nothing.
    pub empty_text: bool,
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
    role: Option<IgnoredAny>,
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
        let choices = self.choices.unwrap_or_default();
        event.choice = !choices.is_empty();
        event.empty_text = choices.first().is_some_and(Choice::adds_empty_text);
        for choice in choices {
            append(&mut event.text, choice.text.unwrap_or_default().0);
            if let Some(delta) = choice.delta.or(choice.message) {
                append(&mut event.text, delta.content.unwrap_or_default().0);
                append(&mut event.text, delta.refusal.unwrap_or_default().0);
                let reasoning = delta.reasoning_content.or(delta.reasoning);
                append(&mut event.reasoning, reasoning.unwrap_or_default().0);
                event.tool_call |=
                    delta.tool_calls.is_some_and(|calls| !calls.is_empty()) || delta.function_call.is_some();
            }
            event.finish_reason = ending(choice.finish_reason).or(event.finish_reason);
        }
        event
    }
}

// === impl Choice ===

impl Choice<'_> {
    fn adds_empty_text(&self) -> bool {
        let text = match &self.delta {
            Some(delta) => delta.content.as_ref().filter(|_| delta.role.is_none()),
            None => self.text.as_ref(),
        };
        text.is_some_and(|text| text.0.is_empty())
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
            event.finish_reason = ending(block.stop_reason).or(event.finish_reason);
        }
        event
    }
}

/// Why generation ended. Some engines write an empty reason into every event before the last: it ends nothing.
fn ending(reason: Option<Text<'_>>) -> Option<Cow<'_, str>> {
    reason.map(|reason| reason.0).filter(|reason| !reason.is_empty())
}

/// The message of a failure; the whole text where it has an unknown shape.
pub(crate) fn failure(data: &[u8]) -> String {
    error_message(data).unwrap_or_else(|| String::from_utf8_lossy(data).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(endpoint: Endpoint, data: &str) -> StreamEvent<'_> {
        parse_event(endpoint, data.as_bytes()).unwrap()
    }

    fn usage(prompt: u32, completion: u32) -> Usage {
        Usage { prompt_tokens: prompt, completion_tokens: completion, ..Usage::default() }
    }

    #[test]
    fn chat_chunks() {
        let chat = |data| event(Endpoint::ChatCompletions, data);
        let role = chat(
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
        );
        assert_eq!((role.is_payload(), role.finish_reason), (false, None));
        assert_eq!((role.choice, role.empty_text), (true, false));
        let nothing = chat(r#"{"choices":[{"delta":{"content":""},"finish_reason":"stop"}]}"#);
        assert_eq!((nothing.is_payload(), nothing.choice, nothing.empty_text), (false, true, true));
        let text = chat(r#"{"id":"x","choices":[{"delta":{"content":"Hi"},"logprobs":null}],"usage":null}"#);
        assert!(matches!(text.text, Cow::Borrowed("Hi")));
        assert!(text.is_payload() && !text.done);
        assert_eq!(chat(r#"{"choices":[{"delta":{"content":"a\n"}}]}"#).text, "a\n");
        for name in ["reasoning", "reasoning_content"] {
            let data = format!(r#"{{"choices":[{{"delta":{{"{name}":"hm"}}}}]}}"#);
            let thought = event(Endpoint::ChatCompletions, &data);
            assert_eq!((thought.reasoning.as_ref(), thought.text.as_ref()), ("hm", ""));
            assert!(thought.is_payload());
        }
        assert!(chat(r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#).is_payload());
        assert!(!chat(r#"{"choices":[{"delta":{"tool_calls":[]}}]}"#).is_payload());
        let last = chat(r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#);
        assert_eq!(last.finish_reason.as_deref(), Some("length"));
        let more = chat(r#"{"choices":[{"delta":{"content":"a"},"finish_reason":""}]}"#);
        assert_eq!(more.finish_reason, None, "an empty reason is none");
        assert_eq!((last.is_payload(), last.choice, last.empty_text), (false, true, false));
        let counts =
            chat(r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#);
        assert_eq!((counts.usage, counts.is_payload()), (Some(usage(5, 2)), false));
        assert!(!counts.choice && !counts.empty_text);
    }

    #[test]
    fn completion_chunks() {
        let chunk =
            event(Endpoint::Completions, r#"{"choices":[{"text":"a"},{"text":"b","finish_reason":"stop"}]}"#);
        assert_eq!((chunk.text.as_ref(), chunk.finish_reason.as_deref()), ("ab", Some("stop")));
    }

    #[test]
    fn done_is_a_line_of_its_own_and_not_content() {
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Messages] {
            assert!(event(endpoint, " [DONE]").done);
        }
        let content = event(Endpoint::ChatCompletions, r#"{"choices":[{"delta":{"content":"[DONE]"}}]}"#);
        assert_eq!((content.done, content.text.as_ref()), (false, "[DONE]"));
    }

    #[test]
    fn responses_events() {
        let read = |data| event(Endpoint::Responses, data);
        assert_eq!(read(r#"{"type":"response.output_text.delta","delta":"Hi","item_id":"m"}"#).text, "Hi");
        assert_eq!(read(r#"{"type":"response.reasoning_text.delta","delta":"hm"}"#).reasoning, "hm");
        assert_eq!(read(r#"{"type":"response.reasoning_summary_text.delta","delta":"hm"}"#).reasoning, "hm");
        assert!(read(r#"{"type":"response.function_call_arguments.delta","delta":"{"}"#).tool_call);
        assert!(!read(r#"{"type":"response.output_text.done","text":"Hi"}"#).is_payload());
        assert!(!read(r#"{"type":"response.created","response":{"status":"in_progress","output":[]}}"#).done);
        let end = read(
            r#"{"type":"response.completed","response":{"status":"completed","error":null,"output":[{"content":[
            {"text":"Hi"}]}],"usage":{"input_tokens":9,"output_tokens":1,"input_tokens_details":{"cached_tokens":8}}}}"#,
        );
        assert!(end.done && !end.is_payload());
        assert_eq!(end.finish_reason.as_deref(), Some("completed"));
        assert_eq!(end.usage, Some(Usage { cached_tokens: Some(8), ..usage(9, 1) }));
        let cut = read(
            r#"{"type":"response.incomplete","response":{"status":"incomplete",
            "incomplete_details":{"reason":"max_output_tokens"}}}"#,
        );
        assert_eq!((cut.done, cut.finish_reason.as_deref()), (true, Some("max_output_tokens")));
        let failed = read(r#"{"type":"response.failed","response":{"error":{"code":"x","message":"boom"}}}"#);
        assert_eq!((failed.done, failed.error.as_deref()), (true, Some("boom")));
        assert_eq!(read(r#"{"type":"error","code":"x","message":"bad"}"#).error.as_deref(), Some("bad"));
    }

    #[test]
    fn messages_events() {
        let read = |data| event(Endpoint::Messages, data);
        let start = read(
            r#"{"type":"message_start","message":{"role":"assistant","content":[],
            "usage":{"input_tokens":3,"cache_read_input_tokens":60,"output_tokens":1}}}"#,
        );
        assert!(!start.is_payload());
        let mut total = start.usage.unwrap();
        assert_eq!(total, Usage { cached_tokens: Some(60), ..usage(63, 1) });
        assert!(
            !read(r#"{"type":"content_block_start","content_block":{"type":"text","text":""}}"#).is_payload()
        );
        assert_eq!(
            read(r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}"#).text,
            "Hi"
        );
        let thought = r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"hm"}}"#;
        assert_eq!(read(thought).reasoning, "hm");
        assert!(
            read(r#"{"type":"content_block_start","content_block":{"type":"tool_use","name":"f"}}"#)
                .tool_call
        );
        let json = r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{"}}"#;
        assert!(read(json).is_payload());
        let end = read(
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}"#,
        );
        assert_eq!((end.done, end.finish_reason.as_deref()), (false, Some("end_turn")));
        total.update(end.usage.unwrap());
        assert_eq!(total, Usage { cached_tokens: Some(60), ..usage(63, 9) });
        assert!(read(r#"{"type":"message_stop"}"#).done);
        assert!(!read(r#"{"type":"ping"}"#).is_payload());
        let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
        assert_eq!(read(overloaded).error.as_deref(), Some("Overloaded"));
    }

    #[test]
    fn failures_inside_a_stream_are_reported() {
        let error = |data| event(Endpoint::ChatCompletions, data).error;
        assert_eq!(
            error(r#"{"error":{"message":"out of memory","code":500}}"#).as_deref(),
            Some("out of memory")
        );
        assert_eq!(error(r#"{"error":"no"}"#).as_deref(), Some("no"));
        assert_eq!(error(r#"{"object":"error","message":"too long"}"#).as_deref(), Some("too long"));
        assert_eq!(error(r#"{"error":{"reason":7}}"#).as_deref(), Some(r#"{"error":{"reason":7}}"#));
        assert_eq!(error(r#"{"error":null,"choices":[]}"#), None);
    }

    #[test]
    fn a_broken_event_says_so() {
        let cut = parse_event(Endpoint::ChatCompletions, br#"{"choices":[{"del"#).unwrap_err().to_string();
        assert!(cut.starts_with("a stream event is not valid for /v1/chat/completions: EOF"), "{cut}");
        assert!(parse_event(Endpoint::Messages, b"{}").is_err(), "an event without a type");
        assert!(parse_event(Endpoint::Completions, b"5").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(data in prop::collection::vec(any::<u8>(), 0..100)) {
            for endpoint in [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Messages] {
                let _ = parse_event(endpoint, &data);
            }
        }
    }
}
