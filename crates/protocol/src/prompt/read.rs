//! Reads prompts out of JSON, in one pass and in place.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Content, Input, Message, NEXT_PROMPT, Piece};
use crate::json::Text;

/// Reads a content field into the content of a message: a string, an object, an array of them, or null. Gives
/// whether it is more than null.
struct ContentSeed<'c, 'a>(&'c mut Content<'a>);

struct MessageVisitor;

/// The `prompt` of completions, or the `input` of embeddings.
pub(crate) struct BatchInput<'a>(pub(crate) Input<'a>);

struct BatchVisitor;

/// The `input` of responses: a string or items.
pub(crate) struct ItemsInput<'a>(pub(crate) Input<'a>);

struct ItemsVisitor;

/// An element of a `prompt` or `input` array.
enum Element<'a> {
    Text(Cow<'a, str>),
    Token(u32),
    Tokens(Vec<u32>),
}

struct ElementVisitor;

/// The members of messages, content parts and items that mean something here.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Member {
    Role,
    Type,
    #[serde(alias = "text", alias = "thinking", alias = "refusal", alias = "output", alias = "summary")]
    Content,
    ToolCalls,
    FunctionCall,
    Input,
    Arguments,
    Name,
    /// Moves from message to message as a conversation grows; never part of the prompt.
    CacheControl,
    #[serde(other)]
    Other,
}

// === impl Input ===

impl<'de> Deserialize<'de> for BatchInput<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BatchVisitor).map(Self)
    }
}

impl<'de> Deserialize<'de> for ItemsInput<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemsVisitor).map(Self)
    }
}

impl<'de> Visitor<'de> for BatchVisitor {
    type Value = Input<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string, an array of strings, token ids or an array of token id arrays")
    }

    fn visit_unit<E: Error>(self) -> Result<Input<'de>, E> {
        Ok(Input::Absent)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Input<'de>, E> {
        Ok(Input::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Input<'de>, E> {
        Ok(Input::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Input<'de>, A::Error> {
        let mut input = Input::Texts(Vec::new());
        let mut first = true;
        while let Some(element) = sequence.next_element()? {
            match (&mut input, element) {
                (Input::Texts(texts), Element::Text(text)) => texts.push(text),
                (Input::Tokens(tokens), Element::Token(token)) => tokens.push(token),
                (Input::Tokens(tokens), Element::Tokens(more)) => {
                    tokens.push(NEXT_PROMPT);
                    tokens.extend(more);
                }
                (_, Element::Token(token)) if first => input = Input::Tokens(vec![token]),
                (_, Element::Tokens(tokens)) if first => input = Input::Tokens(tokens),
                _ => return Err(A::Error::custom("elements of different kinds in one prompt array")),
            }
            first = false;
        }
        Ok(input)
    }
}

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Input<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string or an array of items")
    }

    fn visit_unit<E: Error>(self) -> Result<Input<'de>, E> {
        Ok(Input::Absent)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Input<'de>, E> {
        Ok(Input::Messages(vec![Message::new("user", Content::Text(Cow::Borrowed(text)))]))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Input<'de>, E> {
        Ok(Input::Messages(vec![Message::new("user", Content::Text(Cow::Owned(text.to_owned())))]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Input<'de>, A::Error> {
        let mut messages = Vec::new();
        while let Some(message) = sequence.next_element()? {
            messages.push(message);
        }
        Ok(Input::Messages(messages))
    }
}

impl<'de> Deserialize<'de> for Element<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string, a token id or an array of token ids")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Element<'de>, E> {
        Ok(Element::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Element<'de>, E> {
        Ok(Element::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E: Error>(self, token: u64) -> Result<Element<'de>, E> {
        u32::try_from(token).map(Element::Token).map_err(|_| E::custom("token id out of range"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Element<'de>, A::Error> {
        let mut tokens = Vec::new();
        while let Some(token) = sequence.next_element()? {
            tokens.push(token);
        }
        Ok(Element::Tokens(tokens))
    }
}

// === impl Message ===

impl<'de> Deserialize<'de> for Message<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MessageVisitor)
    }
}

impl<'de> Visitor<'de> for MessageVisitor {
    type Value = Message<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a message object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Message<'de>, A::Error> {
        let mut content = Content::default();
        let role = read_members(map, &mut content)?;
        Ok(Message { role, content })
    }
}

// === impl Content ===

impl<'de> Deserialize<'de> for Content<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut content = Self::default();
        ContentSeed(&mut content).deserialize(deserializer)?;
        Ok(content)
    }
}

impl<'de> DeserializeSeed<'de> for ContentSeed<'_, 'de> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ContentSeed<'_, 'de> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string, an array of content parts or null")
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<bool, E> {
        self.0.push(Piece::Text(Cow::Borrowed(text)));
        Ok(true)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        self.0.push(Piece::Text(Cow::Owned(text.to_owned())));
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<bool, A::Error> {
        while sequence.next_element_seed(ContentSeed(self.0))?.is_some() {}
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        read_members(map, self.0)?;
        Ok(true)
    }
}

/// Reads a message, a content part or an item into `content` and returns its role.
///
/// What has text or tool calls is read for them, and its other members are left out. What has neither, such as
/// an image, becomes a hash of all its members, so that different images give different prompts.
fn read_members<'de, A: MapAccess<'de>>(
    mut map: A,
    content: &mut Content<'de>,
) -> Result<Cow<'de, str>, A::Error> {
    let (mut role, mut kind) = (None, None);
    let (mut speaks, mut hash) = (false, None);
    while let Some(member) = map.next_key::<Member>()? {
        match member {
            Member::Role => role = map.next_value::<Option<Text<'de>>>()?,
            Member::Type => kind = map.next_value::<Option<Text<'de>>>()?,
            Member::Content => speaks |= map.next_value_seed(ContentSeed(content))?,
            Member::ToolCalls => speaks |= push_json(&mut map, "tool_calls", content)?,
            Member::FunctionCall => speaks |= push_json(&mut map, "function_call", content)?,
            Member::Input => speaks |= push_json(&mut map, "input", content)?,
            Member::Arguments => speaks |= push_json(&mut map, "arguments", content)?,
            Member::Name => drop(push_json(&mut map, "name", content)?),
            Member::CacheControl => drop(map.next_value::<IgnoredAny>()?),
            Member::Other => {
                if let Some(value) = map.next_value::<Option<&RawValue>>()? {
                    hash = Some(xxh3_64_with_seed(value.get().as_bytes(), hash.unwrap_or_default()));
                }
            }
        }
    }
    if let (false, Some(hash)) = (speaks, hash) {
        content.push(Piece::Opaque(hash));
    }
    Ok(role.or(kind).unwrap_or_default().0)
}

/// Takes a member over as it stands; null is nothing.
fn push_json<'de, A: MapAccess<'de>>(
    map: &mut A,
    label: &'static str,
    content: &mut Content<'de>,
) -> Result<bool, A::Error> {
    let value: Option<&RawValue> = map.next_value()?;
    if let Some(value) = value {
        content.push(Piece::Json(label, value.get()));
    }
    Ok(value.is_some())
}
