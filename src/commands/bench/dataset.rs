//! The flags that say what prompts are made of, and the prompts.

use std::path::{Path, PathBuf};

use clap::Args;
use workload::{
    PoemPrompts, PythonRandom, RandomPrompts, ShareGptRule, ShareGptSettings, TextPrompts, Tokenizer,
    poem_prompts, random_prompts, read_sharegpt,
};

use super::flags::{Arguments, Script};
use crate::commands::profile::{RangeRatio, range_ratio};

/// Dataset flags of the scripts.
#[derive(Debug, Args)]
pub(super) struct DatasetFlags {
    /// What prompts are made of: sharegpt (a ShareGPT file), random (words) or sonnet (the lines of a poem in a file)
    /// [default: sharegpt; with --script vllm random, unless --dataset-path names a file].
    #[arg(long, value_name = "NAME", value_parser = dataset_name)]
    dataset_name: Option<DatasetName>,
    /// ShareGPT file: JSON, plain or gzipped; one that is cut off in the middle too. With sonnet: a text file.
    #[arg(long, value_name = "FILE")]
    dataset_path: Option<PathBuf>,
    /// Send each prompt of the file once, even if they are fewer than --num-prompts.
    #[arg(long)]
    no_oversample: bool,
    /// Send the prompts in the order of the file.
    #[arg(long)]
    disable_shuffle: bool,
    /// Prompt length, whatever they are made of; not with sharegpt. Stands for --random-input-len and --sonnet-input-len.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS))]
    input_len: Option<u32>,
    /// Output length, whatever prompts are made of. Stands for --sharegpt-output-len, --random-output-len and
    /// --sonnet-output-len.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS))]
    output_len: Option<u32>,
    /// Output length of all requests, instead of the recorded answers'.
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    sharegpt_output_len: Option<u32>,
    /// Prompt length with random, without the prefix.
    #[arg(long, value_name = "TOKENS", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS))]
    random_input_len: u32,
    /// Output length with random.
    #[arg(long, value_name = "TOKENS", default_value = "128", value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS))]
    random_output_len: u32,
    /// Spread of both lengths with random: from this share of the length to the length; with --script vllm, from so
    /// much below it to so much above it, or {"input": SHARE, "output": SHARE} [default: 1, no spread; with --script
    /// vllm 0, no spread].
    #[arg(long, value_name = "SHARE", value_parser = range_ratio)]
    random_range_ratio: Option<RangeRatio>,
    /// Tokens at the beginning that all prompts share, with random.
    #[arg(long, value_name = "TOKENS", default_value = "0", value_parser = clap::value_parser!(u32).range(..=MOST_TOKENS))]
    random_prefix_len: u32,
    /// Prompt length with sonnet, the prefix included.
    #[arg(long, value_name = "TOKENS", default_value = "550", value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS))]
    sonnet_input_len: u32,
    /// Output length with sonnet.
    #[arg(long, value_name = "TOKENS", default_value = "150", value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS))]
    sonnet_output_len: u32,
    /// Tokens at the beginning that all prompts share, with sonnet.
    #[arg(long, value_name = "TOKENS", default_value = "200", value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS))]
    sonnet_prefix_len: u32,
}

/// Longest prompt that is made, in tokens.
const MOST_TOKENS: i64 = workload::MAX_PROMPT_TOKENS as i64;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum DatasetName {
    Sharegpt,
    Random,
    Sonnet,
}

// === impl DatasetFlags ===

impl DatasetFlags {
    /// Says what is missing or does not go together.
    pub(super) fn check(&self, script: Script) -> Result<(), String> {
        match (self.name(script), &self.dataset_path) {
            (DatasetName::Sharegpt, None) => {
                Err("--dataset-path is missing: name a ShareGPT file, or use --dataset-name random"
                    .to_owned())
            }
            (DatasetName::Sonnet, None) => {
                Err("--dataset-path is missing: name a text file for --dataset-name sonnet".to_owned())
            }
            (DatasetName::Random, Some(path)) => {
                Err(format!("--dataset-name random reads no file, not {}", path.display()))
            }
            _ => self.ranges(script).map(|_| ()),
        }
    }

    /// The file, where there is one.
    pub(super) fn path(&self) -> &Path {
        self.dataset_path.as_deref().unwrap_or(Path::new(""))
    }

    /// Random prompts have no answers that could end: vLLM's script asks for the whole length.
    pub(super) fn wants_full_answers(&self, script: Script) -> bool {
        self.name(script) == DatasetName::Random && script == Script::Vllm
    }

    /// Whether prompts come from conversations.
    pub(super) fn is_sharegpt(&self, script: Script) -> bool {
        self.name(script) == DatasetName::Sharegpt
    }

    fn name(&self, script: Script) -> DatasetName {
        self.dataset_name.unwrap_or(match (script, &self.dataset_path) {
            (Script::Vllm, None) => DatasetName::Random,
            _ => DatasetName::Sharegpt,
        })
    }

    /// Least and most input and output tokens of random prompts.
    fn ranges(&self, script: Script) -> Result<[(u32, u32); 2], String> {
        let input = self.input_len.unwrap_or(self.random_input_len);
        let lengths = [input, self.output_len.unwrap_or(self.random_output_len)];
        let Some(RangeRatio { input, output }) = self.random_range_ratio else {
            return Ok(lengths.map(|length| (length, length)));
        };
        if script == Script::Kubeai && input != output {
            return Err("--random-range-ratio with two shares is for --script vllm: give one".to_owned());
        }
        let possible =
            |ratio: &f64| (0.0..=1.0).contains(ratio) && (script == Script::Kubeai || *ratio < 1.0);
        if let Some(ratio) = [input, output].into_iter().find(|ratio| !possible(ratio)) {
            return Err(format!("--random-range-ratio {ratio}: give a share between 0 and 1"));
        }
        let part = |length: u32, share: f64| f64::from(length) * share;
        let spread = |length, ratio| match script {
            Script::Kubeai => (part(length, ratio) as u32, length),
            Script::Vllm => (part(length, 1.0 - ratio) as u32, part(length, 1.0 + ratio).ceil() as u32),
        };
        let [input, output] = [spread(lengths[0], input), spread(lengths[1], output)];
        Ok([input, if script == Script::Vllm { (output.0.max(1), output.1) } else { output }])
    }
}

/// Reads or makes the prompts of a run.
pub(super) fn prompts(
    arguments: &Arguments,
    tokenizer: &Tokenizer,
    random: &mut PythonRandom,
) -> anyhow::Result<TextPrompts> {
    let flags = &arguments.dataset;
    let requests = usize::try_from(arguments.num_prompts)?;
    Ok(match flags.name(arguments.script) {
        DatasetName::Random => {
            let [input, output] = flags.ranges(arguments.script).map_err(anyhow::Error::msg)?;
            let sizes = RandomPrompts { requests, input, output, prefix: flags.random_prefix_len };
            random_prompts(&sizes, tokenizer, random)?
        }
        DatasetName::Sonnet => {
            let sizes = PoemPrompts {
                requests,
                input: flags.input_len.unwrap_or(flags.sonnet_input_len),
                output: flags.output_len.unwrap_or(flags.sonnet_output_len),
                prefix: flags.sonnet_prefix_len,
            };
            poem_prompts(flags.path(), &sizes, tokenizer, random)?
        }
        DatasetName::Sharegpt => {
            let settings = ShareGptSettings {
                rule: match arguments.script {
                    Script::Kubeai => ShareGptRule::EveryTurn,
                    Script::Vllm => ShareGptRule::FirstPair,
                },
                requests,
                min_messages: arguments.min_messages,
                conversations: arguments.conversations.map(|limit| limit as usize),
                max_prompts: arguments.max_prompts(),
                output_tokens: flags.output_len.or(flags.sharegpt_output_len),
                in_order: flags.disable_shuffle,
                once: flags.no_oversample,
            };
            read_sharegpt(flags.path(), &settings, tokenizer, random)?
        }
    })
}

fn dataset_name(text: &str) -> Result<DatasetName, String> {
    let instead = match text {
        "sharegpt" => return Ok(DatasetName::Sharegpt),
        "random" => return Ok(DatasetName::Random),
        "sonnet" => return Ok(DatasetName::Sonnet),
        "hf" | "spec_bench" | "speed_bench" => {
            "is a download, and evenload downloads nothing: save it as a ShareGPT file and give that with --dataset-path"
        }
        "custom" => "is read by `evenload profile --custom-dataset-type single-turn`",
        "burstgpt" => "is replayed by `evenload profile --custom-dataset-type burst-gpt-trace`",
        "timed_trace" => "is replayed by `evenload profile --custom-dataset-type mooncake-trace`",
        "prefix_repetition" => {
            "is not there: give random prompts a common beginning with --random-prefix-len"
        }
        "random-mm" | "custom_audio" | "custom_image" => "is not there: prompts hold text only",
        "random-rerank" => "is not there: completions and chats are measured",
        _ => "is unknown: choose from sharegpt, random, sonnet",
    };
    Err(format!("{text} {instead}"))
}
