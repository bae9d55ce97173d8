//! Idle connections to replicas, one pool per worker.
//!
//! Promise: the most recently used connection is taken first, so that surplus ones age and close; none is handed
//! out that has been idle for longer than the limit, which lies below the engines' own (uvicorn's is 5 s), or
//! that the replica has closed as far as this process knows. A race remains, and the caller's one re-send on a
//! fresh connection covers it.

use std::{
    cell::RefCell,
    collections::HashMap,
    time::{Duration, Instant},
};

use super::connection::Connection;

/// Idle connections kept for one replica.
const MOST_IDLE: usize = 1024;

/// The idle connections of one worker, by replica id.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<u64, Vec<Idle>>>,
    idle_limit: Duration,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

// === impl Pool ===

impl Pool {
    pub(crate) fn new(idle_limit: Duration) -> Self {
        Self { idle: RefCell::default(), idle_limit }
    }

    /// Takes the most recently used connection that is still good.
    pub(crate) fn take(&self, replica: u64, now: Instant) -> Option<Connection> {
        let mut pool = self.idle.borrow_mut();
        let stack = pool.get_mut(&replica)?;
        while let Some(Idle { mut connection, since }) = stack.pop() {
            if now.saturating_duration_since(since) >= self.idle_limit {
                stack.clear();
            } else if connection.is_quiet() {
                connection.reused = true;
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose last response has ended, unless bytes follow that nobody asked for.
    pub(crate) fn put(&self, replica: u64, connection: Connection, now: Instant) {
        if !connection.buffer.is_empty() {
            return;
        }
        let mut pool = self.idle.borrow_mut();
        let stack = pool.entry(replica).or_default();
        if stack.len() < MOST_IDLE {
            stack.push(Idle { connection, since: now });
        }
    }

    /// Closes what has been idle for too long, or belongs to a replica that is not `known` any more.
    pub(crate) fn sweep(&self, now: Instant, known: impl Fn(u64) -> bool) {
        self.idle.borrow_mut().retain(|&replica, stack| {
            stack.retain(|idle| now.saturating_duration_since(idle.since) < self.idle_limit);
            known(replica) && !stack.is_empty()
        });
    }

    /// Idle connections in all.
    pub(crate) fn len(&self) -> usize {
        self.idle.borrow().values().map(Vec::len).sum()
    }
}
