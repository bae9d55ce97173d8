//! Runs of prompt blocks, and who holds how much of them.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

// Space in tables counts three times: see `release_table`.
const SEGMENT_BYTES: usize = 3 * size_of::<(u64, Segment)>();
/// Charged to a replica for each segment that it holds, besides the segment's blocks.
pub(super) const HELD_BYTES: usize = SEGMENT_BYTES + 4 * size_of::<Holder>() + 4 * size_of::<Branch>();

/// A run of blocks. Other segments may leave it after any of them.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) blocks: Vec<u64>,
    /// By slot, and of one slot the shorter part first.
    pub(super) holders: Vec<Holder>,
    /// How many segments leave it after so many of its blocks, in order.
    pub(super) branches: Vec<Branch>,
    pub(super) parent: Option<Place>,
}

/// After so many blocks of the segment with this first hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(super) key: u64,
    pub(super) offset: u32,
}

/// A replica that holds the beginning of a segment. It is listed more than once where prompts went different ways
/// into the segment: the longer the part, the older.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) slot: u32,
    /// How many of the segment's blocks, from the first.
    pub(super) blocks: u32,
    /// The replica's count of prompts when one last went this far, and when that was.
    pub(super) stamp: AtomicU32,
    time: AtomicU32,
    /// Blocks of the answer to a prompt that ended here.
    pub(super) answer: AtomicU32,
}

/// A prompt on its way to a replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit {
    pub(super) slot: u32,
    /// The replica's count of prompts.
    pub(super) stamp: u32,
    /// In units of [`RECORD_TIME`](super::RECORD_TIME).
    pub(super) time: u32,
}

#[derive(Debug)]
pub(super) struct Branch {
    pub(super) offset: u32,
    pub(super) count: u32,
}

impl Segment {
    /// Held by nobody yet.
    pub(super) fn new(blocks: &[u64], parent: Option<Place>) -> Self {
        Self { blocks: blocks.into(), holders: Vec::new(), branches: Vec::new(), parent }
    }

    pub(super) fn bytes(&self) -> usize {
        SEGMENT_BYTES
            + self.blocks.capacity() * size_of::<u64>()
            + self.holders.capacity() * size_of::<Holder>()
            + self.branches.capacity() * size_of::<Branch>()
    }

    /// What a replica holds of it, the shortest part first.
    fn own(&self, slot: u32) -> impl Iterator<Item = &Holder> {
        let first = self.first(slot);
        self.holders[first..].iter().take_while(move |holder| holder.slot == slot)
    }

    fn first(&self, slot: u32) -> usize {
        self.holders.partition_point(|holder| holder.slot < slot)
    }

    /// How many of its blocks a replica holds.
    pub(super) fn held(&self, slot: u32) -> u32 {
        self.own(slot).last().map(|holder| holder.blocks).unwrap_or_default()
    }

    /// How many of the first `blocks` blocks a replica holds, and when it last got them.
    pub(super) fn known(&self, slot: u32, blocks: u32) -> Option<(u32, u32)> {
        let whole = self.own(slot).find(|holder| holder.blocks >= blocks);
        let holder = whole.or_else(|| self.own(slot).last())?;
        Some((holder.blocks.min(blocks), holder.time.load(Relaxed)))
    }

    /// Renews a part that the replica holds as it is, with no shorter one beside it: all that a prefix in steady
    /// use needs, and readers may go on meanwhile. Returns when the replica got it before, or `None` where more
    /// than that is to be done.
    pub(super) fn touch(&self, visit: Visit, blocks: u32) -> Option<u32> {
        let holder = self.own(visit.slot).next()?;
        (holder.blocks == blocks).then(|| {
            holder.stamp.store(visit.stamp, Relaxed);
            holder.time.swap(visit.time, Relaxed)
        })
    }

    /// A replica gets the first `blocks` blocks again.
    pub(super) fn renew(&mut self, Visit { slot, stamp, time }: Visit, blocks: u32) {
        let first = self.first(slot);
        let replaced = self.own(slot).take_while(|holder| holder.blocks <= blocks).count();
        let answer = self.answer(slot, blocks).map_or(0, |answer| answer.load(Relaxed));
        let holder = Holder { slot, blocks, stamp: stamp.into(), time: time.into(), answer: answer.into() };
        self.holders.splice(first..first + replaced, [holder]);
        release(&mut self.holders);
    }

    /// What is kept of the answer to a prompt that a replica got, if it ended after `blocks` blocks.
    pub(super) fn answer(&self, slot: u32, blocks: u32) -> Option<&AtomicU32> {
        self.own(slot).find(|holder| holder.blocks == blocks).map(|holder| &holder.answer)
    }

    /// It ends after `offset` blocks, and nothing leaves it there.
    pub(super) fn is_open_at(&self, offset: u32) -> bool {
        self.blocks.len() == offset as usize && self.branches.last().is_none_or(|last| last.offset < offset)
    }

    /// Counts a segment that leaves this one after `offset` blocks, or one that is gone.
    pub(super) fn branch(&mut self, offset: u32, added: bool) {
        match self.branches.binary_search_by_key(&offset, |branch| branch.offset) {
            Ok(found) if added => self.branches[found].count += 1,
            Ok(found) => {
                self.branches[found].count -= 1;
                if self.branches[found].count == 0 {
                    self.branches.remove(found);
                    release(&mut self.branches);
                }
            }
            Err(next) if added => self.branches.insert(next, Branch { offset, count: 1 }),
            Err(_) => {}
        }
    }

    /// How many different blocks follow the first `offset` ones.
    pub(super) fn followers(&self, branch: &Branch) -> u32 {
        branch.count + u32::from((branch.offset as usize) < self.blocks.len())
    }

    /// Drops blocks that nobody holds any more, and the space of those who held them.
    pub(super) fn trim(&mut self) {
        release(&mut self.holders);
        let held = self.holders.iter().map(|holder| holder.blocks as usize).max().unwrap_or_default();
        if held < self.blocks.len() {
            self.blocks.truncate(held);
            self.blocks.shrink_to_fit();
        }
    }
}

/// Gives back the space of a table that was much fuller. Tables have a power of two of places, seven eighths of which
/// they use: with this one never more than three for each entry, but for small ones.
pub(crate) fn release_table<V, S: BuildHasher>(table: &mut HashMap<u64, V, S>) {
    if table.capacity() > (5 * table.len() / 2).max(64) {
        table.shrink_to(table.len());
    }
}

/// Gives back space for more than twice what is left: what is charged for a segment covers no more.
fn release<T>(list: &mut Vec<T>) {
    list.shrink_to((2 * list.len()).max(4));
}

pub(super) fn common_length(left: &[u64], right: &[u64]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}
