//! What all threads of a gateway share: settings, replicas, counters. Everything here is read without locks.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use routing::RetryBudget;
use tokio::{sync::watch, time::timeout};

use crate::{
    ConfigError, Settings, decision_log::DecisionLog, fleet::Fleet, kv_events::Lessons, metrics::Metrics,
    security::Security,
};

/// How long the first clients wait for the first health check of every replica: without a word from any of them the
/// only answer would be a 503.
const FIRST_CHECKS: Duration = Duration::from_secs(1);

/// The common part of a gateway.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Those of the start.
    pub(crate) settings: Settings,
    /// What was taken over last, for what can change at run time.
    pub(crate) in_force: ArcSwap<Settings>,
    /// Told when those in force have changed.
    pub(crate) applied: watch::Sender<()>,
    pub(crate) fleet: Fleet,
    pub(crate) security: Security,
    pub(crate) metrics: Metrics,
    pub(crate) budget: Arc<RetryBudget>,
    pub(crate) lessons: Lessons,
    pub(crate) decision_log: Option<DecisionLog>,
    pub(crate) stage: watch::Sender<Stage>,
    /// Replicas of the start that were not checked yet.
    unchecked: watch::Sender<usize>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Stage {
    /// Serving.
    Running,
    /// Requests in progress may end; no new connections.
    Draining,
    /// Everything ends now.
    Ending,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(settings: Settings) -> Result<Self, ConfigError> {
        let fleet = Fleet::new(settings.policy.clone(), &settings.replicas)?;
        fleet.router.set_health(settings.health.clone())?;
        fleet.router.scatter(RandomState::new().hash_one(0));
        let unchecked = if settings.health.wait_for_check { settings.replicas.len() } else { 0 };
        Ok(Self {
            fleet,
            security: Security::new(&settings)?,
            metrics: Metrics::default(),
            budget: Arc::default(),
            lessons: Lessons::default(),
            decision_log: None,
            stage: watch::Sender::new(Stage::Running),
            unchecked: watch::Sender::new(unchecked),
            in_force: ArcSwap::from_pointee(settings.clone()),
            applied: watch::Sender::new(()),
            settings,
        })
    }

    /// Moves on to `stage`; never back.
    pub(crate) fn advance(&self, stage: Stage) {
        self.stage.send_if_modified(|current| {
            let later = *current < stage;
            *current = stage.max(*current);
            later
        });
    }

    /// A replica's first check is over.
    pub(crate) fn first_check_is_over(&self) {
        self.unchecked.send_modify(|unchecked| *unchecked = unchecked.saturating_sub(1));
    }

    /// Returns when every replica of the start was checked once, or after a second.
    pub(crate) async fn first_checks(&self) {
        let mut unchecked = self.unchecked.subscribe();
        // A replica that does not answer in time must not keep the others from serving.
        let _ = timeout(FIRST_CHECKS, unchecked.wait_for(|&unchecked| unchecked == 0)).await;
    }

    /// Whether requests should be sent here.
    pub(crate) fn is_ready(&self) -> bool {
        *self.stage.borrow() == Stage::Running && self.fleet.is_ready()
    }
}
