//! Carries out the stages of a run, one after the other.
//!
//! Each stage is a run of the load generator; its times are moved to the clock of the whole run, which begins with the
//! first stage. After a stage comes the pause of `load.interval`. A stage that was stopped has
//! `load.stage_teardown_grace_seconds` to end; then what is under way is cut off.
//!
//! With `--start-at`, stages whose lengths are known start at moments that are known, too: each the lengths of those
//! before it and the pauses between them later, so that all shares of a run start it at once. A stage that outruns its
//! own time makes the next one late, and that is said.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};
use loadgen::{AnswerText, Control, RunEnd, RunSummary};
use report::{ClientHealth, PhaseShape, Record, RunShape, inference_perf::Scrapes};
use serde::{Deserialize, Serialize};
use workload::{
    Limits, Phase, PhaseKind, Plan,
    inference_perf::{Config, Law, Shard, StageLoad, StagePlan, Workload},
};

use super::{
    books::{Books, Placed},
    breaker::Breaker,
    files::Folder,
    lines::Lines,
    metrics::Scraper,
    server::Server,
    sweep,
};
use crate::commands::interrupt::Interrupts;

/// aiohttp's, which inference-perf leaves as it is.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// After a sweep's probe, answers are waited for this long.
const PROBE_GRACE: Duration = Duration::from_secs(1);
/// A start that is later than this is said.
const LATE: Duration = Duration::from_millis(5);
/// Time between two looks at the run.
const LOOK: Duration = Duration::from_millis(50);

/// Carries out stages.
#[derive(Debug)]
pub(super) struct Driver<'a> {
    config: &'a Config,
    server: &'a Server,
    pub(super) lines: &'a Lines,
    interrupts: Interrupts,
    shard: Shard,
    start_at: Option<SystemTime>,
}

/// What came of a stage.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct StageResult {
    pub(super) number: u16,
    /// Of all shards together.
    pub(super) requested_rate: Option<f64>,
    /// Requests at a time, of all shards together.
    pub(super) concurrency: Option<u32>,
    /// Sessions at a time, and sessions a second.
    pub(super) sessions: Option<(u32, Option<f64>)>,
    pub(super) timeout: Option<Duration>,
    /// On the run's clock.
    pub(super) start: Duration,
    pub(super) end: Duration,
    /// Nanoseconds from 1970 to the start.
    pub(super) started_at_ns: u64,
    /// In inference-perf's words.
    pub(super) status: String,
    /// From when it was told to stop to its end.
    pub(super) teardown: Duration,
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) books: Books,
    pub(super) stages: Vec<StageResult>,
    pub(super) health: ClientHealth,
    /// What the sweep found.
    pub(super) sweep: Option<sweep::Found>,
    /// When the clock of the records began, in nanoseconds from 1970.
    pub(super) started_at_ns: u64,
    pub(super) shard: Shard,
    /// Stages that were not run.
    pub(super) left_out: usize,
    /// What the servers' metrics pages said, where they were read.
    pub(super) scrapes: Option<Scrapes>,
}

/// One stage, in the hands of the load generator.
struct Running<'a> {
    plan: &'a StagePlan,
    load: StageLoad,
    not_before: Option<Instant>,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        config: &'a Config,
        server: &'a Server,
        lines: &'a Lines,
        shard: Shard,
        start_at: Option<SystemTime>,
    ) -> anyhow::Result<Self> {
        Ok(Self { config, server, lines, interrupts: Interrupts::listen()?, shard, start_at })
    }

    /// Runs all stages. What was measured is in the outcome, whatever ended the run.
    pub(super) fn run(&self, workload: &mut Workload, folder: &Folder) -> anyhow::Result<Outcome> {
        let (mut plans, notes) = workload.stages(self.config);
        notes.iter().for_each(|note| self.lines.warn(note));
        let sweep = match &self.config.load.sweep {
            None => None,
            Some(sweep) => {
                let found = sweep::find(self, sweep, workload)?;
                plans = found.stages(self.config);
                Some(found)
            }
        };
        let breakers = Breaker::enabled(self.config)?;
        breakers.iter().filter_map(Breaker::note).for_each(|note| self.lines.warn(&note));
        let shape = RunShape {
            phases: plans.iter().map(|plan| self.shape(plan)).collect(),
            targets: self.server.targets.names().map(ToString::to_string).collect(),
        };
        let books = Books::open(self.config, &shape, &self.server.adapters, folder, self.shard, breakers)?;
        let mut outcome = Outcome {
            books,
            stages: Vec::new(),
            health: ClientHealth::default(),
            sweep,
            started_at_ns: nanoseconds(SystemTime::now()),
            shard: self.shard,
            left_out: 0,
            scrapes: None,
        };
        let scraper = Scraper::new(self.config, self.server);
        let origin = Instant::now();
        let slots = self.slots(&plans);
        let mut next = None;
        for (place, (plan, slot)) in plans.iter().zip(slots).enumerate() {
            let load = workload.start(plan, self.shard)?;
            let control = self.interrupts.next_run();
            if control.stops() > 0 || outcome.books.opened.is_some() {
                outcome.left_out = plans.len() - place;
                break;
            }
            self.announce(plan);
            let late = slot.map_or(Duration::ZERO, |slot| slot.elapsed());
            if late > LATE {
                self.lines.warn(&format!(
                    "stage {} starts {:.3} s after its time by --start-at: what came before took longer",
                    plan.number,
                    late.as_secs_f64()
                ));
            }
            let running = Running { plan, load, not_before: slot.or(next) };
            let run = || self.stage(running, origin, &mut outcome, &control);
            match &scraper {
                Some(scraper) => scraper.during(origin, run)?,
                None => run()?,
            }
            next = Some(Instant::now() + Duration::from_secs_f64(self.config.load.interval));
        }
        if outcome.left_out > 0 {
            let why = outcome.books.opened.as_deref().unwrap_or("stopped by hand");
            self.lines.warn(&format!("{} stages were not run: {why}", outcome.left_out));
        }
        outcome.books.finish();
        outcome.scrapes = scraper.map(Scraper::finish);
        Ok(outcome)
    }

    /// When each stage starts by `--start-at`, as far as that is known beforehand.
    fn slots(&self, plans: &[StagePlan]) -> Vec<Option<Instant>> {
        let mut next =
            self.start_at.map(|at| Instant::now() + at.duration_since(SystemTime::now()).unwrap_or_default());
        let pause = Duration::from_secs_f64(self.config.load.interval);
        let mut slots = Vec::new();
        for plan in plans {
            if next.is_none() && slots.last().is_some_and(Option::is_some) && self.shard.count > 1 {
                self.lines.warn(&format!(
                    "stage {} starts when the one before it has ended in this share: its length is not known beforehand, \
                     so shares may start it at different times",
                    plan.number
                ));
            }
            slots.push(next);
            let length = plan.duration.filter(|_| matches!(plan.law, Law::Rate(..) | Law::Trace));
            next = next.zip(length).map(|(start, length)| start + length + pause);
        }
        slots
    }

    fn announce(&self, plan: &StagePlan) {
        let count = plan.count.map_or_else(|| "?".to_owned(), |count| self.shard.share(count).to_string());
        let law = match plan.law {
            Law::Closed(level) => format!("{level} at a time"),
            Law::Sessions(Some(level), _) => format!("{level} sessions at a time"),
            Law::Sessions(None, _) => "all sessions at once".to_owned(),
            Law::Rate(..) | Law::Trace => {
                format!(
                    "{:.3} requests/s",
                    plan.requested_rate.unwrap_or_default() / f64::from(self.shard.count)
                )
            }
        };
        self.lines.info(&format!("stage {}: {count} to send, {law}", plan.number));
    }

    /// The bound on what may be in flight, where the load has one beside its own law.
    pub(super) fn bound(&self) -> Option<u32> {
        let load = &self.config.load;
        let workers = load.num_workers.unwrap_or(1);
        let connections =
            Some(load.worker_max_tcp_connections).filter(|limit| *limit > 0).unwrap_or(u32::MAX);
        match workers {
            // In one process nothing but its connections bounds it.
            0 => Some(connections).filter(|limit| *limit < u32::MAX),
            _ => Some(workers.saturating_mul(load.worker_max_concurrency.min(connections))),
        }
    }

    fn concurrency(&self, plan: &StagePlan, has_sessions: bool) -> Option<u32> {
        let share = |level: u32| u32::try_from(self.shard.share(level.into())).unwrap_or(u32::MAX).max(1);
        match plan.law {
            Law::Closed(level) => Some(share(level)),
            Law::Sessions(level, _) => level.map(share),
            // A session would keep its slot while it waits for its next turn: its requests are bounded one by one.
            Law::Rate(..) | Law::Trace if has_sessions => None,
            Law::Rate(..) | Law::Trace => self.bound(),
        }
    }

    fn shape(&self, plan: &StagePlan) -> PhaseShape {
        PhaseShape {
            name: format!("stage {}", plan.number),
            measured: true,
            target_rate: plan.requested_rate.map(|rate| rate / f64::from(self.shard.count)),
            concurrency: self.concurrency(plan, false),
        }
    }

    fn phase(&self, plan: &StagePlan, load: StageLoad) -> Phase {
        let config = &self.config.load;
        let rate_law = matches!(plan.law, Law::Rate(..) | Law::Trace);
        let duration = match plan.law {
            // An overloaded server has a queue when a probe is over; it is not waited for.
            _ if plan.number == StagePlan::PROBE => plan.duration,
            Law::Rate(..) if config.num_workers == Some(0) => plan.duration,
            Law::Sessions(..) => plan.duration,
            _ => None,
        };
        let limits = Limits {
            concurrency: self.concurrency(plan, load.has_sessions),
            duration,
            grace: match plan.number {
                StagePlan::PROBE => Some(PROBE_GRACE),
                _ => duration.map(|_| Duration::from_secs_f64(config.stage_teardown_grace_seconds)),
            },
            requests_in_flight: self.bound().filter(|_| rate_law && load.has_sessions),
            requests: load.requests,
            request_timeout: Some(config.request_timeout.map_or(REQUEST_TIMEOUT, Duration::from_secs_f64)),
            ..Limits::default()
        };
        Phase {
            name: format!("stage {}", plan.number),
            kind: PhaseKind::Measured,
            limits,
            target_rate: rate_law.then(|| plan.requested_rate.unwrap_or(1.0) / f64::from(self.shard.count)),
            expected_requests: plan.count.map(|count| self.shard.share(count)),
            arrivals: load.arrivals,
        }
    }

    fn stage(
        &self,
        running: Running<'_>,
        origin: Instant,
        outcome: &mut Outcome,
        control: &Arc<Control>,
    ) -> anyhow::Result<()> {
        let Running { plan, load, not_before } = running;
        let placed = Placed { stage: plan.number, offset: origin.elapsed(), has_sessions: load.has_sessions };
        let books = &mut outcome.books;
        let take = |record, text: Option<AnswerText>| books.take(record, text.as_ref(), placed, control);
        let (summary, teardown) = self.send(plan, load, not_before, control, take)?;
        let span = summary.phases.first().and_then(|phase| phase.span).unwrap_or_default();
        let stage = summary.health();
        outcome.health.peak_in_flight = outcome.health.peak_in_flight.max(stage.peak_in_flight);
        outcome.health.add(&stage);
        let sessions = match plan.law {
            Law::Sessions(level, rate) => Some((level.unwrap_or(0), rate)),
            _ => None,
        };
        let timed_out = sessions.is_some() && plan.duration.is_some_and(|limit| span.1 - span.0 >= limit);
        let status = match summary.end {
            RunEnd::Complete if timed_out => "TIMED_OUT",
            RunEnd::Complete => "COMPLETED",
            RunEnd::Stopped | RunEnd::Aborted | RunEnd::TooManyFailed => "FAILED",
        };
        outcome.stages.push(StageResult {
            number: plan.number,
            requested_rate: plan.requested_rate,
            concurrency: match plan.law {
                Law::Closed(level) => Some(level),
                _ => None,
            },
            sessions,
            timeout: plan.duration.filter(|_| sessions.is_some()),
            start: placed.offset + span.0,
            end: placed.offset + span.1,
            started_at_ns: nanoseconds(summary.started_at + span.0),
            status: status.to_owned(),
            teardown,
        });
        if let (Some(why), RunEnd::Stopped | RunEnd::Aborted) = (&outcome.books.opened, summary.end) {
            self.lines.error(&format!("stage {} has failed: {why}", plan.number));
        }
        Ok(())
    }

    /// Sends one stage and hands its records to `take`. Returns the summary, and how long it took to end after it was
    /// told to stop.
    pub(super) fn send(
        &self,
        plan: &StagePlan,
        load: StageLoad,
        not_before: Option<Instant>,
        control: &Control,
        take: impl FnMut(Record, Option<AnswerText>) + Send,
    ) -> anyhow::Result<(RunSummary, Duration)> {
        let mut options = self.server.options(self.config);
        options.not_before = not_before;
        options.run_name = format!("run{}-{}", self.config.seed(), plan.number);
        let plan = Plan { phases: vec![self.phase(plan, load)] };
        let progress = self.progress_bar(&plan);
        let grace = Duration::from_secs_f64(self.config.load.stage_teardown_grace_seconds);
        let take = Mutex::new(take);
        let mut stopped: Option<Instant> = None;
        let summary = thread::scope(|scope| {
            let run = scope.spawn(|| {
                loadgen::run(plan, &self.server.targets, &options, control, |record, text| {
                    (take.lock().unwrap_or_else(PoisonError::into_inner))(record, text);
                })
            });
            while !run.is_finished() {
                thread::sleep(LOOK);
                let seen = control.progress();
                progress.set_position(seen.succeeded + seen.failed);
                progress.set_message(format!("{} in flight, {} failed", seen.in_flight, seen.failed));
                if control.stops() > 0 && stopped.get_or_insert_with(Instant::now).elapsed() >= grace {
                    control.stop();
                }
            }
            run.join().map_err(|_| anyhow!("the load generator broke down"))?.map_err(anyhow::Error::from)
        })?;
        progress.finish_and_clear();
        Ok((summary, stopped.map_or(Duration::ZERO, |stopped| stopped.elapsed())))
    }

    /// The control of the next run.
    pub(super) fn next_control(&self) -> Arc<Control> {
        self.interrupts.next_run()
    }

    /// This process's share of the run.
    pub(super) fn shard(&self) -> Shard {
        self.shard
    }

    pub(super) fn config(&self) -> &Config {
        self.config
    }

    fn progress_bar(&self, plan: &Plan) -> ProgressBar {
        let expected = plan.phases.first().and_then(|phase| phase.expected_requests);
        if !self.lines.shows_progress() {
            return ProgressBar::hidden();
        }
        let bar = expected.map_or_else(ProgressBar::no_length, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed_precise} {msg}") {
            bar.set_style(style);
        }
        bar
    }
}

pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
