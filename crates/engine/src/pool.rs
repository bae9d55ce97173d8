//! The KV memory: blocks with reference counts, a free list in the order of last use, and the prefix cache.
//!
//! A block without references is on the free list. It keeps its content, and so its place in the cache, until
//! it is taken for something else; the front of the list is taken first. Several blocks may hold the same
//! content, when sequences computed it side by side: each is found for as long as it lives.
//!
//! Everything is an index into arrays made once; nothing is allocated afterwards, unless changes of the cache are
//! recorded.

use crate::scheduler::CacheChange;

/// Index of a block.
pub(crate) type Block = u32;

/// Ends a list.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Pool {
    /// The blocks, and one more: the ring's head, whose `next` is the first free block and `previous` the last.
    entries: Vec<Entry>,
    free: u32,
    /// First block of each bucket; the number of buckets is a power of two.
    buckets: Vec<Block>,
    bucket_shift: u32,
    evictions: u64,
    /// Since they were last taken, where somebody wants them.
    changes: Option<Vec<CacheChange>>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// What the block holds, where `cached`.
    hash: u64,
    cached: bool,
    references: u32,
    /// Neighbours on the free list; meaningless while referenced.
    previous: Block,
    next: Block,
    /// Neighbours in the same bucket, where `cached`.
    bucket_previous: Block,
    bucket_next: Block,
}

impl Pool {
    pub(crate) fn new(blocks: u32) -> Self {
        let blocks = blocks.clamp(1, NONE - 1);
        let ring = blocks + 1;
        let entries = (0..ring).map(|index| Entry {
            hash: 0,
            cached: false,
            references: 0,
            previous: (index + ring - 1) % ring,
            next: (index + 1) % ring,
            bucket_previous: NONE,
            bucket_next: NONE,
        });
        let buckets = (blocks as usize).next_power_of_two().max(2);
        Self {
            entries: entries.collect(),
            free: blocks,
            buckets: vec![NONE; buckets],
            bucket_shift: u64::BITS - buckets.trailing_zeros(),
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
        self.head()
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
        let head = self.head();
        let block = self.entries[head as usize].next;
        if block == head {
            return None;
        }
        self.unlink(block);
        if self.entries[block as usize].cached {
            self.note(CacheChange::Removed { hash: self.entries[block as usize].hash });
            self.forget(block);
            self.evictions += 1;
        }
        self.entries[block as usize].references = 1;
        Some(block)
    }

    /// Enters the block's content into the cache.
    pub(crate) fn cache(&mut self, block: Block, hash: u64) {
        let bucket = self.bucket(hash);
        let next = std::mem::replace(&mut self.buckets[bucket], block);
        if next != NONE {
            self.entries[next as usize].bucket_previous = block;
        }
        let entry = &mut self.entries[block as usize];
        debug_assert!(!entry.cached, "a block holds one content");
        (entry.hash, entry.cached) = (hash, true);
        (entry.bucket_previous, entry.bucket_next) = (NONE, next);
    }

    /// One reference less. The block that loses its last is the most recently used free block.
    pub(crate) fn release(&mut self, block: Block) {
        let head = self.head();
        let entry = &mut self.entries[block as usize];
        debug_assert!(entry.references > 0, "a free block has no references to give back");
        entry.references -= 1;
        if entry.references == 0 {
            let last = std::mem::replace(&mut self.entries[head as usize].previous, block);
            self.entries[last as usize].next = block;
            (self.entries[block as usize].previous, self.entries[block as usize].next) = (last, head);
            self.free += 1;
        }
    }

    /// Empties the cache. Blocks keep their references.
    pub(crate) fn clear_cache(&mut self) {
        self.note(CacheChange::Cleared);
        self.buckets.fill(NONE);
        for entry in &mut self.entries {
            entry.cached = false;
        }
    }

    /// Index of the ring's head, which is also the number of blocks.
    fn head(&self) -> Block {
        (self.entries.len() - 1) as u32
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
        let Entry { hash, bucket_previous, bucket_next, .. } = self.entries[block as usize];
        self.entries[block as usize].cached = false;
        if bucket_next != NONE {
            self.entries[bucket_next as usize].bucket_previous = bucket_previous;
        }
        if bucket_previous == NONE {
            let bucket = self.bucket(hash);
            self.buckets[bucket] = bucket_next;
        } else {
            self.entries[bucket_previous as usize].bucket_next = bucket_next;
        }
    }

    /// Hashes of traces may be small numbers, so they are spread by a multiplication.
    fn bucket(&self, hash: u64) -> usize {
        (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.bucket_shift) as usize
    }
}

#[cfg(test)]
impl Pool {
    /// Panics unless the free list and the cache agree with the blocks. Returns the sum of all references.
    pub(crate) fn audit(&self) -> u64 {
        let head = self.head();
        let (mut block, mut free) = (self.entries[head as usize].next, 0);
        while block != head {
            assert!(self.is_free(block), "block {block} is on the free list and referenced");
            assert_eq!(self.entries[self.entries[block as usize].next as usize].previous, block);
            (block, free) = (self.entries[block as usize].next, free + 1);
        }
        assert_eq!(free, self.free);
        let blocks = &self.entries[..head as usize];
        assert_eq!(free as usize, blocks.iter().filter(|entry| entry.references == 0).count());
        for entry in blocks.iter().filter(|entry| entry.cached) {
            assert!(self.find(entry.hash).is_some(), "a cached block is not found");
        }
        blocks.iter().map(|entry| u64::from(entry.references)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_freed_first_is_taken_first() {
        let mut pool = Pool::new(3);
        let blocks: Vec<_> = (0..3).filter_map(|_| pool.take()).collect();
        assert_eq!(pool.take(), None);
        for place in [1, 0, 2] {
            pool.release(blocks[place]);
        }
        let again: Vec<_> = (0..3).filter_map(|_| pool.take()).collect();
        assert_eq!(again, [blocks[1], blocks[0], blocks[2]]);
    }

    #[test]
    fn content_is_found_until_its_block_is_taken_for_something_else() {
        let mut pool = Pool::new(2);
        let block = pool.take().expect("a free block");
        pool.cache(block, 7);
        pool.release(block);
        assert_eq!(pool.find(7), Some(block));
        pool.share(block);
        pool.share(block);
        pool.release(block);
        assert_eq!(pool.free(), 1, "one of two references is left");
        pool.release(block);
        let (other, same) = (pool.take(), pool.take());
        assert_ne!(other, Some(block), "it was used last, so it is taken last");
        assert_eq!((same, pool.find(7), pool.evictions()), (Some(block), None, 1));
    }

    #[test]
    fn one_of_two_equal_blocks_is_found_when_the_other_is_gone() {
        for first_gone in [0, 1] {
            let mut pool = Pool::new(2);
            let blocks = [pool.take(), pool.take()].map(|block| block.expect("a free block"));
            blocks.iter().for_each(|&block| pool.cache(block, 7));
            pool.release(blocks[first_gone]);
            assert_eq!(pool.take(), Some(blocks[first_gone]));
            assert_eq!(pool.find(7), Some(blocks[1 - first_gone]));
            assert_eq!(pool.audit(), 2);
        }
    }

    #[test]
    fn a_cleared_cache_finds_nothing() {
        let mut pool = Pool::new(4);
        let block = pool.take().expect("a free block");
        pool.cache(block, 7);
        pool.clear_cache();
        assert_eq!(pool.find(7), None);
        pool.cache(block, 8);
        assert_eq!(pool.find(8), Some(block));
        assert_eq!(pool.audit(), 1);
    }
}
