//! Collects what AIPerf's files need, in memory that does not grow with the number of requests.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Slo, Tag,
    json::error_message,
    sweep::Sweep,
    tag::{self, Needs},
};
use crate::{Distribution, ErrorTable, Outcome, Record, Span};

/// By these words AIPerf knows the answer of a server whose model has no room for the prompt.
const CONTEXT_OVERFLOW: [&str; 4] =
    ["context length", "maximum context", "context_length_exceeded", "prompt is too long"];

/// The figures of a set of requests.
#[derive(Clone, Debug)]
pub struct Collector {
    tags: Vec<Tag>,
    slos: Vec<Slo>,
    pub(super) values: BTreeMap<Tag, Distribution>,
    pub(super) answered: u64,
    pub(super) failed: u64,
    pub(super) cut_off: u64,
    pub(super) good: u64,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) reasoning_tokens: Option<u64>,
    pub(super) error_input_tokens: u64,
    pub(super) context_overflows: u64,
    /// From the first send of an answered request to the last of its events.
    pub(super) span: Span,
    /// The same, failures included.
    pub(super) activity: Span,
    /// What was under way at each moment; not kept for parts of a run.
    pub(super) sweep: Option<Sweep>,
    pub(super) streaming: bool,
    /// Answers far from the length that was asked for.
    pub(super) length_mismatches: Option<u64>,
    /// Answers whose counts here and at the server are far apart.
    pub(super) count_mismatches: Option<u64>,
    /// How late first turns were sent, for the replay of a trace.
    pub(super) replay_lag: Option<Distribution>,
    /// Round trip to the servers, where it is to be taken off.
    pub(super) round_trip: Option<Duration>,
    pub(super) errors: ErrorTable,
}

// === impl Collector ===

impl Collector {
    /// Collects every metric that the run has.
    pub fn new(streaming: bool, slos: Vec<Slo>) -> Self {
        let there = |tag: &Tag| streaming || tag.needs() == Needs::Nothing;
        Self::of(streaming, Tag::ALL.into_iter().filter(there).collect(), slos)
    }

    /// Also collects what was under way at each moment.
    #[must_use]
    pub fn over_time(mut self) -> Self {
        self.sweep = Some(Sweep::default());
        self
    }

    /// Also collects how late a trace was replayed.
    #[must_use]
    pub fn of_replay(mut self) -> Self {
        self.replay_lag = Some(Distribution::default());
        self
    }

    /// Gives latencies without this round trip, too.
    pub fn set_round_trip(&mut self, time: Duration) {
        self.round_trip = Some(time);
    }

    /// Collects what the table of targets shows.
    pub fn for_target(streaming: bool, slos: Vec<Slo>) -> Self {
        let tags = [
            Tag::TimeToFirstToken,
            Tag::InterTokenLatency,
            Tag::RequestLatency,
            Tag::OutputSequenceLength,
            Tag::InputSequenceLength,
            Tag::UsagePromptCacheReadTokens,
        ];
        let tags = tags.into_iter().filter(|tag| streaming || tag.needs() == Needs::Nothing).collect();
        Self::of(streaming, tags, slos)
    }

    fn of(streaming: bool, tags: Vec<Tag>, slos: Vec<Slo>) -> Self {
        Self {
            tags,
            slos,
            values: BTreeMap::new(),
            answered: 0,
            failed: 0,
            cut_off: 0,
            good: 0,
            input_tokens: 0,
            output_tokens: 0,
            reasoning_tokens: None,
            error_input_tokens: 0,
            context_overflows: 0,
            span: Span::default(),
            activity: Span::default(),
            sweep: None,
            streaming,
            length_mismatches: None,
            count_mismatches: None,
            replay_lag: None,
            round_trip: None,
            errors: ErrorTable::default(),
        }
    }

    /// Adds one request. Requests that were never sent are not counted, and those that were cut off at the end of the run
    /// for themselves only, as in AIPerf.
    pub fn push(&mut self, record: &Record) {
        let Some(sent) = record.begun() else { return };
        if record.outcome == Outcome::Incomplete {
            self.cut_off += 1;
            return;
        }
        self.activity.include(sent);
        self.activity.include(record.done);
        if !record.outcome.is_success() {
            self.failed += 1;
            self.error_input_tokens += u64::from(record.input_tokens.tokens);
            let message = record.outcome.message().to_ascii_lowercase();
            let overflow = CONTEXT_OVERFLOW.iter().any(|words| message.contains(words));
            self.context_overflows += u64::from(overflow);
            self.errors.push_unanswered(record);
            self.take(record);
            return;
        }
        self.answered += 1;
        self.good += u64::from(self.slos.iter().all(|slo| slo.met(record)));
        self.input_tokens += u64::from(record.input_tokens.tokens);
        self.output_tokens += u64::from(record.output_tokens.tokens);
        if let Some(tokens) = record.reasoning() {
            *self.reasoning_tokens.get_or_insert(0) += u64::from(tokens);
        }
        let end = record.last_chunk().unwrap_or(record.done);
        if let Some(sweep) = &mut self.sweep {
            sweep.push(record, record.first_chunk().filter(|_| self.streaming));
        }
        if let Some(lag) = self.replay_lag.as_mut().filter(|_| record.turn == 0) {
            lag.record_time(sent.saturating_sub(record.scheduled));
        }
        if let Some(far) = tag::is_far_from_request(record) {
            *self.length_mismatches.get_or_insert(0) += u64::from(far);
        }
        if let Some(far) = tag::is_far_from_usage(record) {
            *self.count_mismatches.get_or_insert(0) += u64::from(far);
        }
        self.span.include(sent);
        self.span.include(end);
        self.take(record);
    }

    fn take(&mut self, record: &Record) {
        for &tag in &self.tags {
            tag.values(record, |value| self.values.entry(tag).or_default().record(value));
        }
    }

    /// How many requests failed, and the most frequent reason, in one line; nothing where none did.
    pub fn failures(&self) -> Option<String> {
        let key = self.errors.most_frequent().first()?.0;
        let status = key
            .status
            .filter(|status| *status >= 400)
            .map_or_else(String::new, |status| format!("{status} "));
        let all = self.answered + self.failed;
        Some(format!("{} of {all} requests failed: {status}{}", self.failed, error_message(key)))
    }

    /// Requests that were cut off at the end of the run: neither answered nor failed.
    pub fn cut_off(&self) -> u64 {
        self.cut_off
    }

    /// Whether `--goodput` was given.
    pub(super) fn has_goodput(&self) -> bool {
        !self.slos.is_empty()
    }

    /// Length of the run by AIPerf's definition, in seconds.
    pub(super) fn duration_s(&self) -> f64 {
        self.span.length().as_secs_f64()
    }
}
