//! inference-perf's configuration file, and the workloads that it describes.
//!
//! [`Config`] is the file; [`Workload`] is what it sends, by stages. Times, texts, lengths, adapters and order are a
//! function of the seed and of a request's place in the run alone: neither the number of threads nor that of the
//! machines that share a run changes any of them. Nothing is fetched from a hub.

mod breaker;
mod config;
mod files;
mod lengths;
mod plan;
mod prompts;
mod recorded;
mod shard;
mod source;
mod stage;
mod sweep;
mod talks;
#[cfg(test)]
mod tests;
mod times;
mod trace;
mod weka;

pub use breaker::Breaker;
pub use config::*;
pub use plan::{Law, StagePlan};
pub use shard::{Shard, ShardError};
pub use stage::{StageLoad, Workload};
pub use sweep::sweep_stages;
