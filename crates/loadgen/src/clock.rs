//! The one clock of a run: monotonic, counted from its start.

use std::time::{Duration, Instant, SystemTime};

/// The moment from which the times of a run count, by both clocks: whoever writes wall-clock times adds the times of
/// records to this one.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// By the wall clock.
    pub at: SystemTime,
    pub(crate) clock: Clock,
}

impl Start {
    /// This moment.
    pub fn now() -> Self {
        Self { at: SystemTime::now(), clock: Clock::start() }
    }
}

/// Counts from the start of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The time of `moment`; zero if it was before the start.
    pub(crate) fn at(self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.0)
    }

    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }
}
