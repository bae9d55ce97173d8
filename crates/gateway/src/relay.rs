//! The answer on its way to the client: bytes are passed on as they come, and looked at in passing.
//!
//! Promise: every byte of a body goes on in the wake-up in which it came, unchanged. When the replica breaks
//! off, the client has received everything that came before, and then a broken stream: never the mark of a
//! regular end. Dropping the body closes the replica's connection, which cancels the request there.

mod tap;

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use routing::Outcome;

use crate::{
    Reason,
    flight::Flight,
    server::client::Phase,
    upstream::{
        body::{BodyError, Piece, Remaining},
        connection::Connection,
        head::ResponseHead,
    },
};
pub(crate) use tap::Tap;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Reply {
    /// In evenload's own words. The flight ends when they are taken.
    Own(Full<Bytes>, Box<Flight>),
    /// A replica's.
    Relay(Relay),
    /// None; the connection leaves HTTP.
    Nothing,
}

/// The body of a replica's answer.
#[derive(Debug)]
pub(crate) struct Relay {
    flight: Box<Flight>,
    /// Where the body comes from, until its end.
    source: Option<Source>,
    tap: Tap,
    failure: Option<Interrupted>,
}

#[derive(Debug)]
struct Source {
    connection: Connection,
    remaining: Remaining,
    keep_alive: bool,
}

/// The answer broke off; the connection to the client must break, too.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the answer broke off: {}", .0.label())]
pub(crate) struct Interrupted(Reason);

// === impl Relay ===

impl Relay {
    pub(crate) fn new(flight: Box<Flight>, connection: Connection, head: &ResponseHead, tap: Tap) -> Self {
        let remaining = Remaining::of(head);
        let over = remaining.is_over();
        let source = Some(Source { connection, remaining, keep_alive: head.keep_alive });
        let mut relay = Self { flight, source, tap, failure: None };
        if over {
            relay.finish();
        }
        relay
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<NextFrame> {
        let Self { flight, source, tap, .. } = self;
        let Some(Source { connection, remaining, .. }) = source else { return Poll::Ready(None) };
        let client = &flight.client;
        match remaining.poll_next(connection, context) {
            Poll::Ready(Ok(Piece::Data(data))) => {
                client.set_unflushed();
                client.enter(Phase::Reply, client.worker.limits().stream_timeout);
                flight.response_bytes += data.len() as u64;
                let over = remaining.is_over();
                tap.look(&data, over, flight);
                if over {
                    self.finish();
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Poll::Ready(Ok(Piece::End(trailers))) => {
                self.finish();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "answer broke off");
                let reason = match error {
                    BodyError::Invalid(_) => Reason::UpstreamInvalid,
                    BodyError::Closed | BodyError::Broken(_) => Reason::UpstreamBroken,
                };
                self.fail(reason, Outcome::Broken)
            }
            Poll::Pending if client.is_late() && client.is_flushed() => {
                self.fail(Reason::UpstreamIdle, Outcome::TimedOut)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// The body is whole: the connection may serve the next request.
    fn finish(&mut self) {
        self.tap.end(&mut self.flight);
        self.flight.complete();
        if let Some(Source { connection, keep_alive: true, .. }) = self.source.take()
            && let Some(attempt) = self.flight.current()
        {
            let id = attempt.backend.id;
            let worker = &self.flight.client.worker;
            worker.pool.put(id, connection, worker.now());
        }
    }

    fn fail(&mut self, reason: Reason, outcome: Outcome) -> Poll<NextFrame> {
        self.flight.fail(reason, outcome);
        self.source = None;
        self.failure = Some(Interrupted(reason));
        self.poll_failure().unwrap_or(Poll::Pending)
    }

    /// What to say after a failure: nothing until the client has all that came before, because hyper throws its
    /// buffer away when a body fails. It asks again as soon as the buffer is empty.
    fn poll_failure(&self) -> Option<Poll<NextFrame>> {
        let failure = self.failure?;
        let flushed = self.flight.client.is_flushed();
        Some(if flushed { Poll::Ready(Some(Err(failure))) } else { Poll::Pending })
    }
}

/// What a body hands to hyper next.
type NextFrame = Option<Result<Frame<Bytes>, Interrupted>>;

impl Body for Reply {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<NextFrame> {
        match self.get_mut() {
            Self::Own(body, flight) => {
                flight.complete();
                Pin::new(body).poll_frame(context).map_err(|never| match never {})
            }
            Self::Relay(relay) => match relay.poll_failure() {
                Some(failure) => failure,
                None => relay.poll_piece(context),
            },
            Self::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body, _) => body.is_end_stream(),
            Self::Relay(relay) => relay.source.is_none() && relay.failure.is_none(),
            Self::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body, _) => body.size_hint(),
            Self::Relay(Relay { source: Some(source), .. }) => {
                source.remaining.exact().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Self::Relay(_) | Self::Nothing => SizeHint::with_exact(0),
        }
    }
}
