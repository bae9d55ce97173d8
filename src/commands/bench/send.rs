//! Sends: the warm-up request, then the run, with its progress.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use loadgen::{Control, Options, Reuse, RunEnd, RunSummary, Targets};
use report::{
    BenchDetails, ClientHealth, Count, CountSource, Outcome, PhaseShape, Record, Recorder, Report, RunShape,
};
use workload::{Plan, TokenSource, write_body};

use super::{flags::Arguments, load::Load};

/// Time between two looks at the run.
const LOOK: Duration = Duration::from_millis(50);

/// Where to send to, and how.
#[derive(Debug)]
pub(super) struct Sender {
    targets: Targets,
    options: Options,
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) report: Report,
    pub(super) details: BenchDetails,
    pub(super) summary: RunSummary,
    /// Prompt tokens that the server counted, and those that the tokenizer counts in the same prompts.
    pub(super) counted: (u64, u64),
}

impl Sender {
    pub(super) fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let targets = arguments.targets()?;
        if let Some((url, reason)) = targets.unresolved().next() {
            bail!("{url}: {reason}");
        }
        let body = arguments.body();
        let mut options =
            Options::new(Arc::new(move |request, history, out| write_body(request, history, &body, out)));
        options.threads = arguments.threads.into();
        options.path.clone_from(&arguments.endpoint);
        options.api_key = std::env::var("OPENAI_API_KEY").ok().filter(|key| !key.is_empty());
        options.reuse = if arguments.reuse_connections { Reuse::Pooled } else { Reuse::Never };
        Ok(Self { targets, options })
    }

    /// Sends a plan of one request, which must succeed.
    pub(super) fn warm_up(&self, plan: Plan) -> anyhow::Result<()> {
        let mut outcome = None;
        let options = Options { run_name: "warm-up".to_owned(), ..self.options.clone() };
        let take = |record: Record, _| outcome = Some(record.outcome);
        loadgen::run(plan, &self.targets, &options, &Control::new(), take)?;
        let url = self.url();
        match outcome {
            Some(Outcome::Success) => Ok(()),
            Some(Outcome::Connect(reason)) => bail!("nothing answers at {url}: {reason}"),
            Some(Outcome::Status(status, message)) => {
                bail!("{url} refuses the warm-up request with status {status}: {message}")
            }
            Some(outcome) => {
                bail!("the warm-up request to {url} failed: {} {}", outcome.kind(), outcome.message())
            }
            None => bail!("the warm-up request to {url} was not sent"),
        }
    }

    /// Carries out the run.
    pub(super) fn measure(
        &self,
        arguments: &Arguments,
        load: &Load,
        control: &Control,
    ) -> anyhow::Result<Measured> {
        let plan = load.plan(arguments)?;
        let shape = RunShape {
            phases: vec![PhaseShape {
                name: "benchmark".to_owned(),
                measured: true,
                target_rate: arguments.rate(),
                concurrency: arguments.max_concurrency,
                closed_loop: arguments.rate().is_none() && arguments.max_concurrency.is_some(),
            }],
            targets: self.targets.names().map(ToString::to_string).collect(),
        };
        let recorder = Mutex::new(Recorder::new(shape, arguments.goodput.clone()));
        let (mut details, mut counted) = (BenchDetails::default(), (0, 0));
        let progress = progress_bar(arguments);
        let summary = thread::scope(|scope| {
            let run = scope.spawn(|| {
                loadgen::run(plan, &self.targets, &self.options, control, |mut record, _| {
                    if load.source == TokenSource::Tokenizer {
                        count_ourselves(&mut record, load, &mut counted);
                    }
                    if arguments.save_result {
                        details.push(&record);
                    }
                    recorder.lock().unwrap_or_else(PoisonError::into_inner).push(&record);
                })
            });
            while !run.is_finished() {
                thread::sleep(LOOK);
                let seen = control.progress();
                progress.set_position(seen.succeeded + seen.failed);
                progress.set_message(format!("{} in flight, {} failed", seen.in_flight, seen.failed));
            }
            run.join().map_err(|_| anyhow!("the load generator broke down"))?.map_err(anyhow::Error::from)
        })?;
        progress.finish_and_clear();
        let report = recorder.into_inner().unwrap_or_else(PoisonError::into_inner).report();
        Ok(Measured { report, details, summary, counted })
    }

    fn url(&self) -> String {
        self.targets.names().next().map_or_else(String::new, ToString::to_string)
    }
}

impl Measured {
    /// Whether the user ended the run.
    pub(super) fn interrupted(&self) -> bool {
        matches!(self.summary.end, RunEnd::Stopped | RunEnd::Aborted)
    }

    pub(super) fn health(&self, load: &Load) -> ClientHealth {
        let (unique, requests) = (load.made.unique_prompts as u64, load.made.prompts.len() as u64);
        ClientHealth { reused_prompts: (unique < requests).then_some(unique), ..self.summary.health() }
    }
}

/// Takes the prompt length of our tokenizer, as the scripts do, and brings what the server took from its cache to
/// that measure.
fn count_ourselves(record: &mut Record, load: &Load, counted: &mut (u64, u64)) {
    let Some(prompt) = usize::try_from(record.index).ok().and_then(|index| load.made.prompts.get(index))
    else {
        return;
    };
    let (ours, theirs) = (u64::from(prompt.input_tokens), u64::from(record.input_tokens.tokens));
    if record.input_tokens.source == CountSource::Usage && theirs > 0 {
        *counted = (counted.0 + theirs, counted.1 + ours);
        let scaled = |cached: u32| u32::try_from(u64::from(cached) * ours / theirs).unwrap_or(u32::MAX);
        record.cached_tokens = record.cached_tokens.map(scaled);
    }
    record.input_tokens = Count { tokens: prompt.input_tokens, source: CountSource::Tokenizer };
}

fn progress_bar(arguments: &Arguments) -> ProgressBar {
    if arguments.disable_tqdm {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(arguments.num_prompts);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed_precise} {msg}") {
        bar.set_style(style);
    }
    bar
}
