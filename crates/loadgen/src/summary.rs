//! What a run says about itself: what was planned and sent, and how far this side was in the way.

use std::time::{Duration, SystemTime};

use report::{ClientHealth, Distribution, Stalls};
use workload::PhaseKind;

use crate::{measure::ThreadMeasures, worker::HEARTBEAT};

/// A run, as the sender saw it. What the servers did is in the records.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// Wall-clock time of the run's start; all other times count from there, on a monotonic clock.
    pub started_at: SystemTime,
    /// Until the last answer.
    pub duration: Duration,
    /// Why it ended.
    pub end: RunEnd,
    /// In the order of the plan.
    pub phases: Vec<PhaseSummary>,
    /// This side's own behaviour.
    pub client: ClientSummary,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RunEnd {
    /// The plan was carried out.
    Complete,
    /// Told to stop; answers under way were waited for.
    Stopped,
    /// Told to stop at once; answers under way were cut off.
    Aborted,
    /// More requests failed than the plan allows.
    TooManyFailed,
}

/// One phase.
#[derive(Clone, Debug)]
pub struct PhaseSummary {
    /// As in the plan.
    pub name: String,
    /// As in the plan.
    pub kind: PhaseKind,
    /// When it began and ended; `None` if the run ended first.
    pub span: Option<(Duration, Duration)>,
    /// Requests started.
    pub issued: u64,
    /// Requests that were due, but not sent before the end.
    pub not_sent: u64,
    /// Requests a second that the plan asked for on average.
    pub target_rate: Option<f64>,
    /// Requests issued, by the time from the phase's start to the last due time: the rate as planned.
    pub planned_rate: Option<f64>,
    /// Requests issued, by the time from the phase's start to the last send: the rate that came about.
    pub achieved_rate: Option<f64>,
}

/// The sender's own behaviour.
#[derive(Clone, Debug)]
pub struct ClientSummary {
    /// First byte handed to the kernel, after the request was due, in nanoseconds. Connecting and waiting for a
    /// slot are part of it.
    pub schedule_lag: Distribution,
    /// From due, or admitted by a concurrency limit, to the start of sending or connecting, in nanoseconds. This
    /// is the part that only this process can be blamed for.
    pub dispatch_lag: Distribution,
    /// How late the sending threads came to an appointment every 10 ms in the measured phases, in nanoseconds.
    pub loop_stall: Distribution,
    /// How long output events had been in the kernel when they were read, in nanoseconds, by the kernel's own time
    /// stamps: how much too late each event was seen. Empty where the kernel gives no stamps.
    pub receive_lag: Distribution,
    /// Most requests in flight at once.
    pub peak_in_flight: u64,
    /// Connections opened.
    pub connections_opened: u64,
    /// Requests sent on a connection that had served one before.
    pub connections_reused: u64,
    /// Requests sent again, because a reused connection turned out to be dead before any answer.
    pub resent: u64,
    /// Reads from sockets.
    pub reads: u64,
    /// Output events received.
    pub payload_events: u64,
    /// Reads that completed an output event.
    pub payload_reads: u64,
    /// Those among them that completed several: the server sends several at once, or this side is late.
    pub bunched_reads: u64,
    /// Time the sending threads waited for the record sink: it is too slow.
    pub sink_stall: Duration,
    /// Share of the processors' time that the host of this virtual machine gave to others; `None` on a machine that
    /// has them to itself.
    pub stolen_share: Option<f64>,
    /// One a thread.
    pub threads: Vec<ThreadSummary>,
}

/// What one thread had of the processors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThreadSummary {
    /// Its work.
    pub role: ThreadRole,
    /// CPU time.
    pub cpu: Duration,
    /// CPU time by wall time: near 1, the thread is saturated.
    pub cpu_share: f64,
    /// Time ready to run but not running, by wall time: the machine is crowded.
    pub wait_share: f64,
}

/// A thread's work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ThreadRole {
    /// Sends and receives.
    Io,
    /// Draws the plan and writes bodies.
    Planner,
    /// Hands records to the sink.
    Collector,
}

// === impl RunSummary ===

impl RunSummary {
    /// What the verdict needs to know of this side; prompts used again are for others to say.
    pub fn health(&self) -> ClientHealth {
        let client = &self.client;
        let io_threads = client.threads.iter().filter(|thread| thread.role == ThreadRole::Io);
        ClientHealth {
            io_thread_cpu: io_threads.map(|thread| thread.cpu_share).collect(),
            payload_reads: client.payload_reads,
            multi_event_reads: client.bunched_reads,
            read_lag: client.receive_lag.clone(),
            stalls: Stalls::new(&client.loop_stall, HEARTBEAT),
            peak_in_flight: Some(client.peak_in_flight),
            stolen_share: client.stolen_share,
            reused_prompts: None,
            interrupted: matches!(self.end, RunEnd::Stopped | RunEnd::Aborted),
            ended_by: None,
        }
    }
}

// === impl ClientSummary ===

impl ClientSummary {
    /// How busy the busiest thread was, its waiting for a core included, from 0 to 1.
    pub fn busiest(&self) -> f64 {
        self.threads.iter().map(|thread| thread.cpu_share + thread.wait_share).fold(0.0, f64::max)
    }

    pub(crate) fn new(
        measures: ThreadMeasures,
        peak_in_flight: u64,
        threads: Vec<ThreadSummary>,
        stolen_share: Option<f64>,
    ) -> Self {
        Self {
            payload_reads: measures.payload_reads,
            bunched_reads: measures.bunched_reads,
            schedule_lag: measures.schedule_lag,
            dispatch_lag: measures.dispatch_lag,
            loop_stall: measures.loop_stall,
            receive_lag: measures.receive_lag,
            peak_in_flight,
            connections_opened: measures.opened,
            connections_reused: measures.reused,
            resent: measures.resent,
            reads: measures.reads,
            payload_events: measures.payload_events,
            sink_stall: measures.sink_stall,
            stolen_share,
            threads,
        }
    }
}
