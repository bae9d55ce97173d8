//! Carries out a plan: starts the threads, waits for them, sums up.

use std::{
    io,
    num::NonZeroU64,
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, sync_channel},
    },
    thread::{Scope, ScopedJoinHandle},
    time::Duration,
};

use mio::{Poll, Waker};
use report::Record;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use workload::Plan;

use crate::{
    AnswerText, ClientSummary, Control, Error, Options, RunEnd, RunSummary, Targets, ThreadRole,
    ThreadSummary,
    clock::{Clock, Start},
    inbox::{Desk, Inbox},
    measure::{CpuUsage, ThreadMeasures},
    phase::{PhaseName, PhaseRun},
    planner::{self, Arrivals},
    request_head::Heads,
    stolen::StolenShare,
    worker::{COLLECTOR_PRIORITY, Finished, WAKER, Worker},
};

/// Batches of records that may wait for the sink before the sending threads wait for it.
const SINK_QUEUE_BATCHES: usize = 1024;

/// What all threads of a run share.
pub(crate) struct Shared<'a> {
    pub(crate) clock: Clock,
    pub(crate) control: &'a Control,
    pub(crate) targets: &'a Targets,
    pub(crate) options: &'a Options,
    pub(crate) heads: Heads,
    pub(crate) phases: Vec<PhaseRun>,
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) desk: Desk,
    too_many_failed: AtomicBool,
    broken: AtomicBool,
}

/// Carries out `plan` and hands every record to `sink`, on a thread of its own, in the order in which the requests
/// end; with the text of the answer if [`Options::keep_answers`] is set. Returns when all is done, or when
/// [`Control::stop`] has ended it.
///
/// # Errors
/// When the run cannot start, or a thread breaks down. A request that fails is not an error; its record says so.
pub fn run(
    plan: Plan,
    targets: &Targets,
    options: &Options,
    control: &Control,
    sink: impl FnMut(Record, Option<AnswerText>) + Send,
) -> Result<RunSummary, Error> {
    if options.threads == 0 {
        return Err(Error::NoThreads);
    }
    if plan.phases.len() > usize::from(u16::MAX) {
        return Err(Error::TooManyPhases(plan.phases.len()));
    }
    let heads = Heads::new(targets, options)?;
    raise_open_files();

    let Start { at: started_at, clock } = options.start.unwrap_or_else(Start::now);
    let stolen = StolenShare::from_now();
    let (mut phases, mut arrivals, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for (index, phase) in plan.phases.into_iter().enumerate() {
        // The first phase waits for the planner only, a later one also for each thread to end the one before.
        let pending = if index == 0 { 1 } else { 1 + options.threads };
        phases.push(PhaseRun::new(index as u16, &phase, pending));
        names.push(PhaseName { name: phase.name, kind: phase.kind, target_rate: phase.target_rate });
        arrivals.push(phase.arrivals);
    }
    let (mut polls, mut inboxes) = (Vec::new(), Vec::new());
    for _ in 0..options.threads {
        let (poll, waker) = poll_and_waker().map_err(Error::io("create a poll"))?;
        polls.push(poll);
        inboxes.push(Inbox::new(waker));
    }
    let shared = Shared {
        clock,
        control,
        targets,
        options,
        heads,
        phases,
        inboxes,
        desk: Desk::default(),
        too_many_failed: AtomicBool::new(false),
        broken: AtomicBool::new(false),
    };
    // One that was stopped before it began sends nothing.
    shared.heed_signals(clock.now());
    let (measures, threads) = std::thread::scope(|scope| work(scope, &shared, polls, arrivals, sink))?;

    let phases = shared.phases.iter().zip(names).map(|(phase, name)| phase.summarize(name)).collect();
    let client = ClientSummary::new(measures, control.progress().peak_in_flight, threads, stolen.until_now());
    Ok(RunSummary { started_at, duration: clock.now(), end: shared.end(), phases, client })
}

/// Runs all threads to their end.
fn work<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    shared: &'scope Shared<'scope>,
    polls: Vec<Poll>,
    arrivals: Vec<Arrivals>,
    sink: impl FnMut(Record, Option<AnswerText>) + Send + 'scope,
) -> Result<(ThreadMeasures, Vec<ThreadSummary>), Error> {
    let (records, received) = sync_channel(SINK_QUEUE_BATCHES);
    let worker = |(thread, poll)| Worker::new(shared, thread, poll, records.clone());
    // All of them before any runs: what the system refuses is refused while nobody waits for anybody.
    let workers = polls.into_iter().enumerate().map(worker).collect::<Result<Vec<_>, _>>()?;
    drop(records);
    // Where a thread cannot be started, those that run already break off.
    let (senders, collector, planner) = shared.or_break(|| {
        let mut senders = Vec::new();
        for worker in workers {
            let name = format!("send-{}", worker.thread);
            senders.push(spawn(scope, name, move || shared.or_break(|| worker.run()))?);
        }
        let collector = spawn(scope, "collect".to_owned(), move || {
            let _ = rustix::process::setpriority_process(None, COLLECTOR_PRIORITY);
            collect(&received, sink);
            Ok(CpuUsage::of_this_thread().unwrap_or_default())
        })?;
        let planner = spawn(scope, "plan".to_owned(), move || {
            // A wait on a condition has the timer slack of its thread too.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
            shared.or_break(|| planner::plan(shared, arrivals))?;
            Ok(CpuUsage::of_this_thread().unwrap_or_default())
        })?;
        Ok((senders, collector, planner))
    })?;

    let sent: Vec<_> = senders.into_iter().map(|sender| join(sender, "sending")).collect();
    shared.desk.close();
    let planned = join(planner, "planning");
    let collected = join(collector, "collecting");

    let wall = shared.clock.now().as_secs_f64();
    let mut measures = ThreadMeasures::default();
    let mut threads = Vec::new();
    for sent in sent {
        let sent = sent?;
        threads.push(summary(ThreadRole::Io, sent.usage, wall));
        measures.merge(&sent);
    }
    threads.push(summary(ThreadRole::Planner, planned?, wall));
    threads.push(summary(ThreadRole::Collector, collected?, wall));
    Ok((measures, threads))
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: String,
    work: impl FnOnce() -> Result<T, Error> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T, Error>>, Error> {
    std::thread::Builder::new().name(name).spawn_scoped(scope, work).map_err(Error::io("start a thread"))
}

fn join<T>(handle: ScopedJoinHandle<'_, Result<T, Error>>, role: &'static str) -> Result<T, Error> {
    handle.join().unwrap_or(Err(Error::Thread(role)))
}

fn collect(received: &Receiver<Vec<Finished>>, mut sink: impl FnMut(Record, Option<AnswerText>)) {
    for batch in received {
        for (record, text) in batch {
            sink(record, text);
        }
    }
}

fn summary(role: ThreadRole, usage: CpuUsage, wall: f64) -> ThreadSummary {
    let share = |time: Duration| if wall > 0.0 { time.as_secs_f64() / wall } else { 0.0 };
    ThreadSummary {
        role,
        cpu: usage.running,
        cpu_share: share(usage.running),
        wait_share: share(usage.waiting),
    }
}

fn poll_and_waker() -> io::Result<(Poll, Waker)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKER)?;
    Ok((poll, waker))
}

/// Lets this process open as many connections as the system allows. If that is too few, connecting fails and the
/// records say so.
fn raise_open_files() {
    let limits = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
}

impl Shared<'_> {
    /// Passes on what the control asks for, and what follows from too many failures.
    pub(crate) fn heed_signals(&self, now: Duration) {
        if self.phases.iter().any(PhaseRun::too_many_failed) {
            self.too_many_failed.store(true, Relaxed);
        }
        if self.control.stops() > 0 || self.too_many_failed.load(Relaxed) {
            for phase in &self.phases {
                phase.stop(now);
            }
            self.desk.room();
        }
    }

    /// Whether answers under way are to be cut off.
    pub(crate) fn must_cut_off(&self) -> bool {
        self.control.stops() > 1 || self.too_many_failed.load(Relaxed)
    }

    /// Whether a thread has broken down, so that the others must not wait for it.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    fn end(&self) -> RunEnd {
        match self.control.stops() {
            _ if self.too_many_failed.load(Relaxed) => RunEnd::TooManyFailed,
            0 => RunEnd::Complete,
            1 => RunEnd::Stopped,
            _ => RunEnd::Aborted,
        }
    }

    /// Does the work of a thread; tells the others if it fails or panics.
    fn or_break<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        struct Watch<'a>(&'a Shared<'a>, bool);
        impl Drop for Watch<'_> {
            fn drop(&mut self) {
                if !self.1 {
                    self.0.broken.store(true, Relaxed);
                }
            }
        }
        let mut watch = Watch(self, false);
        let result = work();
        watch.1 = result.is_ok();
        result
    }
}
