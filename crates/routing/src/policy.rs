//! The policies by name, their settings, and what each needs to know about a request.
//!
//! In a file or a JSON body a policy is its name, `prefix_hash`, or a map from the name to its settings,
//! `{prefix_hash: {load_factor_percent: 150}}`. Hyphens in names are accepted.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
};

use crate::{
    LeastQueueSettings, PrefixAwareSettings, PrefixHashSettings, PrefixKey, SessionSettings, SettingsError,
    ring::{kubeai_key, prefix_key},
    silence::Said,
};

/// The name of a policy, in configuration, flags and metrics.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum PolicyName {
    /// In turn, in proportion to weights, smoothly.
    RoundRobin,
    /// At random, in proportion to weights.
    Random,
    /// Fewest open requests per weight.
    LeastRequests,
    /// Fewest pending tokens per weight.
    LeastTokens,
    /// Shortest queue, as the engines report it.
    LeastQueue,
    /// A home by the hash of the prompt's beginning, within a bound.
    PrefixHash,
    /// A home by the hash of a header, within a bound.
    Session,
    /// The least cost in seconds, of which a prompt's uncached part is one. The default.
    #[default]
    PrefixAware,
}

impl PolicyName {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::RoundRobin,
        Self::Random,
        Self::LeastRequests,
        Self::LeastTokens,
        Self::LeastQueue,
        Self::PrefixHash,
        Self::Session,
        Self::PrefixAware,
    ];

    /// As it is written.
    pub const fn label(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LeastRequests => "least_requests",
            Self::LeastTokens => "least_tokens",
            Self::LeastQueue => "least_queue",
            Self::PrefixHash => "prefix_hash",
            Self::Session => "session",
            Self::PrefixAware => "prefix_aware",
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.label())
    }
}

impl FromStr for PolicyName {
    type Err = SettingsError;

    fn from_str(name: &str) -> Result<Self, SettingsError> {
        let plain = name.replace('-', "_");
        Self::ALL.into_iter().find(|policy| policy.label() == plain).ok_or_else(|| {
            let known = Self::ALL.map(Self::label).join(", ");
            SettingsError::UnknownPolicy { name: name.into(), known }
        })
    }
}

/// A policy with its settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicySettings {
    /// See [`PolicyName::RoundRobin`].
    RoundRobin,
    /// See [`PolicyName::Random`].
    Random,
    /// See [`PolicyName::LeastRequests`].
    LeastRequests,
    /// See [`PolicyName::LeastTokens`].
    LeastTokens,
    /// See [`PolicyName::LeastQueue`].
    LeastQueue(LeastQueueSettings),
    /// See [`PolicyName::PrefixHash`].
    PrefixHash(PrefixHashSettings),
    /// See [`PolicyName::Session`].
    Session(SessionSettings),
    /// See [`PolicyName::PrefixAware`].
    PrefixAware(PrefixAwareSettings),
}

/// What a policy reads of a query. The caller computes this much and no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Needs<'a> {
    /// For [`Query::prefix_key`](crate::Query::prefix_key).
    pub prefix: Option<PrefixNeed>,
    /// For [`Query::session_key`](crate::Query::session_key): the header names to look for, in this order.
    pub session_headers: &'a [String],
    /// For [`Query::blocks`](crate::Query::blocks).
    pub blocks: bool,
}

/// How a prefix key is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PrefixNeed {
    /// Which text.
    pub source: PrefixKey,
    /// How many characters of it.
    pub characters: usize,
    /// By KubeAI's hash.
    pub exact_kubeai: bool,
}

impl PrefixNeed {
    /// The key of a request, from the text that `source` names (UTF-8, or as much of it as there is). Without
    /// text there is none, and the request goes where the load is least; KubeAI has one key for all of those.
    pub fn key(self, adapter: Option<&str>, text: &[u8]) -> Option<u64> {
        let prefix = first_characters(text, self.characters);
        match self.exact_kubeai {
            true => Some(kubeai_key(adapter, prefix)),
            false => (!prefix.is_empty()).then(|| prefix_key(adapter, prefix)),
        }
    }
}

/// The bytes of the first `count` characters.
fn first_characters(text: &[u8], count: usize) -> &[u8] {
    if let Some(head) = text.get(..count)
        && head.is_ascii()
    {
        return head;
    }
    let starts = text.iter().enumerate().filter(|(_, byte)| **byte & 0xC0 != 0x80);
    let end = starts.map(|(at, _)| at).nth(count).unwrap_or(text.len());
    &text[..end]
}

impl PolicySettings {
    /// Its name.
    pub const fn name(&self) -> PolicyName {
        match self {
            Self::RoundRobin => PolicyName::RoundRobin,
            Self::Random => PolicyName::Random,
            Self::LeastRequests => PolicyName::LeastRequests,
            Self::LeastTokens => PolicyName::LeastTokens,
            Self::LeastQueue(_) => PolicyName::LeastQueue,
            Self::PrefixHash(_) => PolicyName::PrefixHash,
            Self::Session(_) => PolicyName::Session,
            Self::PrefixAware(_) => PolicyName::PrefixAware,
        }
    }

    /// What it reads of a query.
    pub fn needs(&self) -> Needs<'_> {
        let mut needs = Needs { prefix: None, session_headers: &[], blocks: false };
        match self {
            Self::PrefixHash(settings) => {
                needs.prefix = Some(PrefixNeed {
                    source: settings.key,
                    characters: settings.prefix_chars,
                    exact_kubeai: settings.exact_kubeai,
                });
            }
            Self::Session(settings) => needs.session_headers = &settings.headers,
            Self::PrefixAware(_) => needs.blocks = true,
            Self::RoundRobin
            | Self::Random
            | Self::LeastRequests
            | Self::LeastTokens
            | Self::LeastQueue(_) => {}
        }
        needs
    }

    /// Refuses values that cannot be used.
    pub fn validate(&self) -> Result<(), SettingsError> {
        match self {
            Self::PrefixHash(settings) => settings.validate(),
            Self::Session(settings) => settings.validate(),
            Self::PrefixAware(settings) => settings.validate(),
            Self::RoundRobin
            | Self::Random
            | Self::LeastRequests
            | Self::LeastTokens
            | Self::LeastQueue(_) => Ok(()),
        }
    }
}

impl Default for PolicySettings {
    fn default() -> Self {
        PolicyName::default().into()
    }
}

impl From<PolicyName> for PolicySettings {
    /// With its default settings.
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::RoundRobin => Self::RoundRobin,
            PolicyName::Random => Self::Random,
            PolicyName::LeastRequests => Self::LeastRequests,
            PolicyName::LeastTokens => Self::LeastTokens,
            PolicyName::LeastQueue => Self::LeastQueue(LeastQueueSettings::default()),
            PolicyName::PrefixHash => Self::PrefixHash(PrefixHashSettings::default()),
            PolicyName::Session => Self::Session(SessionSettings::default()),
            PolicyName::PrefixAware => Self::PrefixAware(PrefixAwareSettings::default()),
        }
    }
}

impl FromStr for PolicySettings {
    type Err = SettingsError;

    /// The policy of this name, with its default settings.
    fn from_str(name: &str) -> Result<Self, SettingsError> {
        name.parse().map(|name: PolicyName| name.into())
    }
}

impl Serialize for PolicyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

impl<'de> Deserialize<'de> for PolicyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for PolicySettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PolicyVisitor)
    }
}

struct PolicyVisitor;

/// The settings of a policy that has none.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct NoSettings {}

fn said<'de, T, A>(map: &mut A) -> Result<T, A::Error>
where
    T: Default + Deserialize<'de> + Serialize,
    A: MapAccess<'de>,
{
    map.next_value::<Said<T>>().map(|said| said.0)
}

impl<'de> Visitor<'de> for PolicyVisitor {
    type Value = PolicySettings;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a policy, or one name with its settings")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<PolicySettings, E> {
        name.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PolicySettings, A::Error> {
        let name = map.next_key::<PolicyName>()?.ok_or_else(|| A::Error::custom("a policy needs a name"))?;
        let settings = match name {
            PolicyName::LeastQueue => PolicySettings::LeastQueue(said(&mut map)?),
            PolicyName::PrefixHash => PolicySettings::PrefixHash(said(&mut map)?),
            PolicyName::Session => PolicySettings::Session(said(&mut map)?),
            PolicyName::PrefixAware => PolicySettings::PrefixAware(said(&mut map)?),
            PolicyName::RoundRobin
            | PolicyName::Random
            | PolicyName::LeastRequests
            | PolicyName::LeastTokens => {
                said::<NoSettings, A>(&mut map)?;
                name.into()
            }
        };
        match map.next_key::<String>()? {
            Some(more) => Err(A::Error::custom(format_args!("one policy at a time: {name}, then `{more}`"))),
            None => Ok(settings),
        }
    }
}
