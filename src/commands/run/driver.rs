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
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use loadgen::{AnswerText, Control, RunEnd};
use report::{
    ClientHealth, EnginePages, PhaseShape, RunShape,
    inference_perf::{Run, StageResult, StageStatus},
    sweep::Found,
};
use workload::inference_perf::{Breaker, Law, StageLoad, StagePlan, Workload, sweep_stages};

use super::{
    files::Folder,
    keeping::{Keeping, Placed},
    metrics::Scraper,
    sending::Sending,
    sweep,
};

/// What the load generator has to get ready for a start that is to be exact.
const HEAD_START: Duration = Duration::from_millis(100);
/// A start that is later than this is said.
const LATE: Duration = Duration::from_millis(5);

/// Carries out stages.
#[derive(Debug)]
pub(super) struct Driver<'a> {
    sending: &'a Sending<'a>,
    start_at: Option<SystemTime>,
}

/// What came of a run, and of the files that were written during it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) run: Run,
    /// Why a circuit breaker has opened.
    pub(super) opened: Option<String>,
    /// The first thing that could not be written.
    pub(super) problem: Option<anyhow::Error>,
    /// What the sweep found.
    pub(super) sweep: Option<Found>,
    /// What the servers' metrics pages said, where they were read.
    pub(super) pages: Option<EnginePages>,
}

/// One stage, in the hands of the load generator.
struct Running<'a> {
    plan: &'a StagePlan,
    load: StageLoad,
    not_before: Option<Instant>,
}

/// What has been run so far.
struct Progress {
    keeping: Keeping,
    stages: Vec<StageResult>,
    health: ClientHealth,
    origin: Instant,
}

impl<'a> Driver<'a> {
    pub(super) fn new(sending: &'a Sending<'a>, start_at: Option<SystemTime>) -> Self {
        Self { sending, start_at }
    }

    /// Runs all stages. What was measured is in the outcome, whatever ended the run.
    pub(super) fn run(&self, workload: &mut Workload, folder: &Folder) -> anyhow::Result<Outcome> {
        let Sending { config, server, lines, shard, .. } = *self.sending;
        let (mut plans, notes) = workload.stages(config);
        notes.iter().for_each(|note| lines.warn(note));
        let sweep = match &config.load.sweep {
            None => None,
            Some(sweep) => {
                let found = sweep::find(self.sending, sweep, workload)?;
                plans = sweep_stages(config, found.rate, !found.client_limited);
                Some(found)
            }
        };
        let breakers = Breaker::enabled(config)?;
        breakers.iter().filter_map(Breaker::note).for_each(|note| lines.warn(&note));
        let shape = RunShape {
            phases: plans.iter().map(|plan| self.shape(plan, workload.pauses())).collect(),
            targets: server.targets.names().map(ToString::to_string).collect(),
        };
        let keeping = Keeping::open(config, &shape, &server.adapters, folder, shard, breakers)?;
        let scraper = Scraper::new(config, server);
        let started_at_ns = nanoseconds(SystemTime::now());
        let mut progress =
            Progress { keeping, stages: Vec::new(), health: ClientHealth::default(), origin: Instant::now() };
        let slots = self.slots(&plans);
        let (mut next, mut left_out) = (None, 0);
        for (place, (plan, slot)) in plans.iter().zip(slots).enumerate() {
            let load = workload.start(plan, shard)?;
            let control = self.sending.next_control();
            if control.stops() > 0 || progress.keeping.opened.is_some() {
                left_out = plans.len() - place;
                break;
            }
            self.announce(plan, slot);
            let running = Running { plan, load, not_before: slot.or(next) };
            let run = || self.stage(running, &mut progress, &control);
            let was_run = match &scraper {
                Some(scraper) => scraper.during(run)?,
                None => run()?,
            };
            if !was_run {
                left_out = plans.len() - place;
                break;
            }
            next = Some(Instant::now() + Duration::from_secs_f64(config.load.interval));
        }
        let Progress { mut keeping, stages, mut health, .. } = progress;
        if left_out > 0 {
            let why = keeping.opened.as_deref().unwrap_or("stopped by hand");
            let what = if left_out == 1 { "stage was" } else { "stages were" };
            lines.warn(&format!("{left_out} {what} not run: {why}"));
        }
        keeping.finish();
        let Keeping { mut books, opened, problem, .. } = keeping;
        if let Some(sessions) = &mut books.sessions {
            sessions.name_files(|session| workload.file(session));
        }
        health.interrupted |= left_out > 0;
        health.ended_by.clone_from(&opened);
        let share = (shard.index, shard.count);
        let run = Run { books, stages, health, started_at_ns, share, left_out };
        Ok(Outcome { run, opened, problem, sweep, pages: scraper.map(Scraper::finish) })
    }

    /// When each stage starts by `--start-at`, as far as that is known beforehand.
    fn slots(&self, plans: &[StagePlan]) -> Vec<Option<Instant>> {
        let Sending { config, lines, shard, .. } = *self.sending;
        let first =
            self.start_at.map(|at| Instant::now() + at.duration_since(SystemTime::now()).unwrap_or_default());
        let Some(first) = first else { return vec![None; plans.len()] };
        let starts = StagePlan::starts(plans, Duration::from_secs_f64(config.load.interval));
        if let Some(place) = starts.iter().position(Option::is_none).filter(|_| shard.count > 1) {
            lines.warn(&format!(
                "stage {} starts when the one before it has ended in this share: its length is not known beforehand, so \
                 shares may start it at different times",
                plans[place].number
            ));
        }
        starts.into_iter().map(|start| Some(first + start?)).collect()
    }

    fn announce(&self, plan: &StagePlan, slot: Option<Instant>) {
        let Sending { lines, shard, .. } = *self.sending;
        let count = plan.count.map_or_else(|| "?".to_owned(), |count| shard.share(count).to_string());
        let law = match plan.law {
            Law::Closed(level) => format!("{level} at a time"),
            Law::Sessions(Some(level), _) => format!("{level} sessions at a time"),
            Law::Sessions(None, _) => "all sessions at once".to_owned(),
            Law::Rate(..) | Law::Trace => {
                format!("{:.3} requests/s", shard.rate(plan.requested_rate.unwrap_or_default()))
            }
        };
        lines.info(&format!("stage {}: {count} to send, {law}", plan.number));
        let late = slot.map_or(Duration::ZERO, |slot| slot.elapsed());
        if late > LATE {
            lines.warn(&format!(
                "stage {} starts {:.3} s after its time by --start-at: what came before took longer",
                plan.number,
                late.as_secs_f64()
            ));
        }
    }

    fn shape(&self, plan: &StagePlan, pauses: bool) -> PhaseShape {
        let Sending { config, shard, .. } = *self.sending;
        PhaseShape {
            name: format!("stage {}", plan.number),
            measured: true,
            target_rate: plan.requested_rate.map(|rate| shard.rate(rate)),
            concurrency: plan.concurrency(&config.load, shard, false),
            // Nothing is in flight for a session while it pauses, as it was asked to.
            closed_loop: plan.law.is_closed() && !pauses,
        }
    }

    /// Runs a stage when its time has come. False where the user ended the run before.
    fn stage(
        &self,
        running: Running<'_>,
        progress: &mut Progress,
        control: &Arc<Control>,
    ) -> anyhow::Result<bool> {
        let Running { plan, load, not_before } = running;
        let ahead = not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        if control.wait(ahead.saturating_sub(HEAD_START)) {
            return Ok(false);
        }
        let Progress { keeping, stages, health, origin } = progress;
        let placed = Placed { stage: plan.number, offset: origin.elapsed(), has_sessions: load.has_sessions };
        let take = |record, text: Option<AnswerText>| keeping.take(record, text.as_ref(), placed, control);
        let (summary, teardown) = self.sending.send(plan, load, not_before, control, take)?;
        let span = summary.phases.first().and_then(|phase| phase.span).unwrap_or_default();
        let own = summary.health();
        health.peak_in_flight = health.peak_in_flight.max(own.peak_in_flight);
        health.add(&own);
        let sessions = match plan.law {
            Law::Sessions(level, rate) => Some((level.unwrap_or(0), rate)),
            _ => None,
        };
        let timed_out = sessions.is_some() && plan.duration.is_some_and(|limit| span.1 - span.0 >= limit);
        let status = match summary.end {
            RunEnd::Complete if timed_out => StageStatus::TimedOut,
            RunEnd::Complete => StageStatus::Completed,
            RunEnd::Stopped | RunEnd::Aborted | RunEnd::TooManyFailed => StageStatus::Failed,
        };
        stages.push(StageResult {
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
            status,
            teardown,
        });
        if let (Some(why), StageStatus::Failed) = (&keeping.opened, status) {
            self.sending.lines.error(&format!("stage {} has failed: {why}", plan.number));
        }
        Ok(true)
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
