//! `profile_export.jsonl`: one line a request, written while the run goes on.

use std::{fs::File, io::Write, path::Path, time::Duration};

use super::{
    Tag,
    json::{Run, error_json},
    tag::Needs,
};
use crate::{
    ErrorKey, Object, Outcome, PhaseShape, Record, RecordsError, distribution::nanoseconds, lines::LineWriter,
};

/// Writes the line of each request.
#[derive(Debug)]
pub struct ProfileWriter<W: Write> {
    lines: LineWriter<W>,
    epoch_ns: u64,
    run_name: String,
    urls: Vec<String>,
    phases: Vec<PhaseShape>,
    tags: Vec<Tag>,
    trace: bool,
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
            epoch_ns: run.epoch_ns(),
            run_name: run_name.to_owned(),
            urls: run.urls.clone(),
            phases: phases.to_vec(),
            tags: Tag::ALL.into_iter().filter(there).collect(),
            trace,
        }
    }

    /// Takes one request; those that were never sent have no line, as in AIPerf.
    pub fn write(&mut self, record: &Record) -> Result<(), RecordsError> {
        let Some(sent) = record.begun() else { return Ok(()) };
        let mut line = Object::default();
        line.set("metadata", self.metadata(record, nanoseconds(sent)));
        let (mut metrics, mut values) = (Object::default(), Vec::new());
        for &tag in &self.tags {
            values.clear();
            tag.values(record, |value| values.push(value));
            if !values.is_empty() {
                metrics.set(tag.name(), tag.record_json(&values));
            }
        }
        if self.trace {
            line.set("trace_data", self.trace(record, sent));
        }
        line.set("metrics", metrics);
        if !record.outcome.is_success() {
            let message = record.outcome.message().to_owned();
            line.set(
                "error",
                error_json(&ErrorKey { kind: record.outcome.kind(), status: record.status, message }),
            );
        }
        self.lines.write(&line)
    }

    /// Writes what is held back. Dropping the writer does so too, but cannot say what went wrong.
    pub fn flush(&mut self) -> Result<(), RecordsError> {
        self.lines.flush()
    }

    /// Lines that are wholly in the file.
    pub fn written(&self) -> u64 {
        self.lines.written()
    }

    /// Socket events in wall-clock nanoseconds.
    fn trace(&self, record: &Record, sent: Duration) -> Object {
        let wall = |time: Duration| self.epoch_ns + nanoseconds(time);
        let mut trace = Object::default();
        trace.set("trace_type", "evenload");
        if let Some(connect) = record.connect {
            trace.set("tcp_connect_start_ns", wall(sent.saturating_sub(connect)));
            trace.set("tcp_connect_end_ns", wall(sent));
        }
        if record.connection_reused {
            trace.set("connection_reused_ns", wall(sent));
        }
        trace.set("request_send_start_ns", wall(sent));
        trace.set("request_send_end_ns", record.written.map(wall));
        trace.set("request_bytes_total", record.request_bytes);
        trace.set("response_status_code", record.status);
        trace.set("response_receive_start_ns", record.headers.map(wall));
        trace.set("response_receive_end_ns", wall(record.done));
        trace.set("response_chunks_count", record.chunks.len());
        trace.set("response_bytes_total", record.response_bytes);
        let url = self.urls.get(usize::from(record.target)).map_or("", String::as_str);
        let host = url.split("://").last().and_then(|rest| rest.split('/').next());
        trace.set("request_headers", serde_json::json!({ "Host": host }));
        trace
    }

    fn metadata(&self, record: &Record, sent: u64) -> Object {
        let phase = usize::from(record.phase);
        let shape = self.phases.get(phase);
        let kind = if shape.is_none_or(|shape| shape.measured) { "profiling" } else { "warmup" };
        let profiling = self.phases.iter().take(phase).filter(|shape| shape.measured).count();
        let session = format!("{}-{}", self.run_name, record.session);
        let wall = |time| self.epoch_ns + nanoseconds(time);
        let mut metadata = Object::default();
        metadata.set("session_num", record.session);
        metadata.set("x_request_id", format!("{}-{}-{}", self.run_name, record.phase, record.index));
        metadata.set("x_correlation_id", &session);
        metadata.set("conversation_id", format!("session_{:06}", record.session));
        metadata.set("turn_index", record.turn);
        metadata.set("credit_issued_ns", wall(record.admitted));
        metadata.set("request_start_ns", self.epoch_ns + sent);
        if let Some(headers) = record.headers {
            metadata.set("request_ack_ns", wall(headers));
        }
        metadata.set("request_end_ns", wall(record.done));
        metadata.set("worker_id", "evenload");
        metadata.set("record_processor_id", "evenload");
        metadata.set("benchmark_phase", kind);
        metadata.set("phase_index", phase);
        if kind == "profiling" {
            metadata.set("profiling_index", profiling);
        }
        metadata.set("phase_name", shape.map_or("profiling", |shape| &shape.name));
        metadata.set("phase_kind", kind);
        metadata.set("was_cancelled", record.outcome == Outcome::Cancelled);
        if record.outcome == Outcome::Cancelled {
            metadata.set("cancellation_time_ns", wall(record.done));
        }
        metadata.set("context_overflow_skip", false);
        metadata.set("agent_depth", 0);
        metadata.set("root_correlation_id", &session);
        metadata.set("scheduled_ns", wall(record.scheduled));
        metadata.set("url_index", record.target);
        metadata.set("url", self.urls.get(usize::from(record.target)));
        metadata.set("model", &*record.model);
        metadata
    }
}
