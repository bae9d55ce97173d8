//! What the client holds: sessions that are due, that have a slot, and that wait for one.

use std::{collections::VecDeque, time::Duration};

use workload::{Arrival, Phase, Session, Turn};

use crate::prompt::History;

/// A session with a slot.
pub(crate) struct ActiveSession {
    pub(crate) id: u64,
    pub(crate) turn: u32,
    pub(crate) turns: std::vec::IntoIter<Turn>,
    /// When its next turn is due.
    pub(crate) scheduled: Duration,
    pub(crate) history: History,
}

/// State of the phase under way.
pub(crate) struct PhaseState {
    pub(crate) number: u16,
    pub(crate) start: Duration,
    arrivals: Box<dyn Iterator<Item = Arrival> + Send>,
    pub(crate) next: Option<Arrival>,
    pub(crate) concurrency: usize,
    pub(crate) active: usize,
    /// Sessions that are due and wait for a slot.
    pub(crate) waiting: VecDeque<(Duration, Session)>,
    /// The next arrival is due but is not drawn before a slot is free.
    pub(crate) blocked: bool,
    pub(crate) index: u64,
}

impl ActiveSession {
    pub(crate) fn new(session: Session, scheduled: Duration) -> Box<Self> {
        let turns = session.turns.into_iter();
        Box::new(Self { id: session.id, turn: 0, turns, scheduled, history: History::default() })
    }
}

impl PhaseState {
    pub(crate) fn new(number: u16, phase: Phase, start: Duration) -> Self {
        let mut arrivals = phase.arrivals;
        Self {
            number,
            start,
            next: arrivals.next(),
            arrivals,
            concurrency: phase.limits.concurrency.map_or(usize::MAX, |limit| limit as usize),
            active: 0,
            waiting: VecDeque::new(),
            blocked: false,
            index: 0,
        }
    }

    /// Takes the arrival that is due; the one after it is the next.
    pub(crate) fn take(&mut self) -> Option<Arrival> {
        let due = self.next.take()?;
        self.next = self.arrivals.next();
        Some(due)
    }

    /// Whether anything is left to do.
    pub(crate) fn busy(&self) -> bool {
        self.active > 0 || self.next.is_some()
    }
}
