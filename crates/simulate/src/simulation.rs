//! The event loop of one run.
//!
//! A session takes a slot of the client, its turns go one after the other: pick a replica, cross the network,
//! wait and run in the engine, stream back. Tokens of one engine step travel together.

mod engines;

use std::time::Duration;

use report::{Chunk, Count, CountSource, Outcome, Record};
use routing::{EngineReport, Lease, PolicySettings, Retry};
use workload::{Arrival, Phase, PhaseKind};

use crate::{
    ClientModel, Error, Fault, Figures, PromptHashes, Scrape, Settings,
    client::EventLoop,
    fleet::{Fleet, Reached},
    prompt::output_tokens,
    queue::EventQueue,
    sessions::{ActiveSession, PhaseState},
};

/// Between two health checks of a replica whose state may change; every fifth one is of all replicas.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

enum Event {
    /// The next session of the plan is due.
    Arrive,
    /// The client has finished a pass over a request.
    Pass {
        slot: usize,
        left: u32,
    },
    /// A request reaches its engine.
    Deliver {
        slot: usize,
    },
    /// An engine's step is over, if it did not die in between.
    StepEnd {
        replica: usize,
        deaths: u32,
    },
    /// The tokens of a step reach the balancer and the client.
    Tokens {
        batch: Vec<engine::Event>,
    },
    /// The client has handled the last chunk of a request.
    Done {
        slot: usize,
    },
    /// A session's think time is over.
    Turn {
        session: Box<ActiveSession>,
    },
    Fault(Box<Fault>),
    /// Health checks, by their number.
    Check(u32),
    /// A balancer reads the engines' pages.
    Scrape {
        balancer: usize,
    },
    /// What it read arrives.
    Reading {
        balancer: usize,
        queues: Box<[Option<EngineReport>]>,
    },
}

/// A run under way.
pub(crate) struct Simulation {
    fleet: Fleet,
    client: ClientModel,
    event_loop: EventLoop,
    network: Duration,
    faults: Vec<Fault>,
    /// Where a policy reads queues.
    scrape: Option<Scrape>,
    /// Periodic events were begun.
    ticking: bool,
    events: EventQueue<Event>,
    requests: Vec<Option<ActiveRequest>>,
    free: Vec<usize>,
    spare_batches: Vec<Vec<engine::Event>>,
    /// Of the record before.
    spare_chunks: Vec<Chunk>,
    /// Requests so far; tells a request from earlier ones in its slot.
    started: u32,
    tokens: u64,
    retries: u64,
    now: Duration,
}

/// What every token touches; the rest lies elsewhere.
struct ActiveRequest {
    number: u32,
    /// It is in its engine.
    delivered: bool,
    replica: usize,
    lease: Option<Lease>,
    /// When the client had each token, in nanoseconds: a third of what the record's chunks take.
    stamps: Vec<u64>,
    rest: Box<Rest>,
}

struct Rest {
    record: Record,
    prompt: PromptHashes,
    output_tokens: u32,
    /// As a balancer is told it.
    output_limit: Option<u32>,
    session_key: Option<u64>,
    reached: Option<Reached>,
    /// It counts for its balancer's retry budget.
    under_way: Option<routing::ActiveRequest>,
    retry: Option<Retry>,
    tried: Vec<usize>,
    session: Box<ActiveSession>,
}

impl Simulation {
    pub(crate) fn new(settings: &Settings) -> Result<Self, Error> {
        let fleet = &settings.fleet;
        Ok(Self {
            scrape: matches!(fleet.policy, PolicySettings::LeastQueue(_) | PolicySettings::PrefixAware(_))
                .then_some(fleet.scrape),
            fleet: Fleet::new(fleet, settings.seed)?,
            client: settings.client,
            event_loop: EventLoop::default(),
            network: fleet.network,
            faults: fleet.faults.clone(),
            ticking: false,
            events: EventQueue::new(),
            requests: Vec::new(),
            free: Vec::new(),
            spare_batches: Vec::new(),
            spare_chunks: Vec::new(),
            started: 0,
            tokens: 0,
            retries: 0,
            now: Duration::ZERO,
        })
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            simulated: self.now,
            events: self.events.inserted() + self.tokens,
            retries: self.retries,
            prediction: self.fleet.prediction(),
            learned: self.fleet.learned(),
            replicas: self.fleet.figures(),
        }
    }

    pub(crate) fn phase(
        &mut self,
        number: u16,
        phase: Phase,
        on_record: &mut impl FnMut(&Record),
    ) -> Result<(), Error> {
        let measured = phase.kind == PhaseKind::Measured;
        let mut state = PhaseState::new(number, phase, self.now);
        self.fleet.count_anew();
        if let Some(first) = &state.next {
            self.events.push(state.start + first.at, Event::Arrive);
        }
        self.begin_periodic();
        if measured {
            for fault in std::mem::take(&mut self.faults) {
                self.events.push(state.start + fault.at, Event::Fault(Box::new(fault)));
            }
        }
        while state.busy()
            && let Some((at, event)) = self.events.pop()
        {
            self.now = at;
            match event {
                Event::Arrive => self.arrive(&mut state)?,
                Event::Pass { slot, left } => self.pass(slot, left)?,
                Event::Deliver { slot } => self.deliver(slot)?,
                Event::StepEnd { replica, deaths } => self.step_end(replica, deaths),
                Event::Tokens { batch } => self.token_batch(batch),
                Event::Done { slot } => self.done(slot, &mut state, on_record)?,
                Event::Turn { session } => self.turn(session, &mut state)?,
                Event::Fault(fault) => self.fault(*fault),
                Event::Check(check) => {
                    self.fleet.check(check.is_multiple_of(5), self.now);
                    self.events.push(self.now + CHECK_INTERVAL, Event::Check(check + 1));
                }
                Event::Scrape { balancer } => self.scrape(balancer),
                Event::Reading { balancer, queues } => self.fleet.report(balancer, &queues, self.now),
            }
        }
        Ok(())
    }

    fn begin_periodic(&mut self) {
        if std::mem::replace(&mut self.ticking, true) {
            return;
        }
        if !self.faults.is_empty() {
            self.events.push(self.now, Event::Check(0));
        }
        if let Some(Scrape { interval, .. }) = self.scrape {
            // Balancers do not ask in step.
            let balancers = self.fleet.balancers();
            for balancer in 0..balancers {
                let offset = interval.mul_f64(balancer as f64 / balancers as f64);
                self.events.push(self.now + offset, Event::Scrape { balancer });
            }
        }
    }

    fn scrape(&mut self, balancer: usize) {
        let Some(Scrape { interval, delay }) = self.scrape else { return };
        let queues = self.fleet.queues().into();
        self.events.push(self.now + delay, Event::Reading { balancer, queues });
        self.events.push(self.now + interval.max(Duration::from_millis(1)), Event::Scrape { balancer });
    }

    fn arrive(&mut self, state: &mut PhaseState) -> Result<(), Error> {
        let Some(Arrival { at, session }) = state.take() else { return Ok(()) };
        let scheduled = state.start + at;
        let handled = self.event_loop.handle(self.now, self.client.pass());
        if state.active < state.concurrency {
            state.active += 1;
            self.turn(ActiveSession::new(session, scheduled), state)?;
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

    /// Starts the next turn of a session, or gives its slot to the next one.
    fn turn(&mut self, mut session: Box<ActiveSession>, state: &mut PhaseState) -> Result<(), Error> {
        let Some(turn) = session.turns.next() else { return self.release(state) };
        let request = turn.request;
        let output_tokens = output_tokens(&request);
        let goes_on = session.turns.len() > 0;
        let prompt = session.history.turn(&request, session.id, output_tokens, goes_on);
        let (session_key, output_limit) = match request.seen {
            Some(seen) => (seen.session_key, seen.max_tokens),
            None => (Some(routing::session_key(&session.id.to_le_bytes())), Some(output_tokens)),
        };
        let record = Record {
            phase: state.number,
            index: state.index,
            session: session.id,
            turn: session.turn,
            model: request.model,
            scheduled: session.scheduled,
            admitted: self.now,
            input_tokens: Count { tokens: prompt.tokens, source: CountSource::Dataset },
            output_tokens: Count { tokens: 0, source: CountSource::Usage },
            requested_tokens: Some(output_tokens),
            status: Some(200),
            outcome: Outcome::Incomplete,
            ..Record::default()
        };
        state.index += 1;
        session.turn += 1;
        self.started = self.started.wrapping_add(1);
        let request = ActiveRequest {
            number: self.started,
            delivered: false,
            replica: 0,
            lease: None,
            stamps: Vec::with_capacity(output_tokens.min(engines::MOST_STAMPS) as usize),
            rest: Box::new(Rest {
                record,
                prompt,
                output_tokens,
                output_limit,
                session_key,
                reached: None,
                under_way: None,
                retry: None,
                tried: Vec::new(),
                session,
            }),
        };
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
            request.rest.record.sent.get_or_insert(self.now);
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
        let Rest {
            record, prompt, output_tokens, output_limit, session_key, reached, under_way, tried, ..
        } = &mut *request.rest;
        record.sent.get_or_insert(self.now);
        record.written.get_or_insert(self.now);
        let reached = *reached.get_or_insert_with(|| self.fleet.reach(&record.model, prompt, *output_tokens));
        under_way.get_or_insert_with(|| self.fleet.budget(reached).begin());
        match self.fleet.pick(reached, prompt, *session_key, *output_limit, tried, self.now) {
            Ok((replica, lease)) => {
                request.replica = replica;
                record.target = u16::try_from(replica).unwrap_or(u16::MAX);
                request.lease = Some(lease);
                self.events.push_last(self.now + self.network, Event::Deliver { slot });
            }
            Err(Error::Pick(none)) => self.end(slot, self.now, Outcome::Status(503, none.to_string())),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The request is over; the client notices at `done`.
    fn end(&mut self, slot: usize, done: Duration, outcome: Outcome) {
        let Some(request) = self.requests[slot].as_mut() else { return };
        if let Some(lease) = request.lease.take() {
            lease.settle(routing::Outcome::Answered, self.now);
        }
        let Rest { record, under_way, retry, .. } = &mut *request.rest;
        (*under_way, *retry) = (None, None);
        if let Outcome::Status(status, _) = &outcome {
            record.status = Some(*status);
        }
        (record.done, record.outcome) = (done, outcome);
        self.events.push(done, Event::Done { slot });
    }

    fn done(
        &mut self,
        slot: usize,
        state: &mut PhaseState,
        on_record: &mut impl FnMut(&Record),
    ) -> Result<(), Error> {
        let Some(ActiveRequest { stamps, rest, .. }) = self.requests[slot].take() else { return Ok(()) };
        self.free.push(slot);
        let Rest { mut record, mut session, .. } = *rest;
        let chunk = |stamp: &u64| Chunk { at: Duration::from_nanos(*stamp), tokens: 1 };
        record.chunks = std::mem::take(&mut self.spare_chunks);
        record.chunks.extend(stamps.iter().map(chunk));
        record.headers = record.chunks.first().map(|chunk| chunk.at);
        record.first_answer = record.headers;
        record.output_tokens.tokens = stamps.len() as u32;
        on_record(&record);
        self.spare_chunks = record.chunks;
        self.spare_chunks.clear();
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
            state.active += 1;
            return self.turn(ActiveSession::new(session, scheduled), state);
        }
        if std::mem::take(&mut state.blocked) {
            self.events.push(self.now, Event::Arrive);
        }
        Ok(())
    }
}
