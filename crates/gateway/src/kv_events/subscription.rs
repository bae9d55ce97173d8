//! Follows one replica's events: connects again and again, in the order of their numbers, and knows what it missed.
//!
//! Every batch has a number. Where one is missing, the engine's replay socket is asked for it. After a new
//! connection the last batch is asked for again: if it comes back the same, the engine is the one it was, and
//! what was missed follows; if not, it has started again, with an empty cache. What cannot be had again makes the
//! replica's ledger worthless: it is cleared, and the router's history counts until events tell more. Without a replay
//! socket that is so after every break, and numbers count from the first one that comes.

use std::{rc::Rc, sync::Arc, time::Duration};

use protocol::{kv_events::EventBatch, zmtp::SocketKind};
use tokio::time::{sleep, timeout};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Room, Standing,
    socket::{Socket, SocketError},
};
use crate::{config::EventSource, fleet::Backend};

/// Pauses between attempts to connect: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two batches of a replay.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(5);
/// The number that ends a replay.
const END: u64 = u64::MAX;

/// One replica's events.
struct Subscription {
    room: Rc<Room>,
    backend: Arc<Backend>,
    last: Option<Last>,
}

/// The last batch that was taken over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Last {
    number: u64,
    /// Of its bytes.
    hash: u64,
}

/// A batch with its number.
struct Numbered {
    number: u64,
    payload: Vec<u8>,
}

/// Follows a replica's events until it leaves.
pub(super) async fn follow(room: Rc<Room>, backend: Arc<Backend>) {
    let Some(source) = backend.kv_events.clone() else { return };
    let mut subscription = Subscription { room, backend, last: None };
    let (mut pause, mut told) = (FIRST_PAUSE, false);
    while subscription.is_wanted() {
        let connected = subscription.connect(&source).await;
        let error = match connected {
            Ok(mut socket) => {
                tracing::info!(replica = %subscription.backend.authority, %source, "cache events are followed");
                (pause, told) = (FIRST_PAUSE, false);
                let error = subscription.listen(&mut socket, &source).await;
                subscription.backend.metrics.kv_events.set_connected(false);
                subscription.room.stand(&subscription.backend, Standing::Silent);
                error
            }
            Err(error) => error,
        };
        if !told && subscription.is_wanted() {
            let replica = &subscription.backend.authority;
            tracing::warn!(%replica, %source, %error, "no cache events; its history counts until they are back");
            told = true;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl Subscription {
    fn is_wanted(&self) -> bool {
        self.room.shared.fleet.backend(self.backend.id).is_some()
    }

    /// Subscribes, and catches up with what was missed.
    async fn connect(&mut self, source: &EventSource) -> Result<Socket, SocketError> {
        let mut socket = Socket::connect(&source.publisher, SocketKind::Sub).await?;
        socket.subscribe();
        let counters = &self.backend.metrics.kv_events;
        counters.connects.add(1);
        match (self.last, &source.replay) {
            (None, None) => {}
            (Some(_), None) => {
                self.lose("the connection broke, and there is no replay socket to ask");
                // It may have started again, and count from 0.
                self.last = None;
            }
            (last, Some(_)) => {
                let from = last.map_or(0, |last| last.number);
                let mut replay = Replay::start(source, from).await?;
                let first = replay.next().await?;
                match (last, first) {
                    (Some(last), Some(first)) if last == Last::of(&first) => {
                        self.room.stand(&self.backend, Standing::Known);
                    }
                    (Some(last), Some(first)) if first.number > last.number => {
                        self.lose("the engine does not keep what was missed any more");
                        self.take_replayed(&first);
                    }
                    (Some(_), _) => {
                        tracing::info!(replica = %self.backend.authority, "the engine has started again");
                        self.backend.metrics.kv_events.restarts.add(1);
                        self.last = None;
                        self.room.stand(&self.backend, Standing::Empty);
                        replay = Replay::start(source, 0).await?;
                    }
                    (None, Some(first)) => self.take_replayed(&first),
                    (None, None) => {}
                }
                while let Some(batch) = replay.next().await? {
                    self.take_replayed(&batch);
                }
            }
        }
        self.backend.metrics.kv_events.set_connected(true);
        Ok(socket)
    }

    /// Takes over what is published, until the connection breaks or the replica leaves.
    async fn listen(&mut self, socket: &mut Socket, source: &EventSource) -> SocketError {
        loop {
            // A replica may leave while nothing is published, and while much is.
            let message = timeout(LONGEST_PAUSE, socket.message()).await;
            if !self.is_wanted() {
                return SocketError::Closed;
            }
            let message = match message {
                Ok(Ok(message)) => message,
                Ok(Err(error)) => return error,
                Err(_) => continue,
            };
            // The number that ends a replay can be no batch's.
            let Some(batch) = Numbered::of(&message, 1).filter(|batch| batch.number != END) else {
                self.backend.metrics.kv_events.malformed.add(1);
                continue;
            };
            if let Some(last) = self.last
                && batch.number > last.number + 1
            {
                self.backend.metrics.kv_events.gaps.add(1);
                if let Err(error) = self.fill(source, last.number + 1, batch.number).await {
                    let why =
                        format!("batches {} to {} were missed: {error}", last.number + 1, batch.number - 1);
                    self.lose(&why);
                }
            }
            self.take(&batch);
        }
    }

    /// Asks for the batches from `start` on; those before `end` must come.
    async fn fill(&mut self, source: &EventSource, start: u64, end: u64) -> Result<(), FillError> {
        if source.replay.is_none() {
            return Err(FillError::NoSocket);
        }
        let mut replay = Replay::start(source, start).await?;
        let mut next = start;
        while let Some(batch) = replay.next().await? {
            if batch.number != next && next < end {
                return Err(FillError::NotKept);
            }
            next = batch.number + 1;
            self.take_replayed(&batch);
        }
        if next < end { Err(FillError::NotKept) } else { Ok(()) }
    }

    fn take_replayed(&mut self, batch: &Numbered) {
        self.backend.metrics.kv_events.replayed.add(1);
        self.take(batch);
    }

    /// Takes a batch over, unless it was before.
    fn take(&mut self, batch: &Numbered) {
        if self.last.is_some_and(|last| batch.number <= last.number) {
            return;
        }
        self.last = Some(Last::of(batch));
        match EventBatch::decode(&batch.payload) {
            Ok(events) => self.room.apply(&self.backend, events),
            Err(error) => {
                self.backend.metrics.kv_events.malformed.add(1);
                self.lose(&error.to_string());
            }
        }
    }

    /// What the ledger says may be wrong from now on.
    fn lose(&self, why: &str) {
        self.backend.metrics.kv_events.lost.add(1);
        tracing::warn!(replica = %self.backend.authority, why, "cache events were lost; its index is cleared");
        self.room.stand(&self.backend, Standing::Lost);
    }
}

/// Why a gap stays.
#[derive(Debug, thiserror::Error)]
enum FillError {
    #[error("there is no replay socket to ask")]
    NoSocket,
    #[error("the engine does not keep them any more")]
    NotKept,
    #[error("the replay socket failed: {0}")]
    Socket(#[from] SocketError),
}

impl Last {
    fn of(batch: &Numbered) -> Self {
        Self { number: batch.number, hash: xxh3_64(&batch.payload) }
    }
}

impl Numbered {
    /// Reads the number in frame `at` and the batch after it.
    fn of(message: &[Vec<u8>], at: usize) -> Option<Self> {
        let number = message.get(at)?.as_slice().try_into().ok().map(u64::from_be_bytes)?;
        Some(Self { number, payload: message.get(at + 1)?.clone() })
    }
}

/// Batches that were published before.
struct Replay {
    socket: Socket,
    over: bool,
}

impl Replay {
    /// Asks for the batches from `start` on.
    async fn start(source: &EventSource, start: u64) -> Result<Self, SocketError> {
        let address = source.replay.as_deref().unwrap_or_default();
        let mut socket = Socket::connect(address, SocketKind::Dealer).await?;
        socket.send(&[b"", &start.to_be_bytes()]);
        Ok(Self { socket, over: false })
    }

    /// The next one; none at the end.
    async fn next(&mut self) -> Result<Option<Numbered>, SocketError> {
        while !self.over {
            let message = timeout(REPLAY_TIMEOUT, self.socket.message()).await;
            let message = message.unwrap_or(Err(SocketError::TimedOut))?;
            // Some publishers answer with an empty frame in front, some without.
            let at = usize::from(message.first().is_some_and(Vec::is_empty));
            match Numbered::of(&message, at) {
                Some(Numbered { number: END, .. }) => self.over = true,
                Some(batch) => return Ok(Some(batch)),
                None => {}
            }
        }
        Ok(None)
    }
}
