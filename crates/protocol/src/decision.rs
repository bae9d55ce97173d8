//! One routed request as it is kept for later: what was decided, on what, and what came of it. No text.
//!
//! As JSON, one a line, it is a row of a Mooncake trace with blocks of [`Decision::block_tokens`] tokens and more
//! members, so whatever reads such traces reads these.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// One routed request. Members that are not known are absent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Decision<'a> {
    /// When the request arrived, in milliseconds since 1970.
    pub timestamp: f64,
    /// Prompt length in tokens, estimated by the token rule that the blocks follow.
    pub input_length: u32,
    /// Output length in tokens, as the engine counted it, or else its pieces.
    pub output_length: u32,
    /// Keyed hashes of the prompt's full blocks: equal numbers are equal prompts up to there.
    pub hash_ids: Cow<'a, [u64]>,
    /// Tokens in a block.
    pub block_tokens: u32,
    /// Prompt length as the engine counted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    /// Output length that the request allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Keyed hash of the prompt's first hundred characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_key: Option<u64>,
    /// Keyed hash of the session's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_key: Option<u64>,
    /// The model or adapter that was asked for; at most the first 256 bytes of the name.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub model: Cow<'a, str>,
    /// The policy in force.
    pub policy: Cow<'a, str>,
    /// The replica that answered or was tried last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<Cow<'a, str>>,
    /// Why it was picked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// Prompt tokens that its cache was expected to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_tokens: Option<u32>,
    /// Prompt tokens that it found there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u32>,
    /// `complete`, or why not.
    pub outcome: Cow<'a, str>,
    /// Status of the answer.
    pub status: u16,
    /// Attempts after the first.
    #[serde(default)]
    pub retries: u32,
    /// From the arrival to the first piece of a streamed answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// From the arrival to the last byte of the answer.
    pub duration_ms: f64,
}

/// The outcome of a request that got its whole answer.
pub const COMPLETE: &str = "complete";
