//! Slices of time with figures of their own, for `--slice-duration`.
//!
//! A request belongs to the slice in which it was sent. What is per second is so per second of the slice, not of the
//! time between its own first and last request: a slice that is cut short by the run's first send or its end counts
//! with what is left of it. What was under way at each moment comes from the whole run, cut to the slice.

use std::{collections::BTreeMap, time::Duration};

use super::{Collector, MetricResult};
use crate::{Outcome, Record};

/// Slices of time with figures of their own; later requests count for the last.
const SLICES: u64 = 3_600;

/// One collector for each slice of time, by when requests were sent.
#[derive(Clone, Debug)]
pub struct Slices {
    width: Duration,
    slices: BTreeMap<u64, Collector>,
    empty: Collector,
}

/// When a slice was, on the run's clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slice {
    pub(super) start: Duration,
    pub(super) end: Duration,
    /// Requests were under way during all of it.
    pub(super) complete: bool,
}

impl Slices {
    /// Slices of `width` (at least a millisecond) that collect what `empty` does.
    pub fn new(width: Duration, empty: Collector) -> Self {
        Self { width: width.max(Duration::from_millis(1)), slices: BTreeMap::new(), empty }
    }

    /// Adds one request.
    pub fn push(&mut self, record: &Record) {
        let Some(sent) = record.begun().filter(|_| record.outcome != Outcome::Incomplete) else { return };
        let first = self.slices.keys().next().copied();
        let index = u64::try_from(sent.as_nanos() / self.width.as_nanos()).unwrap_or(u64::MAX);
        let index = index.min(first.unwrap_or(index).saturating_add(SLICES - 1));
        self.slices.entry(index).or_insert_with(|| self.empty.clone()).push(record);
    }

    /// Each slice with its figures. `measured` has collected the same requests.
    pub(super) fn results(&self, measured: &Collector) -> impl Iterator<Item = (Slice, Vec<MetricResult>)> {
        let activity = |edge: fn(&Collector) -> Option<Duration>| self.slices.values().filter_map(edge);
        let first = activity(|slice| slice.activity.start()).min().unwrap_or_default();
        let last = activity(|slice| slice.activity.end()).max().unwrap_or_default();
        self.slices.iter().map(move |(index, collector)| {
            let start = self.width.saturating_mul(u32::try_from(*index).unwrap_or(u32::MAX));
            let end = start + self.width;
            let complete = first <= start + self.width / 100 && end <= last;
            let (start, end) = (start.max(first.min(end)), end.min(last.max(start)));
            let mut results = collector.results_over((end - start).as_secs_f64());
            results.extend(measured.over_time_within(Some((start, end))));
            (Slice { start, end, complete }, results)
        })
    }

    #[cfg(test)]
    pub(super) fn collectors(&self) -> impl ExactSizeIterator<Item = &Collector> {
        self.slices.values()
    }
}
