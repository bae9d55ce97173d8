//! A limit on how many may be in flight, shared by all threads, first come first served.
//!
//! Who came first is decided by the plan, not by the clock: waiters are served in the order of their [`Key`], due
//! time first, then position in the plan. With strict order, nobody is served before everyone ahead of it in the
//! plan, even if a slot is free; a closed loop needs this to start its sessions in order on several threads. The
//! limit is never exceeded, and no thread hoards slots that another could use. It may grow linearly from one over
//! a ramp.
//!
//! Each slot comes with the time since which it was free, so that a late thread cannot pass its own lateness off
//! as waiting for a slot. Times are durations since the start of the phase.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;

/// The order of waiters: due time, then position in the phase.
pub(crate) type Key = (Duration, u64);

/// A slot that has passed to a waiter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Grant {
    pub(crate) key: Key,
    /// The thread that waits under the key.
    pub(crate) thread: usize,
    /// Since when the slot has been free.
    pub(crate) free_since: Duration,
}

/// The slots of one phase.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: u32,
    ramp: Duration,
    strict: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Slots that have been used at least once.
    used_once: u32,
    /// Since when the free ones of them have been free.
    free: VecDeque<Duration>,
    waiting: BTreeMap<Key, usize>,
    /// With strict order, the position that is served next.
    next: u64,
}

impl Slots {
    pub(crate) fn new(limit: u32, ramp: Option<Duration>, strict: bool) -> Self {
        Self { limit: limit.max(1), ramp: ramp.unwrap_or_default(), strict, state: Mutex::default() }
    }

    /// Takes a slot, and returns since when it has been free; or waits for one under `key`.
    pub(crate) fn acquire(&self, key: Key, thread: usize, elapsed: Duration) -> Option<Duration> {
        let mut state = self.state.lock();
        let is_first = state.waiting.first_key_value().is_none_or(|(waiting, _)| key < *waiting);
        if is_first && let Some(free_since) = self.take(&mut state, key, elapsed) {
            return Some(free_since);
        }
        state.waiting.insert(key, thread);
        None
    }

    /// Gives a slot back.
    pub(crate) fn release(&self, elapsed: Duration) {
        self.state.lock().free.push_back(elapsed);
    }

    /// Hands a free slot to the first waiter. To be called until there is nothing left to hand out, whenever a slot
    /// was taken or given back, and now and then while the limit grows.
    pub(crate) fn grant(&self, elapsed: Duration) -> Option<Grant> {
        let mut state = self.state.lock();
        let (&key, &thread) = state.waiting.first_key_value()?;
        let free_since = self.take(&mut state, key, elapsed)?;
        state.waiting.remove(&key);
        Some(Grant { key, thread, free_since })
    }

    /// Stops waiting. If the slot has been granted already, the grant is under way and must be given back.
    pub(crate) fn abandon(&self, key: Key) {
        self.state.lock().waiting.remove(&key);
    }

    fn take(&self, state: &mut State, key: Key, elapsed: Duration) -> Option<Duration> {
        if self.strict && key.1 != state.next {
            return None;
        }
        let unused_since = (state.used_once < self.limit).then(|| self.grown_at(state.used_once));
        let unused_since = unused_since.filter(|since| *since <= elapsed);
        let taken = match (unused_since, state.free.front()) {
            (Some(unused), free) if free.is_none_or(|free| unused <= *free) => {
                state.used_once += 1;
                unused
            }
            _ => state.free.pop_front()?,
        };
        state.next += 1;
        Some(taken)
    }

    /// When the limit grows beyond `slots`.
    fn grown_at(&self, slots: u32) -> Duration {
        if slots == 0 {
            Duration::ZERO
        } else {
            self.ramp.mul_f64(f64::from(slots) / f64::from(self.limit - 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Duration = Duration::ZERO;

    fn key(order: u64) -> Key {
        (ZERO, order)
    }

    fn granted(slots: &Slots, elapsed: Duration) -> Vec<u64> {
        std::iter::from_fn(|| slots.grant(elapsed)).map(|grant| grant.key.1).collect()
    }

    #[test]
    fn a_freed_slot_goes_to_the_first_in_the_plan() {
        let slots = Slots::new(1, None, false);
        assert_eq!(slots.acquire(key(0), 0, ZERO), Some(ZERO));
        assert_eq!(slots.acquire(key(2), 0, ZERO), None);
        assert_eq!(slots.acquire(key(1), 1, ZERO), None);
        assert_eq!(slots.grant(ZERO), None);
        let second = Duration::from_secs(1);
        slots.release(second);
        assert_eq!(slots.grant(second), Some(Grant { key: key(1), thread: 1, free_since: second }));
        slots.release(second);
        assert_eq!(granted(&slots, second), [2]);
        slots.release(2 * second);
        assert_eq!(slots.acquire(key(3), 0, 5 * second), Some(2 * second), "free since the release");
    }

    #[test]
    fn an_earlier_due_time_goes_before_a_lower_position() {
        let slots = Slots::new(1, None, false);
        slots.acquire(key(0), 0, ZERO);
        slots.acquire((Duration::from_secs(2), 1), 0, ZERO);
        slots.acquire((Duration::from_secs(1), 9), 0, ZERO);
        slots.release(ZERO);
        assert_eq!(granted(&slots, ZERO), [9]);
    }

    #[test]
    fn strict_order_waits_for_those_ahead() {
        let slots = Slots::new(3, None, true);
        assert_eq!(slots.acquire(key(1), 1, ZERO), None);
        assert_eq!(slots.acquire(key(3), 1, ZERO), None);
        assert_eq!(granted(&slots, ZERO), [0; 0]);
        assert_eq!(slots.acquire(key(0), 0, ZERO), Some(ZERO));
        assert_eq!(granted(&slots, ZERO), [1]);
        assert_eq!(slots.acquire(key(2), 0, ZERO), Some(ZERO));
        assert_eq!(granted(&slots, ZERO), [0; 0], "the limit holds");
        slots.release(ZERO);
        assert_eq!(granted(&slots, ZERO), [3]);
    }

    #[test]
    fn who_stops_waiting_gets_nothing() {
        let slots = Slots::new(1, None, false);
        slots.acquire(key(0), 0, ZERO);
        slots.acquire(key(1), 0, ZERO);
        slots.abandon(key(1));
        slots.release(ZERO);
        assert_eq!(slots.grant(ZERO), None);
    }

    #[test]
    fn a_ramp_adds_slots_one_by_one() {
        let slots = Slots::new(5, Some(Duration::from_secs(4)), false);
        for order in 0..6 {
            assert_eq!(slots.acquire(key(order), 0, ZERO).is_some(), order == 0);
        }
        assert_eq!(granted(&slots, Duration::from_millis(999)), [0; 0]);
        let first = slots.grant(Duration::from_millis(1500)).unwrap();
        assert_eq!((first.key, first.free_since), (key(1), Duration::from_secs(1)));
        assert_eq!(slots.grant(Duration::from_millis(1500)), None);
        assert_eq!(granted(&slots, Duration::from_secs(9)), [2, 3, 4], "never above the limit");
    }
}
