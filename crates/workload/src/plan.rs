//! The plan of a run: phases, each with its limits and its arrivals.
//!
//! Arrivals come from an iterator, so that a plan of millions of requests needs no memory for them; one thread
//! draws them, in order, whatever the number of threads that send. That is why the same seed gives the same
//! bodies and the same send times for any number of threads.

use std::{fmt, sync::Arc, time::Duration};

use protocol::Endpoint;
use serde_json::{Map, Value};

/// Longest time that is taken for one, in seconds: clocks can still add it.
pub const MAX_SECONDS: f64 = 1e10;

/// What to send in a run, and when.
#[derive(Debug)]
pub struct Plan {
    /// Run one after the other.
    pub phases: Vec<Phase>,
}

/// A part of a run with its own rate or concurrency.
pub struct Phase {
    /// Shown to the user.
    pub name: String,
    /// Warm-up phases are recorded and left out of the results.
    pub kind: PhaseKind,
    /// What bounds it.
    pub limits: Limits,
    /// Sessions at zero start as soon as a slot is free, and are due then; otherwise each is due at its own time, and one
    /// that waits for a slot is late.
    pub closed_loop: bool,
    /// The rate asked for, in requests a second, for the comparison with the rate achieved.
    pub target_rate: Option<f64>,
    /// Number of arrivals, where it is known beforehand, for progress bars.
    pub expected_requests: Option<u64>,
    /// Sessions in the order of their start times.
    pub arrivals: Box<dyn Iterator<Item = Arrival> + Send>,
}

/// Whether a phase counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PhaseKind {
    /// Recorded, not reported.
    Warmup,
    /// Reported.
    Measured,
}

/// Bounds of a phase. `None` means no bound.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Sessions in flight. A slot is held from a session's first turn to its last.
    pub concurrency: Option<u32>,
    /// Requests that wait for their first token.
    pub prefill_concurrency: Option<u32>,
    /// Requests under way; a session between two turns has none. For phases without a limit on prefills.
    pub requests_in_flight: Option<u32>,
    /// The concurrency limit grows linearly from 1 over this time.
    pub concurrency_ramp: Option<Duration>,
    /// So does the limit on prefills.
    pub prefill_ramp: Option<Duration>,
    /// Nothing is started after this time.
    pub duration: Option<Duration>,
    /// Answers are waited for this long after `duration`, or after the phase was told to stop, whichever comes first;
    /// `None` waits for all. An arrival that is the last one starts no such wait.
    pub grace: Option<Duration>,
    /// At most this many requests.
    pub requests: Option<u64>,
    /// Whole-request time limit.
    pub request_timeout: Option<Duration>,
    /// Each arrival waits its gap after the one before it was sent, so that lateness adds up, as it does in
    /// scripts that sleep between sends. Normally times are absolute.
    pub drifting: bool,
    /// Abort when the share of failed requests exceeds this, once `max(concurrency, 10)` have ended.
    pub failed_share: Option<f64>,
}

/// The start of a session. Most sessions have one turn.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Since the start of the phase. A [closed loop](Phase::closed_loop) has zero everywhere.
    pub at: Duration,
    /// What starts.
    pub session: Session,
}

/// A conversation, or a single request.
#[derive(Clone, Debug)]
pub struct Session {
    /// Unique in the run.
    pub id: u64,
    /// One request each, in order. A turn is sent when the previous one has been answered and its delay is over.
    pub turns: Vec<Turn>,
    /// Pin to this target URL; `None` lets the URL strategy choose.
    pub target: Option<u16>,
}

/// One request of a session.
#[derive(Clone, Debug)]
pub struct Turn {
    /// What is sent.
    pub request: Request,
    /// Think time after the previous answer.
    pub delay: Duration,
    /// An absolute time since the start of the phase, not earlier than which the turn is sent.
    pub not_before: Option<Duration>,
    /// Longest prompt, earlier messages included: the oldest exchanges are left out beyond it, for good.
    pub prompt_limit: Option<u32>,
    /// What the data calls the session that it belongs to.
    pub conversation: Option<Arc<str>>,
}

/// What one request says, before it is written as JSON.
#[derive(Clone, Debug)]
pub struct Request {
    /// The operation.
    pub endpoint: Endpoint,
    /// Base model or adapter.
    pub model: Arc<str>,
    /// The prompt.
    pub prompt: Prompt,
    /// The prompt is all that is sent, whatever was said before in its session, which begins anew with it. Otherwise
    /// it is what the turn adds: the sender puts the earlier turns and the server's answers before it.
    pub is_whole: bool,
    /// Prompt length, where the dataset states it.
    pub input_tokens: Option<u32>,
    /// Output length to ask for (`max_tokens`), where there is one.
    pub output_tokens: Option<u32>,
    /// Ask for server-sent events.
    pub stream: bool,
    /// Closed this long after it was fully written.
    pub cancel_after: Option<Duration>,
    /// Keys that the dataset wants in this request's body; they win over everything else.
    pub extra: Option<Arc<Map<String, Value>>>,
    /// What a balancer saw of it, where that is recorded and its text is not.
    pub seen: Option<Seen>,
}

/// What routing depends on besides a prompt's blocks, as a balancer recorded it. What is absent was not there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Stands for the prompt's first characters.
    pub prefix_key: Option<u64>,
    /// Stands for the session's name.
    pub session_key: Option<u64>,
    /// Output length that the request allowed.
    pub max_tokens: Option<u32>,
}

/// The content of a request.
///
/// `Text` and `Messages` are what a turn adds, `Blocks` and `Raw` are whole prompts, unless the data says otherwise
/// ([`Request::is_whole`]); what comes before a `Raw` is never sent.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// Plain text, for completions; a single user message, for chat.
    Text(Arc<str>),
    /// New messages.
    Messages(Arc<[Message]>),
    /// Block ids of a trace: equal ids mean equal content so far. Text is made from the ids where text is needed,
    /// by [`render_blocks`](crate::render_blocks).
    Blocks {
        /// One id a block of `block_tokens` tokens.
        ids: Arc<[u64]>,
        /// The ids go on with the answer's, and each is that of a full block. Without it they are the prompt's alone, its
        /// partial last block included or not.
        with_answer: bool,
        /// Tokens in a full block.
        block_tokens: u32,
        /// Tokens in all.
        tokens: u32,
        /// Names the text of the tokens that the ids do not cover: equal tails, equal text.
        tail: u64,
    },
    /// A finished JSON body, sent as it is.
    Raw(Arc<[u8]>),
}

/// One chat message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant`, ...
    pub role: Arc<str>,
    /// Text.
    pub content: Arc<str>,
}

impl Request {
    /// A streamed request that states no lengths.
    pub fn new(endpoint: Endpoint, model: impl Into<Arc<str>>, prompt: Prompt) -> Self {
        Self {
            endpoint,
            model: model.into(),
            is_whole: matches!(prompt, Prompt::Blocks { .. } | Prompt::Raw(_)),
            prompt,
            input_tokens: None,
            output_tokens: None,
            stream: true,
            cancel_after: None,
            extra: None,
            seen: None,
        }
    }

    /// What the prompt says after the earlier messages of its session, without the words that a chat template puts
    /// around it.
    pub fn text(&self, history: &[Message]) -> String {
        let keys = self.extra.as_ref();
        if let Some(messages) = keys.and_then(|keys| keys.get("messages")).and_then(Value::as_array) {
            // They go over the wire instead of the prompt, and the tools with them.
            let said = messages.iter().map(|message| &message["content"]).filter(|said| !said.is_null());
            let said = said.map(|said| said.as_str().map_or_else(|| said.to_string(), str::to_owned));
            return said.chain(keys.and_then(|keys| keys.get("tools")).map(Value::to_string)).collect();
        }
        let mut text: String = history.iter().map(|message| &*message.content).collect();
        match &self.prompt {
            Prompt::Text(own) => text += own,
            Prompt::Messages(own) => own.iter().for_each(|message| text += &message.content),
            Prompt::Blocks { ids, block_tokens, tokens, tail, .. } => {
                crate::render_blocks(ids, *block_tokens, *tokens, *tail, &mut text);
            }
            Prompt::Raw(body) => text += &String::from_utf8_lossy(body),
        }
        text
    }
}

impl Prompt {
    /// Appends to `history` what this turn says in its conversation, finished bodies nothing; the answer is the
    /// sender's to add.
    pub fn extend_history(&self, history: &mut Vec<Message>) {
        match self {
            Self::Text(text) => history.push(Message::user(text.clone())),
            Self::Messages(messages) => history.extend_from_slice(messages),
            Self::Blocks { ids, block_tokens, tokens, tail, .. } => {
                let mut text = String::new();
                crate::render_blocks(ids, *block_tokens, *tokens, *tail, &mut text);
                history.push(Message::user(text));
            }
            Self::Raw(_) => {}
        }
    }
}

impl Message {
    /// A message of the user.
    pub fn user(content: impl Into<Arc<str>>) -> Self {
        Self::new("user", content)
    }

    /// A message of anyone.
    pub fn new(role: impl Into<Arc<str>>, content: impl Into<Arc<str>>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

impl From<Request> for Turn {
    fn from(request: Request) -> Self {
        Self { request, delay: Duration::ZERO, not_before: None, prompt_limit: None, conversation: None }
    }
}

impl fmt::Debug for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Phase")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("limits", &self.limits)
            .field("closed_loop", &self.closed_loop)
            .field("target_rate", &self.target_rate)
            .field("expected_requests", &self.expected_requests)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_of_a_request_is_what_goes_over_the_wire() {
        let mut request = Request::new(Endpoint::ChatCompletions, "m", Prompt::Text("now".into()));
        assert_eq!(request.text(&[Message::user("before ")]), "before now");
        let keys = json!({"messages": [{"role": "user", "content": "recorded"}, {"role": "assistant", "content": null}],
                          "tools": [1]});
        request.extra = keys.as_object().cloned().map(Arc::new);
        assert_eq!(request.text(&[Message::user("before ")]), "recorded[1]");
    }
}
