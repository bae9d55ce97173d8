//! What is kept of the requests of a run: figures in bounded memory, lines in files.
//!
//! A file that takes no more costs its own lines only: the run goes on, and the first thing that could not be written is
//! kept for the end.

use std::{collections::BTreeMap, fs::File, sync::Arc, time::Duration};

use loadgen::{AnswerText, Control};
use protocol::SseSplitter;
use report::{
    Objective, Record, RecordWriter, Recorder, RunShape,
    inference_perf::{Collector, EntryBodies, EntryFields, SessionCollector, Settings, entry},
};
use workload::inference_perf::{Config, LoadType, Shard};

use super::{
    breaker::Breaker,
    files::{Array, Folder},
};

/// The file of single requests.
pub(super) const ENTRIES: &str = "per_request_lifecycle_metrics.json";

/// Everything that is kept of a run's requests.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) settings: Arc<Settings>,
    pub(super) total: Collector,
    pub(super) stages: Vec<Collector>,
    pub(super) adapters: BTreeMap<String, Collector>,
    pub(super) adapter_stages: BTreeMap<(String, u16), Collector>,
    pub(super) sessions: Option<SessionCollector>,
    pub(super) recorder: Recorder,
    pub(super) breakers: Vec<Breaker>,
    /// Why a circuit breaker has opened.
    pub(super) opened: Option<String>,
    /// The first thing that could not be written.
    pub(super) problem: Option<anyhow::Error>,
    names: Vec<String>,
    urls: Vec<String>,
    entries: Option<Array>,
    fields: EntryFields,
    chunks: bool,
    records: Option<RecordWriter<File>>,
    shard: Shard,
}

/// Where a stage stands on the clock of the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub(super) stage: u16,
    /// Start of the stage's own clock.
    pub(super) offset: Duration,
    /// Sessions have several turns, so that requests cannot be counted by shards.
    pub(super) has_sessions: bool,
}

impl Books {
    /// Opens the files of single requests, as the configuration asks for them.
    pub(super) fn open(
        config: &Config,
        shape: &RunShape,
        adapters: &[String],
        folder: &Folder,
        shard: Shard,
        breakers: Vec<Breaker>,
    ) -> anyhow::Result<Self> {
        let settings = Arc::new(settings(config));
        let collector = || Collector::new(Arc::clone(&settings));
        let wanted = &config.report.request_lifecycle;
        let fields = &wanted.per_request_fields;
        let sessions = config.load.r#type == LoadType::TraceSessionReplay;
        let stages = shape.phases.len();
        let mut books = Self {
            total: collector(),
            stages: (0..stages).map(|_| collector()).collect(),
            adapters: adapters.iter().map(|name| (name.clone(), collector())).collect(),
            adapter_stages: BTreeMap::new(),
            sessions: sessions.then(|| SessionCollector::new(Arc::clone(&settings))),
            recorder: Recorder::new(shape.clone(), Vec::<Objective>::new()),
            breakers,
            opened: None,
            problem: None,
            names: adapters.to_vec(),
            urls: shape.targets.clone(),
            entries: wanted.per_request.then(|| folder.array(ENTRIES)).transpose()?,
            fields: EntryFields {
                request: fields.request,
                response: fields.response,
                info: fields.info,
                computed_metrics: fields.computed_metrics,
            },
            chunks: wanted.per_request && fields.response_chunks,
            records: None,
            shard,
            settings,
        };
        if config.evenload.records {
            books.records = Some(RecordWriter::create(&folder.file("records.jsonl"), shape)?);
        }
        for name in &books.names {
            for stage in 0..stages {
                let collector = Collector::new(Arc::clone(&books.settings));
                books.adapter_stages.insert((name.clone(), stage as u16), collector);
            }
        }
        Ok(books)
    }

    /// Takes a request of a stage.
    pub(super) fn take(
        &mut self,
        mut record: Record,
        text: Option<&AnswerText>,
        placed: Placed,
        control: &Control,
    ) {
        shift(&mut record, placed.offset);
        record.phase = placed.stage;
        if !placed.has_sessions {
            record.index = record.index * u64::from(self.shard.count) + u64::from(self.shard.index);
        }
        self.keep(&record);
        if self.entries.is_some() || !self.breakers.is_empty() {
            self.take_entry(&record, text, control);
        }
    }

    /// Takes a request whose times, stage and index are right.
    pub(super) fn keep(&mut self, record: &Record) {
        self.count(record);
        if let Some(records) = &mut self.records
            && let Err(error) = records.write(record)
        {
            self.problem.get_or_insert(error.into());
            self.records = None;
        }
    }

    fn count(&mut self, record: &Record) {
        self.total.push(record);
        if let Some(stage) = self.stages.get_mut(usize::from(record.phase)) {
            stage.push(record);
        }
        if let Some(adapter) = self.adapters.get_mut(&*record.model) {
            adapter.push(record);
            let key = (record.model.to_string(), record.phase);
            if let Some(stage) = self.adapter_stages.get_mut(&key) {
                stage.push(record);
            }
        }
        if let Some(sessions) = &mut self.sessions {
            sessions.push(record);
        }
        self.recorder.push(record);
    }

    fn take_entry(&mut self, record: &Record, text: Option<&AnswerText>, control: &Control) {
        let bodies = text.and_then(|text| text.bodies.as_deref());
        let request = bodies.map(|bodies| String::from_utf8_lossy(&bodies.request)).unwrap_or_default();
        let response = bodies.map(|bodies| String::from_utf8_lossy(&bodies.answer)).unwrap_or_default();
        let chunks = self.chunks.then(|| events(response.as_bytes()));
        let bodies = EntryBodies {
            request: &request,
            response: &response,
            chunks: chunks.as_deref(),
            url: self.urls.get(usize::from(record.target)).map_or("", String::as_str),
            is_adapter: self.names.iter().any(|name| **name == *record.model),
        };
        let Some(found) = entry(record, bodies, self.fields, &self.settings) else { return };
        if let Some(entries) = &mut self.entries
            && let Err(error) = entries.push(&found)
        {
            self.problem.get_or_insert(error);
            self.entries = None;
        }
        if self.opened.is_none() && !self.breakers.is_empty() {
            let value = serde_json::to_value(&found).unwrap_or_default();
            self.opened = self.breakers.iter_mut().find_map(|breaker| breaker.look(&value, record.done));
            if self.opened.is_some() {
                control.stop();
            }
        }
    }

    /// Writes what is held back.
    pub(super) fn finish(&mut self) {
        let entries = self.entries.as_mut().map_or(Ok(()), Array::finish);
        let records = self.records.as_mut().map_or(Ok(()), |records| Ok(records.flush()?));
        for result in [entries, records] {
            if let Err(error) = result {
                self.problem.get_or_insert(error);
            }
        }
    }
}

/// What decides over the figures, from the configuration.
pub(super) fn settings(config: &Config) -> Settings {
    let wanted = &config.report.request_lifecycle;
    Settings {
        streaming: config.api.streaming,
        percentiles: wanted.percentiles.clone(),
        constraints: config.report.goodput.iter().flat_map(|goodput| goodput.constraints.clone()).collect(),
        header_limits: config.api.header_objectives(),
        error_messages: wanted.max_error_messages as usize,
    }
}

/// Moves all times of a record.
pub(super) fn shift(record: &mut Record, by: Duration) {
    for time in [&mut record.scheduled, &mut record.admitted, &mut record.done] {
        *time += by;
    }
    let reached = [&mut record.sent, &mut record.written, &mut record.headers, &mut record.first_answer];
    for time in reached.into_iter().flatten() {
        *time += by;
    }
    record.chunks.iter_mut().for_each(|chunk| chunk.at += by);
}

/// The data of the events of a stream; a body that is none has none.
fn events(body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    if !body.trim_ascii_start().starts_with(b"{") {
        let mut splitter = SseSplitter::new();
        let mut keep = |data: &[u8]| found.push(String::from_utf8_lossy(data).into_owned());
        splitter.feed(body, |event| keep(event.data));
        splitter.finish(|event| keep(event.data));
    }
    found
}
