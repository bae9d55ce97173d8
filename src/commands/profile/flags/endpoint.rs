//! Flags: which servers, which API, how they are reached.

use std::time::Duration;

use clap::{Args, ValueEnum};
use loadgen::Reuse;
use protocol::Endpoint;
use workload::ModelChoice;

use super::values::{fraction_seconds, positive_seconds};

/// Flags of the endpoint.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Endpoint")]
pub(crate) struct EndpointFlags {
    /// Models or adapters to ask for.
    #[arg(long, visible_alias = "model", short, value_name = "NAME", num_args = 1.., value_delimiter = ',', required = true)]
    pub(crate) model_names: Vec<String>,
    /// How several models share the sessions: round-robin or random.
    #[arg(long, value_enum, value_name = "RULE", default_value = "round-robin", hide_possible_values = true)]
    pub(crate) model_selection_strategy: ModelSelection,
    /// Path of the requests instead of the type's; empty: the URL as it was given.
    #[arg(long, visible_alias = "endpoint", value_name = "PATH")]
    pub(crate) custom_endpoint: Option<String>,
    /// API: chat, completions, responses, messages, embeddings, or raw for files of finished bodies.
    #[arg(long, value_enum, value_name = "TYPE", default_value = "chat", hide_possible_values = true)]
    pub(crate) endpoint_type: EndpointType,
    /// Ask for server-sent events: first-token and inter-token times are measured only with them.
    #[arg(long)]
    pub(crate) streaming: bool,
    /// Base URLs of servers or balancers; the scheme may be left out. Several share the load.
    #[arg(long, short, value_name = "URL", num_args = 1.., value_delimiter = ',', default_value = "http://localhost:8000")]
    pub(crate) url: Vec<String>,
    /// How URLs share the sessions: round_robin, or another policy of the balancer by its name.
    #[arg(long, value_name = "POLICY", default_value = "round_robin")]
    pub(crate) url_strategy: routing::PolicyName,
    /// Time limit of a request, from connecting to its last byte.
    #[arg(long, value_name = "SECONDS", default_value = "21600", value_parser = positive_seconds)]
    pub(crate) request_timeout_seconds: Duration,
    /// Wait so long for the servers to be ready; 0: not at all.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = fraction_seconds)]
    pub(crate) wait_for_model_timeout: Duration,
    /// What shows that a server is ready: models (GET /v1/models), inference (an answer of one token), or both.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "inference", hide_possible_values = true)]
    pub(crate) wait_for_model_mode: WaitMode,
    /// Time between two attempts.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = positive_seconds)]
    pub(crate) wait_for_model_interval: Duration,
    /// Empty the prefix cache of every server before the run, by a POST.
    #[arg(long)]
    pub(crate) reset_kv_cache: bool,
    /// Time limit of that POST.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = positive_seconds)]
    pub(crate) reset_kv_cache_timeout_seconds: Duration,
    /// Path of that POST.
    #[arg(long, value_name = "PATH", default_value = "/reset_prefix_cache")]
    pub(crate) reset_kv_cache_path: String,
    /// Start the servers' own profiler before the measured phase, which waits for it, and stop it after it, by a POST.
    #[arg(long)]
    pub(crate) server_profiler: bool,
    /// Time limit of these POSTs.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = positive_seconds)]
    pub(crate) server_profiler_timeout_seconds: Duration,
    /// Path of the POST that starts it.
    #[arg(long, value_name = "PATH", default_value = "/start_profile")]
    pub(crate) server_profiler_start_path: String,
    /// Path of the POST that stops it.
    #[arg(long, value_name = "PATH", default_value = "/stop_profile")]
    pub(crate) server_profiler_stop_path: String,
    /// Sent as a bearer token.
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// http is the only one.
    #[arg(id = "transport", long = "transport", visible_alias = "transport-type", value_name = "NAME", default_value = "http", value_parser = ["http"], hide_possible_values = true)]
    _transport: String,
    /// Limit the output of chats by max_tokens instead of max_completion_tokens.
    #[arg(long)]
    pub(crate) use_legacy_max_tokens: bool,
    /// Count tokens by the servers' usage only. Usage comes first anyway; with this flag --tokenizer counts nothing.
    #[arg(long)]
    pub(crate) use_server_token_count: bool,
    /// Ask for token counts with every event, for exact inter-token times where an event holds several tokens.
    #[arg(long)]
    pub(crate) per_chunk_usage: bool,
    /// What becomes of a connection after an answer: pooled, never (closed), or sticky-user-sessions (one a session).
    #[arg(long, value_enum, value_name = "STRATEGY", default_value = "pooled", hide_possible_values = true)]
    pub(crate) connection_reuse_strategy: ReuseStrategy,
    /// Header that carries the session's name, beside X-Session-Affinity.
    #[arg(long, value_name = "NAME", default_value = "X-Correlation-ID")]
    pub(crate) session_header: String,
    /// application-json is the only one.
    #[arg(id = "request_content_type", long = "request-content-type", value_name = "TYPE", default_value = "application-json", value_parser = ["application-json", "application_json"], hide_possible_values = true)]
    _request_content_type: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ModelSelection {
    #[value(alias = "round_robin")]
    RoundRobin,
    Random,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum EndpointType {
    Chat,
    Completions,
    Responses,
    Messages,
    Embeddings,
    Raw,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum WaitMode {
    Models,
    Inference,
    Both,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ReuseStrategy {
    Pooled,
    Never,
    #[value(alias = "sticky_user_sessions")]
    StickyUserSessions,
}

impl EndpointFlags {
    /// Whether answers come as events.
    pub(crate) fn streams(&self) -> bool {
        self.streaming && self.endpoint_type != EndpointType::Embeddings
    }
}

impl EndpointType {
    pub(crate) fn operation(self) -> Endpoint {
        match self {
            Self::Chat | Self::Raw => Endpoint::ChatCompletions,
            Self::Completions => Endpoint::Completions,
            Self::Responses => Endpoint::Responses,
            Self::Messages => Endpoint::Messages,
            Self::Embeddings => Endpoint::Embeddings,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Embeddings => "embeddings",
            Self::Raw => "raw",
        }
    }
}

impl From<ModelSelection> for ModelChoice {
    fn from(selection: ModelSelection) -> Self {
        match selection {
            ModelSelection::RoundRobin => Self::RoundRobin,
            ModelSelection::Random => Self::Random,
        }
    }
}

impl From<ReuseStrategy> for Reuse {
    fn from(strategy: ReuseStrategy) -> Self {
        match strategy {
            ReuseStrategy::Pooled => Self::Pooled,
            ReuseStrategy::Never => Self::Never,
            ReuseStrategy::StickyUserSessions => Self::StickySessions,
        }
    }
}
