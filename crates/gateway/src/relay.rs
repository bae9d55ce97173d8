//! The answer on its way to the client: bytes are passed on as they come, and looked at in passing.
//!
//! Promise: every byte of a body goes on in the wake-up in which it came, unchanged. When the replica breaks off, the
//! client has received everything that came before, and then a broken stream: never the mark of a regular end. Where
//! the end of the connection is that mark (HTTP/1.0), it is reset instead. Dropping the relay closes the replica's
//! connection, which cancels the request there.

mod event;
mod tap;
mod usage;

use std::{
    io::Write,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, BytesMut};
use routing::Outcome;

use crate::{
    Reason,
    flight::Flight,
    forward::Asked,
    http1::{
        body::Remaining,
        response::{Framing, ResponseHead},
    },
    server::{Client, Manners, Phase},
    upstream::connection::{BodyError, Connection},
};
use tap::Tap;

/// Room for what waits for the client that is kept between two events.
const MOST_KEPT: usize = 16 * 1024;

/// The body of a replica's answer.
#[derive(Debug)]
pub(crate) struct Relay {
    flight: Box<Flight>,
    /// Where the body comes from, until its end.
    source: Option<Connection>,
    remaining: Remaining,
    reusable: bool,
    tap: Tap,
    coding: Coding,
    accepts_trailers: bool,
    /// For the client.
    out: BytesMut,
    /// How the body ended.
    end: Option<Result<(), Interrupted>>,
}

/// How the client sees where the body ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Coding {
    /// By its length.
    Length,
    /// By the end of the connection.
    Close,
    Chunked,
}

/// The answer broke off; the connection to the client must break, too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupted;

// === impl Relay ===

impl Relay {
    /// The relay of an answer whose head is in `out`.
    pub(crate) fn new(mut flight: Box<Flight>, asked: Asked, manners: Manners, out: BytesMut) -> Self {
        let Asked { head: ResponseHead { fields, framing, keep_alive, .. }, connection } = asked;
        let coding = match framing {
            Framing::Chunked | Framing::UntilClose if manners.is_http_10 => Coding::Close,
            Framing::Chunked | Framing::UntilClose => Coding::Chunked,
            _ => Coding::Length,
        };
        let tap = Tap::of(&fields);
        if tap.knows_no_more() {
            flight.answering();
        }
        let mut relay = Self {
            flight,
            source: Some(connection),
            remaining: Remaining::of(framing),
            reusable: keep_alive,
            tap,
            coding,
            accepts_trailers: manners.accepts_trailers,
            out,
            end: None,
        };
        if relay.remaining.is_nothing() {
            relay.finish();
        }
        relay
    }

    /// Moves what can be moved. Ready when the client has the whole answer, or all that there is of it.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Interrupted>> {
        let client = Rc::clone(&self.flight.client);
        loop {
            // What came before the end is read already where it came with the head.
            while self.end.is_none() && self.source.as_ref().is_some_and(|source| !source.buffer.is_empty()) {
                let _ = self.poll_source(&client, context);
            }
            if ready!(client.poll_write(context, &mut self.out)).is_err() {
                return Poll::Ready(Err(Interrupted));
            }
            if self.tap.is_whole() || matches!(self.end, Some(Ok(()))) {
                self.flight.complete();
            }
            if let Some(end) = self.end {
                return Poll::Ready(end);
            }
            if self.out.capacity() > MOST_KEPT {
                self.out = BytesMut::new();
            }
            if self.poll_source(&client, context).is_pending() {
                if !client.is_late() {
                    return Poll::Pending;
                }
                self.fail(Reason::UpstreamIdle, Outcome::TimedOut);
            }
        }
    }

    /// Takes what has come from the replica, looks at it, and puts it in `out`.
    fn poll_source(&mut self, client: &Client, context: &mut Context<'_>) -> Poll<()> {
        let Self { flight, source, remaining, tap, coding, out, .. } = self;
        let Some(connection) = source else { return Poll::Ready(()) };
        let mut room = client.worker.room.borrow_mut();
        let polled = connection.poll_body(context, remaining, &mut room, |data| {
            flight.response_bytes += data.len() as u64;
            tap.look(data);
            put_data(out, data, *coding);
        });
        drop(room);
        match ready!(polled) {
            Ok(over) => {
                client.enter(Phase::Reply, client.worker.limits().stream_timeout);
                self.tap.tell(&mut self.flight);
                if over {
                    self.finish();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "answer broke off");
                self.tap.tell(&mut self.flight);
                let reason = match error {
                    BodyError::Invalid(_) => Reason::UpstreamInvalid,
                    BodyError::Closed | BodyError::Broken(_) => Reason::UpstreamBroken,
                };
                self.fail(reason, Outcome::Broken);
            }
        }
        Poll::Ready(())
    }

    /// The body is whole: the connection may serve the next request.
    fn finish(&mut self) {
        self.end = Some(Ok(()));
        if self.coding == Coding::Chunked {
            self.out.put_slice(b"0\r\n");
            let trailers = self.remaining.trailers().filter(|_| self.accepts_trailers);
            let fields = trailers.into_iter().flat_map(|trailers| trailers.end_to_end());
            // Where a body ends is nothing to say behind it.
            for field in fields.filter(|field| !field.is("content-length")) {
                self.out.put_slice(field.line);
                self.out.put_slice(b"\r\n");
            }
            self.out.put_slice(b"\r\n");
        }
        self.tap.end(&mut self.flight);
        if let Some(connection) = self.source.take()
            && self.reusable
            && let Some(attempt) = self.flight.current()
        {
            let id = attempt.backend.id;
            let worker = &self.flight.client.worker;
            worker.pool.put(id, connection, worker.now());
        }
    }

    fn fail(&mut self, reason: Reason, outcome: Outcome) {
        self.flight.fail(reason, outcome);
        self.source = None;
        self.end = Some(Err(Interrupted));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.coding == Coding::Close && !matches!(self.end, Some(Ok(()))) {
            self.flight.client.reset_at_close();
        }
    }
}

fn put_data(out: &mut BytesMut, data: &[u8], coding: Coding) {
    match coding {
        Coding::Length | Coding::Close => out.put_slice(data),
        Coding::Chunked => {
            // Writing to memory cannot fail.
            let _ = write!(out.writer(), "{:x}\r\n", data.len());
            out.put_slice(data);
            out.put_slice(b"\r\n");
        }
    }
}
