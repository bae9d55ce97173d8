//! `profile_export.jsonl`: one line a request, written while the run goes on.

use std::{fs::File, io::Write, path::Path, time::Duration};

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    Tag,
    json::{Run, error_json},
    tag::Needs,
};
use crate::{
    ErrorKey, Outcome, PhaseShape, Record, RecordsError, distribution::nanoseconds, lines::LineWriter,
};

/// Writes the line of each request.
#[derive(Debug)]
pub struct ProfileWriter<W: Write> {
    lines: LineWriter<W>,
    shape: Shape,
}

/// What all lines have in common.
#[derive(Debug)]
struct Shape {
    epoch_ns: u64,
    run_name: String,
    urls: Vec<String>,
    phases: Vec<PhaseShape>,
    tags: Vec<Tag>,
    trace: bool,
}

/// The line of a request, and the parts of it.
struct Line<'a> {
    shape: &'a Shape,
    record: &'a Record,
    sent: Duration,
}

struct Metadata<'a>(&'a Line<'a>);
struct Metrics<'a>(&'a Line<'a>);
struct Trace<'a>(&'a Line<'a>);

/// A metric of one request: a number, or a list of them.
#[derive(serde::Serialize)]
struct Measured<'a, T: ?Sized> {
    value: &'a T,
    unit: &'static str,
}

impl ProfileWriter<File> {
    /// Creates the file. `run_name` starts the names of requests and sessions, as in the headers that were sent.
    pub fn create(
        path: &Path,
        run: &Run,
        run_name: &str,
        phases: &[PhaseShape],
        streaming: bool,
        trace: bool,
    ) -> Result<Self, RecordsError> {
        let file = File::create(path)
            .map_err(|source| RecordsError::Open { path: path.display().to_string(), source })?;
        Ok(Self::new(file, run, run_name, phases, streaming, trace))
    }
}

impl<W: Write> ProfileWriter<W> {
    /// Writes to `output`.
    pub fn new(
        output: W,
        run: &Run,
        run_name: &str,
        phases: &[PhaseShape],
        streaming: bool,
        trace: bool,
    ) -> Self {
        let there = |tag: &Tag| streaming || tag.needs() == Needs::Nothing;
        Self {
            lines: LineWriter::new(output),
            shape: Shape {
                epoch_ns: run.epoch_ns(),
                run_name: run_name.to_owned(),
                urls: run.urls.clone(),
                phases: phases.to_vec(),
                tags: Tag::ALL.into_iter().filter(there).collect(),
                trace,
            },
        }
    }

    /// Takes one request; those that were never sent, or cut off at the end of the run, have no line, as in AIPerf.
    pub fn write(&mut self, record: &Record) -> Result<(), RecordsError> {
        let Some(sent) = record.begun().filter(|_| record.outcome != Outcome::Incomplete) else {
            return Ok(());
        };
        self.lines.write(&Line { shape: &self.shape, record, sent })
    }

    /// Writes what is held back. Dropping the writer does so too, but cannot say what went wrong.
    pub fn flush(&mut self) -> Result<(), RecordsError> {
        self.lines.flush()
    }

    /// Lines that are wholly in the file.
    pub fn written(&self) -> u64 {
        self.lines.written()
    }
}

// === impl Serialize: straight into the file's buffer, because there may be ten thousand lines a second ===

impl Shape {
    fn wall(&self, time: Duration) -> u64 {
        self.epoch_ns + nanoseconds(time)
    }

    fn url(&self, record: &Record) -> Option<&String> {
        self.urls.get(usize::from(record.target))
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { shape, record, .. } = self;
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("metadata", &Metadata(self))?;
        if shape.trace {
            line.serialize_entry("trace_data", &Trace(self))?;
        }
        line.serialize_entry("metrics", &Metrics(self))?;
        if !record.outcome.is_success() {
            let (kind, message) = (record.outcome.kind(), record.outcome.message().to_owned());
            line.serialize_entry("error", &error_json(&ErrorKey { kind, status: record.status, message }))?;
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
            tag.values(record, |value| values.push(value as f64 / tag.scale() - tag.offset()));
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
        metrics.end()
    }
}

/// Socket events in wall-clock nanoseconds.
impl Serialize for Trace<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Line { shape, record, sent } = *self.0;
        let wall = |time| shape.wall(time);
        let mut trace = serializer.serialize_map(None)?;
        trace.serialize_entry("trace_type", "evenload")?;
        if let Some(connect) = record.connect {
            trace.serialize_entry("tcp_connect_start_ns", &wall(sent.saturating_sub(connect)))?;
            trace.serialize_entry("tcp_connect_end_ns", &wall(sent))?;
        }
        if record.connection_reused {
            trace.serialize_entry("connection_reused_ns", &wall(sent))?;
        }
        trace.serialize_entry("request_send_start_ns", &wall(sent))?;
        trace.serialize_entry("request_send_end_ns", &record.written.map(wall))?;
        trace.serialize_entry("request_bytes_total", &record.request_bytes)?;
        trace.serialize_entry("response_status_code", &record.status)?;
        trace.serialize_entry("response_receive_start_ns", &record.headers.map(wall))?;
        trace.serialize_entry("response_receive_end_ns", &wall(record.done))?;
        trace.serialize_entry("response_chunks_count", &record.chunks.len())?;
        trace.serialize_entry("response_bytes_total", &record.response_bytes)?;
        let url = shape.url(record).map_or("", String::as_str);
        let host = url.split("://").last().and_then(|rest| rest.split('/').next());
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
        metadata.serialize_entry("session_num", &session)?;
        metadata.serialize_entry("x_request_id", &format_args!("{run}-{}-{}", record.phase, record.index))?;
        metadata.serialize_entry("x_correlation_id", &format_args!("{run}-{session}"))?;
        metadata.serialize_entry("conversation_id", &format_args!("session_{session:06}"))?;
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
