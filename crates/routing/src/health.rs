//! Whether a replica gets requests: a state machine fed by active checks and by the outcomes of requests.
//!
//! Checks decide between healthy and unhealthy, with hysteresis; an unhealthy replica gets nothing, whatever
//! else is left. Outcomes decide on ejection, which is only advice: a replica is ejected after so many failures
//! in a row, or when too small a share of its recent requests succeeds, for a time that doubles with each
//! ejection. When the time is over one request is let through as a probe; the beginning of its answer readmits
//! the replica, and its failure ejects it for longer. Where every candidate is ejected, ejections are ignored, so
//! a single replica is never cut off by them. An ejection ends by its probe, never by a passed check: an engine
//! can answer `/health` while everything else fails.
//!
//! A busy replica (429) is not broken: it counts against the share of successes only, and is avoided until its
//! `Retry-After`. A client that goes away before its answer says nothing, one that goes in the middle of a good answer
//! that the replica works. A check that ran into its time limit while the replica
//! delivers tokens says nothing either: engines starve `/health` while they prefill. Whoever checks leaves such
//! a result out.
//!
//! A replica that joins a running pool or recovers starts with a tenth of its weight, since its cache is empty. Where
//! checks are waited for it is used before its first one is over only if there is nobody else, as when all replicas get
//! new names at once.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU8, AtomicU64,
            Ordering::{Relaxed, Release},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::{HealthSettings, Outcome};

/// A state as operators see it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Passed no check yet, and did not fail enough of them.
    Unknown,
    /// In service.
    Healthy,
    /// Its checks fail.
    Unhealthy,
    /// Its requests fail; avoided for a time.
    Ejected,
    /// The time is over; one request at a time is let through to see.
    Probing,
    /// It said 429; avoided for a time.
    Busy,
    /// Finishes what it has and gets nothing new.
    Draining,
}

impl HealthState {
    /// All of them, for the metric's label set.
    pub const ALL: [Self; 7] = [
        Self::Unknown,
        Self::Healthy,
        Self::Unhealthy,
        Self::Ejected,
        Self::Probing,
        Self::Busy,
        Self::Draining,
    ];

    /// Metric label and JSON value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Probing => "probing",
            Self::Busy => "busy",
            Self::Draining => "draining",
        }
    }
}

/// What a pick may do with a replica.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Availability {
    Ready,
    /// For one request, which must [`claim`](Health::claim) it.
    Probe,
    /// Only if there is nothing else.
    Avoid,
    /// Only if there is not even that: it has joined, and its first check is not over.
    Untried,
    Never,
}

/// What the replicas of a router share.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) settings: ArcSwap<HealthSettings>,
    /// Of the balancer, so that several do not probe what they all ejected at the same moment.
    pub(crate) scatter: AtomicU64,
    /// How often a replica stopped being [`ordinary`](Health::is_ordinary), or may have.
    pub(crate) disturbances: AtomicU64,
}

impl Rules {
    pub(crate) fn change(&self, settings: HealthSettings) {
        self.settings.store(Arc::new(settings));
        self.disturb();
    }

    /// After the change that it announces.
    fn disturb(&self) {
        self.disturbances.fetch_add(1, Release);
    }
}

/// The health of one replica. Picks read it without locks.
#[derive(Debug)]
#[repr(C, align(64))] // What a pick reads is in one cache line.
pub struct Health {
    checked: AtomicU8,
    /// It joined a running pool.
    joined: bool,
    draining: AtomicBool,
    probing: AtomicBool,
    /// End of the ejection in nanoseconds; 0 when not ejected. Stays until a probe readmits the replica.
    ejected_until: AtomicU64,
    busy_until: AtomicU64,
    /// Start of the slow start in nanoseconds, or [`FULL`] or [`AT_FIRST_USE`].
    ramp_from: AtomicU64,
    /// Hash of the replica's name.
    name: u64,
    rules: Arc<Rules>,
    history: Mutex<History>,
}

const UNCHECKED: u8 = 0;
const PASSING: u8 = 1;
const FAILING: u8 = 2;
/// It never passed a check, and failed fewer than make it unhealthy.
const DOUBTED: u8 = 3;

const FULL: u64 = u64::MAX;
const AT_FIRST_USE: u64 = u64::MAX - 1;
const LATEST: u64 = u64::MAX - 2;

/// Share of the weight that a slow start begins with.
const RAMP_FLOOR: f64 = 0.1;

#[derive(Debug, Default)]
struct History {
    passed_ever: bool,
    passed_in_row: u32,
    failed_in_row: u32,
    failures_in_row: u32,
    window: Window,
    ejections: u32,
    readmitted_at: Duration,
}

/// Results of the last so many seconds, in ten exact parts.
#[derive(Debug, Default)]
struct Window {
    parts: [(u32, u32); 10],
    newest: u64,
    length: Duration,
}

impl Window {
    fn add(&mut self, good: bool, now: Duration, length: Duration) {
        if self.length != length {
            *self = Self { length, ..Self::default() };
        }
        let part = u64::try_from(now.as_nanos() / (length.as_nanos() / 10).max(1)).unwrap_or(u64::MAX);
        for stale in self.newest.saturating_add(1)..=part.min(self.newest.saturating_add(10)) {
            self.parts[(stale % 10) as usize] = (0, 0);
        }
        if part > self.newest.saturating_add(10) {
            self.parts = Default::default();
        }
        self.newest = self.newest.max(part);
        let (results, successes) = &mut self.parts[(self.newest % 10) as usize];
        *results += 1;
        *successes += u32::from(good);
    }

    /// Results and successes.
    fn sums(&self) -> (u64, u64) {
        self.parts.iter().fold((0, 0), |sum, part| (sum.0 + u64::from(part.0), sum.1 + u64::from(part.1)))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(LATEST).min(LATEST)
}

impl Health {
    pub(crate) fn new(name: &str, rules: Arc<Rules>, joins_late: bool) -> Self {
        Self {
            name: xxh3_64(name.as_bytes()),
            rules,
            checked: AtomicU8::new(UNCHECKED),
            joined: joins_late,
            draining: AtomicBool::new(false),
            probing: AtomicBool::new(false),
            ejected_until: AtomicU64::new(0),
            busy_until: AtomicU64::new(0),
            ramp_from: AtomicU64::new(if joins_late { AT_FIRST_USE } else { FULL }),
            history: Mutex::default(),
        }
    }

    /// Records the result of an active check.
    pub fn record_check(&self, passed: bool, now: Duration) {
        let settings = self.rules.settings.load();
        let mut history = self.history.lock();
        if passed {
            history.failed_in_row = 0;
            history.passed_in_row = history.passed_in_row.saturating_add(1);
            let needed = if history.passed_ever { settings.rise } else { 1 };
            let before = self.checked.load(Relaxed);
            if before != PASSING && history.passed_in_row >= needed {
                if before == FAILING {
                    self.ramp_from.store(nanoseconds(now), Relaxed);
                    self.rules.disturb();
                }
                history.passed_ever = true;
                self.checked.store(PASSING, Relaxed);
            }
        } else {
            history.passed_in_row = 0;
            history.failed_in_row = history.failed_in_row.saturating_add(1);
            if history.failed_in_row >= settings.fall {
                self.checked.store(FAILING, Relaxed);
                self.rules.disturb();
            } else if self.checked.load(Relaxed) == UNCHECKED {
                self.checked.store(DOUBTED, Relaxed);
            }
        }
    }

    /// Whether the next check is worth an early look: the last results and the state disagree.
    pub fn in_transition(&self) -> bool {
        let history = self.history.lock();
        match self.checked.load(Relaxed) {
            PASSING => history.failed_in_row > 0,
            FAILING => history.passed_in_row > 0,
            _ => true,
        }
    }

    /// Records how a request ended. `probe` says that it was let through to probe an ejected replica.
    pub(crate) fn record_outcome(&self, outcome: Outcome, probe: bool, now: Duration) {
        let settings = self.rules.settings.load();
        if let Outcome::Busy { retry_after } = outcome {
            let wait = retry_after.unwrap_or(Duration::from_secs(1)).min(settings.busy_cap);
            self.busy_until.fetch_max(nanoseconds(now.saturating_add(wait)), Relaxed);
            self.rules.disturb();
        }
        let Some(good) = outcome.good() else { return };
        let mut history = self.history.lock();
        if self.ejected_until.load(Relaxed) != 0 {
            // What was under way before the ejection says nothing new.
            if probe {
                if good || matches!(outcome, Outcome::Busy { .. }) {
                    self.readmit(&mut history, now);
                } else {
                    self.eject(&mut history, &settings, now);
                }
            }
            return;
        }
        history.window.add(good, now, settings.window);
        match outcome {
            _ if good => history.failures_in_row = 0,
            Outcome::Busy { .. } => {}
            _ => history.failures_in_row = history.failures_in_row.saturating_add(1),
        }
        let (results, successes) = history.window.sums();
        let too_few = results >= u64::from(settings.minimum_results)
            && successes * 100 < results * u64::from(settings.success_percent);
        if too_few || history.failures_in_row >= settings.consecutive_failures {
            self.eject(&mut history, &settings, now);
        }
    }

    fn eject(&self, history: &mut History, settings: &HealthSettings, now: Duration) {
        let did_well = now.saturating_sub(history.readmitted_at) >= settings.ejection_cap;
        if did_well && self.ejected_until.load(Relaxed) == 0 {
            history.ejections = 0;
        }
        let doubled = settings.ejection.saturating_mul(1 << history.ejections.min(30));
        let length = doubled.min(settings.ejection_cap);
        // Equal jitter, the same for the same balancer, replica and count, so that a run can be repeated.
        let seed = self.name ^ self.rules.scatter.load(Relaxed);
        let share = (xxh3_64_with_seed(&history.ejections.to_le_bytes(), seed) >> 40) as f64;
        let length = length / 2 + (length / 2).mul_f64(share / f64::from(1 << 24));
        history.ejections = history.ejections.saturating_add(1);
        history.failures_in_row = 0;
        history.window = Window::default();
        self.ejected_until.store(nanoseconds(now.saturating_add(length)).max(1), Relaxed);
        self.rules.disturb();
    }

    fn readmit(&self, history: &mut History, now: Duration) {
        history.readmitted_at = now;
        self.ramp_from.store(nanoseconds(now), Relaxed);
        self.ejected_until.store(0, Relaxed);
        self.rules.disturb();
    }

    /// Stops or resumes new requests. What is open goes on.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Relaxed);
        self.rules.disturb();
    }

    /// The state for people and metrics.
    pub fn state(&self, now: Duration) -> HealthState {
        let now = nanoseconds(now);
        let ejected_until = self.ejected_until.load(Relaxed);
        match self.checked.load(Relaxed) {
            _ if self.draining.load(Relaxed) => HealthState::Draining,
            FAILING => HealthState::Unhealthy,
            _ if ejected_until > now => HealthState::Ejected,
            _ if ejected_until != 0 => HealthState::Probing,
            _ if self.busy_until.load(Relaxed) > now => HealthState::Busy,
            PASSING => HealthState::Healthy,
            _ => HealthState::Unknown,
        }
    }

    /// Whether the replica gets requests while others do too.
    pub fn eligible(&self, now: Duration) -> bool {
        matches!(
            self.availability(now, &self.rules.settings.load()),
            Availability::Ready | Availability::Probe
        )
    }

    /// Whether the replica gets requests if no other can, since its first check is not over.
    pub fn is_untried(&self, now: Duration) -> bool {
        self.availability(now, &self.rules.settings.load()) == Availability::Untried
    }

    /// Whether the replica gets requests where no other can.
    pub fn available(&self, now: Duration) -> bool {
        self.availability(now, &self.rules.settings.load()) != Availability::Never
    }

    /// It is ready, with its full weight, and no time that passes will change that: only a disturbance can.
    pub(crate) fn is_ordinary(&self, now: Duration, settings: &HealthSettings) -> bool {
        self.availability(now, settings) == Availability::Ready && self.ramp_from.load(Relaxed) == FULL
    }

    pub(crate) fn availability(&self, now: Duration, settings: &HealthSettings) -> Availability {
        let checked = self.checked.load(Relaxed);
        match self.state(now) {
            HealthState::Draining | HealthState::Unhealthy => Availability::Never,
            _ if settings.wait_for_check && checked == UNCHECKED && self.joined => Availability::Untried,
            _ if settings.wait_for_check && matches!(checked, UNCHECKED | DOUBTED) => Availability::Never,
            HealthState::Ejected | HealthState::Busy => Availability::Avoid,
            HealthState::Probing if self.probing.load(Relaxed) => Availability::Avoid,
            HealthState::Probing => Availability::Probe,
            HealthState::Healthy | HealthState::Unknown => Availability::Ready,
        }
    }

    /// Takes the probe; of several picks at once one succeeds.
    pub(crate) fn claim(&self) -> bool {
        !self.probing.swap(true, Relaxed)
    }

    pub(crate) fn release_probe(&self) {
        self.probing.store(false, Relaxed);
    }

    /// Share of the weight that counts now.
    pub(crate) fn ramp(&self, now: Duration, window: Duration) -> f64 {
        let from = self.ramp_from.load(Relaxed);
        if from == FULL || window.is_zero() {
            return 1.0;
        }
        let now = nanoseconds(now);
        if from == AT_FIRST_USE {
            self.ramp_from.store(now, Relaxed);
            return RAMP_FLOOR;
        }
        let share = now.saturating_sub(from) as f64 / window.as_nanos() as f64;
        if share >= 1.0 {
            // Only if nothing restarted the slow start in the meantime.
            let _ = self.ramp_from.compare_exchange(from, FULL, Relaxed, Relaxed);
        }
        share.clamp(RAMP_FLOOR, 1.0)
    }
}
