//! The guard that holds one request's share of a replica's load from the pick to the last byte.
//!
//! A lease is opened by a pick and gives everything back when it is dropped: after the last byte, when the
//! client leaves, when the upstream breaks, when a task panics. There is no other way to change a load, so a
//! counter cannot drift. [`Lease::settle`] drops it with an [`Outcome`], which the replica's health learns from;
//! a lease dropped without one counts as [`Outcome::Abandoned`].

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use crate::Replica;

/// Output length assumed where neither the request nor experience says more, in tokens.
pub(crate) const ASSUMED_OUTPUT_TOKENS: u32 = 128;

/// One request's share of a replica's load. Dropping it gives the load back.
#[derive(Debug)]
pub struct Lease {
    replica: Arc<Replica>,
    prompt_tokens: u64,
    /// Prompt tokens still waiting to be prefilled; zero after the first token.
    waiting_tokens: u64,
    /// Output tokens still expected.
    output_tokens: u64,
    waiting: bool,
    /// It probes an ejected replica, and must say when that is over.
    probe: bool,
}

/// How a request ended, as far as its replica is concerned.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// A complete answer, whatever the request asked for (4xx included: the replica works).
    Answered,
    /// 429: busy, not broken.
    Busy {
        /// The answer's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// 500, 502, 503, 504.
    ServerError,
    /// Nothing listens, or the connection attempt timed out.
    ConnectFailed,
    /// The connection broke before the end of the answer.
    Broken,
    /// No byte within a time limit.
    TimedOut,
    /// The client went away: says nothing about the replica.
    Abandoned,
}

impl Outcome {
    /// Metric label and JSON value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Busy { .. } => "busy",
            Self::ServerError => "server_error",
            Self::ConnectFailed => "connect_failed",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether it speaks for the replica; `None` where it says nothing.
    pub(crate) const fn good(self) -> Option<bool> {
        match self {
            Self::Answered => Some(true),
            Self::Abandoned => None,
            _ => Some(false),
        }
    }
}

impl Lease {
    /// Opens a lease on `replica`. `cached_tokens` is the part of the prompt that its cache is expected to hold.
    pub(crate) fn open(
        replica: Arc<Replica>,
        prompt_tokens: u32,
        cached_tokens: u32,
        output_tokens: Option<u32>,
        probe: bool,
    ) -> Self {
        let lease = Self {
            prompt_tokens: prompt_tokens.into(),
            waiting_tokens: prompt_tokens.saturating_sub(cached_tokens).into(),
            output_tokens: output_tokens.unwrap_or(ASSUMED_OUTPUT_TOKENS).into(),
            waiting: true,
            probe,
            replica,
        };
        let load = &lease.replica.load;
        load.requests.fetch_add(1, Relaxed);
        load.waiting.fetch_add(1, Relaxed);
        load.picked.fetch_add(1, Relaxed);
        load.prompt_tokens.fetch_add(lease.prompt_tokens, Relaxed);
        load.waiting_tokens.fetch_add(lease.waiting_tokens, Relaxed);
        load.output_tokens.fetch_add(lease.output_tokens, Relaxed);
        lease
    }

    /// The replica that serves the request.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// `tokens` more output tokens arrived at `now`. The first call ends the wait for the first token.
    pub fn produced(&mut self, tokens: u32, now: Duration) {
        let load = &self.replica.load;
        if self.waiting {
            self.waiting = false;
            load.waiting.fetch_sub(1, Relaxed);
            load.waiting_tokens.fetch_sub(std::mem::take(&mut self.waiting_tokens), Relaxed);
        }
        let done = u64::from(tokens).min(self.output_tokens);
        self.output_tokens -= done;
        load.output_tokens.fetch_sub(done, Relaxed);
        load.produced_at.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Ends the lease and tells the replica's health how.
    pub fn settle(self, outcome: Outcome, now: Duration) {
        self.replica.health.record_outcome(outcome, self.probe, now);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let load = &self.replica.load;
        load.requests.fetch_sub(1, Relaxed);
        load.prompt_tokens.fetch_sub(self.prompt_tokens, Relaxed);
        load.output_tokens.fetch_sub(self.output_tokens, Relaxed);
        if self.waiting {
            load.waiting.fetch_sub(1, Relaxed);
            load.waiting_tokens.fetch_sub(self.waiting_tokens, Relaxed);
        }
        if self.probe {
            self.replica.health.release_probe();
        }
    }
}
