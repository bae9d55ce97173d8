//! The engines' side of a run: requests arrive, steps end, tokens come back, replicas die.

use std::time::Duration;

use report::Outcome;
use routing::{Attempt, RetrySettings, may_retry};

use super::{ActiveRequest, Event, Rest, Simulation};
use crate::{Error, Fault};

/// Tokens for whose stamps there is room beforehand: few answers are longer.
pub(super) const MOST_STAMPS: u32 = 16_384;

impl Simulation {
    pub(super) fn deliver(&mut self, slot: usize) -> Result<(), Error> {
        let Some(request) = self.requests[slot].as_mut() else { return Ok(()) };
        let replica = &mut self.fleet.replicas[request.replica];
        if !replica.alive {
            return self.retry(slot);
        }
        let rest = &request.rest;
        let submission = engine::Submission {
            id: u64::from(request.number) << 32 | slot as u64,
            block_hashes: rest.prompt.engine_blocks(replica.scheduler.profile().block_tokens),
            prompt_tokens: rest.prompt.tokens,
            output_tokens: rest.output_tokens,
            adapter: 0,
        };
        let loaded_tokens = rest.reached.map_or(0, |reached| reached.loaded_tokens);
        match replica.scheduler.submit_loaded(submission, loaded_tokens, self.now) {
            Ok(()) => {
                request.delivered = true;
                let replica = request.replica;
                self.start_step(replica);
            }
            Err(rejected) => {
                self.end(slot, self.now + self.network, Outcome::Status(400, rejected.to_string()));
            }
        }
        Ok(())
    }

    /// Nobody listens at the request's replica: another one gets it, as often as the rule and the balancer's budget
    /// allow.
    fn retry(&mut self, slot: usize) -> Result<(), Error> {
        let Some(request) = self.requests[slot].as_mut() else { return Ok(()) };
        if let Some(lease) = request.lease.take() {
            lease.settle(routing::Outcome::ConnectFailed, self.now);
        }
        let Rest { tried, reached, retry, .. } = &mut *request.rest;
        let settings = RetrySettings::default();
        let attempt = Attempt {
            outcome: routing::Outcome::ConnectFailed,
            retries: tried.len() as u32,
            sent: false,
            answering: false,
            safe: false,
        };
        // The retry that failed is under way until another one is.
        let granted = reached
            .filter(|_| may_retry(&attempt, &settings).is_ok())
            .and_then(|reached| self.fleet.budget(reached).retry(&settings));
        if granted.is_some() {
            *retry = granted;
            tried.push(request.replica);
            self.retries += 1;
            return self.send(slot);
        }
        let outcome = Outcome::Status(503, "the replica does not accept connections".into());
        self.end(slot, self.now + self.network, outcome);
        Ok(())
    }

    fn start_step(&mut self, replica: usize) {
        if let Some(end) = self.fleet.start_step(replica, self.now) {
            let deaths = self.fleet.replicas[replica].deaths;
            self.events.push(end, Event::StepEnd { replica, deaths });
        }
    }

    pub(super) fn step_end(&mut self, replica: usize, deaths: u32) {
        let simulated = &mut self.fleet.replicas[replica];
        if simulated.deaths != deaths {
            return;
        }
        let mut batch = self.spare_batches.pop().unwrap_or_default();
        simulated.step_ends = None;
        simulated.scheduler.finish_step(&mut batch);
        self.tokens += batch.len() as u64;
        self.events.push_last(self.now + self.network, Event::Tokens { batch });
        self.start_step(replica);
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        if !self.fleet.fault(fault, self.now) {
            return;
        }
        for slot in 0..self.requests.len() {
            let Some(request) = self.requests[slot].as_mut() else { continue };
            if request.replica == fault.replica && request.delivered && request.lease.is_some() {
                self.fail(slot);
            }
        }
    }

    /// The request's replica died under it.
    fn fail(&mut self, slot: usize) {
        let Some(request) = self.requests[slot].as_mut() else { return };
        if let Some(lease) = request.lease.take() {
            lease.settle(routing::Outcome::Broken, self.now);
        }
        if request.stamps.is_empty() {
            request.rest.record.status = Some(502);
        }
        self.end(slot, self.now + self.network, Outcome::Broken("the replica died".into()));
    }

    pub(super) fn token_batch(&mut self, mut batch: Vec<engine::Event>) {
        for event in batch.drain(..) {
            self.token(event);
        }
        self.spare_batches.push(batch);
    }

    fn token(&mut self, event: engine::Event) {
        match event {
            engine::Event::FirstToken { id, cached_tokens, .. } => self.chunk(id, Some(cached_tokens)),
            engine::Event::Token { id } => self.chunk(id, None),
            engine::Event::Finished { id, .. } => {
                let Some(request) = live(&mut self.requests, id) else { return };
                let done = request.stamps.last().map(|stamp| Duration::from_nanos(*stamp));
                self.end(place(id), done.unwrap_or(self.now), Outcome::Success);
            }
        }
    }

    /// A token reaches the balancer, which counts it, and the client, which stamps it when it gets to it.
    fn chunk(&mut self, id: u64, cached_tokens: Option<u32>) {
        let Some(request) = live(&mut self.requests, id) else { return };
        let Some(lease) = &mut request.lease else { return };
        if let Some(cached_tokens) = cached_tokens {
            lease.observed_cached(cached_tokens, 0);
            request.rest.record.cached_tokens = Some(cached_tokens);
        }
        lease.produced(1, self.now);
        let stamp = self.event_loop.handle(self.now, self.client.per_chunk);
        request.stamps.push(stamp.as_nanos() as u64);
    }
}

/// Where a request lies that an engine means.
fn place(id: u64) -> usize {
    id as u32 as usize
}

/// The request that an engine means, unless it is over.
fn live(requests: &mut [Option<ActiveRequest>], id: u64) -> Option<&mut ActiveRequest> {
    let request = requests.get_mut(place(id))?.as_mut()?;
    (request.number == (id >> 32) as u32 && request.lease.is_some()).then_some(request)
}
