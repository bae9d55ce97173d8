//! What one replica was sent, oldest first.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;

use super::segment::{HELD_BYTES, Segment, Visit};

/// What one replica was sent.
#[derive(Debug)]
pub(crate) struct History {
    /// Its number in the segments' lists of holders.
    pub(crate) slot: u32,
    pub(super) state: Mutex<HistoryState>,
}

#[derive(Debug, Default)]
pub(super) struct HistoryState {
    pub(super) records: VecDeque<Record>,
    /// Segments held, and their blocks.
    pub(super) segments: usize,
    pub(super) blocks: usize,
    /// Prompts so far.
    pub(super) stamp: u32,
    pub(super) closed: bool,
}

/// A prompt that ended in the segment `key`. It is out of date when the segment was renewed since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) key: u64,
    pub(super) stamp: u32,
    /// In units of [`RECORD_TIME`].
    pub(super) at: u32,
}

/// Unit of the times that are kept.
pub(super) const RECORD_TIME: Duration = Duration::from_millis(100);
/// Space in queues counts twice, since they are half empty at times.
pub(super) const RECORD_BYTES: usize = 2 * size_of::<Record>();

/// What one replica's history may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) blocks: usize,
    pub(crate) bytes: usize,
}

impl HistoryState {
    /// Charged to the replica; a repeated prompt costs a record each time.
    pub(super) fn bytes(&self) -> usize {
        self.segments * HELD_BYTES + self.blocks * size_of::<u64>() + self.records.len() * RECORD_BYTES
    }

    /// Gives back the space of a queue that was longer: what is charged for a record covers no more.
    pub(super) fn trim(&mut self) {
        if self.records.capacity() > (2 * self.records.len()).max(64) {
            self.records.shrink_to(self.records.len() * 3 / 2);
        }
    }

    /// The replica gets the first `blocks` blocks of a segment.
    pub(super) fn renew(&mut self, segment: &mut Segment, visit: Visit, blocks: u32) {
        let (rows, held) = (segment.holders.len(), segment.held(visit.slot));
        segment.renew(visit, blocks);
        self.segments = self.segments + segment.holders.len() - rows;
        self.blocks += blocks.saturating_sub(held) as usize;
    }
}

impl History {
    pub(crate) fn new(slot: u32) -> Self {
        Self { slot, state: Mutex::default() }
    }

    /// Blocks held now.
    pub(crate) fn blocks(&self) -> usize {
        self.state.lock().blocks
    }
}
