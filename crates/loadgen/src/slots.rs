//! A limit on how many may be in flight, shared by all threads, first come first served.
//!
//! Who came first is decided by the plan, not by the clock: waiters are served in the order of their [`Key`], due
//! time first, then position in the plan. A slot that becomes free passes straight to the first waiter, so the
//! limit is never exceeded, not even for a moment, and no thread hoards slots that another could use. The limit
//! may grow linearly from one over a ramp.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;

/// The order of waiters: due time, then position in the plan.
pub(crate) type Key = (Duration, u64);

/// A slot that has passed to a waiter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Grant {
    pub(crate) key: Key,
    /// The thread that waits under the key.
    pub(crate) thread: usize,
}

/// The slots of one phase. Times are durations since the start of the phase.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: u32,
    ramp: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: u32,
    waiting: BTreeMap<Key, usize>,
}

impl Slots {
    pub(crate) fn new(limit: u32, ramp: Option<Duration>) -> Self {
        Self { limit: limit.max(1), ramp, state: Mutex::default() }
    }

    /// Takes a slot, or waits for one under `key`.
    pub(crate) fn acquire(&self, key: Key, thread: usize, elapsed: Duration) -> bool {
        let mut state = self.state.lock();
        let first = state.waiting.first_key_value().is_none_or(|(waiting, _)| key < *waiting);
        if first && state.used < self.limit_at(elapsed) {
            state.used += 1;
            return true;
        }
        state.waiting.insert(key, thread);
        false
    }

    /// Gives a slot back. It belongs to the returned waiter, if there is one.
    pub(crate) fn release(&self, elapsed: Duration) -> Option<Grant> {
        let mut state = self.state.lock();
        state.used = state.used.saturating_sub(1);
        self.grant(&mut state, elapsed)
    }

    /// Hands out one slot that the ramp has added since the last call.
    pub(crate) fn grow(&self, elapsed: Duration) -> Option<Grant> {
        self.ramp?;
        self.grant(&mut self.state.lock(), elapsed)
    }

    /// Stops waiting. False if the slot has been granted already: the grant is under way and must be given back.
    pub(crate) fn abandon(&self, key: Key) -> bool {
        self.state.lock().waiting.remove(&key).is_some()
    }

    fn grant(&self, state: &mut State, elapsed: Duration) -> Option<Grant> {
        if state.used >= self.limit_at(elapsed) {
            return None;
        }
        let (key, thread) = state.waiting.pop_first()?;
        state.used += 1;
        Some(Grant { key, thread })
    }

    fn limit_at(&self, elapsed: Duration) -> u32 {
        match self.ramp {
            Some(ramp) if elapsed < ramp => {
                let grown = f64::from(self.limit - 1) * elapsed.as_secs_f64() / ramp.as_secs_f64();
                1 + grown as u32
            }
            _ => self.limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(order: u64) -> Key {
        (Duration::ZERO, order)
    }

    #[test]
    fn a_freed_slot_goes_to_the_first_in_the_plan() {
        let slots = Slots::new(1, None);
        assert!(slots.acquire(key(0), 0, Duration::ZERO));
        assert!(!slots.acquire(key(2), 0, Duration::ZERO));
        assert!(!slots.acquire(key(1), 1, Duration::ZERO));
        assert_eq!(slots.release(Duration::ZERO), Some(Grant { key: key(1), thread: 1 }));
        assert_eq!(slots.release(Duration::ZERO), Some(Grant { key: key(2), thread: 0 }));
        assert_eq!(slots.release(Duration::ZERO), None);
        assert!(slots.acquire(key(3), 0, Duration::ZERO));
    }

    #[test]
    fn an_earlier_due_time_goes_before_a_lower_position() {
        let slots = Slots::new(1, None);
        assert!(slots.acquire(key(0), 0, Duration::ZERO));
        assert!(!slots.acquire((Duration::from_secs(2), 1), 0, Duration::ZERO));
        assert!(!slots.acquire((Duration::from_secs(1), 9), 0, Duration::ZERO));
        assert_eq!(slots.release(Duration::ZERO).unwrap().key.1, 9);
    }

    #[test]
    fn who_stops_waiting_gets_nothing() {
        let slots = Slots::new(1, None);
        assert!(slots.acquire(key(0), 0, Duration::ZERO));
        assert!(!slots.acquire(key(1), 0, Duration::ZERO));
        assert!(slots.abandon(key(1)));
        assert_eq!(slots.release(Duration::ZERO), None);
        assert!(!slots.abandon(key(1)));
    }

    #[test]
    fn a_ramp_adds_slots_one_by_one() {
        let slots = Slots::new(5, Some(Duration::from_secs(4)));
        for order in 0..6 {
            assert_eq!(slots.acquire(key(order), 0, Duration::ZERO), order == 0);
        }
        assert_eq!(slots.grow(Duration::from_millis(999)), None);
        assert_eq!(slots.grow(Duration::from_millis(1001)).unwrap().key, key(1));
        assert_eq!(slots.grow(Duration::from_millis(1001)), None);
        let rest: Vec<u64> =
            std::iter::from_fn(|| slots.grow(Duration::from_secs(9))).map(|g| g.key.1).collect();
        assert_eq!(rest, [2, 3, 4], "never above the limit");
    }
}
