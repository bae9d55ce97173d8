//! The flags that only today's `vllm bench serve` has. They work with KubeAI's prompts as well.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use super::flags::finite;

/// As in data files.
const MOST_SECONDS: u64 = workload::MAX_SECONDS as u64;

/// Flags of `vllm bench serve` that KubeAI's script lacks.
#[derive(Debug, Args)]
pub(super) struct ModernFlags {
    /// Begins the result file's name, and is in it; the backend where it is missing.
    #[arg(long)]
    pub(super) label: Option<String>,
    /// Write the figures of each request too (KubeAI's script always does).
    #[arg(long)]
    pub(super) save_detailed: bool,
    /// Write the result at the end of the JSON file, as a line of its own; other lines stay. Implies --save-result.
    #[arg(long)]
    pub(super) append_result: bool,
    /// Send the first prompt so often before the run, as --max-concurrency lets it. KubeAI's script sends it once in
    /// any case, and it must be answered.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) num_warmups: u32,
    /// Send the first prompt every 5 seconds until it is answered, for so long; 0 does not wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=MOST_SECONDS))]
    pub(super) ready_check_timeout_sec: u64,
    /// How the rate goes from one --ramp-up-...-rps to the other, over the number of requests; instead of --request-rate.
    #[arg(long, value_enum, value_name = "HOW", requires_all = ["ramp_up_start_rps", "ramp_up_end_rps"])]
    pub(super) ramp_up_strategy: Option<RampUp>,
    /// Requests a second at the beginning.
    #[arg(long, value_name = "RATE", requires = "ramp_up_strategy", value_parser = clap::value_parser!(u32).range(1..))]
    ramp_up_start_rps: Option<u32>,
    /// Requests a second at the end.
    #[arg(long, value_name = "RATE", requires = "ramp_up_strategy", value_parser = clap::value_parser!(u32).range(1..))]
    ramp_up_end_rps: Option<u32>,
    /// Headers of all requests.
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = super::flags::key_value)]
    pub(super) header: Vec<(String, String)>,
    /// JSON object that is merged into every request's body; it wins over what other flags put there.
    #[arg(long, value_name = "JSON", value_parser = object)]
    extra_body: Option<Map<String, Value>>,
    /// Sampling temperature [default: 0; with --script vllm it is left to the server].
    #[arg(long, value_name = "NUMBER", value_parser = finite)]
    temperature: Option<f64>,
    /// Sampling parameter top_p.
    #[arg(long, value_name = "NUMBER", value_parser = finite)]
    top_p: Option<f64>,
    /// Sampling parameter top_k.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    top_k: Option<i64>,
    /// Sampling parameter min_p.
    #[arg(long, value_name = "NUMBER", value_parser = finite)]
    min_p: Option<f64>,
    /// Sampling parameter frequency_penalty.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = finite)]
    frequency_penalty: Option<f64>,
    /// Sampling parameter presence_penalty.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, value_parser = finite)]
    presence_penalty: Option<f64>,
    /// Sampling parameter repetition_penalty.
    #[arg(long, value_name = "NUMBER", value_parser = finite)]
    repetition_penalty: Option<f64>,
    /// Begins the requests' names (X-Request-ID), which go on with phase and number [default: run].
    #[arg(long, value_name = "TEXT")]
    pub(super) request_id_prefix: Option<String>,
    /// How adapters are dealt out.
    #[arg(long, value_enum, value_name = "HOW", default_value = "random")]
    pub(super) lora_assignment: LoraAssignment,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum RampUp {
    Linear,
    Exponential,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum LoraAssignment {
    Random,
    RoundRobin,
}

impl ModernFlags {
    /// Says what does not go together.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.ramp_up() {
            Some((_, start, end)) if start > end => {
                Err(format!("--ramp-up-start-rps {start} is more than --ramp-up-end-rps {end}"))
            }
            _ => Ok(()),
        }
    }

    /// The ramp, from and to how many requests a second.
    pub(super) fn ramp_up(&self) -> Option<(RampUp, u32, u32)> {
        Some((self.ramp_up_strategy?, self.ramp_up_start_rps?, self.ramp_up_end_rps?))
    }

    /// How long to wait for a server that is not there yet.
    pub(super) fn ready_within(&self) -> Duration {
        Duration::from_secs(self.ready_check_timeout_sec)
    }

    /// What goes into every body besides the request.
    pub(super) fn body(&self) -> Map<String, Value> {
        let sampling = [
            ("temperature", self.temperature.map(Value::from)),
            ("top_p", self.top_p.map(Value::from)),
            ("top_k", self.top_k.map(Value::from)),
            ("min_p", self.min_p.map(Value::from)),
            ("frequency_penalty", self.frequency_penalty.map(Value::from)),
            ("presence_penalty", self.presence_penalty.map(Value::from)),
            ("repetition_penalty", self.repetition_penalty.map(Value::from)),
        ];
        let mut body: Map<String, Value> =
            sampling.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        body.extend(self.extra_body.clone().unwrap_or_default());
        body
    }
}

impl RampUp {
    /// As the script writes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Exponential => "exponential",
        }
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("give a JSON object: {error}"))
}
