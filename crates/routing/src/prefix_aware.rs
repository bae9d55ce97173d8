//! `prefix_aware`: the replica where a request costs least, in seconds, for itself and for everyone beside it.
//!
//! Affinity and load are one sum. There is no mode that drops affinity when load is uneven, since that is when
//! it is needed. For a request of `L` prompt tokens and `o` expected output tokens, and for each replica:
//!
//! ```text
//! n  requests in flight       q  those without a first token     Q  their uncached prompt tokens
//! x  more requests that each replica is about to have, from how fast they come and how many are usual
//! K  sum of (L + o), each times the share of its output that is left
//! S  outstanding work in seconds: d u until the first token, and left x (b + c L + w / B), summed
//! m  tokens of the prompt that the history says the replica holds; u = L - m
//!
//! cost = d [ u (1 + 1.7 (n + x)) + 1.2 Q ]        its prefill delays itself and all who run; prefills ahead
//!      + 2.5 o (b n + c K) (1 - q / n)            sequences that run slow one another down
//!      + 3 S q / n                                what waits ahead, as far as requests there are seen to wait
//!      - home 0.3 d (L - m_all) (1 + 1.7 (n + x)) if the replica is the home of the unknown part
//! ```
//!
//! The whole is multiplied by the replica's slowness and divided by its weight relative to the mean. The lowest
//! cost wins; ties go to the least outstanding work, then to chance. `d`, `b`, `c` and `w` are the engine's
//! [`Coefficients`], in seconds, learned while it runs; `B` is the number of requests that its cache holds at a
//! time. The weights (no unit) are settings; their defaults were found by search in a simulator, on workloads
//! with and without shared preambles, sessions and overload. The term that matters most is `1.7 n`: without it
//! affinity is lost. `x` is almost always 0: it keeps prompts where they are known
//! when load comes back to an empty fleet. `q / n`, the share that is *seen* to wait, needs no model of the engine's capacity.
//!
//! - **History**, not the engine's cache: what was sent to a replica counts as held, for twice its cache. An
//!   exact view forgets where a conversation lived as soon as it is evicted, and scatters it.
//! - **Events**: where an engine says what its cache holds, that counts, and the history where it says nothing.
//! - **Common prefixes**: a block that is followed by as many different blocks as there are replicas counts as
//!   held by all; `m_all` is what all hold. A preamble that everyone shares attracts nobody to where it was
//!   seen first.
//! - **Home**: if no replica knows more than a fifth of what is not held by all, the replica that the first
//!   block after `m_all` hashes to is worth 0.3 of the prefill. With no load at all, new prefixes spread over
//!   all replicas this way. With `N` balancers, each of which sees one `N`-th of the history, homes are where
//!   they agree, so they are worth `1 - 0.7 / N^2`, up to a known share of `1 - 0.8 / N^2`.
//! - **Several balancers** each see a sample of the load, and much of the difference between replicas is chance: of
//!   a mean of `n` own requests, a variance of `n (1 - 1/N)`. Loads are drawn towards even ones by the share that
//!   chance has, beside a real unevenness of `0.8 n`. One balancer sees everything and believes it.
//!
//! Bound, a safety net that hardly ever acts: a replica is allowed while `S <= 1.5 share (S_all + S_new) + 16
//! mean requests' work` and `n <= 3 share (n_all + 1) + 16`, `share` being its part of the pool's speed. If none
//! is allowed the least `S` wins. A tight bound was seen to destroy affinity.

use std::time::Duration;

use rand::Rng;
use serde::Serialize;

use crate::{
    Coefficients, PickReason, PrefixAwareSettings, Query,
    candidates::{Candidate, Candidates, Choice},
    experience::Experience,
    ring::{best_suited, unit},
};

/// What a request would cost on one replica, in seconds unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Prompt tokens that its cache is expected to hold.
    pub cached_tokens: u32,
    /// The prefill of the rest, for the request and for those it delays.
    pub prefill_s: f64,
    /// Prefills ahead of it.
    pub queue_s: f64,
    /// Slower tokens, for the request and beside it.
    pub decode_s: f64,
    /// Work ahead of it.
    pub wait_s: f64,
    /// Taken off for the home of its prefix.
    pub home_s: f64,
    /// The sum, for the replica's speed and weight. The lowest wins.
    pub total_s: f64,
    /// Work that the replica has.
    pub outstanding_s: f64,
    /// It is within the bounds.
    pub allowed: bool,
}

/// What a policy run needs besides the candidates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighing<'a> {
    pub(crate) settings: &'a PrefixAwareSettings,
    pub(crate) experience: &'a Experience,
    pub(crate) query: &'a Query<'a>,
    /// Replicas in the pool.
    pub(crate) replicas: usize,
    /// One more than the highest slot in use.
    pub(crate) slots: usize,
    pub(crate) now: Duration,
}

/// One candidate's loads, read once.
#[derive(Clone, Copy, Debug)]
struct View {
    requests: f64,
    /// `q / n`.
    waiting_share: f64,
    waiting_tokens: f64,
    context_tokens: f64,
    outstanding_s: f64,
    cached: u32,
    /// How much longer it takes than the mean, by speed and weight.
    burden: f64,
    /// That part of it which outstanding work does not contain.
    by_weight: f64,
    /// `1 / burden`.
    speed: f64,
    /// Within the bounds.
    allowed: bool,
}

/// How uneven loads are, as a share of the mean, where that is no chance.
const UNEVEN: f64 = 0.8;

/// Sums over the views, and their speeds.
#[derive(Clone, Copy, Debug)]
struct Totals {
    speed: f64,
    requests: f64,
    waiting_share: f64,
    waiting_tokens: f64,
    context_tokens: f64,
    outstanding_s: f64,
}

impl Totals {
    fn of(views: &[View]) -> Self {
        let sum = |value: fn(&View) -> f64| views.iter().map(value).sum::<f64>();
        let requests = sum(|view| view.requests);
        Self {
            speed: sum(|view| view.speed),
            requests,
            waiting_share: sum(|view| view.waiting_share * view.requests) / requests.max(1.0),
            waiting_tokens: sum(|view| view.waiting_tokens),
            context_tokens: sum(|view| view.context_tokens),
            outstanding_s: sum(|view| view.outstanding_s),
        }
    }
}

impl View {
    /// Keeps the share `trust` of its differences from an even load.
    fn approach(&mut self, all: &Totals, trust: f64) {
        let share = self.speed / all.speed;
        let draw = |value: &mut f64, even: f64| *value = even + (*value - even) * trust;
        draw(&mut self.requests, all.requests * share);
        draw(&mut self.waiting_share, all.waiting_share);
        draw(&mut self.waiting_tokens, all.waiting_tokens * share);
        draw(&mut self.context_tokens, all.context_tokens * share);
        draw(&mut self.outstanding_s, all.outstanding_s * share);
    }
}

/// Work of a request in seconds, on a replica of the pool's speed.
pub(crate) fn work(engine: &Coefficients, prompt: u32, uncached: u32, output: u32, together: f64) -> f64 {
    engine.prefill_token_s * f64::from(uncached)
        + f64::from(output) * engine.output_token_s(prompt.into(), together)
}

impl Weighing<'_> {
    /// Chooses a candidate; `take` says that the request will go there. `see` gets the cost of each.
    pub(crate) fn choose(
        &self,
        candidates: &Candidates<'_>,
        random: &mut dyn Rng,
        take: bool,
        mut see: impl FnMut(usize, Cost),
    ) -> Choice {
        let Self { settings, experience, query, .. } = *self;
        let engine = experience.engine();
        let prompt = query.prompt_tokens;
        let output = experience.outputs.left(query.expected(&experience.outputs), 0);
        let mut views = self.views(candidates);
        let (mut held_by_all, mut best) = (u32::MAX, 0);
        let (mut speed, mut requests, mut outstanding_s) = (0.0, 0.0, 0.0);
        for view in &views {
            (held_by_all, best) = (held_by_all.min(view.cached), best.max(view.cached));
            speed += view.speed;
            requests += view.requests;
            outstanding_s += view.outstanding_s;
        }
        let together = experience.together(&engine, engine.cache_tokens);
        let all_work = outstanding_s + work(&engine, prompt, prompt - held_by_all, output, together);
        let slack = settings.work_slack * experience.mean_work.get();
        let most_work = settings.work_factor * all_work / speed;
        let most_requests = settings.request_factor * (requests + 1.0) / speed;
        let mut any_allowed = false;
        for view in &mut views {
            view.allowed = view.outstanding_s <= most_work * view.speed + slack
                && view.requests <= most_requests * view.speed + settings.request_slack;
            any_allowed |= view.allowed;
        }

        let unknown = f64::from(prompt - held_by_all);
        let home = self.home(held_by_all, f64::from(best - held_by_all) / unknown.max(1.0)).and_then(|key| {
            let all = candidates.list.iter().zip(&views).enumerate();
            let fitting = all.filter(|(_, (_, view))| view.allowed);
            best_suited(key, fitting.map(|(at, (candidate, _))| (at, &**candidate.replica, candidate.weight)))
        });
        let home_weight = settings.home_weight.unwrap_or(1.0 - 0.7 * self.unseen());

        let mean_requests = requests / views.len() as f64;
        if take {
            experience.arrivals.arrived(mean_requests, self.now);
        }
        let coming = experience.arrivals.coming(mean_requests, views.len(), self.now);
        let mut lowest = (f64::INFINITY, f64::INFINITY);
        let (mut index, mut ties) = (0, 0.0);
        let decode = settings.decode_weight * f64::from(output);
        let queue = engine.prefill_token_s * settings.queue_weight;
        for (at, view) in views.iter().enumerate() {
            let delayed = 1.0 + settings.interference * (view.requests + coming);
            let beside = engine.sequence_s * view.requests + engine.context_token_s * view.context_tokens;
            let mut cost = Cost {
                cached_tokens: view.cached,
                prefill_s: engine.prefill_token_s * f64::from(prompt - view.cached) * delayed,
                queue_s: queue * view.waiting_tokens,
                decode_s: decode * beside * (1.0 - view.waiting_share),
                wait_s: settings.wait_weight * view.outstanding_s * view.by_weight * view.waiting_share,
                home_s: 0.0,
                total_s: 0.0,
                outstanding_s: view.outstanding_s,
                allowed: view.allowed,
            };
            if home == Some(at) {
                cost.home_s = home_weight * engine.prefill_token_s * unknown * delayed;
            }
            let paid = cost.prefill_s + cost.queue_s + cost.decode_s - cost.home_s;
            cost.total_s = paid * view.burden + cost.wait_s;
            see(at, cost);
            let key = match any_allowed {
                true if !cost.allowed => continue,
                true => (cost.total_s, cost.outstanding_s),
                false => (cost.outstanding_s, 0.0),
            };
            if key < lowest {
                (lowest, index, ties) = (key, at, 1.0);
            } else if key == lowest {
                ties += 1.0;
                if unit(random.next_u64()) * ties < 1.0 {
                    index = at;
                }
            }
        }
        let cached = views[index].cached;
        let reason = match () {
            () if !any_allowed => PickReason::Overflow,
            () if home == Some(index) => PickReason::Home,
            () if cached > held_by_all => PickReason::Prefix,
            () => PickReason::LeastCost,
        };
        Choice { index, reason, score: lowest.0, cached_tokens: Some(cached) }
    }

    fn views(&self, candidates: &Candidates<'_>) -> Vec<View> {
        let Self { settings, experience, query, .. } = *self;
        let widely = settings.common_followers.unwrap_or_else(|| (self.replicas as u32).clamp(4, 64));
        let mut matches = experience.index.matches(query.blocks, self.slots, widely);
        experience.caches.correct(query.blocks, &mut matches.blocks);
        let mean_weight = candidates.total_weight() / candidates.list.len() as f64;
        let view = |candidate: &Candidate<'_>| {
            let replica = candidate.replica;
            let load = &replica.load;
            let (requests, waiting) = (load.requests() as f64, load.waiting() as f64);
            let blocks = matches.blocks[replica.slot as usize].max(matches.common);
            let by_weight =
                if candidate.weight == mean_weight { 1.0 } else { mean_weight / candidate.weight };
            let burden = replica.slowness() * by_weight;
            View {
                requests,
                waiting_share: if waiting == 0.0 { 0.0 } else { (waiting / requests.max(1.0)).min(1.0) },
                waiting_tokens: load.waiting_tokens() as f64,
                context_tokens: load.context_tokens() as f64,
                outstanding_s: load.outstanding_s(),
                cached: blocks.saturating_mul(query.block_tokens).min(query.prompt_tokens),
                burden,
                by_weight,
                speed: if burden == 1.0 { 1.0 } else { 1.0 / burden },
                allowed: true,
            }
        };
        let mut views: Vec<View> = candidates.list.iter().map(view).collect();
        self.shrink(&mut views);
        views
    }

    /// Draws loads towards even ones, as far as their differences may be chance.
    fn shrink(&self, views: &mut [View]) {
        if self.settings.balancers == 1 {
            return;
        }
        let even = Totals::of(views);
        let mean = even.requests / views.len() as f64;
        let chance = mean * (1.0 - 1.0 / f64::from(self.settings.balancers));
        let signal = (UNEVEN * mean).powi(2);
        if chance > 0.0 {
            let trust = signal / (signal + chance);
            views.iter_mut().for_each(|view| view.approach(&even, trust));
        }
    }

    /// What hashes to the home of a prompt of which so much is held by all, and such a share of the rest is
    /// known somewhere.
    fn home(&self, held_by_all: u32, known: f64) -> Option<u64> {
        let threshold = self.settings.home_threshold.unwrap_or(1.0 - 0.8 * self.unseen());
        if known > threshold {
            return None;
        }
        self.query.blocks.get((held_by_all / self.query.block_tokens.max(1)) as usize).copied()
    }

    /// 1 for a single balancer, towards 0 for many.
    fn unseen(&self) -> f64 {
        f64::from(self.settings.balancers).powi(-2)
    }
}
