//! Which replica was sent which prompt prefixes: the router's own history, in bounded memory.
//!
//! Prompts come as chained block hashes, so a block's hash stands for everything before it. Runs of blocks that
//! prompts share are kept as *segments*, found by the hash of their first block; a prompt that leaves a segment
//! half-way continues in a segment of its own. Each segment knows which replicas hold how many of its blocks.
//! One walk from segment to segment therefore finds the matched length on every replica at once, in time that
//! grows with the turns of a conversation and not with its length.
//!
//! For each replica the history is a least-recently-used set of prompts, limited in blocks and in bytes. A prompt
//! renews every segment it passes, so beginnings outlive endings, as in the engines. A segment's memory is
//! charged in full to each replica that holds it, so the histories together never need more than their limits.
//!
//! Segments are spread over locked shards by their hash, and held for the time of one comparison. A replica's
//! history has one writer at a time. Readers may see a prompt half written; they then expect less of a cache
//! than it holds.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};

const SHARDS: usize = 64;

/// The segments of all replicas of a pool.
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    shards: Box<[RwLock<Shard>]>,
    bytes: AtomicUsize,
}

type Shard = HashMap<u64, Segment, BuildHasherDefault<Identity>>;

/// Block hashes are hashes already.
#[derive(Debug, Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A run of blocks. Other segments may leave it after any of them.
#[derive(Debug)]
struct Segment {
    blocks: Vec<u64>,
    holders: Vec<Holder>,
    /// How many segments leave it after so many of its blocks, in order.
    branches: Vec<Branch>,
    parent: Option<Place>,
}

/// After so many blocks of the segment with this first hash.
#[derive(Clone, Copy, Debug)]
struct Place {
    key: u64,
    offset: u32,
}

/// A replica that holds the beginning of a segment. It is listed more than once where prompts went different ways
/// into the segment: the longer the part, the older.
#[derive(Debug)]
struct Holder {
    slot: u32,
    /// How many of the segment's blocks, from the first.
    blocks: u32,
    /// The replica's count of prompts when one last went this far.
    stamp: u32,
}

#[derive(Debug)]
struct Branch {
    offset: u32,
    count: u32,
}

/// What one replica was sent, oldest first.
#[derive(Debug)]
pub(crate) struct History {
    /// Its number in the segments' lists of holders.
    pub(crate) slot: u32,
    state: Mutex<HistoryState>,
}

#[derive(Debug, Default)]
struct HistoryState {
    records: VecDeque<Record>,
    /// Segments held, and their blocks.
    segments: usize,
    blocks: usize,
    /// Prompts so far.
    stamp: u32,
    closed: bool,
}

/// A prompt that ended in the segment `key`. It is out of date when the segment was renewed since.
#[derive(Clone, Copy, Debug)]
struct Record {
    key: u64,
    stamp: u32,
    /// In units of [`RECORD_TIME`].
    at: u32,
}

const RECORD_TIME: Duration = Duration::from_millis(100);

// Space in tables and queues counts twice, since they are half empty at times.
const RECORD_BYTES: usize = 2 * size_of::<Record>();
const SEGMENT_BYTES: usize = 2 * size_of::<(u64, Segment)>();
/// Charged to a replica for each segment that it holds, besides the segment's blocks.
const HELD_BYTES: usize = SEGMENT_BYTES + 4 * size_of::<Holder>() + 4 * size_of::<Branch>();

/// What one replica's history may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) blocks: usize,
    pub(crate) bytes: usize,
}

/// The age of the last segment of a prompt that the replica held, before the prompt renewed it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Renewed {
    stamp: u32,
}

/// Matched blocks.
#[derive(Debug)]
pub(crate) struct Matches {
    /// By slot.
    pub(crate) blocks: Vec<u32>,
    /// Length of the part that is used so widely that every replica counts as holding it.
    pub(crate) common: u32,
}

impl Segment {
    fn bytes(&self) -> usize {
        SEGMENT_BYTES
            + self.blocks.capacity() * size_of::<u64>()
            + self.holders.capacity() * size_of::<Holder>()
            + self.branches.capacity() * size_of::<Branch>()
    }

    /// How many of its blocks a replica holds.
    fn held(&self, slot: u32) -> u32 {
        let own = self.holders.iter().filter(|holder| holder.slot == slot);
        own.map(|holder| holder.blocks).max().unwrap_or_default()
    }

    /// When a replica last got the first `blocks` blocks, or as many of them as it holds.
    fn age(&self, slot: u32, blocks: u32) -> Option<u32> {
        let own = || self.holders.iter().filter(|holder| holder.slot == slot);
        let whole = own().filter(|holder| holder.blocks >= blocks).min_by_key(|holder| holder.blocks);
        whole.or_else(|| own().max_by_key(|holder| holder.blocks)).map(|holder| holder.stamp)
    }

    /// A replica gets the first `blocks` blocks again.
    fn renew(&mut self, slot: u32, blocks: u32, stamp: u32) {
        self.holders.retain(|holder| holder.slot != slot || holder.blocks > blocks);
        self.holders.push(Holder { slot, blocks, stamp });
    }

    /// How many different blocks follow the first `offset` ones.
    fn followers(&self, branch: &Branch) -> u32 {
        branch.count + u32::from((branch.offset as usize) < self.blocks.len())
    }

    /// Drops blocks that nobody holds any more.
    fn trim(&mut self) {
        let held = self.holders.iter().map(|holder| holder.blocks as usize).max().unwrap_or_default();
        if held < self.blocks.len() {
            self.blocks.truncate(held);
            self.blocks.shrink_to_fit();
        }
    }
}

fn common_length(left: &[u64], right: &[u64]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

impl HistoryState {
    /// Charged to the replica; a repeated prompt costs a record each time.
    fn bytes(&self) -> usize {
        self.segments * HELD_BYTES + self.blocks * size_of::<u64>() + self.records.len() * RECORD_BYTES
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

impl PrefixIndex {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), bytes: AtomicUsize::new(0) }
    }

    /// Memory in use, estimated from above.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    fn shard(&self, key: u64) -> &RwLock<Shard> {
        // Bits that the tables inside the shards do not use.
        &self.shards[(key >> 40) as usize % SHARDS]
    }

    /// Accounts for a segment that changed its size.
    fn resized(&self, before: usize, after: usize) {
        self.bytes.fetch_add(after.wrapping_sub(before), Relaxed);
    }

    /// How much of a prompt each of `slots` replicas was sent before. A block that `widely` different ones
    /// follow counts as held by all.
    pub(crate) fn matches(&self, blocks: &[u64], slots: usize, widely: u32) -> Matches {
        let mut matches = Matches { blocks: vec![0; slots], common: 0 };
        let mut at = 0;
        while let Some(key) = blocks.get(at) {
            let shard = self.shard(*key).read();
            let Some(segment) = shard.get(key) else { break };
            let common = common_length(&segment.blocks, &blocks[at..]) as u32;
            let start = at as u32;
            for holder in &segment.holders {
                if let Some(matched) = matches.blocks.get_mut(holder.slot as usize) {
                    *matched = (*matched).max(start + holder.blocks.min(common));
                }
            }
            let passed = segment.branches.iter().take_while(|branch| branch.offset <= common);
            if let Some(branch) = passed.filter(|branch| segment.followers(branch) >= widely).last() {
                matches.common = start + branch.offset;
            }
            at += common as usize;
        }
        matches
    }

    /// Keeps that the replica was sent this prompt at `now`. Returns how old the last part was that it held.
    pub(crate) fn insert(
        &self,
        history: &History,
        blocks: &[u64],
        limits: Limits,
        now: Duration,
    ) -> Option<Renewed> {
        let mut state = history.state.lock();
        if state.closed || blocks.is_empty() {
            return None;
        }
        if state.stamp == u32::MAX {
            self.forget(history.slot, &mut state, |_| true);
            state.stamp = 0;
        }
        state.stamp += 1;
        let stamp = state.stamp;
        let mut renewed = None;
        let mut parent: Option<Place> = None;
        let mut at = 0;
        while at < blocks.len() {
            let key = blocks[at];
            let mut shard = self.shard(key).write();
            match shard.entry(key) {
                Entry::Occupied(mut entry) => {
                    let segment = entry.get_mut();
                    let before = segment.bytes();
                    let common = common_length(&segment.blocks, &blocks[at..]) as u32;
                    renewed = segment.age(history.slot, common).map(|stamp| Renewed { stamp }).or(renewed);
                    let (rows, held) = (segment.holders.len(), segment.held(history.slot));
                    segment.renew(history.slot, common, stamp);
                    state.segments = state.segments + segment.holders.len() - rows;
                    state.blocks += common.saturating_sub(held) as usize;
                    self.resized(before, segment.bytes());
                    parent = Some(Place { key, offset: common });
                    at += common as usize;
                }
                Entry::Vacant(entry) => {
                    let own = &blocks[at..];
                    let holder = Holder { slot: history.slot, blocks: own.len() as u32, stamp };
                    let segment =
                        Segment { blocks: own.into(), holders: vec![holder], branches: Vec::new(), parent };
                    state.segments += 1;
                    state.blocks += own.len();
                    self.resized(0, segment.bytes());
                    entry.insert(segment);
                    drop(shard);
                    if let Some(place) = parent {
                        self.branch(place, true);
                    }
                    parent = Some(Place { key, offset: own.len() as u32 });
                    at = blocks.len();
                }
            }
        }
        if let Some(Place { key, .. }) = parent {
            let at = u32::try_from(now.as_nanos() / RECORD_TIME.as_nanos()).unwrap_or(u32::MAX);
            state.records.push_back(Record { key, stamp, at });
            self.resized(0, RECORD_BYTES);
        }
        self.make_room(history.slot, &mut state, limits);
        renewed
    }

    /// Counts a segment that leaves another one at `place`, or one that is gone.
    fn branch(&self, place: Place, added: bool) {
        let mut shard = self.shard(place.key).write();
        let Some(segment) = shard.get_mut(&place.key) else { return };
        let before = segment.bytes();
        match segment.branches.binary_search_by_key(&place.offset, |branch| branch.offset) {
            Ok(found) if added => segment.branches[found].count += 1,
            Ok(found) => {
                segment.branches[found].count -= 1;
                if segment.branches[found].count == 0 {
                    segment.branches.remove(found);
                }
            }
            Err(next) if added => segment.branches.insert(next, Branch { offset: place.offset, count: 1 }),
            Err(_) => {}
        }
        self.resized(before, segment.bytes());
    }

    /// Forgets the oldest prompts until the limits hold.
    fn make_room(&self, slot: u32, state: &mut HistoryState, limits: Limits) {
        let too_much = |state: &HistoryState| state.blocks > limits.blocks || state.bytes() > limits.bytes;
        while too_much(state)
            && let Some(record) = state.records.pop_front()
        {
            self.resized(RECORD_BYTES, 0);
            let left = self.forget_path(slot, record, state, too_much);
            if let Some(key) = left {
                state.records.push_front(Record { key, ..record });
                self.resized(0, RECORD_BYTES);
            }
        }
    }

    /// Forgets the oldest prompts for as long as `old` says so.
    fn forget(&self, slot: u32, state: &mut HistoryState, old: impl Fn(&Record) -> bool) {
        while state.records.front().is_some_and(&old)
            && let Some(record) = state.records.pop_front()
        {
            self.resized(RECORD_BYTES, 0);
            self.forget_path(slot, record, state, |_| true);
        }
    }

    /// Forgets a prompt from its end, up to where another one renewed it, while `go_on`. Returns the segment
    /// where it stopped for want of need.
    fn forget_path(
        &self,
        slot: u32,
        record: Record,
        state: &mut HistoryState,
        go_on: impl Fn(&HistoryState) -> bool,
    ) -> Option<u64> {
        let mut key = record.key;
        loop {
            let mut shard = self.shard(key).write();
            let Entry::Occupied(mut entry) = shard.entry(key) else { return None };
            let segment = entry.get_mut();
            let before = segment.bytes();
            let oldest = |holder: &Holder| holder.slot == slot && holder.stamp == record.stamp;
            let place = segment.holders.iter().position(oldest)?;
            let held = segment.holders.swap_remove(place).blocks;
            let kept = segment.held(slot);
            state.blocks -= held.saturating_sub(kept) as usize;
            state.segments -= 1;
            let parent = segment.parent.filter(|_| kept == 0);
            if segment.holders.is_empty() {
                entry.remove();
                self.resized(before, 0);
                drop(shard);
                if let Some(parent) = parent {
                    self.branch(parent, false);
                }
            } else {
                segment.trim();
                self.resized(before, segment.bytes());
            }
            key = parent?.key;
            if !go_on(state) {
                return Some(key);
            }
        }
    }

    /// The engine held less than the index said, of a prompt whose last known part was `renewed`: whatever the
    /// replica got before that is gone too, since engines forget the oldest first. Nothing happens if that was
    /// after `settled`, when the engine may not have got to it yet.
    pub(crate) fn fell_short(&self, history: &History, renewed: Renewed, settled: Duration) {
        let settled = u32::try_from(settled.as_nanos() / RECORD_TIME.as_nanos()).unwrap_or(u32::MAX);
        let mut state = history.state.lock();
        let next = state.records.partition_point(|record| record.stamp < renewed.stamp);
        // If its own record is gone, the next newer one errs on the safe side.
        if state.records.get(next).is_none_or(|record| record.at >= settled) {
            return;
        }
        self.forget(history.slot, &mut state, |record| record.stamp <= renewed.stamp);
    }

    /// The engine's cache is empty.
    pub(crate) fn emptied(&self, history: &History) {
        self.forget(history.slot, &mut history.state.lock(), |_| true);
    }

    /// Forgets everything about a replica that left, for good.
    pub(crate) fn close(&self, history: &History) {
        let mut state = history.state.lock();
        state.closed = true;
        self.forget(history.slot, &mut state, |_| true);
    }
}

#[cfg(test)]
mod tests;
