//! What a pool has learned from its traffic: engine speeds, answer lengths, and who was sent which prompts.
//!
//! It belongs to the router and outlives changes of policy and replicas.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::{
    Coefficients, EngineReport, PolicySettings, Replica,
    arrivals::Arrivals,
    coefficients::{Learner, Number, Observation, Slowness},
    engine_caches::EngineCaches,
    outputs::Outputs,
    prefix_index::PrefixIndex,
};

#[derive(Debug)]
pub(crate) struct Experience {
    pub(crate) basis: ArcSwap<Basis>,
    pub(crate) learner: Learner,
    /// What all replicas' slowness has in common: it is the factors' to learn.
    common_slowness: Number,
    /// The second in which what replicas had of their own last faded.
    faded: AtomicU64,
    /// Share of known prompts that were not in the cache.
    pub(crate) missed: Number,
    /// Share of answers with which prompts that could, went on: half of them before any was seen.
    pub(crate) answers_found: Number,
    /// When an engine last reported a queue, in seconds.
    queue_seen: Number,
    pub(crate) arrivals: Arrivals,
    pub(crate) outputs: Outputs,
    pub(crate) index: PrefixIndex,
    /// What engines say about their caches.
    pub(crate) caches: EngineCaches,
    /// Prompt and output tokens of a request; 0 before the first.
    pub(crate) mean_tokens: Number,
    /// Seconds of work of a request; 0 before the first.
    pub(crate) mean_work: Number,
}

/// What the learned factors apply to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Basis {
    pub(crate) engine: Coefficients,
    pub(crate) learn: bool,
}

/// A replica without a token for so long is not compared with the others any more: what was found is getting old.
const QUIET: Duration = Duration::from_secs(60);
/// Its slowness is forgotten by so much a second, so that one that was slow once is tried again within minutes.
const FADE: f64 = 1.0 / 256.0;
/// Seconds that count at most where nobody was picked for long: a pool that rested knows its replicas still.
const MOST_FADED: u64 = 10;

/// A request moves the means by this share.
const SHARE_OF_A_REQUEST: f64 = 1.0 / 256.0;
/// And an answer, which clients either send back or do not, the share of those that are found.
const SHARE_OF_AN_ANSWER: f64 = 1.0 / 32.0;

impl Experience {
    pub(crate) fn new() -> Self {
        Self {
            basis: ArcSwap::from_pointee(Basis { engine: Coefficients::default(), learn: true }),
            learner: Learner::new(),
            common_slowness: Number::new(0.0),
            faded: AtomicU64::new(0),
            missed: Number::new(0.0),
            answers_found: Number::new(0.5),
            queue_seen: Number::new(f64::NEG_INFINITY),
            arrivals: Arrivals::new(),
            outputs: Outputs::new(),
            index: PrefixIndex::new(),
            caches: EngineCaches::new(),
            mean_tokens: Number::new(0.0),
            mean_work: Number::new(0.0),
        }
    }

    /// Takes over the engine numbers of a policy that has some.
    pub(crate) fn follow(&self, policy: &PolicySettings) {
        if let PolicySettings::PrefixAware(settings) = policy {
            let basis = Basis { engine: settings.engine, learn: settings.learn };
            if **self.basis.load() != basis {
                self.learner.reset();
                self.common_slowness.set(0.0);
                self.basis.store(basis.into());
            }
        }
    }

    /// What the replicas' slowness has in common, as a logarithm.
    pub(crate) fn shared_slowness(&self) -> f64 {
        Slowness::shared(self.common_slowness.get())
    }

    /// How long a replica's tokens take compared with the pool's.
    pub(crate) fn slowness(&self, own: &Slowness) -> f64 {
        own.beside(self.shared_slowness())
    }

    /// Learns a step's costs from an observation of a replica. Returns observed over predicted.
    pub(crate) fn learn(&self, observation: Observation, own: &Slowness) -> f64 {
        self.learner.learn(observation, self.slowness(own))
    }

    /// Learns a replica's slowness from what was observed over what was predicted, for so many tokens.
    pub(crate) fn compare(&self, own: &Slowness, ratio: f64, tokens: f64) {
        let (logarithm, share) = own.observe(ratio, tokens);
        self.common_slowness.approach(logarithm, share / 8.0);
    }

    /// Once a second: replicas that get nothing to do are not slower than others for ever.
    pub(crate) fn fade(&self, replicas: &[Arc<Replica>], now: Duration) {
        let (second, before) = (now.as_secs(), self.faded.load(Relaxed));
        if second <= before || self.faded.compare_exchange(before, second, Relaxed, Relaxed).is_err() {
            return;
        }
        let share = FADE * (second - before).min(MOST_FADED) as f64;
        for replica in replicas.iter().filter(|replica| replica.load.quiet_for(now) > QUIET) {
            replica.load.slowness.fade(self.shared_slowness(), share);
        }
    }

    /// A known prompt was missed, or not. Returns the share that are, as it was before; at least a little.
    pub(crate) fn judge(&self, missed: bool) -> f64 {
        let usual = self.missed.get();
        self.missed.approach(f64::from(u8::from(missed)), SHARE_OF_A_REQUEST);
        usual.clamp(0.02, 0.95)
    }

    /// Of an answer that may have been in a cache, such a share was.
    pub(crate) fn answer_found(&self, share: f64) {
        self.answers_found.approach(share.clamp(0.0, 1.0), SHARE_OF_AN_ANSWER);
    }

    /// An engine reported at `now`.
    pub(crate) fn reported(&self, report: EngineReport, now: Duration) {
        if report.has_queue() {
            self.queue_seen.set(now.as_secs_f64());
        }
    }

    /// Whether some engine may have a queue.
    pub(crate) fn has_queues(&self, now: Duration, stale_after: Duration) -> bool {
        now.as_secs_f64() <= self.queue_seen.get() + stale_after.as_secs_f64()
    }

    /// How many requests of the usual length an engine works on at a time.
    pub(crate) fn together(&self, engine: &Coefficients, cache_tokens: u64) -> f64 {
        let fitting = cache_tokens as f64 / self.mean_tokens.get().max(1.0);
        fitting.clamp(1.0, engine.max_sequences.into())
    }

    /// Takes a request into the means.
    pub(crate) fn requested(&self, tokens: f64, work: f64) {
        for (mean, value) in [(&self.mean_tokens, tokens), (&self.mean_work, work)] {
            let first = mean.get() == 0.0;
            mean.approach(value, if first { 1.0 } else { SHARE_OF_A_REQUEST });
        }
    }
}
