//! One client's connection, as its driver and the request in progress share it.
//!
//! While a request is in progress the driver reads ahead, up to a limit: so it notices that the client has left,
//! behind a pipelined request too. Beyond the limit it watches for the hang-up alone. The time limits of all phases
//! are one deadline here, watched by one timer that is set again only when it fires or when a phase needs an earlier
//! one.

use std::{
    cell::{Cell, RefCell},
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::hang_up::HangUp;
use crate::{wire::Wire, worker::Worker};

/// Bytes that are read ahead of a request in progress. More stays in the kernel.
const MOST_AHEAD: usize = 64 * 1024;

/// What a connection is doing; each phase has its own time limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// No byte of the next request yet, nor of the first.
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
    /// The address without its port, as replicas are told it.
    pub(crate) host: Box<str>,
    wire: RefCell<Wire>,
    /// Read and not yet used.
    pub(crate) input: RefCell<BytesMut>,
    phase: Cell<Phase>,
    deadline: Cell<Instant>,
    /// The last read found nothing, so the task will be woken by the next byte.
    read_waits: Cell<bool>,
    /// Our half of the connection is closed.
    closed: Cell<bool>,
    /// While more has come than is read ahead.
    hang_up: RefCell<Option<HangUp>>,
}

/// The socket of a connection that left HTTP.
#[derive(Debug)]
pub(crate) struct TunnelIo(pub(crate) Rc<Client>);

// === impl Client ===

impl Client {
    pub(crate) fn new(worker: Rc<Worker>, wire: Wire, address: SocketAddr) -> Self {
        let deadline = worker.now() + worker.limits().idle_timeout;
        Self {
            worker,
            address,
            host: address.ip().to_canonical().to_string().into(),
            wire: RefCell::new(wire),
            input: RefCell::default(),
            phase: Cell::new(Phase::Idle),
            deadline: Cell::new(deadline),
            read_waits: Cell::new(false),
            closed: Cell::new(false),
            hang_up: RefCell::default(),
        }
    }

    /// The scheme of the URL that it asked for.
    pub(crate) fn scheme(&self) -> &'static str {
        match &*self.wire.borrow() {
            Wire::Plain(_) => "http",
            Wire::Secure(_) => "https",
        }
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

    /// To be called when the task is woken, before anything else: whoever waits for bytes must ask again.
    pub(crate) fn forget_waiting(&self) {
        self.read_waits.set(false);
    }

    /// While a request is in progress: reads ahead. Ready when the client has left.
    pub(crate) fn poll_gone(&self, context: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.phase.get(), Phase::Upstream | Phase::Reply) {
            self.hang_up.take();
            return Poll::Pending;
        }
        while !self.read_waits.get() && self.input.borrow().len() < MOST_AHEAD {
            match ready!(self.poll_fill(context)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        if self.read_waits.get() {
            return Poll::Pending;
        }
        let mut hang_up = self.hang_up.borrow_mut();
        if hang_up.is_none() {
            // Without a descriptor for it, it is watched at the next wake-up.
            *hang_up = HangUp::of(self.wire.borrow().socket()).ok();
        }
        hang_up.as_ref().map_or(Poll::Pending, |hang_up| hang_up.poll(context))
    }

    /// Reads what has come; 0 at the end.
    pub(crate) fn poll_fill(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut room = self.worker.room.borrow_mut();
        let mut read = ReadBuf::new(&mut room);
        let polled = Pin::new(&mut *self.wire.borrow_mut()).poll_read(context, &mut read);
        self.read_waits.set(polled.is_pending());
        ready!(polled)?;
        self.input.borrow_mut().extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Whether bytes are there that the last read may have missed: the runtime learns of them only now and then.
    pub(crate) fn has_unread(&self) -> bool {
        let wire = self.wire.borrow();
        let peeked = SockRef::from(wire.socket()).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_ok_and(|length| length > 0)
    }

    /// Reads what has come straight behind what is there, which is the way for a long body whose room is made.
    pub(crate) fn poll_fill_in_place(&self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (mut wire, mut input) = (self.wire.borrow_mut(), self.input.borrow_mut());
        let polled = std::pin::pin!(wire.read_buf(&mut *input)).poll(context);
        self.read_waits.set(polled.is_pending());
        polled
    }

    /// Writes all of `bytes` and empties them.
    pub(crate) fn poll_write(&self, context: &mut Context<'_>, bytes: &mut BytesMut) -> Poll<io::Result<()>> {
        let mut wire = self.wire.borrow_mut();
        while !bytes.is_empty() {
            match ready!(Pin::new(&mut *wire).poll_write(context, bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => bytes.advance(length),
            }
            self.enter(self.phase.get(), self.worker.limits().stream_timeout);
        }
        Poll::Ready(Ok(()))
    }

    /// Makes the close of the connection a reset: the one way to say that an answer without a length broke off.
    pub(crate) fn reset_at_close(&self) {
        // A socket that cannot be told is closed in the usual way.
        let _ = self.wire.borrow().socket().set_zero_linger();
    }

    /// Closes our half, then reads and drops what comes until the client closes its half. A close with unread
    /// bytes would reset the connection, and the client would lose the answer.
    pub(crate) fn poll_close(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut wire = self.wire.borrow_mut();
        if self.phase.get() != Phase::Closing {
            self.enter(Phase::Closing, self.worker.limits().lingering);
        }
        if !self.closed.get() {
            match Pin::new(&mut *wire).poll_shutdown(context) {
                Poll::Ready(Ok(())) => self.closed.set(true),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                // TLS has a last word, for which there is no room yet.
                Poll::Pending => {}
            }
        }
        let mut room = self.worker.room.borrow_mut();
        loop {
            let mut read = ReadBuf::new(&mut room);
            match ready!(Pin::new(&mut *wire).poll_read(context, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

// === impl TunnelIo ===

impl TunnelIo {
    fn moved(&self) {
        self.0.enter(Phase::Tunnel, self.0.worker.limits().stream_timeout);
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut *self.0.wire.borrow_mut()).poll_read(context, buffer))?;
        self.moved();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self.0.wire.borrow_mut()).poll_write(context, bytes))?;
        self.moved();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.wire.borrow_mut()).poll_shutdown(context)
    }
}

#[cfg(test)]
impl Client {
    /// One of a gateway before nobody, and its other end.
    pub(crate) async fn pair() -> (Rc<Self>, tokio::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, address) = listener.accept().await.unwrap();
        let settings = crate::Settings::new(vec!["http://127.0.0.1:1".parse().unwrap()]).unwrap();
        let shared = std::sync::Arc::new(crate::shared::Shared::new(settings).unwrap());
        let worker = Rc::new(Worker::new(shared, 0));
        (Rc::new(Self::new(worker, Wire::Plain(accepted), address)), stream)
    }
}
