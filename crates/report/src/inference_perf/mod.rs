//! inference-perf's report files, in the shapes of its version 0.7.0.
//!
//! Names, key paths and units (seconds) are inference-perf's; nothing is renamed, and every distribution has the same
//! keys. What is added stands under `evenload`. Definitions that differ, because theirs mislead:
//! - a request starts when this side begins to send it, opening a connection included, and ends with the last byte;
//!   neither counting tokens nor waiting between the turns of a session is part of any latency;
//! - `achieved_rate` is the number of gaps between sends by their time, not the number of sends;
//! - a value that a request does not have is left out, never counted as 0: the time per output token of an answer
//!   without tokens, for instance. An answer of one token has a time to first token;
//! - an error inside a stream of status 200 is a failure;
//! - in `adapter_*_stage_*` files `requested_rate` is the adapter's share of the stage's rate;
//! - failures have the adapter that was asked for.
//!
//! Requests that fell due and were not sent are counted under `evenload.not_sent` and are in no other figure.

mod analysis;
mod books;
mod collector;
mod entry;
mod failures;
mod figures;
mod goodput;
#[cfg(test)]
mod key_tests;
mod lifecycle;
mod merge;
mod partial;
mod prometheus;
mod run;
mod scrape;
mod sessions;
mod stage;
mod table;
#[cfg(test)]
mod tests;
mod validation;

pub use analysis::{Analysed, analysis_page, six_charts};
pub use books::{AdapterBooks, Books};
pub use collector::Collector;
pub use entry::{EntryBodies, EntryFields, entry, shift_entry};
pub use figures::distribution;
pub use lifecycle::{Kind, lifecycle};
pub use merge::{Manifest, MergeError, Shares};
pub use prometheus::{MetricFamily, Place, Query, prometheus_report, queries};
pub use run::Run;
pub use scrape::scraped_report;
pub use sessions::SessionCollector;
pub use stage::{StageResult, StageStatus};
pub use validation::{Finding, validation};

use std::collections::BTreeMap;

/// What decides over the figures of a run.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Answers come as events: only then are there times between tokens.
    pub streaming: bool,
    /// Percentiles of all distributions.
    pub percentiles: Vec<f64>,
    /// Limits of good requests in seconds, by inference-perf's names.
    pub constraints: BTreeMap<String, f64>,
    /// Limits that headers state for the times to first token and per output token, in seconds.
    pub header_limits: [Option<f64>; 2],
    /// Different messages kept for each kind of failure.
    pub error_messages: usize,
    /// Requests are turns of sessions.
    pub has_sessions: bool,
}
