//! What passing bytes say: when tokens come, and at the end what the engine counted.
//!
//! A look costs one pass over the bytes. Only an event that has a usage report in it is parsed. Reads may be cut
//! anywhere; the counts do not depend on it.

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use memchr::memmem;
use protocol::{SseSplitter, Usage};
use routing::Outcome;
use serde::Deserialize;

use crate::flight::Flight;

/// Bytes at the end of a JSON answer in which its usage is looked for; engines write it last.
const TAIL_BYTES: usize = 4096;
/// The largest event that is looked at.
const MOST_EVENT_BYTES: usize = 256 * 1024;

/// How an answer is looked at.
#[derive(Debug)]
pub(crate) enum Tap {
    /// Not at all.
    Nothing,
    /// A stream of events, each one token.
    Events(Box<SseSplitter>),
    /// One JSON object, of which the last bytes are kept.
    Json(Vec<u8>),
}

// === impl Tap ===

impl Tap {
    /// The tap for an answer with these fields.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
        if headers.contains_key(http::header::CONTENT_ENCODING) {
            Self::Nothing
        } else if kind.starts_with(b"text/event-stream") {
            Self::Events(Box::new(SseSplitter::with_cap(MOST_EVENT_BYTES)))
        } else if kind.starts_with(b"application/json") {
            Self::Json(Vec::new())
        } else {
            Self::Nothing
        }
    }

    /// Looks at the next bytes; `last` says that none follow.
    pub(crate) fn look(&mut self, data: &[u8], last: bool, flight: &mut Flight) {
        match self {
            Self::Nothing => {}
            Self::Events(splitter) => {
                let mut seen = Seen::default();
                splitter.feed(data, |event| seen.add(event.data));
                seen.tell(flight);
            }
            Self::Json(tail) if last && tail.is_empty() => {
                report(find_usage(data), flight);
            }
            Self::Json(tail) => {
                let fresh = &data[data.len().saturating_sub(TAIL_BYTES)..];
                tail.drain(..(tail.len() + fresh.len()).saturating_sub(TAIL_BYTES).min(tail.len()));
                tail.extend_from_slice(fresh);
            }
        }
    }

    /// The answer is complete.
    pub(crate) fn end(&mut self, flight: &mut Flight) {
        match self {
            Self::Nothing => {}
            Self::Events(splitter) => {
                let mut seen = Seen::default();
                splitter.finish(|event| seen.add(event.data));
                seen.tell(flight);
            }
            Self::Json(tail) => report(find_usage(tail), flight),
        }
    }
}

/// The events of one read.
#[derive(Default)]
struct Seen {
    tokens: u32,
    usage: Option<Usage>,
    failed: bool,
}

impl Seen {
    fn add(&mut self, data: &[u8]) {
        if data == b"[DONE]" {
            return;
        }
        self.tokens += 1;
        self.failed |= data.starts_with(b"{\"error\"");
        if let Some(usage) = find_usage(data) {
            self.usage.get_or_insert_default().update(usage);
        }
    }

    fn tell(self, flight: &mut Flight) {
        if self.tokens > 0 {
            flight.produced(self.tokens);
        }
        if self.failed {
            flight.judge(Outcome::ServerError);
        }
        report(self.usage, flight);
    }
}

fn report(usage: Option<Usage>, flight: &mut Flight) {
    if let Some(usage) = usage {
        flight.report(usage.completion_tokens, usage.cached_tokens);
    }
}

/// The last `"usage": {...}` in a piece of JSON. Inside a string its quotes would be escaped.
fn find_usage(json: &[u8]) -> Option<Usage> {
    const KEY: &[u8] = b"\"usage\"";
    let after_key = memmem::rfind(json, KEY)? + KEY.len();
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
