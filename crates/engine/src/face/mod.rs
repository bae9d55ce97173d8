//! The HTTP face: engines that speak like vLLM's OpenAI-compatible server.
//!
//! Each replica is one [`Scheduler`](crate::Scheduler) with a port of its own. It lives on one thread, with its
//! connections, so nothing is locked; [`Config::threads`] threads share the replicas. A step begins when the one
//! before is over, on a timer that is exact to about 100 us, and its tokens go out when it ends. On a machine
//! that cannot follow, steps end late, the next ones catch up, no token is left out, and `/sim/state` says how
//! late they were.
//!
//! Times in answers and metrics are real time: with a speed-up of 5 the engine is one of five times the speed.
//!
//! What the model says are three-letter words chosen by a hash of the prompt, so equal prompts get equal
//! answers. A token is four bytes (see [`protocol::block_hashes`]). The answer's own blocks are in the cache
//! under the text of prompt and answer, as an engine's would be, so a next turn finds them.
//!
//! Where [`Config::kv_events`] asks for it, each replica publishes what happens to its cache, on two ZeroMQ sockets
//! of its own.

mod active;
mod adapters;
mod answer;
mod config;
mod connection;
mod embeddings;
mod failure;
mod fault;
mod feed;
mod fixed;
mod generate;
mod histogram;
mod members;
mod messages;
mod metrics;
mod pages;
mod parameters;
mod publisher;
mod replica;
mod reply;
mod server;
mod state;
mod timer;
mod tokens;

pub use adapters::Adapter;
pub use config::{Config, InvalidConfig, KvEvents};
pub use fixed::FixedTimes;
pub use server::{Fleet, ServeError, serve};
