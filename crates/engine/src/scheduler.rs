//! vLLM's step loop as a state machine without a clock.
//!
//! A step is planned and begun by [`Scheduler::start_step`], which says how long it lasts, and ended by
//! [`Scheduler::finish_step`], which says what came of it. What is submitted in between waits for the next step.
//!
//! The plan follows vLLM V1. Running sequences first, in order: each gets its next token, or the next chunk of
//! its prompt, within `max_num_batched_tokens`. Where no block is left, the last running sequence is preempted:
//! it gives up its blocks, goes to the head of the queue and will compute its tokens again. Then, unless one was
//! preempted in this step, waiting sequences are admitted first come, first served, within the same budget and
//! `max_num_seqs`, until one does not fit; those whose adapter would be one too many are passed over. A prompt's
//! prefix is looked up when it is admitted; its last token is always computed.
//!
//! Not modelled: priorities, speculative decoding, partial blocks in the cache, hits of a sequence's own earlier
//! blocks in the hit counters after a preemption.

use std::{collections::VecDeque, time::Duration};

use crate::{
    Profile,
    pool::Pool,
    sequence::{Rules, Sequence},
};

#[cfg(test)]
mod tests;
mod words;

pub use words::{CacheChange, Counters, Event, Rejected, Snapshot, Step, Submission};

/// No step is said to last longer.
const LONGEST_STEP_S: f64 = 86_400.0;

/// One engine: its queue, its running batch and its memory.
#[derive(Debug)]
pub struct Scheduler {
    profile: Profile,
    rules: Rules,
    pool: Pool,
    sequences: Vec<Sequence>,
    /// Slots of `sequences` without a request.
    vacant: Vec<Slot>,
    running: Vec<Slot>,
    waiting: VecDeque<Slot>,
    /// Adapters in the batch, and how many sequences use each.
    adapters: Vec<(u32, u32)>,
    step: Option<Step>,
    last_step: Step,
    counters: Counters,
}

type Slot = u32;

impl Scheduler {
    /// An empty engine. Counts of zero are taken as one and times that are no times as zero;
    /// [`Profile::check`] says whether there are any.
    pub fn new(profile: Profile) -> Self {
        let block_tokens = profile.block_tokens.max(1);
        Self {
            rules: Rules {
                block_tokens,
                prefix_caching: profile.prefix_caching,
                reserve_prompt: profile.reserve_prompt,
                preallocated_blocks: profile.preallocated_blocks,
                most_blocks: profile.max_model_len.div_ceil(block_tokens),
            },
            pool: Pool::new(profile.kv_blocks),
            profile,
            sequences: Vec::new(),
            vacant: Vec::new(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            adapters: Vec::new(),
            step: None,
            last_step: Step::default(),
            counters: Counters::default(),
        }
    }

    /// The numbers it works with.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Puts a request at the end of the queue. It is looked at when the next step starts.
    pub fn submit(&mut self, submission: Submission, now: Duration) -> Result<(), Rejected> {
        self.submit_loaded(submission, 0, now)
    }

    /// The same for a prompt whose first `loaded_tokens` tokens come from outside: they take memory, and count as
    /// found in the cache, but are not computed. Only full blocks are loaded, and never the last token.
    pub fn submit_loaded(
        &mut self,
        submission: Submission,
        loaded_tokens: u32,
        now: Duration,
    ) -> Result<(), Rejected> {
        let tokens = u64::from(submission.prompt_tokens.max(1)) + u64::from(submission.output_tokens);
        let memory = u64::from(self.pool.len()) * u64::from(self.rules.block_tokens);
        let limit = memory.min(self.profile.max_model_len.max(1).into());
        if tokens > limit {
            return Err(Rejected { tokens, limit });
        }
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.sequences.push(Sequence::default());
            (self.sequences.len() - 1) as Slot
        });
        self.sequences[slot as usize].begin(submission, loaded_tokens, now);
        self.waiting.push_back(slot);
        Ok(())
    }

    /// Ends a request early; no event follows. A sequence that takes part in the step in flight keeps its
    /// blocks until the end of it. False if there is no such request.
    pub fn abort(&mut self, id: u64) -> bool {
        let is_it = |slot: &Slot| {
            let sequence = &self.sequences[*slot as usize];
            sequence.id == id && !sequence.aborted
        };
        if let Some(place) = self.running.iter().position(is_it) {
            let slot = self.running[place];
            if self.step.is_some() {
                self.sequences[slot as usize].aborted = true;
            } else {
                self.running.remove(place);
                self.leave_batch(slot);
                self.vacate(slot);
            }
        } else if let Some(slot) =
            self.waiting.iter().position(is_it).and_then(|place| self.waiting.remove(place))
        {
            self.vacate(slot);
        } else {
            return false;
        }
        self.counters.aborted += 1;
        true
    }

    /// Plans and begins a step, and says how long it lasts. None if there is nothing to do, or if the step
    /// before has not been finished.
    pub fn start_step(&mut self, now: Duration) -> Option<Duration> {
        if self.step.is_some() {
            return None;
        }
        let mut step = Step::default();
        let preempted = self.continue_running(&mut step);
        if !preempted {
            self.admit_waiting(&mut step, now);
        }
        if step.sequences == 0 {
            return None;
        }
        let lasts = self.step_time(&step);
        self.counters.steps += 1;
        self.counters.busy += lasts;
        self.counters.prefill_tokens += u64::from(step.prefill_tokens);
        self.step = Some(step);
        self.last_step = step;
        Some(lasts)
    }

    /// Ends the step in flight and appends what came of it to `events`, in the order of the batch.
    pub fn finish_step(&mut self, events: &mut Vec<Event>) {
        if self.step.take().is_none() {
            return;
        }
        let mut kept = 0;
        for place in 0..self.running.len() {
            let slot = self.running[place];
            let sequence = &mut self.sequences[slot as usize];
            sequence.computed += std::mem::take(&mut sequence.scheduled);
            let mut ended = sequence.aborted;
            if !ended && sequence.computed == sequence.tokens() {
                if sequence.output_tokens > 0 {
                    sequence.generated += 1;
                    self.counters.output_tokens += 1;
                    events.push(sequence.token_event());
                }
                if sequence.generated >= sequence.output_tokens {
                    ended = true;
                    self.counters.finished += 1;
                    let waited = sequence.waited.unwrap_or_default();
                    events.push(Event::Finished { id: sequence.id, waited });
                }
            }
            if ended {
                self.leave_batch(slot);
                self.vacate(slot);
            } else {
                self.running[kept] = slot;
                kept += 1;
            }
        }
        self.running.truncate(kept);
    }

    /// Whether a step is in flight.
    pub fn in_step(&self) -> bool {
        self.step.is_some()
    }

    /// The step in flight, or else the one before.
    pub fn last_step(&self) -> Step {
        self.last_step
    }

    /// Queue, batch and memory.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            running: self.running.len() as u32,
            waiting: self.waiting.len() as u32,
            total_blocks: self.pool.len(),
            free_blocks: self.pool.free(),
        }
    }

    /// Sums so far.
    pub fn counters(&self) -> Counters {
        Counters { evictions: self.pool.evictions(), ..self.counters }
    }

    /// Empties the prefix cache. Refused, as in vLLM, while a sequence holds blocks.
    pub fn reset_prefix_cache(&mut self) -> bool {
        let idle = self.pool.free() == self.pool.len();
        if idle {
            self.pool.clear_cache();
        }
        idle
    }

    /// Keeps what happens to the prefix cache from now on, for
    /// [`take_cache_changes`](Self::take_cache_changes), which is then to be called after every step.
    pub fn record_cache_changes(&mut self) {
        self.pool.record_changes();
    }

    /// What happened to the prefix cache since the last call, in order.
    pub fn take_cache_changes(&mut self) -> Vec<CacheChange> {
        self.pool.take_changes()
    }

    /// Schedules the running sequences; true if one of them was preempted.
    fn continue_running(&mut self, step: &mut Step) -> bool {
        let mut preempted = false;
        let mut place = 0;
        while place < self.running.len() {
            let budget = self.budget(step);
            if budget == 0 {
                break;
            }
            let sequence = &mut self.sequences[self.running[place] as usize];
            let end = sequence.computed + budget.min(sequence.tokens() - sequence.computed);
            if sequence.grow(&mut self.pool, &self.rules, end) {
                step.add(sequence, end);
                place += 1;
            } else {
                preempted = true;
                if let Some(victim) = self.running.pop() {
                    self.leave_batch(victim);
                    self.sequences[victim as usize].release(&mut self.pool);
                    self.waiting.push_front(victim);
                    self.counters.preemptions += 1;
                }
            }
        }
        preempted
    }

    fn admit_waiting(&mut self, step: &mut Step, now: Duration) {
        let most = self.profile.max_num_seqs.max(1) as usize;
        let mut place = 0;
        while self.running.len() < most {
            let budget = self.budget(step);
            let Some(&slot) = self.waiting.get(place).filter(|_| budget > 0) else { break };
            if !self.has_room_for_adapter(self.sequences[slot as usize].adapter) {
                place += 1;
                continue;
            }
            let sequence = &mut self.sequences[slot as usize];
            let Some(hit_tokens) = sequence.admit(&mut self.pool, &self.rules, budget) else { break };
            if sequence.waited.is_none() {
                sequence.waited = Some(now.saturating_sub(sequence.submitted));
                sequence.hit_tokens = hit_tokens;
                self.counters.prefix_query_tokens += u64::from(sequence.prompt_tokens);
                self.counters.prefix_hit_tokens += u64::from(hit_tokens);
            }
            step.add(sequence, hit_tokens + budget.min(sequence.tokens() - hit_tokens));
            self.waiting.remove(place);
            self.enter_batch(slot);
        }
    }

    fn has_room_for_adapter(&self, adapter: u32) -> bool {
        adapter == 0
            || self.adapters.len() < self.profile.max_adapters.max(1) as usize
            || self.adapters.iter().any(|(used, _)| *used == adapter)
    }

    fn enter_batch(&mut self, slot: Slot) {
        self.running.push(slot);
        let adapter = self.sequences[slot as usize].adapter;
        if adapter != 0 {
            match self.adapters.iter_mut().find(|(used, _)| *used == adapter) {
                Some((_, sequences)) => *sequences += 1,
                None => self.adapters.push((adapter, 1)),
            }
        }
    }

    /// Gives up a sequence's part of its adapter; the caller takes it off the batch.
    fn leave_batch(&mut self, slot: Slot) {
        let adapter = self.sequences[slot as usize].adapter;
        if let Some(place) = self.adapters.iter().position(|(used, _)| *used == adapter) {
            self.adapters[place].1 -= 1;
            if self.adapters[place].1 == 0 {
                self.adapters.swap_remove(place);
            }
        }
    }

    /// Tokens that the step may still compute.
    fn budget(&self, step: &Step) -> u32 {
        self.profile.max_num_batched_tokens.max(1).saturating_sub(step.tokens)
    }

    fn step_time(&self, step: &Step) -> Duration {
        let profile = &self.profile;
        let seconds = profile.step_base_s
            + profile.per_sequence_s * f64::from(step.sequences)
            + profile.per_context_token_s * step.context_tokens as f64
            + profile.per_prefill_token_s * f64::from(step.prefill_tokens);
        if seconds > 0.0 { Duration::from_secs_f64(seconds.min(LONGEST_STEP_S)) } else { Duration::ZERO }
    }

    fn vacate(&mut self, slot: Slot) {
        self.sequences[slot as usize].end(&mut self.pool);
        self.vacant.push(slot);
    }
}

impl Step {
    /// Lets `sequence` compute its tokens up to `end` in this step.
    fn add(&mut self, sequence: &mut Sequence, end: u32) {
        let tokens = end - sequence.computed;
        let decodes = sequence.tokens() - sequence.computed == 1;
        sequence.scheduled = tokens;
        self.sequences += 1;
        self.context_tokens += u64::from(end);
        self.tokens += tokens;
        self.prefill_tokens += if decodes { 0 } else { tokens };
    }
}

impl Sequence {
    fn token_event(&self) -> Event {
        if self.generated == 1 {
            let (cached_tokens, waited) = (self.hit_tokens, self.waited.unwrap_or_default());
            Event::FirstToken { id: self.id, cached_tokens, waited }
        } else {
            Event::Token { id: self.id }
        }
    }
}
