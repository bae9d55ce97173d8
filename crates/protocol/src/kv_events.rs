//! What engines say about their prefix caches: blocks stored, blocks removed, everything cleared.
//!
//! vLLM and SGLang publish batches of such events as msgpack (see `docs/kv-events.md` for the sockets). Their
//! structs went through several forms: events and batches are arrays in some versions and maps in others, tails
//! are left out, members were added. [`EventBatch::decode`] takes all of them, and ignores what it does not know;
//! [`EventBatch::encode`] writes the [`EventFormat`] that is asked for.
//!
//! Hashes are the engine's own and opaque. Those that are digests of 32 bytes are known by their last eight,
//! which is what vLLM sends unless it is told to send digests.

mod read;
mod write;

/// Events of one engine step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventBatch {
    /// When they were collected, in seconds since 1970.
    pub timestamp_s: f64,
    /// In the order in which they happened.
    pub events: Vec<CacheEvent>,
    /// Which of several schedulers of one server speaks.
    pub data_parallel_rank: Option<u32>,
    /// Events of kinds that are not known here.
    pub unknown: u32,
}

/// Something happened to the cache.
#[derive(Clone, Debug, PartialEq)]
pub enum CacheEvent {
    /// Blocks can be found from now on.
    Stored(BlocksStored),
    /// Blocks cannot be found any more.
    Removed(BlocksRemoved),
    /// Nothing can be found any more.
    Cleared,
}

/// Consecutive blocks of one prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlocksStored {
    /// The engine's hash of each block.
    pub hashes: Vec<u64>,
    /// Hash of the block before the first; none at the beginning of a prompt.
    pub parent: Option<u64>,
    /// Tokens of all blocks.
    pub tokens: Vec<u32>,
    /// Tokens in one block.
    pub block_tokens: u32,
    /// The LoRA adapter.
    pub lora_name: Option<String>,
    /// Where the blocks are kept; the GPU if this is not said.
    pub medium: Option<String>,
    /// More than the tokens decides about the content: an image, a cache salt, an adapter known only by number.
    pub keyed: bool,
    /// Which of the model's caches, where it has several.
    pub group: Option<u32>,
    /// What kind of cache that is, such as `full_attention`.
    pub group_kind: Option<String>,
}

/// Blocks, in no special order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlocksRemoved {
    /// The engine's hash of each block.
    pub hashes: Vec<u64>,
    /// Where they were kept; the GPU if this is not said.
    pub medium: Option<String>,
    /// Which of the model's caches, where it has several.
    pub group: Option<u32>,
}

/// How events are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum EventFormat {
    /// vLLM since the summer of 2026: events are maps with a `type`; hashes are integers.
    #[default]
    Vllm,
    /// The same with `VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0`: hashes are digests.
    VllmDigests,
    /// vLLM before: events are arrays that begin with their type; hashes are integers.
    VllmArrays,
    /// SGLang: arrays; hashes are signed integers.
    Sglang,
}

/// Not a batch of cache events.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a batch of cache events: {0}")]
pub struct InvalidBatch(String);

impl EventFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Vllm, Self::VllmDigests, Self::VllmArrays, Self::Sglang];

    /// Name in flags.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::VllmDigests => "vllm-digests",
            Self::VllmArrays => "vllm-arrays",
            Self::Sglang => "sglang",
        }
    }
}

impl EventBatch {
    /// Reads the payload of a message.
    pub fn decode(payload: &[u8]) -> Result<Self, InvalidBatch> {
        rmp_serde::from_slice(payload).map_err(|error| InvalidBatch(error.to_string()))
    }

    /// Writes the payload of a message.
    pub fn encode(&self, format: EventFormat) -> Vec<u8> {
        write::encode(self, format)
    }
}

/// Whether a medium is the GPU's own memory, where a block can be used at once.
pub fn is_on_gpu(medium: Option<&str>) -> bool {
    medium.is_none_or(|medium| medium.eq_ignore_ascii_case("gpu"))
}

#[cfg(test)]
mod tests;
