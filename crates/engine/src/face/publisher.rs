//! What happens to a replica's cache, told to whoever subscribed, and told again to whoever missed some of it.
//!
//! The sockets are those of vLLM's publisher: `PUB` sends three frames (topic, sequence number of 8 bytes, batch);
//! `ROUTER` answers a number with every batch from there on that is still kept, and with -1 at the end. A
//! subscriber that does not read loses batches once [`MOST_WAITING_BYTES`] wait for it, as in ZeroMQ, and sees
//! that in the numbers. Kept are as many batches as vLLM keeps, in bounded memory.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use protocol::{
    kv_events::{CacheEvent, EventBatch, EventFormat},
    zmtp::{Incoming, Link, SocketKind, message},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// Batches kept for replay.
const MOST_KEPT: usize = 10_000;
/// Bytes of them.
const MOST_KEPT_BYTES: usize = 64 << 20;
/// Bytes that wait for a subscriber.
const MOST_WAITING_BYTES: usize = 16 << 20;
/// Bytes of what a subscriber says.
const MOST_MESSAGE_BYTES: usize = 4096;
/// The number after the last batch of a replay.
const END: [u8; 8] = u64::MAX.to_be_bytes();

/// One replica's publisher.
#[derive(Debug)]
pub(crate) struct Publisher {
    format: EventFormat,
    next: Cell<u64>,
    kept: RefCell<VecDeque<(u64, Bytes)>>,
    kept_bytes: Cell<usize>,
    peers: RefCell<Vec<Rc<Peer>>>,
}

/// Who is connected.
#[derive(Debug, Default)]
struct Peer {
    topics: RefCell<Vec<Vec<u8>>>,
    /// To be written.
    waiting: RefCell<BytesMut>,
    news: Notify,
}

impl Publisher {
    pub(crate) fn new(format: EventFormat) -> Rc<Self> {
        Rc::new(Self {
            format,
            next: Cell::new(0),
            kept: RefCell::default(),
            kept_bytes: Cell::new(0),
            peers: RefCell::default(),
        })
    }

    /// Sends a batch to all who subscribed.
    pub(crate) fn publish(&self, events: Vec<CacheEvent>, since_1970: Duration) {
        let number = self.next.replace(self.next.get() + 1);
        let batch = EventBatch {
            timestamp_s: since_1970.as_secs_f64(),
            events,
            data_parallel_rank: Some(0),
            unknown: 0,
        };
        let payload = Bytes::from(batch.encode(self.format));
        let mut sent = Vec::with_capacity(payload.len() + 32);
        message(&mut sent, &[b"", &number.to_be_bytes(), &payload]);
        for peer in &*self.peers.borrow() {
            // The topic is empty, so only those who asked for everything want it.
            if peer.topics.borrow().iter().any(Vec::is_empty) {
                peer.offer(&sent);
            }
        }
        self.keep(number, payload);
    }

    fn keep(&self, number: u64, payload: Bytes) {
        let mut kept = self.kept.borrow_mut();
        let mut bytes = self.kept_bytes.get() + payload.len();
        kept.push_back((number, payload));
        while kept.len() > MOST_KEPT || bytes > MOST_KEPT_BYTES {
            let Some((_, oldest)) = kept.pop_front() else { break };
            bytes -= oldest.len();
        }
        self.kept_bytes.set(bytes);
    }

    /// Serves whoever connects, for ever.
    pub(crate) async fn accept(self: Rc<Self>, kind: SocketKind, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let publisher = self.clone();
                    tokio::task::spawn_local(async move {
                        if let Err(error) = publisher.serve(kind, stream).await {
                            tracing::debug!(%error, "a connection for cache events ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection for cache events could be accepted");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    async fn serve(&self, kind: SocketKind, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let peer = Rc::new(Peer::default());
        self.peers.borrow_mut().push(peer.clone());
        let result = self.converse(kind, &mut stream, &peer).await;
        self.peers.borrow_mut().retain(|other| !Rc::ptr_eq(other, &peer));
        result
    }

    async fn converse(&self, kind: SocketKind, stream: &mut TcpStream, peer: &Peer) -> io::Result<()> {
        let mut link = Link::new(kind, MOST_MESSAGE_BYTES);
        let mut input = BytesMut::with_capacity(MOST_MESSAGE_BYTES);
        let (mut reader, mut writer) = stream.split();
        loop {
            let mut output = Bytes::from(std::mem::take(link.output()));
            if output.is_empty() {
                output = peer.waiting.borrow_mut().split().freeze();
            }
            if output.has_remaining() {
                writer.write_all(&output).await?;
                continue;
            }
            tokio::select! {
                read = reader.read_buf(&mut input) => if read? == 0 {
                    return Ok(());
                },
                () = peer.news.notified() => {}
            }
            link.receive(&input);
            input.clear();
            while let Some(incoming) = link.poll().map_err(io::Error::other)? {
                match incoming {
                    Incoming::Ready => {}
                    Incoming::Subscribe(topic) => peer.topics.borrow_mut().push(topic),
                    Incoming::Cancel(topic) => peer.topics.borrow_mut().retain(|other| *other != topic),
                    Incoming::Message(frames) => self.replay(&frames, &mut link, peer),
                }
            }
        }
    }

    /// Answers a `REQ` or `DEALER` socket, which puts an empty frame before what it says.
    fn replay(&self, frames: &[Vec<u8>], link: &mut Link, peer: &Peer) {
        let start = match frames {
            [empty, start] if empty.is_empty() => <[u8; 8]>::try_from(start.as_slice()).ok(),
            _ => None,
        };
        let Some(start) = start.map(u64::from_be_bytes) else {
            tracing::warn!("a request to replay cache events that is none");
            return;
        };
        for (number, payload) in self.kept.borrow().iter().filter(|(number, _)| *number >= start) {
            link.send(&[b"", &number.to_be_bytes(), payload]);
        }
        link.send(&[b"", &END, b""]);
        peer.news.notify_one();
    }
}

impl Peer {
    fn offer(&self, message: &[u8]) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() + message.len() <= MOST_WAITING_BYTES {
            waiting.extend_from_slice(message);
            self.news.notify_one();
        }
    }
}
