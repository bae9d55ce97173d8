//! What passing bytes say: when tokens come, and at the end what the engine counted.
//!
//! A look costs one pass over the bytes. Only an event that has a usage report in it is parsed. Reads may be cut
//! anywhere; the counts do not depend on it.

use std::sync::LazyLock;

use memchr::memmem::FinderRev;
use protocol::{SseEvent, SseSplitter, Usage};
use routing::Outcome;
use serde::Deserialize;

use super::event::Says;
use crate::{flight::Flight, http1::fields::Fields};

/// Bytes at the end of a JSON answer in which its usage is looked for; engines write it last.
const TAIL_BYTES: usize = 4096;
/// The largest event that is looked at.
const MOST_EVENT_BYTES: usize = 256 * 1024;

/// How an answer is looked at, and what was seen in the last read.
#[derive(Debug)]
pub(crate) struct Tap {
    kind: Kind,
    seen: Seen,
    is_whole: bool,
}

#[derive(Debug)]
enum Kind {
    /// Not at all.
    Nothing,
    /// A stream of events.
    Events(Box<SseSplitter>),
    /// One JSON object, of which the last bytes are kept.
    Json(Vec<u8>),
}

// === impl Tap ===

impl Tap {
    /// The tap for an answer with these fields.
    pub(crate) fn of(fields: &Fields) -> Self {
        let content = fields.get("content-type").unwrap_or_default();
        let kind = if fields.contains("content-encoding") {
            Kind::Nothing
        } else if content.starts_with(b"text/event-stream") {
            Kind::Events(Box::new(SseSplitter::with_cap(MOST_EVENT_BYTES)))
        } else if content.starts_with(b"application/json") {
            Kind::Json(Vec::new())
        } else {
            Kind::Nothing
        };
        Self { kind, seen: Seen::default(), is_whole: false }
    }

    /// Whether the head alone says how the answer began: the first event of a stream may be an error.
    pub(crate) fn knows_no_more(&self) -> bool {
        !matches!(self.kind, Kind::Events(_))
    }

    /// Looks at the next bytes.
    pub(crate) fn look(&mut self, data: &[u8]) {
        match &mut self.kind {
            Kind::Nothing => {}
            Kind::Events(splitter) => splitter.feed(data, |event| self.is_whole |= self.seen.add(event)),
            Kind::Json(tail) => {
                let fresh = &data[data.len().saturating_sub(TAIL_BYTES)..];
                tail.drain(..(tail.len() + fresh.len()).saturating_sub(TAIL_BYTES).min(tail.len()));
                tail.extend_from_slice(fresh);
            }
        }
    }

    /// Whether the last event of the stream was seen: who leaves then has heard the answer out.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Tells what was seen since the last time.
    pub(crate) fn tell(&mut self, flight: &mut Flight) {
        std::mem::take(&mut self.seen).tell(flight);
    }

    /// The answer is complete.
    pub(crate) fn end(&mut self, flight: &mut Flight) {
        match &mut self.kind {
            Kind::Nothing => {}
            Kind::Events(splitter) => splitter.finish(|event| self.is_whole |= self.seen.add(event)),
            Kind::Json(tail) => {
                self.seen.usage = find_usage(tail);
                // Embeddings have none, and say nothing about how long answers get.
                let tokens = self.seen.usage.map_or(0, |usage| usage.completion_tokens);
                if tokens > 0 {
                    flight.produced_at_once(tokens);
                }
            }
        }
        self.tell(flight);
    }
}

/// What is new.
#[derive(Debug, Default)]
struct Seen {
    tokens: u32,
    usage: Option<Usage>,
    failed: bool,
}

impl Seen {
    /// Takes an event in, and says whether it is the last one.
    fn add(&mut self, event: SseEvent<'_>) -> bool {
        let says = Says::of(event);
        self.tokens += u32::from(says == Says::Token);
        self.failed |= says == Says::Failure;
        if let Some(usage) = find_usage(event.data) {
            self.usage.get_or_insert_default().update(usage);
        }
        says == Says::End
    }

    fn tell(self, flight: &mut Flight) {
        if self.failed {
            flight.judge(Outcome::ServerError);
        }
        if self.tokens > 0 {
            flight.answering();
            flight.produced(self.tokens);
        }
        if let Some(usage) = self.usage {
            flight.report(usage);
        }
    }
}

/// The last `"usage": {...}` in a piece of JSON. Inside a string its quotes would be escaped.
fn find_usage(json: &[u8]) -> Option<Usage> {
    static KEY: LazyLock<FinderRev<'static>> = LazyLock::new(|| FinderRev::new(b"\"usage\""));
    let after_key = KEY.rfind(json)? + KEY.needle().len();
    let value = json[after_key..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    if !value.starts_with(b"{") {
        return None;
    }
    Usage::deserialize(&mut serde_json::Deserializer::from_slice(value)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_found_where_it_is_one() {
        let usage = find_usage(br#"{"a":1,"usage" : {"prompt_tokens":5,"completion_tokens":7},"b":{}}"#);
        assert_eq!(usage.map(|usage| usage.completion_tokens), Some(7));
        for none in [
            &br#"{"usage":null}"#[..],
            br#"{"text":"the \"usage\":{\"completion_tokens\":1}"}"#,
            br#"{"usage":{"completion_tokens":"#,
            b"",
        ] {
            assert_eq!(find_usage(none), None);
        }
    }
}
