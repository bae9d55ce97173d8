//! Failures by inference-perf's labels.

use std::collections::BTreeMap;

use super::Settings;
use crate::{Object, Outcome, Record};

/// Sessions that are named for each message.
const SESSIONS: usize = 16;

/// Failures, by label and message.
#[derive(Clone, Debug, Default)]
pub(super) struct Failures(BTreeMap<String, Label>);

#[derive(Clone, Debug, Default)]
struct Label {
    count: u64,
    messages: BTreeMap<String, Message>,
}

#[derive(Clone, Debug, Default)]
struct Message {
    count: u64,
    sessions: Vec<u64>,
}

impl Failures {
    /// Counts a failure; keeps its message if there are fewer than the limit.
    pub(super) fn push(&mut self, record: &Record, settings: &Settings) {
        let entry = self.0.entry(label(record)).or_default();
        entry.count += 1;
        let text = message(record);
        if entry.messages.len() < settings.error_messages || entry.messages.contains_key(&text) {
            let message = entry.messages.entry(text).or_default();
            message.count += 1;
            if settings.has_sessions && message.sessions.len() < SESSIONS {
                message.sessions.push(record.session);
            }
        }
    }

    pub(super) fn by_label(&self) -> Object {
        let mut all = Object::default();
        for (label, entry) in &self.0 {
            let messages = entry.messages.iter().map(|(text, message)| {
                let mut object = Object::default();
                object.set("message", text);
                object.set("session_ids", message.sessions.iter().map(u64::to_string).collect::<Vec<_>>());
                object.set("count", message.count);
                object
            });
            let mut object = Object::default();
            object.set("count", entry.count);
            object.nest_all("messages", messages);
            all.nest(label, object);
        }
        all
    }
}

/// What went wrong, in the words of `error.error_msg`.
pub(super) fn message(record: &Record) -> String {
    match &record.outcome {
        Outcome::Timeout => "Request timed out".to_owned(),
        Outcome::Incomplete => "Cut off at the end of the stage".to_owned(),
        outcome if outcome.message().is_empty() => outcome.kind().to_owned(),
        outcome => outcome.message().to_owned(),
    }
}

/// `504 - Gateway Timeout`, `Connection Error`, ...
fn label(record: &Record) -> String {
    let text = record.outcome.message().to_lowercase();
    match &record.outcome {
        Outcome::Status(status, _) => format!("{status} - {}", meaning(*status, &text)),
        Outcome::StreamError(_) => format!("{} - {}", record.status.unwrap_or(200), meaning(0, &text)),
        Outcome::Timeout => "Timeout".to_owned(),
        Outcome::Connect(_) | Outcome::Broken(_) => "Connection Error".to_owned(),
        outcome => outcome.kind().replace('_', " "),
    }
}

fn meaning(status: u16, text: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|words| has(text, words));
    match status {
        429 => "Rate Limit",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ if says(&["context window", "context length", "maximum context", "max tokens", "token limit"]) => {
            "Context Window"
        }
        _ if says(&[
            "invalid json",
            "json parse",
            "malformed json",
            "unexpected token",
            "expecting value",
        ]) || says(&["unterminated string", "expecting ',' delimiter"]) =>
        {
            "Invalid JSON"
        }
        _ if says(&["timeout", "timed out"]) => "Timeout",
        _ if says(&["model not found", "no such model"]) => "Model Not Found",
        _ => "other",
    }
}

/// Whether a text has these words, one after the other, with at most one letter between two of them: inference-perf
/// looks for `model.?not.?found`.
fn has(text: &str, words: &str) -> bool {
    let mut words = words.split(' ');
    let first = words.next().unwrap_or_default();
    let follow = |start: usize| {
        words.clone().try_fold(&text[start + first.len()..], |rest, word| {
            let mut letters = rest.chars();
            letters.next();
            rest.strip_prefix(word).or_else(|| letters.as_str().strip_prefix(word))
        })
    };
    text.match_indices(first).any(|(start, _)| follow(start).is_some())
}

/// The name of the error in inference-perf's files, which circuit breakers are written for: `HTTP Error 503`, or the
/// class that Python's client raises.
pub(super) fn error_type(record: &Record) -> String {
    let name = match &record.outcome {
        Outcome::Status(status, _) => return format!("HTTP Error {status}"),
        Outcome::Timeout => "TimeoutError",
        Outcome::Connect(_) => "ClientConnectorError",
        Outcome::Broken(_) if record.headers.is_some() => "ClientPayloadError",
        // The system's words: the connection was reset. Without them it was closed in good order.
        Outcome::Broken(message) if message.contains("os error") => "ClientOSError",
        Outcome::Broken(_) => "ServerDisconnectedError",
        Outcome::StreamError(_) => "StreamError",
        Outcome::Malformed(_) => "MalformedResponse",
        Outcome::Incomplete => "CancelledError",
        _ => "Error",
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{failure, ms};

    #[test]
    fn labels_are_found_as_inference_perf_finds_them() {
        for (status, text, wanted) in [
            (404, "The model `x` does not exist.", "404 - other"),
            (404, "Error: MODEL_NOT-found", "404 - Model Not Found"),
            (404, "model was not found", "404 - other"),
            (400, "max_tokens is too large", "400 - Context Window"),
            (400, "a tokens limit, then the tokenlimit", "400 - Context Window"),
            (400, "JSON mode is off", "400 - other"),
            (400, "Expecting ',' delimiter", "400 - Invalid JSON"),
            (408, "timed-out", "408 - Timeout"),
            (503, "timeout", "503 - Service Unavailable"),
        ] {
            assert_eq!(label(&failure(0, 5, Outcome::Status(status, text.to_owned()))), wanted, "{text}");
        }
    }

    #[test]
    fn errors_have_the_names_that_circuit_breakers_look_for() {
        let broken =
            |message: &str, headers| Record { headers, ..failure(0, 5, Outcome::Broken(message.to_owned())) };
        for (record, name) in [
            (failure(0, 5, Outcome::Status(503, "busy".to_owned())), "HTTP Error 503"),
            (failure(0, 5, Outcome::Timeout), "TimeoutError"),
            (broken("Connection reset by peer (os error 104)", None), "ClientOSError"),
            (broken("the connection was closed without an answer", None), "ServerDisconnectedError"),
            (broken("Connection reset by peer (os error 104)", Some(ms(1))), "ClientPayloadError"),
        ] {
            assert_eq!(error_type(&record), name, "{record:?}");
        }
    }
}
