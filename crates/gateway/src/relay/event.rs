//! What one event of a stream says: a token, an announcement, the end, or a failure.
//!
//! Events of chats and completions have no names, and each of them comes of the model, but for those without choices, as
//! the one with the usage: vLLM sends the one with the role alone together with the first token. The events of responses
//! and of Anthropic's messages have names, and engines send those that announce an answer before they read its prompt.
//! The name stands before the data, or is the first member in it; beside it only a list of choices is looked for.

use memchr::{memchr, memmem};
use protocol::SseEvent;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Says {
    /// Something came of the model.
    Token,
    /// What comes, or that nothing came yet.
    Nothing,
    /// The answer is whole; what may follow has no meaning.
    End,
    /// The engine failed.
    Failure,
}

impl Says {
    pub(super) fn of(event: SseEvent<'_>) -> Self {
        if event.data.trim_ascii() == b"[DONE]" {
            return Self::End;
        }
        let (key, value) = first_member(event.data).unwrap_or_default();
        match (key, event.event) {
            (b"error", _) if !value.starts_with(b"null") => Self::Failure,
            (b"object", _) if value.starts_with(b"\"error\"") => Self::Failure,
            (_, Some(name)) => Self::named(name),
            (b"type", None) => Self::named(text(value)),
            _ if has_no_choices(event.data) => Self::Nothing,
            _ => Self::Token,
        }
    }

    fn named(name: &[u8]) -> Self {
        let announces = [&b"response."[..], b"message_", b"content_block_"];
        match name {
            b"error" | b"response.failed" => Self::Failure,
            b"response.completed" | b"response.incomplete" | b"message_stop" => Self::End,
            b"ping" | b"message_delta" => Self::Nothing,
            _ if name.ends_with(b"delta") => Self::Token,
            _ if announces.iter().any(|prefix| name.starts_with(prefix)) => Self::Nothing,
            _ => Self::Token,
        }
    }
}

/// The first key of an object, and what stands behind it.
fn first_member(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let key = data.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start().strip_prefix(b"\"")?;
    let end = memchr(b'"', key)?;
    let value = key[end + 1..].trim_ascii_start().strip_prefix(b":")?;
    Some((&key[..end], value.trim_ascii_start()))
}

/// Whether the list of choices is empty. Inside a string the quotes of its key would be escaped.
fn has_no_choices(data: &[u8]) -> bool {
    let after = |key: &[u8]| memmem::find(data, key).map(|at| data[at + key.len()..].trim_ascii_start());
    let list =
        after(b"\"choices\"").and_then(|rest| rest.strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"["));
    list.is_some_and(|list| list.trim_ascii_start().starts_with(b"]"))
}

/// What a value is if it is a text without escapes, as names are.
fn text(value: &[u8]) -> &[u8] {
    let text = value.strip_prefix(b"\"").unwrap_or_default();
    memchr(b'"', text).map_or(&[], |end| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_comes_of_the_model() {
        for (says, names) in [
            (
                Says::Nothing,
                &[
                    "response.created",
                    "response.queued",
                    "response.in_progress",
                    "response.output_item.added",
                    "response.content_part.added",
                    "response.output_text.done",
                    "response.output_item.done",
                    "message_start",
                    "message_delta",
                    "content_block_start",
                    "content_block_stop",
                    "ping",
                ][..],
            ),
            (
                Says::Token,
                &[
                    "response.output_text.delta",
                    "response.reasoning_text.delta",
                    "response.function_call_arguments.delta",
                    "content_block_delta",
                    "of.another.kind",
                ],
            ),
            (Says::End, &["response.completed", "response.incomplete", "message_stop"]),
            (Says::Failure, &["response.failed", "error"]),
        ] {
            for name in names {
                let data = format!("{{\"type\":\"{name}\",\"a\":1}}");
                let named = SseEvent { event: Some(name.as_bytes()), data: b"{}" };
                let typed = SseEvent { event: None, data: data.as_bytes() };
                assert_eq!((Says::of(named), Says::of(typed)), (says, says), "{name}");
            }
        }
    }

    #[test]
    fn data_without_a_name_tells_by_its_first_member() {
        for (says, data) in [
            (Says::Token, r#"{"id":"a","choices":[{"delta":{"role":"assistant","content":""}}]}"#),
            (Says::Token, r#"{"error":null,"choices":[{}]}"#),
            (Says::Token, r#"{"choices":[{"text":"\"choices\":[]"}]}"#),
            (Says::Nothing, r#"{"id":"a","choices":[],"usage":{"completion_tokens":1}}"#),
            (Says::Nothing, r#"{"id":"a", "choices" : [ ]}"#),
            (Says::Token, r#"{"choices":[{"text":"{\"error\":1}"}]}"#),
            (Says::Token, "1"),
            (Says::Token, ""),
            (Says::Token, "{\"type"),
            (Says::End, "[DONE]"),
            (Says::Failure, r#"{"error":{"message":"boom"}}"#),
            (Says::Failure, r#" { "error" : {"message":"boom"}}"#),
            (Says::Failure, "{\"error\":\n{}}"),
            (Says::Failure, r#"{"object":"error","message":"boom"}"#),
            (Says::Failure, r#"{ "type" : "error"}"#),
        ] {
            assert_eq!(Says::of(SseEvent { event: None, data: data.as_bytes() }), says, "{data}");
        }
    }
}
