//! What happens on connections: opening, writing, reading. `ending` has the ways in which a request ends.

use std::{io, time::Duration};

use report::Outcome;

use crate::{
    Choice, Error, Features, Reuse,
    connection::Connection,
    exchange::Exchange,
    inbox::Limit,
    request_head::HeadParts,
    response::Progress,
    session::{ConnectionId, Session},
    wire::Received,
    worker::{Timer, Worker},
};

impl Worker<'_> {
    /// Chooses a target for the session's request and starts to send it.
    pub(crate) fn send(&mut self, mut session: Box<Session>, prefill_slot: bool) -> Result<(), Error> {
        let (shared, phase) = (self.shared, self.phase());
        let now = shared.clock.now();
        let targets = shared.targets.count();
        let request = session.request();
        let Choice { target, guard } = shared.options.chooser.choose(&Features {
            now,
            targets,
            position: session.position,
            session: session.id,
            turn: session.turn(),
            pinned: session.target,
            request,
            key: &session.key,
        });
        let target = session.target.unwrap_or(target % targets);
        let parts = HeadParts {
            target,
            endpoint: request.endpoint,
            body_bytes: session.body.len(),
            phase: phase.index,
            index: session.index(),
            session: session.id,
        };
        session.target = Some(target);
        let lag = now.saturating_sub(session.due.max(session.admitted));
        session.core_wait = self.core.waited_of(lag);
        let own_connection = session.connection.take();
        phase.dispatched(session.due, now);
        self.measures.dispatch_lag.record_time(lag);
        shared.control.late(lag);
        shared.control.started();
        self.in_flight += 1;

        let mut exchange = Box::new(Exchange::new(session, target, guard, shared.options, now));
        exchange.prefill_slot = prefill_slot;
        shared.heads.write(shared.targets.get(target), parts, &mut exchange.head);
        let open = match shared.options.reuse {
            Reuse::Pooled => self.pool.unpark(target),
            Reuse::StickySessions => own_connection.and_then(|id| self.pool.find(id)),
            Reuse::Never => None,
        };
        match open {
            Some(place) => {
                self.measures.reused += 1;
                exchange.reused = true;
                self.attach(place, exchange, now);
                self.write(place)
            }
            None => self.connect(exchange, now),
        }
    }

    /// Opens a connection for a request: to the next address of its target that has not refused it yet.
    pub(crate) fn connect(&mut self, mut exchange: Box<Exchange>, now: Duration) -> Result<(), Error> {
        let mut failure = None;
        let target = self.shared.targets.get(exchange.target);
        loop {
            let address = match target.address(exchange.addresses_tried) {
                Ok(Some(address)) => address,
                Ok(None) => {
                    let why = failure.unwrap_or_else(|| "no address took the connection".to_owned());
                    return self.fail(exchange, Outcome::Connect(why), now);
                }
                Err(why) => return self.fail(exchange, Outcome::Connect(why.to_owned()), now),
            };
            match self.pool.open(self.poll.registry(), address, target, exchange.target, now) {
                Ok(place) => {
                    self.measures.opened += 1;
                    self.attach(place, exchange, now);
                    return Ok(());
                }
                Err(error) => {
                    exchange.addresses_tried += 1;
                    failure = Some(format!("{address}: {error}"));
                }
            }
        }
    }

    fn attach(&mut self, place: usize, mut exchange: Box<Exchange>, now: Duration) {
        let Some(id) = self.pool.id(place) else { return };
        let limit = self.phase().limits.request_timeout;
        if exchange.time_limit.is_none()
            && let Some(limit) = limit
        {
            exchange.time_limit = Some(self.timers.add(now + limit, Timer::TimeLimit(id)));
        } else if let Some(key) = exchange.time_limit.take() {
            // The limit counts from the first attempt on.
            self.timers.remove(key);
            exchange.time_limit = Some(self.timers.add(key.0, Timer::TimeLimit(id)));
        }
        let Some(connection) = self.pool.get(place) else { return };
        if !connection.is_open {
            let at = now + self.shared.options.connect_timeout;
            exchange.connect_limit = Some(self.timers.add(at, Timer::ConnectLimit(id)));
        }
        connection.exchange = Some(exchange);
    }

    /// The poll has something to say about a connection.
    pub(crate) fn connection_event(
        &mut self,
        place: usize,
        readable: bool,
        writable: bool,
        ended: bool,
    ) -> Result<(), Error> {
        let Some(connection) = self.pool.get(place) else { return Ok(()) };
        let was_open = connection.is_open;
        if !was_open {
            match connection.check_open() {
                Ok(false) => return Ok(()),
                Ok(true) => self.connected(place),
                Err(error) => return self.connect_failed(place, &tls::explain(&error)),
            }
        }
        // The end of a handshake may be nothing to read and nothing new to write.
        if (writable || !was_open) && self.pool.get(place).is_some_and(Connection::has_to_write) {
            self.write(place)?;
        }
        if readable { self.read(place, ended) } else { Ok(()) }
    }

    fn connected(&mut self, place: usize) {
        let now = self.shared.clock.now();
        let Some(connection) = self.pool.get(place) else { return };
        let (opened, address) = (connection.opened, connection.address);
        let Some(exchange) = &mut connection.exchange else { return };
        exchange.connect = Some(now - opened);
        let limit = exchange.connect_limit.take();
        let target = exchange.target;
        if let Some(key) = limit {
            self.timers.remove(key);
        }
        self.shared.targets.get(target).prefer(address);
    }

    pub(crate) fn connect_failed(&mut self, place: usize, why: &str) -> Result<(), Error> {
        let now = self.shared.clock.now();
        let Some(connection) = self.pool.get(place) else { return Ok(()) };
        let address = connection.address;
        let exchange = connection.exchange.take();
        self.pool.close(place);
        let Some(mut exchange) = exchange else { return Ok(()) };
        if let Some(key) = exchange.connect_limit.take() {
            self.timers.remove(key);
        }
        exchange.addresses_tried += 1;
        match self.shared.targets.get(exchange.target).address(exchange.addresses_tried) {
            Ok(Some(_)) => self.connect(exchange, now),
            _ => self.fail(exchange, Outcome::Connect(format!("{address}: {why}")), now),
        }
    }

    fn write(&mut self, place: usize) -> Result<(), Error> {
        let now = self.shared.clock.now();
        let Some(connection) = self.pool.get(place) else { return Ok(()) };
        let id = ConnectionId { place, serial: connection.serial };
        let Some(exchange) = connection.exchange.as_mut().filter(|exchange| !exchange.is_written()) else {
            return Ok(());
        };
        match exchange.write_to(&mut connection.wire, now) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let written = self.shared.clock.now();
                exchange.written = Some(written);
                if let Some(delay) = exchange.session.request().cancel_after {
                    exchange.cancellation = Some(self.timers.add(written + delay, Timer::Cancellation(id)));
                }
                Ok(())
            }
            Err(error) => {
                // The server may have answered before it closed: a refusal, for instance.
                self.read(place, true)?;
                match self.pool.find(id) {
                    Some(place) => self.broken(place, Outcome::Broken(error.to_string())),
                    None => Ok(()),
                }
            }
        }
    }

    fn read(&mut self, place: usize, ended: bool) -> Result<(), Error> {
        loop {
            let Some(connection) = self.pool.get(place) else { return Ok(()) };
            let received = connection.wire.receive(&mut self.buffer, ended);
            let now = self.shared.clock.now();
            let Some(exchange) = &mut connection.exchange else {
                // An idle connection has nothing to say; if it speaks or ends, it is of no use any more.
                if !matches!(received, Received::Nothing) {
                    self.pool.close(place);
                }
                return Ok(());
            };
            let (bytes, more, waited) = match received {
                Received::Bytes { count, more, waited } => (count, more, waited),
                Received::Nothing => return Ok(()),
                Received::Broken(error) => return self.broken(place, broken(&error)),
                Received::End => match exchange.response.end_of_stream() {
                    Ok(_) => {
                        let outcome = exchange.answer.finish();
                        return self.settle(place, outcome, now, false);
                    }
                    Err(outcome) => return self.broken(place, outcome),
                },
            };
            let chunks_before = exchange.answer.chunks().len();
            exchange.answer.set_now(now);
            let progress = exchange.response.receive(&self.buffer[..bytes], &mut exchange.answer);
            if exchange.headers.is_none() && exchange.response.status().is_some() {
                exchange.headers = Some(now);
                if exchange.is_written() {
                    // Once the server answers, the request cannot be sent again: its body is not needed any more.
                    exchange.session.body = Vec::new();
                }
            }
            let end = match progress {
                Ok(Progress::More) => None,
                Ok(Progress::Complete { reusable }) => {
                    Some((exchange.answer.finish(), reusable && exchange.is_written()))
                }
                Err(outcome) => Some((exchange.answer.refusal().unwrap_or(outcome), false)),
            };
            let fresh = &exchange.answer.chunks()[chunks_before..];
            let tokens = fresh.iter().map(|chunk| chunk.tokens).fold(0, u32::saturating_add);
            self.measures.count_read(fresh.len());
            self.fresh_tokens += u64::from(tokens);
            let until_end = self.shared.phases[self.phase_index].slot_until_end;
            if !fresh.is_empty() {
                if let Some(waited) = waited {
                    self.measures.receive_lag.record_time(waited);
                }
                if let Some(guard) = &mut exchange.guard {
                    guard.produced(tokens, now);
                }
                if !until_end && std::mem::take(&mut exchange.prefill_slot) {
                    self.release(Limit::Prefill, now)?;
                }
            }
            if let Some((outcome, reusable)) = end {
                self.settle(place, outcome, now, reusable)?;
            }
            if !more {
                return Ok(());
            }
        }
    }
}

fn broken(error: &io::Error) -> Outcome {
    Outcome::Broken(error.to_string())
}
