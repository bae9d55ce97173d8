//! Flags: `--load.worker_max_concurrency 200`, `--load.stages '[{"rate": 10, "duration": 60}]'`.
//!
//! Every key has a flag of its path. The value of a list, a map or a section is JSON; of a bool, `true`, `1` and
//! `yes` are true; `null` takes the value away where a key may have none.

use serde_json::{Map, Value};

use super::{
    Config, ConfigError, Key,
    lax::relax,
    schema::{closest, written},
};

impl Config {
    /// Puts the value of a flag in its place. `flag` is the key's path.
    pub fn set(self, flag: &str, text: &str) -> Result<Self, ConfigError> {
        let wrong = |message: String| ConfigError::Flag { flag: flag.to_owned(), message };
        let path: Vec<&str> = flag.split('.').map(written).collect();
        let keys = Self::all_keys();
        let full = path.join(".");
        let key = keys.iter().find(|key| key.path == full);
        let is_section = keys.iter().any(|key| key.path.starts_with(&format!("{full}.")));
        if key.is_none() && !is_section {
            let meant = closest(flag, keys.iter().map(|key| key.path.as_str()));
            let meant = meant.map_or_else(String::new, |meant| format!("; did you mean --{meant}?"));
            return Err(wrong(format!("there is no such key{meant}")));
        }
        let value = read(key, text).map_err(wrong)?;
        let mut all = serde_json::to_value(&self).map_err(|error| wrong(error.to_string()))?;
        let mut place = &mut all;
        for name in &path {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[*name];
        }
        merge(place, value);
        relax(&mut all, "", &keys).map_err(wrong)?;
        serde_json::from_value(all).map_err(|error| wrong(error.to_string()))
    }
}

fn read(key: Option<&Key>, text: &str) -> Result<Value, String> {
    let json = || serde_json::from_str(text).map_err(|error| format!("{text:?} is not JSON: {error}"));
    let kind = key.map_or("section", |key| key.kind.as_str());
    match kind {
        _ if text == "null" => Ok(Value::Null),
        "bool" => Ok(matches!(text.to_lowercase().as_str(), "true" | "1" | "yes").into()),
        "string" => Ok(text.into()),
        "integer" | "number" => serde_json::from_str(text)
            .ok()
            .filter(Value::is_number)
            .ok_or_else(|| format!("{text:?} is not a number")),
        "section" | "list" | "any" | "map" | "map of numbers" | "number or distribution" => json(),
        list if list.starts_with("list of ") => json(),
        _ => Ok(text.into()),
    }
}

/// Sections and maps go key by key over what is there; everything else takes its place.
fn merge(place: &mut Value, value: Value) {
    match (place, value) {
        (Value::Object(place), Value::Object(value)) => {
            for (name, value) in value {
                merge(place.entry(written(&name).to_owned()).or_insert(Value::Null), value);
            }
        }
        (place, value) => *place = value,
    }
}
