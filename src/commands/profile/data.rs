//! What is sent: made prompts or a file, as sessions of requests.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use protocol::Endpoint;
use workload::{
    Arrival, Dataset, DatasetKind, Delay, Entry, Length, Message, Prompt, RequestTemplate, Rewrite, Sampling,
    Schedule, SequenceLengths, Synthetic, TokenSource, Tokenizer, Turn, assign_models, batch_texts,
    bust_cache, cancel_some, sharegpt_sessions,
};

use super::{
    Arguments,
    flags::{EndpointType, InputFlags},
    wrong,
};

/// Length of made prompts where `--isl` is not given.
const DEFAULT_ISL: u32 = 550;
/// Most ShareGPT conversations that are read.
const MOST_CONVERSATIONS: usize = 1 << 20;
/// Entries of the warm-up are those of the run from here on.
const WARM_UP_ENTRIES: u64 = 1 << 40;

/// Sessions on their way into a plan.
pub(super) type Sessions = Box<dyn Iterator<Item = Vec<Turn>> + Send>;

/// The data of a run.
pub(super) struct Data {
    source: Source,
    template: RequestTemplate,
    /// What the user should know of it.
    pub(super) notes: Vec<String>,
}

enum Source {
    Made(Box<Synthetic>),
    Read { dataset: Dataset, kind: Option<DatasetKind> },
}

impl Data {
    pub(super) fn read(arguments: &Arguments, tokenizer: &Tokenizer) -> anyhow::Result<Self> {
        let (endpoint, input) = (&arguments.endpoint, &arguments.input);
        let operation = match (endpoint.endpoint_type, &endpoint.custom_endpoint) {
            (EndpointType::Raw, Some(path)) => Endpoint::from_path(path),
            (kind, _) => kind.operation(),
        };
        let model = endpoint.model_names.first().cloned().unwrap_or_default();
        let template =
            RequestTemplate { stream: endpoint.streams(), ..RequestTemplate::new(operation, model) };
        let mut notes = Vec::new();
        let source = match &input.input_file {
            None => Source::Made(Box::new(made(input)?)),
            Some(path) => read(path, arguments, &template, tokenizer, &mut notes)?,
        };
        Ok(Self { source, template, notes })
    }

    /// Whether the file says when its entries start, and is to be replayed by that: traces are, unless told otherwise.
    pub(super) fn is_scheduled(&self, arguments: &Arguments) -> anyhow::Result<bool> {
        let load = &arguments.load;
        let Source::Read { dataset, kind } = &self.source else { return Ok(false) };
        if load.fixed_schedule && !dataset.has_times() {
            return Err(wrong("--fixed-schedule: the file does not say when each of its entries starts"));
        }
        let is_left_out = load.no_fixed_schedule || arguments.input.ignore_trace_delays;
        let is_trace = kind.is_some_and(DatasetKind::is_trace) && dataset.has_times();
        let is_scheduled = load.fixed_schedule || is_trace && !is_left_out;
        match (is_scheduled, load.rate_flag(), load.schedule_flag()) {
            (true, Some(rate), _) => Err(wrong(format!(
                "{rate} paces sessions, and the file says when its entries start: leave {rate} out, or give \
                 --no-fixed-schedule to leave the file's times out"
            ))),
            (false, _, Some(window)) => Err(wrong(format!(
                "{window} is for a file that is replayed by its times: give --fixed-schedule, or leave it out"
            ))),
            _ => Ok(is_scheduled),
        }
    }

    /// Sessions and requests in the file, where there is one.
    pub(super) fn size(&self) -> Option<(u64, u64)> {
        match &self.source {
            Source::Made(_) => None,
            Source::Read { dataset, .. } => Some((dataset.entries.len() as u64, dataset.requests() as u64)),
        }
    }

    /// Different prompts, where they may have to be used again.
    pub(super) fn different_prompts(&self, arguments: &Arguments) -> Option<u64> {
        match &self.source {
            Source::Made(_) => arguments.input.num_dataset_entries,
            Source::Read { dataset, .. } => Some(dataset.requests() as u64),
        }
    }

    /// The arrivals of the trace, by its own times.
    pub(super) fn arrivals(&self, arguments: &Arguments, seed: u64) -> anyhow::Result<Vec<Arrival>> {
        let Source::Read { dataset, .. } = &self.source else {
            bail!("made prompts have no times of their own")
        };
        let load = &arguments.load;
        let schedule = Schedule {
            from_first: load.fixed_schedule_auto_offset,
            start: load.fixed_schedule_start_offset.map(Duration::from_millis),
            end: load.fixed_schedule_end_offset.map(Duration::from_millis),
            speed_up: arguments.input.synthesis_speedup_ratio,
        };
        let mut arrivals = dataset.clone().schedule(&schedule)?;
        let turns: Vec<Vec<Turn>> =
            arrivals.iter_mut().map(|arrival| std::mem::take(&mut arrival.session.turns)).collect();
        let changed = self.changed(Box::new(turns.into_iter()), arguments, seed, false)?;
        for (arrival, turns) in arrivals.iter_mut().zip(changed) {
            arrival.session.turns = turns;
        }
        Ok(arrivals)
    }

    /// The sessions of the measured phase, in the order of their numbers.
    pub(super) fn sent(&self, arguments: &Arguments, seed: u64) -> anyhow::Result<Sessions> {
        if self.is_scheduled(arguments)? {
            let arrivals = self.arrivals(arguments, seed)?;
            return Ok(Box::new(arrivals.into_iter().map(|arrival| arrival.session.turns)));
        }
        self.sessions(arguments, seed, false)
    }

    /// Endless sessions, for the warm-up or the measured phase.
    pub(super) fn sessions(
        &self,
        arguments: &Arguments,
        seed: u64,
        warm_up: bool,
    ) -> anyhow::Result<Sessions> {
        let input = &arguments.input;
        let order = input.dataset_sampling_strategy.map(Sampling::from);
        let sessions: Sessions = match &self.source {
            Source::Made(synthetic) => {
                let mut synthetic = synthetic.clone();
                // Every prompt once: entries in their order, which are as random as any other.
                let (entries, order) = match input.num_dataset_entries {
                    Some(entries) => (usize::try_from(entries)?, order.unwrap_or(Sampling::Shuffle)),
                    None => (usize::MAX, Sampling::Sequential),
                };
                if warm_up && input.num_dataset_entries.is_none() {
                    synthetic.first_entry = WARM_UP_ENTRIES;
                }
                let sessions = synthetic.sessions(self.template.clone(), entries, order, seed)?;
                match input.prompt_batch_size {
                    1 => Box::new(sessions),
                    texts => Box::new(batch_texts(sessions, texts)),
                }
            }
            Source::Read { dataset, kind } => {
                let usual = if *kind == Some(DatasetKind::RandomPool) {
                    Sampling::Random
                } else {
                    Sampling::Sequential
                };
                let sessions = dataset.clone().sample(order.unwrap_or(usual), seed ^ u64::from(warm_up));
                let speed_up = input.synthesis_speedup_ratio;
                Box::new(sessions.map(move |mut turns| {
                    turns.iter_mut().for_each(|turn| turn.delay = turn.delay.div_f64(speed_up));
                    turns
                }))
            }
        };
        self.changed(sessions, arguments, seed, warm_up)
    }

    /// Models, think times, marks against caches and cancellations.
    fn changed(
        &self,
        sessions: Sessions,
        arguments: &Arguments,
        seed: u64,
        warm_up: bool,
    ) -> anyhow::Result<Sessions> {
        let (input, load) = (&arguments.input, &arguments.load);
        let mut sessions = sessions;
        let models: Vec<Arc<str>> =
            arguments.endpoint.model_names.iter().map(|name| Arc::from(name.as_str())).collect();
        if models.len() > 1 && !self.is_raw() {
            let choice = arguments.endpoint.model_selection_strategy.into();
            sessions = Box::new(assign_models(sessions, models, choice, seed)?);
        }
        let (ratio, cap) = (input.conversation_turn_delay_ratio, input.inter_turn_delay_cap_seconds);
        if ratio != 1.0 || cap.is_some() || input.ignore_trace_delays {
            let ratio = if input.ignore_trace_delays && !input.is_synthetic() { 0.0 } else { ratio };
            let cap = cap.unwrap_or(Duration::MAX);
            sessions = Box::new(sessions.map(move |mut turns| {
                turns.iter_mut().for_each(|turn| turn.delay = turn.delay.mul_f64(ratio).min(cap));
                turns
            }));
        }
        if let Some(place) = input.cache_bust.place(warm_up) {
            sessions = Box::new(bust_cache(sessions, place, seed ^ u64::from(warm_up)));
        }
        if let (Some(share), false) = (load.request_cancellation_rate, warm_up) {
            sessions = Box::new(cancel_some(sessions, share, load.request_cancellation_delay, seed)?);
        }
        Ok(sessions)
    }

    fn is_raw(&self) -> bool {
        matches!(
            &self.source,
            Source::Read { kind: Some(DatasetKind::RawPayload | DatasetKind::InputsJson), .. }
        )
    }
}

/// Prompts of given lengths.
fn made(input: &InputFlags) -> anyhow::Result<Synthetic> {
    let mut synthetic = Synthetic::new(lengths(input)?);
    let turns = input.conversation_turn_mean.first().copied().unwrap_or(1.0);
    synthetic.turns = Length::normal(turns, input.conversation_turn_stddev)?;
    synthetic.delay =
        Delay { mean: input.conversation_turn_delay_mean, stddev: input.conversation_turn_delay_stddev };
    synthetic.prefixes = input.prompt_prefix_pool_size;
    synthetic.prefix_tokens = input.prompt_prefix_length;
    synthetic.system_prompt = system_prompt(input)?;
    synthetic.shared_system_tokens = input.shared_system_prompt_length;
    synthetic.context_tokens = input.user_context_prompt_length;
    Ok(synthetic)
}

fn lengths(input: &InputFlags) -> anyhow::Result<SequenceLengths> {
    if let Some(mixture) = &input.seq_dist {
        return Ok(mixture.clone());
    }
    let isl = input.isl.first().copied().unwrap_or(DEFAULT_ISL);
    let osl = input.osl.first().copied();
    if let Some(ratio) = input.random_range_ratio {
        let style = input.random_corpus_style;
        let output = osl.map(|osl| style.length(osl, ratio.output)).transpose()?;
        return Ok(SequenceLengths::of(style.length(isl, ratio.input)?, output));
    }
    let spread = |spreads: &[f64]| spreads.first().copied().unwrap_or(0.0);
    let output = osl.map(|osl| Length::normal(osl.into(), spread(&input.osl_stddev))).transpose()?;
    Ok(SequenceLengths::of(Length::normal(isl.into(), spread(&input.isl_stddev))?, output))
}

fn system_prompt(input: &InputFlags) -> anyhow::Result<Option<Arc<str>>> {
    let from_file = input.system_prompt_file.as_ref().map(|path| {
        fs::read_to_string(path)
            .with_context(|| format!("cannot read --system-prompt-file {}", path.display()))
    });
    Ok(from_file.transpose()?.or_else(|| input.system_prompt.clone()).map(Arc::from))
}

/// A file of prompts or a trace.
fn read(
    path: &Path,
    arguments: &Arguments,
    template: &RequestTemplate,
    tokenizer: &Tokenizer,
    notes: &mut Vec<String>,
) -> anyhow::Result<Source> {
    let input = &arguments.input;
    let (mut dataset, kind) = if input.public_dataset.is_some() {
        let (sessions, cut) = sharegpt_sessions(path, MOST_CONVERSATIONS, template, tokenizer)?;
        if let Some(cut) = cut {
            notes.push(format!(
                "{} is cut off at byte {}; the {} complete conversations before are used",
                path.display(),
                cut.at_byte,
                cut.kept
            ));
        }
        if tokenizer.source() == TokenSource::Estimate {
            notes.push(
                "lengths of ShareGPT answers are estimated at four bytes a token; --tokenizer counts them"
                    .to_owned(),
            );
        }
        let entries = sessions.into_iter().map(|turns| Entry { at: None, turns }).collect();
        (Dataset { entries }, None)
    } else {
        let kind = match input.custom_dataset_type {
            Some(kind) => kind,
            None => DatasetKind::detect(path)?,
        };
        (Dataset::load(path, kind, template, input.isl_block_size)?, Some(kind))
    };
    if arguments.endpoint.endpoint_type == EndpointType::Raw
        && !matches!(kind, Some(DatasetKind::RawPayload | DatasetKind::InputsJson))
    {
        return Err(wrong(
            "--endpoint-type raw sends finished bodies: give a raw-payload or inputs-json file",
        ));
    }
    let rewrite = Rewrite {
        prefix_length: input.synthesis_prefix_len_multiplier,
        prefix_roots: input.synthesis_prefix_root_multiplier,
        prompt_length: input.synthesis_prompt_len_multiplier,
        output_length: input.synthesis_output_len_multiplier,
        max_input_tokens: input.synthesis_max_isl,
        max_output_tokens: input.synthesis_max_osl,
    };
    if let Some((flag, why)) = without_effect(input, &dataset) {
        return Err(wrong(format!("{flag} would change nothing: {} {why}; leave it out", path.display())));
    }
    if rewrite != Rewrite::default() {
        rewrite.apply(&mut dataset, arguments.input.random_seed.unwrap_or(0))?;
    }
    let (system, osl) = (system_prompt(input)?, input.osl.first().copied());
    for entry in &mut dataset.entries {
        for (place, Turn { request, .. }) in entry.turns.iter_mut().enumerate() {
            if let Some(system) = system.as_ref().filter(|_| place == 0 || request.is_whole) {
                put_before(&mut request.prompt, system)
                    .with_context(|| format!("--system-prompt with {}", path.display()))?;
                request.input_tokens = None;
            }
            request.output_tokens = request.output_tokens.or(osl);
        }
    }
    Ok(Source::Read { dataset, kind })
}

/// The first flag that has nothing to change in the file, and why.
fn without_effect(input: &InputFlags, dataset: &Dataset) -> Option<(&'static str, &'static str)> {
    let any = |has: fn(&Turn) -> bool| dataset.entries.iter().flat_map(|entry| &entry.turns).any(has);
    let has_blocks =
        any(|turn| matches!(&turn.request.prompt, Prompt::Blocks { ids, .. } if !ids.is_empty()));
    let is_counted = any(|turn| matches!(turn.request.prompt, Prompt::Blocks { .. }));
    let has_inputs = any(|turn| turn.request.input_tokens.is_some());
    let has_outputs = any(|turn| turn.request.output_tokens.is_some());
    let has_times = dataset.entries.iter().any(|entry| entry.at.is_some())
        || any(|turn| turn.not_before.is_some() || !turn.delay.is_zero());
    let (no_blocks, no_inputs, no_outputs) =
        ("has no hash ids", "does not say how long its prompts are", "does not say how long its answers are");
    let flags = [
        ("--isl-block-size", input.isl_block_size.is_some() && !has_blocks, no_blocks),
        (
            "--synthesis-prefix-len-multiplier",
            input.synthesis_prefix_len_multiplier != 1.0 && !has_blocks,
            no_blocks,
        ),
        (
            "--synthesis-prefix-root-multiplier",
            input.synthesis_prefix_root_multiplier != 1 && !has_blocks,
            no_blocks,
        ),
        (
            "--synthesis-prompt-len-multiplier",
            input.synthesis_prompt_len_multiplier != 1.0 && !is_counted,
            "has its prompts word for word",
        ),
        ("--synthesis-max-isl", input.synthesis_max_isl.is_some() && !has_inputs, no_inputs),
        (
            "--synthesis-output-len-multiplier",
            input.synthesis_output_len_multiplier != 1.0 && !has_outputs,
            no_outputs,
        ),
        ("--synthesis-max-osl", input.synthesis_max_osl.is_some() && !has_outputs, no_outputs),
        (
            "--synthesis-speedup-ratio",
            input.synthesis_speedup_ratio != 1.0 && !has_times,
            "has no times and no delays",
        ),
    ];
    flags.into_iter().find(|(_, idle, _)| *idle).map(|(flag, _, why)| (flag, why))
}

/// Puts a system message before a session's first prompt, and before every whole one.
fn put_before(prompt: &mut Prompt, system: &Arc<str>) -> anyhow::Result<()> {
    let system = Message::new("system", Arc::clone(system));
    let said: Vec<Message> = match prompt {
        Prompt::Text(text) => vec![system, Message::user(Arc::clone(text))],
        Prompt::Messages(messages) => std::iter::once(system).chain(messages.iter().cloned()).collect(),
        Prompt::Blocks { .. } | Prompt::Raw(_) => {
            return Err(wrong("prompts of hash ids and finished bodies have no place for it"));
        }
    };
    *prompt = Prompt::Messages(said.into());
    Ok(())
}
