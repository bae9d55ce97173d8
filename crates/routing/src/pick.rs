//! The decision: a replica, the reason, and on request everything that was weighed.

use std::sync::Arc;

use serde::Serialize;

use crate::{Cost, HealthState, Lease, LoadSnapshot, PolicyName};

/// A replica was found.
#[derive(Debug)]
pub struct Pick {
    /// Its load, held until dropped.
    pub lease: Lease,
    /// Why this one.
    pub reason: PickReason,
    /// What the policy compared; the lowest won. Requests or tokens per weight, seconds for `prefix_aware`, or 0
    /// where nothing is compared.
    pub score: f64,
    /// Prompt tokens that the replica's cache is expected to hold, where the policy knows.
    pub cached_tokens: Option<u32>,
}

/// Why a replica was picked; the label of the metric of picks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PickReason {
    /// It was its turn.
    Turn,
    /// Drawn at random.
    Random,
    /// Least load.
    LeastLoad,
    /// Least cost, with more of the prompt in its cache than others have.
    Prefix,
    /// Least cost, with no more of the prompt in its cache than all have.
    LeastCost,
    /// The home of the key.
    Home,
    /// The home of the key has no room, or no replica has.
    Overflow,
    /// The home of the key cannot serve the request now.
    HomeAway,
    /// KubeAI's rule found no room anywhere, and takes the home all the same.
    Default,
    /// The request has no key: least load.
    NoKey,
    /// No other replica could serve it.
    OnlyCandidate,
    /// Every candidate is ejected or busy, or has just joined and was not checked; the policy chose among them.
    Fallback,
}

impl PickReason {
    /// All of them, for the metric's label set.
    pub const ALL: [Self; 12] = [
        Self::Turn,
        Self::Random,
        Self::LeastLoad,
        Self::Prefix,
        Self::LeastCost,
        Self::Home,
        Self::Overflow,
        Self::HomeAway,
        Self::Default,
        Self::NoKey,
        Self::OnlyCandidate,
        Self::Fallback,
    ];

    /// Metric label and JSON value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Random => "random",
            Self::LeastLoad => "least_load",
            Self::Prefix => "prefix",
            Self::LeastCost => "least_cost",
            Self::Home => "home",
            Self::Overflow => "overflow",
            Self::HomeAway => "home_away",
            Self::Default => "default",
            Self::NoKey => "no_key",
            Self::OnlyCandidate => "only_candidate",
            Self::Fallback => "fallback",
        }
    }
}

/// No replica can serve the request now.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum NoReplica {
    /// The pool is empty.
    #[error("the pool has no replica")]
    Empty,
    /// All are unhealthy, draining, or not checked yet.
    #[error("no replica is healthy")]
    NoneHealthy,
    /// None has the adapter.
    #[error("no replica serves the adapter")]
    NoAdapter,
    /// All that could serve it were tried.
    #[error("every replica that could serve the request was tried")]
    AllTried,
}

impl NoReplica {
    /// Metric label and error code.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Empty => "no_replica",
            Self::NoneHealthy => "none_healthy",
            Self::NoAdapter => "no_adapter",
            Self::AllTried => "all_tried",
        }
    }
}

/// A decision laid open. Nothing was picked for it.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The policy in force.
    pub policy: PolicyName,
    /// Every replica of the pool, in its order.
    pub candidates: Vec<Considered>,
    /// The name of the replica that a pick would have taken; random parts may fall differently next time.
    pub chosen: Option<Arc<str>>,
    /// Why that one, or why none.
    pub reason: &'static str,
}

/// One replica in an [`Explanation`].
#[derive(Clone, Debug, Serialize)]
pub struct Considered {
    /// Its name.
    pub name: Arc<str>,
    /// Why it was no candidate.
    pub excluded: Option<Exclusion>,
    /// What `prefix_aware` weighed.
    pub cost: Option<Cost>,
    /// Its weight, slow start included.
    pub weight: f64,
    /// Its health.
    pub health: HealthState,
    /// Its load.
    pub load: LoadSnapshot,
}

/// Why a replica was no candidate.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// The request failed there before.
    Tried,
    /// It does not have the adapter.
    NoAdapter,
    /// Unhealthy, draining, or not checked yet.
    NotHealthy,
    /// Ejected or busy, and others are not.
    Avoided,
}
