//! Writes batches in the form that is asked for.

use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};

use super::{BlocksRemoved, BlocksStored, CacheEvent, EventBatch, EventFormat};

/// Bytes of a digest.
const DIGEST_BYTES: usize = 32;

struct Written<'a, T>(&'a T, EventFormat);

/// A hash as the format has it.
struct Hash(u64, EventFormat);

/// One member of an event.
enum Value<'a> {
    Hashes(&'a [u64], EventFormat),
    Hash(Option<Hash>),
    Tokens(&'a [u32]),
    Number(u32),
    Nothing,
    Text(&'a str),
}

pub(super) fn encode(batch: &EventBatch, format: EventFormat) -> Vec<u8> {
    rmp_serde::to_vec(&Written(batch, format)).expect("numbers and names always make msgpack")
}

fn gpu(medium: Option<&str>) -> Value<'_> {
    Value::Text(medium.unwrap_or("GPU"))
}

fn optional<'a>(text: Option<&'a str>) -> Value<'a> {
    text.map_or(Value::Nothing, Value::Text)
}

fn members(event: &CacheEvent, format: EventFormat) -> (&'static str, Vec<(&'static str, Value<'_>)>) {
    match event {
        CacheEvent::Stored(BlocksStored {
            hashes, parent, tokens, block_tokens, lora_name, medium, ..
        }) => {
            let mut members = vec![
                ("block_hashes", Value::Hashes(hashes, format)),
                ("parent_block_hash", Value::Hash(parent.map(|parent| Hash(parent, format)))),
                ("token_ids", Value::Tokens(tokens)),
                ("block_size", Value::Number(*block_tokens)),
                ("lora_id", Value::Nothing),
                ("medium", gpu(medium.as_deref())),
            ];
            if format != EventFormat::Sglang {
                members.push(("lora_name", optional(lora_name.as_deref())));
            }
            ("BlockStored", members)
        }
        CacheEvent::Removed(BlocksRemoved { hashes, medium, .. }) => {
            let members =
                vec![("block_hashes", Value::Hashes(hashes, format)), ("medium", gpu(medium.as_deref()))];
            ("BlockRemoved", members)
        }
        CacheEvent::Cleared => ("AllBlocksCleared", Vec::new()),
    }
}

impl Serialize for Written<'_, EventBatch> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(batch, format) = *self;
        let mut sequence = serializer.serialize_seq(Some(3))?;
        sequence.serialize_element(&batch.timestamp_s)?;
        let events: Vec<_> = batch.events.iter().map(|event| Written(event, format)).collect();
        sequence.serialize_element(&events)?;
        sequence.serialize_element(&batch.data_parallel_rank)?;
        sequence.end()
    }
}

impl Serialize for Written<'_, CacheEvent> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(event, format) = *self;
        let (kind, members) = members(event, format);
        if matches!(format, EventFormat::Vllm | EventFormat::VllmDigests) {
            let mut map = serializer.serialize_map(Some(members.len() + 1))?;
            map.serialize_entry("type", kind)?;
            for (name, value) in &members {
                map.serialize_entry(name, value)?;
            }
            map.end()
        } else {
            let mut sequence = serializer.serialize_seq(Some(members.len() + 1))?;
            sequence.serialize_element(kind)?;
            for (_, value) in &members {
                sequence.serialize_element(value)?;
            }
            sequence.end()
        }
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Hashes(hashes, format) => {
                serializer.collect_seq(hashes.iter().map(|hash| Hash(*hash, *format)))
            }
            Self::Hash(hash) => hash.serialize(serializer),
            Self::Tokens(tokens) => tokens.serialize(serializer),
            Self::Number(number) => number.serialize(serializer),
            Self::Nothing => serializer.serialize_none(),
            Self::Text(text) => text.serialize(serializer),
        }
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(hash, format) = *self;
        match format {
            EventFormat::Vllm | EventFormat::VllmArrays => serializer.serialize_u64(hash),
            EventFormat::Sglang => serializer.serialize_i64(hash.cast_signed()),
            EventFormat::VllmDigests => {
                let mut digest = [0; DIGEST_BYTES];
                digest[DIGEST_BYTES - size_of::<u64>()..].copy_from_slice(&hash.to_be_bytes());
                serializer.serialize_bytes(&digest)
            }
        }
    }
}
