//! Reads prompts out of JSON, in one pass and in place.
//!
//! What is read of a body is far larger than the body where that is a list of many small things: an empty message takes
//! three bytes there, and fifty here. So their number is limited, to more than any engine's context has room for.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Content, Input, Message, NEXT_PROMPT, Piece};
use crate::json::Text;

/// Messages, parts and texts of one body, all together.
const MOST_PARTS: usize = 1 << 16;
/// Token ids of one body.
const MOST_TOKENS: usize = 1 << 22;

/// Reads a content field into the content of a message: a string, an object, an array of them, or null. Gives
/// whether it is more than null. The second is how many parts there may still be.
struct ContentSeed<'c, 'a>(&'c mut Content<'a>, &'c mut usize);

/// A conversation.
pub(crate) struct Messages<'a>(pub(crate) Vec<Message<'a>>);

struct MessagesVisitor;

struct MessageSeed<'c>(&'c mut usize);

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
            match &input {
                Input::Texts(texts) if texts.len() == MOST_PARTS => return Err(too_many(MOST_PARTS)),
                Input::Tokens(tokens) if tokens.len() >= MOST_TOKENS => return Err(too_many(MOST_TOKENS)),
                _ => {}
            }
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

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Input<'de>, A::Error> {
        MessagesVisitor.visit_seq(sequence).map(|messages| Input::Messages(messages.0))
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
            if tokens.len() == MOST_TOKENS {
                return Err(too_many(MOST_TOKENS));
            }
            tokens.push(token);
        }
        Ok(Element::Tokens(tokens))
    }
}

// === impl Message ===

fn too_many<E: Error>(most: usize) -> E {
    E::custom(format_args!("a prompt of more than {most} elements"))
}

/// Takes one off the parts that there may still be.
fn take_part<E: Error>(left: &mut usize) -> Result<(), E> {
    *left = left.checked_sub(1).ok_or_else(|| too_many(MOST_PARTS))?;
    Ok(())
}

impl<'de> Deserialize<'de> for Messages<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(MessagesVisitor)
    }
}

impl<'de> Visitor<'de> for MessagesVisitor {
    type Value = Messages<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Messages<'de>, A::Error> {
        let (mut messages, mut left) = (Vec::new(), MOST_PARTS);
        while let Some(message) = sequence.next_element_seed(MessageSeed(&mut left))? {
            messages.push(message);
        }
        Ok(Messages(messages))
    }
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = Message<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Message<'de>, D::Error> {
        take_part(self.0)?;
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = Message<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a message object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Message<'de>, A::Error> {
        let mut content = Content::default();
        let role = read_members(map, &mut content, self.0)?;
        Ok(Message { role, content })
    }
}

// === impl Content ===

impl<'de> Deserialize<'de> for Content<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut content = Self::default();
        ContentSeed(&mut content, &mut { MOST_PARTS }).deserialize(deserializer)?;
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
        take_part(self.1)?;
        self.0.push(Piece::Text(Cow::Borrowed(text)));
        Ok(true)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        take_part(self.1)?;
        self.0.push(Piece::Text(Cow::Owned(text.to_owned())));
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<bool, A::Error> {
        take_part(self.1)?;
        while sequence.next_element_seed(ContentSeed(self.0, self.1))?.is_some() {}
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        take_part(self.1)?;
        read_members(map, self.0, self.1)?;
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
    left: &mut usize,
) -> Result<Cow<'de, str>, A::Error> {
    let (mut role, mut kind) = (None, None);
    let (mut speaks, mut hash) = (false, None);
    while let Some(member) = map.next_key::<Member>()? {
        match member {
            Member::Role => role = map.next_value::<Option<Text<'de>>>()?,
            Member::Type => kind = map.next_value::<Option<Text<'de>>>()?,
            Member::Content => speaks |= map.next_value_seed(ContentSeed(content, left))?,
            Member::ToolCalls => speaks |= push_json(&mut map, "tool_calls", content, left)?,
            Member::FunctionCall => speaks |= push_json(&mut map, "function_call", content, left)?,
            Member::Input => speaks |= push_json(&mut map, "input", content, left)?,
            Member::Arguments => speaks |= push_json(&mut map, "arguments", content, left)?,
            Member::Name => drop(push_json(&mut map, "name", content, left)?),
            Member::CacheControl => drop(map.next_value::<IgnoredAny>()?),
            Member::Other => {
                if let Some(value) = map.next_value::<Option<&RawValue>>()? {
                    hash = Some(xxh3_64_with_seed(value.get().as_bytes(), hash.unwrap_or_default()));
                }
            }
        }
    }
    if let (false, Some(hash)) = (speaks, hash) {
        take_part(left)?;
        content.push(Piece::Opaque(hash));
    }
    Ok(role.or(kind).unwrap_or_default().0)
}

/// Takes a member over as it stands; null is nothing.
fn push_json<'de, A: MapAccess<'de>>(
    map: &mut A,
    label: &'static str,
    content: &mut Content<'de>,
    left: &mut usize,
) -> Result<bool, A::Error> {
    let value: Option<&RawValue> = map.next_value()?;
    if let Some(value) = value {
        take_part(left)?;
        content.push(Piece::Json(label, value.get()));
    }
    Ok(value.is_some())
}
