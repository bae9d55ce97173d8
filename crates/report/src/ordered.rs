//! A JSON object that keeps its keys in the order in which they were added, as the tools whose files we write do.

use serde::{Serialize, Serializer};
use serde_json::Value;

/// A JSON object in the order of insertion. A key that is set again keeps its place and takes the new value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Vec<(String, Value)>);

impl Object {
    /// Sets `key`. Numbers that JSON cannot hold become `null`.
    pub fn set(&mut self, key: impl Into<String>, value: impl Serialize) {
        let (key, value) = (key.into(), serde_json::to_value(value).unwrap_or(Value::Null));
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => self.0.push((key, value)),
        }
    }

    /// The value at `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// The keys in their order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}
