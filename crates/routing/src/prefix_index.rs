//! Which replica was sent which prompt prefixes: the router's own history, in bounded memory.
//!
//! Prompts come as chained block hashes, so a block's hash stands for everything before it. Runs of blocks that
//! prompts share are kept as *segments*, found by the hash of their first block; a prompt that leaves a segment
//! half-way continues in a segment of its own, and one that goes on where a segment ends makes it longer, as the turns
//! of a conversation do. Each segment knows which replicas hold how many of its blocks. One walk from segment to
//! segment therefore finds the matched length on every replica at once, in a few steps however long the prompt is.
//!
//! An answer is known by its length alone. A prompt that goes on where one ended that was answered is taken to go on
//! with that answer, which the replica then holds too; how often that is so is learned.
//!
//! For each replica the history is a least-recently-used set of prompts, limited in blocks and in bytes. A prompt
//! renews every segment it passes, so beginnings outlive endings, as in the engines. A segment's memory is
//! charged in full to each replica that holds it, so the histories together never need more than their limits.
//!
//! Segments are spread over locked shards by their hash, and held for the time of one comparison. What a replica is
//! known to hold is renewed among readers, so that picks do not queue for a prefix that all prompts share; only what
//! is new to it locks others out. A replica's history has one writer at a time. Readers may see a prompt half written;
//! they then expect less of a cache than it holds.

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
use segment::{Holder, Segment, Visit, common_length};
pub(crate) use segment::{Place, release_table};

const SHARDS: usize = 64;

/// The segments of all replicas of a pool.
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    shards: Box<[RwLock<Shard>]>,
    bytes: AtomicUsize,
    segments: AtomicUsize,
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
    /// By slot; may be less than `common`.
    pub(crate) blocks: Vec<u32>,
    /// Of replicas that answered a prompt which this one goes on from.
    pub(crate) answers: Vec<Answer>,
    /// Length of the part that is used so widely that every replica counts as holding it.
    pub(crate) common: u32,
}

/// An answer that a replica may hold beyond the prompt that it got.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) slot: u32,
    /// Matched blocks before it.
    pub(crate) after: u32,
    /// No more than the prompt has.
    pub(crate) blocks: u32,
}

/// What was kept of a prompt on its way to a replica.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    /// When the replica was last sent the end of the part that it held.
    pub(crate) known_since: Option<Duration>,
    /// Where that part ends; an engine may have said that it is gone.
    pub(crate) known_blocks: u32,
    /// Where the prompt ends.
    pub(crate) end: Option<Place>,
}

impl Matches {
    /// Adds such a share of the answers that come right after what is matched; the others are none that would be found.
    pub(crate) fn expect_answers(&mut self, share: f64) {
        let Self { blocks, answers, common } = self;
        answers.retain(|answer| blocks[answer.slot as usize] == answer.after && *common <= answer.after);
        for answer in answers {
            blocks[answer.slot as usize] += (share * f64::from(answer.blocks)).round() as u32;
        }
    }
}

impl PrefixIndex {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            bytes: AtomicUsize::new(0),
            segments: AtomicUsize::new(0),
        }
    }

    /// Memory in use, estimated from above.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// About as many as there are conversations, since each ends in one of its own.
    pub(crate) fn segments(&self) -> usize {
        self.segments.load(Relaxed)
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
        let mut matches = Matches { blocks: vec![0; slots], answers: Vec::new(), common: 0 };
        let whole = blocks.len() as u32;
        let mut at = 0;
        while let Some(key) = blocks.get(at) {
            let shard = self.shard(*key).read();
            let Some(segment) = shard.get(key) else { break };
            let common = common_length(&segment.blocks, &blocks[at..]) as u32;
            let start = at as u32;
            let passed = segment.branches.iter().take_while(|branch| branch.offset <= common);
            if let Some(branch) = passed.filter(|branch| segment.followers(branch) >= widely).last() {
                matches.common = start + branch.offset;
            }
            // Who holds what all hold is of no interest.
            if matches.common < start + common {
                for holder in &segment.holders {
                    let Some(matched) = matches.blocks.get_mut(holder.slot as usize) else { continue };
                    *matched = (*matched).max(start + holder.blocks.min(common));
                    let (after, answer) = (start + holder.blocks, holder.answer.load(Relaxed));
                    if answer > 0 && holder.blocks <= common && after < whole {
                        let blocks = answer.min(whole - after);
                        matches.answers.push(Answer { slot: holder.slot, after, blocks });
                    }
                }
            }
            at += common as usize;
        }
        matches
    }

    /// Keeps that the replica was sent this prompt at `now`.
    pub(crate) fn insert(&self, history: &History, blocks: &[u64], limits: Limits, now: Duration) -> Sent {
        let mut state = history.state.lock();
        if state.closed || blocks.is_empty() {
            return Sent::default();
        }
        if state.stamp == u32::MAX {
            self.forget(history.slot, &mut state, |_| true);
            state.stamp = 0;
        }
        state.stamp += 1;
        let time = u32::try_from(now.as_nanos() / RECORD_TIME.as_nanos()).unwrap_or(u32::MAX);
        let visit = Visit { slot: history.slot, stamp: state.stamp, time };
        let (mut known_since, mut known_blocks) = (None, 0);
        let mut end: Option<Place> = None;
        // The prompt has come to the end of a segment that nothing leaves there.
        let mut open = false;
        let mut at = 0;
        while at < blocks.len() {
            let (key, rest) = (blocks[at], &blocks[at..]);
            let touched = self.shard(key).read().get(&key).map(|segment| {
                let common = common_length(&segment.blocks, rest) as u32;
                segment.touch(visit, common).map(|before| (common, segment.is_open_at(common), before))
            });
            let (common, ends_open, known) = match (touched, end) {
                (Some(Some((common, ends_open, before))), _) => (common, ends_open, Some((common, before))),
                (None, Some(place)) if open && self.extend(place, rest, visit, &mut state) => {
                    end = Some(Place { offset: place.offset + rest.len() as u32, ..place });
                    break;
                }
                _ => self.enter(end, rest, visit, &mut state),
            };
            end = Some(Place { key, offset: common });
            open = ends_open;
            if let Some((held, since)) = known {
                (known_since, known_blocks) = (Some(since), at as u32 + held);
            }
            at += common as usize;
        }
        if let Some(Place { key, .. }) = end {
            state.records.push_back(Record { key, stamp: visit.stamp, at: time });
            self.resized(0, RECORD_BYTES);
        }
        self.make_room(history.slot, &mut state, limits);
        Sent { known_since: known_since.map(|since| RECORD_TIME * since), known_blocks, end }
    }

    /// A prompt that the replica was sent was answered with so many blocks.
    pub(crate) fn answered(&self, history: &History, end: Place, blocks: u32) {
        let state = history.state.lock();
        if state.closed {
            // Its number may be another replica's by now.
            return;
        }
        let shard = self.shard(end.key).read();
        let answer = shard.get(&end.key).and_then(|segment| segment.answer(history.slot, end.offset));
        if let Some(answer) = answer {
            answer.store(blocks, Relaxed);
        }
    }

    /// Goes on with a segment that ends at `place`, if nothing leaves it there by now. Whether that was so.
    fn extend(&self, place: Place, blocks: &[u64], visit: Visit, state: &mut HistoryState) -> bool {
        let mut shard = self.shard(place.key).write();
        let segment = shard.get_mut(&place.key).filter(|segment| segment.is_open_at(place.offset));
        let Some(segment) = segment else { return false };
        let before = segment.bytes();
        segment.blocks.reserve_exact(blocks.len());
        segment.blocks.extend_from_slice(blocks);
        state.renew(segment, visit, segment.blocks.len() as u32);
        self.resized(before, segment.bytes());
        true
    }

    /// Enters a prompt in the segment that begins as it does, or in a new one that leaves another at `parent`. Returns
    /// how many blocks of it are there, whether the segment is open at the end of them, and how many the replica had
    /// since when.
    fn enter(
        &self,
        parent: Option<Place>,
        blocks: &[u64],
        visit: Visit,
        state: &mut HistoryState,
    ) -> (u32, bool, Option<(u32, u32)>) {
        let mut shard = self.shard(blocks[0]).write();
        match shard.entry(blocks[0]) {
            Entry::Occupied(mut entry) => {
                let segment = entry.get_mut();
                let before = segment.bytes();
                let common = common_length(&segment.blocks, blocks) as u32;
                let known = segment.known(visit.slot, common);
                state.renew(segment, visit, common);
                self.resized(before, segment.bytes());
                (common, segment.is_open_at(common), known)
            }
            Entry::Vacant(entry) => {
                let segment = entry.insert(Segment::new(blocks, parent));
                self.segments.fetch_add(1, Relaxed);
                state.renew(segment, visit, blocks.len() as u32);
                self.resized(0, segment.bytes());
                drop(shard);
                if let Some(place) = parent {
                    self.branch(place, true);
                }
                (blocks.len() as u32, true, None)
            }
        }
    }

    /// Counts a segment that leaves another one at `place`, or one that is gone.
    fn branch(&self, place: Place, added: bool) {
        let mut shard = self.shard(place.key).write();
        let Some(segment) = shard.get_mut(&place.key) else { return };
        let before = segment.bytes();
        segment.branch(place.offset, added);
        self.resized(before, segment.bytes());
    }

    /// Forgets the oldest prompts of a replica until these limits hold.
    pub(crate) fn limit(&self, history: &History, limits: Limits) {
        self.make_room(history.slot, &mut history.state.lock(), limits);
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
        state.trim();
    }

    /// Forgets the oldest prompts for as long as `old` says so.
    fn forget(&self, slot: u32, state: &mut HistoryState, old: impl Fn(&Record) -> bool) {
        while state.records.front().is_some_and(&old)
            && let Some(record) = state.records.pop_front()
        {
            self.resized(RECORD_BYTES, 0);
            self.forget_path(slot, record, state, |_| true);
        }
        state.trim();
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
            let held = segment.holders.remove(place).blocks;
            let kept = segment.held(slot);
            state.blocks -= held.saturating_sub(kept) as usize;
            state.segments -= 1;
            let parent = segment.parent.filter(|_| kept == 0);
            if segment.holders.is_empty() {
                entry.remove();
                release_table(&mut shard);
                self.segments.fetch_sub(1, Relaxed);
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
