//! Which OpenAI-compatible operation a path names.

/// The operation of a request, by its path.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Endpoint {
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`, Anthropic's shape
    Messages,
    /// `/v1/embeddings`
    Embeddings,
    /// Any other path.
    Other,
}

impl Endpoint {
    /// Reads the operation off a path, without its query. A prefix before `/v1` is allowed.
    pub fn from_path(path: &str) -> Self {
        let operation = match path.strip_prefix("/v1/") {
            Some(operation) if !operation.contains("/v1/") => operation,
            _ => path.rsplit_once("/v1/").map_or("", |(_, operation)| operation),
        };
        match operation {
            "chat/completions" => Self::ChatCompletions,
            "completions" => Self::Completions,
            "responses" => Self::Responses,
            "messages" => Self::Messages,
            "embeddings" => Self::Embeddings,
            _ => Self::Other,
        }
    }

    /// The path of the operation; `/` for [`Endpoint::Other`].
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Embeddings => "/v1/embeddings",
            Self::Other => "/",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_both_ways() {
        for endpoint in [
            Endpoint::ChatCompletions,
            Endpoint::Completions,
            Endpoint::Responses,
            Endpoint::Messages,
            Endpoint::Embeddings,
        ] {
            assert_eq!(Endpoint::from_path(endpoint.path()), endpoint);
        }
        assert_eq!(Endpoint::from_path("/openai/v1/completions"), Endpoint::Completions);
        assert_eq!(Endpoint::from_path("/health"), Endpoint::Other);
    }
}
