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
    /// What others may share with it, where that was measured.
    pub(super) content: Option<Content>,
}

/// What a prompt and its answer are, as far as it was measured: equal ids are equal beginnings up to there.
#[derive(Clone, Debug, PartialEq)]
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
///
/// Everything happens in the order of the simulator, and of clients over a network. An idle engine begins with the first
/// request that it gets, and one whose step is over begins the next before anybody can answer what came of the last.
pub(super) fn replay(profile: &Profile, requests: &[Arriving], together: usize) -> Vec<Option<Times>> {
    let mut replay = Replay {
        scheduler: Scheduler::new(profile.clone()),
        requests,
        together,
        times: vec![None; requests.len()],
        next: 0,
        in_flight: 0,
        step_ends: None,
    };
    let (mut now, mut events) = (Duration::ZERO, Vec::new());
    loop {
        replay.submit(now);
        if let Some(end) = replay.step_ends {
            now = end;
            replay.submit(now);
            replay.scheduler.finish_step(&mut events);
            replay.step_ends = None;
            replay.begin_step(now);
            events.drain(..).for_each(|event| replay.hear(event, now));
        } else if let Some(request) = requests.get(replay.next) {
            now = now.max(Duration::from_secs_f64(request.at_s)) + Duration::from_nanos(1);
        } else {
            return replay.times;
        }
    }
}

/// A replay under way.
struct Replay<'a> {
    scheduler: Scheduler,
    requests: &'a [Arriving],
    together: usize,
    times: Vec<Option<Times>>,
    /// Place of the first request that was not submitted.
    next: usize,
    in_flight: usize,
    /// End of the step under way.
    step_ends: Option<Duration>,
}

impl Replay<'_> {
    /// Submits what is due and has room.
    fn submit(&mut self, now: Duration) {
        while self.in_flight < self.together
            && let Some(request) = self.requests.get(self.next)
            && request.at_s <= now.as_secs_f64()
        {
            let submission = Submission {
                id: self.next as u64,
                block_hashes: request
                    .block_hashes(self.next as u64, self.scheduler.profile().block_tokens.max(1)),
                prompt_tokens: request.prompt_tokens,
                output_tokens: request.output_tokens,
                adapter: 0,
            };
            if self.scheduler.submit_loaded(submission, request.cached_tokens, now).is_ok() {
                // An engine in the middle of a step looks at a request when the step is over.
                let closed_loop = self.together != usize::MAX;
                let submitted_s = if closed_loop { now.as_secs_f64() } else { request.at_s };
                self.times[self.next] = Some(Times { submitted_s, ..Times::default() });
                self.in_flight += 1;
                self.begin_step(now);
            }
            self.next += 1;
        }
    }

    fn begin_step(&mut self, now: Duration) {
        if self.step_ends.is_none() {
            self.step_ends = self.scheduler.start_step(now).map(|lasts| now + lasts);
        }
    }

    fn hear(&mut self, event: Event, now: Duration) {
        let (Event::FirstToken { id, .. } | Event::Token { id } | Event::Finished { id, .. }) = event;
        let Some(times) = self.times.get_mut(id as usize).and_then(Option::as_mut) else { return };
        match event {
            Event::FirstToken { .. } => {
                (times.first_s, times.last_s) = (now.as_secs_f64(), now.as_secs_f64());
            }
            Event::Token { .. } => times.last_s = now.as_secs_f64(),
            Event::Finished { .. } => self.in_flight -= 1,
        }
    }
}

impl Arriving {
    /// The engine's full blocks, which its cache may find again, and whose memory it shares. Each is known by the last id
    /// that reaches into it, and by its place. Beyond the ids they are the request's own: it may find them
    /// itself, after a preemption.
    fn block_hashes(&self, number: u64, block_tokens: u32) -> Arc<[u64]> {
        let tokens = u64::from(self.prompt_tokens) + u64::from(self.output_tokens);
        let hash = |block: u64| {
            let end = ((block + 1) * u64::from(block_tokens)) as f64;
            let last = |content: &Content| ((end / content.id_tokens).ceil() as usize).saturating_sub(1);
            match self.content.as_ref().and_then(|content| content.ids.get(last(content))) {
                Some(id) => xxh3_64_with_seed(&id.to_le_bytes(), block),
                None => number << 32 | block,
            }
        };
        (0..tokens / u64::from(block_tokens)).map(hash).collect()
    }
}
