//! The event loop of one run.
//!
//! A session takes a slot of the client, its turns go one after the other: pick a replica, cross the network,
//! wait and run in the engine, stream back. Tokens of one engine step travel together.

use std::{collections::VecDeque, time::Duration};

use report::{Chunk, Count, CountSource, Outcome, Record};
use routing::Lease;
use workload::{Arrival, Phase, Plan, Session};

use crate::{
    ClientModel, FleetSettings, PromptHashes, ReplicaFigures, client::EventLoop, fleet::Fleet,
    queue::EventQueue,
};

/// Everything a run depends on besides its plan.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Engines, balancers, network.
    pub fleet: FleetSettings,
    /// Who sends.
    pub client: ClientModel,
    /// Random picks flow from it.
    pub seed: u64,
}

/// What only a simulator can know of a run.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Figures {
    /// Virtual time of the last event.
    pub simulated: Duration,
    /// Events handled.
    pub events: u64,
    /// One a replica.
    pub replicas: Vec<ReplicaFigures>,
}

/// Why a run cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No engine profile was given.
    #[error("the fleet has no replicas: give at least one")]
    NoReplicas,
    /// The policy's settings are wrong.
    #[error(transparent)]
    Policy(#[from] routing::SettingsError),
    /// The plan cannot be made.
    #[error(transparent)]
    Workload(#[from] workload::Error),
    /// No replica can serve a request.
    #[error("no replica for a request: {0}")]
    Pick(#[from] routing::NoReplica),
}

/// Runs `plan` on the fleet and hands over each record when its request is over.
pub fn run(settings: &Settings, plan: Plan, mut on_record: impl FnMut(&Record)) -> Result<Figures, Error> {
    let mut simulation = Simulation::new(settings)?;
    for (index, phase) in plan.phases.into_iter().enumerate() {
        simulation.phase(u16::try_from(index).unwrap_or(u16::MAX), phase, &mut on_record)?;
    }
    Ok(Figures {
        simulated: simulation.now,
        events: simulation.events.inserted(),
        replicas: simulation.fleet.figures(),
    })
}

enum Event {
    /// The next session of the plan is due.
    Arrive,
    /// The client has finished a pass over a request.
    Pass { slot: usize, left: u32 },
    /// A request reaches its engine.
    Deliver { slot: usize },
    /// An engine's step is over.
    StepEnd { replica: usize },
    /// The tokens of a step reach the balancer and the client.
    Tokens { batch: Vec<engine::Event> },
    /// The client has handled the last chunk of a request.
    Done { slot: usize },
    /// A session's think time is over.
    Turn { session: Box<ActiveSession> },
}

struct Simulation {
    fleet: Fleet,
    client: ClientModel,
    event_loop: EventLoop,
    network: Duration,
    events: EventQueue<Event>,
    requests: Vec<Option<ActiveRequest>>,
    free: Vec<usize>,
    spare_batches: Vec<Vec<engine::Event>>,
    now: Duration,
}

struct ActiveRequest {
    record: Record,
    prompt: PromptHashes,
    output_tokens: u32,
    replica: usize,
    lease: Option<Lease>,
    session: Box<ActiveSession>,
}

struct ActiveSession {
    id: u64,
    turn: u32,
    turns: std::vec::IntoIter<workload::Turn>,
    scheduled: Duration,
}

/// State of the phase under way.
struct PhaseState {
    number: u16,
    start: Duration,
    arrivals: Box<dyn Iterator<Item = Arrival> + Send>,
    next: Option<Arrival>,
    concurrency: usize,
    active: usize,
    /// Sessions that are due and wait for a slot.
    waiting: VecDeque<(Duration, Session)>,
    /// The next arrival is due but is not drawn before a slot is free.
    blocked: bool,
    index: u64,
}

impl Simulation {
    fn new(settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            fleet: Fleet::new(&settings.fleet, settings.seed)?,
            client: settings.client,
            event_loop: EventLoop::default(),
            network: settings.fleet.network,
            events: EventQueue::new(),
            requests: Vec::new(),
            free: Vec::new(),
            spare_batches: Vec::new(),
            now: Duration::ZERO,
        })
    }

    fn phase(&mut self, number: u16, phase: Phase, on_record: &mut impl FnMut(&Record)) -> Result<(), Error> {
        let mut arrivals = phase.arrivals;
        let next = arrivals.next();
        let mut state = PhaseState {
            number,
            start: self.now,
            arrivals,
            concurrency: phase.limits.concurrency.map_or(usize::MAX, |limit| limit as usize),
            active: 0,
            waiting: VecDeque::new(),
            blocked: false,
            index: 0,
            next,
        };
        if let Some(first) = &state.next {
            self.events.push(state.start + first.at, Event::Arrive);
        }
        while let Some((at, event)) = self.events.pop() {
            self.now = at;
            match event {
                Event::Arrive => self.arrive(&mut state)?,
                Event::Pass { slot, left } => self.pass(slot, left)?,
                Event::Deliver { slot } => self.deliver(slot),
                Event::StepEnd { replica } => self.step_end(replica),
                Event::Tokens { batch } => self.tokens(batch),
                Event::Done { slot } => self.done(slot, &mut state, on_record)?,
                Event::Turn { session } => self.turn(session, &mut state)?,
            }
        }
        Ok(())
    }

    fn arrive(&mut self, state: &mut PhaseState) -> Result<(), Error> {
        let Some(Arrival { at, session }) = state.next.take() else { return Ok(()) };
        state.next = state.arrivals.next();
        let scheduled = state.start + at;
        let handled = self.event_loop.handle(self.now, self.client.pass());
        if state.active < state.concurrency {
            self.open(session, scheduled, state)?;
        } else {
            state.waiting.push_back((scheduled, session));
        }
        if let Some(next) = &state.next {
            let due = if self.client.relative_gaps {
                handled + next.at.saturating_sub(at)
            } else {
                state.start + next.at
            };
            if !self.client.relative_gaps && due <= self.now && state.active >= state.concurrency {
                state.blocked = true;
            } else {
                self.events.push(due.max(self.now), Event::Arrive);
            }
        }
        Ok(())
    }

    fn open(&mut self, session: Session, scheduled: Duration, state: &mut PhaseState) -> Result<(), Error> {
        state.active += 1;
        let session = ActiveSession { id: session.id, turn: 0, turns: session.turns.into_iter(), scheduled };
        self.turn(Box::new(session), state)
    }

    /// Starts the next turn of a session, or gives its slot to the next one.
    fn turn(&mut self, mut session: Box<ActiveSession>, state: &mut PhaseState) -> Result<(), Error> {
        let Some(turn) = session.turns.next() else { return self.release(state) };
        let request = turn.request;
        let prompt = PromptHashes::of(&request);
        let output_tokens = request.output_tokens.unwrap_or(1).max(1);
        let record = Record {
            phase: state.number,
            index: state.index,
            session: session.id,
            turn: session.turn,
            target: 0,
            model: request.model,
            scheduled: session.scheduled,
            admitted: self.now,
            sent: None,
            written: None,
            headers: None,
            chunks: Vec::with_capacity(output_tokens as usize),
            first_answer: None,
            done: Duration::ZERO,
            connection_reused: false,
            connect: None,
            input_tokens: Count { tokens: prompt.tokens, source: CountSource::Dataset },
            output_tokens: Count { tokens: 0, source: CountSource::Usage },
            reasoning_tokens: None,
            cached_tokens: None,
            requested_tokens: Some(output_tokens),
            own_input_tokens: None,
            own_output_tokens: None,
            request_bytes: 0,
            response_bytes: 0,
            retries: 0,
            retried_for: Duration::ZERO,
            status: Some(200),
            outcome: Outcome::Incomplete,
        };
        state.index += 1;
        session.turn += 1;
        let request = ActiveRequest { record, prompt, output_tokens, replica: 0, lease: None, session };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.requests[slot] = Some(request);
                slot
            }
            None => {
                self.requests.push(Some(request));
                self.requests.len() - 1
            }
        };
        // The first pass was spent on creating the request, when it arrived; the last one sends it.
        let Some(left) = self.client.passes.checked_sub(2) else { return self.send(slot) };
        let handled = self.event_loop.handle(self.now, self.client.pass());
        self.events.push(handled, Event::Pass { slot, left });
        Ok(())
    }

    fn pass(&mut self, slot: usize, left: u32) -> Result<(), Error> {
        if let Some(request) = self.requests[slot].as_mut() {
            // The client's clock starts when it first holds the request, not when the bytes leave.
            request.record.sent.get_or_insert(self.now);
        }
        if left == 0 {
            return self.send(slot);
        }
        let handled = self.event_loop.handle(self.now, self.client.pass());
        self.events.push(handled, Event::Pass { slot, left: left - 1 });
        Ok(())
    }

    fn send(&mut self, slot: usize) -> Result<(), Error> {
        let Some(request) = self.requests[slot].as_mut() else { return Ok(()) };
        request.record.sent.get_or_insert(self.now);
        request.record.written = Some(self.now);
        let (replica, pick) =
            self.fleet.pick(&request.prompt, request.session.id, request.output_tokens, self.now)?;
        request.replica = replica;
        request.record.target = u16::try_from(replica).unwrap_or(u16::MAX);
        request.lease = Some(pick.lease);
        self.events.push(self.now + self.network, Event::Deliver { slot });
        Ok(())
    }

    fn deliver(&mut self, slot: usize) {
        let Some(request) = self.requests[slot].as_mut() else { return };
        let replica = request.replica;
        let submission = engine::Submission {
            id: slot as u64,
            block_hashes: request.prompt.blocks.clone(),
            prompt_tokens: request.prompt.tokens,
            output_tokens: request.output_tokens,
            adapter: 0,
        };
        match self.fleet.replicas[replica].scheduler.submit(submission, self.now) {
            Ok(()) => self.start_step(replica),
            Err(rejected) => {
                request.record.status = Some(400);
                self.end(slot, self.now + self.network, Outcome::Status(400, rejected.to_string()));
            }
        }
    }

    fn start_step(&mut self, replica: usize) {
        if let Some(end) = self.fleet.start_step(replica, self.now) {
            self.events.push(end, Event::StepEnd { replica });
        }
    }

    fn step_end(&mut self, replica: usize) {
        let mut batch = self.spare_batches.pop().unwrap_or_default();
        let simulated = &mut self.fleet.replicas[replica];
        simulated.stepping = false;
        simulated.scheduler.finish_step(&mut batch);
        self.events.push(self.now + self.network, Event::Tokens { batch });
        self.start_step(replica);
    }

    fn tokens(&mut self, mut batch: Vec<engine::Event>) {
        for event in batch.drain(..) {
            self.token(event);
        }
        self.spare_batches.push(batch);
    }

    fn token(&mut self, event: engine::Event) {
        match event {
            engine::Event::FirstToken { id, cached_tokens, .. } => {
                self.chunk(id as usize, Some(cached_tokens))
            }
            engine::Event::Token { id } => self.chunk(id as usize, None),
            engine::Event::Finished { id } => {
                let slot = id as usize;
                let Some(request) = self.requests[slot].as_mut() else { return };
                let done = request.record.chunks.last().map_or(self.now, |chunk| chunk.at);
                self.end(slot, done, Outcome::Success);
            }
        }
    }

    /// A token reaches the balancer, which counts it, and the client, which stamps it when it gets to it.
    fn chunk(&mut self, slot: usize, cached_tokens: Option<u32>) {
        let Some(request) = self.requests[slot].as_mut() else { return };
        let stamp = self.event_loop.handle(self.now, self.client.per_chunk);
        if let Some(lease) = &mut request.lease {
            if let Some(cached_tokens) = cached_tokens {
                lease.observed_cached(cached_tokens);
            }
            lease.produced(1, self.now);
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

    /// The request is over; the client notices at `done`.
    fn end(&mut self, slot: usize, done: Duration, outcome: Outcome) {
        let Some(request) = self.requests[slot].as_mut() else { return };
        if let Some(lease) = request.lease.take() {
            lease.settle(routing::Outcome::Answered, self.now);
        }
        request.record.done = done;
        request.record.outcome = outcome;
        self.events.push(done, Event::Done { slot });
    }

    fn done(
        &mut self,
        slot: usize,
        state: &mut PhaseState,
        on_record: &mut impl FnMut(&Record),
    ) -> Result<(), Error> {
        let Some(request) = self.requests[slot].take() else { return Ok(()) };
        self.free.push(slot);
        on_record(&request.record);
        let mut session = request.session;
        let Some(next) = session.turns.as_slice().first() else { return self.release(state) };
        let due = (self.now + next.delay).max(state.start + next.not_before.unwrap_or_default());
        session.scheduled = due;
        if due > self.now {
            self.events.push(due, Event::Turn { session });
            return Ok(());
        }
        self.turn(session, state)
    }

    fn release(&mut self, state: &mut PhaseState) -> Result<(), Error> {
        state.active -= 1;
        if let Some((scheduled, session)) = state.waiting.pop_front() {
            return self.open(session, scheduled, state);
        }
        if std::mem::take(&mut state.blocked) {
            self.events.push(self.now, Event::Arrive);
        }
        Ok(())
    }
}
