//! AIPerf's console table and files, in the shapes of its version 0.13 (schema 1.4).
//!
//! Keys, units, statistics and definitions are AIPerf's; nothing is renamed. In particular *inter token latency* is
//! one value a request, (request latency - TTFT) / (output tokens - tokens of the first chunk), and *inter chunk
//! latency* are the gaps; times start at the first byte written; percentiles interpolate linearly. Differences:
//! - a credit is issued when this tool grants a slot; `effective_latency` has answered requests only;
//! - token counts are the server's where it reports them; what a tokenizer here counts stands beside them in the
//!   `usage_*_diff_pct` figures;
//! - slices lie on the run's clock, not on the first request.
//!
//! What this tool adds stands under keys of its own: `by_url`, `evenload`, and `url`, `url_index`, `model` and
//! `scheduled_ns` in the metadata of each record.

mod bodies;
mod collector;
mod console;
mod csv;
mod goodput;
mod json;
mod lines;
mod results;
mod server_metrics;
mod slices;
mod sweep;
mod tag;
#[cfg(test)]
mod tests;

pub use bodies::Wire;
pub use collector::Collector;
pub use console::{engines_table, error_table, metrics_table, plain_table, targets_table, trace_table};
pub use csv::{slices_csv, summary_csv};
pub use goodput::{GoodputError, Slo};
pub use json::{Run, RunKind, slices_json, summary_json};
pub use lines::{ProfileWriter, RecordShape, conversation_name};
pub use results::{MetricResult, Statistics};
pub use server_metrics::ServerMetrics;
pub use slices::Slices;
pub use tag::Tag;
