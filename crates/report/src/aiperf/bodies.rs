//! Entries of `profile_export_raw.jsonl` and `outputs.json`: what was said, and what was answered.
//!
//! A raw line has every event of a stream with the time of the read that completed it, or the answer's whole text;
//! times count from the start of the run. A request's body that is no JSON has no place there. Headers are left out.

use protocol::SseSplitter;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Tag,
    lines::{Line, Metadata, RecordShape},
};
use crate::{Object, Record, distribution::nanoseconds};

/// The metrics in `outputs.json`.
const OUTPUT_METRICS: [Tag; 6] = [
    Tag::InputSequenceLength,
    Tag::OutputTokenCount,
    Tag::OutputSequenceLength,
    Tag::RequestLatency,
    Tag::TimeToFirstToken,
    Tag::InterTokenLatency,
];

/// What went over the wire.
#[derive(Clone, Copy, Debug)]
pub struct Wire<'a> {
    /// The body of the request.
    pub request: &'a [u8],
    /// The body of the answer, as far as it came.
    pub answer: &'a [u8],
    /// It is a stream of events.
    pub events: bool,
    /// How much of the answer had come after each read, and when that was.
    pub reads: &'a [(usize, std::time::Duration)],
}

impl RecordShape {
    /// A line of the raw file. Nothing for a request that has no line among the records either.
    pub fn raw(&self, record: &Record, wire: Wire<'_>) -> Option<Box<RawValue>> {
        let line = Line::of(self, record)?;
        #[derive(Serialize)]
        struct Raw<'a> {
            metadata: Metadata<'a>,
            start_perf_ns: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            payload: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            status: Option<u16>,
            responses: Vec<Value>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<Object>,
        }
        let raw = Raw {
            metadata: Metadata(&line),
            start_perf_ns: nanoseconds(line.sent),
            payload: serde_json::from_slice(wire.request).ok(),
            status: record.status,
            responses: wire.responses(),
            error: line.error(),
        };
        serde_json::value::to_raw_value(&raw).ok()
    }

    /// An entry of `outputs.json`, on the same terms; `said` is what the model thought and said.
    pub fn output(&self, record: &Record, said: &str) -> Option<Value> {
        let line = Line::of(self, record)?;
        let mut metrics = Object::default();
        for tag in OUTPUT_METRICS.into_iter().filter(|tag| self.has(*tag)) {
            tag.values(record, |value| metrics.set(tag.name(), tag.number(value)));
        }
        Some(json!({
            "session_num": line.session_number(),
            "conversation_id": line.conversation(),
            "turn_index": record.turn,
            "x_request_id": line.request_name(),
            "request_start_ns": self.wall(line.sent),
            "request_end_ns": self.wall(record.done),
            "metrics": metrics,
            "response_text": (!said.is_empty()).then_some(said),
        }))
    }
}

impl Wire<'_> {
    fn responses(&self) -> Vec<Value> {
        let mut responses = Vec::new();
        if !self.events {
            let last = self.reads.last().map(|(_, at)| nanoseconds(*at));
            responses.extend(last.map(|at| json!({ "perf_ns": at, "text": text(self.answer) })));
            return responses;
        }
        let (mut splitter, mut from) = (SseSplitter::new(), 0);
        for &(to, at) in self.reads {
            let at = nanoseconds(at);
            splitter.feed(self.answer.get(from..to).unwrap_or_default(), |event| {
                let name = event.event.map(|name| json!({ "name": "event", "value": text(name) }));
                let data = json!({ "name": "data", "value": text(event.data) });
                let packets: Vec<Value> = name.into_iter().chain([data]).collect();
                responses.push(json!({ "perf_ns": at, "packets": packets }));
            });
            from = to;
        }
        responses
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
