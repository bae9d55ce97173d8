//! The flags: names and defaults of `benchmark_serving.py` as KubeAI uses it, then today's further ones, then our own.

use std::{path::PathBuf, time::SystemTime};

use clap::{Args, ValueEnum};
use loadgen::{ChunkRule, ClientSettings, TargetError, Targets};
use protocol::Endpoint;
use report::{BenchFormat, BenchRun, Flags, MILLISECOND, Metric, Objective, bench_metric};
use workload::BodyOptions;

use super::{dataset::DatasetFlags, modern::ModernFlags, unsupported::NoneUnsupported};

const OURS: &str = "Options that the script does not have";
/// What the script takes where `--max-conversations` is not given.
const MAX_PROMPTS: usize = 1000;

/// Flags of `evenload bench`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0; 1 if nothing was answered or something could not be read or written; 2 for \
                        wrong flags; 130 after Ctrl-C or SIGTERM, with partial results."
)]
pub(crate) struct Arguments {
    /// The server's API: completions, or chat for openai-chat [default: vllm; with --script vllm openai].
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// Server or balancer; instead of --host and --port.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Host of the server.
    #[arg(long, default_value = "localhost")]
    host: String,
    /// Port of the server.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Talk to an https server whatever certificate it shows.
    #[arg(long)]
    insecure: bool,
    /// Path of the requests, after the base URL [default: the backend's].
    #[arg(long, value_name = "PATH")]
    pub(super) endpoint: Option<String>,
    #[command(flatten)]
    pub(super) dataset: DatasetFlags,
    /// Requests in flight at most; further ones wait, and their time counts from when they are sent.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_concurrency: Option<u32>,
    /// Name of the model; with --script vllm the first one that the server lists, if none is given.
    #[arg(long)]
    pub(super) model: Option<String>,
    /// Counts the lengths: a tokenizer.json, a tokenizer.model in tiktoken's form, or a folder with one of them.
    /// Without it, and with the name of a model on a hub (org/model), lengths are estimated.
    #[arg(long, value_name = "PATH")]
    pub(super) tokenizer: Option<String>,
    /// Candidates of each answer.
    #[arg(long, default_value_t = 1)]
    best_of: u32,
    /// Requests to send; prompts are sent again until there are so many.
    #[arg(long, value_name = "NUMBER", default_value = "1000", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(super) num_prompts: u64,
    /// Takes the first so many prompts, not conversations, as the script does whatever its name says [default:
    /// 1000, or no limit with --conversations].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    max_conversations: Option<u32>,
    /// Log probabilities to ask for with each token.
    #[arg(long, value_name = "NUMBER")]
    logprobs: Option<u32>,
    /// Requests a second; inf sends all at once, or as --max-concurrency lets them.
    #[arg(long, value_name = "RATE", default_value = "inf", value_parser = request_rate)]
    request_rate: f64,
    /// Shape of the gamma distribution of the gaps: 1 is Poisson, below comes in bursts, above is smoother, inf is
    /// constant.
    #[arg(long, value_name = "SHAPE", default_value_t = 1.0, value_parser = burstiness)]
    pub(super) burstiness: f64,
    /// The order of the prompts, the adapters and all send times flow from it.
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,
    /// Has no effect: code of models is never run.
    #[arg(long)]
    pub(super) trust_remote_code: bool,
    /// No progress bar.
    #[arg(long)]
    pub(super) disable_tqdm: bool,
    /// Write the figures of the run and of each request to a JSON file.
    #[arg(long)]
    save_result: bool,
    /// Added to the JSON file.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Directory of the JSON file.
    #[arg(long, value_name = "DIR")]
    pub(super) result_dir: Option<PathBuf>,
    /// Name of the JSON file [default: made of backend, rate, concurrency, model and time].
    #[arg(long, value_name = "NAME")]
    pub(super) result_filename: Option<PathBuf>,
    /// Ask for answers of full length (vLLM).
    #[arg(long)]
    ignore_eos: bool,
    /// Latencies in the output: ttft, tpot, itl, e2el.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values = ["ttft", "tpot", "itl"], value_parser = metric)]
    percentile_metrics: Vec<Metric>,
    /// Percentiles in the output.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values = ["99"], value_parser = percentile)]
    metric_percentiles: Vec<f64>,
    /// Limits in milliseconds that a good request keeps, such as ttft:500 tpot:50.
    #[arg(long, value_name = "METRIC:MS", num_args = 1.., value_parser = objective)]
    pub(super) goodput: Vec<Objective>,
    /// auto, hf and slow; they count alike.
    #[arg(long, default_value = "auto", value_parser = ["auto", "hf", "slow"])]
    tokenizer_mode: String,
    /// Name of the model in requests, where it is another than --model.
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Adapters; each request is for one of them.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub(super) lora_modules: Vec<String>,
    #[command(flatten)]
    pub(super) modern: ModernFlags,

    /// Whose defaults, prompts, send times and output: KubeAI's multi-turn script, or today's `vllm bench serve`.
    #[arg(long, value_enum, default_value = "kubeai", help_heading = OURS)]
    pub(super) script: Script,
    /// exact: send times are absolute and lateness does not add up. legacy: each request waits its gap after the
    /// one before it was sent, as in the script.
    #[arg(long, value_enum, default_value = "exact", help_heading = OURS)]
    pub(super) arrival: ArrivalKind,
    /// Takes prompts from the first so many conversations of the file.
    #[arg(long, value_name = "NUMBER", help_heading = OURS, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) conversations: Option<u32>,
    /// Leaves out conversations of fewer messages.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, help_heading = OURS)]
    pub(super) min_messages: usize,
    /// Threads that send and receive.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256), help_heading = OURS)]
    pub(super) threads: u16,
    /// Keep connections for further requests, as --script vllm always does; KubeAI's script opens one for each, and so
    /// does this without the flag.
    #[arg(long, help_heading = OURS)]
    reuse_connections: bool,

    #[command(flatten)]
    _unsupported: NoneUnsupported,
}

/// The scripts' names of servers; only those that speak OpenAI's API.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Backend {
    Vllm,
    Openai,
    OpenaiChat,
    Lmdeploy,
    Scalellm,
    Sglang,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Script {
    Kubeai,
    Vllm,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum ArrivalKind {
    Exact,
    Legacy,
}

impl Arguments {
    /// Says which flags do not go together.
    pub(super) fn check(&self) -> Result<(), String> {
        self.dataset.check(self.script)?;
        self.modern.check()?;
        if self.model.is_none() && self.script == Script::Kubeai {
            return Err(
                "--model is missing; only --script vllm asks the server for its first model".to_owned()
            );
        }
        if self.modern.ramp_up().is_some() && self.rate().is_some() {
            return Err("--ramp-up-strategy sets the rate: leave --request-rate away".to_owned());
        }
        let path = self.path();
        let chat = self.operation() == Endpoint::ChatCompletions;
        if chat && !path.ends_with("chat/completions") {
            return Err(format!("--backend openai-chat sends to chat/completions, not to --endpoint {path}"));
        }
        if !chat && path.ends_with("chat/completions") {
            return Err(format!("--endpoint {path} is for --backend openai-chat"));
        }
        Ok(())
    }

    pub(super) fn targets(&self) -> Result<Targets, TargetError> {
        let own = || format!("http://{}:{}", self.host, self.port);
        let settings = ClientSettings { insecure: self.insecure, ..ClientSettings::default() };
        Targets::resolve_with([self.base_url.clone().unwrap_or_else(own)], &settings)
    }

    pub(super) fn operation(&self) -> Endpoint {
        match self.backend() {
            Backend::OpenaiChat => Endpoint::ChatCompletions,
            _ => Endpoint::Completions,
        }
    }

    fn backend(&self) -> Backend {
        self.backend.unwrap_or(match self.script {
            Script::Kubeai => Backend::Vllm,
            Script::Vllm => Backend::Openai,
        })
    }

    /// Whether the results go to a file.
    pub(super) fn saves(&self) -> bool {
        self.save_result || self.modern.append_result
    }

    /// Whether the file lists each request: KubeAI's always does.
    pub(super) fn lists(&self) -> bool {
        self.saves() && (self.script == Script::Kubeai || self.modern.save_detailed)
    }

    /// Whether connections serve further requests.
    pub(super) fn reuses_connections(&self) -> bool {
        self.reuse_connections || self.script == Script::Vllm
    }

    /// Whether the first prompt is sent before the run.
    pub(super) fn warms_up(&self) -> bool {
        self.must_answer_first() || self.modern.num_warmups > 0
    }

    /// Whether one request must be answered before the run.
    pub(super) fn must_answer_first(&self) -> bool {
        self.script == Script::Kubeai || self.modern.ready_check_timeout_sec > 0
    }

    /// What the scripts count as a chunk. All of them count tokens without text; only KubeAI's also counts a chat's
    /// opening, and ends a chat with the event that counts the tokens.
    pub(super) fn chunk_rule(&self) -> ChunkRule {
        match (self.script, self.operation()) {
            (Script::Kubeai, Endpoint::ChatCompletions) => ChunkRule::ChoiceThenUsage,
            (Script::Vllm, Endpoint::ChatCompletions) => ChunkRule::Token,
            _ => ChunkRule::Choice,
        }
    }

    fn path(&self) -> &str {
        self.endpoint.as_deref().unwrap_or(self.operation().path())
    }

    pub(super) fn rate(&self) -> Option<f64> {
        self.request_rate.is_finite().then_some(self.request_rate)
    }

    /// The flags that this run has, for what its verdict advises.
    pub(super) fn advice(&self) -> Flags {
        let rate = match self.rate() {
            _ if self.modern.ramp_up().is_some() => "--ramp-up-end-rps",
            None if self.max_concurrency.is_some() => Flags::BENCH.concurrency,
            _ => Flags::BENCH.rate,
        };
        Flags { rate, ..Flags::BENCH }
    }

    pub(super) fn model(&self) -> &str {
        self.served_model_name.as_deref().or(self.model.as_deref()).unwrap_or_default()
    }

    /// The script's cut of the list of prompts.
    pub(super) fn max_prompts(&self) -> Option<usize> {
        let own = self.conversations.is_none().then_some(MAX_PROMPTS);
        match self.script {
            Script::Kubeai => self.max_conversations.map(|limit| limit as usize).or(own),
            Script::Vllm => self.max_conversations.map(|limit| limit as usize),
        }
    }

    pub(super) fn body(&self) -> BodyOptions {
        let mut extra = self.modern.body();
        if self.script == Script::Vllm && self.operation() == Endpoint::Completions {
            extra.entry("repetition_penalty").or_insert_with(|| 1.0.into());
        }
        BodyOptions {
            temperature: (self.script == Script::Kubeai).then_some(0.0),
            ignore_eos: self.ignore_eos || self.dataset.wants_full_answers(self.script),
            include_usage: true,
            best_of: (self.script == Script::Kubeai || self.best_of != 1).then_some(self.best_of),
            logprobs: self.logprobs,
            extra,
            ..BodyOptions::default()
        }
    }

    pub(super) fn bench_run(&self) -> BenchRun {
        BenchRun {
            format: match self.script {
                Script::Kubeai => BenchFormat::Kubeai,
                Script::Vllm => BenchFormat::Vllm,
            },
            backend: self
                .backend()
                .to_possible_value()
                .map_or_else(String::new, |name| name.get_name().into()),
            label: self.modern.label.clone(),
            model: self.model.clone().unwrap_or_default(),
            tokenizer: self.tokenizer.clone(),
            best_of: self.best_of,
            num_prompts: self.num_prompts,
            request_rate: self.rate(),
            ramp_up: self.modern.ramp_up().map(|(how, start, end)| (how.name(), start, end)),
            burstiness: self.burstiness,
            max_concurrency: self.max_concurrency,
            metadata: self.metadata.clone(),
            percentile_metrics: self.percentile_metrics.clone(),
            percentiles: self.metric_percentiles.clone(),
            save_detailed: self.modern.save_detailed,
            goodput: !self.goodput.is_empty(),
            date: SystemTime::now(),
            rate_changes: Vec::new(),
            all_due_at: None,
        }
    }
}

fn request_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (rate > 0.0 && rate <= 1e9) || rate == f64::INFINITY => Ok(rate),
        _ => Err("give a number of requests a second above 0, at most 1e9, or inf".to_owned()),
    }
}

fn burstiness(text: &str) -> Result<f64, String> {
    let shape = text.parse().ok().filter(|shape: &f64| *shape > 0.0);
    shape.ok_or_else(|| "give a number above 0 (1 is Poisson), or inf".to_owned())
}

/// JSON has no other numbers.
pub(super) fn finite(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| "give a finite number".to_owned())
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn metric(text: &str) -> Result<Metric, String> {
    bench_metric(text).ok_or_else(|| "choose from ttft, tpot, itl, e2el".to_owned())
}

fn percentile(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("give a number from 0 to 100".to_owned()),
    }
}

fn objective(text: &str) -> Result<Objective, String> {
    let limited = |key| match key {
        "ttft" | "tpot" | "e2el" => bench_metric(key),
        _ => None,
    };
    let (key, limit) = text.split_once(':').ok_or("write METRIC:MILLISECONDS, such as ttft:500")?;
    let metric = limited(key).ok_or("limits are for ttft, tpot and e2el")?;
    match limit.parse::<f64>() {
        Ok(limit) if limit >= 0.0 => {
            Ok(Objective { metric, limit: (limit * MILLISECOND) as u64, good_without: true })
        }
        _ => Err(format!("{limit} is no number of milliseconds")),
    }
}
