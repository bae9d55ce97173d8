//! The event queue: what happens next, in virtual time.
//!
//! Most events come one network delay after what caused them, so they are pushed in the order in which they happen:
//! those wait in a line of their own, at no cost but their own; all others in a heap.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

/// Events in the order of their times; equal times in the order of their insertion.
#[derive(Debug)]
pub(crate) struct EventQueue<E> {
    heap: BinaryHeap<Entry<E>>,
    line: VecDeque<Entry<E>>,
    inserted: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Duration,
    order: u64,
    event: E,
}

impl<E> EventQueue<E> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), line: VecDeque::new(), inserted: 0 }
    }

    pub(crate) fn push(&mut self, at: Duration, event: E) {
        let entry = self.entry(at, event);
        self.heap.push(entry);
    }

    /// The same for an event that happens no earlier than those pushed with this method before.
    pub(crate) fn push_last(&mut self, at: Duration, event: E) {
        debug_assert!(self.line.back().is_none_or(|last| last.at <= at), "the line is in order");
        let entry = self.entry(at, event);
        self.line.push_back(entry);
    }

    pub(crate) fn pop(&mut self) -> Option<(Duration, E)> {
        let from_line = match (self.line.front(), self.heap.peek()) {
            (Some(in_line), Some(in_heap)) => in_line > in_heap,
            (in_line, _) => in_line.is_some(),
        };
        let entry = if from_line { self.line.pop_front() } else { self.heap.pop() };
        entry.map(|entry| (entry.at, entry.event))
    }

    /// Events ever inserted.
    pub(crate) fn inserted(&self) -> u64 {
        self.inserted
    }

    fn entry(&mut self, at: Duration, event: E) -> Entry<E> {
        self.inserted += 1;
        Entry { at, order: self.inserted, event }
    }
}

// === impl Entry: the heap is a maximum heap, so the earliest event must compare as the largest ===

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_first_and_ties_in_order_of_insertion() {
        let mut queue = EventQueue::new();
        let at = Duration::from_secs;
        queue.push(at(3), 'd');
        queue.push_last(at(1), 'a');
        queue.push_last(at(2), 'b');
        queue.push(at(3), 'e');
        queue.push_last(at(3), 'f');
        queue.push(at(3), 'g');
        queue.push(at(2), 'c');
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!((order.as_str(), queue.inserted()), ("abcdefg", 7));
    }
}
