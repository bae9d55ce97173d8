//! What a thread must do later, and the kernel timer that wakes it for the first of these.
//!
//! Entries are removed when they are no longer needed, so a request time limit of hours costs nothing once the
//! request is over. The alarm is a timerfd in the same epoll set as the sockets: it is exact to some tens of
//! microseconds, where the timers of asynchronous runtimes and epoll's own time limit are exact to milliseconds.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use mio::{Interest, Registry, Token, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Names an entry, so that it can be removed.
pub(crate) type TimerKey = (Duration, u64);

/// Things to do, by time. Things due at the same time come in the order in which they were added.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    entries: BTreeMap<TimerKey, T>,
    serial: u64,
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Self { entries: BTreeMap::new(), serial: 0 }
    }

    pub(crate) fn add(&mut self, at: Duration, what: T) -> TimerKey {
        self.serial += 1;
        self.entries.insert((at, self.serial), what);
        (at, self.serial)
    }

    pub(crate) fn remove(&mut self, key: TimerKey) -> Option<T> {
        self.entries.remove(&key)
    }

    pub(crate) fn next_at(&self) -> Option<Duration> {
        self.entries.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn pop_due(&mut self, now: Duration) -> Option<T> {
        let entry = self.entries.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// Removes and returns all entries for which `matches` holds.
    pub(crate) fn extract(&mut self, matches: impl Fn(&T) -> bool) -> Vec<T> {
        self.entries.extract_if(.., |_, what| matches(what)).map(|(_, what)| what).collect()
    }
}

/// A timerfd registered with a poll.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: OwnedFd,
    set_for: Option<Duration>,
}

impl Alarm {
    pub(crate) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Self { timer, set_for: None })
    }

    /// Wakes the poll at `at`; at once if that has passed. Setting the same time again costs nothing.
    pub(crate) fn set(&mut self, at: Duration, now: Duration) -> io::Result<()> {
        if self.set_for == Some(at) {
            return Ok(());
        }
        // A value of zero would disarm the timer.
        let wait = at.saturating_sub(now).max(Duration::from_nanos(1));
        let value = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        self.set_for = Some(at);
        Ok(())
    }

    /// The poll has been woken by the alarm: the next [`set`](Self::set) must arm it again.
    pub(crate) fn fired(&mut self) {
        self.set_for = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn entries_come_in_time_order_and_can_be_removed() {
        let mut timers = Timers::new();
        let at = Duration::from_secs;
        timers.add(at(2), 'c');
        timers.add(at(1), 'a');
        let gone = timers.add(at(1), 'x');
        timers.add(at(1), 'b');
        assert_eq!(timers.remove(gone), Some('x'));
        assert_eq!(timers.pop_due(at(0)), None);
        assert_eq!(timers.next_at(), Some(at(1)));
        let due: String = std::iter::from_fn(|| timers.pop_due(at(9))).collect();
        assert_eq!(due, "abc");
    }

    #[test]
    fn extract_leaves_the_rest() {
        let mut timers = Timers::new();
        for n in 0..4 {
            timers.add(Duration::from_secs(n), n);
        }
        assert_eq!(timers.extract(|n| n % 2 == 1), [1, 3]);
        assert_eq!(timers.pop_due(Duration::MAX), Some(0));
        assert_eq!(timers.pop_due(Duration::MAX), Some(2));
    }

    #[test]
    fn the_alarm_wakes_a_poll_again_and_again_never_early() {
        let mut poll = Poll::new().unwrap();
        let mut events = Events::with_capacity(4);
        let mut alarm = Alarm::new(poll.registry(), Token(7)).unwrap();
        let origin = Instant::now();
        for round in 1..=3 {
            let at = Duration::from_millis(round * 5);
            alarm.set(at, origin.elapsed()).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert_eq!(events.iter().map(|event| event.token()).collect::<Vec<_>>(), [Token(7)]);
            assert!(origin.elapsed() >= at);
            alarm.fired();
        }
    }
}
