//! Every way in which a request can end: answered, failed, sent again, given up, cut off. Each ends in one record.

use std::time::Duration;

use report::Outcome;

use crate::{
    Error, Options, Reuse,
    exchange::{Concluded, Exchange},
    inbox::Limit,
    session::ConnectionId,
    worker::{Timer, Worker},
};

/// What is wrong with an answer that says nothing, where that counts as a failure.
const NO_CONTENT: &str = "an answer without any content";

impl Worker<'_> {
    /// The connection is of no use any more. A request on a reused connection that has seen no answer is sent again,
    /// once: the server may have closed the connection at the very moment at which it was taken.
    pub(crate) fn broken(&mut self, place: usize, outcome: Outcome) -> Result<(), Error> {
        let now = self.shared.clock.now();
        let Some(connection) = self.pool.get(place) else { return Ok(()) };
        if let Some(answered) = connection.exchange.as_ref().filter(|exchange| exchange.response.has_begun())
        {
            let outcome = answered.answer.refusal().unwrap_or(outcome);
            return self.settle(place, outcome, now, false);
        }
        let Some(mut exchange) = connection.exchange.take() else { return Ok(()) };
        self.pool.close(place);
        if let Some(key) = exchange.cancellation.take() {
            self.timers.remove(key);
        }
        if !exchange.reused || exchange.resent {
            return self.fail(exchange, outcome, now);
        }
        self.measures.resent += 1;
        exchange.rewind();
        self.connect(exchange, now)
    }

    /// A request has failed before any answer, and is off its connection: it is tried again later, or over.
    pub(crate) fn fail(
        &mut self,
        mut exchange: Box<Exchange>,
        outcome: Outcome,
        now: Duration,
    ) -> Result<(), Error> {
        let retries = self.shared.options.retries;
        let at = now + retries.wait(exchange.retries, exchange.session.index());
        // The limit counts from the first attempt on; nobody waits for one that would come too late.
        let limit = self.phase().limits.request_timeout.map(|limit| exchange.begun + limit);
        let too_late = limit.is_some_and(|limit| limit <= at);
        if exchange.retries >= retries.limit || too_late || self.is_cut_off {
            return self.conclude(exchange, outcome, now);
        }
        exchange.retries += 1;
        self.timers.add(at, Timer::Retry(exchange));
        Ok(())
    }

    pub(crate) fn retry(&mut self, mut exchange: Box<Exchange>) -> Result<(), Error> {
        let now = self.shared.clock.now();
        exchange.try_again(now);
        self.connect(exchange, now)
    }

    pub(crate) fn time_limit_reached(&mut self, id: ConnectionId) -> Result<(), Error> {
        match self.pool.find(id) {
            Some(place) => self.settle(place, Outcome::Timeout, self.shared.clock.now(), false),
            None => Ok(()),
        }
    }

    pub(crate) fn connect_limit_reached(&mut self, id: ConnectionId) -> Result<(), Error> {
        let limit = self.shared.options.connect_timeout.as_secs_f64();
        match self.pool.find(id) {
            Some(place) => self.connect_failed(place, &format!("no connection within {limit} s")),
            None => Ok(()),
        }
    }

    pub(crate) fn cancel(&mut self, id: ConnectionId) -> Result<(), Error> {
        match self.pool.find(id) {
            Some(place) => self.settle(place, Outcome::Cancelled, self.shared.clock.now(), false),
            None => Ok(()),
        }
    }

    /// Ends all requests under way.
    pub(crate) fn cut_off(&mut self, now: Duration) -> Result<(), Error> {
        for place in self.pool.busy() {
            self.settle(place, Outcome::Incomplete, now, false)?;
        }
        for timer in self.timers.extract(|timer| matches!(timer, Timer::Retry(_))) {
            if let Timer::Retry(exchange) = timer {
                self.conclude(exchange, Outcome::Incomplete, now)?;
            }
        }
        Ok(())
    }

    /// Takes a request off its connection and ends it.
    pub(crate) fn settle(
        &mut self,
        place: usize,
        outcome: Outcome,
        done: Duration,
        reusable: bool,
    ) -> Result<(), Error> {
        let id = self.pool.id(place);
        let Some(exchange) = self.pool.get(place).and_then(|connection| connection.exchange.take()) else {
            return Ok(());
        };
        let mut exchange = exchange;
        match self.shared.options.reuse {
            Reuse::Pooled if reusable => self.pool.park(place),
            Reuse::StickySessions if reusable && exchange.session.has_more_turns() => {
                exchange.session.connection = id;
            }
            _ => self.pool.close(place),
        }
        self.conclude(exchange, outcome, done)
    }

    /// Writes the record of a request and goes on with its session.
    fn conclude(
        &mut self,
        mut exchange: Box<Exchange>,
        mut outcome: Outcome,
        done: Duration,
    ) -> Result<(), Error> {
        if self.shared.options.content_needed && outcome.is_success() && !exchange.answer.has_content() {
            outcome = Outcome::Malformed(NO_CONTENT.to_owned());
        }
        for key in [exchange.time_limit, exchange.connect_limit, exchange.cancellation].into_iter().flatten()
        {
            self.timers.remove(key);
        }
        if std::mem::take(&mut exchange.prefill_slot) {
            self.release(Limit::Prefill, done)?;
        }
        if let Some(mut guard) = exchange.guard.take() {
            if let Some(usage) = exchange.answer.usage() {
                guard.usage(usage);
            }
            guard.ended(&outcome, done);
        }
        let success = outcome.is_success();
        let failure = !success && !matches!(outcome, Outcome::Cancelled | Outcome::Incomplete);
        let phase = self.phase();
        phase.ended(failure);
        self.in_flight -= 1;
        self.shared.control.ended(success, failure);
        let Concluded { record, text, session } = exchange.conclude(phase.index, outcome, done);
        if let Some(lag) = record.schedule_lag() {
            self.measures.schedule_lag.record_time(lag);
        }
        let answer = success.then_some(&text);
        self.go_on(session, answer, done)?;
        let Options { keep_answers, keep_bodies, .. } = self.shared.options;
        self.keep(record, (*keep_answers || *keep_bodies).then_some(text))
    }
}
