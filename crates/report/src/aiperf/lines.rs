//! `profile_export.jsonl`: one line a request, written while the run goes on.

use std::{fs::File, io::Write, path::Path, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    Slo, Tag,
    json::{Run, error_json},
    tag::Needs,
};
use crate::{
    ErrorKey, Object, Outcome, PhaseShape, Record, RecordsError, distribution::nanoseconds, lines::LineWriter,
};

/// Bits of a session's number below that of its phase: sessions count from 0 in each.
const SESSION_BITS: u64 = (1 << 48) - 1;

/// Writes the line of each request.
#[derive(Debug)]
pub struct ProfileWriter<W: Write> {
    lines: LineWriter<W>,
    shape: RecordShape,
}

/// What all entries of a run's files of requests have in common.
#[derive(Clone, Debug)]
pub struct RecordShape {
    epoch_ns: u64,
    run_name: String,
    urls: Vec<String>,
    phases: Vec<PhaseShape>,
    tags: Vec<Tag>,
    slos: Vec<Slo>,
    trace: bool,
}

/// The line of a request, and the parts of it.
pub(super) struct Line<'a> {
    shape: &'a RecordShape,
    record: &'a Record,
    pub(super) sent: Duration,
}

pub(super) struct Metadata<'a>(pub(super) &'a Line<'a>);
struct Metrics<'a>(&'a Line<'a>);
struct Trace<'a>(&'a Line<'a>);

/// A metric of one request: a number, or a list of them.
#[derive(serde::Serialize)]
struct Measured<T> {
    value: T,
    unit: &'static str,
}

impl ProfileWriter<File> {
    /// Creates the file.
    pub fn create(path: &Path, shape: RecordShape) -> Result<Self, RecordsError> {
        let file = File::create(path)
            .map_err(|source| RecordsError::Open { path: path.display().to_string(), source })?;
        Ok(Self::new(file, shape))
    }
}

impl<W: Write> ProfileWriter<W> {
    /// Writes to `output`.
    pub fn new(output: W, shape: RecordShape) -> Self {
        Self { lines: LineWriter::new(output), shape }
    }

    /// Takes one request; those that were never sent, or cut off at the end of the run, have no line, as in AIPerf.
    pub fn write(&mut self, record: &Record) -> Result<(), RecordsError> {
        Line::of(&self.shape, record).map_or(Ok(()), |line| self.lines.write(&line))
    }

    /// Writes what is held back. Dropping the writer does so too, but cannot say what went wrong.
    pub fn flush(&mut self) -> Result<(), RecordsError> {
        self.lines.flush()
    }

    #[cfg(test)]
    pub(super) fn output(&self) -> &W {
        &self.lines.output
    }

    /// Lines that are wholly in the file.
    pub fn written(&self) -> u64 {
        self.lines.written()
    }
}

// === impl RecordShape ===

impl RecordShape {
    /// Of a run whose requests and sessions have names that start with `run_name`, as in the headers that were sent.
    /// With objectives, every line says whether its request met them.
    pub fn new(run: &Run, run_name: &str, phases: &[PhaseShape], streaming: bool, slos: &[Slo]) -> Self {
        let there = |tag: &Tag| streaming || tag.needs() == Needs::Nothing;
        Self {
            epoch_ns: run.epoch_ns(),
            run_name: run_name.to_owned(),
            urls: run.urls.clone(),
            phases: phases.to_vec(),
            tags: Tag::ALL.into_iter().filter(there).collect(),
            slos: slos.to_vec(),
            trace: false,
        }
    }

    /// With the times of the socket's events.
    #[must_use]
    pub fn with_trace(mut self, trace: bool) -> Self {
        self.trace = trace;
        self
    }

    pub(super) fn has(&self, tag: Tag) -> bool {
        self.tags.contains(&tag)
    }

    pub(super) fn wall(&self, time: Duration) -> u64 {
        self.epoch_ns + nanoseconds(time)
    }

    fn url(&self, record: &Record) -> Option<&String> {
        self.urls.get(usize::from(record.target))
    }
}

// === impl Line ===

impl<'a> Line<'a> {
    /// Nothing for requests that were never sent, or cut off at the end of the run.
    pub(super) fn of(shape: &'a RecordShape, record: &'a Record) -> Option<Self> {
        let sent = record.begun().filter(|_| record.outcome != Outcome::Incomplete)?;
        Some(Self { shape, record, sent })
    }

    pub(super) fn session_number(&self) -> u64 {
        self.record.session & SESSION_BITS
    }

    /// The file's own name of the session, or one by its number.
    pub(super) fn conversation(&self) -> String {
        conversation_name(self.record.conversation.as_deref(), self.session_number())
    }

    pub(super) fn request_name(&self) -> String {
        format!("{}-{}-{}", self.shape.run_name, self.record.phase, self.record.index)
    }

    pub(super) fn error(&self) -> Option<Object> {
        let Record { outcome, status, .. } = self.record;
        let (kind, message) = (outcome.kind(), outcome.message().to_owned());
        (!outcome.is_success()).then(|| error_json(&ErrorKey { kind, status: *status, message }))
    }
}

/// What a session is called in the files: as in the data, or by its number in its phase.
pub fn conversation_name(own: Option<&str>, number: u64) -> String {
    own.map_or_else(|| format!("session_{:06}", number & SESSION_BITS), ToOwned::to_owned)
}

// === impl Serialize: straight into the file's buffer, because there may be ten thousand lines a second ===

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("metadata", &Metadata(self))?;
        if self.shape.trace {
            line.serialize_entry("trace_data", &Trace(self))?;
        }
        line.serialize_entry("metrics", &Metrics(self))?;
        if let Some(error) = self.error() {
            line.serialize_entry("error", &error)?;
        }
        line.end()
    }
}

impl Serialize for Metrics<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Line { shape, record, .. } = self.0;
        let (mut metrics, mut values) = (serializer.serialize_map(None)?, Vec::new());
        for &tag in &shape.tags {
            values.clear();
            tag.values(record, |value| values.push(tag.number(value)));
            match values.as_slice() {
                [] => {}
                [value, ..] if !tag.is_list() => {
                    metrics.serialize_entry(tag.name(), &Measured { value, unit: tag.unit() })?;
                }
                values => {
                    metrics.serialize_entry(tag.name(), &Measured { value: values, unit: tag.unit() })?
                }
            }
        }
        if record.outcome.is_success() && !shape.slos.is_empty() {
            let good = u8::from(shape.slos.iter().all(|slo| slo.met(record)));
            metrics.serialize_entry("good_request_count", &Measured { value: good, unit: "requests" })?;
        }
        metrics.end()
    }
}

/// Socket events in wall-clock nanoseconds.
impl Serialize for Trace<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Line { shape, record, sent } = *self.0;
        let wall = |time| shape.wall(time);
        let mut trace = serializer.serialize_map(None)?;
        let span = |from: Duration, to: Option<Duration>| Some(nanoseconds(to?.saturating_sub(from)));
        // The fields are those of AIPerf's own client.
        trace.serialize_entry("trace_type", "aiohttp")?;
        if let Some(connect) = record.connect {
            trace.serialize_entry("tcp_connect_start_ns", &wall(sent.saturating_sub(connect)))?;
            trace.serialize_entry("tcp_connect_end_ns", &wall(sent))?;
            trace.serialize_entry("connecting_ns", &nanoseconds(connect))?;
        }
        if record.connection_reused {
            trace.serialize_entry("connection_reused_ns", &wall(sent))?;
        }
        trace.serialize_entry("request_send_start_ns", &wall(sent))?;
        trace.serialize_entry("request_send_end_ns", &record.written.map(wall))?;
        trace.serialize_entry("request_chunks_count", &1)?;
        trace.serialize_entry("request_bytes_total", &record.request_bytes)?;
        trace.serialize_entry("response_status_code", &record.status)?;
        trace.serialize_entry("response_headers_received_ns", &record.headers.map(wall))?;
        trace.serialize_entry("response_receive_start_ns", &record.first_byte.map(wall))?;
        trace.serialize_entry("response_receive_end_ns", &record.first_byte.map(|_| wall(record.done)))?;
        trace.serialize_entry("response_chunks_count", &record.response_reads)?;
        trace.serialize_entry("response_bytes_total", &record.response_bytes)?;
        let url = shape.url(record).map_or("", String::as_str);
        let host = url.split("://").last().and_then(|rest| rest.split('/').next());
        let waiting = record.written.and_then(|written| span(written, record.first_byte));
        let receiving = record.first_byte.and_then(|first| span(first, Some(record.done)));
        trace.serialize_entry("sending_ns", &span(sent, record.written))?;
        trace.serialize_entry("waiting_ns", &waiting)?;
        trace.serialize_entry("receiving_ns", &receiving)?;
        trace
            .serialize_entry("duration_ns", &record.first_byte.and_then(|_| span(sent, Some(record.done))))?;
        trace.serialize_entry("request_headers", &serde_json::json!({ "Host": host }))?;
        trace.end()
    }
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Line { shape: writer, record, sent } = *self.0;
        let phase = usize::from(record.phase);
        let shape = writer.phases.get(phase);
        let kind = if shape.is_none_or(|shape| shape.measured) { "profiling" } else { "warmup" };
        let (run, session) = (&writer.run_name, record.session);
        let wall = |time| writer.wall(time);
        let mut metadata = serializer.serialize_map(None)?;
        metadata.serialize_entry("session_num", &self.0.session_number())?;
        metadata.serialize_entry("x_request_id", &self.0.request_name())?;
        metadata.serialize_entry("x_correlation_id", &format_args!("{run}-{session}"))?;
        metadata.serialize_entry("conversation_id", &self.0.conversation())?;
        metadata.serialize_entry("turn_index", &record.turn)?;
        metadata.serialize_entry("credit_issued_ns", &wall(record.admitted))?;
        metadata.serialize_entry("request_start_ns", &wall(sent))?;
        if let Some(headers) = record.headers {
            metadata.serialize_entry("request_ack_ns", &wall(headers))?;
        }
        metadata.serialize_entry("request_end_ns", &wall(record.done))?;
        metadata.serialize_entry("worker_id", "evenload")?;
        metadata.serialize_entry("record_processor_id", "evenload")?;
        metadata.serialize_entry("benchmark_phase", kind)?;
        metadata.serialize_entry("phase_index", &phase)?;
        if kind == "profiling" {
            let profiling = writer.phases.iter().take(phase).filter(|shape| shape.measured).count();
            metadata.serialize_entry("profiling_index", &profiling)?;
        }
        metadata.serialize_entry("phase_name", shape.map_or("profiling", |shape| &shape.name))?;
        metadata.serialize_entry("phase_kind", kind)?;
        metadata.serialize_entry("was_cancelled", &(record.outcome == Outcome::Cancelled))?;
        if record.outcome == Outcome::Cancelled {
            metadata.serialize_entry("cancellation_time_ns", &wall(record.done))?;
        }
        metadata.serialize_entry("context_overflow_skip", &false)?;
        metadata.serialize_entry("agent_depth", &0)?;
        metadata.serialize_entry("root_correlation_id", &format_args!("{run}-{session}"))?;
        metadata.serialize_entry("scheduled_ns", &wall(record.scheduled))?;
        metadata.serialize_entry("url_index", &record.target)?;
        metadata.serialize_entry("url", &writer.url(record))?;
        metadata.serialize_entry("model", &*record.model)?;
        metadata.end()
    }
}
