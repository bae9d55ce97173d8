//! Draws the plan, in order, and writes bodies before their time.
//!
//! One thread does this, whatever the number of threads that send. So the order of the plan, and every body in
//! it, depends on the plan alone. It runs ahead of the senders as far as their queues have room. Bodies of later
//! turns, which need the server's answers, are written here too, so that sending threads never write JSON.

use std::{iter::Peekable, time::Duration};

use workload::Arrival;

use crate::{
    Error,
    inbox::Item,
    phase::PhaseRun,
    run::Shared,
    session::{Place, Session},
};

/// A phase starts when this many sessions are ready, or after [`PRIME_TIME`].
const PRIME_SESSIONS: u64 = 64;
const PRIME_TIME: Duration = Duration::from_millis(20);
/// Time from the moment a phase can start to its start, in which all threads wake up.
const LEAD: Duration = Duration::from_millis(1);
/// The longest the planner waits without a look at the state of the run.
const PATIENCE: Duration = Duration::from_millis(20);

pub(crate) type Arrivals = Box<dyn Iterator<Item = Arrival> + Send>;

/// Feeds all phases, then writes bodies until the run is over.
pub(crate) fn plan(shared: &Shared<'_>, phases: Vec<Arrivals>) -> Result<(), Error> {
    let mut planner = Planner { shared, position: 0 };
    for (phase, arrivals) in shared.phases.iter().zip(phases) {
        if !planner.feed(phase, arrivals.peekable())? {
            return Ok(());
        }
    }
    while planner.serve_desk()? {
        shared.desk.wait(PATIENCE);
    }
    Ok(())
}

/// Says that one more of those waited for is ready for `phase`; starts it if that was the last. Nothing is under way
/// then, so that whoever does not want to start yet may take its time.
pub(crate) fn ready(shared: &Shared<'_>, phase: &PhaseRun) -> Result<(), Error> {
    if !phase.ready() {
        return Ok(());
    }
    let options = shared.options;
    // A phase that the run was stopped before is passed through in silence.
    let skipped = || phase.is_stopped() || shared.control.stops() > 0;
    if let Some(before) = options.before_phase.as_ref().filter(|_| !skipped()) {
        before(phase.index);
    }
    let not_before = options.not_before.filter(|_| phase.index == 0);
    let earliest = not_before.map_or(Duration::ZERO, |moment| shared.clock.at(moment));
    phase.begin((shared.clock.now() + LEAD).max(earliest));
    if !skipped() {
        shared.control.entered(phase.index);
    }
    for inbox in &shared.inboxes {
        inbox.wake().map_err(Error::io("wake a sending thread"))?;
    }
    Ok(())
}

struct Planner<'a> {
    shared: &'a Shared<'a>,
    /// Sessions drawn, over all phases.
    position: u64,
}

impl Planner<'_> {
    /// Hands out the sessions of one phase. False when the run is over.
    fn feed(&mut self, phase: &PhaseRun, mut arrivals: Peekable<Arrivals>) -> Result<bool, Error> {
        let shared = self.shared;
        let began = shared.clock.now();
        let (mut ordinal, mut first_index, mut primed) = (0, 0, false);
        loop {
            if !self.serve_desk()? {
                return Ok(false);
            }
            let more = phase.limits.requests.is_none_or(|limit| ordinal < limit) && !phase.is_exhausted();
            let next = if more { arrivals.peek() } else { None };
            let now = shared.clock.now();
            let Some(arrival) = next.filter(|arrival| !is_past(phase, arrival.at, now)) else {
                break;
            };
            if arrival.session.turns.is_empty() {
                arrivals.next();
                continue;
            }
            let thread = (self.position % shared.inboxes.len() as u64) as usize;
            let inbox = &shared.inboxes[thread];
            if !inbox.has_room() || ordinal >= PRIME_SESSIONS || now > began + PRIME_TIME {
                if !std::mem::replace(&mut primed, true) {
                    ready(shared, phase)?;
                }
                if !inbox.has_room() {
                    shared.desk.wait(PATIENCE);
                    continue;
                }
            }
            let Some(arrival) = arrivals.next() else { break };
            let turns = arrival.session.turns.len() as u64;
            let place = Place { position: self.position, ordinal, first_index };
            let mut session = Session::new(place, thread, arrival);
            if !phase.is_stopped() {
                session.render(shared.options);
            }
            self.position += 1;
            first_index += turns;
            ordinal += 1;
            self.push(thread, Item::Session(Box::new(session)))?;
        }
        for thread in 0..shared.inboxes.len() {
            self.push(thread, Item::PhaseEnd)?;
        }
        if !primed {
            ready(shared, phase)?;
        }
        Ok(true)
    }

    /// Writes the bodies that running sessions wait for. False when the run is over.
    fn serve_desk(&self) -> Result<bool, Error> {
        let Some(turns) = self.shared.desk.take() else { return Ok(false) };
        for mut session in turns {
            session.render(self.shared.options);
            let inbox = &self.shared.inboxes[session.thread];
            inbox.return_turn(session).map_err(Error::io("wake a sending thread"))?;
        }
        Ok(true)
    }

    fn push(&self, thread: usize, item: Item) -> Result<(), Error> {
        self.shared.inboxes[thread].push(item).map_err(Error::io("wake a sending thread"))
    }
}

/// Whether a session that arrives at `at` starts too late for its phase.
///
/// A session that was due before a phase was stopped is not past: its requests are recorded as not sent.
fn is_past(phase: &PhaseRun, at: Duration, now: Duration) -> bool {
    if phase.limits.duration.is_some_and(|duration| at >= duration) {
        return true;
    }
    match (phase.over(now), phase.start()) {
        (None, _) => false,
        (Some(over), Some(start)) => (phase.closed_loop && at.is_zero()) || start + at > over,
        (Some(_), None) => true,
    }
}
