//! What passing bytes say: when tokens come, and at the end what the engine counted.
//!
//! A look costs one pass over the bytes, and one more for usage reports, the only part that is parsed. Reads may be
//! cut anywhere; the counts do not depend on it.

use protocol::{SseEvent, SseSplitter, Usage};
use routing::Outcome;

use super::{event::Says, usage::UsageFinder};
use crate::{flight::Flight, http1::fields::Fields};

/// The largest event that is looked at; of a larger one the name counts, and the usage in it.
const MOST_EVENT_BYTES: usize = 256 * 1024;

/// How an answer is looked at, and what was seen in the last read.
#[derive(Debug)]
pub(crate) struct Tap {
    kind: Kind,
    usage: UsageFinder,
    seen: Seen,
    is_whole: bool,
}

#[derive(Debug)]
enum Kind {
    /// Not at all.
    Nothing,
    /// A stream of events that cannot be read, compressed as it is. Its first byte is the sign of life that there is.
    Hidden,
    /// A stream of events.
    Events(Box<SseSplitter>),
    /// One JSON object.
    Json,
}

// === impl Tap ===

impl Tap {
    /// The tap for an answer with these fields.
    pub(crate) fn of(fields: &Fields) -> Self {
        let content = fields.get("content-type").unwrap_or_default();
        let is =
            |kind: &str| content.get(..kind.len()).is_some_and(|it| it.eq_ignore_ascii_case(kind.as_bytes()));
        let kind = match fields.contains("content-encoding") {
            true if is("text/event-stream") => Kind::Hidden,
            false if is("text/event-stream") => {
                Kind::Events(Box::new(SseSplitter::with_cap(MOST_EVENT_BYTES)))
            }
            false if is("application/json") => Kind::Json,
            _ => Kind::Nothing,
        };
        Self { kind, usage: UsageFinder::default(), seen: Seen::default(), is_whole: false }
    }

    /// Whether the head alone says how the answer began: engines send that of a stream before they begin, and its first
    /// event may be an error.
    pub(crate) fn knows_no_more(&self) -> bool {
        matches!(self.kind, Kind::Nothing | Kind::Json)
    }

    /// Looks at the next bytes.
    pub(crate) fn look(&mut self, data: &[u8]) {
        match &mut self.kind {
            Kind::Nothing => {}
            Kind::Hidden => self.seen.begun = true,
            Kind::Events(splitter) => {
                splitter.feed(data, |event| self.is_whole |= self.seen.add(event));
                self.usage.look(data);
            }
            Kind::Json => self.usage.look(data),
        }
    }

    /// Whether the last event of the stream was seen: who leaves then has heard the answer out.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Tells what was seen since the last time.
    pub(crate) fn tell(&mut self, flight: &mut Flight) {
        if let Kind::Events(_) = self.kind {
            self.seen.usage = self.usage.found();
        }
        std::mem::take(&mut self.seen).tell(flight);
    }

    /// The answer is complete.
    pub(crate) fn end(&mut self, flight: &mut Flight) {
        match &mut self.kind {
            Kind::Nothing | Kind::Hidden => {}
            Kind::Events(splitter) => splitter.finish(|event| self.is_whole |= self.seen.add(event)),
            Kind::Json => {
                self.seen.usage = self.usage.found();
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
    begun: bool,
}

impl Seen {
    /// Takes an event in, and says whether it is the last one.
    fn add(&mut self, event: SseEvent<'_>) -> bool {
        let says = Says::of(event);
        self.tokens += u32::from(says == Says::Token);
        self.failed |= says == Says::Failure;
        says == Says::End
    }

    fn tell(self, flight: &mut Flight) {
        if self.failed {
            flight.judge(Outcome::ServerError);
        }
        if self.begun || self.tokens > 0 {
            flight.answering();
        }
        if self.tokens > 0 {
            flight.produced(self.tokens);
        }
        if let Some(usage) = self.usage {
            flight.report(usage);
        }
    }
}
