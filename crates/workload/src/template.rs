//! What all requests of a run have in common.

use std::sync::Arc;

use protocol::Endpoint;

use crate::{Prompt, Request};

/// The parts of a request that no dataset states.
#[derive(Clone, Debug)]
pub struct RequestTemplate {
    /// The operation.
    pub endpoint: Endpoint,
    /// Base model or adapter.
    pub model: Arc<str>,
    /// Ask for server-sent events.
    pub stream: bool,
}

impl RequestTemplate {
    /// Streamed requests.
    pub fn new(endpoint: Endpoint, model: impl Into<Arc<str>>) -> Self {
        Self { endpoint, model: model.into(), stream: true }
    }

    /// A request for `prompt` that states no lengths.
    pub fn request(&self, prompt: Prompt) -> Request {
        Request { stream: self.stream, ..Request::new(self.endpoint, self.model.clone(), prompt) }
    }
}
