//! What an engine says about its own queue, fused with what this balancer did since.
//!
//! A report is a moment old when it arrives. What this balancer has opened and closed since is added to it, so
//! that the arrivals between two reports do not all go to the replica that was emptiest at the last one. A
//! report that is too old, or that never came, means *unknown*, never zero.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;

/// One reading of an engine's gauges.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EngineReport {
    /// Requests in its batch.
    pub running: u64,
    /// Requests in its queue.
    pub waiting: u64,
    /// Its cache is nearly all in use, so that those who wait have to; `false` where that is not known.
    pub is_full: bool,
}

/// Share of a cache in use from which it is full: what waits needs a few blocks at once.
const FULL: f64 = 0.9;

impl EngineReport {
    /// Gauges of an engine, with the share of its KV cache that is in use where it says so.
    pub fn new(running: u64, waiting: u64, cache_usage: Option<f64>) -> Self {
        Self { running, waiting, is_full: cache_usage.is_some_and(|usage| usage >= FULL) }
    }

    /// Requests wait for room, and not just for the end of a step.
    pub(crate) fn has_queue(self) -> bool {
        self.is_full && self.waiting * 32 > self.running
    }
}

/// Requests of other balancers at a replica, as far as this one can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Others {
    pub(crate) requests: f32,
    /// Those in its queue.
    pub(crate) waiting: f32,
}

/// The last report of one engine.
#[derive(Debug)]
pub struct Reported {
    running: AtomicU64,
    waiting: AtomicU64,
    is_full: AtomicBool,
    /// This balancer's own open requests when the report came.
    own: AtomicU64,
    /// When it came, in nanoseconds; [`NEVER`] before the first one.
    at: AtomicU64,
    /// Held by the writer only.
    writing: Mutex<()>,
}

const NEVER: u64 = u64::MAX;

/// Older reports are not believed, unless a policy's settings say otherwise.
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(5);

impl Default for Reported {
    fn default() -> Self {
        Self {
            running: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            own: AtomicU64::new(0),
            at: AtomicU64::new(NEVER),
            writing: Mutex::new(()),
        }
    }
}

impl Reported {
    /// Keeps a report that came at `now`, when this balancer had `own` requests open at the replica.
    pub(crate) fn store(&self, report: EngineReport, own: u64, now: Duration) {
        let _writing = self.writing.lock();
        self.running.store(report.running, Relaxed);
        self.waiting.store(report.waiting, Relaxed);
        self.is_full.store(report.is_full, Relaxed);
        self.own.store(own, Relaxed);
        self.at.store(u64::try_from(now.as_nanos()).unwrap_or(NEVER - 1), Relaxed);
    }

    /// The last report, unless it is older than `stale_after`.
    pub fn latest(&self, now: Duration, stale_after: Duration) -> Option<EngineReport> {
        let at = self.at.load(Relaxed);
        let fresh = at != NEVER && now.saturating_sub(Duration::from_nanos(at)) <= stale_after;
        fresh.then(|| EngineReport {
            running: self.running.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            is_full: self.is_full.load(Relaxed),
        })
    }

    /// The last report, unless it is older than `stale_after`, and what it counts beyond the requests that this
    /// balancer had open when it came.
    pub(crate) fn with_others(&self, now: Duration, stale_after: Duration) -> Option<(EngineReport, Others)> {
        let report = self.latest(now, stale_after)?;
        let all = report.running + report.waiting;
        let requests = all.saturating_sub(self.own.load(Relaxed)) as f32;
        let waiting = requests * report.waiting as f32 / all.max(1) as f32;
        Some((report, Others { requests, waiting }))
    }

    /// The queue as it should be now: the last report, plus or minus what happened to the `own` requests since.
    pub(crate) fn waiting(&self, own: u64, now: Duration, stale_after: Duration) -> Option<u64> {
        let report = self.latest(now, stale_after)?;
        Some((report.waiting + own).saturating_sub(self.own.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_what_is_reported_beyond_the_own() {
        let reported = Reported::default();
        let at = Duration::from_secs;
        let others = |now| reported.with_others(now, STALE_AFTER).map(|(_, others)| others);
        assert_eq!(others(at(1)), None);
        reported.store(EngineReport::new(15, 5, None), 4, at(1));
        assert_eq!(others(at(2)), Some(Others { requests: 16.0, waiting: 4.0 }));
        assert_eq!(others(at(7)), None, "stale");
        reported.store(EngineReport::new(1, 0, None), 4, at(8));
        assert_eq!(others(at(8)), Some(Others::default()), "three are on their way");
    }

    #[test]
    fn who_waits_for_the_next_step_is_no_queue() {
        let has_queue = |running, waiting| EngineReport::new(running, waiting, Some(0.95)).has_queue();
        assert!(!has_queue(0, 0) && !has_queue(64, 2) && has_queue(63, 2) && has_queue(0, 1));
        assert!(!EngineReport::new(63, 20, Some(0.8)).has_queue(), "there is room");
        assert!(!EngineReport::new(63, 20, None).has_queue(), "nobody knows");
    }
}
