//! Collects what AIPerf's files need, in memory that does not grow with the number of requests.

use std::{collections::BTreeMap, time::Duration};

use super::{Slo, Tag, tag::Needs};
use crate::{Distribution, ErrorTable, Record, Span};

/// Slices of time with figures of their own; later requests count for the last.
const SLICES: u64 = 3_600;

/// The figures of a set of requests.
#[derive(Clone, Debug)]
pub struct Collector {
    tags: Vec<Tag>,
    slos: Vec<Slo>,
    pub(super) values: BTreeMap<Tag, Distribution>,
    pub(super) answered: u64,
    pub(super) failed: u64,
    pub(super) good: u64,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) reasoning_tokens: Option<u64>,
    pub(super) error_input_tokens: u64,
    /// From the first send of an answered request to the last of its events.
    pub(super) span: Span,
    /// The same, failures included.
    pub(super) activity: Span,
    /// Sum over the answered requests of the time from send to last event.
    pub(super) busy: Duration,
    pub(super) errors: ErrorTable,
}

/// One collector for each slice of time, by when requests were sent.
#[derive(Clone, Debug)]
pub struct Slices {
    pub(super) width: Duration,
    pub(super) slices: BTreeMap<u64, Collector>,
    empty: Collector,
}

// === impl Collector ===

impl Collector {
    /// Collects every metric that the run's flags allow.
    pub fn new(streaming: bool, trace: bool, slos: Vec<Slo>) -> Self {
        let there = |tag: &Tag| match tag.needs() {
            Needs::Nothing => true,
            Needs::Streaming => streaming,
            Needs::Trace => trace,
        };
        Self::of(Tag::ALL.into_iter().filter(there).collect(), slos)
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
        Self::of(tags.into_iter().filter(|tag| streaming || tag.needs() == Needs::Nothing).collect(), slos)
    }

    fn of(tags: Vec<Tag>, slos: Vec<Slo>) -> Self {
        Self {
            tags,
            slos,
            values: BTreeMap::new(),
            answered: 0,
            failed: 0,
            good: 0,
            input_tokens: 0,
            output_tokens: 0,
            reasoning_tokens: None,
            error_input_tokens: 0,
            span: Span::default(),
            activity: Span::default(),
            busy: Duration::ZERO,
            errors: ErrorTable::default(),
        }
    }

    /// Adds one request. Requests that were never sent are not counted, as in AIPerf.
    pub fn push(&mut self, record: &Record) {
        let Some(sent) = record.sent else { return };
        self.activity.include(sent);
        self.activity.include(record.done);
        if !record.outcome.is_success() {
            self.failed += 1;
            self.error_input_tokens += u64::from(record.input_tokens.tokens);
            self.errors.push_unanswered(record);
            return;
        }
        self.answered += 1;
        self.good += u64::from(self.slos.iter().all(|slo| slo.met(record)));
        self.input_tokens += u64::from(record.input_tokens.tokens);
        self.output_tokens += u64::from(record.output_tokens.tokens);
        if let Some(tokens) = record.reasoning_tokens {
            *self.reasoning_tokens.get_or_insert(0) += u64::from(tokens);
        }
        let end = record.last_chunk().unwrap_or(record.done);
        self.busy += end.saturating_sub(sent);
        self.span.include(sent);
        self.span.include(end);
        for &tag in &self.tags {
            tag.values(record, |value| self.values.entry(tag).or_default().record(value));
        }
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

// === impl Slices ===

impl Slices {
    /// Slices of `width` (at least a millisecond) that collect what `empty` does.
    pub fn new(width: Duration, empty: Collector) -> Self {
        Self { width: width.max(Duration::from_millis(1)), slices: BTreeMap::new(), empty }
    }

    /// Adds one request.
    pub fn push(&mut self, record: &Record) {
        let Some(sent) = record.sent else { return };
        let first = self.slices.keys().next().copied();
        let index = u64::try_from(sent.as_nanos() / self.width.as_nanos()).unwrap_or(u64::MAX);
        let index = index.min(first.unwrap_or(index).saturating_add(SLICES - 1));
        self.slices.entry(index).or_insert_with(|| self.empty.clone()).push(record);
    }
}
