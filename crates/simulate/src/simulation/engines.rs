//! The engines' side of a run: requests arrive, steps end, tokens come back, replicas die.

use report::{Chunk, Outcome};
use routing::RetrySettings;

use super::{ActiveRequest, Event, Simulation};
use crate::{Error, Fault};

impl Simulation {
    pub(super) fn deliver(&mut self, slot: usize) -> Result<(), Error> {
        let Some(request) = self.requests[slot].as_mut() else { return Ok(()) };
        let replica = &mut self.fleet.replicas[request.replica];
        if !replica.alive {
            return self.retry(slot);
        }
        let submission = engine::Submission {
            id: u64::from(request.number) << 32 | slot as u64,
            block_hashes: request.prompt.with_answer.clone(),
            prompt_tokens: request.prompt.tokens,
            output_tokens: request.output_tokens,
            adapter: 0,
        };
        match replica.scheduler.submit_loaded(submission, request.loaded_tokens, self.now) {
            Ok(()) => {
                request.delivered = true;
                let replica = request.replica;
                self.start_step(replica);
            }
            Err(rejected) => {
                request.record.status = Some(400);
                self.end(slot, self.now + self.network, Outcome::Status(400, rejected.to_string()));
            }
        }
        Ok(())
    }

    /// Nobody listens at the request's replica: another one gets it, a few times.
    fn retry(&mut self, slot: usize) -> Result<(), Error> {
        let Some(request) = self.requests[slot].as_mut() else { return Ok(()) };
        if let Some(lease) = request.lease.take() {
            lease.settle(routing::Outcome::ConnectFailed, self.now);
        }
        if request.tried.len() < RetrySettings::default().retries as usize {
            request.tried.push(request.replica);
            self.retries += 1;
            return self.send(slot);
        }
        request.record.status = Some(502);
        let outcome = Outcome::Status(502, "no replica could be reached".into());
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
        simulated.stepping = false;
        simulated.scheduler.finish_step(&mut batch);
        self.tokens += batch.len() as u64;
        self.events.push(self.now + self.network, Event::Tokens { batch });
        self.start_step(replica);
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        if !self.fleet.fault(fault) {
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
        if request.record.chunks.is_empty() {
            request.record.status = Some(502);
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
            engine::Event::Finished { id } => {
                let Some(request) = self.request(id) else { return };
                let done = request.record.chunks.last().map(|chunk| chunk.at);
                self.end(id as u32 as usize, done.unwrap_or(self.now), Outcome::Success);
            }
        }
    }

    /// The request that an engine means, unless it is over.
    fn request(&mut self, id: u64) -> Option<&mut ActiveRequest> {
        let request = self.requests[id as u32 as usize].as_mut()?;
        (request.number == (id >> 32) as u32 && request.lease.is_some()).then_some(request)
    }

    /// A token reaches the balancer, which counts it, and the client, which stamps it when it gets to it.
    fn chunk(&mut self, id: u64, cached_tokens: Option<u32>) {
        let (now, per_chunk) = (self.now, self.client.per_chunk);
        if self.request(id).is_none() {
            return;
        }
        let stamp = self.event_loop.handle(now, per_chunk);
        let Some(request) = self.request(id) else { return };
        if let Some(lease) = &mut request.lease {
            if let Some(cached_tokens) = cached_tokens {
                lease.observed_cached(cached_tokens);
            }
            lease.produced(1, now);
        }
        let record = &mut request.record;
        if cached_tokens.is_some() {
            record.headers = Some(stamp);
            record.first_answer = Some(stamp);
            record.cached_tokens = cached_tokens;
        }
        record.chunks.push(Chunk { at: stamp, tokens: 1 });
        record.output_tokens.tokens += 1;
    }
}
