//! Which target a request goes to.
//!
//! A session gets its target when its first turn is issued, so that a choice can depend on the load of that
//! moment; its later turns stay there. The chooser is asked for every turn all the same, because it may hold
//! something open for each request (a routing lease), which it returns as a [`Guard`].

use std::{fmt, time::Duration};

use protocol::Usage;
use report::Outcome;
use workload::Request;

/// What a choice may depend on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Features<'a> {
    /// Since the start of the run.
    pub now: Duration,
    /// How many targets there are to choose from.
    pub targets: u16,
    /// Position of the session in the plan, over all phases.
    pub position: u64,
    /// The session's name in the plan.
    pub session: u64,
    /// Turn within the session, from 0.
    pub turn: u32,
    /// The target is settled, by the plan or by an earlier turn; the choice must be the same.
    pub pinned: Option<u16>,
    /// The request.
    pub request: &'a Request,
    /// What [`UrlChooser::prepare`] made of the request.
    pub key: &'a RouteKey,
}

/// What a choice may read off a request's text, computed before the request is due.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RouteKey {
    /// Names the beginning of the prompt.
    pub prefix: Option<u64>,
    /// Chained hashes of the full prompt blocks.
    pub blocks: Vec<u64>,
    /// Prompt length.
    pub prompt_tokens: u32,
}

/// A chosen target.
pub struct Choice {
    /// Index into the run's targets.
    pub target: u16,
    /// Told of the request's progress, and dropped at its end.
    pub guard: Option<Box<dyn Guard>>,
}

/// Held while a request is under way; dropping it ends the request for the chooser.
pub trait Guard: Send {
    /// `tokens` more output tokens have arrived.
    fn produced(&mut self, tokens: u32, now: Duration);

    /// The answer said how many tokens it took. Called before [`ended`](Self::ended), if at all.
    fn usage(&mut self, _usage: Usage) {}

    /// The request is over.
    fn ended(self: Box<Self>, outcome: &Outcome, now: Duration);
}

/// Chooses targets.
pub trait UrlChooser: Send + Sync {
    /// Reads what [`choose`](Self::choose) needs off a request. Called ahead of time, away from the threads that
    /// send, so it may take its time.
    fn prepare(&self, _request: &Request, _body: &[u8]) -> RouteKey {
        RouteKey::default()
    }

    /// The target for a request. Called by the threads that send: it must be quick and must not block. An index
    /// that no target has counts modulo their number.
    fn choose(&self, features: &Features<'_>) -> Choice;
}

/// Session after session to the next target, in the order of the plan.
///
/// It keeps no count of its own: the target follows from the session's position, and is therefore the same for
/// any number of threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobin;

impl UrlChooser for RoundRobin {
    fn choose(&self, features: &Features<'_>) -> Choice {
        let next = || (features.position % u64::from(features.targets.max(1))) as u16;
        Choice { target: features.pinned.unwrap_or_else(next), guard: None }
    }
}

impl fmt::Debug for Choice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Choice").field("target", &self.target).finish_non_exhaustive()
    }
}
