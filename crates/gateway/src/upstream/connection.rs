//! One connection to a replica, and one exchange of a request for a response head on it.
//!
//! Dropping the connection closes it; that is how a request is cancelled.

use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWrite},
    net::TcpStream,
};

use super::head::{self, InvalidHead, ResponseHead};

/// Room for one read. A chunk of tokens is some hundred bytes; long answers grow it.
const READ_BYTES: usize = 8 * 1024;
/// Most room for one read.
const MOST_READ_BYTES: usize = 64 * 1024;

/// A connection to a replica.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// Bytes that were read and not yet used.
    pub(crate) buffer: BytesMut,
    read_bytes: usize,
    /// Whether it served a request before this one.
    pub(crate) reused: bool,
}

/// A request as it goes over the wire, and how much of it has gone.
#[derive(Debug)]
pub(crate) struct Outgoing {
    head: Bytes,
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

// === impl Connection ===

impl Connection {
    /// Wraps a connected socket. Small writes go out at once: without that, every event waits up to 40 ms.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new(), read_bytes: READ_BYTES, reused: false })
    }

    /// Whether an idle connection is still open and silent. Costs no system call unless something happened.
    pub(crate) fn is_quiet(&self) -> bool {
        match self.stream.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => true,
            Poll::Ready(_) => {
                let probe = self.stream.try_read(&mut [0]);
                matches!(probe, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
        }
    }

    /// Sends `request` and reads up to the end of the response head. An answer that comes before the request
    /// has gone out whole ends the sending; the connection then cannot be used again.
    pub(crate) fn poll_exchange(
        &mut self,
        context: &mut Context<'_>,
        request: &mut Outgoing,
        to_head: bool,
    ) -> Poll<Result<ResponseHead, ExchangeError>> {
        let mut broken = false;
        while !request.is_sent() && !broken {
            match self.poll_send(context, request) {
                Poll::Ready(Ok(())) => {}
                // The answer may be there all the same: an engine that refuses a body closes while it comes.
                Poll::Ready(Err(_)) => broken = true,
                Poll::Pending => break,
            }
        }
        loop {
            while let Some(mut head) = head::parse(&mut self.buffer, to_head)? {
                if head.status.is_informational() && head.status.as_u16() != 101 {
                    continue;
                }
                head.keep_alive &= request.is_sent();
                return Poll::Ready(Ok(head));
            }
            match self.poll_fill(context) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => {
                    return Poll::Ready(Err(ExchangeError::Closed { silent: self.buffer.is_empty() }));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_send(&mut self, context: &mut Context<'_>, request: &mut Outgoing) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        let sent = match request.sent.checked_sub(request.head.len()) {
            Some(sent) => stream.poll_write(context, &request.body[sent..]),
            None => stream.poll_write_vectored(
                context,
                &[IoSlice::new(&request.head[request.sent..]), IoSlice::new(&request.body)],
            ),
        };
        sent.map_ok(|length| request.sent += length)
    }

    /// Reads what is there into the buffer; 0 at the end of the connection.
    pub(crate) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() - self.buffer.len() < self.read_bytes / 2 {
            self.buffer.reserve(self.read_bytes);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let read = pin!(self.stream.read_buf(&mut self.buffer)).poll(context);
        if let Poll::Ready(Ok(length)) = read {
            self.read_bytes = match length {
                _ if length == room => (self.read_bytes * 2).min(MOST_READ_BYTES),
                _ if length < self.read_bytes / 4 => (self.read_bytes / 2).max(READ_BYTES),
                _ => self.read_bytes,
            };
        }
        read
    }

    /// The socket, for a connection that left HTTP; `buffer` holds what already came.
    pub(crate) fn into_parts(self) -> (TcpStream, BytesMut) {
        (self.stream, self.buffer)
    }
}

// === impl Outgoing ===

impl Outgoing {
    pub(crate) fn new(head: Bytes, body: Bytes) -> Self {
        Self { head, body, sent: 0 }
    }

    /// Starts over, on another connection.
    pub(crate) fn rewind(&mut self) {
        self.sent = 0;
    }

    fn is_sent(&self) -> bool {
        self.sent == self.head.len() + self.body.len()
    }
}
