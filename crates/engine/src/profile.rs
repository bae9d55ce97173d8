//! What one engine can do: the numbers of the step-time model, its memory and its scheduler's limits.
//!
//! A step lasts `step_base_s + per_sequence_s * sequences + per_context_token_s * context_tokens +
//! per_prefill_token_s * prefill_tokens`, over the sequences that take part in it. Context tokens are those
//! whose keys and values the step reads; prefill tokens are prompt tokens that it computes, tokens computed
//! again after a preemption included. The last token of a prompt is none of them where a step computes it alone, as
//! it does when all before it was cached or in an earlier chunk: by its cost it is a decode, and vLLM's attention, which
//! goes by the number of tokens, takes it for one.
//!
//! The built-in profiles say where each of their numbers comes from. The attention's share that grows with the
//! product of prompt and context is left out: about 3 % of the prefill of 800 tokens, more above 10,000.

use serde::{Deserialize, Serialize};

/// One engine's numbers. Times are in seconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Shown to the user.
    pub name: String,
    /// Every step: reading the weights, and the fixed overhead.
    pub step_base_s: f64,
    /// Each sequence in the step.
    pub per_sequence_s: f64,
    /// Each token of context that the step reads.
    pub per_context_token_s: f64,
    /// Each prompt token that the step computes.
    pub per_prefill_token_s: f64,
    /// KV memory, in blocks.
    pub kv_blocks: u32,
    /// Tokens in a block.
    pub block_tokens: u32,
    /// Sequences that run at the same time.
    pub max_num_seqs: u32,
    /// Tokens computed in one step.
    pub max_num_batched_tokens: u32,
    /// Prompt and output of one request together, in tokens.
    pub max_model_len: u32,
    /// LoRA adapters whose requests run at the same time.
    pub max_adapters: u32,
    /// Whether blocks of ended or running sequences serve later prompts with the same prefix.
    pub prefix_caching: bool,
    /// Blocks taken beyond the need of the moment whenever a sequence grows. vLLM had 4 until 0.8, 0 since.
    pub preallocated_blocks: u32,
    /// Whether a prompt is admitted only when all of it fits, not only its first chunk. vLLM does since 0.17.
    pub reserve_prompt: bool,
}

/// Why a profile cannot work.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidProfile {
    /// A time is negative, infinite or not a number.
    #[error("{0} must be a number of seconds, zero or more")]
    Time(&'static str),
    /// All times are zero.
    #[error("a step must take time: give step_base_s, at least")]
    NoTime,
    /// A count is zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// The longest request would not fit into the KV memory.
    #[error(
        "a request of max_model_len = {max_model_len} tokens does not fit into the KV memory of {kv_tokens} \
         tokens (kv_blocks * block_tokens): raise kv_blocks or lower max_model_len"
    )]
    Memory {
        /// The limit for one request.
        max_model_len: u32,
        /// What the memory holds.
        kv_tokens: u64,
    },
}

impl Profile {
    /// The names that [`built_in`](Self::built_in) knows.
    pub const NAMES: [&'static str; 4] = [
        "l4-llama-3.1-8b-fp8",
        "rtx4090-llama-3.1-8b-bf16",
        "rtxpro6000-llama-3.1-8b-bf16",
        "h100-llama-3.1-8b-bf16",
    ];

    /// A profile by name.
    pub fn built_in(name: &str) -> Option<Self> {
        match name {
            "l4-llama-3.1-8b-fp8" => Some(Self::l4()),
            "rtx4090-llama-3.1-8b-bf16" => Some(Self::rtx4090()),
            "rtxpro6000-llama-3.1-8b-bf16" => Some(Self::rtxpro6000()),
            "h100-llama-3.1-8b-bf16" => Some(Self::h100()),
            _ => None,
        }
    }

    /// One L4 with Llama 3.1 8B in fp8 under vLLM 0.7, as in KubeAI's published comparison of routing policies.
    ///
    /// Fitted to the 120 figures of that page, all twelve runs together. The step's base is 74 % of the L4's
    /// 300 GB/s over 9.08 GB of weights, all overhead included. The prefill rate is 5,720 tokens/s, 38 % of the
    /// fp8 peak. A sequence's cost and a context token's cannot be told apart in these data: the latter is the
    /// fp8 cache read at 85 % of the bandwidth, and the former took up the rest. The memory behaves like that
    /// of a bf16 cache (66,000 tokens), which early V1 allocated whatever the cache's type.
    pub fn l4() -> Self {
        Self {
            name: "l4-llama-3.1-8b-fp8".into(),
            step_base_s: 40.9e-3,
            per_sequence_s: 0.313e-3,
            per_context_token_s: 2.57e-7,
            per_prefill_token_s: 1.75e-4,
            kv_blocks: 4_134,
            block_tokens: 16,
            max_num_seqs: 256,
            max_num_batched_tokens: 16_384,
            max_model_len: 16_384,
            max_adapters: 1,
            prefix_caching: true,
            preallocated_blocks: 4,
            reserve_prompt: false,
        }
    }

    /// One RTX 4090 with Llama 3.1 8B in bf16 under vLLM 0.19.
    ///
    /// From the data sheet: the step's base is 16.06 GB of weights at 93 % of 1,008 GB/s (17.2 ms) and 1 ms of
    /// overhead; a context token is 128 KiB at the same rate. From the engine's own log: blocks and limits.
    /// Chosen among a few values against 300 measured requests: the prefill rate (10,000 tokens/s, 160 TFLOPS)
    /// and a sequence's cost.
    pub fn rtx4090() -> Self {
        Self {
            name: "rtx4090-llama-3.1-8b-bf16".into(),
            step_base_s: 18.2e-3,
            per_sequence_s: 0.01e-3,
            per_context_token_s: 1.4e-7,
            per_prefill_token_s: 1.0e-4,
            kv_blocks: 2_588,
            block_tokens: 16,
            max_num_seqs: 256,
            max_num_batched_tokens: 2_048,
            max_model_len: 32_768,
            max_adapters: 1,
            prefix_caching: true,
            preallocated_blocks: 0,
            reserve_prompt: true,
        }
    }

    /// One RTX PRO 6000 with Llama 3.1 8B in bf16 under vLLM 0.19.
    ///
    /// From the data sheet: 16.06 GB of weights at 93 % of 1,792 GB/s (9.6 ms); a context token is 128 KiB at
    /// the same rate. From the engine's own log: the limits. Chosen among a few values against 300 measured
    /// requests: 2 ms of overhead a step, a sequence's cost, the prefill rate (20,000 tokens/s, 320 TFLOPS).
    /// The memory is an assumption, as the log does not state it: about 70 GB of cache; that run never filled it.
    pub fn rtxpro6000() -> Self {
        Self {
            name: "rtxpro6000-llama-3.1-8b-bf16".into(),
            step_base_s: 11.6e-3,
            per_sequence_s: 0.03e-3,
            per_context_token_s: 7.9e-8,
            per_prefill_token_s: 5.0e-5,
            kv_blocks: 33_000,
            block_tokens: 16,
            max_num_seqs: 128,
            max_num_batched_tokens: 2_048,
            max_model_len: 131_072,
            max_adapters: 1,
            prefix_caching: true,
            preallocated_blocks: 0,
            reserve_prompt: true,
        }
    }

    /// One H100 with Llama 3.1 8B in bf16. No run stands behind it: all its numbers are estimates.
    ///
    /// The step's base is 16.06 GB of weights at 86 % of 3,350 GB/s (5.6 ms) and 3 ms of overhead; a context token
    /// is 128 KiB at 80 % of the same rate. The prefill rate is 28,600 tokens/s, 46 % of the 989 TFLOPS of bf16.
    /// The memory is what 52 GB hold beside the weights and the activations.
    pub fn h100() -> Self {
        Self {
            name: "h100-llama-3.1-8b-bf16".into(),
            step_base_s: 8.6e-3,
            per_sequence_s: 0.02e-3,
            per_context_token_s: 4.9e-8,
            per_prefill_token_s: 3.5e-5,
            kv_blocks: 25_000,
            block_tokens: 16,
            max_num_seqs: 256,
            max_num_batched_tokens: 8_192,
            max_model_len: 131_072,
            max_adapters: 1,
            prefix_caching: true,
            preallocated_blocks: 0,
            reserve_prompt: true,
        }
    }

    /// Says what is wrong with the numbers, for the user who set them.
    pub fn check(&self) -> Result<(), InvalidProfile> {
        let times = [
            ("step_base_s", self.step_base_s),
            ("per_sequence_s", self.per_sequence_s),
            ("per_context_token_s", self.per_context_token_s),
            ("per_prefill_token_s", self.per_prefill_token_s),
        ];
        if let Some((name, _)) = times.iter().find(|(_, time)| !(0.0..f64::INFINITY).contains(time)) {
            return Err(InvalidProfile::Time(name));
        }
        if times.iter().all(|(_, time)| *time == 0.0) {
            return Err(InvalidProfile::NoTime);
        }
        let counts = [
            ("kv_blocks", self.kv_blocks),
            ("block_tokens", self.block_tokens),
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_model_len", self.max_model_len),
            ("max_adapters", self.max_adapters),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(InvalidProfile::Zero(name));
        }
        let kv_tokens = self.kv_tokens();
        if u64::from(self.max_model_len) > kv_tokens {
            return Err(InvalidProfile::Memory { max_model_len: self.max_model_len, kv_tokens });
        }
        Ok(())
    }

    /// The same engine on hardware that is `factor` times faster.
    #[must_use]
    pub fn sped_up(&self, factor: f64) -> Self {
        Self {
            step_base_s: self.step_base_s / factor,
            per_sequence_s: self.per_sequence_s / factor,
            per_context_token_s: self.per_context_token_s / factor,
            per_prefill_token_s: self.per_prefill_token_s / factor,
            ..self.clone()
        }
    }

    /// Tokens that the KV memory holds.
    pub fn kv_tokens(&self) -> u64 {
        u64::from(self.kv_blocks) * u64::from(self.block_tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_is_found_by_its_name_and_can_work() {
        for name in Profile::NAMES {
            let profile = Profile::built_in(name).expect("a built-in name");
            assert_eq!(profile.name, name);
            assert_eq!(profile.check(), Ok(()));
        }
        assert_eq!(Profile::built_in("l4"), None);
    }

    #[test]
    fn numbers_that_cannot_work_are_named() {
        let check = |change: fn(&mut Profile)| {
            let mut profile = Profile::l4();
            change(&mut profile);
            profile.check().expect_err("a profile that cannot work").to_string()
        };
        assert!(check(|profile| profile.per_prefill_token_s = -1.0).starts_with("per_prefill_token_s"));
        assert!(check(|profile| profile.step_base_s = f64::NAN).starts_with("step_base_s"));
        assert!(check(|profile| profile.max_num_seqs = 0).starts_with("max_num_seqs"));
        assert!(check(|profile| profile.kv_blocks = 1000).contains("16000 tokens"));
    }
}
