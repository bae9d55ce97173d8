//! A YAML document whose every value knows its line, with `${NAME:default}` and `{{ expressions }}` put in.
//!
//! The environment is read first, then the expressions over the document's `variables`, as AIPerf does. A text that is
//! nothing but a replacement becomes a number or a truth value where it reads as one.

use std::{collections::BTreeMap, fmt};

use minijinja::{Environment, UndefinedBehavior};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A value and the line where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: u64,
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A text, a number, a truth value, or null.
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// The key's.
    pub(super) line: u64,
    pub(super) node: Node,
}

/// What stands in the place of a text on a line, if anything else does.
type Replacement<'a> = &'a dyn Fn(&str, u64) -> Result<Option<Value>, Problem>;

/// What is wrong, and on which line.
#[derive(Debug, PartialEq)]
pub(super) struct Problem {
    pub(super) line: u64,
    pub(super) said: String,
}

impl Problem {
    pub(super) fn new(line: u64, said: impl Into<String>) -> Self {
        Self { line, said: said.into() }
    }
}

impl Node {
    /// Reads a document; `environment` gives the value of a variable of the environment.
    pub(super) fn read(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, Problem> {
        let options = serde_saphyr::options! { with_snippet: false };
        let parsed: Result<Spanned<Content>, _> = serde_saphyr::from_str_with_options(text, options);
        let mut node: Self = parsed
            .map_err(|error| {
                let line = error.location().map_or(0, |location| location.line());
                let formatter = serde_saphyr::UserMessageFormatter;
                Problem::new(line, serde_saphyr::MessageFormatter::format_message(&formatter, &error))
            })?
            .into();
        node.replace(&|text, line| from_environment(text, line, &environment))?;
        let variables = node.variables()?;
        let mut engine = Environment::new();
        engine.set_undefined_behavior(UndefinedBehavior::Strict);
        node.replace(&|text, line| rendered(&engine, text, &variables, line))?;
        Ok(node)
    }

    pub(super) fn map(&self) -> Option<&[Entry]> {
        match &self.content {
            Content::Map(entries) => Some(entries),
            _ => None,
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.map()?.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// One value, as it is written on a command line.
    pub(super) fn text(&self) -> Option<String> {
        match &self.content {
            Content::Scalar(Value::String(text)) => Some(text.clone()),
            Content::Scalar(Value::Null) | Content::List(_) | Content::Map(_) => None,
            Content::Scalar(value) => Some(value.to_string()),
        }
    }

    /// Null, false, or nothing inside: what asks for nothing.
    pub(super) fn is_nothing(&self) -> bool {
        match &self.content {
            Content::Scalar(value) => value.is_null() || *value == Value::Bool(false),
            Content::List(list) => list.is_empty(),
            Content::Map(entries) => entries.is_empty(),
        }
    }

    /// The same without lines.
    pub(super) fn json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(list) => list.iter().map(Self::json).collect(),
            Content::Map(entries) => {
                let pairs = entries.iter().map(|entry| (entry.key.clone(), entry.node.json()));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }

    /// The document's `variables`, each rendered with those before it.
    fn variables(&self) -> Result<BTreeMap<String, minijinja::Value>, Problem> {
        let mut engine = Environment::new();
        engine.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut known = BTreeMap::new();
        let entries = self.get("variables").and_then(Self::map).unwrap_or_default();
        for Entry { key, node, .. } in entries {
            let mut node = node.clone();
            node.replace(&|text, line| rendered(&engine, text, &known, line))?;
            known.insert(key.clone(), minijinja::Value::from(minijinja::value::Serde(node.json())));
        }
        Ok(known)
    }

    /// Puts something else in the place of every text for which `with` has it.
    fn replace(&mut self, with: Replacement<'_>) -> Result<(), Problem> {
        match &mut self.content {
            Content::Scalar(Value::String(text)) => {
                if let Some(value) = with(text, self.line)? {
                    self.content = Content::Scalar(value);
                }
            }
            Content::Scalar(_) => {}
            Content::List(list) => list.iter_mut().try_for_each(|node| node.replace(with))?,
            Content::Map(entries) => entries.iter_mut().try_for_each(|entry| entry.node.replace(with))?,
        }
        Ok(())
    }
}

/// A text without its `${NAME}` and `${NAME:default}`, if it has any.
fn from_environment(
    text: &str,
    line: u64,
    environment: &impl Fn(&str) -> Option<String>,
) -> Result<Option<Value>, Problem> {
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, after) = after
            .split_once('}')
            .ok_or_else(|| Problem::new(line, format!("{text:?}: the ${{ has no closing brace")))?;
        let (name, default) =
            inside.split_once(':').map_or((inside, None), |(name, text)| (name, Some(text)));
        let value = environment(name).or_else(|| default.map(ToOwned::to_owned));
        let missing = || Problem::new(line, format!("the environment variable {name} is not set"));
        done += before;
        done += &value.ok_or_else(missing)?;
        rest = after;
    }
    Ok((rest.len() < text.len()).then(|| typed(done + rest)))
}

/// A text with its expressions evaluated, if it has any.
fn rendered(
    engine: &Environment<'_>,
    text: &str,
    variables: &BTreeMap<String, minijinja::Value>,
    line: u64,
) -> Result<Option<Value>, Problem> {
    if !text.contains("{{") && !text.contains("{%") {
        return Ok(None);
    }
    let rendered = engine
        .render_str(text, variables.clone())
        .map_err(|error| Problem::new(line, format!("{text:?}: {error}; give it under variables")))?;
    Ok(Some(typed(rendered)))
}

/// What a replaced text stands for.
fn typed(text: String) -> Value {
    match text.to_ascii_lowercase().as_str() {
        "true" => true.into(),
        "false" => false.into(),
        _ => text.trim().parse::<Number>().map_or(Value::String(text), Value::Number),
    }
}

impl From<Spanned<Content>> for Node {
    fn from(spanned: Spanned<Content>) -> Self {
        Self { line: spanned.referenced.line(), content: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Content;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        let is_whole = value.fract() == 0.0 && value.abs() < 1e15;
        Ok(Content::Scalar(if is_whole { (value as i64).into() } else { value.into() }))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Content, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut list: Vec<Node> = Vec::new();
        while let Some(element) = access.next_element::<Spanned<Content>>()? {
            list.push(element.into());
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let node = access.next_value::<Spanned<Content>>()?.into();
            entries.push(Entry { line: key.referenced.line(), key: key.value, node });
        }
        Ok(Content::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        (name == "RATE").then(|| "12.5".to_owned())
    }

    #[test]
    fn values_know_their_lines_and_replacements_their_types() {
        let text = "variables:\n  base: 16\n  twice: '{{ base * 2 }}'\n# a comment\nrate: ${RATE:3}\n\nrest:\n  - {a: '${NONE:x}'}\n  - '{{ twice // 3 }} and {{ base }}'\n  - 30.0\n";
        let node = Node::read(text, environment).unwrap();
        assert_eq!(node.get("rate").unwrap().json(), 12.5);
        assert_eq!(node.get("variables").unwrap().get("twice").unwrap().json(), 32);
        let Content::List(rest) = &node.get("rest").unwrap().content else { panic!("{node:?}") };
        assert_eq!((rest[0].line, rest[1].line, rest[2].line), (8, 9, 10));
        assert_eq!(rest[0].get("a").unwrap().json(), "x");
        assert_eq!(rest[1].text().unwrap(), "10 and 16");
        assert_eq!(rest[2].text().unwrap(), "30");
        assert_eq!(node.map().unwrap()[1].line, 5);
    }

    #[test]
    fn what_cannot_be_put_in_is_said_with_its_line() {
        let wrong = |text: &str| Node::read(text, environment).unwrap_err();
        assert_eq!(wrong("a: 1\nb: ${NONE}\n"), Problem::new(2, "the environment variable NONE is not set"));
        assert_eq!(wrong("a: '${NONE:x'\n").line, 1);
        assert_eq!(wrong("a: 1\nb: 2\nc: '{{ nothing }}'\n").line, 3);
        assert_eq!(wrong("a: 1\nb: [1\n").line, 2);
        assert!(wrong("a: 1\na: 2\n").said.contains("a"));
    }
}
