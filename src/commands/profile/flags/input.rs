//! Flags: what is sent besides its lengths.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use workload::{CacheBust, DatasetKind, Length, Sampling, SequenceLengths};

use super::values::{
    dataset_kind, extra_inputs, fraction_seconds, header, milliseconds, prompt_corpus, range_ratio,
    sequence_lengths, turns,
};

/// Flags of the data.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Input")]
pub(crate) struct InputFlags {
    /// AIPerf's YAML (schema 2.0): its keys as flags. Flags on the command line win.
    #[arg(id = "config", long = "config", short = 'f', value_name = "FILE")]
    _config: Option<PathBuf>,
    /// Put into every body: KEY:VALUE, several set apart by commas, or a JSON object.
    #[arg(long, value_name = "KEY:VALUE", num_args = 1.., value_parser = extra_inputs)]
    pub(crate) extra_inputs: Vec<Map<String, Value>>,
    /// Further headers: NAME:VALUE, several set apart by commas, or a JSON object.
    #[arg(long, short = 'H', value_name = "NAME:VALUE", num_args = 1, value_parser = header)]
    pub(crate) header: Vec<Vec<(String, String)>>,
    /// File of prompts or a trace.
    #[arg(long, value_name = "FILE")]
    pub(crate) input_file: Option<PathBuf>,
    /// sharegpt: read --input-file as a ShareGPT file. Nothing is ever downloaded.
    #[arg(long, value_name = "NAME", value_parser = ["sharegpt"], hide_possible_values = true, requires = "input_file")]
    pub(crate) public_dataset: Option<String>,
    /// Kind of --input-file: single-turn, multi-turn, random-pool, mooncake-trace, bailian-trace, burst-gpt-trace,
    /// azure-trace, raw-payload, inputs-json [default: told from the file].
    #[arg(long, value_name = "KIND", value_parser = dataset_kind, requires = "input_file")]
    pub(crate) custom_dataset_type: Option<DatasetKind>,
    /// Leave out the times and delays of a trace.
    #[arg(long)]
    pub(crate) ignore_trace_delays: bool,
    /// Order of the entries: sequential, random, shuffle [default: sequential for files, shuffle for made prompts].
    #[arg(long, value_enum, value_name = "ORDER", hide_possible_values = true)]
    pub(crate) dataset_sampling_strategy: Option<SamplingOrder>,
    /// All prompts and all send times flow from it [default: drawn, and written down].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) random_seed: Option<u64>,

    /// Different made prompts; used again when there are more requests [default: every prompt is sent once].
    #[arg(long, visible_alias = "num-prompts", value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) num_dataset_entries: Option<u64>,
    /// Turns of a session.
    #[arg(long, visible_alias = "session-turns-mean", value_name = "TURNS", value_delimiter = ',', default_value = "1", value_parser = turns)]
    pub(crate) conversation_turn_mean: Vec<f64>,
    /// Standard deviation of the turns.
    #[arg(long, visible_alias = "session-turns-stddev", value_name = "TURNS", default_value_t = 0.0)]
    pub(crate) conversation_turn_stddev: f64,
    /// Think time before each turn but the first.
    #[arg(long, visible_alias = "session-turn-delay-mean", value_name = "MS", default_value = "0", value_parser = milliseconds)]
    pub(crate) conversation_turn_delay_mean: Duration,
    /// Its standard deviation.
    #[arg(long, visible_alias = "session-turn-delay-stddev", value_name = "MS", default_value = "0", value_parser = milliseconds)]
    pub(crate) conversation_turn_delay_stddev: Duration,
    /// Multiplies all think times.
    #[arg(long, visible_alias = "session-delay-ratio", value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) conversation_turn_delay_ratio: f64,
    /// Longest think time.
    #[arg(long, value_name = "SECONDS", value_parser = fraction_seconds)]
    pub(crate) inter_turn_delay_cap_seconds: Option<Duration>,

    /// Length of a made prompt's own words.
    #[arg(long = "prompt-input-tokens-mean", visible_aliases = ["synthetic-input-tokens-mean", "isl"], value_name = "TOKENS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) isl: Vec<u32>,
    /// Words of made prompts. random is the only one: words drawn from 256 of one token each.
    #[arg(id = "prompt_corpus", long = "prompt-corpus", value_name = "NAME", value_parser = prompt_corpus)]
    _prompt_corpus: Option<()>,
    /// Its standard deviation.
    #[arg(long = "prompt-input-tokens-stddev", visible_aliases = ["synthetic-input-tokens-stddev", "isl-stddev"], value_name = "TOKENS", value_delimiter = ',', default_value = "0", conflicts_with_all = ["seq_dist", "random_range_ratio"])]
    pub(crate) isl_stddev: Vec<f64>,
    /// Tokens that a hash id of a trace stands for [default: 512 for mooncake, 16 for bailian].
    #[arg(long = "prompt-input-tokens-block-size", visible_aliases = ["synthetic-input-tokens-block-size", "isl-block-size"], value_name = "TOKENS")]
    pub(crate) isl_block_size: Option<u32>,
    /// Mixture of lengths: ISL,OSL:percent;... with standard deviations as ISL|SD,OSL|SD:percent, or JSON.
    #[arg(long, visible_alias = "sequence-distribution", value_name = "MIXTURE", value_parser = sequence_lengths, conflicts_with_all = ["isl", "osl", "random_range_ratio"])]
    pub(crate) seq_dist: Option<SequenceLengths>,
    /// Draw lengths evenly around the means: a share, or {"input": SHARE, "output": SHARE}.
    #[arg(long, value_name = "RATIO", value_parser = range_ratio, requires_all = ["isl", "osl"])]
    pub(crate) random_range_ratio: Option<RangeRatio>,
    /// What the ratio means: vllm, mean*(1-R) to mean*(1+R); sglang, mean*R to mean.
    #[arg(
        long,
        value_enum,
        value_name = "STYLE",
        default_value = "vllm",
        hide_possible_values = true,
        requires = "random_range_ratio"
    )]
    pub(crate) random_corpus_style: RangeStyle,
    /// Output length to ask for.
    #[arg(long = "prompt-output-tokens-mean", visible_aliases = ["output-tokens-mean", "osl"], value_name = "TOKENS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) osl: Vec<u32>,
    /// Its standard deviation.
    #[arg(long = "prompt-output-tokens-stddev", visible_aliases = ["output-tokens-stddev", "osl-stddev"], value_name = "TOKENS", value_delimiter = ',', default_value = "0", requires = "osl", conflicts_with_all = ["seq_dist", "random_range_ratio"])]
    pub(crate) osl_stddev: Vec<f64>,
    /// System message of every session, word for word.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system_prompt: Option<String>,
    /// The same, from a file.
    #[arg(long, value_name = "FILE", conflicts_with = "system_prompt")]
    pub(crate) system_prompt_file: Option<PathBuf>,
    /// Texts of one request, for --endpoint-type embeddings.
    #[arg(long, short = 'b', visible_aliases = ["batch-size-text", "batch-size"], value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) prompt_batch_size: u32,
    /// Different prefixes; each session draws one.
    #[arg(long, visible_aliases = ["prefix-prompt-pool-size", "num-prefix-prompts"], value_name = "NUMBER", default_value_t = 0, requires = "prompt_prefix_length")]
    pub(crate) prompt_prefix_pool_size: u32,
    /// Length of a prefix.
    #[arg(
        long,
        visible_alias = "prefix-prompt-length",
        value_name = "TOKENS",
        default_value_t = 0,
        requires = "prompt_prefix_pool_size"
    )]
    pub(crate) prompt_prefix_length: u32,
    /// Length of a made system prompt that all sessions share.
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub(crate) shared_system_prompt_length: u32,
    /// Length of a context that is each session's own.
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    pub(crate) user_context_prompt_length: u32,
    /// Words that no cache knows: none, system-prefix, system-suffix, first-turn-prefix, first-turn-suffix; in the
    /// warm-up only: warmup-isolation-system, warmup-isolation-first-turn.
    #[arg(long, value_enum, value_name = "PLACE", default_value = "none", hide_possible_values = true)]
    pub(crate) cache_bust: Bust,

    /// Trace: times and delays are divided by this.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) synthesis_speedup_ratio: f64,
    /// Trace: shared prefixes become longer by this.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) synthesis_prefix_len_multiplier: f64,
    /// Trace: copies of the tree of shared prefixes, so that fewer prompts share one.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) synthesis_prefix_root_multiplier: u32,
    /// Trace: what is not shared becomes longer by this.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) synthesis_prompt_len_multiplier: f64,
    /// Trace: answers become longer by this.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub(crate) synthesis_output_len_multiplier: f64,
    /// Trace: longer prompts are left out.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) synthesis_max_isl: Option<u32>,
    /// Trace: longer answers are asked for with this length.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) synthesis_max_osl: Option<u32>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum SamplingOrder {
    Sequential,
    Random,
    Shuffle,
}

/// Shares of the means by which lengths spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RangeRatio {
    pub(crate) input: f64,
    pub(crate) output: f64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum RangeStyle {
    Vllm,
    Sglang,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Bust {
    None,
    #[value(alias = "system_prefix")]
    SystemPrefix,
    #[value(alias = "system_suffix")]
    SystemSuffix,
    #[value(alias = "first_turn_prefix")]
    FirstTurnPrefix,
    #[value(alias = "first_turn_suffix")]
    FirstTurnSuffix,
    #[value(alias = "warmup_isolation_system")]
    WarmupIsolationSystem,
    #[value(alias = "warmup_isolation_first_turn")]
    WarmupIsolationFirstTurn,
}

impl InputFlags {
    /// Whether prompts are made, not read.
    pub(crate) fn is_synthetic(&self) -> bool {
        self.input_file.is_none()
    }
}

impl Bust {
    /// Where the words go in a phase.
    pub(crate) fn place(self, warm_up: bool) -> Option<CacheBust> {
        match self {
            Self::None => None,
            Self::SystemPrefix => Some(CacheBust::SystemPrefix),
            Self::SystemSuffix => Some(CacheBust::SystemSuffix),
            Self::FirstTurnPrefix => Some(CacheBust::FirstTurnPrefix),
            Self::FirstTurnSuffix => Some(CacheBust::FirstTurnSuffix),
            Self::WarmupIsolationSystem => warm_up.then_some(CacheBust::SystemPrefix),
            Self::WarmupIsolationFirstTurn => warm_up.then_some(CacheBust::FirstTurnPrefix),
        }
    }
}

impl RangeStyle {
    /// The lengths around `mean`.
    pub(crate) fn length(self, mean: u32, ratio: f64) -> Result<Length, workload::Error> {
        match self {
            Self::Vllm => Length::around(mean, ratio),
            Self::Sglang => Length::up_to(mean, ratio),
        }
    }
}

impl From<SamplingOrder> for Sampling {
    fn from(order: SamplingOrder) -> Self {
        match order {
            SamplingOrder::Sequential => Self::Sequential,
            SamplingOrder::Random => Self::Random,
            SamplingOrder::Shuffle => Self::Shuffle,
        }
    }
}
