//! Records as a file: JSON Lines, one request a line, everything that a [`Record`] holds.
//!
//! The first line names the format and the shape of the run, so that all figures can be worked out again from
//! the file alone. Times are whole nanoseconds of the run's clock; of the payload events, the first is given from
//! the first byte sent and the others as gaps. Absent values are left out. A full disk is an error that says how
//! many records are in the file; what is held in memory is written once there is room again.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    Chunk, Count, CountSource, Outcome, Record, RunShape, distribution::nanoseconds, lines::LineWriter,
};

/// The longest line that is read.
const LINE_BYTES: u64 = 64 * 1024 * 1024;
/// The version in the first line.
const FORMAT_VERSION: u32 = 1;

/// What can go wrong with a file of records.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The file could not be opened or created.
    #[error("cannot open {path}: {source}")]
    Open {
        /// Which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file took no more.
    #[error(
        "cannot write records: {source}; {written} are in the file, {held} are held in memory; free some space"
    )]
    Write {
        /// Records that are wholly in the file.
        written: u64,
        /// Records that wait for the next write.
        held: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be read on.
    #[error("cannot read records, line {line}: {source}")]
    Read {
        /// From 1.
        line: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not a record; the last line of a run that was killed may be cut off.
    #[error("not a record, line {line}: {reason}")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// Writes records to a file.
#[derive(Debug)]
pub struct RecordWriter<W: Write>(LineWriter<W>);

/// Reads records from a file.
#[derive(Debug)]
pub struct RecordReader<R> {
    input: R,
    line: u64,
    shape: RunShape,
    model: Arc<str>,
}

#[derive(Deserialize, Serialize)]
struct Header {
    evenload_records: u32,
    #[serde(flatten)]
    shape: RunShape,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line {
    phase: u16,
    index: u64,
    session: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    conversation: Option<Arc<str>>,
    turn: u32,
    target: u16,
    model: Arc<str>,
    scheduled_ns: u64,
    admitted_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    headers_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_answer_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_ns: Option<u64>,
    done_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ttft_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gaps_ns: Vec<u64>,
    /// Only where an event holds more or less than one token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chunk_tokens: Vec<u32>,
    connection_reused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connect_ns: Option<u64>,
    input_tokens: u32,
    input_source: CountSource,
    output_tokens: u32,
    output_source: CountSource,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reasoning_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requested_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    own_input_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    own_output_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    own_reasoning_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "is_zero")]
    request_bytes: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    response_bytes: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    response_reads: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_byte_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    retries: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    retried_for_ns: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    session_wait_ns: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    core_wait_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    outcome: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

// === impl RecordWriter ===

impl RecordWriter<File> {
    /// Creates the file, replacing one that is there.
    pub fn create(path: &Path, shape: &RunShape) -> Result<Self, RecordsError> {
        let file = File::create(path)
            .map_err(|source| RecordsError::Open { path: path.display().to_string(), source })?;
        Ok(Self::new(file, shape))
    }
}

impl<W: Write> RecordWriter<W> {
    /// Writes to `output`; nothing is written before the buffer is full or flushed.
    pub fn new(output: W, shape: &RunShape) -> Self {
        let mut lines = LineWriter::new(output);
        lines.head(&Header { evenload_records: FORMAT_VERSION, shape: shape.clone() });
        Self(lines)
    }

    /// Takes one record. On an error it is not taken.
    pub fn write(&mut self, record: &Record) -> Result<(), RecordsError> {
        self.0.write(&Line::from(record))
    }

    /// Writes what is held back. Dropping the writer does so too, but cannot say what went wrong.
    pub fn flush(&mut self) -> Result<(), RecordsError> {
        self.0.flush()
    }

    /// Records that are wholly in the file.
    pub fn written(&self) -> u64 {
        self.0.written()
    }
}

// === impl RecordReader ===

impl RecordReader<BufReader<File>> {
    /// Opens a file and reads its first line.
    pub fn open(path: &Path) -> Result<Self, RecordsError> {
        let file = File::open(path)
            .map_err(|source| RecordsError::Open { path: path.display().to_string(), source })?;
        Self::new(BufReader::new(file))
    }
}

impl<R: BufRead> RecordReader<R> {
    /// Reads the first line of `input`.
    pub fn new(input: R) -> Result<Self, RecordsError> {
        let mut reader = Self { input, line: 0, shape: RunShape::default(), model: Arc::from("") };
        let line = reader.next_line()?.unwrap_or_default();
        let header: Header = serde_json::from_slice(&line)
            .map_err(|error| reader.bad(format!("the first line does not name the format: {error}")))?;
        if header.evenload_records != FORMAT_VERSION {
            let version = header.evenload_records;
            return Err(reader.bad(format!("format version {version}, this program reads {FORMAT_VERSION}")));
        }
        reader.shape = header.shape;
        Ok(reader)
    }

    /// What the run consisted of.
    pub fn shape(&self) -> &RunShape {
        &self.shape
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, RecordsError> {
        self.line += 1;
        let mut line = Vec::new();
        let mut limited = (&mut self.input).take(LINE_BYTES);
        match limited.read_until(b'\n', &mut line) {
            Err(source) => Err(RecordsError::Read { line: self.line, source }),
            Ok(0) => Ok(None),
            Ok(_) if line.ends_with(b"\n") => Ok(Some(line)),
            Ok(_) => Err(self.bad("cut off before its end".to_owned())),
        }
    }

    fn bad(&self, reason: String) -> RecordsError {
        RecordsError::Line { line: self.line, reason }
    }

    fn next_record(&mut self) -> Result<Option<Record>, RecordsError> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        let line: Line = serde_json::from_slice(&line).map_err(|error| self.bad(error.to_string()))?;
        let mut record = Record::try_from(line).map_err(|reason| self.bad(reason))?;
        if record.model == self.model {
            record.model = Arc::clone(&self.model);
        } else {
            self.model = Arc::clone(&record.model);
        }
        Ok(Some(record))
    }
}

impl<R: BufRead> Iterator for RecordReader<R> {
    type Item = Result<Record, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().transpose()
    }
}

// === impl Line ===

impl From<&Record> for Line {
    fn from(record: &Record) -> Self {
        let start = record.sent.unwrap_or_default();
        let plain = record.chunks.iter().all(|chunk| chunk.tokens == 1);
        let tokens = record.chunks.iter().map(|chunk| chunk.tokens);
        Self {
            phase: record.phase,
            index: record.index,
            session: record.session,
            conversation: record.conversation.clone(),
            turn: record.turn,
            target: record.target,
            model: Arc::clone(&record.model),
            scheduled_ns: nanoseconds(record.scheduled),
            admitted_ns: nanoseconds(record.admitted),
            sent_ns: record.sent.map(nanoseconds),
            written_ns: record.written.map(nanoseconds),
            headers_ns: record.headers.map(nanoseconds),
            first_answer_ns: record.first_answer.map(nanoseconds),
            ended_ns: record.ended.map(nanoseconds),
            done_ns: nanoseconds(record.done),
            ttft_ns: record.first_chunk().map(|at| nanoseconds(at.saturating_sub(start))),
            gaps_ns: record.gaps().map(nanoseconds).collect(),
            chunk_tokens: if plain { Vec::new() } else { tokens.collect() },
            connection_reused: record.connection_reused,
            connect_ns: record.connect.map(nanoseconds),
            input_tokens: record.input_tokens.tokens,
            input_source: record.input_tokens.source,
            output_tokens: record.output_tokens.tokens,
            output_source: record.output_tokens.source,
            reasoning_tokens: record.reasoning_tokens,
            cached_tokens: record.cached_tokens,
            requested_tokens: record.requested_tokens,
            own_input_tokens: record.own_input_tokens,
            own_output_tokens: record.own_output_tokens,
            own_reasoning_tokens: record.own_reasoning_tokens,
            request_bytes: record.request_bytes.into(),
            response_bytes: record.response_bytes,
            response_reads: record.response_reads.into(),
            first_byte_ns: record.first_byte.map(nanoseconds),
            retries: record.retries.into(),
            retried_for_ns: nanoseconds(record.retried_for),
            session_wait_ns: nanoseconds(record.session_wait),
            core_wait_ns: nanoseconds(record.core_wait),
            status: record.status,
            outcome: record.outcome.kind().to_owned(),
            message: record.outcome.message().to_owned(),
        }
    }
}

impl TryFrom<Line> for Record {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        let time = Duration::from_nanos;
        let outcome = Outcome::from_parts(&line.outcome, line.status, line.message)
            .ok_or_else(|| format!("unknown outcome {:?}", line.outcome))?;
        let mut at = time(line.sent_ns.unwrap_or(0));
        let mut tokens = line.chunk_tokens.into_iter();
        let chunks = line.ttft_ns.into_iter().chain(line.gaps_ns).map(|gap| {
            at = at.saturating_add(time(gap));
            Chunk { at, tokens: tokens.next().unwrap_or(1) }
        });
        Ok(Self {
            phase: line.phase,
            index: line.index,
            session: line.session,
            conversation: line.conversation,
            turn: line.turn,
            target: line.target,
            model: line.model,
            scheduled: time(line.scheduled_ns),
            admitted: time(line.admitted_ns),
            sent: line.sent_ns.map(time),
            written: line.written_ns.map(time),
            headers: line.headers_ns.map(time),
            chunks: chunks.collect(),
            first_answer: line.first_answer_ns.map(time),
            ended: line.ended_ns.map(time),
            done: time(line.done_ns),
            connection_reused: line.connection_reused,
            connect: line.connect_ns.map(time),
            input_tokens: Count { tokens: line.input_tokens, source: line.input_source },
            output_tokens: Count { tokens: line.output_tokens, source: line.output_source },
            reasoning_tokens: line.reasoning_tokens,
            cached_tokens: line.cached_tokens,
            requested_tokens: line.requested_tokens,
            own_input_tokens: line.own_input_tokens,
            own_output_tokens: line.own_output_tokens,
            own_reasoning_tokens: line.own_reasoning_tokens,
            request_bytes: u32::try_from(line.request_bytes).unwrap_or(u32::MAX),
            response_bytes: line.response_bytes,
            response_reads: u32::try_from(line.response_reads).unwrap_or(u32::MAX),
            first_byte: line.first_byte_ns.map(time),
            retries: u16::try_from(line.retries).unwrap_or(u16::MAX),
            retried_for: time(line.retried_for_ns),
            session_wait: time(line.session_wait_ns),
            core_wait: time(line.core_wait_ns),
            status: line.status,
            outcome,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        PhaseShape,
        sample::{failure, ms, request},
    };

    fn shape() -> RunShape {
        let main = PhaseShape { name: "main".to_owned(), measured: true, ..PhaseShape::default() };
        RunShape { phases: vec![main], targets: vec!["http://127.0.0.1:8000".to_owned()] }
    }

    fn mixed() -> Vec<Record> {
        let mut rich = request(10, 123, 45, 4);
        rich.turn = 3;
        rich.target = 0;
        rich.chunks[1].tokens = 7;
        rich.connect = Some(ms(2));
        rich.cached_tokens = Some(64);
        rich.ended = Some(ms(345));
        (rich.session_wait, rich.core_wait) = (ms(11), ms(1));
        rich.reasoning_tokens = Some(2);
        rich.input_tokens.source = CountSource::Estimate;
        let mut unsent = failure(5, 0, Outcome::NotSent);
        (unsent.sent, unsent.written, unsent.headers) = (None, None, None);
        vec![
            rich,
            failure(7, 9, Outcome::Status(503, "no \"room\"\n".to_owned())),
            failure(7, 9, Outcome::StreamError("engine died".to_owned())),
            failure(7, 9, Outcome::Timeout),
            unsent,
            request(1, 2, 3, 1),
        ]
    }

    #[test]
    fn records_come_back_as_they_were() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records.jsonl");
        let mut writer = RecordWriter::create(&path, &shape()).unwrap();
        mixed().iter().for_each(|record| writer.write(record).unwrap());
        writer.flush().unwrap();
        assert_eq!(writer.written(), 6);
        let reader = RecordReader::open(&path).unwrap();
        assert_eq!(reader.shape(), &shape());
        let read: Vec<Record> = reader.map(Result::unwrap).collect();
        assert_eq!(format!("{read:#?}"), format!("{:#?}", mixed()));
        let lines = std::fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().count(), 7, "text with a line break stays on its line");
    }

    #[test]
    fn the_last_line_of_a_killed_run_is_an_error_and_the_rest_is_not() {
        let mut writer = RecordWriter::new(Vec::new(), &shape());
        mixed().iter().for_each(|record| writer.write(record).unwrap());
        writer.flush().unwrap();
        let cut = &writer.0.output[..writer.0.output.len() - 10];
        let results: Vec<_> = RecordReader::new(cut).unwrap().collect();
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 5);
        assert!(matches!(results.last(), Some(Err(RecordsError::Line { line: 7, .. }))));
    }

    #[test]
    fn what_is_not_a_file_of_records_is_refused() {
        let refused = |text: &str| RecordReader::new(text.as_bytes()).unwrap_err().to_string();
        assert!(refused("").contains("does not name the format"));
        assert!(refused("{\"requests\":1}\n").contains("does not name the format"));
        assert!(refused("{\"evenload_records\":9,\"phases\":[],\"targets\":[]}\n").contains("version 9"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_says_when_the_disk_is_full() {
        let mut writer = RecordWriter::create(Path::new("/dev/full"), &shape()).unwrap();
        writer.write(&request(0, 1, 1, 1)).unwrap();
        let error = writer.flush().unwrap_err().to_string();
        assert!(
            error.contains("No space left") && error.contains("0 are in the file, 1 are held"),
            "{error}"
        );
    }
}
