//! The load generator as the simulated fleet sees it.
//!
//! An ideal client sends at the scheduled time and stamps a chunk when it arrives. The legacy client is the
//! single Python event loop behind the published KubeAI figures: everything it does takes CPU time, in the
//! order in which it became ready, so it stamps chunks late and cannot send as fast as it was asked to. It also
//! sleeps its arrival gaps one after the other, so that every delay moves all later arrivals.

use std::time::Duration;

/// How a client spends time of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClientModel {
    /// CPU time for each streamed chunk.
    pub per_chunk: Duration,
    /// CPU time for each request, spent in equal passes through the event loop.
    pub per_request: Duration,
    /// Passes through the event loop from the creation of a request to its last byte sent.
    pub passes: u32,
    /// Arrival gaps are slept one after the other instead of towards absolute times.
    pub relative_gaps: bool,
}

impl ClientModel {
    /// Sends at the scheduled time, stamps at the arrival.
    pub const IDEAL: Self =
        Self { per_chunk: Duration::ZERO, per_request: Duration::ZERO, passes: 0, relative_gaps: false };

    /// vLLM's `benchmark_serving.py` of early 2025 on one core. The two costs are fitted to the published figures;
    /// `aiohttp` with JSON decoding measures the same order of magnitude.
    pub const LEGACY: Self = Self {
        per_chunk: Duration::from_micros(95),
        per_request: Duration::from_micros(4_100),
        passes: 5,
        relative_gaps: true,
    };

    /// CPU time of one pass of a request.
    pub(crate) fn pass(&self) -> Duration {
        if self.passes == 0 { Duration::ZERO } else { self.per_request / self.passes }
    }
}

/// A single-threaded event loop: what becomes ready is handled in order, one thing at a time.
#[derive(Debug, Default)]
pub(crate) struct EventLoop {
    free: Duration,
}

impl EventLoop {
    /// Something that costs `cost` becomes ready at `now`; returns when it has been handled.
    pub(crate) fn handle(&mut self, now: Duration, cost: Duration) -> Duration {
        self.free = self.free.max(now) + cost;
        self.free
    }
}
