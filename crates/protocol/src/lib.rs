//! The shapes that cross the wire, shared by every face of evenload.
//!
//! What an OpenAI-compatible server and its clients say to each other: requests (read without copying),
//! responses, server-sent events, the Prometheus text format and the engines' metric names, and the token
//! rule by which the balancer, the load generators and the simulated engine agree on lengths and prefixes.
//!
//! Pure: no I/O, no clock. Nothing here panics on bad input.

mod answer;
mod block;
mod decision;
mod endpoint;
pub mod engine_metrics;
mod error;
mod families;
mod header;
mod json;
pub mod kv_events;
pub mod prometheus;
mod prompt;
mod request;
mod sse;
mod stream;
mod usage;
pub mod zmtp;

pub use answer::{Answer, AnswerError, parse_answer};
pub use block::{BLOCK_BYTES, BLOCK_TOKENS, BYTES_PER_TOKEN, BlockChain, block_hashes, estimate_tokens};
pub use decision::{COMPLETE, Decision};
pub use endpoint::Endpoint;
pub use engine_metrics::EngineMetrics;
pub use error::{ErrorBody, error_message};
pub use families::{Family, FamilyKind, Reading, Series, families};
pub use header::header_problem;
pub use request::{RequestError, RequestView};
pub use sse::{SseEvent, SseSplitter};
pub use stream::{StreamError, StreamEvent, parse_event};
pub use usage::Usage;
