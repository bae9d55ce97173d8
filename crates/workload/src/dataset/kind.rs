//! The kinds of files, their names, and how to tell them apart.

use std::{io::Read, path::Path};

use serde_json::{Map, Value};

use crate::{Error, lines::open};

/// How much of a file is looked at; a first row may hold a long prompt.
const HEAD_BYTES: u64 = 8 << 20;

/// A kind of dataset file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DatasetKind {
    /// JSON lines, each a request: `text`, `output_length`, `timestamp` or `delay`, `session_id`, `extra`.
    SingleTurn,
    /// JSON lines, each a session: `session_id` and `turns`, which are as in `SingleTurn`.
    MultiTurn,
    /// As `SingleTurn`; made to be sampled at random.
    RandomPool,
    /// JSON lines with lengths and ids of blocks of 512 tokens, or texts; times in milliseconds.
    MooncakeTrace,
    /// JSON lines with lengths and ids of blocks of 16 tokens, chained into sessions; times in seconds.
    BailianTrace,
    /// CSV with `Timestamp`, `Request tokens`, `Response tokens`.
    BurstGptTrace,
    /// CSV with `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`.
    AzureTrace,
    /// JSON lines, each a finished body.
    RawPayload,
    /// One JSON object: `data`, a list of sessions with `payloads`, each a finished body.
    InputsJson,
}

impl DatasetKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::SingleTurn,
        Self::MultiTurn,
        Self::RandomPool,
        Self::MooncakeTrace,
        Self::BailianTrace,
        Self::BurstGptTrace,
        Self::AzureTrace,
        Self::RawPayload,
        Self::InputsJson,
    ];

    /// The kind's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SingleTurn => "single_turn",
            Self::MultiTurn => "multi_turn",
            Self::RandomPool => "random_pool",
            Self::MooncakeTrace => "mooncake_trace",
            Self::BailianTrace => "bailian_trace",
            Self::BurstGptTrace => "burst_gpt_trace",
            Self::AzureTrace => "azure_trace",
            Self::RawPayload => "raw_payload",
            Self::InputsJson => "inputs_json",
        }
    }

    /// The kind of this name, with underscores or hyphens.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.replace('-', "_");
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the file is usually replayed by its times.
    pub fn is_trace(self) -> bool {
        matches!(self, Self::MooncakeTrace | Self::BailianTrace | Self::BurstGptTrace | Self::AzureTrace)
    }

    /// Tells the kind of a file from its beginning.
    pub fn detect(path: &Path) -> Result<Self, Error> {
        let mut head = Vec::new();
        open(path)?.take(HEAD_BYTES).read_to_end(&mut head).map_err(|error| Error::read(path, error))?;
        let head = String::from_utf8_lossy(&head);
        let head = head.trim_start();
        let first = head.lines().next().unwrap_or_default();
        let kind = match serde_json::from_str(first) {
            Ok(row) => Self::of_row(&row),
            Err(_) if head.starts_with('{') && head.contains("\"payloads\"") => Some(Self::InputsJson),
            Err(_) if first.contains("ContextTokens") => Some(Self::AzureTrace),
            Err(_) if first.contains("Request tokens") => Some(Self::BurstGptTrace),
            Err(_) => None,
        };
        kind.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::file(path, format_args!("the kind of this file cannot be told; name it: {names}"))
        })
    }

    /// A row may name its kind itself; the `type` of a Bailian row is that of its request, and no kind's name.
    fn of_row(row: &Map<String, Value>) -> Option<Self> {
        let has = |key| row.contains_key(key);
        let named = row.get("type").and_then(Value::as_str).and_then(Self::from_name);
        if named.is_some() {
            named
        } else if has("data") {
            Some(Self::InputsJson)
        } else if has("turns") {
            Some(Self::MultiTurn)
        } else if has("chat_id") {
            Some(Self::BailianTrace)
        } else if has("input_length") || has("text_input") || has("payload") {
            Some(Self::MooncakeTrace)
        } else if has("text") || has("texts") || has("prompt") && has("output_tokens") {
            Some(Self::SingleTurn)
        } else if has("messages") && (has("timestamp") || has("output_length")) {
            Some(Self::MooncakeTrace)
        } else if has("model") || has("messages") || has("prompt") || has("input") {
            Some(Self::RawPayload)
        } else {
            None
        }
    }
}
