//! What is counted about cache events.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::metrics::{Counter, ReplicaMetrics};

/// For one replica.
#[derive(Debug, Default)]
pub(crate) struct KvEventCounters {
    pub(super) batches: Counter,
    pub(super) stored: Counter,
    pub(super) removed: Counter,
    pub(super) gaps: Counter,
    pub(super) replayed: Counter,
    pub(super) lost: Counter,
    pub(super) restarts: Counter,
    pub(super) malformed: Counter,
    pub(super) unknown: Counter,
    pub(super) connects: Counter,
    connected: AtomicU64,
    blocks: AtomicU64,
}

/// For the gateway.
#[derive(Debug, Default)]
pub(crate) struct LessonCounters {
    pub(super) taken: Counter,
    pub(super) failed: Counter,
    pub(super) dropped: Counter,
    learned: AtomicU64,
}

type Row<T> = (&'static str, &'static str, fn(&T) -> u64);

/// Counters of each replica.
pub(crate) const COUNTERS: &[Row<ReplicaMetrics>] = &[
    ("kv_event_batches", "Batches of cache events taken over from a replica.", |all| {
        all.kv_events.batches.get()
    }),
    ("kv_event_blocks_stored", "Blocks that a replica said it stored in its prefix cache.", |all| {
        all.kv_events.stored.get()
    }),
    ("kv_event_blocks_removed", "Blocks that a replica said it removed from its prefix cache.", |all| {
        all.kv_events.removed.get()
    }),
    ("kv_event_gaps", "Gaps in the numbers of a replica's batches.", |all| all.kv_events.gaps.get()),
    ("kv_event_replayed_batches", "Batches had again from a replica's replay socket.", |all| {
        all.kv_events.replayed.get()
    }),
    (
        "kv_event_losses",
        "Times that batches could not be had again, and a replica's index was cleared.",
        |all| all.kv_events.lost.get(),
    ),
    ("kv_event_restarts", "Times that a replica's numbers showed that it had started again.", |all| {
        all.kv_events.restarts.get()
    }),
    ("kv_event_malformed", "Messages of a replica that were no cache events.", |all| {
        all.kv_events.malformed.get()
    }),
    ("kv_event_unknown", "Cache events of kinds that are not known.", |all| all.kv_events.unknown.get()),
    ("kv_event_connects", "Connections made to a replica's publisher.", |all| all.kv_events.connects.get()),
];

/// Gauges of each replica.
pub(crate) const GAUGES: &[Row<ReplicaMetrics>] = &[
    ("kv_event_connected", "1 while a replica's cache events are followed.", |all| {
        all.kv_events.connected.load(Relaxed)
    }),
    ("kv_event_blocks", "Blocks that a replica's prefix cache holds by its events.", |all| {
        all.kv_events.blocks.load(Relaxed)
    }),
];

/// Counters of the gateway.
pub(crate) const LESSON_COUNTERS: &[Row<LessonCounters>] = &[
    ("kv_event_lessons", "Prompts whose tokens were learned from a replica.", |all| all.taken.get()),
    ("kv_event_lessons_failed", "Prompts whose tokens a replica did not tell.", |all| all.failed.get()),
    (
        "kv_event_lessons_dropped",
        "Prompts whose tokens were not asked for, because too many waited.",
        |all| all.dropped.get(),
    ),
];

/// Gauges of the gateway.
pub(crate) const LESSON_GAUGES: &[Row<LessonCounters>] =
    &[("kv_event_learned_blocks", "Blocks of text whose tokens are known.", |all| all.learned.load(Relaxed))];

impl KvEventCounters {
    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected.into(), Relaxed);
    }

    pub(super) fn set_blocks(&self, blocks: usize) {
        self.blocks.store(blocks as u64, Relaxed);
    }
}

impl LessonCounters {
    pub(super) fn set_learned(&self, blocks: usize) {
        self.learned.store(blocks as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented() {
        let page = include_str!("../../../../docs/kv-events.md");
        let counters = COUNTERS.iter().map(|row| row.0).chain(LESSON_COUNTERS.iter().map(|row| row.0));
        let counters = counters.map(|name| format!("{name}_total"));
        let gauges = GAUGES.iter().map(|row| row.0).chain(LESSON_GAUGES.iter().map(|row| row.0));
        for name in counters.chain(gauges.map(str::to_owned)) {
            let ending = name.strip_prefix("kv_event").expect("one prefix for all");
            assert!(page.contains(&format!("{ending}`")), "{name} is not in docs/kv-events.md");
        }
    }
}
