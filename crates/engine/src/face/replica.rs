//! One engine in real time: its scheduler, the requests in it, and the task that makes its steps.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{
    Config,
    active::{Active, Job},
    adapters::Catalogue,
    fault::{Faults, Lasting},
    feed::{Feed, Ticket},
    fixed::FixedTimes,
    metrics::Page,
    publisher::Publisher,
    state::{MOST_LAG, State},
    timer::Timer,
    tokens::mix,
};
use crate::{Rejected, Scheduler, Submission};

/// One simulated engine. It lives on one thread.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) config: Arc<Config>,
    pub(crate) catalogue: Catalogue,
    pub(crate) faults: Faults,
    /// What `/health` says.
    pub(crate) healthy: Cell<bool>,
    started: Instant,
    /// Unix time.
    created: Duration,
    requests: Cell<u64>,
    refusal: Refusal,
    state: RefCell<State>,
    publisher: Option<Rc<Publisher>>,
    work: Notify,
}

/// A time without accepting connections, handed to the listener's task.
#[derive(Debug, Default)]
struct Refusal {
    time: Cell<Duration>,
    asked: Notify,
}

impl Replica {
    pub(crate) fn new(config: Arc<Config>, publisher: Option<Rc<Publisher>>) -> Rc<Self> {
        let mut scheduler = Scheduler::new(config.profile.sped_up(config.speedup));
        if publisher.is_some() {
            scheduler.record_cache_changes();
        }
        Rc::new(Self {
            catalogue: Catalogue::new(&config.model_names, &config.adapters),
            faults: Faults::default(),
            healthy: Cell::new(true),
            started: Instant::now(),
            created: unix_time(),
            requests: Cell::new(0),
            refusal: Refusal::default(),
            state: RefCell::new(State::new(scheduler, config.fixed_times.is_some())),
            publisher,
            work: Notify::new(),
            config,
        })
    }

    /// Makes steps for ever, one after the other, whenever there is something to do.
    pub(crate) async fn run(self: Rc<Self>, mut timer: Timer) -> io::Result<()> {
        if let Some(times) = self.config.fixed_times {
            return self.keep_appointments(times, timer).await;
        }
        loop {
            let mut due = Instant::now();
            while let Some(lasts) = self.start_step(due) {
                due += lasts;
                timer.wait_until(due).await?;
                let late = self.finish_step(due);
                if late > MOST_LAG {
                    due += late;
                }
                // Lets the connections write before the next step, which may be due already.
                tokio::task::yield_now().await;
            }
            self.work.notified().await;
        }
    }

    /// Gives tokens at their times for ever.
    async fn keep_appointments(self: Rc<Self>, times: FixedTimes, mut timer: Timer) -> io::Result<()> {
        loop {
            let next = self.state.borrow().appointments.next();
            match next {
                None => self.work.notified().await,
                Some(due) => {
                    // An arrival may bring an earlier time.
                    tokio::select! {
                        waited = timer.wait_until(due) => waited?,
                        () = self.work.notified() => {}
                    }
                }
            }
            let state = &mut *self.state.borrow_mut();
            while let Some((due, id)) = state.appointments.pop(Instant::now()) {
                state.keep_appointment(due, id, times, self.started);
            }
        }
    }

    /// Whether the start-up delay is over.
    pub(crate) fn is_ready(&self) -> bool {
        self.started.elapsed() >= self.config.startup_delay
    }

    /// Hands a request to the scheduler.
    pub(crate) fn submit(self: &Rc<Self>, job: Job) -> Result<Ticket, Rejected> {
        let now = self.started.elapsed();
        let mut state = self.state.borrow_mut();
        let id = state.free_id();
        let submission = Submission {
            id: id.into(),
            block_hashes: job.block_hashes.clone(),
            prompt_tokens: job.prompt_tokens,
            output_tokens: job.script.answer.tokens,
            adapter: job.served.number(),
        };
        let is_next = match self.config.fixed_times {
            Some(times) => {
                let after = times.first_token.mul_f64(state.slowdown);
                state.appointments.add(Instant::now() + after, id)
            }
            None => {
                if let Err(rejected) = state.scheduler.submit(submission, now) {
                    state.vacant.push(id);
                    return Err(rejected);
                }
                true
            }
        };
        let feed = Feed::new();
        state.active[id as usize] = Some(Active::new(job, feed.clone(), now));
        if is_next {
            self.work.notify_one();
        }
        Ok(Ticket::new(self.clone(), id, feed))
    }

    /// Drops a request that nobody waits for any more. Its blocks are free when the step in flight ends.
    pub(crate) fn abort(&self, id: u32) {
        let mut state = self.state.borrow_mut();
        if state.active.get_mut(id as usize).and_then(Option::take).is_some() {
            match &mut state.fixed {
                Some(counters) => {
                    counters.aborted += 1;
                    state.appointments.forget(id);
                }
                None => drop(state.scheduler.abort(id.into())),
            }
            state.vacant.push(id);
        }
    }

    /// False while sequences hold blocks.
    pub(crate) fn reset_prefix_cache(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let reset = state.scheduler.reset_prefix_cache();
        state.collect_cache_events();
        self.publish(state);
        reset
    }

    /// Counts the lateness of steps from now on.
    pub(crate) fn reset_lag(&self) {
        self.state.borrow_mut().lag = Default::default();
    }

    /// Lets something befall the replica.
    pub(crate) fn suffer(&self, lasting: Lasting) {
        match lasting {
            Lasting::Nothing => {
                self.faults.set(None);
                self.healthy.set(true);
                self.state.borrow_mut().slowdown = 1.0;
            }
            Lasting::HealthDown => self.healthy.set(false),
            Lasting::Slow(factor) => self.state.borrow_mut().slowdown = factor,
            Lasting::Refuse(time) => {
                self.refusal.time.set(time);
                self.refusal.asked.notify_one();
            }
        }
    }

    /// Waits until no connection is to be accepted, and says for how long.
    pub(crate) async fn refusal(&self) -> Duration {
        self.refusal.asked.notified().await;
        self.refusal.time.get()
    }

    /// A name for a request, unlike all others.
    pub(crate) fn next_id(&self) -> String {
        let number = self.requests.get();
        self.requests.set(number + 1);
        let seed = self.created.as_nanos() as u64;
        format!("{:016x}{:016x}", mix(seed, number), mix(!seed, number))
    }

    /// Unix time of the start, in seconds.
    pub(crate) fn created(&self) -> u64 {
        self.created.as_secs()
    }

    /// Requests in the engine.
    pub(crate) fn load(&self) -> usize {
        self.state.borrow().load()
    }

    pub(crate) fn metrics(&self) -> String {
        let state = self.state.borrow();
        state.metrics.render(&Page {
            model: self.catalogue.base(),
            profile: state.scheduler.profile(),
            snapshot: state.snapshot(),
            counters: state.counters(),
            running_adapters: state.adapters(true),
            waiting_adapters: state.adapters(false),
            unix_time_s: unix_time().as_secs_f64(),
        })
    }

    /// Everything a test or a demonstration may want to know.
    pub(crate) fn to_json(&self) -> Value {
        let state = self.state.borrow();
        let snapshot = state.snapshot();
        let counters = state.counters();
        let step = state.scheduler.last_step();
        json!({
            "profile": self.config.profile.name,
            "speedup": self.config.speedup,
            "slowdown": state.slowdown,
            "requests": state.load(),
            "running": snapshot.running,
            "waiting": snapshot.waiting,
            "total_blocks": snapshot.total_blocks,
            "free_blocks": snapshot.free_blocks,
            "used_blocks": snapshot.total_blocks - snapshot.free_blocks,
            "last_step": step,
            "steps": counters.steps,
            "busy_s": counters.busy.as_secs_f64(),
            "prefix_query_tokens": counters.prefix_query_tokens,
            "prefix_hit_tokens": counters.prefix_hit_tokens,
            "prefill_tokens": counters.prefill_tokens,
            "output_tokens": counters.output_tokens,
            "finished": counters.finished,
            "aborted": counters.aborted,
            "preemptions": counters.preemptions,
            "evictions": counters.evictions,
            "step_lag": state.lag.to_json(),
        })
    }

    fn start_step(&self, due: Instant) -> Option<Duration> {
        let mut state = self.state.borrow_mut();
        let lasts = state.scheduler.start_step(due.saturating_duration_since(self.started))?;
        if self.publisher.is_some() {
            state.collect_cache_events();
        }
        Some(lasts.mul_f64(state.slowdown))
    }

    /// Ends the step that was due at `due`, and says how late that was.
    fn finish_step(&self, due: Instant) -> Duration {
        let now = self.started.elapsed();
        let late = now.saturating_sub(due.saturating_duration_since(self.started));
        let state = &mut *self.state.borrow_mut();
        state.lag.record(late);
        state.finish_step(now);
        self.publish(state);
        late
    }

    fn publish(&self, state: &mut State) {
        if let Some(publisher) = &self.publisher
            && !state.cache_events.is_empty()
        {
            publisher.publish(std::mem::take(&mut state.cache_events), unix_time());
        }
    }
}

/// Since 1970.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
