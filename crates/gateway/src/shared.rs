//! What all threads of a gateway share: settings, replicas, counters. Everything here is read without locks.

use std::sync::Arc;

use routing::{RetryBudget, SettingsError};
use tokio::sync::watch;

use crate::{Settings, fleet::Fleet, kv_events::Lessons, metrics::Metrics};

/// The common part of a gateway.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) fleet: Fleet,
    pub(crate) metrics: Metrics,
    pub(crate) budget: Arc<RetryBudget>,
    pub(crate) lessons: Lessons,
    pub(crate) stage: watch::Sender<Stage>,
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
    pub(crate) fn new(settings: Settings) -> Result<Self, SettingsError> {
        let fleet = Fleet::new(settings.policy.clone(), &settings.replicas)?;
        fleet.router.set_health(settings.health.clone())?;
        Ok(Self {
            fleet,
            metrics: Metrics::default(),
            budget: Arc::default(),
            lessons: Lessons::default(),
            stage: watch::Sender::new(Stage::Running),
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

    /// Whether requests should be sent here.
    pub(crate) fn is_ready(&self) -> bool {
        *self.stage.borrow() == Stage::Running && self.fleet.is_ready()
    }
}
