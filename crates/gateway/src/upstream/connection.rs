//! One connection to a replica, and one exchange of a request for a response head on it.
//!
//! Dropping the connection closes it; that is how a request is cancelled.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    http1::{
        body::Remaining,
        chunked::{InvalidChunk, Progress},
        response::{InvalidHead, ResponseHead},
    },
    wire::Wire,
};

/// Bodies up to this size go out in one piece with their head.
const MOST_COPIED: usize = 32 * 1024;

/// A connection to a replica.
#[derive(Debug)]
pub(crate) struct Connection {
    wire: Wire,
    /// Bytes that were read and not yet used.
    pub(crate) buffer: BytesMut,
    /// Whether it served a request before this one.
    pub(crate) reused: bool,
}

/// A request as it goes over the wire, and how much of it has gone.
#[derive(Debug)]
pub(crate) struct Outgoing {
    head: Vec<u8>,
    body: Bytes,
    sent: usize,
}

/// Why no response head came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// Closed or reset; `silent` where not one byte of an answer came.
    #[error("the connection closed before an answer")]
    Closed { silent: bool },
    #[error(transparent)]
    Invalid(#[from] InvalidHead),
}

/// Why a body stopped before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the connection closed inside the body")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error(transparent)]
    Invalid(#[from] InvalidChunk),
}

// === impl Connection ===

impl Connection {
    pub(crate) fn new(wire: Wire) -> Self {
        Self { wire, buffer: BytesMut::new(), reused: false }
    }

    /// Whether an idle connection is still open and silent.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.wire.is_quiet()
    }

    /// Sends `request` and reads up to the end of the response head, or of an interim one, after which it is to be
    /// called again. A 100 is ours: the body is there, nobody has to be told to send it. An answer that comes before
    /// the request has gone out whole ends the sending; the connection then cannot be used again. `room` is for one
    /// read.
    pub(crate) fn poll_exchange(
        &mut self,
        context: &mut Context<'_>,
        request: &mut Outgoing,
        to_head: bool,
        room: &mut [u8],
    ) -> Poll<Result<ResponseHead, ExchangeError>> {
        let mut broken = false;
        while !request.is_sent() && !broken {
            match Pin::new(&mut self.wire).poll_write(context, request.unsent()) {
                Poll::Ready(Ok(length)) => request.sent += length,
                // The answer may be there all the same: an engine that refuses a body closes while it comes.
                Poll::Ready(Err(_)) => broken = true,
                Poll::Pending => break,
            }
        }
        loop {
            while !self.buffer.is_empty()
                && let Some(mut head) = ResponseHead::take(&mut self.buffer, to_head)?
            {
                if head.is_interim() {
                    // Whatever becomes of it now, it is no connection that had been closed while idle.
                    self.reused = false;
                }
                if head.status == StatusCode::CONTINUE {
                    continue;
                }
                head.keep_alive &= request.is_sent();
                return Poll::Ready(Ok(head));
            }
            match ready!(self.poll_read(context, room)) {
                Ok(bytes @ [_, ..]) => self.buffer.extend_from_slice(bytes),
                Ok([]) | Err(_) => {
                    return Poll::Ready(Err(ExchangeError::Closed { silent: self.buffer.is_empty() }));
                }
            }
        }
    }

    /// Gives the body's next bytes to `data`, as soon as there are some. Ready with whether that was its end.
    pub(crate) fn poll_body(
        &mut self,
        context: &mut Context<'_>,
        remaining: &mut Remaining,
        room: &mut [u8],
        data: impl FnMut(&[u8]),
    ) -> Poll<Result<bool, BodyError>> {
        let earlier = std::mem::take(&mut self.buffer);
        let bytes = match earlier.is_empty() {
            false => &earlier[..],
            true => ready!(self.poll_read(context, room))?,
        };
        if bytes.is_empty() {
            return Poll::Ready(if remaining.may_close() { Ok(true) } else { Err(BodyError::Closed) });
        }
        let Progress { used, over } = remaining.read(bytes, data)?;
        self.buffer.extend_from_slice(&bytes[used..]);
        Poll::Ready(Ok(over))
    }

    fn poll_read<'r>(&mut self, context: &mut Context<'_>, room: &'r mut [u8]) -> Poll<io::Result<&'r [u8]>> {
        let mut read = ReadBuf::new(room);
        ready!(Pin::new(&mut self.wire).poll_read(context, &mut read))?;
        let length = read.filled().len();
        Poll::Ready(Ok(&room[..length]))
    }

    /// The wire, for a connection that left HTTP, and what already came.
    pub(crate) fn into_parts(self) -> (Wire, BytesMut) {
        (self.wire, self.buffer)
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// A request of `head` and `body`. A small body is copied behind the head: one system call sends both.
    pub(crate) fn new(mut head: Vec<u8>, body: &Bytes) -> Self {
        let mut body = body.clone();
        if body.len() <= MOST_COPIED {
            head.extend_from_slice(&body);
            body.clear();
        }
        Self { head, body, sent: 0 }
    }

    /// Starts over, on another connection.
    pub(crate) fn rewind(&mut self) {
        self.sent = 0;
    }

    fn unsent(&self) -> &[u8] {
        match self.sent.checked_sub(self.head.len()) {
            Some(sent) => &self.body[sent..],
            None => &self.head[self.sent..],
        }
    }

    fn is_sent(&self) -> bool {
        self.sent == self.head.len() + self.body.len()
    }
}
