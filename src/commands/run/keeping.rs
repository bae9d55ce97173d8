//! Takes the requests of a run: counts them, writes their lines, and shows them to the circuit breakers.
//!
//! A file that takes no more costs its own lines only: the run goes on, and the first thing that could not be written
//! is kept for the end.

use std::{fs::File, time::Duration};

use loadgen::{AnswerText, Control};
use report::{
    Record, RecordWriter, RunShape,
    inference_perf::{Books, EntryBodies, EntryFields, Settings, entry},
};
use workload::inference_perf::{Breaker, Config, LoadType, Shard};

use super::files::{Array, Folder};

/// The file of single requests.
pub(super) const ENTRIES: &str = "per_request_lifecycle_metrics.json";
/// The file of everything measured.
pub(super) const RECORDS: &str = "records.jsonl";

/// The requests of a run, on their way into the books and the files.
#[derive(Debug)]
pub(super) struct Keeping {
    pub(super) books: Books,
    /// Why a circuit breaker has opened.
    pub(super) opened: Option<String>,
    /// The first thing that could not be written.
    pub(super) problem: Option<anyhow::Error>,
    breakers: Vec<Breaker>,
    urls: Vec<String>,
    entries: Option<Array>,
    fields: EntryFields,
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

impl Keeping {
    /// Opens the files of single requests, as the configuration asks for them.
    pub(super) fn open(
        config: &Config,
        shape: &RunShape,
        adapters: &[String],
        folder: &Folder,
        shard: Shard,
        breakers: Vec<Breaker>,
    ) -> anyhow::Result<Self> {
        let has_sessions = config.load.r#type == LoadType::TraceSessionReplay;
        let wanted = &config.report.request_lifecycle;
        let fields = &wanted.per_request_fields;
        let records = config.evenload.records.then(|| RecordWriter::create(&folder.file(RECORDS), shape));
        Ok(Self {
            books: Books::new(settings(config), shape, adapters, has_sessions),
            opened: None,
            problem: None,
            breakers,
            urls: shape.targets.clone(),
            entries: wanted.per_request.then(|| folder.array(ENTRIES)).transpose()?,
            fields: EntryFields {
                request: fields.request,
                response: fields.response,
                info: fields.info,
                response_chunks: wanted.per_request && fields.response_chunks,
                computed_metrics: fields.computed_metrics,
            },
            records: records.transpose()?,
            shard,
        })
    }

    /// Takes a request of a stage. One that opens a circuit breaker stops the stage.
    pub(super) fn take(
        &mut self,
        mut record: Record,
        text: Option<&AnswerText>,
        placed: Placed,
        control: &Control,
    ) {
        record.shift(placed.offset);
        record.phase = placed.stage;
        if !placed.has_sessions {
            record.index = self.shard.number(record.index);
        }
        self.keep(&record);
        if self.entries.is_some() || !self.breakers.is_empty() {
            self.take_entry(&record, text, control);
        }
    }

    /// Takes a request whose times, stage and index are right.
    pub(super) fn keep(&mut self, record: &Record) {
        self.books.push(record);
        if let Some(records) = &mut self.records
            && let Err(error) = records.write(record)
        {
            self.problem.get_or_insert(error.into());
            self.records = None;
        }
    }

    fn take_entry(&mut self, record: &Record, text: Option<&AnswerText>, control: &Control) {
        let bodies = text.and_then(|text| text.bodies.as_deref());
        let request = bodies.map(|bodies| String::from_utf8_lossy(&bodies.request)).unwrap_or_default();
        let response = bodies.map(|bodies| String::from_utf8_lossy(&bodies.answer)).unwrap_or_default();
        let bodies = EntryBodies {
            request: &request,
            response: &response,
            url: self.urls.get(usize::from(record.target)).map_or("", String::as_str),
            is_adapter: self.books.is_adapter(&record.model),
        };
        let Some(found) = entry(record, bodies, self.fields, self.books.settings()) else { return };
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
fn settings(config: &Config) -> Settings {
    let wanted = &config.report.request_lifecycle;
    Settings {
        streaming: config.api.streaming,
        percentiles: wanted.percentiles.clone(),
        constraints: config.report.goodput.iter().flat_map(|goodput| goodput.constraints.clone()).collect(),
        header_limits: config.api.header_objectives(),
        error_messages: wanted.max_error_messages as usize,
        has_sessions: config.data.has_sessions(),
    }
}
