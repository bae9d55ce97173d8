//! `evenload`: keys that inference-perf does not have.

use super::schema::{section, words};

words! {
    /// How times are drawn.
    ArrivalMode {
        /// `constant` is constant, and `poisson` is a Poisson process.
        Exact = "exact",
        /// As inference-perf draws them: `constant` is random within its duration, `poisson` restarts every second.
        Compat = "compat",
    }
}

words! {
    /// How a sweep finds the capacity.
    SweepMode {
        /// Brackets the rate that the server just keeps up with, and looks past it.
        Knee = "knee",
        /// As inference-perf does: a percentile of the rates at which the number in flight falls.
        Compat = "compat",
    }
}

section! {
    /// Keys that inference-perf does not have.
    Extension {
        /// How times are drawn.
        arrival: ArrivalMode = ArrivalMode::Exact;
        /// How a sweep finds the capacity.
        sweep: SweepMode = SweepMode::Knee;
        /// Sending threads (null: `load.num_workers`, at most half of the cores). The schedule does not depend on it.
        threads: Option<u32> = None;
        /// More servers; requests go to `server.base_url` and these in turn, and each gets figures of its own.
        base_urls: Vec<String> = Vec::new();
        /// Talk to `https` servers whatever certificate they show.
        insecure: bool = false;
        /// Times of traces are divided by it.
        trace_speed: f64 = 1.0;
        /// Write `records.jsonl`: everything that was measured, one line a request.
        records: bool = true;
        /// Exit with status 3 if the verdict is INVALID.
        strict: bool = false;
    }
}
