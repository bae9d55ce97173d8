//! Reads batches of any form, in one pass.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{BlocksRemoved, BlocksStored, CacheEvent, EventBatch};

/// Members of events, under the names that they have in maps.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Member {
    Type,
    BlockHashes,
    ParentBlockHash,
    TokenIds,
    BlockSize,
    LoraId,
    Medium,
    LoraName,
    ExtraKeys,
    GroupIdx,
    KvCacheSpecKind,
    CacheSalt,
    Metadata,
    #[serde(other)]
    Other,
}

/// Members in the order of an array, after the type.
const STORED: [Member; 10] = [
    Member::BlockHashes,
    Member::ParentBlockHash,
    Member::TokenIds,
    Member::BlockSize,
    Member::LoraId,
    Member::Medium,
    Member::LoraName,
    Member::ExtraKeys,
    Member::GroupIdx,
    Member::KvCacheSpecKind,
];
const REMOVED: [Member; 3] = [Member::BlockHashes, Member::Medium, Member::GroupIdx];

/// Everything that an event may say.
#[derive(Debug, Default)]
struct Event {
    kind: String,
    hashes: Vec<u64>,
    parent: Option<u64>,
    tokens: Vec<u32>,
    block_tokens: u32,
    lora_id: Loose,
    lora_name: Loose,
    medium: Loose,
    extra_keys: Loose,
    group: Loose,
    group_kind: Loose,
    salt: Loose,
}

/// A value of which only some forms mean something here.
#[derive(Clone, Debug, Default, PartialEq)]
enum Loose {
    #[default]
    Nothing,
    Number(u64),
    Text(String),
    List(Vec<Self>),
    Other,
}

struct Hash(u64);

/// Reads one member of an event.
struct MemberSeed<'e>(&'e mut Event, Member);

struct BatchVisitor;
struct EventVisitor;
struct HashVisitor;
struct LooseVisitor;

impl Event {
    fn finish(self) -> Option<CacheEvent> {
        let group = match self.group {
            Loose::Number(group) => u32::try_from(group).ok(),
            _ => None,
        };
        match self.kind.as_str() {
            "BlockStored" => {
                // SGLang has had a salt where vLLM has the adapter's name.
                let odd_name = !matches!(self.lora_name, Loose::Nothing | Loose::Text(_));
                let lora_name = self.lora_name.text();
                let nameless = matches!(self.lora_id, Loose::Number(_)) && lora_name.is_none();
                let keyed = odd_name
                    || nameless
                    || self.salt != Loose::Nothing
                    || self.extra_keys.names_more_than(lora_name.as_deref());
                Some(CacheEvent::Stored(BlocksStored {
                    hashes: self.hashes,
                    parent: self.parent,
                    tokens: self.tokens,
                    block_tokens: self.block_tokens,
                    lora_name,
                    medium: self.medium.text(),
                    keyed,
                    group,
                    group_kind: self.group_kind.text(),
                }))
            }
            "BlockRemoved" => {
                let (hashes, medium) = (self.hashes, self.medium.text());
                Some(CacheEvent::Removed(BlocksRemoved { hashes, medium, group }))
            }
            "AllBlocksCleared" => Some(CacheEvent::Cleared),
            _ => None,
        }
    }
}

impl Loose {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether keys, of one block or of many, say more than the name of the adapter.
    fn names_more_than(&self, adapter: Option<&str>) -> bool {
        match self {
            Self::Nothing => false,
            Self::List(keys) => keys.iter().any(|key| key.names_more_than(adapter)),
            Self::Text(name) => Some(name.as_str()) != adapter,
            Self::Number(_) | Self::Other => true,
        }
    }
}

// === impl Deserialize ===

impl<'de> Deserialize<'de> for EventBatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BatchVisitor)
    }
}

impl BatchVisitor {
    fn finish(timestamp_s: f64, events: Vec<Event>, rank: &Loose) -> EventBatch {
        let all = events.len();
        let events: Vec<_> = events.into_iter().filter_map(Event::finish).collect();
        let rank = match rank {
            Loose::Number(rank) => u32::try_from(*rank).ok(),
            _ => None,
        };
        EventBatch { timestamp_s, unknown: (all - events.len()) as u32, events, data_parallel_rank: rank }
    }
}

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = EventBatch;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a batch with a time and events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<EventBatch, A::Error> {
        let missing = || A::Error::custom("a batch without events");
        let timestamp_s = sequence.next_element()?.ok_or_else(missing)?;
        let events = sequence.next_element()?.ok_or_else(missing)?;
        let rank = sequence.next_element()?.unwrap_or_default();
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::finish(timestamp_s, events, &rank))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EventBatch, A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Key {
            Ts,
            Events,
            #[serde(alias = "attn_dp_rank")]
            DataParallelRank,
            #[serde(other)]
            Other,
        }
        let (mut timestamp_s, mut events, mut rank) = (0.0, None, Loose::Nothing);
        while let Some(key) = map.next_key()? {
            match key {
                Key::Ts => timestamp_s = map.next_value()?,
                Key::Events => events = Some(map.next_value()?),
                Key::DataParallelRank => rank = map.next_value()?,
                Key::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let events = events.ok_or_else(|| A::Error::custom("a batch without events"))?;
        Ok(Self::finish(timestamp_s, events, &rank))
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EventVisitor)
    }
}

impl<'de> Visitor<'de> for EventVisitor {
    type Value = Event;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a cache event")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Event, A::Error> {
        let kind: String =
            sequence.next_element()?.ok_or_else(|| A::Error::custom("an event without a type"))?;
        let members: &[Member] = match kind.as_str() {
            "BlockStored" => &STORED,
            "BlockRemoved" => &REMOVED,
            _ => &[],
        };
        let mut event = Event { kind, ..Event::default() };
        for member in members {
            if sequence.next_element_seed(MemberSeed(&mut event, *member))?.is_none() {
                break;
            }
        }
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(event)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Event, A::Error> {
        let mut event = Event::default();
        while let Some(member) = map.next_key()? {
            map.next_value_seed(MemberSeed(&mut event, member))?;
        }
        Ok(event)
    }
}

impl<'de> DeserializeSeed<'de> for MemberSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Self(event, member) = self;
        match member {
            Member::Type => event.kind = String::deserialize(deserializer)?,
            Member::BlockHashes => {
                let hashes = Vec::<Hash>::deserialize(deserializer)?;
                event.hashes = hashes.into_iter().map(|Hash(hash)| hash).collect();
            }
            Member::ParentBlockHash => {
                event.parent = Option::<Hash>::deserialize(deserializer)?.map(|Hash(hash)| hash);
            }
            Member::TokenIds => event.tokens = Vec::deserialize(deserializer)?,
            Member::BlockSize => event.block_tokens = u32::deserialize(deserializer)?,
            Member::LoraId => event.lora_id = Loose::deserialize(deserializer)?,
            Member::Medium => event.medium = Loose::deserialize(deserializer)?,
            Member::LoraName => event.lora_name = Loose::deserialize(deserializer)?,
            Member::ExtraKeys => event.extra_keys = Loose::deserialize(deserializer)?,
            Member::GroupIdx => event.group = Loose::deserialize(deserializer)?,
            Member::KvCacheSpecKind => event.group_kind = Loose::deserialize(deserializer)?,
            Member::CacheSalt | Member::Metadata => event.salt = Loose::deserialize(deserializer)?,
            Member::Other => drop(IgnoredAny::deserialize(deserializer)?),
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HashVisitor)
    }
}

impl<'de> Visitor<'de> for HashVisitor {
    type Value = Hash;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a block hash: an integer or bytes")
    }

    fn visit_u64<E: Error>(self, hash: u64) -> Result<Hash, E> {
        Ok(Hash(hash))
    }

    fn visit_i64<E: Error>(self, hash: i64) -> Result<Hash, E> {
        Ok(Hash(hash.cast_unsigned()))
    }

    fn visit_bytes<E: Error>(self, digest: &[u8]) -> Result<Hash, E> {
        let tail = &digest[digest.len().saturating_sub(size_of::<u64>())..];
        Ok(Hash(tail.iter().fold(0, |hash, byte| hash << u8::BITS | u64::from(*byte))))
    }
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("anything")
    }

    fn visit_unit<E: Error>(self) -> Result<Loose, E> {
        Ok(Loose::Nothing)
    }

    fn visit_none<E: Error>(self) -> Result<Loose, E> {
        Ok(Loose::Nothing)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Loose, E> {
        Ok(Loose::Number(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Loose, E> {
        Ok(u64::try_from(number).map_or(Loose::Other, Loose::Number))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Loose, E> {
        Ok(Loose::Text(text.to_owned()))
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Loose, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = sequence.next_element()? {
            list.push(value);
        }
        Ok(Loose::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }
}
