//! One phase while it runs, as all threads see it.
//!
//! A phase starts when the one before it has ended in every thread and its own first requests are ready, so a
//! phase never starts late because of work that could have been done before. It is over when its duration has
//! passed or the run is told to stop; from then on nothing is started, and what is under way is waited for.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Relaxed},
    },
    time::Duration,
};

use report::nanoseconds;
use workload::{Limits, Phase, PhaseKind};

use crate::{PhaseSummary, slots::Slots};

/// A limit on failures means little before this many requests have ended.
const FAILED_SHARE_FLOOR: u64 = 10;

/// What a summary repeats of the plan.
#[derive(Debug)]
pub(crate) struct PhaseName {
    pub(crate) name: String,
    pub(crate) kind: PhaseKind,
    pub(crate) target_rate: Option<f64>,
}

/// The shared state of one phase.
#[derive(Debug)]
pub(crate) struct PhaseRun {
    pub(crate) index: u16,
    /// It is reported.
    pub(crate) is_measured: bool,
    pub(crate) limits: Limits,
    /// Arrivals at zero mean "as soon as a slot is free", not "all at once".
    pub(crate) closed_loop: bool,
    pub(crate) sessions: Option<Slots>,
    /// For requests until their first token, or until their end.
    pub(crate) prefill: Option<Slots>,
    pub(crate) slot_until_end: bool,
    /// Threads, and the planner, that are not ready for this phase yet.
    pending: AtomicUsize,
    start: OnceLock<Duration>,
    end_ns: AtomicU64,
    stopped: OnceLock<Duration>,
    claimed: AtomicU64,
    dispatched: AtomicU64,
    not_sent: AtomicU64,
    /// The latest due time, and the latest start of sending, since the start of the run.
    last_due_ns: AtomicU64,
    last_dispatch_ns: AtomicU64,
    /// Lateness so far, which delays everything after it where the plan drifts.
    drift_ns: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
    too_many_failed: AtomicBool,
}

impl PhaseRun {
    /// `pending` is how often [`ready`](Self::ready) will be called before the phase can start.
    pub(crate) fn new(index: u16, phase: &Phase, pending: usize) -> Self {
        let limits = phase.limits.clone();
        let closed_loop = phase.closed_loop;
        let sessions =
            limits.concurrency.map(|limit| Slots::new(limit, limits.concurrency_ramp, closed_loop));
        Self {
            index,
            is_measured: phase.kind == PhaseKind::Measured,
            closed_loop,
            sessions,
            prefill: limits
                .prefill_concurrency
                .or(limits.requests_in_flight)
                .map(|limit| Slots::new(limit, limits.prefill_ramp, false)),
            slot_until_end: limits.prefill_concurrency.is_none(),
            limits,
            pending: AtomicUsize::new(pending),
            start: OnceLock::new(),
            end_ns: AtomicU64::new(0),
            stopped: OnceLock::new(),
            claimed: AtomicU64::new(0),
            dispatched: AtomicU64::new(0),
            not_sent: AtomicU64::new(0),
            last_due_ns: AtomicU64::new(0),
            last_dispatch_ns: AtomicU64::new(0),
            drift_ns: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            too_many_failed: AtomicBool::new(false),
        }
    }

    /// One of those waited for is ready. True for the last one, which must let the phase [begin](Self::begin).
    pub(crate) fn ready(&self) -> bool {
        self.pending.fetch_sub(1, AcqRel) == 1
    }

    /// Sets the start.
    pub(crate) fn begin(&self, start: Duration) {
        let _ = self.start.set(start);
    }

    pub(crate) fn start(&self) -> Option<Duration> {
        self.start.get().copied()
    }

    /// The phase has ended in a thread; the last one to end counts.
    pub(crate) fn close(&self, now: Duration) {
        self.end_ns.fetch_max(nanoseconds(now), Relaxed);
    }

    pub(crate) fn end(&self) -> Duration {
        Duration::from_nanos(self.end_ns.load(Relaxed))
    }

    /// Time in the phase; zero before its start.
    pub(crate) fn elapsed(&self, now: Duration) -> Duration {
        now.saturating_sub(self.start().unwrap_or(now))
    }

    /// Stops the phase: nothing is started any more.
    pub(crate) fn stop(&self, now: Duration) {
        let _ = self.stopped.set(now);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.get().is_some()
    }

    /// When the phase was over, if it is: nothing is started any more.
    pub(crate) fn over(&self, now: Duration) -> Option<Duration> {
        let planned = self.limits.duration.and_then(|duration| Some(self.start()? + duration));
        let over = [planned, self.stopped.get().copied()].into_iter().flatten().min()?;
        (over <= now).then_some(over)
    }

    /// Counts one more request, if the plan allows one more.
    pub(crate) fn claim(&self) -> bool {
        match self.limits.requests {
            None => true,
            Some(limit) => {
                let next = |claimed| (claimed < limit).then_some(claimed + 1);
                self.claimed.fetch_update(Relaxed, Relaxed, next).is_ok()
            }
        }
    }

    /// As many requests as the plan allows have been counted.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.limits.requests.is_some_and(|limit| self.claimed.load(Relaxed) >= limit)
    }

    /// A request that was due at `due` has been started.
    pub(crate) fn dispatched(&self, due: Duration, now: Duration) {
        self.dispatched.fetch_add(1, Relaxed);
        self.last_due_ns.fetch_max(nanoseconds(due), Relaxed);
        self.last_dispatch_ns.fetch_max(nanoseconds(now), Relaxed);
    }

    /// How much later than planned arrivals are due.
    pub(crate) fn drift(&self) -> Duration {
        Duration::from_nanos(self.drift_ns.load(Relaxed))
    }

    /// An arrival was dealt with `late`.
    pub(crate) fn add_lateness(&self, late: Duration) {
        if self.limits.drifting {
            self.drift_ns.fetch_add(nanoseconds(late), Relaxed);
        }
    }

    /// Counts a request that was due but not sent.
    pub(crate) fn count_not_sent(&self) {
        self.not_sent.fetch_add(1, Relaxed);
    }

    /// The figures of the phase.
    pub(crate) fn summarize(&self, phase: PhaseName) -> PhaseSummary {
        let start = self.start();
        let issued = self.dispatched.load(Relaxed);
        let rate = |last: &AtomicU64| {
            let span = Duration::from_nanos(last.load(Relaxed)).saturating_sub(start?).as_secs_f64();
            (span > 0.0).then(|| issued as f64 / span)
        };
        PhaseSummary {
            name: phase.name,
            kind: phase.kind,
            span: start.map(|start| (start, self.end().max(start))),
            issued,
            not_sent: self.not_sent.load(Relaxed),
            target_rate: phase.target_rate,
            planned_rate: rate(&self.last_due_ns),
            achieved_rate: rate(&self.last_dispatch_ns),
        }
    }

    /// Counts the end of a request and checks the limit on failures.
    pub(crate) fn ended(&self, failed: bool) {
        let ended = self.ended.fetch_add(1, Relaxed) + 1;
        let failed = self.failed.fetch_add(failed.into(), Relaxed) + u64::from(failed);
        let floor = FAILED_SHARE_FLOOR.max(self.limits.concurrency.unwrap_or(0).into());
        if let Some(share) = self.limits.failed_share
            && ended >= floor
            && failed as f64 > share * ended as f64
        {
            self.too_many_failed.store(true, Relaxed);
        }
    }

    pub(crate) fn too_many_failed(&self) -> bool {
        self.too_many_failed.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(limits: Limits) -> PhaseRun {
        let phase = Phase {
            name: String::new(),
            kind: PhaseKind::Measured,
            limits,
            closed_loop: false,
            target_rate: None,
            expected_requests: None,
            arrivals: Box::new(std::iter::empty()),
        };
        PhaseRun::new(0, &phase, 2)
    }

    #[test]
    fn the_last_one_ready_lets_it_begin() {
        let phase = phase(Limits::default());
        assert!(!phase.ready());
        assert!(phase.ready());
        assert_eq!(phase.start(), None);
        phase.begin(Duration::from_secs(2));
        assert_eq!(phase.start(), Some(Duration::from_secs(2)));
        assert_eq!(phase.elapsed(Duration::from_secs(5)), Duration::from_secs(3));
    }

    #[test]
    fn it_is_over_at_the_earlier_of_duration_and_stop() {
        let second = Duration::from_secs;
        let phase = phase(Limits { duration: Some(second(10)), ..Limits::default() });
        phase.begin(second(5));
        assert_eq!(phase.over(second(14)), None);
        assert_eq!(phase.over(second(16)), Some(second(15)));
        phase.stop(second(8));
        phase.stop(second(9));
        assert_eq!(phase.over(second(16)), Some(second(8)));
    }

    #[test]
    fn no_more_requests_than_planned() {
        let phase = phase(Limits { requests: Some(2), ..Limits::default() });
        assert_eq!([phase.claim(), phase.claim(), phase.claim()], [true, true, false]);
        assert!(phase.is_exhausted());
    }

    #[test]
    fn failures_count_from_ten_requests_on_or_from_the_concurrency() {
        let limits = Limits { failed_share: Some(0.5), ..Limits::default() };
        let (small, large) = (phase(limits.clone()), phase(Limits { concurrency: Some(20), ..limits }));
        for ended in 1..=20 {
            small.ended(true);
            large.ended(true);
            assert_eq!((small.too_many_failed(), large.too_many_failed()), (ended >= 10, ended >= 20));
        }
    }

    #[test]
    fn exactly_the_allowed_share_is_allowed() {
        let phase = phase(Limits { failed_share: Some(0.5), ..Limits::default() });
        for _ in 0..10 {
            phase.ended(false);
            phase.ended(true);
        }
        assert!(!phase.too_many_failed());
        phase.ended(true);
        assert!(phase.too_many_failed());
    }
}
