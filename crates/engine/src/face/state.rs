//! What changes in an engine: its scheduler, the requests in it, what they are given, and how late that was.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use protocol::kv_events::{BlocksRemoved, BlocksStored, CacheEvent};
use serde_json::{Value, json};

use super::{
    active::Active,
    fixed::{Appointments, FixedTimes},
    metrics::Metrics,
};
use crate::{CacheChange, Counters, Event, Scheduler, Snapshot};

/// A machine that is later than this does not catch up: what it lost is called `slipped`.
pub(super) const MOST_LAG: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct State {
    pub(super) scheduler: Scheduler,
    /// Requests by their number in the scheduler.
    pub(super) active: Vec<Option<Active>>,
    pub(super) vacant: Vec<u32>,
    events: Vec<Event>,
    /// Used instead of the scheduler where times are fixed, with what was counted.
    pub(super) appointments: Appointments,
    pub(super) fixed: Option<Counters>,
    pub(super) metrics: Metrics,
    pub(super) lag: Lag,
    pub(super) slowdown: f64,
    /// What happened to the cache in the step under way.
    pub(super) cache_events: Vec<CacheEvent>,
}

/// How late steps ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lag {
    steps: u64,
    last: Duration,
    sum: Duration,
    most: Duration,
    slipped: Duration,
}

impl State {
    pub(super) fn new(scheduler: Scheduler, fixed: bool) -> Self {
        Self {
            metrics: Metrics::new(scheduler.profile().max_model_len),
            scheduler,
            active: Vec::new(),
            vacant: Vec::new(),
            events: Vec::new(),
            appointments: Appointments::default(),
            fixed: fixed.then(Counters::default),
            lag: Lag::default(),
            slowdown: 1.0,
            cache_events: Vec::new(),
        }
    }

    /// Requests in the engine.
    pub(super) fn load(&self) -> usize {
        self.active.len() - self.vacant.len()
    }

    /// What was counted since the start. Without a prefix cache nothing is looked up in it.
    pub(super) fn counters(&self) -> Counters {
        let counters = self.fixed.unwrap_or_else(|| self.scheduler.counters());
        match self.scheduler.profile().prefix_caching {
            true => counters,
            false => Counters { prefix_query_tokens: 0, ..counters },
        }
    }

    /// Requests and memory now. Where times are fixed every request runs, and none takes memory.
    pub(super) fn snapshot(&self) -> Snapshot {
        let snapshot = self.scheduler.snapshot();
        match self.fixed {
            Some(_) => Snapshot { running: self.load() as u32, ..snapshot },
            None => snapshot,
        }
    }

    /// A number for a request that comes.
    pub(super) fn free_id(&mut self) -> u32 {
        self.vacant.pop().unwrap_or_else(|| {
            self.active.push(None);
            (self.active.len() - 1) as u32
        })
    }

    /// Names of the adapters whose requests run, or wait, in order.
    pub(super) fn adapters(&self, running: bool) -> String {
        let runs = |active: &&Active| self.fixed.is_some() || active.tokens > 0;
        let active = self.active.iter().flatten().filter(|active| runs(active) == running);
        let names: BTreeSet<_> = active.filter_map(|active| active.job.served.adapter()).collect();
        names.into_iter().collect::<Vec<_>>().join(",")
    }

    /// Ends the step in flight and gives every request what is its own.
    pub(super) fn finish_step(&mut self, now: Duration) {
        let mut events = std::mem::take(&mut self.events);
        self.scheduler.finish_step(&mut events);
        for event in events.drain(..) {
            self.take(event, now);
        }
        self.events = events;
        self.metrics.step(self.scheduler.last_step());
    }

    /// Gives a request its next token, and makes its next appointment.
    pub(super) fn keep_appointment(&mut self, due: Instant, id: u32, times: FixedTimes, started: Instant) {
        let now = started.elapsed();
        self.lag.record(now.saturating_sub(due.saturating_duration_since(started)));
        let Some(active) = self.active.get(id as usize).and_then(Option::as_ref) else { return };
        let (given, wanted) = (active.tokens, active.job.script.answer.tokens);
        let prompt_tokens = active.job.prompt_tokens;
        let ends = given + 1 >= wanted;
        if let Some(counters) = &mut self.fixed {
            counters.prefill_tokens += if given == 0 { u64::from(prompt_tokens) } else { 0 };
            counters.output_tokens += u64::from(wanted > 0);
            counters.finished += u64::from(ends);
        }
        let id = id.into();
        if wanted > 0 {
            let first = Event::FirstToken { id, cached_tokens: 0, waited: Duration::ZERO };
            self.take(if given == 0 { first } else { Event::Token { id } }, now);
        }
        if ends {
            self.take(Event::Finished { id, waited: Duration::ZERO }, now);
        } else {
            let after = times.between_tokens.mul_f64(self.slowdown);
            self.appointments.add(due + after, id as u32);
        }
        self.metrics.flush_gaps();
    }

    /// Takes over what happened to the cache, while the requests are there whose blocks these are.
    pub(super) fn collect_cache_events(&mut self) {
        let block_tokens = self.scheduler.profile().block_tokens.max(1);
        for change in self.scheduler.take_cache_changes() {
            match change {
                CacheChange::Stored { id, first_block, blocks } => {
                    let Some(Some(Active { job, .. })) = self.active.get(id as usize) else { continue };
                    let (first, end) = (first_block as usize, (first_block + blocks) as usize);
                    let size = block_tokens as usize;
                    self.cache_events.push(CacheEvent::Stored(BlocksStored {
                        hashes: job.block_hashes[first..end].to_vec(),
                        parent: first.checked_sub(1).map(|before| job.block_hashes[before]),
                        tokens: job.token_ids[first * size..end * size].to_vec(),
                        block_tokens,
                        lora_name: job.served.adapter().map(str::to_owned),
                        ..BlocksStored::default()
                    }));
                }
                CacheChange::Removed { hash } => match self.cache_events.last_mut() {
                    Some(CacheEvent::Removed(removed)) => removed.hashes.push(hash),
                    _ => self.cache_events.push(CacheEvent::Removed(BlocksRemoved {
                        hashes: vec![hash],
                        ..BlocksRemoved::default()
                    })),
                },
                CacheChange::Cleared => self.cache_events.push(CacheEvent::Cleared),
            }
        }
    }

    fn take(&mut self, event: Event, now: Duration) {
        let (Event::FirstToken { id, .. } | Event::Token { id } | Event::Finished { id, .. }) = event;
        let Some(slot) = self.active.get_mut(id as usize) else { return };
        let Some(active) = slot else { return };
        match event {
            Event::FirstToken { cached_tokens, waited, .. } => {
                (active.cached_tokens, active.admitted) = (cached_tokens, waited);
                active.first_token = now;
                self.metrics.first_token(active.job.prompt_tokens, now.saturating_sub(active.arrived));
                active.token(now);
            }
            Event::Token { .. } => {
                self.metrics.next_token(now.saturating_sub(active.last_token));
                active.token(now);
            }
            Event::Finished { waited, .. } => {
                active.finish();
                if active.tokens == 0 {
                    // What only reads its prompt has read it now, which is when vLLM counts it.
                    (active.admitted, active.first_token, active.last_token) = (waited, now, now);
                    self.metrics.first_token(active.job.prompt_tokens, now.saturating_sub(active.arrived));
                }
                self.metrics.finished(&active.finished());
                *slot = None;
                self.vacant.push(id as u32);
            }
        }
    }
}

impl Lag {
    pub(super) fn record(&mut self, late: Duration) {
        self.steps += 1;
        self.last = late;
        self.sum += late;
        self.most = self.most.max(late);
        if late > MOST_LAG {
            self.slipped += late;
        }
    }

    pub(super) fn to_json(self) -> Value {
        let mean = self.sum.as_secs_f64() / self.steps.max(1) as f64;
        json!({
            "last_ms": self.last.as_secs_f64() * 1e3,
            "mean_ms": mean * 1e3,
            "max_ms": self.most.as_secs_f64() * 1e3,
            "slipped_ms": self.slipped.as_secs_f64() * 1e3,
        })
    }
}
