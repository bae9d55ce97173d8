//! Answers at fixed times, whatever the load: an engine of known latencies, for the calibration of load generators.
//!
//! The first token of a request comes so long after its arrival, each further one so long after the one before. There
//! is no batch, no queue and no memory: every request in the engine counts as running, and steps are not counted.
//! Times are absolute, so that a late wake-up delays one token and not those after it; how late they were is in the
//! `step_lag` of `/sim/state`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The latencies of such an engine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FixedTimes {
    /// From a request's arrival to its first token.
    pub first_token: Duration,
    /// From each token to the next.
    pub between_tokens: Duration,
}

/// Tokens that are due, in order of time.
#[derive(Debug, Default)]
pub(super) struct Appointments {
    due: BTreeMap<(Instant, u64), u32>,
    serial: u64,
}

impl Appointments {
    /// The request `id` is to get a token. Whether it is the first of all now.
    pub(super) fn add(&mut self, at: Instant, id: u32) -> bool {
        let is_first = self.next().is_none_or(|next| at < next);
        self.serial += 1;
        self.due.insert((at, self.serial), id);
        is_first
    }

    /// When the first one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the first one that is due, with its time.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, u32)> {
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((at, _), id) = entry.remove_entry();
        Some((at, id))
    }

    /// The request `id` is gone.
    pub(super) fn forget(&mut self, id: u32) {
        self.due.retain(|_, due| *due != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_in_order_of_time_and_not_for_those_who_left() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut appointments = Appointments::default();
        for (milliseconds, id) in [(3, 1), (1, 2), (1, 3), (2, 2)] {
            appointments.add(at(milliseconds), id);
        }
        assert_eq!(appointments.next(), Some(at(1)));
        assert_eq!(appointments.pop(start), None);
        assert_eq!(appointments.pop(at(1)), Some((at(1), 2)));
        appointments.forget(2);
        assert_eq!((appointments.pop(at(9)), appointments.pop(at(9))), (Some((at(1), 3)), Some((at(3), 1))));
        assert_eq!(appointments.next(), None);
    }
}
