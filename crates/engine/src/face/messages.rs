//! Anthropic's messages: the events of a stream, the whole answer, and errors, in that API's shapes.
//!
//! `input_tokens` leaves out what came from the prefix cache, which is `cache_read_input_tokens`.

use bytes::BytesMut;
use hyper::StatusCode;
use protocol::Usage;
use serde_json::{Value, json};

use super::answer::Answer;

/// An event up to a token's text, and from there on.
pub(crate) const BEFORE_TEXT: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
    \"delta\":{\"type\":\"text_delta\",\"text\":\"";
pub(crate) const AFTER_TEXT: &[u8] = b"\"}}\n\n";
/// What is sent when the engine dies in the middle of a stream.
pub(crate) const ERROR_EVENT: &[u8] =
    b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\
    \"message\":\"EngineCore encountered an issue.\"}}\n\n";

/// The members that begin a message, `{` and the last comma included.
pub(crate) fn head(id: &str, model: &str) -> String {
    let (id, model) = (json!(format!("msg_{id}")), json!(model));
    format!(r#"{{"id":{id},"type":"message","role":"assistant","model":{model},"#)
}

/// Appends what comes before the first token.
pub(crate) fn write_start(head: &str, usage: Usage, out: &mut BytesMut) {
    let usage = counts(Usage { completion_tokens: 0, ..usage });
    let start = format!(
        "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{head}\"content\":[],\
         \"stop_reason\":null,\"stop_sequence\":null,\"usage\":{usage}}}}}\n\n\
         event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":0,\
         \"content_block\":{{\"type\":\"text\",\"text\":\"\"}}}}\n\n"
    );
    out.extend_from_slice(start.as_bytes());
}

/// Appends what comes after the last token.
pub(crate) fn write_end(answer: &Answer, usage: Usage, out: &mut BytesMut) {
    let (reason, stop_text) = (stop_reason(answer), json!(answer.stop_text));
    let end = format!(
        "event: content_block_stop\ndata: {{\"type\":\"content_block_stop\",\"index\":0}}\n\n\
         event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"{reason}\",\
         \"stop_sequence\":{stop_text}}},\"usage\":{}}}\n\n\
         event: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n",
        counts(usage)
    );
    out.extend_from_slice(end.as_bytes());
}

/// Appends the rest of an answer in one piece, after its head.
pub(crate) fn write_whole(answer: &Answer, usage: Usage, out: &mut BytesMut) {
    let rest = format!(
        r#""content":[{{"type":"text","text":{}}}],"stop_reason":"{}","stop_sequence":{},"usage":{}}}"#,
        json!(answer.text()),
        stop_reason(answer),
        json!(answer.stop_text),
        counts(usage)
    );
    out.extend_from_slice(rest.as_bytes());
}

/// The body of an error answer.
pub(crate) fn error_body(status: StatusCode, message: &str) -> Vec<u8> {
    let kind = match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}}).to_string().into_bytes()
}

fn counts(usage: Usage) -> Value {
    let cached = usage.cached_tokens.unwrap_or_default();
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    })
}

fn stop_reason(answer: &Answer) -> &'static str {
    match (answer.stopped, &answer.stop_text) {
        (false, _) => "max_tokens",
        (true, None) => "end_turn",
        (true, Some(_)) => "stop_sequence",
    }
}
