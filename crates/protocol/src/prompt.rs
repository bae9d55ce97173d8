//! The content of a request, and its canonical text.
//!
//! The canonical text is what prefixes are compared on. It stands for the engine's chat template, which is
//! unknown here, and keeps the one property that matters: a conversation that goes on has the text of its
//! earlier turns as an exact prefix. Images and other media appear as a hash of their JSON.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::json::Text;

/// What a request asks about.
#[derive(Clone, Debug, Default)]
pub(crate) enum Input<'a> {
    /// The body has none.
    #[default]
    Absent,
    /// One text.
    Text(Cow<'a, str>),
    /// A batch of texts.
    Texts(Vec<Cow<'a, str>>),
    /// Token ids; [`NEXT_PROMPT`] separates the prompts of a batch.
    Tokens(Vec<u32>),
    /// A conversation.
    Messages(Vec<Message<'a>>),
}

/// Stands between the prompts of a batch of token ids; no vocabulary is that large.
pub(crate) const NEXT_PROMPT: u32 = u32::MAX;

/// One message of a conversation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message<'a> {
    /// `role`; the `type` of items that have no role.
    pub(crate) role: Cow<'a, str>,
    /// What it says.
    pub(crate) content: Content<'a>,
}

/// What a message says, in order. Plain text, the usual case, needs no list.
#[derive(Clone, Debug)]
pub(crate) enum Content<'a> {
    /// One text, or nothing.
    Text(Cow<'a, str>),
    /// Several pieces.
    Pieces(Vec<Piece<'a>>),
}

/// A part of a message.
#[derive(Clone, Debug)]
pub(crate) enum Piece<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// A tool call or the like, as it stands in the body.
    Json(&'static str, &'a str),
    /// Hash of something without text, such as an image.
    Opaque(u64),
}

/// Reads a content field into the content of a message: a string, an object, an array of them, or null.
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

impl<'a> Message<'a> {
    pub(crate) fn new(role: &'a str, content: Content<'a>) -> Self {
        Self { role: Cow::Borrowed(role), content }
    }

    /// Writes the message as it stands in the canonical text.
    pub(crate) fn render(&self, out: &mut Vec<u8>) {
        self.content.render_as(&self.role, out);
    }
}

/// Writes the line that begins a message of `role`.
pub(crate) fn open(role: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"<|");
    out.extend_from_slice(role.as_bytes());
    out.extend_from_slice(b"|>\n");
}

/// Writes the end of a message.
pub(crate) fn close(out: &mut Vec<u8>) {
    out.extend_from_slice(b"<|end|>\n");
}

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

impl Default for Content<'_> {
    fn default() -> Self {
        Self::Text(Cow::Borrowed(""))
    }
}

impl<'a> Content<'a> {
    /// The text, without media and tool calls.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Pieces(pieces) => {
                let mut texts = pieces.iter().filter_map(|piece| match piece {
                    Piece::Text(text) => Some(text.as_ref()),
                    Piece::Json(..) | Piece::Opaque(_) => None,
                });
                let first = texts.next().unwrap_or_default();
                texts.fold(Cow::Borrowed(first), |all, text| all + text)
            }
        }
    }

    fn push(&mut self, piece: Piece<'a>) {
        match (&mut *self, piece) {
            (Self::Text(only), Piece::Text(text)) if only.is_empty() => *only = text,
            (Self::Text(only), piece) => {
                let mut pieces = Vec::with_capacity(4);
                if !only.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(only)));
                }
                pieces.push(piece);
                *self = Self::Pieces(pieces);
            }
            (Self::Pieces(pieces), piece) => pieces.push(piece),
        }
    }

    /// Writes it as a message of `role`.
    pub(crate) fn render_as(&self, role: &str, out: &mut Vec<u8>) {
        open(role, out);
        match self {
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Pieces(pieces) => pieces.iter().for_each(|piece| piece.render(out)),
        }
        close(out);
    }
}

impl Piece<'_> {
    fn render(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Json(label, json) => {
                open(label, out);
                out.extend_from_slice(json.as_bytes());
            }
            Self::Opaque(hash) => out.extend_from_slice(format!("<|{hash:016x}|>").as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for Content<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut content = Self::default();
        ContentSeed(&mut content).deserialize(deserializer)?;
        Ok(content)
    }
}

impl<'de> DeserializeSeed<'de> for ContentSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ContentSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string, an array of content parts or null")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.0.push(Piece::Text(Cow::Borrowed(text)));
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push(Piece::Text(Cow::Owned(text.to_owned())));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element_seed(ContentSeed(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        read_members(map, self.0).map(drop)
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
            Member::Content => {
                map.next_value_seed(ContentSeed(content))?;
                speaks = true;
            }
            Member::ToolCalls => speaks |= push_json(&mut map, "tool_calls", content)?,
            Member::FunctionCall => speaks |= push_json(&mut map, "function_call", content)?,
            Member::Input => speaks |= push_json(&mut map, "input", content)?,
            Member::Arguments => speaks |= push_json(&mut map, "arguments", content)?,
            Member::Name => drop(push_json(&mut map, "name", content)?),
            Member::CacheControl => drop(map.next_value::<IgnoredAny>()?),
            Member::Other => {
                let value: &RawValue = map.next_value()?;
                hash = Some(xxh3_64_with_seed(value.get().as_bytes(), hash.unwrap_or_default()));
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
