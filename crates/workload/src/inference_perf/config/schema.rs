//! The words in which the file's sections are written down here: each key once, with its type, its default and what
//! it means. The parser, the defaults, the flags and the table of the documentation all come from that one place.

use std::collections::BTreeMap;

use serde_json::Value;

/// A key of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its path, as in `load.stages[].rate`.
    pub path: String,
    /// The type of its value.
    pub kind: String,
    /// What it is where the file does not say.
    pub default: Value,
    /// What it means.
    pub about: String,
}

/// A type of values that the documentation can describe.
pub(crate) trait Described {
    /// What the user calls it.
    fn kind() -> String;

    /// Whether it consists of keys of its own.
    fn is_section() -> bool {
        false
    }

    /// Adds the keys that a value at `path` has.
    fn keys(_path: &str, _keys: &mut Vec<Key>) {}
}

macro_rules! leaves {
    ($($type:ty = $kind:literal),* $(,)?) => {
        $(impl Described for $type {
            fn kind() -> String {
                $kind.to_owned()
            }
        })*
    };
}

leaves! {
    bool = "bool",
    u16 = "integer",
    u32 = "integer",
    u64 = "integer",
    i64 = "integer",
    f64 = "number",
    String = "string",
    Value = "any",
    BTreeMap<String, String> = "map",
    BTreeMap<String, f64> = "map of numbers",
}

impl<T: Described> Described for Option<T> {
    fn kind() -> String {
        T::kind()
    }

    fn keys(path: &str, keys: &mut Vec<Key>) {
        T::keys(path, keys);
    }
}

impl<T: Described> Described for Vec<T> {
    fn kind() -> String {
        if T::is_section() { "list".to_owned() } else { format!("list of {}s", T::kind()) }
    }

    fn keys(path: &str, keys: &mut Vec<Key>) {
        T::keys(&format!("{path}[]"), keys);
    }
}

/// A section of the file: a struct whose fields are keys with defaults, and which knows no others.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident {
            $($(#[doc = $doc:literal])+ $(#[serde($($attribute:tt)*)])? $field:ident: $type:ty = $default:expr;)*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[doc = $doc])+ $(#[serde($($attribute)*)])? pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::inference_perf::config::schema::Described for $name {
            fn kind() -> String {
                "section".to_owned()
            }

            fn is_section() -> bool {
                true
            }

            fn keys(path: &str, keys: &mut Vec<$crate::inference_perf::config::schema::Key>) {
                // The names as they are written, renamed ones included, in the order of the fields.
                let defaults = serde_json::to_value(Self::default()).unwrap_or_default();
                $({
                    // Each line begins with a blank.
                    let about = concat!($($doc,)+).trim();
                    let name = stringify!($field).trim_start_matches("r#");
                    let name = $crate::inference_perf::config::schema::written(name);
                    let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                    let default = defaults.get(name).unwrap_or(&serde_json::Value::Null);
                    $crate::inference_perf::config::schema::describe::<$type>(&path, default, about, keys);
                })*
            }
        }
    };
}

/// A key whose value is one of several words.
macro_rules! words {
    (
        $(#[doc = $about:literal])+
        $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+ }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
        pub enum $name {
            $($(#[doc = $doc])+ #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The word in the file.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl $crate::inference_perf::config::schema::Described for $name {
            fn kind() -> String {
                [$($word),+].join(" / ")
            }
        }
    };
}

pub(crate) use {section, words};

/// Keys that are written by their other name.
pub(crate) const ALIASES: [(&str, &str); 2] =
    [("num_groups", "num_unique_system_prompts"), ("num_prompts_per_group", "num_users_per_system_prompt")];

/// The name by which a key is written, for either of its names.
pub(crate) fn written(name: &str) -> &str {
    ALIASES.iter().find(|(other, _)| *other == name).map_or(name, |(_, written)| written)
}

pub(crate) fn describe<T: Described>(path: &str, default: &Value, about: &str, keys: &mut Vec<Key>) {
    let below = keys.len() + 1;
    keys.push(Key {
        path: path.to_owned(),
        kind: T::kind(),
        default: default.clone(),
        about: about.to_owned(),
    });
    T::keys(path, keys);
    if keys.len() > below && default.is_object() {
        // A section that is always there has no value of its own.
        keys.remove(below - 1);
    }
}

/// The one of `names` that `name` was probably meant to be.
pub(crate) fn closest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, found) = names.into_iter().map(|known| (edits(name, known), known)).min()?;
    (distance <= 2.max(name.len() / 3)).then_some(found)
}

/// Letters to insert, delete or replace to make one word of the other.
fn edits(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, known) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *known);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_one_that_was_meant() {
        let names = ["streaming", "stages", "storage"];
        assert_eq!(closest("steaming", names), Some("streaming"));
        assert_eq!(closest("stage", names), Some("stages"));
        assert_eq!(closest("qps", names), None);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
