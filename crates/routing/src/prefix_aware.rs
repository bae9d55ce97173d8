//! `prefix_aware`: the replica where a request costs least, in seconds, for itself and for everyone beside it.
//!
//! Affinity and load are one sum. There is no mode that drops affinity when load is uneven, since that is when
//! it is needed. For a request of `L` prompt tokens and `o` expected output tokens, and for each replica:
//!
//! ```text
//! n  requests in flight       q  those without a first token     Q  their uncached prompt tokens
//! x  more requests that each replica is about to have, from how fast they come and how many are usual
//! K  sum of (L + o), each times the share of its output that is left       T  output tokens they have left
//! S  outstanding work in seconds: d u until the first token, and left x (b + c L + w / B), summed
//! m  tokens of the prompt that the history says the replica holds; u = L - m
//! P  prompt tokens in flight  C  tokens that its cache holds               s  share of known prompts that were missed
//!
//! cost = d [ u (1 + 0.5 (n + x)) + 0.4 Q ]        its prefill delays itself and all who run; prefills ahead
//!      + 3.2 (b n + c K) o T / (o n + T) (1 - q / n)   sequences slow one another down while both run
//!      + S q / n (1 + 12 f)                       what waits ahead, as far as requests there are seen to wait
//!      + 200 d (u + o) s min(1.2, (P + T + L + o) / C)^8     what it takes in a cache that is short and full
//!      - home 0.3 d (L - m_all) (1 + 0.5 (n + x)) if the replica is the home of the unknown part
//! ```
//!
//! The whole is multiplied by the replica's slowness and divided by its weight relative to the mean. The lowest
//! cost wins; ties go to the least outstanding work, then to chance. `d`, `b`, `c` and `w` are the engine's
//! [`Coefficients`], in seconds, learned while it runs; `B` is the number of requests that its cache holds at a
//! time. The weights (no unit) are settings; their defaults were found by search in a simulator, on workloads
//! with and without shared preambles, sessions and overload. The term that matters most is `0.5 n`: without it
//! affinity is lost. `x` is almost always 0: it keeps prompts where they are known
//! when load comes back to an empty fleet. `q / n`, the share that is *seen* to wait, needs no model of the engine's
//! capacity.
//!
//! - **Answers** of `o` tokens and of `l = T / n` run side by side for `o l / (o + l)` tokens, if both are as
//!   likely to end at any token. So a long answer does not care how many are about to end, only how much is left, and
//!   long ones spread; to let it pay `o` tokens beside short ones costs affinity for nothing.
//! - **Queues** that engines report: `f` is 0 unless requests wait at this one and its cache is full, and then the
//!   share of the replicas where none waits. Where everyone waits, waiting cannot be avoided and must not cost
//!   affinity; where some have room it can, and to wait for a fast replica that is full is worth less than it seems.
//! - **Memory**: caches are always full, and mostly of what nobody asks for again. Only where prompts that were known are
//!   seen to be missed (`s`) is something pushed out that would have been used; then a request that takes a replica's
//!   cache beyond what it holds pushes out the prefixes of those beside it, or one of them. That is a wall rather than a
//!   price, and no steeper than what is known of lengths. `N` balancers that flee from the same replica to the same other
//!   one make it worse, so it has `1 / N^2` of its height.
//! - **History**, not the engine's cache: what was sent to a replica counts as held, for twice its cache. An
//!   exact view forgets where a conversation lived as soon as it is evicted, and scatters it.
//! - **Answers** that were sent are in the engine's cache too, but a balancer knows their lengths alone. A prompt that
//!   goes on where one ended is expected to go on with its answer, as often as such prompts were seen to.
//! - **Events**: where an engine says what its cache holds, that counts, and the history where it says nothing. What it
//!   was sent and has given up is missed all the same.
//! - **Common prefixes**: a block that is followed by as many different blocks as there are replicas, and by more
//!   than one replica's share of all conversations, counts as held by all; `m_all` is what all hold. A preamble that
//!   everyone shares attracts nobody to where it was seen first; a document that some ask about does, for no cache
//!   holds all documents. Of `N` balancers' shares only `1 / N^2` is asked for: who asks elsewhere is not seen.
//! - **Home**: if no replica knows more than a fifth of what is not held by all, the replica that the first
//!   block after `m_all` hashes to is worth 0.3 of the prefill. With no load at all, new prefixes spread over
//!   all replicas this way. With `N` balancers, each of which sees one `N`-th of the history, homes are where
//!   they agree, so they are worth `1 - 0.7 / N^2`, up to a known share of `1 - 0.8 / N^2`.
//! - **Several balancers** each see a sample of the load. What engines report beyond the own requests is added, each
//!   taken for the mean of the own ones. Without reports much of the difference between replicas is chance: of a mean
//!   of `n` own requests, a variance of `n (1 - 1/N)`. Loads are then drawn towards even ones by the share that chance
//!   has, beside a real unevenness of `0.8 n`. One balancer sees everything and believes it.
//!
//! Bound, a safety net that hardly ever acts: a replica is allowed while `S <= 1.5 share (S_all + S_new) + 16
//! mean requests' work` and `n <= 3 share (n_all + 1) + 16`, `share` being its part of the pool's speed. If none
//! is allowed the least `S` wins. A tight bound was seen to destroy affinity.

use std::time::Duration;

use rand::Rng;
use serde::Serialize;

use crate::{
    Coefficients, EngineReport, PickReason, PrefixAwareSettings, Query,
    candidates::{Candidates, Choice},
    experience::Experience,
    outputs::Expected,
    prefix_index::Answer,
    reported::Others,
    ring::{best_suited, unit},
    views::{Scale, Totals, View, Views},
};

/// What a request would cost on one replica, in seconds unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Prompt tokens that its cache is expected to hold.
    pub cached_tokens: u32,
    /// The prefill of the rest, for the request and for those it delays.
    pub prefill_s: f32,
    /// Prefills ahead of it.
    pub queue_s: f32,
    /// Slower tokens, for the request and beside it.
    pub decode_s: f32,
    /// Work ahead of it.
    pub wait_s: f32,
    /// What it takes in a cache that is short.
    pub memory_s: f32,
    /// Taken off for the home of its prefix.
    pub home_s: f32,
    /// The sum, for the replica's speed and weight. The lowest wins.
    pub total_s: f32,
    /// Work that the replica has.
    pub outstanding_s: f32,
    /// It is within the bounds.
    pub allowed: bool,
}

/// What a policy run needs besides the candidates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighing<'a> {
    pub(crate) settings: &'a PrefixAwareSettings,
    pub(crate) experience: &'a Experience,
    pub(crate) engine: &'a Coefficients,
    pub(crate) query: &'a Query<'a>,
    pub(crate) expected: Expected,
    /// Replicas in the pool.
    pub(crate) replicas: usize,
    /// One more than the highest slot in use.
    pub(crate) slots: usize,
    pub(crate) now: Duration,
}

/// A wait costs so many times more where no other replica has a queue.
const AVOIDABLE: f32 = 12.0;
/// A cache is no fuller than so many times what it holds: where all are, they are equal.
const FULLEST: f32 = 1.2;
/// How uneven loads are, as a share of the mean, where that is no chance.
const UNEVEN: f32 = 0.8;

/// Work of a request in seconds, on a replica of the pool's speed.
pub(crate) fn work(engine: &Coefficients, prompt: u32, uncached: u32, output: u32, together: f64) -> f64 {
    engine.prefill_token_s * f64::from(uncached)
        + f64::from(output) * engine.output_token_s(prompt.into(), together)
}

/// What a request pays for, in seconds: the coefficients times the weights.
#[derive(Clone, Copy, Debug)]
struct Prices {
    prompt: f32,
    /// Requests that each replica is about to have beyond those it has.
    coming: f32,
    /// Of a prompt token, computed or waiting.
    prefill: f32,
    queue: f32,
    /// Requests beside it are delayed so much by its prefill.
    interference: f32,
    /// Of a sequence and of a token of context, for one token of the answer; the answer's tokens.
    sequence: f32,
    context: f32,
    output: f32,
    wait: f32,
    /// Of a new token in a full cache.
    memory: f32,
}

/// The safety net.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    work: f32,
    work_slack: f32,
    requests: f32,
    request_slack: f32,
}

impl Prices {
    fn of(
        engine: &Coefficients,
        settings: &PrefixAwareSettings,
        query: [u32; 2],
        coming: f64,
        short: f64,
    ) -> Self {
        let [prompt, output] = query.map(f64::from);
        let prices = [
            prompt,
            coming,
            engine.prefill_token_s,
            engine.prefill_token_s * settings.queue_weight,
            settings.interference,
            engine.sequence_s * settings.decode_weight,
            engine.context_token_s * settings.decode_weight,
            output,
            settings.wait_weight,
            engine.prefill_token_s * settings.memory_weight * short,
        ];
        let [prompt, coming, prefill, queue, interference, sequence, context, output, wait, memory] =
            prices.map(|price| price as f32);
        Self { prompt, coming, prefill, queue, interference, sequence, context, output, wait, memory }
    }

    /// What a candidate costs; a home is worth `home_price`, others nothing.
    #[inline]
    fn cost(self, view: View, home_price: f32, allowed: bool) -> Cost {
        let delayed = 1.0 + self.interference * (view.requests + self.coming);
        let beside = self.sequence * view.requests + self.context * view.context_tokens;
        let side_by_side =
            self.output * view.output_tokens / (self.output * view.requests + view.output_tokens).max(1.0);
        let taken = view.prompt_tokens + view.output_tokens + self.prompt + self.output;
        let full = (taken / view.cache_tokens).min(FULLEST).powi(8);
        let mut cost = Cost {
            cached_tokens: view.cached as u32,
            prefill_s: self.prefill * (self.prompt - view.cached) * delayed,
            queue_s: self.queue * view.waiting_tokens,
            decode_s: beside * side_by_side * (1.0 - view.waiting_share),
            wait_s: self.wait * view.outstanding_s * view.wait_burden * view.waiting_share,
            memory_s: self.memory * (self.prompt - view.cached + self.output) * full,
            home_s: home_price * delayed,
            total_s: 0.0,
            outstanding_s: view.outstanding_s,
            allowed,
        };
        let paid = cost.prefill_s + cost.queue_s + cost.decode_s + cost.memory_s - cost.home_s;
        cost.total_s = paid * view.burden + cost.wait_s;
        cost
    }
}

impl Bounds {
    #[inline]
    fn allow(self, view: View) -> bool {
        (view.outstanding_s <= self.work * view.speed + self.work_slack)
            & (view.requests <= self.requests * view.speed + self.request_slack)
    }
}

/// The lowest key, and where it is. Of equal ones that with the smaller `second` is taken, then any.
fn least(views: &Views, second: impl Fn(View) -> f32, random: &mut dyn Rng) -> (f32, usize) {
    let (lowest, places) = views.lowest();
    let (mut index, mut least, mut ties) = (0, f32::INFINITY, 0.0);
    for at in places {
        let second = second(views.at(at));
        if second < least {
            (index, least, ties) = (at, second, 1.0);
        } else if second == least {
            ties += 1.0;
            if unit(random.next_u64()) * ties < 1.0 {
                index = at;
            }
        }
    }
    (lowest, index)
}

impl Weighing<'_> {
    /// Chooses a candidate; `take` says that the request will go there. `see` gets the cost of each.
    pub(crate) fn choose(
        &self,
        candidates: &Candidates<'_>,
        random: &mut dyn Rng,
        take: bool,
        see: Option<&mut dyn FnMut(usize, Cost)>,
    ) -> Choice {
        let Self { settings, experience, engine, .. } = *self;
        let prompt = self.query.prompt_tokens;
        let output = experience.outputs.left(self.expected, 0);
        let (mut views, answers) = self.survey(candidates);
        let all = views.totals();
        let mean_requests = all.requests / views.count() as f64;
        // A balancer whose requests are counted brings as many more as this one.
        let replicas = views.count() as f64 / f64::from(views.balancers);
        let coming = experience.arrivals.coming(mean_requests, replicas, self.now, take);
        let short = experience.missed.get() * self.unseen();
        let prices = Prices::of(engine, settings, [prompt, output], coming, short);
        let unknown = f64::from(prompt) - all.least_cached;
        let bounds = self.bounds(&all, work(engine, prompt, unknown as u32, output, self.together()));
        let known = (all.most_cached - all.least_cached) / unknown.max(1.0);
        // What is not allowed costs more than anything.
        views.weigh(|view| {
            let cost = prices.cost(view, 0.0, true).total_s;
            if bounds.allow(view) { cost } else { f32::INFINITY }
        });
        let home = self.home(all.least_cached as u32, known).and_then(|key| {
            let fitting = candidates.list.iter().enumerate().filter(|(at, _)| views.key(*at) < f32::INFINITY);
            best_suited(key, fitting.map(|(at, one)| (at, candidates.standing(one), one.weight)))
        });
        let home_weight = settings.home_weight.unwrap_or(1.0 - 0.7 * self.unseen());
        let home_price = (home_weight * engine.prefill_token_s * unknown) as f32;
        if let Some(home) = home {
            views.set_key(home, prices.cost(views.at(home), home_price, true).total_s);
        }
        if let Some(see) = see {
            for (at, view) in views.iter().enumerate() {
                let home_price = if home == Some(at) { home_price } else { 0.0 };
                see(at, prices.cost(view, home_price, bounds.allow(view)));
            }
        }
        let (mut lowest, mut index) = least(&views, |view| view.outstanding_s, random);
        let any_allowed = lowest < f32::INFINITY;
        if !any_allowed {
            views.weigh(|view| view.outstanding_s);
            (lowest, index) = least(&views, |_| 0.0, random);
        }
        let cached = views.at(index).cached;
        let reason = match () {
            () if !any_allowed => PickReason::Overflow,
            () if home == Some(index) => PickReason::Home,
            () if f64::from(cached) > all.least_cached => PickReason::Prefix,
            () => PickReason::LeastCost,
        };
        let slot = candidates.standing(&candidates.list[index]).slot;
        let answer = answers.into_iter().find(|answer| answer.slot == slot);
        Choice { index, reason, score: lowest.into(), cached_tokens: Some(cached as u32), answer }
    }

    /// Requests of the usual length that an engine works on at a time.
    fn together(&self) -> f64 {
        self.experience.together(self.engine, self.engine.cache_tokens)
    }

    fn bounds(&self, all: &Totals, new_work: f64) -> Bounds {
        let settings = self.settings;
        let bounds = [
            settings.work_factor * (all.outstanding_s + new_work) / all.speed,
            settings.work_slack * self.experience.mean_work.get(),
            settings.request_factor * (all.requests + 1.0) / all.speed,
            settings.request_slack,
        ];
        let [work, work_slack, requests, request_slack] = bounds.map(|bound| bound as f32);
        Bounds { work, work_slack, requests, request_slack }
    }

    /// The candidates as they stand, and the answers that are counted in what they hold.
    fn survey(&self, candidates: &Candidates<'_>) -> (Views, Vec<Answer>) {
        let Self { settings, experience, query, .. } = *self;
        let widely = settings.common_followers.unwrap_or_else(|| self.common_followers());
        let mut matches = experience.index.matches(query.blocks, self.slots, widely);
        experience.caches.correct(query.blocks, &mut matches.blocks);
        experience.caches.cut(query.blocks, &mut matches.answers);
        matches.expect_answers(experience.answers_found.get());
        let scale = Scale {
            mean_weight: (candidates.total_weight / candidates.list.len() as f64) as f32,
            shared_slowness: experience.shared_slowness() as f32,
            common_blocks: matches.common,
            block_tokens: query.block_tokens,
            prompt_tokens: query.prompt_tokens,
            cache_tokens: self.engine.cache_tokens,
        };
        let mut views = Views::read(candidates, &matches, scale);
        if settings.balancers > 1 || experience.has_queues(self.now, settings.stale_after) {
            self.listen(candidates, &mut views);
        }
        (views, matches.answers)
    }

    /// Takes in what engines report: requests of other balancers, and queues.
    fn listen(&self, candidates: &Candidates<'_>, views: &mut Views) {
        let reports: Vec<Option<(EngineReport, Others)>> = candidates
            .list
            .iter()
            .map(|one| {
                candidates.standing(one).replica.reported.with_others(self.now, self.settings.stale_after)
            })
            .collect();
        if self.settings.balancers > 1 {
            match reports.iter().map(|heard| Some(heard.as_ref()?.1)).collect::<Option<Vec<Others>>>() {
                Some(others) => views.join(&others, self.settings.balancers),
                None => views.approach(|mean| self.trust(mean)),
            }
        }
        let queues =
            || reports.iter().enumerate().filter_map(|(place, heard)| Some((place, heard.as_ref()?.0)));
        let free = queues().filter(|(_, report)| report.waiting == 0).count();
        let factor = 1.0 + AVOIDABLE * free as f32 / views.count() as f32;
        for (place, _) in queues().filter(|(_, report)| report.has_queue()) {
            views.raise_wait(place, factor);
        }
    }

    /// From how many followers on a prefix counts as held by all.
    fn common_followers(&self) -> u32 {
        let share = self.experience.index.segments() as f64 / self.replicas as f64;
        ((share * self.unseen()) as u32).max((self.replicas as u32).clamp(4, 64))
    }

    /// How far differences between loads are more than chance, with so many requests a replica on average.
    fn trust(&self, mean: f32) -> Option<f32> {
        let chance = mean * (1.0 - 1.0 / self.settings.balancers as f32);
        let signal = (UNEVEN * mean).powi(2);
        (chance > 0.0).then(|| signal / (signal + chance))
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
