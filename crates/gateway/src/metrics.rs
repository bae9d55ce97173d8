//! What the gateway counts, and how a scrape reads it.
//!
//! Counters are plain atomics that the data path holds resolved: a request adds to a field, no label is looked
//! up or formatted before a scrape. Gauges of load and health are not counted twice but read from the leases
//! when a scrape comes, so they cannot drift.

mod collect;
mod histogram;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use routing::{Outcome, PickReason};

pub(crate) use collect::Scrape;
use histogram::{DURATION_BOUNDS, FIRST_TOKEN_BOUNDS, Histogram};

use crate::{
    Reason,
    kv_events::{KvEventCounters, LessonCounters},
};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

/// A number that is added to and taken from.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

/// A share of a gauge; dropping it takes it away.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    gauge: &'a Gauge,
    amount: u64,
}

/// Status classes, by their first digit; 0 where there was no answer.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The ways in which a replica can fail an attempt.
const FAILURES: [Outcome; 5] = [
    Outcome::ConnectFailed,
    Outcome::Broken,
    Outcome::TimedOut,
    Outcome::ServerError,
    Outcome::Busy { retry_after: None },
];

/// What is counted for the gateway as a whole.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Requests that no replica answered, by the class of the status.
    pub(crate) own_answers: [Counter; CLASSES.len()],
    /// By [`Reason`].
    errors: Box<[Counter]>,
    pub(crate) connections: Gauge,
    pub(crate) connections_accepted: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) failed_handshakes: Counter,
    pub(crate) buffered_bytes: Gauge,
    pub(crate) idle_upstream: Gauge,
    pub(crate) retries: Counter,
    pub(crate) retries_refused: Counter,
    pub(crate) replays: Counter,
    pub(crate) unread_bodies: Counter,
    pub(crate) reloads: Counter,
    pub(crate) failed_reloads: Counter,
    pub(crate) lessons: LessonCounters,
}

/// What is counted for one replica.
#[derive(Debug)]
pub(crate) struct ReplicaMetrics {
    /// Requests by the class of its answer.
    answers: [Counter; CLASSES.len()],
    /// By [`PickReason`].
    picks: [Counter; PickReason::ALL.len()],
    /// In the order of [`FAILURES`].
    failures: [Counter; FAILURES.len()],
    pub(crate) first_token: Histogram,
    pub(crate) duration: Histogram,
    pub(crate) prompt_tokens: Counter,
    pub(crate) output_tokens: Counter,
    pub(crate) cached_tokens: Counter,
    pub(crate) connects: Counter,
    pub(crate) checks_passed: Counter,
    pub(crate) checks_failed: Counter,
    pub(crate) scrapes_failed: Counter,
    pub(crate) kv_events: KvEventCounters,
}

// === impl Counter ===

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

// === impl Gauge ===

impl Gauge {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Adds `amount` until the share is dropped.
    pub(crate) fn hold(&self, amount: u64) -> Share<'_> {
        self.0.fetch_add(amount, Relaxed);
        Share { gauge: self, amount }
    }

    /// Replaces a part that one owner last set to `from`.
    pub(crate) fn replace(&self, from: u64, to: u64) {
        self.0.fetch_add(to.wrapping_sub(from), Relaxed);
    }
}

impl Share<'_> {
    /// Adds to the share; gives the gauge's new value.
    pub(crate) fn grow(&mut self, amount: u64) -> u64 {
        self.amount += amount;
        self.gauge.0.fetch_add(amount, Relaxed) + amount
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.gauge.0.fetch_sub(self.amount, Relaxed);
    }
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self {
            own_answers: Default::default(),
            errors: Reason::ALL.iter().map(|_| Counter::default()).collect(),
            connections: Gauge::default(),
            connections_accepted: Counter::default(),
            accept_errors: Counter::default(),
            failed_handshakes: Counter::default(),
            buffered_bytes: Gauge::default(),
            idle_upstream: Gauge::default(),
            retries: Counter::default(),
            retries_refused: Counter::default(),
            replays: Counter::default(),
            unread_bodies: Counter::default(),
            reloads: Counter::default(),
            failed_reloads: Counter::default(),
            lessons: LessonCounters::default(),
        }
    }
}

impl Metrics {
    pub(crate) fn errors(&self, reason: Reason) -> &Counter {
        &self.errors[reason as usize]
    }
}

/// The place of a status among the classes.
pub(crate) fn class(status: u16) -> usize {
    usize::from(status / 100).min(CLASSES.len() - 1)
}

// === impl ReplicaMetrics ===

impl Default for ReplicaMetrics {
    fn default() -> Self {
        Self {
            answers: Default::default(),
            picks: Default::default(),
            failures: Default::default(),
            first_token: Histogram::new(FIRST_TOKEN_BOUNDS),
            duration: Histogram::new(DURATION_BOUNDS),
            prompt_tokens: Counter::default(),
            output_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            connects: Counter::default(),
            checks_passed: Counter::default(),
            checks_failed: Counter::default(),
            scrapes_failed: Counter::default(),
            kv_events: KvEventCounters::default(),
        }
    }
}

impl ReplicaMetrics {
    pub(crate) fn answers(&self, status: u16) -> &Counter {
        &self.answers[class(status)]
    }

    pub(crate) fn picks(&self, reason: PickReason) -> &Counter {
        &self.picks[reason as usize]
    }

    /// The counter of attempts that the replica failed in this way; none where it did not fail.
    pub(crate) fn failures(&self, outcome: Outcome) -> Option<&Counter> {
        let place = FAILURES.iter().position(|failure| failure.label() == outcome.label())?;
        Some(&self.failures[place])
    }
}
