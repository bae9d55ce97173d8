//! One replica: what it is, and the load that this process has put on it.
//!
//! Loads are sums over the leases that are open now. They are changed only by [`Lease`](crate::Lease), never
//! reset by health checks or reloads, and are therefore exact at every moment for this balancer's own requests.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;

use crate::{
    EngineReport, Health, Reported, coefficients::Slowness, experience::Experience, prefix_index::History,
};

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
    pub(crate) history: Arc<History>,
    pub(crate) experience: Arc<Experience>,
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
            history: Arc::clone(&self.history),
            experience: Arc::clone(&self.experience),
        }
    }

    /// Keeps what its engine reported at `now`.
    pub fn report(&self, report: EngineReport, now: Duration) {
        self.reported.store(report, self.load.requests(), now);
        self.experience.reported(report, now);
    }

    /// Says how many tokens its engine's KV cache holds, in place of the pool's setting.
    pub fn set_cache_tokens(&self, tokens: u64) {
        self.load.cache_tokens.store(tokens, Relaxed);
    }

    /// What its engine's KV cache holds, if it said so.
    pub(crate) fn cache_tokens(&self) -> Option<u64> {
        Some(self.load.cache_tokens.load(Relaxed)).filter(|tokens| *tokens > 0)
    }

    /// Its engine says that it holds these blocks of prompts. What engines say counts more than the history.
    pub fn cache_holds(&self, blocks: &[u64]) {
        blocks.iter().for_each(|block| self.experience.caches.holds(self.history.slot, *block));
    }

    /// Its engine says that these blocks are gone.
    pub fn cache_lost(&self, blocks: &[u64]) {
        blocks.iter().for_each(|block| self.experience.caches.lost(self.history.slot, *block));
    }

    /// What its engine said may be wrong by now: from here on the history counts alone.
    pub fn cache_unknown(&self) {
        self.experience.caches.clear(self.history.slot);
    }

    /// Its engine's cache is empty: it has started again, or was told to forget.
    pub fn cache_emptied(&self) {
        self.experience.caches.clear(self.history.slot);
        self.experience.index.emptied(&self.history);
    }

    /// How long its tokens take compared with the pool's, as learned; 1 where the difference may be noise.
    pub fn slowness(&self) -> f64 {
        self.experience.slowness(&self.load.slowness)
    }

    /// A prompt that it was sent before was found in its cache or `missed`. One is missed now and then, more of them
    /// where caches are short; so many in a row that this does not explain it mean that the engine started anew, and
    /// what it was sent before the first of them is forgotten.
    pub(crate) fn judge_history(&self, missed: bool, opened: Duration) {
        let usual = self.experience.judge(missed);
        let prediction = &self.load.prediction;
        if !missed {
            prediction.misses_in_row.store(0, Relaxed);
            return;
        }
        let before = prediction.misses_in_row.fetch_add(1, Relaxed);
        if before == 0 {
            prediction.missing_since.store(u64::try_from(opened.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        }
        if usual.powf(f64::from(before) + 1.0) < CHANCE {
            let since = Duration::from_nanos(prediction.missing_since.load(Relaxed));
            self.experience.index.forget_before(&self.history, since);
            prediction.misses_in_row.store(0, Relaxed);
        }
    }

    /// Prompt blocks that its history holds, for `prefix_aware`.
    pub fn history_blocks(&self) -> usize {
        self.history.blocks()
    }
}

/// Sums over the open leases of one replica.
#[derive(Debug, Default)]
#[repr(C, align(128))] // One replica's counters never share a cache line with another's; a pick reads the first.
pub struct Load {
    pub(crate) open: Open,
    pub(crate) waiting_tokens: AtomicU64,
    /// Prompt and output tokens of each open lease, in proportion to the output that is left.
    pub(crate) context_tokens: AtomicU64,
    /// Work left, in nanoseconds.
    pub(crate) outstanding: AtomicU64,
    pub(crate) slowness: Slowness,
    pub(crate) output_tokens: AtomicU64,
    pub(crate) prompt_tokens: AtomicU64,
    /// What its engine's cache holds; 0 unless it says so.
    pub(crate) cache_tokens: AtomicU64,
    /// Credit of the smooth weighted round robin.
    pub(crate) turn: AtomicI64,
    pub(crate) picked: AtomicU64,
    /// Uncached prompt tokens of all leases that ever got their first token.
    pub(crate) prefilled_tokens: AtomicU64,
    pub(crate) prediction: Prediction,
    /// When a token last arrived, in nanoseconds; 0 before the first.
    pub(crate) produced_at: AtomicU64,
}

/// Open leases, and those without a first token yet, in one counter: they change and are read at once.
#[derive(Debug, Default)]
pub(crate) struct Open(AtomicU64);

/// Open leases at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OpenCount {
    pub(crate) requests: u32,
    /// Those without a first token yet.
    pub(crate) waiting: u32,
}

impl Load {
    /// How long ago the last token came; zero where none ever did.
    pub(crate) fn quiet_for(&self, now: Duration) -> Duration {
        match self.produced_at.load(Relaxed) {
            0 => Duration::ZERO,
            at => now.saturating_sub(Duration::from_nanos(at)),
        }
    }
}

impl OpenCount {
    const fn bits(self) -> u64 {
        (self.waiting as u64) << 32 | self.requests as u64
    }

    const fn from_bits(bits: u64) -> Self {
        Self { requests: bits as u32, waiting: (bits >> 32) as u32 }
    }
}

impl Open {
    pub(crate) fn get(&self) -> OpenCount {
        OpenCount::from_bits(self.0.load(Relaxed))
    }

    /// Returns what was open before.
    pub(crate) fn add(&self, more: OpenCount) -> OpenCount {
        OpenCount::from_bits(self.0.fetch_add(more.bits(), Relaxed))
    }

    pub(crate) fn remove(&self, fewer: OpenCount) {
        self.0.fetch_sub(fewer.bits(), Relaxed);
    }
}

/// What caches held, and what was expected of them.
#[derive(Debug, Default)]
pub(crate) struct Prediction {
    pub(crate) answers: AtomicU64,
    pub(crate) expected_tokens: AtomicU64,
    pub(crate) cached_tokens: AtomicU64,
    pub(crate) missing_tokens: AtomicU64,
    pub(crate) surprising_tokens: AtomicU64,
    /// Known prompts that were not in the cache, one after the other, and when the first of them was sent.
    pub(crate) misses_in_row: AtomicU32,
    pub(crate) missing_since: AtomicU64,
}

/// A row of misses that is less likely than this is no accident.
const CHANCE: f64 = 1e-4;

/// How well the cached parts of prompts were predicted, over all answers that said.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct PredictionSnapshot {
    /// Answers that said how many prompt tokens were cached.
    pub answers: u64,
    /// What was expected of them.
    pub expected_tokens: u64,
    /// What they said.
    pub cached_tokens: u64,
    /// Expected and not there.
    pub missing_tokens: u64,
    /// There and not expected.
    pub surprising_tokens: u64,
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
        let open = self.open.get();
        LoadSnapshot {
            requests: open.requests.into(),
            waiting: open.waiting.into(),
            waiting_tokens: self.waiting_tokens.load(Relaxed),
            prompt_tokens: self.prompt_tokens.load(Relaxed),
            output_tokens: self.output_tokens.load(Relaxed),
            picked: self.picked.load(Relaxed),
        }
    }

    /// Open leases.
    pub fn requests(&self) -> u64 {
        self.open.get().requests.into()
    }

    /// Prompt tokens not yet prefilled plus output tokens still expected.
    pub fn pending_tokens(&self) -> u64 {
        self.waiting_tokens.load(Relaxed) + self.output_tokens.load(Relaxed)
    }

    /// Seconds that the engine would take for all open leases.
    pub fn outstanding_s(&self) -> f64 {
        self.outstanding.load(Relaxed) as f64 * 1e-9
    }

    /// How well the cached parts of prompts were predicted.
    pub fn prediction(&self) -> PredictionSnapshot {
        PredictionSnapshot {
            answers: self.prediction.answers.load(Relaxed),
            expected_tokens: self.prediction.expected_tokens.load(Relaxed),
            cached_tokens: self.prediction.cached_tokens.load(Relaxed),
            missing_tokens: self.prediction.missing_tokens.load(Relaxed),
            surprising_tokens: self.prediction.surprising_tokens.load(Relaxed),
        }
    }

    /// When a token last arrived; `None` before the first. A replica that delivers tokens is alive, even if it
    /// has no time for health checks.
    pub fn last_produced(&self) -> Option<Duration> {
        let at = self.produced_at.load(Relaxed);
        (at != 0).then(|| Duration::from_nanos(at))
    }
}
