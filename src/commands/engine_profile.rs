//! Engine profiles by name or from a file, and the flags for their limits, for every command that takes them.

use anyhow::Context;
use clap::Args;
use engine::Profile;
use simulate::fit::Limits;

/// An engine's limits, where they are to differ from the profile's.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LimitFlags {
    /// KV memory, in blocks.
    #[arg(long, value_name = "N", alias = "num-gpu-blocks-override")]
    kv_blocks: Option<u32>,
    /// Tokens in a block.
    #[arg(long, value_name = "TOKENS")]
    block_size: Option<u32>,
    /// Sequences that run at the same time.
    #[arg(long, value_name = "N")]
    max_num_seqs: Option<u32>,
    /// Tokens computed in one step.
    #[arg(long, value_name = "TOKENS")]
    max_num_batched_tokens: Option<u32>,
    /// Prompt and output of one request together.
    #[arg(long, value_name = "TOKENS")]
    max_model_len: Option<u32>,
}

impl LimitFlags {
    /// Those that were given.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            kv_blocks: self.kv_blocks,
            block_tokens: self.block_size,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_model_len: self.max_model_len,
        }
    }
}

/// The built-in profile of this name, or the one in the JSON file at this path.
pub(crate) fn read(name: &str) -> anyhow::Result<Profile> {
    if let Some(profile) = Profile::built_in(name) {
        return Ok(profile);
    }
    let text = std::fs::read_to_string(name).with_context(|| {
        format!("`{name}` is neither a built-in profile ({}) nor a readable file", Profile::NAMES.join(", "))
    })?;
    let profile: Profile = serde_json::from_str(&text).with_context(|| format!("{name} is not a profile"))?;
    profile.check().with_context(|| format!("the profile in {name} cannot work"))?;
    Ok(profile)
}
