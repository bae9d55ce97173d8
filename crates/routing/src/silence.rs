//! Settings as people write them: a key without a value says nothing, as when all that stood under it is commented out.
//!
//! Only where a value is null its default takes its place, so that whatever else is wrong keeps its line and column.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

/// Settings of which some have no value.
pub(crate) struct Said<T>(pub(crate) T);

struct SettingsVisitor<T>(PhantomData<T>);

/// A map in which the defaults stand for nulls.
struct Filled<A> {
    map: A,
    defaults: Value,
    /// The key that was read last.
    key: String,
}

/// Reads a key and notes it.
struct KeySeed<'f, K> {
    seed: K,
    key: &'f mut String,
}

/// Reads a value, or `default` where there is none.
struct ValueSeed<V> {
    seed: V,
    default: Value,
}

/// Settings that stand in others.
pub(crate) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de> + Serialize,
{
    Said::deserialize(deserializer).map(|said| said.0)
}

// === impl Said ===

impl<'de, T: Default + Deserialize<'de> + Serialize> Deserialize<'de> for Said<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(SettingsVisitor(PhantomData)).map(Self)
    }
}

impl<'de, T: Default + Deserialize<'de> + Serialize> Visitor<'de> for SettingsVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map of settings")
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_none<E: Error>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        let defaults = serde_json::to_value(T::default()).map_err(A::Error::custom)?;
        T::deserialize(MapAccessDeserializer::new(Filled { map, defaults, key: String::new() }))
    }
}

// === impl Filled ===

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Filled<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.map.next_key_seed(KeySeed { seed, key: &mut self.key })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        let default = self.defaults.get_mut(&self.key).map(Value::take).unwrap_or_default();
        self.map.next_value_seed(ValueSeed { seed, default })
    }
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for KeySeed<'_, K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K::Value, D::Error> {
        *self.key = String::deserialize(deserializer)?;
        self.seed.deserialize(self.key.as_str().into_deserializer())
    }
}

impl<'de, V: DeserializeSeed<'de>> DeserializeSeed<'de> for ValueSeed<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de, V: DeserializeSeed<'de>> Visitor<'de> for ValueSeed<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value or nothing")
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.seed.deserialize(self.default).map_err(E::custom)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.seed.deserialize(deserializer)
    }
}
