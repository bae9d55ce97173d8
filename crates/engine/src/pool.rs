//! The KV memory: blocks with reference counts, a free list in the order of last use, and the prefix cache.
//!
//! A block without references is on the free list. It keeps its content, and so its place in the cache, until
//! it is taken for something else; the front of the list is taken first. Several blocks may hold the same
//! content, when sequences computed it side by side: each is found for as long as it lives.
//!
//! Everything is an index into arrays. A block takes 24 bytes from its first use on, and 4 to 8 in the table of the
//! cache; memory that was never used costs nothing.

use crate::scheduler::CacheChange;

/// Index of a block.
pub(crate) type Block = u32;

/// The ring's head: the entry that is no block.
const HEAD: Block = 0;
/// Ends a list.
const NONE: u32 = u32::MAX;
/// In the place of a neighbour in a bucket: the block is in none.
const NOT_CACHED: u32 = u32::MAX - 1;
/// Buckets to begin with.
const FEWEST_BUCKETS: usize = 64;

#[derive(Debug)]
pub(crate) struct Pool {
    /// The ring's head, whose `next` is the first free block and `previous` the last, and the blocks that were
    /// ever taken.
    entries: Vec<Entry>,
    /// In all.
    blocks: u32,
    /// Of them those that are free, never taken ones included. These come before all others.
    free: u32,
    /// First block of each bucket; the number of buckets is a power of two, and not below that of the entries.
    buckets: Vec<Block>,
    evictions: u64,
    /// Since they were last taken, where somebody wants them.
    changes: Option<Vec<CacheChange>>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// What the block holds, where it is cached.
    hash: u64,
    references: u32,
    /// Neighbours on the free list; meaningless while referenced.
    previous: Block,
    next: Block,
    /// The next one in the same bucket.
    bucket_next: Block,
}

impl Entry {
    const NEW: Self = Self { hash: 0, references: 0, previous: HEAD, next: HEAD, bucket_next: NOT_CACHED };

    fn is_cached(&self) -> bool {
        self.bucket_next != NOT_CACHED
    }
}

impl Pool {
    pub(crate) fn new(blocks: u32) -> Self {
        let blocks = blocks.clamp(1, NOT_CACHED - 1);
        Self {
            entries: vec![Entry::NEW],
            blocks,
            free: blocks,
            buckets: vec![NONE; FEWEST_BUCKETS],
            evictions: 0,
            changes: None,
        }
    }

    /// Keeps what happens to the cache from now on, until it is taken.
    pub(crate) fn record_changes(&mut self) {
        self.changes.get_or_insert_default();
    }

    pub(crate) fn take_changes(&mut self) -> Vec<CacheChange> {
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(crate) fn note(&mut self, change: CacheChange) {
        if let Some(changes) = &mut self.changes {
            changes.push(change);
        }
    }

    /// Blocks in all.
    pub(crate) fn len(&self) -> u32 {
        self.blocks
    }

    /// Blocks without references, those with cached content included.
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// Cached blocks that were given to something else so far.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// A block with this content.
    pub(crate) fn find(&self, hash: u64) -> Option<Block> {
        let mut block = self.buckets[self.bucket(hash)];
        while block != NONE {
            let entry = &self.entries[block as usize];
            if entry.hash == hash {
                return Some(block);
            }
            block = entry.bucket_next;
        }
        None
    }

    pub(crate) fn is_free(&self, block: Block) -> bool {
        self.entries[block as usize].references == 0
    }

    /// One more reference to a block that [`find`](Self::find) gave.
    pub(crate) fn share(&mut self, block: Block) {
        if self.is_free(block) {
            self.unlink(block);
        }
        self.entries[block as usize].references += 1;
    }

    /// The free block that was used least recently, now with one reference and no content.
    pub(crate) fn take(&mut self) -> Option<Block> {
        if self.entries.len() <= self.blocks as usize {
            return Some(self.take_new());
        }
        let block = self.entries[HEAD as usize].next;
        if block == HEAD {
            return None;
        }
        self.unlink(block);
        if self.entries[block as usize].is_cached() {
            self.note(CacheChange::Removed { hash: self.entries[block as usize].hash });
            self.forget(block);
            self.evictions += 1;
        }
        self.entries[block as usize].references = 1;
        Some(block)
    }

    /// The same for a block that was never taken.
    fn take_new(&mut self) -> Block {
        let known = self.entries.len();
        if known == self.entries.capacity() {
            let unknown = self.blocks as usize + 1 - known;
            self.entries.reserve_exact(unknown.min(known.max(FEWEST_BUCKETS)));
        }
        self.entries.push(Entry { references: 1, ..Entry::NEW });
        if known >= self.buckets.len() {
            self.split_buckets();
        }
        self.free -= 1;
        known as Block
    }

    /// Enters the block's content into the cache.
    pub(crate) fn cache(&mut self, block: Block, hash: u64) {
        let bucket = self.bucket(hash);
        let next = std::mem::replace(&mut self.buckets[bucket], block);
        let entry = &mut self.entries[block as usize];
        debug_assert!(!entry.is_cached(), "a block holds one content");
        (entry.hash, entry.bucket_next) = (hash, next);
    }

    /// One reference less. The block that loses its last is the most recently used free block.
    pub(crate) fn release(&mut self, block: Block) {
        let entry = &mut self.entries[block as usize];
        debug_assert!(entry.references > 0, "a free block has no references to give back");
        entry.references -= 1;
        if entry.references == 0 {
            let last = std::mem::replace(&mut self.entries[HEAD as usize].previous, block);
            self.entries[last as usize].next = block;
            (self.entries[block as usize].previous, self.entries[block as usize].next) = (last, HEAD);
            self.free += 1;
        }
    }

    /// Empties the cache. Blocks keep their references.
    pub(crate) fn clear_cache(&mut self) {
        self.note(CacheChange::Cleared);
        self.buckets.fill(NONE);
        for entry in &mut self.entries {
            entry.bucket_next = NOT_CACHED;
        }
    }

    /// Takes a block off the free list.
    fn unlink(&mut self, block: Block) {
        let Entry { previous, next, .. } = self.entries[block as usize];
        self.entries[previous as usize].next = next;
        self.entries[next as usize].previous = previous;
        self.free -= 1;
    }

    /// Takes a block's content out of the cache.
    fn forget(&mut self, block: Block) {
        let Entry { hash, bucket_next, .. } = self.entries[block as usize];
        self.entries[block as usize].bucket_next = NOT_CACHED;
        let bucket = self.bucket(hash);
        let mut before = self.buckets[bucket];
        if before == block {
            self.buckets[bucket] = bucket_next;
            return;
        }
        while self.entries[before as usize].bucket_next != block {
            before = self.entries[before as usize].bucket_next;
        }
        self.entries[before as usize].bucket_next = bucket_next;
    }

    /// Hashes of traces may be small numbers, so they are spread by a multiplication.
    fn bucket(&self, hash: u64) -> usize {
        let shift = u64::BITS - self.buckets.len().trailing_zeros();
        (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize
    }

    /// Makes two buckets of each, in which blocks keep their order: of equal contents the last one cached is found.
    fn split_buckets(&mut self) {
        let halves = vec![NONE; self.buckets.len() * 2];
        for first in std::mem::replace(&mut self.buckets, halves) {
            let (mut block, mut last) = (first, [NONE; 2]);
            while block != NONE {
                let Entry { hash, bucket_next, .. } = self.entries[block as usize];
                let bucket = self.bucket(hash);
                match last[bucket & 1] {
                    NONE => self.buckets[bucket] = block,
                    before => self.entries[before as usize].bucket_next = block,
                }
                (last[bucket & 1], block) = (block, bucket_next);
            }
            for end in last.into_iter().filter(|end| *end != NONE) {
                self.entries[end as usize].bucket_next = NONE;
            }
        }
    }
}

#[cfg(test)]
impl Pool {
    /// Panics unless the free list and the cache agree with the blocks. Returns the sum of all references.
    pub(crate) fn audit(&self) -> u64 {
        let (mut block, mut listed) = (self.entries[HEAD as usize].next, 0);
        while block != HEAD {
            assert!(self.is_free(block), "block {block} is on the free list and referenced");
            assert_eq!(self.entries[self.entries[block as usize].next as usize].previous, block);
            (block, listed) = (self.entries[block as usize].next, listed + 1);
        }
        let blocks = &self.entries[1..];
        let never_taken = self.blocks - blocks.len() as u32;
        assert_eq!(listed + never_taken, self.free);
        assert_eq!(listed as usize, blocks.iter().filter(|entry| entry.references == 0).count());
        for entry in blocks.iter().filter(|entry| entry.is_cached()) {
            assert!(self.find(entry.hash).is_some(), "a cached block is not found");
        }
        blocks.iter().map(|entry| u64::from(entry.references)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_taken_when_it_is_used_and_nothing_gets_lost_on_the_way() {
        let mut pool = Pool::new(1000);
        let small = pool.entries.capacity() + pool.buckets.len();
        let hash = |block: Block| u64::from(block % 600);
        let blocks: Vec<Block> = (0..1000).map_while(|_| pool.take()).collect();
        assert_eq!((blocks.len(), pool.free(), pool.take()), (1000, 0, None));
        assert!(small < 100 && pool.entries.len() == 1001 && pool.entries.capacity() == 1001);
        assert_eq!(pool.buckets.len(), 1024);
        for &block in &blocks {
            pool.cache(block, hash(block));
        }
        for &block in &blocks {
            let latest = if block <= 400 { block + 600 } else { block };
            assert_eq!(pool.find(hash(block)), Some(latest));
            pool.release(block);
        }
        assert_eq!((pool.free(), pool.audit()), (1000, 0));
        assert_eq!(pool.take(), Some(blocks[0]), "the one that was released first");
    }

    #[test]
    fn of_equal_contents_the_last_one_cached_is_found_however_the_table_grows() {
        let mut pool = Pool::new(5000);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for hash in 0..50 {
            for list in [&mut first, &mut second] {
                let block = pool.take().expect("a block");
                pool.cache(block, hash);
                list.push(block);
            }
        }
        while pool.take().is_some() {}
        assert_eq!(pool.buckets.len(), 8192);
        for (hash, (first, second)) in (0..).zip(first.into_iter().zip(second)) {
            assert_eq!(pool.find(hash), Some(second));
            pool.release(second);
            assert_eq!(pool.take(), Some(second), "free and evicted");
            assert_eq!(pool.find(hash), Some(first));
        }
        pool.audit();
    }
}
