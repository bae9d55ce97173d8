//! What a request means to routing, read off its body once, whatever the number of attempts.
//!
//! A body that cannot be understood is no error here: the request goes where the load is least, of the replicas that
//! have the adapter it names, and the engine says what is wrong with it.

use std::{mem, sync::LazyLock};

use bytes::Bytes;
use http::Method;
use protocol::{BLOCK_TOKENS, Decision, Endpoint, RequestView, estimate_tokens};
use routing::{PrefixKey, PrefixNeed, Query, SessionSettings, session_key};

use crate::{
    http1::request::RequestHead,
    shared::Shared,
    worker::{Scratch, Worker},
};

/// The prefix that the decision log knows a prompt by: that of `prefix_hash` by default.
const LOGGED_KEY: PrefixNeed =
    PrefixNeed { source: PrefixKey::FirstUserMessage, characters: 100, exact_kubeai: false };

/// Bytes of a model's name that the decision log keeps: a longer one is no model's.
const MOST_MODEL_BYTES: usize = 256;
/// Tokens that a body of unknown meaning counts as, at most. Much of it is not for the engine's prompt: an image or a
/// file as base64 would look like a million tokens, and turn everybody else away from its replica.
const MOST_GUESSED_TOKENS: u32 = 4096;
/// Tokens that a body counts as which is no JSON, whatever its size: sound, pictures and files are no prompt, and an
/// engine's work on them has nothing to do with their bytes.
const FOREIGN_TOKENS: u32 = 16;

/// The session that the decision log knows a request by, where the policy looks for none: that of `session` by default.
static LOGGED_SESSION: LazyLock<SessionSettings> = LazyLock::new(SessionSettings::default);

/// What a request's body and its session's field say.
#[derive(Debug, Default)]
pub(crate) struct Meaning {
    adapter: Option<String>,
    prefix_key: Option<u64>,
    session_key: Option<u64>,
    blocks: Vec<u64>,
    prompt_tokens: u32,
    output_tokens: Option<u32>,
    /// For the decision log: the model, and the key that prefix_hash would have by default.
    described: Option<(String, Option<u64>)>,
    /// Why the body could not be understood, if it should have been.
    pub(crate) unread: Option<String>,
}

/// A request as routing sees it.
#[derive(Debug)]
pub(super) struct Understood<'w> {
    worker: &'w Worker,
    meaning: Meaning,
}

// === impl Meaning ===

impl Meaning {
    /// Reads a body that came to `endpoint`; `session` has the key of a header's value, by the header's name.
    pub(crate) fn read(
        shared: &Shared,
        scratch: &mut Scratch,
        endpoint: Endpoint,
        session: impl Fn(&str) -> Option<u64>,
        body: &Bytes,
    ) -> Self {
        let policy = shared.fleet.router.policy();
        let needs = policy.needs();
        let logged = shared.decision_log.is_some();
        let session_headers = match needs.session_headers {
            [] if logged => &LOGGED_SESSION.headers,
            headers => headers,
        };
        let mut meaning = Self {
            session_key: session_headers.iter().find_map(|name| session(name)),
            blocks: mem::take(&mut scratch.blocks),
            prompt_tokens: guess_tokens(body),
            ..Self::default()
        };
        meaning.blocks.clear();
        let view = match endpoint {
            Endpoint::Other => None,
            _ => RequestView::parse(endpoint, body)
                .map_err(|error| meaning.unread = Some(error.to_string()))
                .ok(),
        };
        let Some(view) = view else {
            meaning.adapter = named_adapter(shared, body);
            return meaning;
        };
        let mut prompt = mem::take(&mut scratch.prompt);
        prompt.clear();
        view.render_prompt(&mut prompt);
        meaning.prompt_tokens = estimate_tokens(prompt.len());
        meaning.output_tokens = view.max_tokens;
        if shared.fleet.has_adapter(&view.model) {
            meaning.adapter = Some(view.model.clone().into_owned());
        }
        if let Some(need) = needs.prefix {
            meaning.prefix_key = prefix_key(need, &view, &prompt, meaning.adapter.as_deref());
        }
        if logged {
            let key = prefix_key(LOGGED_KEY, &view, &prompt, None);
            let model = &view.model[..view.model.floor_char_boundary(MOST_MODEL_BYTES)];
            meaning.described = Some((model.to_owned(), key));
        }
        if needs.blocks || logged {
            protocol::block_hashes(view.model.as_bytes(), &prompt, &mut meaning.blocks);
        }
        scratch.keep_prompt(prompt);
        meaning
    }

    pub(crate) fn query<'q>(&'q self, tried: &'q [u64]) -> Query<'q> {
        Query {
            adapter: self.adapter.as_deref(),
            prefix_key: self.prefix_key,
            session_key: self.session_key,
            blocks: &self.blocks,
            block_tokens: BLOCK_TOKENS as u32,
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            tried,
        }
    }
}

// === impl Understood ===

impl<'w> Understood<'w> {
    pub(super) fn of(worker: &'w Worker, head: &RequestHead, body: &Bytes) -> Self {
        let endpoint = match head.method {
            Method::POST => Endpoint::from_path(head.path()),
            _ => Endpoint::Other,
        };
        let scratch = &mut worker.scratch.borrow_mut();
        let session = |name: &str| head.fields.get(name).map(session_key);
        let meaning = Meaning::read(&worker.shared, scratch, endpoint, session, body);
        if let Some(error) = &meaning.unread {
            tracing::debug!(error, "body not understood");
            worker.shared.metrics.unread_bodies.add(1);
        }
        Self { worker, meaning }
    }

    pub(super) fn prompt_tokens(&self) -> u32 {
        self.meaning.prompt_tokens
    }

    /// What the decision log keeps of the request, where there is one and the request is about a prompt.
    pub(super) fn decision(&self) -> Option<Decision<'static>> {
        let log = self.worker.shared.decision_log.as_ref()?;
        let meaning = &self.meaning;
        let (model, prefix_key) = meaning.described.clone()?;
        Some(Decision {
            input_length: meaning.prompt_tokens,
            max_tokens: meaning.output_tokens,
            prefix_key: prefix_key.map(|key| log.keyed(key)),
            session_key: meaning.session_key.map(|key| log.keyed(key)),
            model: model.into(),
            policy: self.worker.shared.fleet.router.policy().name().label().into(),
            ..log.begin(&meaning.blocks)
        })
    }

    pub(super) fn query<'q>(&'q self, tried: &'q [u64]) -> Query<'q> {
        self.meaning.query(tried)
    }
}

impl Drop for Understood<'_> {
    fn drop(&mut self) {
        self.worker.scratch.borrow_mut().keep_blocks(mem::take(&mut self.meaning.blocks));
    }
}

/// The adapter that a body names of which nothing else is understood.
fn named_adapter(shared: &Shared, body: &[u8]) -> Option<String> {
    if !shared.fleet.has_adapters() || !body.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let model = RequestView::parse(Endpoint::Other, body).ok()?.model;
    shared.fleet.has_adapter(&model).then(|| model.into_owned())
}

/// Prompt tokens of a body that cannot be read, or need not be.
fn guess_tokens(body: &[u8]) -> u32 {
    match body.trim_ascii_start().first() {
        None => 0,
        Some(b'{' | b'[') => estimate_tokens(body.len()).min(MOST_GUESSED_TOKENS),
        Some(_) => FOREIGN_TOKENS,
    }
}

/// Engines never share a cache between models, so neither do keys; KubeAI knows only adapters.
fn prefix_key(need: PrefixNeed, view: &RequestView<'_>, prompt: &[u8], adapter: Option<&str>) -> Option<u64> {
    let owner = if need.exact_kubeai { adapter } else { Some(&*view.model) };
    match need.source {
        PrefixKey::FirstUserMessage => {
            need.key(owner, view.first_user_text().as_deref().unwrap_or_default().as_bytes())
        }
        PrefixKey::WholePrompt => need.key(owner, prompt),
    }
}

/// Room that a scratch buffer may keep between requests.
const MOST_SCRATCH_BYTES: usize = 1 << 20;

// === impl Scratch ===

impl Scratch {
    fn keep_prompt(&mut self, prompt: Vec<u8>) {
        if prompt.capacity() <= MOST_SCRATCH_BYTES {
            self.prompt = prompt;
        }
    }

    fn keep_blocks(&mut self, blocks: Vec<u64>) {
        if blocks.capacity() * size_of::<u64>() <= MOST_SCRATCH_BYTES {
            self.blocks = blocks;
        }
    }
}
