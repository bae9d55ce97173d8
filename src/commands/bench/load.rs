//! What is sent: the requests read from the file, and when.

use std::{fmt::Write, iter, path::Path, sync::Arc, time::Duration};

use workload::{
    Arrival, Arrivals, Limits, Pattern, Phase, PhaseKind, Plan, PythonRandom, Rate, Request, RequestTemplate,
    Session, TextPrompts, TokenSource, Tokenizer,
};

use super::{
    dataset,
    flags::{Arguments, ArrivalKind},
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
        let adapters = made.prompts.iter().map_while(|_| random.choice(&modules).cloned()).collect();
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

    /// What the workload is, for the user.
    pub(super) fn describe(&self, arguments: &Arguments) -> String {
        let made = &*self.made;
        let requests = made.prompts.len();
        let mut text = format!("{:-^50}\n", "Workload");
        let mut row = |label: &str, value: String| {
            let _ = writeln!(text, "{label:<40} {value:<10}");
        };
        if arguments.dataset.is_sharegpt() {
            row("Conversations:", made.conversations.to_string());
        }
        row("Unique prompts:", made.unique_prompts.to_string());
        row("Prompts left out for their length:", made.left_out.to_string());
        row("Requests:", requests.to_string());
        row("Requests per prompt:", format!("{:.2}", requests as f64 / made.unique_prompts as f64));
        row("Input tokens:", self.input_tokens().to_string());
        row("Input tokens of unique prompts:", self.unique_input_tokens().to_string());
        row("Output tokens asked for:", self.output_tokens().to_string());
        row("Best possible prefix cache hits (%):", format!("{:.2}", 100.0 * made.best_hit_ratio()));
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
        if let Some(limit) = arguments.max_prompts().filter(|_| arguments.dataset.is_sharegpt()) {
            notes.push(format!(
                "--max-conversations takes the first {limit} prompts, not conversations, as the script does; \
                 --conversations limits conversations"
            ));
        }
        if arguments.trust_remote_code {
            notes.push("--trust-remote-code has no effect: code of models is never run".to_owned());
        }
        notes
    }

    /// The first prompt, once, which must be answered before anything is measured.
    pub(super) fn warm_up(&self, arguments: &Arguments) -> Plan {
        let arrival = self.arrivals(arguments, iter::once(Duration::ZERO));
        let limits = Limits { request_timeout: Some(REQUEST_TIMEOUT), ..Limits::default() };
        Plan { phases: vec![phase("warm-up", PhaseKind::Warmup, limits, None, arrival)] }
    }

    /// All requests at their times.
    pub(super) fn plan(&self, arguments: &Arguments) -> anyhow::Result<Plan> {
        let limits = Limits {
            concurrency: arguments.max_concurrency,
            request_timeout: Some(REQUEST_TIMEOUT),
            drifting: arguments.arrival == ArrivalKind::Legacy,
            ..Limits::default()
        };
        let arrivals = match arguments.rate() {
            None => self.arrivals(arguments, iter::repeat(Duration::ZERO)),
            Some(rate) => {
                let pattern = Pattern::Gamma(arguments.burstiness);
                let times = Arrivals::new(pattern, Rate::constant(rate)?, arguments.seed)?;
                self.arrivals(arguments, times.from_zero())
            }
        };
        let mut phase = phase("benchmark", PhaseKind::Measured, limits, arguments.rate(), arrivals);
        phase.expected_requests = Some(arguments.num_prompts);
        Ok(Plan { phases: vec![phase] })
    }

    fn arrivals(
        &self,
        arguments: &Arguments,
        times: impl Iterator<Item = Duration> + Send + 'static,
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
        Box::new((0..self.made.prompts.len()).zip(times).map(move |(index, at)| Arrival {
            at,
            session: Session { id: index as u64, turns: vec![request(index).into()], target: None },
        }))
    }
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
