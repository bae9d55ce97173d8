//! What the planner and the sending threads hand to each other.
//!
//! Each thread has an [`Inbox`]: sessions in the order of the plan, written ahead of time up to a cap in sessions
//! and bytes; later turns whose bodies are ready; and slots granted by other threads. The planner has a [`Desk`]:
//! later turns whose bodies it must write. A thread is woken through its poll, so it waits in one place only.

use std::{
    collections::VecDeque,
    io,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
    time::Duration,
};

use mio::Waker;
use parking_lot::{Condvar, Mutex};

use crate::{session::Session, slots::Key};

/// Most sessions that wait in a thread's queue.
const QUEUE_SESSIONS: usize = 2048;
/// Most bytes of bodies that wait in a thread's queue; one body may be larger.
const QUEUE_BYTES: usize = 32 << 20;

/// The next thing in the plan, for one thread.
#[derive(Debug)]
pub(crate) enum Item {
    /// The start of a session.
    Session(Box<Session>),
    /// No more sessions start in this phase.
    PhaseEnd,
}

/// Which limit a slot belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Limit {
    Sessions,
    Prefill,
}

/// A slot that passed to a waiter of this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    /// Index of the phase whose limit it is.
    pub(crate) phase: u16,
    pub(crate) limit: Limit,
    pub(crate) key: Key,
    /// Since when the slot has been free, since the start of the run.
    pub(crate) free_since: Duration,
}

/// What a thread receives.
#[derive(Debug)]
pub(crate) struct Inbox {
    waker: Waker,
    news: AtomicBool,
    mail: Mutex<Mail>,
    queued_sessions: AtomicUsize,
    queued_bytes: AtomicUsize,
}

/// The contents of an inbox.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) items: VecDeque<Item>,
    pub(crate) turns: VecDeque<Box<Session>>,
    pub(crate) grants: Vec<Granted>,
}

impl Inbox {
    pub(crate) fn new(waker: Waker) -> Self {
        Self {
            waker,
            news: AtomicBool::new(false),
            mail: Mutex::default(),
            queued_sessions: AtomicUsize::new(0),
            queued_bytes: AtomicUsize::new(0),
        }
    }

    /// Whether the planner may add another session.
    pub(crate) fn has_room(&self) -> bool {
        self.queued_sessions.load(Relaxed) < QUEUE_SESSIONS && self.queued_bytes.load(Relaxed) < QUEUE_BYTES
    }

    pub(crate) fn push(&self, item: Item) -> io::Result<()> {
        if let Item::Session(session) = &item {
            self.queued_sessions.fetch_add(1, Relaxed);
            self.queued_bytes.fetch_add(session.body.len(), Relaxed);
        }
        self.deliver(|mail| mail.items.push_back(item))
    }

    pub(crate) fn return_turn(&self, session: Box<Session>) -> io::Result<()> {
        self.deliver(|mail| mail.turns.push_back(session))
    }

    pub(crate) fn grant(&self, grant: Granted) -> io::Result<()> {
        self.deliver(|mail| mail.grants.push(grant))
    }

    /// Wakes the thread.
    pub(crate) fn wake(&self) -> io::Result<()> {
        self.waker.wake()
    }

    /// Whether there is anything to take.
    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Relaxed)
    }

    /// Moves everything into `mail`; its items go behind those already there.
    pub(crate) fn take(&self, mail: &mut Mail) {
        let mut inbox = self.mail.lock();
        self.news.store(false, SeqCst);
        mail.items.append(&mut inbox.items);
        mail.turns.append(&mut inbox.turns);
        mail.grants.append(&mut inbox.grants);
    }

    /// The thread has taken a session off its queue. True if the planner should be told that there is room again.
    pub(crate) fn consumed(&self, session: &Session) -> bool {
        let bytes = session.body.len();
        let sessions_before = self.queued_sessions.fetch_sub(1, Relaxed);
        let bytes_before = self.queued_bytes.fetch_sub(bytes, Relaxed);
        sessions_before == QUEUE_SESSIONS / 2
            || (bytes_before >= QUEUE_BYTES / 2 && bytes_before - bytes < QUEUE_BYTES / 2)
    }

    fn deliver(&self, put: impl FnOnce(&mut Mail)) -> io::Result<()> {
        put(&mut self.mail.lock());
        // One wake-up is enough for everything that lies in the inbox when the thread looks.
        if self.news.swap(true, SeqCst) { Ok(()) } else { self.waker.wake() }
    }
}

/// What the planner receives.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    state: Mutex<DeskState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct DeskState {
    turns: VecDeque<Box<Session>>,
    room: bool,
    closed: bool,
}

impl Desk {
    /// The body of the session's current turn is wanted.
    pub(crate) fn render(&self, session: Box<Session>) {
        self.state.lock().turns.push_back(session);
        self.changed.notify_one();
    }

    /// An inbox has room again, or a phase is over.
    pub(crate) fn room(&self) {
        self.state.lock().room = true;
        self.changed.notify_one();
    }

    /// The run is over.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    /// Takes the turns that wait for their bodies. `None` when the run is over.
    pub(crate) fn take(&self) -> Option<VecDeque<Box<Session>>> {
        let mut state = self.state.lock();
        (!state.closed).then(|| std::mem::take(&mut state.turns))
    }

    /// Waits until something has changed, for at most `limit`.
    pub(crate) fn wait(&self, limit: Duration) {
        let mut state = self.state.lock();
        if state.turns.is_empty() && !state.room && !state.closed {
            self.changed.wait_for(&mut state, limit);
        }
        state.room = false;
    }
}

#[cfg(test)]
mod tests {
    use mio::{Poll, Token};

    use super::*;
    use crate::session::Place;

    fn session(body: usize) -> Box<Session> {
        let session = workload::Session { id: 0, turns: Vec::new(), target: None };
        let arrival = workload::Arrival { at: Duration::ZERO, session };
        let mut session = Session::new(Place::default(), 0, arrival);
        session.body = vec![0; body];
        Box::new(session)
    }

    #[test]
    fn the_queue_has_room_again_when_it_is_half_empty() {
        let poll = Poll::new().unwrap();
        let inbox = Inbox::new(Waker::new(poll.registry(), Token(0)).unwrap());
        while inbox.has_room() {
            inbox.push(Item::Session(session(QUEUE_BYTES / 8))).unwrap();
        }
        let mut mail = Mail::default();
        inbox.take(&mut mail);
        assert_eq!(mail.items.len(), 8);
        assert!(!inbox.has_room(), "taking is not using up");
        let told: Vec<bool> = mail
            .items
            .iter()
            .map(|item| match item {
                Item::Session(session) => inbox.consumed(session),
                Item::PhaseEnd => unreachable!(),
            })
            .collect();
        assert_eq!(told, [false, false, false, false, true, false, false, false]);
        assert!(inbox.has_room());
    }

    #[test]
    fn news_is_told_until_taken() {
        let poll = Poll::new().unwrap();
        let inbox = Inbox::new(Waker::new(poll.registry(), Token(0)).unwrap());
        assert!(!inbox.has_news());
        inbox.push(Item::PhaseEnd).unwrap();
        assert!(inbox.has_news());
        inbox.take(&mut Mail::default());
        assert!(!inbox.has_news());
    }
}
