//! What was measured, and what may be said about it.
//!
//! A load generator or the simulator writes one [`Record`] a request; everything else here is derived from
//! records: statistics, the verdict, tables, exports, charts. No I/O but the exporters' files, no clock.

mod distribution;
mod metric;
mod record;

pub use distribution::{Distribution, EXACT_SAMPLES, LARGEST, Spread};
pub use metric::{Distributions, MILLISECOND, Metric, SECOND, Unit};
pub use record::{Chunk, Count, CountSource, Outcome, Record};
