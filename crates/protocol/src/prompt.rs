//! The content of a request, and its canonical text.
//!
//! The canonical text is what prefixes are compared on. It stands for the engine's chat template, which is
//! unknown here, and keeps the one property that matters: a conversation that goes on has the text of its
//! earlier turns as an exact prefix. Images and other media appear as a hash of their JSON.

mod read;

use std::borrow::Cow;

pub(crate) use read::{BatchInput, ItemsInput, Messages};

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

// === impl Message ===

impl<'a> Message<'a> {
    fn new(role: &'a str, content: Content<'a>) -> Self {
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
