//! Measurements from files: whose they are is told from the first line that is JSON.
//!
//! - `{"input_toks", "output_toks", "arrival_time", "queued_ts", "first_token_ts", "last_token_ts"}` a line: vLLM's
//!   own times of requests. A `meta.json` beside it gives the engine's limits.
//! - `{"evenload_records": ...}`: a load generator's records. Each target is an engine.
//! - `{"timestamp", "hash_ids", "policy", ...}` a line: a balancer's decisions, read as `replay` reads them. Each replica
//!   is an engine. These alone say what prompts share; elsewhere each is taken to hold all its memory alone.
//! - `{"concurrency" or "rate", "input_tokens", ...}` a line: a table of figures.

use std::{collections::BTreeMap, fs, path::Path};

use report::{Outcome, RecordReader};
use serde::Deserialize;
use serde_json::Value;
use workload::MAX_PROMPT_TOKENS;

use super::{Evidence, Limits, MeasuredRequest, MeasuredRow, replayed::Content};
use crate::replay::{BYTE_ORDER_MARK, DecisionLog, ReplayError};

/// Requests of a row; more tell nothing new.
const MOST_REQUESTS: usize = 1_000_000;
/// Requests in flight in a row.
const MOST_TOGETHER: usize = 100_000;
/// A log that is longer, or a request that takes longer, in seconds, is a mistake: three years.
const LONGEST_S: f64 = 1e8;

/// Why a file gives no measurements.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is none of the kinds.
    #[error(
        "{0} is no measurement: its first line must be that of a vLLM request log, of evenload's records, of a \
         decision log or of a table of figures"
    )]
    Kind(String),
    /// A line is not what the first one promised.
    #[error("{path}:{line}: {reason}")]
    Line {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Records cannot be read.
    #[error("{path}: {source}")]
    Records {
        /// The file.
        path: String,
        /// Why.
        source: report::RecordsError,
    },
    /// A decision log cannot be read.
    #[error(transparent)]
    Decisions(#[from] ReplayError),
    /// Nothing to fit to.
    #[error("{0} has no complete request with an output and its times")]
    Empty(String),
}

#[derive(Deserialize)]
struct VllmRow {
    input_toks: u32,
    output_toks: u32,
    arrival_time: f64,
    queued_ts: f64,
    first_token_ts: f64,
    last_token_ts: f64,
}

/// What a file has.
#[derive(Clone, Debug)]
pub struct Measurements {
    /// What was measured.
    pub evidence: Evidence,
    /// The engine's limits, if they are beside it.
    pub limits: Limits,
    /// Requests without an answer, an output or its times.
    pub left_out: usize,
    /// Lines that are no decisions.
    pub unreadable_lines: usize,
}

/// Reads measurements. The file may be a pipe: it is read once.
pub fn read(path: &Path) -> Result<Measurements, ReadError> {
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|source| ReadError::File { path: name.clone(), source })?;
    let text = String::from_utf8_lossy(bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes));
    let first: Value = text.lines().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let has = |member: &str| first.get(member).is_some();
    let (mut limits, mut unreadable_lines) = (Limits::default(), 0);
    let (evidence, left_out) = if has("input_toks") {
        limits = meta(path);
        let rows = rows(&text, &name)?;
        counted(rows.len(), vllm(&rows, &name)?)
    } else if has("evenload_records") {
        records(text.as_bytes(), &name)?
    } else if has("hash_ids") && has("policy") {
        drop((first, text));
        let log = DecisionLog::parse([Ok((name.clone(), bytes))])?;
        let recorded = log.recorded();
        unreadable_lines = recorded.unreadable_lines;
        let all = recorded.requests + recorded.skipped + recorded.without_output;
        counted(all, decisions(&log, &name)?)
    } else if has("concurrency") || has("rate") {
        (Evidence::Table(table(&text, &name)?), 0)
    } else {
        return Err(ReadError::Kind(name));
    };
    if evidence.is_empty() {
        return Err(ReadError::Empty(name));
    }
    Ok(Measurements { evidence, limits, left_out, unreadable_lines })
}

/// With the number of those that are not in it, of so many requests.
fn counted(requests: usize, evidence: Evidence) -> (Evidence, usize) {
    let left_out = requests.saturating_sub(evidence.len());
    (evidence, left_out)
}

/// Rows with their lines.
fn rows<'t, T: Deserialize<'t>>(text: &'t str, path: &str) -> Result<Vec<(usize, T)>, ReadError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(place, line): (usize, &'t str)| {
        let read = serde_json::from_str(line).map_err(|error| wrong(path, place + 1, error.to_string()))?;
        Ok((place + 1, read))
    };
    lines.map(read).collect()
}

fn wrong(path: &str, line: usize, reason: impl Into<String>) -> ReadError {
    ReadError::Line { path: path.to_owned(), line, reason: reason.into() }
}

fn table(text: &str, path: &str) -> Result<Vec<MeasuredRow>, ReadError> {
    let rows = rows(text, path)?.into_iter().map(|(line, row)| MeasuredRow { line, ..row });
    let rows: Vec<MeasuredRow> = rows.collect();
    let unusable = |row: &MeasuredRow| {
        let figures =
            [row.duration_s, row.output_tokens_per_s, row.mean_ttft_ms, row.mean_tpot_ms, row.mean_e2e_ms];
        let none = figures.iter().all(Option::is_none);
        let load = (row.concurrency.is_some_and(|together| (1..=MOST_TOGETHER).contains(&together))
            || row.rate.is_some_and(|rate| (1e-6..=1e6).contains(&rate)))
            && row.requests.is_none_or(|requests| (1..=MOST_REQUESTS).contains(&requests));
        let lengths = [row.input_tokens, row.output_tokens].iter().all(|tokens| *tokens <= MAX_PROMPT_TOKENS);
        let positive = figures.iter().flatten().all(|figure| *figure > 0.0 && figure.is_finite());
        none || !load || !lengths || !positive
    };
    if let Some(row) = rows.iter().find(|row| unusable(row)) {
        let reason = format!(
            "a row needs a concurrency (at most {MOST_TOGETHER}) or a rate (requests per second, from 0.000001 to \
             1000000), at least one figure, all above 0, at most {MAX_PROMPT_TOKENS} tokens and {MOST_REQUESTS} requests"
        );
        return Err(wrong(path, row.line, reason));
    }
    match rows.iter().find(|row| row.duration_s.is_some() && row.requests.is_none()) {
        Some(row) => Err(wrong(path, row.line, "duration_s says nothing without requests: how many it took")),
        None => Ok(rows),
    }
}

fn vllm(rows: &[(usize, VllmRow)], path: &str) -> Result<Evidence, ReadError> {
    // Arrivals are stamped with another clock than the rest; no request can be queued before it arrives.
    let offset = rows.iter().map(|(_, row)| row.queued_ts - row.arrival_time).fold(f64::INFINITY, f64::min);
    let requests = rows.iter().filter(|(_, row)| row.output_toks > 0).map(|(line, row)| MeasuredRequest {
        line: *line,
        at_s: row.arrival_time,
        prompt_tokens: row.input_toks,
        cached_tokens: 0,
        output_tokens: row.output_toks,
        ttft_s: Some(row.first_token_ts - offset - row.arrival_time),
        e2e_s: row.last_token_ts - offset - row.arrival_time,
        content: None,
    });
    log(BTreeMap::from([(0, requests.collect())]), path)
}

/// What vLLM's benchmarks keep of the engine's configuration.
fn meta(path: &Path) -> Limits {
    let text = fs::read_to_string(path.with_file_name("meta.json")).unwrap_or_default();
    let meta: Value = serde_json::from_str(&text).unwrap_or_default();
    let number = |section: &str, member: &str| {
        meta.get(section)?.get(member)?.as_u64().and_then(|number| u32::try_from(number).ok())
    };
    Limits {
        kv_blocks: number("kv_cache", "num_gpu_blocks"),
        block_tokens: number("kv_cache", "block_size"),
        max_num_seqs: number("engine_kwargs", "max_num_seqs"),
        max_num_batched_tokens: number("engine_kwargs", "max_num_batched_tokens"),
        max_model_len: number("engine_kwargs", "max_model_len"),
    }
}

fn records(bytes: &[u8], name: &str) -> Result<(Evidence, usize), ReadError> {
    let named = |source| ReadError::Records { path: name.to_owned(), source };
    let mut all = 0;
    let mut engines: BTreeMap<u16, Vec<MeasuredRequest>> = BTreeMap::new();
    // The first line is the file's head.
    for (line, record) in (2..).zip(RecordReader::new(bytes).map_err(named)?) {
        let record = record.map_err(named)?;
        all += 1;
        let (Some(sent), Some(first), Some(last)) =
            (record.sent, record.chunks.first(), record.chunks.last())
        else {
            continue;
        };
        if record.outcome != Outcome::Success || record.output_tokens.tokens == 0 {
            continue;
        }
        // An answer in one piece says nothing about its first token.
        let streamed = record.chunks.len() > 1 || record.output_tokens.tokens == 1;
        engines.entry(record.target).or_default().push(MeasuredRequest {
            line,
            at_s: sent.as_secs_f64(),
            prompt_tokens: record.input_tokens.tokens,
            cached_tokens: record.cached_tokens.unwrap_or_default(),
            output_tokens: record.output_tokens.tokens,
            ttft_s: streamed.then(|| first.at.saturating_sub(sent).as_secs_f64()),
            e2e_s: last.at.saturating_sub(sent).as_secs_f64(),
            content: None,
        });
    }
    Ok(counted(all, log(engines, name)?))
}

fn decisions(recorded: &DecisionLog, path: &str) -> Result<Evidence, ReadError> {
    let mut engines: BTreeMap<&str, Vec<MeasuredRequest>> = BTreeMap::new();
    // Ids are about tokens as the balancer estimates them, everything else about tokens as the engine counts them. One
    // ratio for all, so that what prompts share is equally long in each.
    let counted = recorded.decisions().filter_map(|(_, row)| Some((row.prompt_tokens?, row.input_length)));
    let (counted, estimated) = counted.fold((0.0, 0.0), |(counted, estimated), (count, estimate)| {
        (counted + f64::from(count), estimated + f64::from(estimate))
    });
    let ratio = if counted > 0.0 && estimated > 0.0 { counted / estimated } else { 1.0 };
    for ((line, row), answer) in recorded.decisions().zip(recorded.answer_blocks()) {
        engines.entry(row.replica.as_deref().unwrap_or_default()).or_default().push(MeasuredRequest {
            line,
            at_s: row.timestamp / 1e3,
            prompt_tokens: row.prompt_tokens.unwrap_or(row.input_length),
            cached_tokens: row.cached_tokens.unwrap_or_default(),
            output_tokens: row.output_length,
            ttft_s: row.ttft_ms.map(|ttft| ttft / 1e3),
            e2e_s: row.duration_ms / 1e3,
            content: Some(Content {
                ids: row.hash_ids.iter().copied().chain(answer).collect(),
                id_tokens: f64::from(row.block_tokens.max(1)) * ratio,
            }),
        });
    }
    log(engines, path)
}

/// Requests by engine, in order, from the first arrival on.
fn log<K>(engines: BTreeMap<K, Vec<MeasuredRequest>>, path: &str) -> Result<Evidence, ReadError> {
    let requests = || engines.values().flatten();
    let first = requests().map(|request| request.at_s).fold(f64::INFINITY, f64::min);
    for request in requests() {
        if request.prompt_tokens.max(request.output_tokens) > MAX_PROMPT_TOKENS {
            let reason = format!("a prompt or an output of more than {MAX_PROMPT_TOKENS} tokens");
            return Err(wrong(path, request.line, reason));
        }
        let times = [request.at_s - first, request.e2e_s, request.ttft_s.unwrap_or_default()];
        if times.iter().any(|time| time.is_nan() || *time > LONGEST_S) {
            let reason = format!("more than {LONGEST_S} seconds after the first request, or of its own");
            return Err(wrong(path, request.line, reason));
        }
    }
    let ordered = |mut requests: Vec<MeasuredRequest>| {
        requests.retain(|request| request.e2e_s > 0.0 && request.ttft_s.is_none_or(|ttft| ttft > 0.0));
        requests.iter_mut().for_each(|request| request.at_s -= first);
        requests.sort_by(|left, right| left.at_s.total_cmp(&right.at_s));
        requests
    };
    let engines = engines.into_values().map(ordered).filter(|requests| !requests.is_empty());
    Ok(Evidence::Log(engines.collect()))
}
