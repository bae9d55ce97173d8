//! When sessions start and turns go on: due times, limits, and the end of a phase.

use std::time::Duration;

use report::Outcome;

use crate::{
    Error,
    answer::AnswerText,
    exchange::unsent,
    inbox::{Granted, Item, Limit},
    session::Session,
    slots::{Grant, Key, Slots},
    worker::{HeadSlot, Timer, Worker},
};

/// Sessions started in one go, before sockets are looked at again.
const BURST: usize = 128;

impl Worker<'_> {
    /// Starts everything that is due and has its slots.
    pub(crate) fn admit(&mut self) -> Result<(), Error> {
        for _ in 0..self.grants.len() {
            if let Some(granted) = self.grants.pop_front() {
                self.slot_granted(granted)?;
            }
        }
        if self.next_due.is_some_and(|due| due > self.shared.clock.now()) && !self.phase().is_stopped() {
            return Ok(());
        }
        for _ in 0..BURST {
            if !self.admit_head()? {
                return Ok(());
            }
        }
        // More is due: come back without sleeping.
        self.next_due = Some(Duration::ZERO);
        Ok(())
    }

    /// Deals with the head of the queue. False when nothing can be done about it now.
    fn admit_head(&mut self) -> Result<bool, Error> {
        self.next_due = None;
        let phase = self.phase();
        let (Some(start), false) = (phase.start(), self.feed_ended) else { return Ok(false) };
        let (at, ordinal) = match self.mail.items.front() {
            None => return Ok(false),
            Some(Item::PhaseEnd) => {
                self.mail.items.pop_front();
                self.feed_ended = true;
                return Ok(false);
            }
            Some(Item::Session(session)) => (session.at, session.ordinal),
        };
        let now = self.shared.clock.now();
        let planned = start + at;
        let due = planned + phase.drift();
        let closed_loop = phase.closed_loop && at.is_zero();
        let over = phase.over(now);
        if phase.is_exhausted() || over.is_some_and(|over| closed_loop || due > over) {
            self.give_up_head_slot(now)?;
            self.take_head();
            return Ok(true);
        }
        if over.is_some() && (phase.is_stopped() || self.head_waits()) {
            self.blocked_at_end = true;
        }
        if self.blocked_at_end {
            self.give_up_head_slot(now)?;
            return self.skip_head(planned, now);
        }
        if due > now {
            self.next_due = Some(due);
            return Ok(false);
        }
        if self.head_slot == HeadSlot::None {
            // What fell due behind a head that waited for its slot is not late.
            phase.add_lateness(now - due.max(self.last_admission.min(now)));
        }
        let admitted = match (&phase.sessions, self.head_slot) {
            (None, _) => planned,
            (Some(_), HeadSlot::Granted(granted)) => granted.max(planned),
            (Some(_), HeadSlot::Waiting(_)) => return Ok(false),
            (Some(slots), HeadSlot::None) => {
                let key = (at, ordinal);
                let Some(free_since) = slots.acquire(key, self.thread, now - start) else {
                    self.head_slot = HeadSlot::Waiting(key);
                    return Ok(false);
                };
                self.hand_out(Limit::Sessions, now)?;
                planned.max(start + free_since)
            }
        };
        self.head_slot = HeadSlot::None;
        let Some(mut session) = self.take_head() else { return Ok(false) };
        self.last_admission = now;
        session.due = if closed_loop { admitted } else { planned };
        session.admitted = admitted;
        self.live_sessions += 1;
        if phase.claim() {
            self.take_prefill_slot(session)?
        } else {
            self.end_session(&session)?
        }
        Ok(true)
    }

    fn head_waits(&self) -> bool {
        matches!(self.head_slot, HeadSlot::Waiting(_))
    }

    fn take_head(&mut self) -> Option<Box<Session>> {
        let Some(Item::Session(session)) = self.mail.items.pop_front() else { return None };
        if self.shared.inboxes[self.thread].consumed(&session) {
            self.shared.desk.room();
        }
        Some(session)
    }

    fn give_up_head_slot(&mut self, now: Duration) -> Result<(), Error> {
        match std::mem::replace(&mut self.head_slot, HeadSlot::None) {
            HeadSlot::None => Ok(()),
            HeadSlot::Granted(_) => self.release(Limit::Sessions, now),
            HeadSlot::Waiting(key) => {
                if let Some(slots) = &self.phase().sessions {
                    // If it has been granted already, the grant comes to nobody and is given back then.
                    slots.abandon(key);
                }
                Ok(())
            }
        }
    }

    /// Records the head of the queue as not sent.
    fn skip_head(&mut self, due: Duration, now: Duration) -> Result<bool, Error> {
        if let Some(mut session) = self.take_head() {
            (session.due, session.admitted) = (due, due);
            self.record_unsent(&session, now)?;
        }
        Ok(true)
    }

    fn record_unsent(&mut self, session: &Session, now: Duration) -> Result<(), Error> {
        self.phase().count_not_sent();
        self.keep(unsent(session, self.phase().index, Outcome::NotSent, now), None)
    }

    /// Sends the session's request once it may wait for its first token.
    fn take_prefill_slot(&mut self, session: Box<Session>) -> Result<(), Error> {
        let phase = self.phase();
        let Some(slots) = &phase.prefill else { return self.send(session, false) };
        let key: Key = (session.due, session.index());
        match slots.acquire(key, self.thread, phase.elapsed(self.shared.clock.now())) {
            Some(free_since) => {
                self.send_with_prefill_slot(session, phase.start().unwrap_or_default() + free_since)
            }
            None => {
                self.waiting_for_prefill.insert(key, session);
                Ok(())
            }
        }
    }

    fn send_with_prefill_slot(
        &mut self,
        mut session: Box<Session>,
        free_since: Duration,
    ) -> Result<(), Error> {
        session.admitted = session.admitted.max(free_since);
        self.send(session, true)
    }

    fn slot_granted(&mut self, granted: Granted) -> Result<(), Error> {
        if usize::from(granted.phase) != self.phase_index {
            return Ok(());
        }
        match granted.limit {
            Limit::Sessions if self.head_slot == HeadSlot::Waiting(granted.key) => {
                self.head_slot = HeadSlot::Granted(granted.free_since);
                self.next_due = None;
                Ok(())
            }
            Limit::Prefill if self.waiting_for_prefill.contains_key(&granted.key) => {
                match self.waiting_for_prefill.remove(&granted.key) {
                    Some(session) => self.send_with_prefill_slot(session, granted.free_since),
                    None => Ok(()),
                }
            }
            // Who waited for it has given up.
            limit => self.release(limit, self.shared.clock.now()),
        }
    }

    /// Gives a slot back.
    pub(crate) fn release(&mut self, limit: Limit, now: Duration) -> Result<(), Error> {
        match self.slots(limit) {
            None => Ok(()),
            Some(slots) => {
                slots.release(self.phase().elapsed(now));
                self.hand_out(limit, now)
            }
        }
    }

    /// Passes free slots to those who wait for them.
    pub(crate) fn hand_out(&mut self, limit: Limit, now: Duration) -> Result<(), Error> {
        let elapsed = self.phase().elapsed(now);
        while let Some(grant) = self.slots(limit).and_then(|slots| slots.grant(elapsed)) {
            self.pass_on(limit, grant)?;
        }
        Ok(())
    }

    fn slots(&self, limit: Limit) -> Option<&Slots> {
        match limit {
            Limit::Sessions => self.phase().sessions.as_ref(),
            Limit::Prefill => self.phase().prefill.as_ref(),
        }
    }

    fn pass_on(&mut self, limit: Limit, grant: Grant) -> Result<(), Error> {
        let phase = self.phase();
        let free_since = phase.start().unwrap_or_default() + grant.free_since;
        let granted = Granted { phase: phase.index, limit, key: grant.key, free_since };
        if grant.thread == self.thread {
            self.grants.push_back(granted);
            return Ok(());
        }
        self.shared.inboxes[grant.thread].grant(granted).map_err(Error::io("wake a sending thread"))
    }

    /// A request of the session has ended at `done`.
    pub(crate) fn go_on(
        &mut self,
        mut session: Box<Session>,
        answer: Option<&AnswerText>,
        done: Duration,
    ) -> Result<(), Error> {
        let phase = self.phase();
        let may_go_on = !self.is_cut_off && phase.over(done).is_none() && !phase.is_exhausted();
        match phase.start() {
            Some(start) if session.has_more_turns() && may_go_on => {
                session.advance(answer.map(|answer| answer.text.as_str()), done, start);
                self.shared.desk.render(session);
                Ok(())
            }
            _ => self.end_session(&session),
        }
    }

    /// The planner has written the body of a later turn.
    pub(crate) fn turn_is_ready(&mut self, session: Box<Session>) -> Result<(), Error> {
        if session.due <= self.shared.clock.now() {
            return self.start_turn(session);
        }
        self.timers.add(session.due, Timer::Turn(session));
        Ok(())
    }

    /// A later turn is due.
    pub(crate) fn start_turn(&mut self, mut session: Box<Session>) -> Result<(), Error> {
        let phase = self.phase();
        if self.is_cut_off || phase.over(self.shared.clock.now()).is_some() || !phase.claim() {
            return self.end_session(&session);
        }
        session.admitted = session.due;
        self.take_prefill_slot(session)
    }

    fn end_session(&mut self, session: &Session) -> Result<(), Error> {
        if let Some(place) = session.connection.and_then(|id| self.pool.find(id)) {
            self.pool.close(place);
        }
        self.live_sessions -= 1;
        self.release(Limit::Sessions, self.shared.clock.now())
    }

    /// The phase is over: ends what is not under way.
    pub(crate) fn wind_down(&mut self, over: Duration) -> Result<(), Error> {
        for timer in self.timers.extract(|timer| matches!(timer, Timer::Turn(_))) {
            if let Timer::Turn(session) = timer {
                self.end_session(&session)?;
            }
        }
        for (key, session) in std::mem::take(&mut self.waiting_for_prefill) {
            if let Some(slots) = &self.phase().prefill {
                slots.abandon(key);
            }
            self.record_unsent(&session, over)?;
            self.end_session(&session)?;
        }
        Ok(())
    }
}
