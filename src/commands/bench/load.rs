//! What is sent: the requests read from the file, and when.

use std::{fmt::Write, iter, path::Path, sync::Arc, time::Duration};

use workload::{
    Arrival, Arrivals, Limits, Pattern, Phase, PhaseKind, Plan, PythonRandom, Rate, Request, RequestTemplate,
    ScriptRate, Session, TextPrompts, TokenSource, Tokenizer, script_arrivals,
};

use super::{
    dataset,
    flags::{Arguments, ArrivalKind, Script},
    modern::{LoraAssignment, RampUp},
};

/// The script gives up on a request after six hours.
const REQUEST_TIMEOUT: Duration = Duration::from_hours(6);

/// The requests of a run.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) made: Arc<TextPrompts>,
    /// Who counted the lengths.
    pub(super) source: TokenSource,
    /// The adapter of each request; none without `--lora-modules`.
    adapters: Vec<Arc<str>>,
}

impl Load {
    pub(super) fn read(arguments: &Arguments) -> anyhow::Result<Self> {
        let tokenizer = match &arguments.tokenizer {
            Some(name) if !is_hub_name(name) => Tokenizer::load(Path::new(name))?,
            _ => Tokenizer::estimate(),
        };
        let mut random = PythonRandom::new(arguments.seed);
        let made = dataset::prompts(arguments, &tokenizer, &mut random)?;
        let modules: Vec<Arc<str>> = arguments.lora_modules.iter().map(|name| name.as_str().into()).collect();
        let requests = made.prompts.len();
        let adapters = match arguments.modern.lora_assignment {
            LoraAssignment::Random => {
                iter::from_fn(|| random.choice(&modules).cloned()).take(requests).collect()
            }
            LoraAssignment::RoundRobin => modules.iter().cycle().take(requests).cloned().collect(),
        };
        Ok(Self { made: Arc::new(made), source: tokenizer.source(), adapters })
    }

    /// Prompt tokens of all requests.
    pub(super) fn input_tokens(&self) -> u64 {
        self.made.prompts.iter().map(|prompt| u64::from(prompt.input_tokens)).sum()
    }

    /// Prompt tokens of the different prompts.
    pub(super) fn unique_input_tokens(&self) -> u64 {
        let unique = &self.made.prompts[..self.made.unique_prompts];
        unique.iter().map(|prompt| u64::from(prompt.input_tokens)).sum()
    }

    /// Output tokens asked for.
    pub(super) fn output_tokens(&self) -> u64 {
        self.made.prompts.iter().map(|prompt| u64::from(prompt.output_tokens)).sum()
    }

    /// The most that prefix caches can spare, what was sent before the run included.
    pub(super) fn best_hit_ratio(&self, arguments: &Arguments) -> f64 {
        self.made.best_hit_ratio(arguments.warms_up())
    }

    /// What the workload is, for the user.
    pub(super) fn describe(&self, arguments: &Arguments) -> String {
        let made = &*self.made;
        let requests = made.prompts.len();
        let mut text = format!("{:-^50}\n", "Workload");
        let mut row = |label: &str, value: String| {
            let _ = writeln!(text, "{label:<40} {value:<10}");
        };
        if arguments.dataset.is_sharegpt(arguments.script) {
            row("Conversations:", made.conversations.to_string());
        }
        row("Unique prompts:", made.unique_prompts.to_string());
        row("Prompts left out for their length:", made.left_out.to_string());
        row("Requests:", requests.to_string());
        row("Requests per prompt:", format!("{:.2}", requests as f64 / made.unique_prompts as f64));
        row("Input tokens:", self.input_tokens().to_string());
        row("Input tokens of unique prompts:", self.unique_input_tokens().to_string());
        row("Output tokens asked for:", self.output_tokens().to_string());
        row("Best possible prefix cache hits (%):", format!("{:.2}", 100.0 * self.best_hit_ratio(arguments)));
        for note in self.notes(arguments) {
            let _ = writeln!(text, "note: {note}");
        }
        text + "\n"
    }

    fn notes(&self, arguments: &Arguments) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(cut) = self.made.cut {
            notes.push(format!("{}: {cut}", arguments.dataset.path().display()));
        }
        if self.source == TokenSource::Estimate {
            let name = arguments.tokenizer.as_ref();
            let why =
                name.map_or_else(String::new, |name| format!("--tokenizer {name} is not a file here; "));
            notes.push(format!(
                "{why}lengths are estimated at four bytes a token; give --tokenizer a tokenizer.json or a \
                 tokenizer.model for exact ones"
            ));
        }
        if let Some(limit) =
            arguments.max_prompts().filter(|_| arguments.dataset.is_sharegpt(arguments.script))
        {
            notes.push(format!(
                "--max-conversations takes the first {limit} prompts, not conversations, as the script does; \
                 --conversations limits conversations"
            ));
        }
        if arguments.script == Script::Vllm && !arguments.body().extra.contains_key("temperature") {
            notes.push(
                "no temperature is sent, as by today's script: the server's default decides; --temperature 0 is \
                 greedy"
                    .to_owned(),
            );
        }
        if arguments.trust_remote_code {
            notes.push("--trust-remote-code has no effect: code of models is never run".to_owned());
        }
        notes
    }

    /// The first prompt, so often, before anything is measured.
    pub(super) fn warm_up(&self, arguments: &Arguments, requests: u32) -> Plan {
        let arrivals = self.arrivals(arguments, (0..requests).map(|_| (0, Duration::ZERO)));
        let limits = Limits {
            concurrency: arguments.max_concurrency,
            request_timeout: Some(REQUEST_TIMEOUT),
            ..Limits::default()
        };
        Plan { phases: vec![phase("warm-up", PhaseKind::Warmup, limits, None, arrivals)] }
    }

    /// All requests at their times.
    pub(super) fn plan(&self, arguments: &Arguments) -> anyhow::Result<Plan> {
        let limits = Limits {
            concurrency: arguments.max_concurrency,
            request_timeout: Some(REQUEST_TIMEOUT),
            drifting: arguments.arrival == ArrivalKind::Legacy,
            ..Limits::default()
        };
        let requests = self.made.prompts.len();
        let (times, rate) = times(arguments, requests)?;
        let arrivals = self.arrivals(arguments, times.into_iter().enumerate());
        let mut phase = phase("benchmark", PhaseKind::Measured, limits, rate, arrivals);
        phase.expected_requests = Some(requests as u64);
        Ok(Plan { phases: vec![phase] })
    }

    /// When a ramp reaches each whole rate, from its first one on, as the script notes it; empty without a ramp.
    pub(super) fn rate_changes(&self, arguments: &Arguments) -> anyhow::Result<Vec<(u32, Duration)>> {
        let Some(ramp) = ramp(arguments) else { return Ok(Vec::new()) };
        let (times, _) = times(arguments, self.made.prompts.len())?;
        let last = times.len().saturating_sub(1).max(1) as f64;
        let mut changes = vec![(ramp.of(0.0) as u32, Duration::ZERO)];
        for (index, at) in times.into_iter().enumerate() {
            let (reached, rate) = (changes[changes.len() - 1].0, ramp.of(index as f64 / last) as u32);
            changes.extend((reached + 1..=rate).map(|rate| (rate, at)));
        }
        Ok(changes)
    }

    /// Requests for the prompts at these places, at these times.
    fn arrivals(
        &self,
        arguments: &Arguments,
        places: impl Iterator<Item = (usize, Duration)> + Send + 'static,
    ) -> Box<dyn Iterator<Item = Arrival> + Send> {
        let template = RequestTemplate::new(arguments.operation(), arguments.model());
        let (made, adapters) = (Arc::clone(&self.made), self.adapters.clone());
        let request = move |index: usize| -> Request {
            let request = made.prompts[index].request(&template);
            match adapters.get(index) {
                Some(adapter) => Request { model: Arc::clone(adapter), ..request },
                None => request,
            }
        };
        Box::new(places.enumerate().map(move |(number, (place, at))| Arrival {
            at,
            session: Session { id: number as u64, turns: vec![request(place).into()], target: None },
        }))
    }
}

fn ramp(arguments: &Arguments) -> Option<ScriptRate> {
    let (how, start, end) = arguments.modern.ramp_up()?;
    let (start, end) = (f64::from(start), f64::from(end));
    Some(match how {
        RampUp::Linear => ScriptRate::Linear(start, end),
        RampUp::Exponential => ScriptRate::Exponential(start, end),
    })
}

/// When requests are sent, and how many a second; `None` is as fast as they are let.
fn times(arguments: &Arguments, requests: usize) -> anyhow::Result<(Vec<Duration>, Option<f64>)> {
    let pattern = Pattern::Gamma(arguments.burstiness);
    let seed = arguments.seed;
    if let Some(ramp) = ramp(arguments) {
        let times = script_arrivals(pattern, ramp, requests, seed)?;
        let mean = times.last().map(|last| requests as f64 / last.as_secs_f64());
        return Ok((times, mean));
    }
    let times = match (arguments.rate(), arguments.script) {
        (None, _) => vec![Duration::ZERO; requests],
        (Some(rate), Script::Vllm) => script_arrivals(pattern, ScriptRate::Constant(rate), requests, seed)?,
        (Some(rate), Script::Kubeai) => {
            Arrivals::new(pattern, Rate::constant(rate)?, seed)?.from_zero().take(requests).collect()
        }
    };
    Ok((times, arguments.rate()))
}

fn phase(
    name: &str,
    kind: PhaseKind,
    limits: Limits,
    target_rate: Option<f64>,
    arrivals: Box<dyn Iterator<Item = Arrival> + Send>,
) -> Phase {
    let closed_loop = target_rate.is_none() && limits.concurrency.is_some();
    Phase { name: name.to_owned(), kind, limits, closed_loop, target_rate, expected_requests: None, arrivals }
}

/// Whether `name` is a model on a hub, such as `org/model`, and not a path.
fn is_hub_name(name: &str) -> bool {
    let path = Path::new(name);
    let is_file_name = path.extension().is_some_and(|end| end == "json" || end == "model");
    !path.exists() && !is_file_name && name.matches('/').count() <= 1 && !name.starts_with(['/', '.', '~'])
}
