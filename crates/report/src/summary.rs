//! The figures of a set of requests: a phase, a target, a model, or the whole run.
//!
//! Which requests are in which figure:
//! - latencies, tokens and throughputs: answered requests only;
//! - lateness and in-flight figures: every request that was sent;
//! - attainment of objectives: every request that was due, so that an error or a request never sent is a miss.
//!
//! The window runs from the first byte sent to the end of the last answer, failures included, as vLLM's
//! `benchmark_duration` does: it holds ramp and drain. All rates are per second of the window.

use std::{collections::BTreeMap, time::Duration};

use crate::{CountSource, Distribution, Distributions, Metric, Outcome, Record, metric::SECOND};

/// Distinct error messages kept; further ones are counted together.
pub const ERROR_KINDS: usize = 64;

/// A limit on a metric, for goodput. Times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// What is limited.
    pub metric: Metric,
    /// The largest value that is still good.
    pub limit: u64,
    /// Whether a request that has no such value (TPOT of one token) is good. vLLM: yes; AIPerf: no.
    pub good_without: bool,
}

/// The figures of a set of requests. See the [module](self) for which requests are in which figure.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Requests by how they ended; see [`Outcome::kind`].
    pub outcomes: BTreeMap<&'static str, u64>,
    /// What the failures said.
    pub errors: ErrorTable,
    /// Distributions of what was measured.
    pub distributions: Distributions,
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that this side turned to: those sent, and those that no connection could be made for.
    pub begun: u64,
    /// Answered requests that met every objective.
    pub good: u64,
    /// Reasoning tokens of the answers that report them.
    pub reasoning_tokens: u64,
    /// Prompt tokens that came from a prefix cache.
    pub cached_tokens: u64,
    /// Prompt tokens of the answers that say how many were cached.
    pub cache_known_tokens: u64,
    /// Answered requests by who counted their prompt.
    pub input_sources: BTreeMap<CountSource, u64>,
    /// Answered requests by who counted their output.
    pub output_sources: BTreeMap<CountSource, u64>,
    /// Payload events of the answered requests.
    pub chunks: u64,
    /// Connections opened.
    pub connections: u64,
    /// Sum of the times from first byte sent to the end, over all requests sent.
    pub busy: Duration,
    /// From the first byte sent of the first request to the end of the last.
    pub window: Span,
    /// From the first byte sent of the first request to that of the last.
    pub sends: Span,
    /// From the first to the last time at which the plan wanted a request sent.
    pub schedule: Span,
}

/// An interval of the run's clock that grows to hold what it is shown; empty at first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Span(Option<(Duration, Duration)>);

/// Error messages, the most frequent ones first when listed.
#[derive(Clone, Debug, Default)]
pub struct ErrorTable {
    counts: BTreeMap<ErrorKey, u64>,
    /// Failures whose message was not kept because there were too many different ones.
    pub omitted: u64,
}

/// What distinguishes one error from another.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Serialize)]
pub struct ErrorKey {
    /// See [`Outcome::kind`].
    pub kind: &'static str,
    /// HTTP status, where there was one.
    pub status: Option<u16>,
    /// What the server or the system said.
    pub message: String,
}

// === impl Summary ===

impl Summary {
    /// Adds one request, with the values of `metrics` only.
    pub fn push(&mut self, record: &Record, metrics: &[Metric], objectives: &[Objective]) {
        *self.outcomes.entry(record.outcome.kind()).or_default() += 1;
        self.errors.push(record);
        self.distributions.push(metrics, record);
        self.schedule.include(record.scheduled);
        self.connections += u64::from(record.connect.is_some());
        self.begun += u64::from(record.begun().is_some());
        if let Some(sent) = record.sent {
            self.sent += 1;
            self.busy += record.done.saturating_sub(sent);
            self.sends.include(sent);
            self.window.include(sent);
            self.window.include(record.done);
        }
        if record.outcome.is_success() {
            self.good += u64::from(objectives.iter().all(|objective| objective.met(record)));
            self.chunks += record.chunks.len() as u64;
            self.reasoning_tokens += u64::from(record.reasoning().unwrap_or(0));
            *self.input_sources.entry(record.input_tokens.source).or_default() += 1;
            *self.output_sources.entry(record.output_tokens.source).or_default() += 1;
            if let Some(cached) = record.cached_tokens {
                self.cached_tokens += u64::from(cached);
                self.cache_known_tokens += u64::from(record.input_tokens.tokens);
            }
        }
    }

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        add_counts(&mut self.outcomes, &other.outcomes);
        add_counts(&mut self.input_sources, &other.input_sources);
        add_counts(&mut self.output_sources, &other.output_sources);
        self.errors.merge(&other.errors);
        self.distributions.merge(&other.distributions);
        self.sent += other.sent;
        self.begun += other.begun;
        self.good += other.good;
        self.reasoning_tokens += other.reasoning_tokens;
        self.cached_tokens += other.cached_tokens;
        self.cache_known_tokens += other.cache_known_tokens;
        self.chunks += other.chunks;
        self.connections += other.connections;
        self.busy += other.busy;
        self.window.merge(other.window);
        self.sends.merge(other.sends);
        self.schedule.merge(other.schedule);
    }

    /// The distribution of `metric`.
    pub fn of(&self, metric: Metric) -> &Distribution {
        &self.distributions[metric]
    }

    /// All requests, however they ended.
    pub fn requests(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Requests with a complete answer.
    pub fn answered(&self) -> u64 {
        self.count(Outcome::Success.kind())
    }

    /// Requests that failed: not those that this side cancelled, cut off at the end of the run, or never sent.
    pub fn failed(&self) -> u64 {
        self.errors.total()
    }

    /// Requests that came to an end: all but those cut off at the end of the run, and those never sent.
    pub fn completed(&self) -> u64 {
        self.requests() - self.count(Outcome::Incomplete.kind()) - self.count(Outcome::NotSent.kind())
    }

    /// Requests that ended as `kind` says; see [`Outcome::kind`].
    pub fn count(&self, kind: &str) -> u64 {
        self.outcomes.get(kind).copied().unwrap_or(0)
    }

    /// Prompt tokens of the answered requests.
    pub fn input_tokens(&self) -> u64 {
        self.tokens(Metric::InputTokens)
    }

    /// Output tokens of the answered requests.
    pub fn output_tokens(&self) -> u64 {
        self.tokens(Metric::OutputTokens)
    }

    /// Length of the window in seconds.
    pub fn duration_s(&self) -> f64 {
        self.window.length().as_secs_f64()
    }

    /// `amount` per second of the window; zero for an empty window.
    pub fn per_second(&self, amount: u64) -> f64 {
        ratio(amount as f64, self.duration_s()).unwrap_or(0.0)
    }

    /// Prompt and output tokens per second.
    pub fn total_tokens_per_s(&self) -> f64 {
        self.per_second(self.input_tokens() + self.output_tokens())
    }

    /// Share of the prompt tokens that came from a prefix cache, over the answers that report it.
    pub fn prefix_hit_ratio(&self) -> Option<f64> {
        ratio(self.cached_tokens as f64, self.cache_known_tokens as f64)
    }

    /// Mean number of requests in flight over the window.
    pub fn mean_in_flight(&self) -> f64 {
        ratio(self.busy.as_secs_f64(), self.duration_s()).unwrap_or(0.0)
    }

    /// Requests in flight by Little's law: answered per second times mean E2E.
    pub fn in_flight_by_littles_law(&self) -> f64 {
        self.per_second(self.answered()) * self.of(Metric::E2e).mean().unwrap_or(0.0) / SECOND
    }

    /// Sends per second, from the first send to the last, attempts to connect included; absent below two.
    pub fn achieved_rate(&self) -> Option<f64> {
        rate(self.begun, self.sends)
    }

    /// The rate that the schedule itself asked for, from its first time to its last; absent for a closed loop.
    pub fn scheduled_rate(&self) -> Option<f64> {
        rate(self.requests(), self.schedule)
    }

    /// Output tokens per payload event: above 1, a gap between events is not a gap between tokens.
    pub fn tokens_per_chunk(&self) -> Option<f64> {
        ratio(self.output_tokens() as f64, self.chunks as f64)
    }

    /// Share of the requests due that were answered within every objective.
    pub fn attainment(&self) -> Option<f64> {
        ratio(self.good as f64, self.requests() as f64)
    }

    fn tokens(&self, metric: Metric) -> u64 {
        u64::try_from(self.of(metric).sum()).unwrap_or(u64::MAX)
    }
}

fn rate(count: u64, span: Span) -> Option<f64> {
    ratio(count.checked_sub(1).filter(|&gaps| gaps > 0)? as f64, span.length().as_secs_f64())
}

/// `part / whole`; absent where there is no whole.
pub(crate) fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

fn add_counts<K: Copy + Ord>(ours: &mut BTreeMap<K, u64>, theirs: &BTreeMap<K, u64>) {
    theirs.iter().for_each(|(&key, count)| *ours.entry(key).or_default() += count);
}

// === impl Objective ===

impl Objective {
    /// Whether an answered request is good.
    pub fn met(&self, record: &Record) -> bool {
        let (mut met, mut any) = (true, false);
        self.metric.values(record, |value| {
            any = true;
            met &= value <= self.limit;
        });
        if any { met } else { self.good_without }
    }
}

// === impl Span ===

impl Span {
    /// Its first moment.
    pub fn start(self) -> Option<Duration> {
        self.0.map(|(start, _)| start)
    }

    /// Its last moment.
    pub fn end(self) -> Option<Duration> {
        self.0.map(|(_, end)| end)
    }

    /// From the first moment to the last; zero while empty.
    pub fn length(self) -> Duration {
        self.0.map_or(Duration::ZERO, |(start, end)| end - start)
    }

    /// Grows to hold `time`.
    pub fn include(&mut self, time: Duration) {
        self.0 = Some(self.0.map_or((time, time), |(start, end)| (start.min(time), end.max(time))));
    }

    fn merge(&mut self, other: Self) {
        if let Some((start, end)) = other.0 {
            self.include(start);
            self.include(end);
        }
    }
}

// === impl ErrorTable ===

impl ErrorTable {
    /// Number of failures, kept and omitted.
    pub fn total(&self) -> u64 {
        self.counts.values().sum::<u64>() + self.omitted
    }

    /// The messages with their counts, the most frequent first.
    pub fn most_frequent(&self) -> Vec<(&ErrorKey, u64)> {
        let mut errors: Vec<_> = self.counts.iter().map(|(key, &count)| (key, count)).collect();
        errors.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        errors
    }

    fn push(&mut self, record: &Record) {
        if record.outcome.is_failure() {
            self.push_unanswered(record);
        }
    }

    /// Counts a request that was not answered, whatever the reason.
    pub(crate) fn push_unanswered(&mut self, record: &Record) {
        let message = record.outcome.message().to_owned();
        self.add(ErrorKey { kind: record.outcome.kind(), status: record.status, message }, 1);
    }

    fn merge(&mut self, other: &Self) {
        other.counts.iter().for_each(|(key, &count)| self.add(key.clone(), count));
        self.omitted += other.omitted;
    }

    fn add(&mut self, key: ErrorKey, count: u64) {
        if self.counts.contains_key(&key) || self.counts.len() < ERROR_KINDS {
            *self.counts.entry(key).or_default() += count;
        } else {
            self.omitted += count;
        }
    }
}

/// Shares of `sources` in percent, the largest first.
pub fn source_shares(sources: &BTreeMap<CountSource, u64>) -> Vec<(CountSource, f64)> {
    let total: u64 = sources.values().sum();
    let mut shares: Vec<_> =
        sources.iter().map(|(&source, &count)| (source, 100.0 * count as f64 / total as f64)).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares
}
