//! The flags: names and defaults of `benchmark_serving.py` as KubeAI uses it, then our own.

use std::{path::PathBuf, time::SystemTime};

use clap::{Args, ValueEnum};
use loadgen::{ClientSettings, TargetError, Targets};
use protocol::Endpoint;
use report::{BenchFormat, BenchRun, MILLISECOND, Metric, Objective, bench_metric};
use workload::BodyOptions;

use super::{dataset::DatasetFlags, unsupported::NoneUnsupported};

const OURS: &str = "Options that the script does not have";
/// What the script takes where `--max-conversations` is not given.
const MAX_PROMPTS: usize = 1000;

/// Flags of `evenload bench`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The server's API: completions, or chat for openai-chat.
    #[arg(long, value_enum, default_value = "vllm")]
    pub(super) backend: Backend,
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
    /// Name of the model.
    #[arg(long)]
    model: String,
    /// Counts the lengths: a tokenizer.json, a tokenizer.model in tiktoken's form, or a folder with one of them.
    /// Without it, and with a name that is no file, lengths are estimated.
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
    #[arg(long, value_name = "NUMBER")]
    max_conversations: Option<usize>,
    /// Log probabilities to ask for with each token.
    #[arg(long, value_name = "NUMBER")]
    logprobs: Option<u32>,
    /// Requests a second; inf sends all at once, or as --max-concurrency lets them.
    #[arg(long, value_name = "RATE", default_value = "inf", value_parser = request_rate)]
    request_rate: f64,
    /// Shape of the gamma distribution of the gaps: 1 is Poisson, below comes in bursts, above is smoother.
    #[arg(long, value_name = "SHAPE", default_value_t = 1.0)]
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
    pub(super) save_result: bool,
    /// Added to the JSON file.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = metadata)]
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
    /// auto and slow; they count alike.
    #[arg(long, default_value = "auto", value_parser = ["auto", "slow"])]
    tokenizer_mode: String,
    /// Name of the model in requests, where it is another than --model.
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// Adapters; each request is for one of them, drawn at random.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub(super) lora_modules: Vec<String>,

    /// Whose prompts, and whose output: KubeAI's multi-turn script, or today's `vllm bench serve`.
    #[arg(long, value_enum, default_value = "kubeai", help_heading = OURS)]
    pub(super) script: Script,
    /// exact: send times are absolute and lateness does not add up. legacy: each request waits its gap after the
    /// one before it was sent, as in the script.
    #[arg(long, value_enum, default_value = "exact", help_heading = OURS)]
    pub(super) arrival: ArrivalKind,
    /// Takes prompts from the first so many conversations of the file.
    #[arg(long, value_name = "NUMBER", help_heading = OURS)]
    pub(super) conversations: Option<usize>,
    /// Leaves out conversations of fewer messages.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, help_heading = OURS)]
    pub(super) min_messages: usize,
    /// Threads that send and receive.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256), help_heading = OURS)]
    pub(super) threads: u16,
    /// Keep connections for further requests; KubeAI's script opens one for each, and so does this without the flag.
    #[arg(long, help_heading = OURS)]
    pub(super) reuse_connections: bool,

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
        let path = self.path();
        if self.backend == Backend::OpenaiChat && !path.ends_with("chat/completions") {
            return Err(format!("--backend openai-chat sends to chat/completions, not to --endpoint {path}"));
        }
        if self.backend != Backend::OpenaiChat && path.ends_with("chat/completions") {
            return Err(format!("--endpoint {path} is for --backend openai-chat"));
        }
        if self.burstiness.is_nan() || self.burstiness <= 0.0 {
            return Err(format!("--burstiness {}: give a number above 0 (1 is Poisson)", self.burstiness));
        }
        Ok(())
    }

    pub(super) fn targets(&self) -> Result<Targets, TargetError> {
        let own = || format!("http://{}:{}", self.host, self.port);
        let settings = ClientSettings { insecure: self.insecure, ..ClientSettings::default() };
        Targets::resolve_with([self.base_url.clone().unwrap_or_else(own)], &settings)
    }

    pub(super) fn operation(&self) -> Endpoint {
        match self.backend {
            Backend::OpenaiChat => Endpoint::ChatCompletions,
            _ => Endpoint::Completions,
        }
    }

    fn path(&self) -> &str {
        self.endpoint.as_deref().unwrap_or(self.operation().path())
    }

    pub(super) fn rate(&self) -> Option<f64> {
        self.request_rate.is_finite().then_some(self.request_rate)
    }

    pub(super) fn model(&self) -> &str {
        self.served_model_name.as_deref().unwrap_or(&self.model)
    }

    /// The script's cut of the list of prompts.
    pub(super) fn max_prompts(&self) -> Option<usize> {
        let own = self.conversations.is_none().then_some(MAX_PROMPTS);
        match self.script {
            Script::Kubeai => self.max_conversations.or(own),
            Script::Vllm => self.max_conversations,
        }
    }

    pub(super) fn body(&self) -> BodyOptions {
        BodyOptions {
            temperature: Some(0.0),
            ignore_eos: self.ignore_eos || self.dataset.wants_full_answers(self.script),
            include_usage: true,
            best_of: (self.script == Script::Kubeai || self.best_of != 1).then_some(self.best_of),
            logprobs: self.logprobs,
            ..BodyOptions::default()
        }
    }

    pub(super) fn bench_run(&self) -> BenchRun {
        BenchRun {
            format: match self.script {
                Script::Kubeai => BenchFormat::Kubeai,
                Script::Vllm => BenchFormat::Vllm,
            },
            backend: self.backend.to_possible_value().map_or_else(String::new, |name| name.get_name().into()),
            label: None,
            model: self.model.clone(),
            tokenizer: self.tokenizer.clone(),
            best_of: self.best_of,
            num_prompts: self.num_prompts,
            request_rate: self.rate(),
            burstiness: self.burstiness,
            max_concurrency: self.max_concurrency,
            metadata: self.metadata.clone(),
            percentile_metrics: self.percentile_metrics.clone(),
            percentiles: self.metric_percentiles.clone(),
            save_detailed: true,
            goodput: !self.goodput.is_empty(),
            date: SystemTime::now(),
            peak_in_flight: None,
        }
    }
}

fn request_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 => Ok(rate),
        _ => Err("give a number of requests a second above 0, or inf".to_owned()),
    }
}

fn metadata(text: &str) -> Result<(String, String), String> {
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
