//! What came of a stage.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::PhaseShape;

/// What came of a stage. Times count from the start of the run's clock.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct StageResult {
    /// Its place among the stages.
    pub number: u16,
    /// Requests a second asked for, of all shares together.
    pub requested_rate: Option<f64>,
    /// Requests at a time asked for, of all shares together.
    pub concurrency: Option<u32>,
    /// Sessions at a time asked for, 0 for all; and sessions a second, at most.
    pub sessions: Option<(u32, Option<f64>)>,
    /// Longest time asked for, where it has sessions.
    pub timeout: Option<Duration>,
    /// Its start.
    pub start: Duration,
    /// Its end.
    pub end: Duration,
    /// Nanoseconds from 1970 to the start.
    pub started_at_ns: u64,
    /// How it ended.
    pub status: StageStatus,
    /// From when it was told to stop to its end.
    pub teardown: Duration,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StageStatus {
    /// All was sent.
    Completed,
    /// Its time was over.
    TimedOut,
    /// It was stopped.
    Failed,
}

impl StageResult {
    /// From start to end.
    pub fn duration(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }

    /// As it was asked for.
    pub fn shape(&self) -> PhaseShape {
        PhaseShape {
            name: format!("stage {}", self.number),
            measured: true,
            target_rate: self.requested_rate,
            concurrency: self.concurrency,
            closed_loop: self.concurrency.is_some(),
        }
    }

    /// The same stage on a clock that began `by` earlier.
    pub(super) fn shifted(&self, by: Duration) -> Self {
        Self { start: self.start + by, end: self.end + by, ..self.clone() }
    }

    /// One stage of two shares of it, on one clock: from the first start to the last end.
    pub(super) fn join(&mut self, other: &Self) {
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
        self.started_at_ns = self.started_at_ns.min(other.started_at_ns);
        self.teardown = self.teardown.max(other.teardown);
        if self.status == StageStatus::Completed {
            self.status = other.status;
        }
    }
}
