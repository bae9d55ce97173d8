//! What flows from an engine to the connection of one request.
//!
//! The engine appends rendered bytes and wakes the connection's task; that takes all there is and writes it.
//! The buffer is used again once its bytes are written, so a token allocates nothing.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use protocol::Usage;

use super::{fault::Midway, replica::Replica};

/// Bytes to begin with: a few chunks.
const BUFFER_BYTES: usize = 1024;

/// From the engine to one connection, both on the same thread.
#[derive(Debug)]
pub(crate) struct Feed {
    buffer: RefCell<BytesMut>,
    waker: RefCell<Option<Waker>>,
    state: Cell<FeedState>,
    /// The engine has nothing to do with the request any more.
    released: Cell<bool>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FeedState {
    /// More may come.
    Open,
    /// Everything is in the buffer.
    Complete,
    /// The answer is sent in one piece, which can be written now.
    Generated(Generated),
    /// The connection is to be broken.
    Broken,
    /// Nothing more will come, but nobody is told.
    Stalled,
}

/// What only the run brings to an answer in one piece.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Generated {
    pub(crate) usage: Usage,
    /// How it is to go wrong.
    pub(crate) fault: Option<Midway>,
}

/// A request in an engine. Dropping it aborts what is left of it.
#[derive(Debug)]
pub(crate) struct Ticket {
    replica: Rc<Replica>,
    id: u32,
    feed: Rc<Feed>,
    flushed: bool,
}

/// The answer is broken on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the connection is broken, as was asked for")]
pub(crate) struct Broken;

/// A response body.
#[derive(Debug)]
pub(crate) enum Payload {
    Whole(Full<Bytes>),
    Stream(Ticket),
    Half(Half),
}

/// The first half of a body that was announced in full. Then the connection breaks.
#[derive(Debug)]
pub(crate) struct Half {
    body: Bytes,
    taken: bool,
    flushed: bool,
}

// === impl Feed ===

impl Feed {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            buffer: RefCell::new(BytesMut::with_capacity(BUFFER_BYTES)),
            waker: RefCell::new(None),
            state: Cell::new(FeedState::Open),
            released: Cell::new(false),
        })
    }

    /// Lets `render` append to what is to be sent, unless nothing more is.
    pub(crate) fn append(&self, render: impl FnOnce(&mut BytesMut)) {
        if self.state.get() == FeedState::Open {
            let mut buffer = self.buffer.borrow_mut();
            render(&mut buffer);
            drop(buffer);
            self.wake();
        }
    }

    /// Ends the feed in one way or another, once.
    pub(crate) fn end(&self, state: FeedState) {
        if self.state.get() == FeedState::Open {
            self.state.set(state);
            self.wake();
        }
    }

    /// The engine has let go of the request.
    pub(crate) fn release(&self) {
        self.released.set(true);
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    fn wait(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
    }
}

// === impl Ticket ===

impl Ticket {
    pub(crate) fn new(replica: Rc<Replica>, id: u32, feed: Rc<Feed>) -> Self {
        Self { replica, id, feed, flushed: false }
    }

    /// Waits until an answer in one piece can be written.
    pub(crate) async fn generated(&self) -> Result<Generated, Broken> {
        poll_fn(|context| match self.feed.state.get() {
            FeedState::Generated(generated) => Poll::Ready(Ok(generated)),
            FeedState::Broken => Poll::Ready(Err(Broken)),
            FeedState::Open | FeedState::Stalled | FeedState::Complete => {
                self.feed.wait(context);
                Poll::Pending
            }
        })
        .await
    }

    fn poll_stream(&mut self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let mut buffer = self.feed.buffer.borrow_mut();
        if !buffer.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(buffer.split().freeze()))));
        }
        match self.feed.state.get() {
            FeedState::Complete | FeedState::Generated(_) => Poll::Ready(None),
            FeedState::Broken if self.flushed => Poll::Ready(Some(Err(Broken))),
            FeedState::Broken => {
                // The connection writes what it has before it asks again.
                self.flushed = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            FeedState::Open | FeedState::Stalled => {
                self.feed.wait(context);
                Poll::Pending
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.feed.released.get() {
            self.replica.abort(self.id);
        }
    }
}

// === impl Half ===

impl Half {
    pub(crate) fn of(body: Bytes) -> Self {
        Self { body, taken: false, flushed: false }
    }

    fn poll(&mut self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.taken {
            self.taken = true;
            return Poll::Ready(Some(Ok(Frame::data(self.body.slice(..self.body.len() / 2)))));
        }
        if self.flushed {
            return Poll::Ready(Some(Err(Broken)));
        }
        // The connection writes what it has before it asks again.
        self.flushed = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

// === impl Payload ===

impl Body for Payload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Whole(body) => {
                Pin::new(body).poll_frame(context).map_err(|never: std::convert::Infallible| match never {})
            }
            Self::Stream(ticket) => ticket.poll_stream(context),
            Self::Half(half) => half.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream(Ticket { feed, .. }) => {
                feed.state.get() == FeedState::Complete && feed.buffer.borrow().is_empty()
            }
            Self::Half(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream(_) => SizeHint::default(),
            Self::Half(half) => SizeHint::with_exact(half.body.len() as u64),
        }
    }
}
