//! Brings values to the types of their keys, as inference-perf does: `1.0` is a whole number, `1` is true, a text may be
//! a number, and a section that says nothing has its defaults. What cannot be brought there is said with its key.

use serde_json::{Map, Value};

use super::{
    Key,
    schema::{ALIASES, written},
};

/// Where the keys of a distribution that stands in the place of a number are described.
const DISTRIBUTION: &str = "data.input_distribution";

/// Changes `value`, which stands at `path`.
pub(super) fn relax(value: &mut Value, path: &str, keys: &[Key]) -> Result<(), String> {
    match value {
        Value::Object(map) => {
            let is_described = |path: &str| keys.iter().any(|key| key.path == path);
            map.retain(|name, value| {
                // A section that is always there has keys, and is none itself.
                let path = join(path, name);
                let is_section = keys.iter().any(|key| key.path.starts_with(&format!("{path}.")));
                !value.is_null() || !is_section || is_described(&path)
            });
            for (name, value) in map {
                let path = join(path, name);
                if let Some(key) = keys.iter().find(|key| key.path == path) {
                    convert(value, key)?;
                    if key.kind == "number or distribution" {
                        relax(value, DISTRIBUTION, keys)?;
                        continue;
                    }
                }
                relax(value, &path, keys)?;
            }
            Ok(())
        }
        Value::Array(list) => list.iter_mut().try_for_each(|value| relax(value, &format!("{path}[]"), keys)),
        _ => Ok(()),
    }
}

fn join(path: &str, name: &str) -> String {
    let name = if ALIASES.iter().any(|(other, _)| *other == name) { written(name) } else { name };
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn convert(value: &mut Value, key: &Key) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    let (converted, wanted) = match key.kind.as_str() {
        "bool" => (truth(value).map(Value::from), "true or false"),
        "integer" => (number(value).filter(|number| number.fract() == 0.0).and_then(whole), "a whole number"),
        "number" => (number(value).map(Value::from), "a number"),
        "map" => {
            value.as_object_mut().into_iter().for_each(texts);
            return Ok(());
        }
        _ => return Ok(()),
    };
    // What is one already is exact.
    let is_right = match key.kind.as_str() {
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        _ => false,
    };
    match converted {
        _ if is_right => Ok(()),
        Some(converted) => {
            *value = converted;
            Ok(())
        }
        None => Err(format!("{}: {wanted} is wanted, not {value}", key.path)),
    }
}

fn truth(value: &Value) -> Option<bool> {
    let word = match value {
        Value::Bool(given) => return Some(*given),
        Value::String(text) => text.to_lowercase(),
        value => number(value)?.to_string(),
    };
    match word.as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Some(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

/// Python's numbers may have underscores between their digits.
fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::String(text) => text.trim().replace('_', "").parse().ok(),
        value => value.as_f64(),
    };
    number.filter(|number: &f64| number.is_finite())
}

/// A whole number that a float can hold exactly.
fn whole(number: f64) -> Option<Value> {
    let exact = -9e15..=9e15;
    let value = if number < 0.0 { Value::from(number as i64) } else { Value::from(number as u64) };
    exact.contains(&number).then_some(value)
}

/// The values of a map of texts.
fn texts(map: &mut Map<String, Value>) {
    for value in map.values_mut().filter(|value| value.is_u64() || value.is_i64()) {
        *value = Value::from(value.to_string());
    }
}
