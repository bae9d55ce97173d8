//! The live side of a run: counters for a progress bar, and the stop signals.
//!
//! One [`Control`] serves one run. It may be shared with a signal handler's thread and with a screen: everything
//! here is an atomic. Counters are those of the whole run, over all phases and threads.

use std::{
    sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Time between two looks at the signals.
const LOOK: Duration = Duration::from_millis(20);

/// Counters and stop signals of one run.
#[derive(Debug, Default)]
pub struct Control {
    stops: AtomicU8,
    phase: AtomicU16,
    sent: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    in_flight: AtomicU64,
    peak_in_flight: AtomicU64,
    tokens: AtomicU64,
    worst_lag_ns: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Index of the phase that runs.
    pub phase: u16,
    /// Requests started so far: connecting, waiting, answered or failed.
    pub sent: u64,
    /// Requests answered in full.
    pub succeeded: u64,
    /// Requests that failed. Cancelled and cut off ones are neither succeeded nor failed.
    pub failed: u64,
    /// Requests started and not yet ended.
    pub in_flight: u64,
    /// The most there have been at once.
    pub peak_in_flight: u64,
    /// Output tokens received, one a chunk where the server does not say.
    pub tokens: u64,
    /// The worst lateness of this side since the last look.
    pub worst_lag: Duration,
}

impl Control {
    /// A control for one run.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the run to stop. The first call stops new requests and waits for the answers under way, as long as
    /// the phase's grace period allows; the second one cuts those off too.
    pub fn stop(&self) {
        // Saturates: a third signal must not turn into a first one.
        let _ = self.stops.fetch_update(Relaxed, Relaxed, |stops| Some((stops + 1).min(2)));
    }

    /// Waits for `time` on behalf of a run that has not begun, or has ended. Returns at once when it is told to stop;
    /// true then.
    pub fn wait(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while self.stops() == 0 {
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return false,
                left => std::thread::sleep(left.min(LOOK)),
            }
        }
        true
    }

    /// How often [`stop`](Self::stop) was called, at most 2.
    pub fn stops(&self) -> u8 {
        self.stops.load(Relaxed)
    }

    /// Reads the counters. Resets the worst lag, so only one reader should show that.
    pub fn progress(&self) -> Progress {
        Progress {
            phase: self.phase.load(Relaxed),
            sent: self.sent.load(Relaxed),
            succeeded: self.succeeded.load(Relaxed),
            failed: self.failed.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            peak_in_flight: self.peak_in_flight.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            worst_lag: Duration::from_nanos(self.worst_lag_ns.swap(0, Relaxed)),
        }
    }

    pub(crate) fn entered(&self, phase: u16) {
        self.phase.store(phase, Relaxed);
    }

    pub(crate) fn started(&self) {
        self.sent.fetch_add(1, Relaxed);
        let in_flight = self.in_flight.fetch_add(1, Relaxed) + 1;
        if in_flight > self.peak_in_flight.load(Relaxed) {
            self.peak_in_flight.fetch_max(in_flight, Relaxed);
        }
    }

    pub(crate) fn late(&self, lag: Duration) {
        let lag = u64::try_from(lag.as_nanos()).unwrap_or(u64::MAX);
        if lag > self.worst_lag_ns.load(Relaxed) {
            self.worst_lag_ns.fetch_max(lag, Relaxed);
        }
    }

    pub(crate) fn produced(&self, tokens: u64) {
        self.tokens.fetch_add(tokens, Relaxed);
    }

    pub(crate) fn ended(&self, success: bool, failure: bool) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.succeeded.fetch_add(success.into(), Relaxed);
        self.failed.fetch_add(failure.into(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_flight_returns_to_zero_and_the_peak_stays() {
        let control = Control::new();
        control.started();
        control.started();
        control.produced(7);
        control.ended(true, false);
        control.ended(false, true);
        let progress = control.progress();
        assert_eq!((progress.sent, progress.succeeded, progress.failed), (2, 1, 1));
        assert_eq!((progress.in_flight, progress.peak_in_flight, progress.tokens), (0, 2, 7));
    }

    #[test]
    fn a_signal_ends_the_waiting() {
        let control = std::sync::Arc::new(Control::new());
        assert!(!control.wait(Duration::from_millis(1)));
        let signals = std::sync::Arc::clone(&control);
        let signal = std::thread::spawn(move || signals.stop());
        assert!(control.wait(Duration::from_secs(1_000_000)));
        signal.join().unwrap();
        assert!(control.wait(Duration::from_secs(1_000_000)), "one that came before counts");
    }

    #[test]
    fn the_worst_lag_is_that_since_the_last_look() {
        let control = Control::new();
        control.late(Duration::from_millis(3));
        control.late(Duration::from_millis(1));
        assert_eq!(control.progress().worst_lag, Duration::from_millis(3));
        assert_eq!(control.progress().worst_lag, Duration::ZERO);
    }

    #[test]
    fn more_than_two_signals_are_two() {
        let control = Control::new();
        for _ in 0..300 {
            control.stop();
        }
        assert_eq!(control.stops(), 2);
    }
}
