//! `data`: what is sent.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use super::{
    load::Trace,
    replay::{OtelReplay, SyntheticAgentic, VisionArena, WekaReplay},
    schema::{Described, Key, section, words},
};

/// inference-perf's default of a key that may be null.
const MAX_MODEL_LEN: u32 = 225_000;

words! {
    /// Where prompts come from.
    DataType {
        /// Short fixed texts.
        Mock = "mock",
        /// A ShareGPT file.
        ShareGpt = "shareGPT",
        /// Slices of a text.
        Synthetic = "synthetic",
        /// Random words of exact lengths.
        Random = "random",
        /// Prompts that share beginnings.
        SharedPrefix = "shared_prefix",
        /// Articles and summaries.
        CnnDailymail = "cnn_dailymail",
        /// Instructions and answers.
        InfinityInstruct = "infinity_instruct",
        /// Bills and summaries.
        BillsumConversations = "billsum_conversations",
        /// Recorded calls.
        OtelTraceReplay = "otel_trace_replay",
        /// Recorded agents.
        WekaTraceReplay = "weka_trace_replay",
        /// Long conversations with tools.
        ConversationReplay = "conversation_replay",
        /// Pictures. Not implemented.
        VisionArena = "visionarena",
        /// Made-up agents. Not implemented.
        SyntheticAgentic = "synthetic_agentic",
    }
}

words! {
    /// The law of a length.
    DistributionType {
        /// Normal.
        Normal = "normal",
        /// Skewed normal.
        SkewNormal = "skew_normal",
        /// Lognormal with this mean and standard deviation.
        Lognormal = "lognormal",
        /// Uniform.
        Uniform = "uniform",
        /// Poisson.
        Poisson = "poisson",
        /// Always the mean.
        Fixed = "fixed",
    }
}

section! {
    /// What is sent.
    Data {
        /// Where prompts come from.
        r#type: DataType = DataType::Mock;
        /// A local file, or a folder whose JSON files are read one after the other.
        path: Option<String> = None;
        /// Text that `synthetic` is cut from (null: a text that comes with the program).
        corpus_file_path: Option<String> = None;
        /// Prompt lengths.
        input_distribution: Option<Distribution> = None;
        /// Answer lengths.
        output_distribution: Option<Distribution> = None;
        /// A trace that gives the lengths. For `random`.
        trace: Option<Trace> = None;
        /// Not implemented: there is no template engine.
        use_chat_template: bool = false;
        /// Prompts that share beginnings. For `shared_prefix`.
        shared_prefix: Option<SharedPrefix> = None;
        /// Not implemented: pictures, films and sound.
        multimodal: Option<Value> = None;
        /// Recorded calls, in OpenTelemetry's words. For `otel_trace_replay`.
        otel_trace_replay: Option<OtelReplay> = None;
        /// Recorded agents, as Weka keeps them. For `weka_trace_replay`.
        weka_trace_replay: Option<WekaReplay> = None;
        /// Conversations. For `conversation_replay`.
        conversation_replay: Option<ConversationReplay> = None;
        /// Not implemented: pictures.
        visionarena: Option<VisionArena> = None;
        /// Not implemented: made-up agents.
        synthetic_agentic: Option<SyntheticAgentic> = None;
    }
}

section! {
    /// A distribution of lengths, rounded and kept between `min` and `max`.
    Distribution {
        /// Smallest.
        min: i64 = 10;
        /// Largest.
        max: i64 = 1024;
        /// Mean; with `skew_normal` the location.
        mean: f64 = 512.0;
        /// Standard deviation (null: 200, or what `variance` says); with `skew_normal` the scale.
        std_dev: Option<f64> = None;
        /// Its square; not together with a `std_dev` above 0.
        variance: Option<f64> = None;
        /// For `skew_normal`: above 0 the longer tail is on the right.
        skew: f64 = 0.0;
        /// Law of the lengths.
        r#type: DistributionType = DistributionType::Normal;
        /// Has no effect: as many are drawn as are needed.
        total_count: Option<u64> = None;
    }
}

section! {
    /// Groups of prompts with a common beginning.
    SharedPrefix {
        /// Groups.
        #[serde(rename = "num_unique_system_prompts", alias = "num_groups")]
        num_groups: u32 = 10;
        /// Prompts in a group.
        #[serde(rename = "num_users_per_system_prompt", alias = "num_prompts_per_group")]
        num_prompts_per_group: u32 = 10;
        /// Length of the common beginning: a number or a distribution.
        system_prompt_len: LengthOr = LengthOr::Number(100.0);
        /// Length of what follows: a number or a distribution.
        question_len: LengthOr = LengthOr::Number(50.0);
        /// Length of the answer: a number or a distribution.
        output_len: LengthOr = LengthOr::Number(50.0);
        /// Seed of the prompts (null: `load.base_seed`).
        seed: Option<u64> = None;
        /// The older way to give `question_len` as a distribution.
        question_distribution: Option<Distribution> = None;
        /// The older way to give `output_len` as a distribution.
        output_distribution: Option<Distribution> = None;
        /// Each prompt is a user who says more in every round, after what was said before.
        enable_multi_turn_chat: bool = false;
        /// Not implemented: pictures, films and sound.
        multimodal: Option<Value> = None;
    }
}

section! {
    /// Conversations of many turns.
    ConversationReplay {
        /// Seed of the conversations.
        seed: u64 = 42;
        /// Conversations at a time.
        num_conversations: u32 = 200;
        /// Length of the beginning that all share.
        shared_system_prompt_len: u32 = 8359;
        /// Length of each conversation's own beginning (null: 0).
        dynamic_system_prompt_len: Option<LengthOr> = None;
        /// Turns (null: 10).
        turns_per_conversation: Option<LengthOr> = None;
        /// What each turn adds (null: 512).
        input_tokens_per_turn: Option<LengthOr> = None;
        /// Length of each answer (null: 256).
        output_tokens_per_turn: Option<LengthOr> = None;
        /// Time between an answer and the next turn, in seconds. It is not part of any latency.
        tool_call_latency_sec: Option<LengthOr> = None;
        /// Longest prompt and answer together, 200 tokens kept free (null: 225000): beyond it the oldest turns are left
        /// out, and where a turn alone has no room, the beginning is cut.
        max_model_len: Option<u32> = None;
    }
}

/// A length: always the same, or drawn.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum LengthOr {
    /// Always the same.
    Number(f64),
    /// Drawn.
    Distribution(Box<Distribution>),
}

impl<'de> Deserialize<'de> for LengthOr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = LengthOr;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number or a distribution")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<LengthOr, E> {
                Ok(LengthOr::Number(number as f64))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<LengthOr, E> {
                Ok(LengthOr::Number(number as f64))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<LengthOr, E> {
                Ok(LengthOr::Number(number))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<LengthOr, A::Error> {
                let distribution = Distribution::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(LengthOr::Distribution(Box::new(distribution)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Described for LengthOr {
    fn kind() -> String {
        "number or distribution".to_owned()
    }

    fn keys(_path: &str, _keys: &mut Vec<Key>) {}
}

impl Data {
    /// Whether requests are turns of sessions.
    pub fn has_sessions(&self) -> bool {
        match self.r#type {
            DataType::ConversationReplay | DataType::OtelTraceReplay | DataType::WekaTraceReplay => true,
            DataType::SharedPrefix => {
                self.shared_prefix.as_ref().is_some_and(|shared| shared.enable_multi_turn_chat)
            }
            _ => false,
        }
    }
}

impl ConversationReplay {
    /// Tokens that the model has room for.
    pub(in crate::inference_perf) fn model_tokens(&self) -> u32 {
        self.max_model_len.filter(|tokens| *tokens > 0).unwrap_or(MAX_MODEL_LEN)
    }
}

impl Distribution {
    /// What to say if the bounds cut the mean off: nearly all lengths are then one of them.
    pub(in crate::inference_perf) fn cut_off(&self, key: &str) -> Option<String> {
        let Self { min, max, mean, .. } = *self;
        let has_mean = !matches!(self.r#type, DistributionType::Uniform | DistributionType::Fixed);
        let (side, bound) = match () {
            () if mean > max as f64 => ("above its max", max),
            () if mean < min as f64 => ("below its min", min),
            () => return None,
        };
        has_mean.then(|| format!("{key}: the mean {mean} is {side} {bound}: most lengths will be {bound}"))
    }

    /// The standard deviation that is meant.
    pub fn deviation(&self) -> f64 {
        match (self.std_dev, self.variance) {
            (Some(std_dev), None | Some(_)) if std_dev > 0.0 || self.variance.is_none() => std_dev,
            (_, Some(variance)) => variance.max(0.0).sqrt(),
            (_, None) => 200.0,
        }
    }
}
