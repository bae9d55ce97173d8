//! Whether a failed attempt may be repeated elsewhere: the rule, and the budget.
//!
//! Nothing is repeated once a byte of the answer went to the client. Generations are not idempotent (RFC 9110,
//! 9.2.2): they are repeated only if nothing of the request can have reached the engine, unless the operator
//! chose otherwise. Every repetition goes to a replica that was not tried, and counts against a budget in
//! proportion to the requests under way, so that a fleet in trouble does not drown in retries.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::{Deserialize, Serialize};

use crate::{Outcome, SettingsError, settings::check};

/// How often, and what.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// Attempts after the first.
    pub retries: u32,
    /// Retries under way, as a share of all requests under way.
    pub budget_percent: u32,
    /// Retries under way that are always allowed.
    pub budget_floor: u64,
    /// Repeat what an engine may have seen, a POST too: after 429, 500, 502, 503, 504, a broken connection or silence.
    pub after_sending: bool,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { retries: 2, budget_percent: 20, budget_floor: 3, after_sending: false }
    }
}

impl RetrySettings {
    /// Refuses values that cannot be used.
    pub fn validate(&self) -> Result<(), SettingsError> {
        check(self.budget_percent <= 100, "budget_percent", self.budget_percent, "from 0 to 100")
    }
}

/// What is known about a failed attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// How it ended.
    pub outcome: Outcome,
    /// Retries that went before it.
    pub retries: u32,
    /// Bytes of the request were written to the replica.
    pub sent: bool,
    /// A byte of the answer went to the client.
    pub answering: bool,
    /// It changes nothing, however often it is sent: GET, HEAD, OPTIONS.
    pub safe: bool,
}

/// Why an attempt is not repeated; a metric label.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NoRetry {
    /// It did not fail, or the client went away.
    NotFailed,
    /// The client has part of the answer.
    Answering,
    /// The engine may have seen it.
    MayHaveRun,
    /// The last retry is used up.
    Limit,
}

impl NoRetry {
    /// Metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotFailed => "not_failed",
            Self::Answering => "answering",
            Self::MayHaveRun => "may_have_run",
            Self::Limit => "limit",
        }
    }
}

/// The rule, without the budget.
pub fn may_retry(attempt: &Attempt, settings: &RetrySettings) -> Result<(), NoRetry> {
    let safe = !attempt.sent || attempt.safe || settings.after_sending;
    match attempt.outcome {
        Outcome::Answered | Outcome::CutOff | Outcome::Abandoned => Err(NoRetry::NotFailed),
        _ if attempt.answering => Err(NoRetry::Answering),
        _ if attempt.retries >= settings.retries => Err(NoRetry::Limit),
        Outcome::ConnectFailed => Ok(()),
        _ if safe => Ok(()),
        _ => Err(NoRetry::MayHaveRun),
    }
}

/// Counts requests and retries under way.
#[derive(Debug, Default)]
pub struct RetryBudget {
    active: AtomicU64,
    retrying: AtomicU64,
}

/// A request under way. Dropping it ends it.
#[derive(Debug)]
pub struct ActiveRequest(Arc<RetryBudget>);

/// A retry under way. Dropping it gives its part of the budget back.
#[derive(Debug)]
pub struct Retry(Arc<RetryBudget>);

impl RetryBudget {
    /// Counts a request in, until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Relaxed);
        ActiveRequest(Arc::clone(self))
    }

    /// Takes one retry out of the budget; `None` when it is used up.
    pub fn retry(self: &Arc<Self>, settings: &RetrySettings) -> Option<Retry> {
        let share = self.active.load(Relaxed) * u64::from(settings.budget_percent) / 100;
        let limit = share.max(settings.budget_floor);
        self.retrying
            .try_update(Relaxed, Relaxed, |retrying| (retrying < limit).then_some(retrying + 1))
            .ok()
            .map(|_| Retry(Arc::clone(self)))
    }

    /// Requests under way.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    /// Retries under way.
    pub fn retrying(&self) -> u64 {
        self.retrying.load(Relaxed)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        self.0.retrying.fetch_sub(1, Relaxed);
    }
}
