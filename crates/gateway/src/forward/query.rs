//! What a request means to routing, read off its body once, whatever the number of attempts.
//!
//! A body that cannot be understood is no error here: the request goes where the load is least, and the engine
//! says what is wrong with it.

use std::mem;

use bytes::Bytes;
use http::Method;
use protocol::{BLOCK_TOKENS, Endpoint, RequestView, estimate_tokens};
use routing::{PrefixKey, PrefixNeed, Query, session_key};

use crate::{
    http1::request::RequestHead,
    worker::{Scratch, Worker},
};

/// A request as routing sees it.
#[derive(Debug)]
pub(super) struct Understood<'w> {
    worker: &'w Worker,
    adapter: Option<String>,
    prefix_key: Option<u64>,
    session_key: Option<u64>,
    blocks: Vec<u64>,
    pub(super) prompt_tokens: u32,
    output_tokens: Option<u32>,
}

// === impl Understood ===

impl<'w> Understood<'w> {
    pub(super) fn of(worker: &'w Worker, head: &RequestHead, body: &Bytes) -> Self {
        let policy = worker.shared.fleet.router.policy();
        let needs = policy.needs();
        let session = needs.session_headers.iter().find_map(|name| head.fields.get(name));
        let mut understood = Self {
            worker,
            adapter: None,
            prefix_key: None,
            session_key: session.map(session_key),
            blocks: mem::take(&mut worker.scratch.borrow_mut().blocks),
            prompt_tokens: estimate_tokens(body.len()),
            output_tokens: None,
        };
        understood.blocks.clear();
        let endpoint = Endpoint::from_path(head.path());
        if head.method != Method::POST || endpoint == Endpoint::Other {
            return understood;
        }
        let view = match RequestView::parse(endpoint, body) {
            Ok(view) => view,
            Err(error) => {
                tracing::debug!(%error, "body not understood");
                worker.shared.metrics.unread_bodies.add(1);
                return understood;
            }
        };
        let mut prompt = mem::take(&mut worker.scratch.borrow_mut().prompt);
        prompt.clear();
        view.render_prompt(&mut prompt);
        understood.prompt_tokens = estimate_tokens(prompt.len());
        understood.output_tokens = view.max_tokens;
        if worker.shared.fleet.has_adapter(&view.model) {
            understood.adapter = Some(view.model.clone().into_owned());
        }
        if let Some(need) = needs.prefix {
            understood.prefix_key = prefix_key(need, &view, &prompt, understood.adapter.as_deref());
        }
        if needs.blocks {
            protocol::block_hashes(view.model.as_bytes(), &prompt, &mut understood.blocks);
        }
        worker.scratch.borrow_mut().keep_prompt(prompt);
        understood
    }

    pub(super) fn query<'q>(&'q self, tried: &'q [u64]) -> Query<'q> {
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

impl Drop for Understood<'_> {
    fn drop(&mut self) {
        self.worker.scratch.borrow_mut().keep_blocks(mem::take(&mut self.blocks));
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
