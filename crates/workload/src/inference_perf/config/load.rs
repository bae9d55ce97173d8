//! `load`: when requests are sent.

use super::schema::{section, words};
use crate::Pattern;

words! {
    /// The law of the load.
    LoadType {
        /// Evenly spaced.
        Constant = "constant",
        /// At random, independently.
        Poisson = "poisson",
        /// At the times of a trace.
        TraceReplay = "trace_replay",
        /// So many at a time.
        Concurrent = "concurrent",
        /// So many sessions at a time.
        TraceSessionReplay = "trace_session_replay",
    }
}

words! {
    /// How the rates of a sweep grow.
    SweepType {
        /// In ratios, close together near the highest.
        Geometric = "geometric",
        /// In equal steps.
        Linear = "linear",
    }
}

words! {
    /// The format of a trace file.
    TraceFormat {
        /// CSV: TIMESTAMP, ContextTokens, GeneratedTokens.
        AzurePublicDataset = "AzurePublicDataset",
        /// JSON lines with block ids. An extension.
        Mooncake = "Mooncake",
        /// CSV: Timestamp, Request tokens, Response tokens. An extension.
        BurstGpt = "BurstGPT",
        /// JSON lines with block ids, chained into sessions. An extension.
        Bailian = "Bailian",
    }
}

section! {
    /// When requests are sent.
    Load {
        /// Law of the load.
        r#type: LoadType = LoadType::Constant;
        /// Pause between two stages, in seconds.
        interval: f64 = 1.0;
        /// The stages, one after the other. Which keys they have depends on the type.
        stages: Vec<Stage> = Vec::new();
        /// Find the capacity and choose the stages by it.
        sweep: Option<Sweep> = None;
        /// With the two keys after it, bounds what may be in flight (null: one a core). 0: only
        /// `worker_max_tcp_connections` bounds it, and nothing is started after a stage's duration.
        num_workers: Option<u32> = None;
        /// Requests in flight for each worker. Has no effect with `concurrent`.
        worker_max_concurrency: u32 = 100;
        /// Connections for each worker; 0 for no bound.
        worker_max_tcp_connections: u32 = 2500;
        /// Times of `trace_replay`.
        trace: Option<Trace> = None;
        /// Names of the circuit breakers that guard the run.
        circuit_breakers: Vec<String> = Vec::new();
        /// Time limit for a whole request, in seconds (null: 300).
        request_timeout: Option<f64> = None;
        /// How often a request is tried again that failed before any answer.
        request_retries: u16 = 0;
        /// Wait before the first repetition, in seconds; it doubles.
        request_retry_backoff_sec: f64 = 0.5;
        /// After the time of a stage that has one (that of sessions with a `timeout`, and of a rate without workers) is over,
        /// or after it was stopped, answers are waited for this long, in seconds. Other stages wait for all answers.
        stage_teardown_grace_seconds: f64 = 120.0;
        /// Adapters and their shares of the requests.
        lora_traffic_split: Option<Vec<AdapterShare>> = None;
        /// Everything random in the run comes from it (null: the time in milliseconds).
        base_seed: Option<u64> = None;
    }
}

section! {
    /// One stage.
    Stage {
        /// Requests a second. For `constant`, `poisson`. The times of `trace_replay` are the trace's; without `data.trace`
        /// its first `rate` x `duration` requests are sent.
        rate: Option<f64> = None;
        /// Length in whole seconds. Like `rate` of no effect with `concurrent`.
        duration: Option<u64> = None;
        /// Requests in all. For `concurrent`.
        num_requests: Option<u64> = None;
        /// Requests at a time. For `concurrent`.
        concurrency_level: Option<u32> = None;
        /// Sessions at a time; 0 for all at once. For `trace_session_replay`.
        concurrent_sessions: Option<u32> = None;
        /// Sessions started a second, at most. For `trace_session_replay`.
        session_rate: Option<f64> = None;
        /// Sessions in all (null: the rest of them). For `trace_session_replay`.
        num_sessions: Option<u64> = None;
        /// Longest time of the stage, in seconds. For `trace_session_replay`.
        timeout: Option<f64> = None;
    }
}

section! {
    /// Rates up to saturation.
    Sweep {
        /// How the rates grow. Required.
        r#type: Option<SweepType> = None;
        /// Requests of the probe.
        num_requests: u64 = 2000;
        /// Longest time of the probe, in seconds.
        timeout: f64 = 60.0;
        /// Stages after the probe.
        num_stages: u32 = 5;
        /// Length of each stage, in whole seconds.
        stage_duration: u64 = 180;
        /// With `evenload.sweep: compat`: the percentile of the drain rates that is taken for the capacity.
        saturation_percentile: f64 = 95.0;
    }
}

section! {
    /// A trace.
    Trace {
        /// The file, plain or gzipped. Required.
        file: String = String::new();
        /// Its format.
        format: TraceFormat = TraceFormat::AzurePublicDataset;
    }
}

section! {
    /// An adapter and its share.
    AdapterShare {
        /// Sent in the `model` field.
        name: String = String::new();
        /// Of the requests, from 0 to 1. All shares add up to 1.
        split: f64 = 0.0;
    }
}

impl Load {
    /// How the requests of a stage with a rate come.
    pub fn pattern(&self) -> Pattern {
        if self.r#type == LoadType::Poisson { Pattern::Poisson } else { Pattern::Constant }
    }

    /// The bound on what may be in flight, where the load has one beside its own law.
    pub fn bound(&self) -> Option<u32> {
        let connections =
            Some(self.worker_max_tcp_connections).filter(|limit| *limit > 0).unwrap_or(u32::MAX);
        match self.num_workers.unwrap_or(1) {
            // In one process nothing but its connections bounds it.
            0 => Some(connections).filter(|limit| *limit < u32::MAX),
            workers => Some(workers.saturating_mul(self.worker_max_concurrency.min(connections))),
        }
    }
}
