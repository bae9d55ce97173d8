//! Takes the records of a run as they come: figures in bounded memory, lines to files.
//!
//! A file that takes no more (a full disk) costs its own lines only: the run goes on, the figures are whole, and the
//! first thing that went wrong is kept for the end.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, anyhow};
use loadgen::{AnswerText, Bodies};
use report::{
    Objective, PhaseShape, Record, Recorder, RunShape,
    aiperf::{Collector, ProfileWriter, RecordShape, Run, Slices, Slo, Wire},
};
use serde::Serialize;
use workload::Tokenizer;

use super::{Arguments, files::Files, flags::ExportLevel, plan::Made};
use crate::commands::counting::count_answer;

/// What is taken of a run.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) recorder: Recorder,
    pub(super) measured: Collector,
    pub(super) warm_up: Collector,
    pub(super) by_target: Vec<Collector>,
    pub(super) slices: Option<Slices>,
    /// The first and the last session of the measured phases.
    pub(super) sessions: Option<(u64, u64)>,
    /// The first thing that could not be written.
    pub(super) problem: Option<anyhow::Error>,
    shapes: Vec<PhaseShape>,
    shape: RecordShape,
    lines: Option<ProfileWriter<File>>,
    raw: Option<Lines>,
    outputs: Option<Lines>,
}

/// A file of JSON lines, or of the items of a list.
#[derive(Debug)]
struct Lines {
    name: String,
    file: BufWriter<File>,
    separator: &'static str,
    end: &'static str,
    written: u64,
}

impl Recording {
    /// Opens the files of the records, as the flags ask for them.
    pub(super) fn begin(
        arguments: &Arguments,
        files: &Files,
        run: &Run,
        made: &Made,
    ) -> anyhow::Result<Self> {
        let (shapes, replays) = (&made.shapes, made.replays);
        let output = &arguments.output;
        let (streams, slos) = (arguments.endpoint.streams(), output.slos());
        let shape = RunShape { phases: shapes.clone(), targets: run.urls.clone() };
        let objectives: Vec<Objective> = slos.iter().filter_map(|slo| Slo::objective(*slo)).collect();
        let plain = Collector::new(streams, slos.clone());
        let record_shape = RecordShape::new(run, &run.id, shapes, streams, &slos);
        let level = output.export_level;
        let lines = (level >= ExportLevel::Records).then(|| {
            let shape = record_shape.clone().with_trace(output.export_http_trace);
            ProfileWriter::create(&files.records(), shape)
        });
        let raw = (level == ExportLevel::Raw).then(|| Lines::create(&files.raw(), "", "\n", ""));
        let outputs = output.export_outputs_json.then(|| {
            Lines::create(&files.outputs(), "{\"schema_version\":\"1.0\",\"data\":[\n", ",\n", "\n]}\n")
        });
        Ok(Self {
            recorder: Recorder::new(shape, objectives),
            slices: output.slice_duration.map(|width| Slices::new(width, plain.clone())),
            by_target: vec![Collector::for_target(streams, slos); run.urls.len()],
            measured: if replays { plain.clone().of_replay() } else { plain.clone() }.over_time(),
            warm_up: plain,
            sessions: None,
            problem: None,
            shapes: shapes.clone(),
            shape: record_shape,
            lines: lines.transpose()?,
            raw: raw.transpose()?,
            outputs: outputs.transpose()?,
        })
    }

    /// Takes one record. `counter` counts its answer, beside the server or instead of it.
    pub(super) fn take(&mut self, mut record: Record, text: Option<AnswerText>, counter: Option<&Tokenizer>) {
        if let (Some(counter), Some(text), true) = (counter, &text, record.outcome.is_success()) {
            count_answer(&mut record, text, counter);
        }
        let record = &record;
        self.recorder.push(record);
        let measured = self.shapes.get(usize::from(record.phase)).is_none_or(|shape| shape.measured);
        if measured {
            self.measured.push(record);
            let (first, last) = self.sessions.unwrap_or((record.session, record.session));
            self.sessions = Some((first.min(record.session), last.max(record.session)));
            if let Some(target) = self.by_target.get_mut(usize::from(record.target)) {
                target.push(record);
            }
            if let Some(slices) = &mut self.slices {
                slices.push(record);
            }
        } else {
            self.warm_up.push(record);
        }
        let written = self
            .lines
            .as_mut()
            .map_or(Ok(()), |lines| lines.write(record).map_err(|error| anyhow!("{error}")));
        self.heed(written);
        if let Some(text) = text {
            let raw = self.raw.as_mut().map_or(Ok(()), |lines| {
                let raw = text.bodies.as_deref().and_then(|bodies| self.shape.raw(record, wire(bodies)));
                raw.map_or(Ok(()), |raw| lines.write(&raw))
            });
            self.heed(raw);
            let output = self.outputs.as_mut().filter(|_| measured).map_or(Ok(()), |lines| {
                let output = self.shape.output(record, &format!("{}{}", text.reasoning, text.text));
                output.map_or(Ok(()), |output| lines.write(&output))
            });
            self.heed(output);
        }
    }

    /// Writes what is held back.
    pub(super) fn finish(&mut self) {
        let flushed =
            self.lines.as_mut().map_or(Ok(()), |lines| lines.flush().map_err(|error| anyhow!("{error}")));
        self.heed(flushed);
        for lines in [self.raw.as_mut(), self.outputs.as_mut()].into_iter().flatten() {
            let finished = lines.finish();
            if let (None, Err(error)) = (&self.problem, finished) {
                self.problem = Some(error);
            }
        }
    }

    /// Lines of requests that are wholly in their file.
    pub(super) fn lines_written(&self) -> Option<u64> {
        self.lines.as_ref().map(ProfileWriter::written)
    }

    fn heed(&mut self, written: anyhow::Result<()>) {
        if let (None, Err(error)) = (&self.problem, written) {
            // Said at once, and again with the figures.
            tracing::error!("{error:#}; the run goes on without these lines");
            self.problem = Some(error);
        }
    }
}

fn wire(bodies: &Bodies) -> Wire<'_> {
    let Bodies { request, answer, events, reads } = bodies;
    Wire { request, answer, events: *events, reads }
}

impl Lines {
    fn create(path: &Path, begin: &str, separator: &'static str, end: &'static str) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let file = File::create(path).with_context(|| format!("cannot create {name}"))?;
        let mut lines = Self { name, file: BufWriter::new(file), separator, end, written: 0 };
        lines.put(begin)?;
        Ok(lines)
    }

    fn write(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let line = serde_json::to_string(value)?;
        if self.written > 0 {
            self.put(self.separator)?;
        }
        self.put(&line)?;
        self.written += 1;
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.put(if self.end.is_empty() { "\n" } else { self.end })?;
        self.file.flush().with_context(|| format!("cannot write {}", self.name))
    }

    fn put(&mut self, text: &str) -> anyhow::Result<()> {
        self.file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", self.name))
    }
}
