//! One replica: what it is, and the load that this process has put on it.
//!
//! Loads are sums over the leases that are open now. They are changed only by [`Lease`](crate::Lease), never
//! reset by health checks or reloads, and are therefore exact at every moment for this balancer's own requests.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;

use crate::{EngineReport, Health, Reported};

/// What the operator says about a replica.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplicaSpec {
    /// Base URL; the name in metrics, logs and hashes.
    pub name: Arc<str>,
    /// Share of traffic relative to the others; at least 1.
    pub weight: u32,
    /// The adapters it serves; `None` where that is not known, so that any adapter may be tried.
    pub adapters: Option<BTreeSet<String>>,
}

impl ReplicaSpec {
    /// A replica of weight 1 whose adapters are not known.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), weight: 1, adapters: None }
    }

    /// Whether requests for `adapter` may go to this replica.
    pub fn has_adapter(&self, adapter: &str) -> bool {
        self.adapters.as_ref().is_none_or(|adapters| adapters.contains(adapter))
    }
}

/// A replica in a pool. It keeps its load and health when the policy, other replicas or its own weight and
/// adapters change.
#[derive(Debug)]
pub struct Replica {
    /// Unique in the process; a replica that leaves and returns gets a new one.
    pub id: u64,
    /// What the operator says about it.
    pub spec: ReplicaSpec,
    /// Sums over its open leases.
    pub load: Arc<Load>,
    /// Whether it gets requests.
    pub health: Arc<Health>,
    /// What its engine says about its queue.
    pub reported: Arc<Reported>,
}

impl Replica {
    /// The same replica after the operator changed what they say about it.
    pub(crate) fn with_spec(&self, spec: ReplicaSpec) -> Self {
        Self {
            id: self.id,
            spec,
            load: Arc::clone(&self.load),
            health: Arc::clone(&self.health),
            reported: Arc::clone(&self.reported),
        }
    }

    /// Keeps what its engine reported at `now`.
    pub fn report(&self, report: EngineReport, now: Duration) {
        self.reported.store(report, self.load.requests(), now);
    }
}

/// Sums over the open leases of one replica.
#[derive(Debug, Default)]
#[repr(align(128))] // One replica's counters never share a cache line with another's.
pub struct Load {
    pub(crate) requests: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) waiting_tokens: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) output_tokens: AtomicU64,
    pub(crate) picked: AtomicU64,
    /// When a token last arrived, in nanoseconds; 0 before the first.
    pub(crate) produced_at: AtomicU64,
    /// Credit of the smooth weighted round robin.
    pub(crate) turn: AtomicI64,
}

/// Loads read together. Each is exact; the set may straddle a pick in another thread.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct LoadSnapshot {
    /// Open leases.
    pub requests: u64,
    /// Open leases without a first token yet.
    pub waiting: u64,
    /// Prompt tokens of the waiting leases that no cache is expected to hold.
    pub waiting_tokens: u64,
    /// Prompt tokens of all open leases.
    pub prompt_tokens: u64,
    /// Output tokens still expected of all open leases.
    pub output_tokens: u64,
    /// Leases ever opened.
    pub picked: u64,
}

impl LoadSnapshot {
    /// Prompt tokens not yet prefilled plus output tokens still expected.
    pub fn pending_tokens(&self) -> u64 {
        self.waiting_tokens + self.output_tokens
    }
}

impl Load {
    /// Reads all counters.
    pub fn snapshot(&self) -> LoadSnapshot {
        LoadSnapshot {
            requests: self.requests.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            waiting_tokens: self.waiting_tokens.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            output_tokens: self.output_tokens.load(Relaxed),
            picked: self.picked.load(Relaxed),
        }
    }

    /// Open leases.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Prompt tokens not yet prefilled plus output tokens still expected.
    pub fn pending_tokens(&self) -> u64 {
        self.waiting_tokens.load(Relaxed) + self.output_tokens.load(Relaxed)
    }

    /// When a token last arrived; `None` before the first. A replica that delivers tokens is alive, even if it
    /// has no time for health checks.
    pub fn last_produced(&self) -> Option<Duration> {
        let at = self.produced_at.load(Relaxed);
        (at != 0).then(|| Duration::from_nanos(at))
    }
}
