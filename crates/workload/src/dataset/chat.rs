//! Chat messages in files.

use std::sync::Arc;

use serde::Deserialize;

use crate::{Message, Prompt};

/// A message with text; other content is refused by serde's own message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TextMessage {
    role: String,
    content: String,
}

pub(super) fn messages(messages: Vec<TextMessage>) -> Prompt {
    let messages: Arc<[Message]> =
        messages.into_iter().map(|message| Message::new(message.role, message.content)).collect();
    Prompt::Messages(messages)
}
