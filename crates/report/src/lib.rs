//! What was measured, and what may be said about it.
//!
//! A load generator or the simulator writes one [`Record`] a request; everything else here is derived from
//! records: statistics, the verdict, tables, exports, charts. No I/O but the files of records and of exporters, no clock.

pub mod aiperf;
mod calibration;
mod chart;
mod civil;
mod client;
mod comparison;
mod convergence;
mod distribution;
mod engines;
mod figures;
mod flags;
mod format;
mod html;
mod imbalance;
pub mod inference_perf;
mod lines;
mod metric;
mod ordered;
mod pages;
mod published;
mod record;
mod recorder;
mod records;
#[cfg(test)]
mod sample;
mod search;
mod series;
mod speed_up;
mod summary;
pub mod sweep;
mod threshold;
mod verdict;
mod vllm_bench;
mod warning;

pub use calibration::{
    Finding, Ladder, MEDIAN_LIMIT_MS, Nominal, P99_LIMIT_MS, Point, RATE_SHARE, calibration_text,
};
pub use chart::{BarChart, CurveChart, HeatChart, LineChart, MAX_POINTS, MAX_ROWS, MAX_SERIES, curve_file};
pub use civil::{compact_time, iso_time};
pub use client::{client_json, client_lines};
pub use comparison::{Compared, comparison_table};
pub use convergence::{Agreement, interval_width, same_distribution, students_t, variation};
pub use distribution::{Distribution, EXACT_SAMPLES, LARGEST, Spread, nanoseconds};
pub use engines::{
    COLUMNS, EngineFigures, EnginePages, EngineSeries, FamilyFigures, Fetches, Figures, Gauge, Growth,
    Observed, READINGS, Rates, engine_table,
};
pub use figures::PolicyFigures;
pub use flags::Flags;
pub use html::{Page, TextTable};
pub use imbalance::Imbalance;
pub use metric::{Distributions, MILLISECOND, Metric, SECOND, Unit};
pub use ordered::Object;
pub use pages::{PolicyRun, ReplicaLoads, comparison_page, run_page};
pub use published::{PUBLISHED_SOURCE, Published, published, published_figures};
pub use record::{Chunk, Count, CountSource, Outcome, Record};
pub use recorder::{MODELS, OTHER_MODELS, PhaseShape, Progress, Recorder, Report, RunShape, TARGET_METRICS};
pub use records::{RecordReader, RecordWriter, RecordsError};
pub use search::{
    Bracket, Comparison, Degradation, Probe, Search, SearchEnd, SearchPlan, Sla, SlaError, logarithmic_steps,
};
pub use series::{Bucket, FIRST_WIDTH, TimeSeries};
pub use summary::{ERROR_KINDS, ErrorKey, ErrorTable, Objective, Span, Summary, source_shares};
pub use threshold::{Breach, Threshold, ThresholdError};
pub use verdict::{Assessment, ClientHealth, Stalls, Verdict, judge};
pub use vllm_bench::{BenchDetails, BenchFormat, BenchRun, BenchSeconds, bench_metric};
pub use warning::{Blame, Severity, Warning};
