//! Sends one stage, or one probe of a sweep, and watches it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use loadgen::{AnswerText, Control, RunSummary};
use report::Record;
use workload::{
    Plan, Tokenizer,
    inference_perf::{Config, Shard, StageLoad, StagePlan},
};

use super::{lines::Lines, server::Server};
use crate::commands::{
    counting::{count_answer, count_events, count_prompts},
    interrupt::Interrupts,
    progress,
};

/// Sends stages to a server, a shard of each, until the user stops it.
#[derive(Debug)]
pub(super) struct Sending<'a> {
    pub(super) config: &'a Config,
    pub(super) server: &'a Server,
    pub(super) lines: &'a Lines,
    pub(super) shard: Shard,
    counter: Option<Arc<Tokenizer>>,
    interrupts: Interrupts,
}

impl<'a> Sending<'a> {
    pub(super) fn new(
        config: &'a Config,
        server: &'a Server,
        lines: &'a Lines,
        shard: Shard,
        counter: Option<Arc<Tokenizer>>,
    ) -> anyhow::Result<Self> {
        Ok(Self { config, server, lines, shard, counter, interrupts: Interrupts::listen()? })
    }

    /// The control of the next stage.
    pub(super) fn next_control(&self) -> Arc<Control> {
        self.interrupts.next_run()
    }

    /// Sends one stage and hands its records to `take`. Returns the summary, and how long it took to end after it was
    /// told to stop: after `load.stage_teardown_grace_seconds`, what is under way is cut off.
    pub(super) fn send(
        &self,
        plan: &StagePlan,
        load: StageLoad,
        not_before: Option<Instant>,
        control: &Control,
        mut take: impl FnMut(Record, Option<AnswerText>) + Send,
    ) -> anyhow::Result<(RunSummary, Duration)> {
        let mut options = self.server.options(self.config);
        options.count_prompt = self.counter.clone().map(|counter| count_prompts(counter, true));
        options.keep_answers = self.counter.is_some();
        let counter = self.counter.as_deref();
        let take = |mut record: Record, text: Option<AnswerText>| {
            if let (Some(counter), Some(text), true) = (counter, &text, record.outcome.is_success()) {
                count_answer(&mut record, text, counter);
                count_events(&mut record, text, counter);
            }
            take(record, text);
        };
        options.not_before = not_before;
        options.run_name = format!("run{}-{}", self.config.seed(), plan.number);
        let plan = Plan { phases: vec![plan.phase(&self.config.load, self.shard, load)] };
        let bar = self.progress_bar(&plan);
        let grace = Duration::from_secs_f64(self.config.load.stage_teardown_grace_seconds);
        let take = Mutex::new(take);
        let mut stopped: Option<Instant> = None;
        let summary = thread::scope(|scope| {
            let run = scope.spawn(|| {
                loadgen::run(plan, &self.server.targets, &options, control, |record, text| {
                    (take.lock().unwrap_or_else(PoisonError::into_inner))(record, text);
                })
            });
            progress::watch(run, control, &bar, || {
                if control.stops() > 0 && stopped.get_or_insert_with(Instant::now).elapsed() >= grace {
                    control.stop();
                }
            })
        })?;
        Ok((summary, stopped.map_or(Duration::ZERO, |stopped| stopped.elapsed())))
    }

    fn progress_bar(&self, plan: &Plan) -> ProgressBar {
        if !self.lines.shows_progress() {
            return ProgressBar::hidden();
        }
        progress::bar(plan.phases.first().and_then(|phase| phase.expected_requests))
    }
}
