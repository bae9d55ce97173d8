//! A sending thread: one poll for its sockets, its timer and its inbox.
//!
//! The loop waits until something can be read or written, until the next request is due, or until news comes; it
//! looks at the schedule between any two events, so a long batch of answers does not make the next request late.
//! What it admits, and when, is in `admission`; what it does with connections, in `traffic`.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU64,
    sync::mpsc::{SyncSender, TrySendError},
    time::Duration,
};

use mio::{Events, Poll, Token};
use report::Record;

use crate::{
    Error,
    answer::AnswerText,
    exchange::Exchange,
    inbox::{Granted, Limit, Mail},
    measure::{CoreWatch, CpuUsage, ThreadMeasures},
    phase::PhaseRun,
    planner,
    pool::{FIRST_TOKEN, Pool},
    run::Shared,
    session::{ConnectionId, Session},
    slots::Key,
    timers::{Alarm, Timers},
};

const ALARM: Token = Token(0);
pub(crate) const WAKER: Token = Token(1);
const EVENTS: usize = 256;
const READ_BUFFER: usize = 128 << 10;
/// Records are handed on in batches of this many, and at every heartbeat.
const RECORD_BATCH: usize = 64;
/// The appointment at which a thread looks at the state of the run, and measures how late it is.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(10);
/// Time before a due time in which a precise thread does not sleep.
const SPIN: Duration = Duration::from_micros(100);

/// Nice value of a sending thread, and of the thread that takes records, which can wait.
const PRIORITY: i32 = -10;
pub(crate) const COLLECTOR_PRIORITY: i32 = 10;

/// A record on its way to the sink.
pub(crate) type Finished = (Record, Option<AnswerText>);

/// What a thread must do at a certain time.
pub(crate) enum Timer {
    /// The think time of a session is over.
    Turn(Box<Session>),
    /// The request on this connection has taken too long.
    TimeLimit(ConnectionId),
    /// The wait before the next attempt is over.
    Retry(Box<Exchange>),
    /// Opening this connection has taken too long.
    ConnectLimit(ConnectionId),
    /// The plan wants the request on this connection cancelled.
    Cancellation(ConnectionId),
}

/// The slot of the session at the head of the queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HeadSlot {
    None,
    Waiting(Key),
    Granted(Duration),
}

pub(crate) struct Worker<'a> {
    pub(crate) shared: &'a Shared<'a>,
    pub(crate) thread: usize,
    pub(crate) poll: Poll,
    alarm: Alarm,
    pub(crate) buffer: Vec<u8>,

    /// Index of the phase that this thread is in.
    pub(crate) phase_index: usize,
    /// What comes next in the plan.
    pub(crate) mail: Mail,
    pub(crate) feed_ended: bool,
    pub(crate) head_slot: HeadSlot,
    /// The head of the queue was waiting for a slot when the phase was over.
    pub(crate) blocked_at_end: bool,
    /// The answers under way are not waited for any more.
    pub(crate) is_cut_off: bool,
    /// When the head of the queue is due; `None` while that depends on something else.
    pub(crate) next_due: Option<Duration>,
    /// When a session was last admitted.
    pub(crate) last_admission: Duration,
    /// Sessions that have started and not ended.
    pub(crate) live_sessions: usize,
    pub(crate) in_flight: usize,
    pub(crate) waiting_for_prefill: BTreeMap<Key, Box<Session>>,
    pub(crate) grants: VecDeque<Granted>,
    pub(crate) timers: Timers<Timer>,
    heartbeat_at: Duration,

    pub(crate) pool: Pool,
    pub(crate) fresh_tokens: u64,
    pub(crate) measures: ThreadMeasures,
    pub(crate) core: CoreWatch,
    records: Vec<Finished>,
    sink: SyncSender<Vec<Finished>>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(
        shared: &'a Shared<'a>,
        thread: usize,
        poll: Poll,
        sink: SyncSender<Vec<Finished>>,
    ) -> Result<Self, Error> {
        let alarm = Alarm::new(poll.registry(), ALARM).map_err(Error::io("create a timer"))?;
        Ok(Self {
            shared,
            thread,
            poll,
            alarm,
            buffer: vec![0; READ_BUFFER],
            phase_index: 0,
            mail: Mail::default(),
            feed_ended: false,
            head_slot: HeadSlot::None,
            blocked_at_end: false,
            is_cut_off: false,
            next_due: None,
            last_admission: Duration::ZERO,
            live_sessions: 0,
            in_flight: 0,
            waiting_for_prefill: BTreeMap::new(),
            grants: VecDeque::new(),
            timers: Timers::new(),
            heartbeat_at: shared.clock.now() + HEARTBEAT,
            pool: Pool::new(shared.targets.count(), shared.options.kernel_stamps),
            fresh_tokens: 0,
            measures: ThreadMeasures::default(),
            core: CoreWatch::default(),
            records: Vec::with_capacity(RECORD_BATCH),
            sink,
        })
    }

    /// Works through all phases.
    pub(crate) fn run(mut self) -> Result<ThreadMeasures, Error> {
        // The default slack of 50 us would be added to every wait. Where it cannot be set, the lag says so.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        // Sending goes before everything else, where the system lets it.
        let _ = rustix::process::setpriority_process(None, PRIORITY);
        self.core = CoreWatch::of_this_thread();
        let cpu_before = CpuUsage::of_this_thread();
        let mut events = Events::with_capacity(EVENTS);
        while self.phase_index < self.shared.phases.len() {
            self.sleep(&mut events)?;
            for event in &events {
                match event.token() {
                    ALARM => self.alarm.fired(),
                    WAKER => {}
                    Token(token) => {
                        let ended = event.is_read_closed() || event.is_error();
                        let readable = event.is_readable() || ended;
                        self.connection_event(token - FIRST_TOKEN, readable, event.is_writable(), ended)?;
                        self.admit()?;
                    }
                }
            }
            self.take_mail()?;
            self.run_timers()?;
            self.admit()?;
            let now = self.shared.clock.now();
            if now >= self.heartbeat_at {
                self.heartbeat(now)?;
            }
            if self.feed_ended && self.live_sessions == 0 {
                self.end_phase()?;
            }
        }
        self.shared.control.produced(self.fresh_tokens);
        self.hand_on_records()?;
        if let (Some(before), Some(after)) = (cpu_before, CpuUsage::of_this_thread()) {
            self.measures.usage = after.since(before);
        }
        Ok(self.measures)
    }

    pub(crate) fn phase(&self) -> &'a PhaseRun {
        &self.shared.phases[self.phase_index]
    }

    pub(crate) fn keep(&mut self, record: Record, text: Option<AnswerText>) -> Result<(), Error> {
        self.records.push((record, text));
        if self.records.len() < RECORD_BATCH { Ok(()) } else { self.hand_on_records() }
    }

    fn sleep(&mut self, events: &mut Events) -> Result<(), Error> {
        let now = self.shared.clock.now();
        let ahead = if self.shared.options.precise { SPIN } else { Duration::ZERO };
        let due = self.next_due.map(|due| due.saturating_sub(ahead));
        let wake_at =
            [due, self.timers.next_at()].into_iter().flatten().fold(self.heartbeat_at, Duration::min);
        let timeout = if wake_at <= now || !self.grants.is_empty() {
            Some(Duration::ZERO)
        } else {
            self.alarm.set(wake_at, now).map_err(Error::io("set a timer"))?;
            None
        };
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            polled => polled.map_err(Error::io("wait for sockets")),
        }
    }

    fn take_mail(&mut self) -> Result<(), Error> {
        let inbox = &self.shared.inboxes[self.thread];
        if !inbox.has_news() {
            return Ok(());
        }
        inbox.take(&mut self.mail);
        self.grants.extend(self.mail.grants.drain(..));
        for session in std::mem::take(&mut self.mail.turns) {
            self.turn_is_ready(session)?;
        }
        Ok(())
    }

    fn run_timers(&mut self) -> Result<(), Error> {
        let now = self.shared.clock.now();
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Turn(session) => self.start_turn(session)?,
                Timer::TimeLimit(id) => self.time_limit_reached(id)?,
                Timer::ConnectLimit(id) => self.connect_limit_reached(id)?,
                Timer::Cancellation(id) => self.cancel(id)?,
                Timer::Retry(exchange) => self.retry(exchange)?,
            }
        }
        Ok(())
    }

    fn heartbeat(&mut self, now: Duration) -> Result<(), Error> {
        if self.phase().is_measured && self.phase().start().is_some() {
            self.measures.loop_stall.record_time(now - self.heartbeat_at);
        }
        self.heartbeat_at = (self.heartbeat_at + HEARTBEAT).max(now);
        self.core.mark();
        self.shared.control.produced(std::mem::take(&mut self.fresh_tokens));
        self.hand_on_records()?;
        self.shared.heed_signals(now);
        if self.shared.is_broken() {
            return Err(Error::Thread("sending"));
        }
        let phase = self.phase();
        if phase.start().is_none() {
            return Ok(());
        }
        self.hand_out(Limit::Sessions, now)?;
        self.hand_out(Limit::Prefill, now)?;
        if let Some(over) = phase.over(now) {
            self.wind_down(over)?;
        }
        let grace_ended =
            matches!((phase.over(now), phase.limits.grace), (Some(over), Some(grace)) if now >= over + grace);
        if grace_ended || self.shared.must_cut_off() {
            self.is_cut_off = true;
            self.cut_off(now)?;
        }
        Ok(())
    }

    fn end_phase(&mut self) -> Result<(), Error> {
        let now = self.shared.clock.now();
        self.phase().close(now);
        self.phase_index += 1;
        self.feed_ended = false;
        self.head_slot = HeadSlot::None;
        self.blocked_at_end = false;
        self.is_cut_off = false;
        self.next_due = None;
        self.grants.clear();
        match self.shared.phases.get(self.phase_index) {
            Some(next) => planner::ready(self.shared, next)?,
            None => return Ok(()),
        }
        // What comes before a phase may have taken its time here; no appointment was missed.
        self.heartbeat_at = self.shared.clock.now() + HEARTBEAT;
        Ok(())
    }

    fn hand_on_records(&mut self) -> Result<(), Error> {
        if self.records.is_empty() {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.records, Vec::with_capacity(RECORD_BATCH));
        match self.sink.try_send(batch) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(batch)) => {
                let before = self.shared.clock.now();
                let sent = self.sink.send(batch);
                self.measures.sink_stall += self.shared.clock.now() - before;
                sent.map_err(|_| Error::Thread("collecting"))
            }
            Err(TrySendError::Disconnected(_)) => Err(Error::Thread("collecting")),
        }
    }
}
