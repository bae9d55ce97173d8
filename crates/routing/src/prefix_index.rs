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
//! Segments are spread over locked shards by their hash, and held for the time of one comparison. What a replica is
//! known to hold is renewed among readers, so that picks do not queue for a prefix that all prompts share; only what
//! is new to it locks others out. A replica's history has one writer at a time. Readers may see a prompt half written; they then expect less of a cache
//! than it holds.

mod history;
mod segment;

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::RwLock;

pub(crate) use history::{History, Limits};
use history::{HistoryState, RECORD_BYTES, RECORD_TIME, Record};
use segment::{Holder, Place, Segment, common_length};

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

/// Matched blocks.
#[derive(Debug)]
pub(crate) struct Matches {
    /// By slot.
    pub(crate) blocks: Vec<u32>,
    /// Length of the part that is used so widely that every replica counts as holding it.
    pub(crate) common: u32,
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

    /// Keeps that the replica was sent this prompt at `now`. Returns when it was last sent the end of the part that it
    /// held.
    pub(crate) fn insert(
        &self,
        history: &History,
        blocks: &[u64],
        limits: Limits,
        now: Duration,
    ) -> Option<Duration> {
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
            let touched = self.shard(key).read().get(&key).and_then(|segment| {
                let common = common_length(&segment.blocks, &blocks[at..]) as u32;
                segment.touch(history.slot, common, stamp).map(|before| (common, before))
            });
            if let Some((common, before)) = touched {
                renewed = Some(before);
                parent = Some(Place { key, offset: common });
                at += common as usize;
                continue;
            }
            let mut shard = self.shard(key).write();
            match shard.entry(key) {
                Entry::Occupied(mut entry) => {
                    let segment = entry.get_mut();
                    let before = segment.bytes();
                    let common = common_length(&segment.blocks, &blocks[at..]) as u32;
                    renewed = segment.age(history.slot, common).or(renewed);
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
                    let holder = Holder { slot: history.slot, blocks: own.len() as u32, stamp: stamp.into() };
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
        let known_since = renewed.and_then(|stamp| state.time_of(stamp));
        self.make_room(history.slot, &mut state, limits);
        known_since
    }

    /// Counts a segment that leaves another one at `place`, or one that is gone.
    fn branch(&self, place: Place, added: bool) {
        let mut shard = self.shard(place.key).write();
        let Some(segment) = shard.get_mut(&place.key) else { return };
        let before = segment.bytes();
        segment.branch(place.offset, added);
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
            let oldest = |holder: &Holder| holder.slot == slot && holder.stamp.load(Relaxed) == record.stamp;
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

    /// Forgets what a replica was sent before a time.
    pub(crate) fn forget_before(&self, history: &History, time: Duration) {
        let time = u32::try_from(time.as_nanos() / RECORD_TIME.as_nanos()).unwrap_or(u32::MAX);
        self.forget(history.slot, &mut history.state.lock(), |record| record.at < time);
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
