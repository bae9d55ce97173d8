//! One engine's requests again, in virtual time.

use std::time::Duration;

use engine::{Event, Profile, Scheduler, Submission};

/// A request as the engine gets it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arriving {
    /// Since the first one.
    pub(super) at_s: f64,
    pub(super) prompt_tokens: u32,
    /// Found in the cache when it was measured.
    pub(super) cached_tokens: u32,
    pub(super) output_tokens: u32,
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
            // What a request found of others is told; of itself it may find something after a preemption.
            let blocks = u64::from(request.prompt_tokens + request.output_tokens)
                / u64::from(profile.block_tokens.max(1));
            let submission = Submission {
                id: next as u64,
                block_hashes: (0..blocks).map(|block| (next as u64) << 32 | block).collect(),
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
            let (Event::FirstToken { id, .. } | Event::Token { id } | Event::Finished { id, .. }) = event;
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
