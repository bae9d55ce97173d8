//! One engine's requests again, in virtual time.

use std::{sync::Arc, time::Duration};

use engine::{Event, Profile, Scheduler, Submission};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A request as the engine gets it.
#[derive(Clone, Debug, Default)]
pub(super) struct Arriving {
    /// Since the first one.
    pub(super) at_s: f64,
    pub(super) prompt_tokens: u32,
    /// Found in the cache when it was measured.
    pub(super) cached_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) content: Content,
}

/// What a prompt and its answer are, as far as it was measured: equal ids are equal beginnings up to there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Content {
    pub(super) ids: Arc<[u64]>,
    /// Tokens of the engine for each of them.
    pub(super) id_tokens: f64,
}

/// When a request was submitted, answered and done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) submitted_s: f64,
    pub(super) first_s: f64,
    pub(super) last_s: f64,
}

/// Runs requests on an engine, in their order, at most `together` at a time. Those that can never run have no
/// times.
pub(super) fn replay(profile: &Profile, requests: &[Arriving], together: usize) -> Vec<Option<Times>> {
    let mut times = vec![None; requests.len()];
    let mut scheduler = Scheduler::new(profile.clone());
    let (mut now, mut next, mut in_flight, mut events) = (Duration::ZERO, 0, 0, Vec::new());
    loop {
        while in_flight < together
            && let Some(request) = requests.get(next)
            && request.at_s <= now.as_secs_f64()
        {
            let submission = Submission {
                id: next as u64,
                block_hashes: request.block_hashes(next as u64, profile.block_tokens.max(1)),
                prompt_tokens: request.prompt_tokens,
                output_tokens: request.output_tokens,
                adapter: 0,
            };
            if scheduler.submit_loaded(submission, request.cached_tokens, now).is_ok() {
                // An engine in the middle of a step looks at a request when the step is over.
                let submitted_s = if together == usize::MAX { request.at_s } else { now.as_secs_f64() };
                times[next] = Some(Times { submitted_s, ..Times::default() });
                in_flight += 1;
            }
            next += 1;
        }
        if let Some(lasts) = scheduler.start_step(now) {
            now += lasts;
            scheduler.finish_step(&mut events);
        } else if let Some(request) = requests.get(next) {
            now = now.max(Duration::from_secs_f64(request.at_s)) + Duration::from_nanos(1);
        } else {
            return times;
        }
        for event in events.drain(..) {
            let (Event::FirstToken { id, .. } | Event::Token { id } | Event::Finished { id }) = event;
            let Some(times) = times.get_mut(id as usize).and_then(Option::as_mut) else { continue };
            match event {
                Event::FirstToken { .. } => {
                    (times.first_s, times.last_s) = (now.as_secs_f64(), now.as_secs_f64());
                }
                Event::Token { .. } => times.last_s = now.as_secs_f64(),
                Event::Finished { .. } => in_flight -= 1,
            }
        }
    }
}

impl Arriving {
    /// The engine's full blocks, which its cache may find again, and whose memory it shares. Each is known by the last id
    /// that reaches into it, and by its place. Beyond the ids they are the request's own: it may find them
    /// itself, after a preemption.
    fn block_hashes(&self, number: u64, block_tokens: u32) -> Arc<[u64]> {
        let Content { ids, id_tokens } = &self.content;
        let tokens = u64::from(self.prompt_tokens) + u64::from(self.output_tokens);
        let hash = |block: u64| {
            let end = (block + 1) * u64::from(block_tokens);
            let last = (end as f64 / id_tokens).ceil() - 1.0;
            match ids.get(last as usize) {
                Some(id) => xxh3_64_with_seed(&id.to_le_bytes(), block),
                None => number << 32 | block,
            }
        };
        (0..tokens / u64::from(block_tokens)).map(hash).collect()
    }
}
