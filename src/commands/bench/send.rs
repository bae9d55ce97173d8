//! Sends: the warm-up request, then the run, with its progress.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{anyhow, bail};
use indicatif::ProgressBar;
use loadgen::{Ask, Control, Options, Reuse, RunEnd, RunSummary, Targets};
use report::{
    BenchDetails, BenchSeconds, ClientHealth, Count, CountSource, Outcome, PhaseShape, Record, Recorder,
    Report, RunShape,
};
use serde_json::Value;
use workload::{Plan, TokenSource, write_body};

use super::{
    flags::{Arguments, Script},
    load::Load,
};
use crate::commands::progress;

/// Time between two attempts to be answered by a server that is not ready.
const RETRY: Duration = Duration::from_secs(5);
/// Time limit for the list of models.
const MODELS_TIMEOUT: Duration = Duration::from_secs(30);

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
    pub(super) seconds: BenchSeconds,
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
        options.chunk_rule = arguments.chunk_rule();
        options.api_key = std::env::var("OPENAI_API_KEY").ok().filter(|key| !key.is_empty());
        options.reuse = if arguments.reuses_connections() { Reuse::Pooled } else { Reuse::Never };
        options.headers.clone_from(&arguments.modern.header);
        options.keep_answers = arguments.lists();
        if let Some(prefix) = &arguments.modern.request_id_prefix {
            prefix.trim_end_matches('-').clone_into(&mut options.run_name);
        }
        Ok(Self { targets, options })
    }

    /// The first model that the server lists.
    pub(super) fn first_model(&self) -> anyhow::Result<String> {
        let key =
            self.options.api_key.iter().map(|key| ("Authorization".to_owned(), format!("Bearer {key}")));
        let headers: Vec<(String, String)> = key.chain(self.options.headers.clone()).collect();
        let reply = Ask { headers: &headers, ..Ask::get("/v1/models", MODELS_TIMEOUT) };
        let reply = reply.send(&self.targets, 0).map_err(|problem| anyhow!("{}: {problem}", self.url()))?;
        let list: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        match list["data"][0]["id"].as_str() {
            Some(name) => Ok(name.to_owned()),
            None => bail!(
                "{} lists no model at /v1/models (status {}): name one with --model",
                self.url(),
                reply.status
            ),
        }
    }

    /// Sends what is sent before the run: a request that must be answered, tried again while the server may still
    /// become ready, and those whose answers do not matter.
    pub(super) fn warm_up(&self, arguments: &Arguments, load: &Load) -> anyhow::Result<()> {
        let until = Instant::now() + arguments.modern.ready_within();
        while arguments.must_answer_first()
            && let Err(problem) = self.answered(load.warm_up(arguments, 1))
        {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(problem);
            }
            remark!("evenload: {problem}; trying again");
            thread::sleep(left.min(RETRY));
        }
        let warmups = arguments.modern.num_warmups;
        if warmups > 0 {
            self.send_aside(load.warm_up(arguments, warmups), |_| {})?;
        }
        Ok(())
    }

    fn send_aside(&self, plan: Plan, mut take: impl FnMut(Outcome) + Send) -> anyhow::Result<()> {
        let options = Options { run_name: "warm-up".to_owned(), ..self.options.clone() };
        loadgen::run(plan, &self.targets, &options, &Control::new(), |record: Record, _| {
            take(record.outcome)
        })?;
        Ok(())
    }

    /// Sends a plan of one request, which must succeed.
    fn answered(&self, plan: Plan) -> anyhow::Result<()> {
        let mut outcome = None;
        self.send_aside(plan, |ended| outcome = Some(ended))?;
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
                target_rate: plan.phases.first().and_then(|phase| phase.target_rate),
                concurrency: arguments.max_concurrency,
                closed_loop: plan.phases.first().is_some_and(|phase| phase.closed_loop),
            }],
            targets: self.targets.names().map(ToString::to_string).collect(),
        };
        let recorder = Mutex::new(Recorder::new(shape, arguments.goodput.clone()));
        let (mut details, mut seconds) = (BenchDetails::default(), BenchSeconds::default());
        let mut counted = (0, 0);
        let bar = match arguments.disable_tqdm {
            true => ProgressBar::hidden(),
            false => progress::bar(Some(load.made.prompts.len() as u64)),
        };
        let summary = thread::scope(|scope| {
            let run = scope.spawn(|| {
                loadgen::run(plan, &self.targets, &self.options, control, |mut record, text| {
                    if load.source == TokenSource::Tokenizer {
                        count_ourselves(&mut record, load, arguments.script, &mut counted);
                    }
                    if arguments.saves() {
                        details.push(&record, text.unwrap_or_default().text);
                    }
                    seconds.push(&record);
                    recorder.lock().unwrap_or_else(PoisonError::into_inner).push(&record);
                })
            });
            progress::watch(run, control, &bar, || {})
        })?;
        let report = recorder.into_inner().unwrap_or_else(PoisonError::into_inner).report();
        Ok(Measured { report, details, seconds, summary, counted })
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

/// Takes the prompt length of our tokenizer, as KubeAI's script does, and brings what the server took from its cache
/// to that measure. Today's script prefers the server's count.
fn count_ourselves(record: &mut Record, load: &Load, script: Script, counted: &mut (u64, u64)) {
    let Some(prompt) = usize::try_from(record.index).ok().and_then(|index| load.made.prompts.get(index))
    else {
        return;
    };
    let (ours, theirs) = (u64::from(prompt.input_tokens), u64::from(record.input_tokens.tokens));
    if record.input_tokens.source == CountSource::Usage && theirs > 0 {
        *counted = (counted.0 + theirs, counted.1 + ours);
        if script == Script::Vllm {
            return;
        }
        let scaled = |cached: u32| u32::try_from(u64::from(cached) * ours / theirs).unwrap_or(u32::MAX);
        record.cached_tokens = record.cached_tokens.map(scaled);
    }
    record.input_tokens = Count { tokens: prompt.input_tokens, source: CountSource::Tokenizer };
}
