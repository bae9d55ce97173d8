//! One client's connection, as hyper, the connection's driver and the request in progress share it.
//!
//! The socket sits here and not in hyper, because hyper stops reading while a request is in progress and its
//! read buffer is not empty: it would not notice that a client with a pipelined request has left. The driver
//! then reads ahead, up to a limit. The time limits of all phases are one deadline here, watched by one timer
//! that is set again only when it fires or when a phase needs an earlier one.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::worker::Worker;

/// Bytes that are read ahead of a request in progress. A client that sends more is watched no further.
const MOST_AHEAD: usize = 64 * 1024;
/// Room for one read of what nobody will look at.
const DISCARD_BYTES: usize = 4096;

/// What a connection is doing; each phase has its own time limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// No byte of a request yet.
    Idle,
    /// Part of a head has come.
    Head,
    /// A body is coming.
    Body,
    /// A replica is asked: connecting, or waiting for the head of its response.
    Upstream,
    /// A response is on its way to the client.
    Reply,
    /// HTTP is over; bytes go both ways.
    Tunnel,
    /// The last response is out; what the client still sends is read and dropped, so that it can read in peace.
    Closing,
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) address: SocketAddr,
    stream: RefCell<TcpStream>,
    /// Read before anybody asked for it.
    ahead: RefCell<BytesMut>,
    phase: Cell<Phase>,
    deadline: Cell<Instant>,
    /// The last read found nothing, so the task will be woken by the next byte.
    read_waits: Cell<bool>,
    /// Bytes of a response lie in hyper's buffer.
    unflushed: Cell<bool>,
    shut: Cell<bool>,
}

/// The socket as hyper sees it.
#[derive(Debug)]
pub(crate) struct ClientIo(pub(crate) Rc<Client>);

// === impl Client ===

impl Client {
    pub(crate) fn new(worker: Rc<Worker>, stream: TcpStream, address: SocketAddr) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let deadline = worker.now() + worker.limits().header_timeout;
        Ok(Self {
            worker,
            address,
            stream: RefCell::new(stream),
            ahead: RefCell::default(),
            phase: Cell::new(Phase::Head),
            deadline: Cell::new(deadline),
            read_waits: Cell::new(false),
            unflushed: Cell::new(false),
            shut: Cell::new(false),
        })
    }

    /// Begins a phase, or begins it anew because something moved.
    pub(crate) fn enter(&self, phase: Phase, limit: Duration) {
        self.phase.set(phase);
        self.deadline.set(self.worker.now() + limit);
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline.get()
    }

    /// Whether the phase has used up its time.
    pub(crate) fn is_late(&self) -> bool {
        self.worker.now() >= self.deadline.get()
    }

    /// Says that bytes for the client lie in hyper's buffer.
    pub(crate) fn set_unflushed(&self) {
        self.unflushed.set(true);
    }

    /// Whether all that the client should have is in the kernel's hands.
    pub(crate) fn is_flushed(&self) -> bool {
        !self.unflushed.get()
    }

    /// To be called when the task is woken, before hyper runs: whoever waits for bytes must ask again.
    pub(crate) fn forget_waiting(&self) {
        self.read_waits.set(false);
    }

    /// While a request is in progress and hyper does not read: reads ahead. Ready when the client has left.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.read_waits.get() || !matches!(self.phase.get(), Phase::Body | Phase::Upstream | Phase::Reply)
        {
            return Poll::Pending;
        }
        let (mut stream, mut ahead) = (self.stream.borrow_mut(), self.ahead.borrow_mut());
        while ahead.len() < MOST_AHEAD {
            ahead.reserve(DISCARD_BYTES);
            match pin!(stream.read_buf(&mut *ahead)).poll(context) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    self.read_waits.set(true);
                    break;
                }
            }
        }
        Poll::Pending
    }

    /// Writes a few last bytes past hyper, if there is room for them at once.
    pub(crate) fn write_last(&self, bytes: &[u8]) {
        // Nobody is left to tell if this fails.
        let _ = self.stream.borrow().try_write(bytes);
    }

    fn record_read(&self, length: usize) {
        match self.phase.get() {
            _ if length == 0 => {}
            Phase::Idle => self.enter(Phase::Head, self.worker.limits().header_timeout),
            Phase::Tunnel => self.enter(Phase::Tunnel, self.worker.limits().stream_timeout),
            _ => {}
        }
    }
}

// === impl ClientIo ===

impl AsyncRead for ClientIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let client = &self.0;
        let mut ahead = client.ahead.borrow_mut();
        if !ahead.is_empty() {
            let length = ahead.len().min(buffer.remaining());
            buffer.put_slice(&ahead[..length]);
            ahead.advance(length);
            client.read_waits.set(false);
            client.record_read(length);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut *client.stream.borrow_mut()).poll_read(context, buffer);
        client.read_waits.set(read.is_pending());
        client.record_read(buffer.filled().len() - before);
        read
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.0.phase.get() == Phase::Tunnel {
            self.0.enter(Phase::Tunnel, self.0.worker.limits().stream_timeout);
        }
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls this when its own buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.unflushed.set(false);
        Poll::Ready(Ok(()))
    }

    /// Closes our half, then reads and drops what comes until the client closes its half. A close with unread
    /// bytes would reset the connection, and the client would lose the answer.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let client = &self.0;
        let mut stream = client.stream.borrow_mut();
        if client.phase.get() == Phase::Tunnel {
            return Pin::new(&mut *stream).poll_shutdown(context);
        }
        if !client.shut.replace(true) {
            client.enter(Phase::Closing, client.worker.limits().lingering);
            if let Poll::Ready(Err(_)) = Pin::new(&mut *stream).poll_shutdown(context) {
                return Poll::Ready(Ok(()));
            }
        }
        let mut bytes = [0; DISCARD_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
