//! A JSON object that keeps its keys in the order in which they were added, as the tools whose files we write do.

use serde::{Serialize, Serializer};
use serde_json::Value;

/// A JSON object in the order of insertion. A key that is set again keeps its place and takes the new value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(Vec<(String, Item)>);

#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
enum Item {
    Value(Value),
    Object(Object),
    Objects(Vec<Object>),
}

impl Object {
    /// Sets `key`. Numbers that JSON cannot hold become `null`.
    pub fn set(&mut self, key: impl Into<String>, value: impl Serialize) {
        self.put(key.into(), Item::Value(serde_json::to_value(value).unwrap_or(Value::Null)));
    }

    /// Sets `key` to an object that keeps its own order, or to `null`.
    pub fn nest(&mut self, key: impl Into<String>, object: impl Into<Option<Self>>) {
        self.put(key.into(), object.into().map_or(Item::Value(Value::Null), Item::Object));
    }

    /// Sets `key` to a list of objects that keep their own order.
    pub fn nest_all(&mut self, key: impl Into<String>, objects: impl IntoIterator<Item = Self>) {
        self.put(key.into(), Item::Objects(objects.into_iter().collect()));
    }

    /// Sets all keys of `other`.
    pub fn extend(&mut self, other: Self) {
        other.0.into_iter().for_each(|(key, item)| self.put(key, item));
    }

    /// The value at `key`, unless it is an ordered object itself.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == key).and_then(|(_, item)| match item {
            Item::Value(value) => Some(value),
            Item::Object(_) | Item::Objects(_) => None,
        })
    }

    /// The keys in their order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    fn put(&mut self, key: String, item: Item) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = item,
            None => self.0.push((key, item)),
        }
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, item)| (key, item)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_insertion_at_every_depth() {
        let mut inner = Object::default();
        inner.set("z", 1);
        inner.set("a", f64::NAN);
        let mut outer = Object::default();
        outer.set("y", 0);
        outer.nest("b", inner.clone());
        outer.nest("n", None);
        outer.nest_all("l", [inner]);
        outer.set("y", 2);
        let text = serde_json::to_string(&outer).unwrap();
        assert_eq!(text, r#"{"y":2,"b":{"z":1,"a":null},"n":null,"l":[{"z":1,"a":null}]}"#);
    }
}
