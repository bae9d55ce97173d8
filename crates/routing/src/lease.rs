//! The guard that holds one request's share of a replica's load from the pick to the last byte.
//!
//! A lease is opened by a pick and gives everything back when it is dropped: after the last byte, when the
//! client leaves, when the upstream breaks, when a task panics. There is no other way to change a load, so a
//! counter cannot drift. [`Lease::settle`] drops it with an [`Outcome`], which the replica's health learns from;
//! a lease dropped without one counts as [`Outcome::Abandoned`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    Coefficients, Outcome, Query, Replica,
    coefficients::Observation,
    outputs::Expected,
    prefix_index::{Answer, Sent},
    query::MOST_TOKENS,
    replica::OpenCount,
};

/// One request's share of a replica's load. Dropping it gives the load back.
#[derive(Debug)]
pub struct Lease {
    replica: Arc<Replica>,
    share: Share,
    /// Without a first token.
    waiting: bool,
    /// It probes an ejected replica, and must say when that is over.
    probe: bool,
    prompt_tokens: u32,
    uncached_tokens: u32,
    expected: Expected,
    /// Nanoseconds of work for the prefill, and for an output token.
    prefill_work: u64,
    output_work: u64,
    /// The whole output as last expected, and the context that goes with each token of it.
    context_of: (u64, f64),
    /// What the history kept of the prompt.
    pub(crate) sent: Sent,
    block_tokens: u32,
    predicted_tokens: Option<u32>,
    /// Of an answer counted in that, the tokens before it and its own.
    answer: Option<[u32; 2]>,
    opened: Duration,
    progress: Progress,
}

/// What a lease has added to the counters of its replica, and must take off.
#[derive(Debug, Default)]
struct Share {
    prompt_tokens: u64,
    waiting_tokens: u64,
    output_tokens: u64,
    context_tokens: u64,
    outstanding: u64,
}

/// What was seen of the answer.
#[derive(Debug, Default)]
struct Progress {
    produced: u32,
    /// The whole answer's tokens as the engine counted them, once it has.
    counted: Option<u32>,
    /// Tokens in the first piece.
    first: u32,
    first_at: Duration,
    last_at: Duration,
    /// Requests that ran beside it, at the first token and summed over the others.
    beside_at_first: f64,
    beside: f64,
    prefilled_before: u64,
    /// Nobody waited when it came.
    unhindered: bool,
}

/// What the router knows when it opens a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) query: &'a Query<'a>,
    /// The engine's numbers, for this replica's speed.
    pub(crate) engine: &'a Coefficients,
    pub(crate) expected: Expected,
    pub(crate) cached_tokens: Option<u32>,
    pub(crate) answer: Option<Answer>,
    pub(crate) probe: bool,
    pub(crate) now: Duration,
}

/// A history is younger than this where an engine may not have got to it yet.
const GRACE: Duration = Duration::from_secs(1);
/// Fewest tokens that say something about the speed of a replica.
const TELLING_TOKENS: u32 = 8;

/// In nanoseconds, 52 days: the work of all requests together stays a number.
const MOST_WORK: u64 = 1 << 52;

/// Changes what a lease has in a counter.
fn change(counter: &AtomicU64, held: &mut u64, wanted: u64) {
    if *held != wanted {
        counter.fetch_add(wanted.wrapping_sub(*held), Relaxed);
        *held = wanted;
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

impl Lease {
    pub(crate) fn open(replica: Arc<Replica>, opening: Opening<'_>) -> Self {
        let Opening { query, engine, expected, cached_tokens, answer, probe, now } = opening;
        let block_tokens = query.block_tokens.max(1);
        let experience = &replica.experience;
        let load = &replica.load;
        let prompt_tokens = query.prompt_tokens.min(MOST_TOKENS);
        let uncached_tokens = prompt_tokens.saturating_sub(cached_tokens.unwrap_or_default());
        let output = experience.outputs.left(expected, 0);
        let together = experience.together(engine, replica.cache_tokens().unwrap_or(engine.cache_tokens));
        let output_s = engine.output_token_s(prompt_tokens.into(), together);
        let prefill_s = engine.prefill_token_s * f64::from(uncached_tokens);
        experience.requested(
            f64::from(prompt_tokens) + f64::from(output),
            prefill_s + f64::from(output) * output_s,
        );
        let beside = load.open.add(OpenCount { requests: 1, waiting: 1 });
        let progress = Progress {
            beside_at_first: beside.requests.into(),
            unhindered: beside.waiting == 0,
            ..Progress::default()
        };
        load.picked.fetch_add(1, Relaxed);
        let mut lease = Self {
            share: Share::default(),
            waiting: true,
            probe,
            prompt_tokens,
            uncached_tokens,
            expected,
            prefill_work: nanoseconds(prefill_s),
            output_work: nanoseconds(output_s),
            context_of: (0, 0.0),
            sent: Sent::default(),
            block_tokens,
            predicted_tokens: cached_tokens,
            answer: answer
                .map(|one| [one.after, one.blocks].map(|blocks| blocks.saturating_mul(block_tokens))),
            opened: now,
            progress,
            replica,
        };
        lease.update();
        lease
    }

    /// Brings the counters in line with what is left to do.
    fn update(&mut self) {
        let Self { share, replica, context_of, .. } = self;
        let load = &replica.load;
        let left = u64::from(replica.experience.outputs.left(self.expected, self.progress.produced));
        let output = u64::from(self.progress.produced) + left;
        if context_of.0 != output {
            *context_of = (output, (f64::from(self.prompt_tokens) + output as f64) / output as f64);
        }
        let context = (left as f64 * context_of.1) as u64;
        let prefill = if self.waiting { self.prefill_work } else { 0 };
        let uncached = if self.waiting { self.uncached_tokens.into() } else { 0 };
        change(&load.prompt_tokens, &mut share.prompt_tokens, self.prompt_tokens.into());
        change(&load.waiting_tokens, &mut share.waiting_tokens, uncached);
        change(&load.output_tokens, &mut share.output_tokens, left);
        change(&load.context_tokens, &mut share.context_tokens, context);
        change(
            &load.outstanding,
            &mut share.outstanding,
            prefill.saturating_add(left.saturating_mul(self.output_work)).min(MOST_WORK),
        );
    }

    /// The replica that serves the request.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// `tokens` more output tokens arrived at `now`. The first call ends the wait for the first token.
    pub fn produced(&mut self, tokens: u32, now: Duration) {
        let load = &self.replica.load;
        let open = load.open.get();
        let running = f64::from(open.requests - open.waiting);
        load.produced_at.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        if self.waiting {
            self.waiting = false;
            load.open.remove(OpenCount { requests: 0, waiting: 1 });
            let prefilled = load.prefilled_tokens.fetch_add(self.uncached_tokens.into(), Relaxed);
            self.progress.prefilled_before = prefilled + u64::from(self.uncached_tokens);
            self.progress.first = tokens;
            self.progress.first_at = now;
            self.learn_prefill(now);
        } else {
            self.progress.beside += running * f64::from(tokens);
        }
        self.progress.last_at = now;
        self.progress.produced = self.progress.produced.saturating_add(tokens).min(MOST_TOKENS);
        self.update();
    }

    /// The whole answer of `tokens` arrived at `now`, in one piece. That says how long answers get, but not when its
    /// prompt was read and its tokens were made: no speed is learned from it.
    pub fn produced_at_once(&mut self, tokens: u32, now: Duration) {
        let at = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.replica.load.produced_at.store(at, Relaxed);
        self.progress.produced = tokens.min(MOST_TOKENS);
        self.update();
    }

    /// The answer is whole and has so many tokens, says the engine: events may have held several each.
    pub fn counted(&mut self, tokens: u32) {
        self.progress.counted = Some(tokens.min(MOST_TOKENS));
    }

    /// The answer said how many prompt tokens were cached, of how many in all; 0 where it did not say that. Engines
    /// count by their tokenizers, and here prompts are estimated: what is learned must not be the difference.
    pub fn observed_cached(&mut self, cached_tokens: u32, prompt_tokens: u32) {
        let Some(expected) = self.predicted_tokens.take() else { return };
        let cached_tokens = match u64::from(prompt_tokens) {
            0 => cached_tokens,
            all => (u64::from(cached_tokens.min(prompt_tokens)) * u64::from(self.prompt_tokens) / all) as u32,
        };
        let prediction = &self.replica.load.prediction;
        let missing = expected.saturating_sub(cached_tokens);
        prediction.answers.fetch_add(1, Relaxed);
        prediction.expected_tokens.fetch_add(expected.into(), Relaxed);
        prediction.cached_tokens.fetch_add(cached_tokens.into(), Relaxed);
        prediction.missing_tokens.fetch_add(missing.into(), Relaxed);
        prediction.surprising_tokens.fetch_add(cached_tokens.saturating_sub(expected).into(), Relaxed);
        self.computed(self.prompt_tokens.saturating_sub(cached_tokens));
        // Parts of a text differ in their tokens' lengths, and caches end with a block.
        if let Some([before, answer]) = self.answer
            && cached_tokens + before / 16 + self.block_tokens >= before
        {
            let found = cached_tokens.saturating_sub(before);
            self.replica.experience.answer_found(f64::from(found) / f64::from(answer));
        }
        if let Some(since) = self.sent.known_since.take()
            && since + GRACE <= self.opened
        {
            let known = self.sent.known_blocks * self.block_tokens;
            self.replica.judge_history(cached_tokens < known / 4, self.opened);
        }
    }

    /// So many prompt tokens were computed, whatever was expected.
    fn computed(&mut self, tokens: u32) {
        if !self.waiting {
            let more = u64::from(tokens).wrapping_sub(self.uncached_tokens.into());
            self.replica.load.prefilled_tokens.fetch_add(more, Relaxed);
            self.progress.prefilled_before = self.progress.prefilled_before.wrapping_add(more);
        }
        self.uncached_tokens = tokens;
    }

    /// The replica answers, as it should so far. A probe has shown all that it can then: an answer may take minutes to
    /// its end, and whatever befalls it counts as with any other.
    pub fn answering(&mut self, now: Duration) {
        if std::mem::take(&mut self.probe) {
            self.replica.health.record_outcome(Outcome::Answered, true, now);
            self.replica.health.release_probe();
        }
    }

    /// Ends the lease and tells the replica's health how.
    pub fn settle(self, outcome: Outcome, now: Duration) {
        if outcome == Outcome::Answered && self.progress.produced > 0 {
            let experience = &self.replica.experience;
            experience.outputs.ended(self.expected, self.progress.produced);
            experience.arrivals.answered(now.saturating_sub(self.opened));
        }
        self.replica.health.record_outcome(outcome, self.probe, now);
    }

    /// The time to the first token of a request that found nobody waiting tells how fast prompts are read: it came
    /// in the middle of a step, if there was one, and was computed in the next.
    fn learn_prefill(&self, now: Duration) {
        let basis = self.replica.experience.basis.load();
        let streamed = self.progress.first < TELLING_TOKENS;
        if !basis.learn || !streamed || !self.progress.unhindered {
            return;
        }
        let seconds = now.saturating_sub(self.opened).as_secs_f64();
        let beside = self.progress.beside_at_first;
        let context = beside * self.mean_prompt();
        let steps = if beside > 0.0 { 1.5 } else { 1.0 };
        let observation =
            Observation::of(&basis.engine, seconds, beside, context, self.uncached_tokens.into());
        if observation.is_mostly_prefill() {
            self.replica.experience.learn(observation.after(steps), &self.replica.load.slowness);
        }
    }

    /// The mean time between tokens tells how fast they are made, beside what else went on.
    fn learn_decode(&self) {
        let basis = self.replica.experience.basis.load();
        let Progress { produced, first, first_at, last_at, beside, prefilled_before, .. } = self.progress;
        let tokens = produced.saturating_sub(first);
        if !basis.learn || tokens < TELLING_TOKENS || last_at <= first_at {
            return;
        }
        let load = &self.replica.load;
        let tokens = f64::from(tokens);
        let seconds = (last_at - first_at).as_secs_f64() / tokens;
        let beside = beside / tokens;
        let prefilled = load.prefilled_tokens.load(Relaxed).saturating_sub(prefilled_before) as f64 / tokens;
        let context = beside * self.mean_prompt();
        let observation = Observation::of(&basis.engine, seconds, beside, context, prefilled);
        let ratio = self.replica.experience.learn(observation, &load.slowness);
        self.replica.experience.compare(&load.slowness, ratio, tokens);
    }

    /// What came of the answer is in the replica's cache, whoever it came to.
    fn keep_answer(&self) {
        let Some(end) = self.sent.end.filter(|_| self.progress.produced > 0) else { return };
        let tokens = self.progress.counted.unwrap_or(self.progress.produced);
        // It fills up the block that the prompt began.
        let blocks = (self.prompt_tokens % self.block_tokens + tokens) / self.block_tokens;
        self.replica.experience.index.answered(&self.replica.history, end, blocks);
    }

    /// Prompt tokens of a request at the replica, on average.
    fn mean_prompt(&self) -> f64 {
        let load = &self.replica.load;
        load.prompt_tokens.load(Relaxed) as f64 / load.requests().max(1) as f64
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.learn_decode();
        self.keep_answer();
        let load = &self.replica.load;
        let share = &mut self.share;
        load.open.remove(OpenCount { requests: 1, waiting: self.waiting.into() });
        change(&load.prompt_tokens, &mut share.prompt_tokens, 0);
        change(&load.waiting_tokens, &mut share.waiting_tokens, 0);
        change(&load.output_tokens, &mut share.output_tokens, 0);
        change(&load.context_tokens, &mut share.context_tokens, 0);
        change(&load.outstanding, &mut share.outstanding, 0);
        if self.probe {
            self.replica.health.release_probe();
        }
    }
}
