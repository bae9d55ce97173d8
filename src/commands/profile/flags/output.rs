//! Flags: what is written and shown.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use report::{Threshold, aiperf::Slo};

use super::values::{milliseconds, positive_seconds, slos};

/// Flags of the output.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputFlags {
    /// Directory of the files [default: artifacts/ and a name made of model, type and load].
    #[arg(long, visible_alias = "artifact-dir", value_name = "DIR")]
    pub(crate) output_artifact_dir: Option<PathBuf>,
    /// Beginning of the names of the files [default: AIPerf's names].
    #[arg(long, visible_alias = "profile-export-file", value_name = "NAME")]
    pub(crate) profile_export_prefix: Option<String>,
    /// summary: figures only; records: a line a request too; raw: bodies and answers too.
    #[arg(
        long,
        visible_alias = "profile-export-level",
        value_enum,
        value_name = "LEVEL",
        default_value = "records",
        hide_possible_values = true
    )]
    pub(crate) export_level: ExportLevel,
    /// Figures of each slice of time of this length, in files of their own.
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    pub(crate) slice_duration: Option<Duration>,
    /// Limits that a good request keeps, in the unit in which the metric is printed.
    #[arg(long, value_name = "METRIC:VALUE ...", num_args = 1.., value_parser = slos)]
    pub(crate) goodput: Vec<SloList>,
    /// Write the texts of the answers to outputs.json.
    #[arg(long)]
    pub(crate) export_outputs_json: bool,
    /// Write socket timings of each request.
    #[arg(long)]
    pub(crate) export_http_trace: bool,
    /// Print a table of socket timings.
    #[arg(long)]
    pub(crate) show_trace_timing: bool,
    /// Counts tokens where a server does not: a tokenizer.json, a tiktoken file, a folder with one, or builtin (four
    /// bytes a token). A name that is no file is taken for builtin, and said.
    #[arg(long, value_name = "PATH")]
    pub(crate) tokenizer: Option<String>,
    /// Lines on standard error: trace, debug, info, notice, warning, success, error, critical.
    #[arg(
        long,
        value_enum,
        value_name = "LEVEL",
        default_value = "info",
        ignore_case = true,
        hide_possible_values = true
    )]
    pub(crate) log_level: LogLevel,
    /// As --log-level debug; twice, trace.
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// As --log-level trace.
    #[arg(long)]
    pub(crate) extra_verbose: bool,
    /// Progress: simple (a bar on a terminal, lines elsewhere) or none; dashboard is shown as simple.
    #[arg(
        long,
        visible_alias = "ui",
        value_enum,
        value_name = "KIND",
        default_value = "simple",
        hide_possible_values = true
    )]
    pub(crate) ui_type: Ui,
    /// Time between two lines of progress where there is no terminal.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = positive_seconds)]
    pub(crate) stats_interval: Duration,
    /// Threads that send and receive.
    #[arg(long, visible_alias = "max-workers", value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) workers_max: u16,

    /// Read further metrics pages besides those of the URLs.
    #[arg(long, value_name = "URL", num_args = 0.., value_delimiter = ',')]
    pub(crate) server_metrics: Vec<String>,
    /// Read no metrics pages.
    #[arg(long, conflicts_with = "server_metrics")]
    pub(crate) no_server_metrics: bool,
    /// Files of server metrics: json, csv, jsonl.
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 1.., value_delimiter = ',', default_values = ["json", "csv"], hide_possible_values = true)]
    pub(crate) server_metrics_formats: Vec<MetricsFormat>,
    /// Measure the round trip to the servers during the run, and give latencies without it too.
    #[arg(long, conflicts_with = "network_latency_mean")]
    pub(crate) network_latency_automatic: bool,
    /// Take this round trip, and give latencies without it too.
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub(crate) network_latency_mean: Option<Duration>,
    /// Time between two measurements of the round trip.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = positive_seconds, requires = "network_latency_automatic")]
    pub(crate) network_latency_ping_interval: Duration,
    /// GPU telemetry is never read; accepted, because scripts say so.
    #[arg(id = "no_gpu_telemetry", long = "no-gpu-telemetry")]
    _no_gpu_telemetry: bool,
}

/// What AIPerf does not have.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options that AIPerf does not have")]
pub(crate) struct OwnFlags {
    /// Fail with status 3 if a figure is beyond a limit, such as 'p99 ttft > 500ms' or 'error_rate > 1%'.
    #[arg(long, value_name = "LIMIT", num_args = 1)]
    pub(crate) fail_if: Vec<Threshold>,
    /// Fail with status 4 where the verdict is SUSPECT, and 5 where it is INVALID.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Spin for the last 100 microseconds before a send: sends are on time to a microsecond, for a part of a core.
    #[arg(long)]
    pub(crate) precise_pacing: bool,
    /// Ask the kernel when bytes arrived, to know how late this side read them.
    #[arg(long)]
    pub(crate) kernel_timestamps: bool,
    /// Write no report.html.
    #[arg(long)]
    pub(crate) no_report: bool,
}

/// The objectives of one `--goodput` value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SloList(pub(crate) Vec<Slo>);

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum ExportLevel {
    Summary,
    Records,
    Raw,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum MetricsFormat {
    Json,
    Csv,
    Jsonl,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Ui {
    #[value(alias = "dashboard")]
    Simple,
    None,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum LogLevel {
    Trace,
    Debug,
    #[value(aliases = ["notice", "success"])]
    Info,
    #[value(alias = "warn")]
    Warning,
    #[value(alias = "critical")]
    Error,
}

impl OutputFlags {
    /// All objectives.
    pub(crate) fn slos(&self) -> Vec<Slo> {
        self.goodput.iter().flat_map(|list| list.0.iter().copied()).collect()
    }

    /// The least important lines that are shown.
    pub(crate) fn level(&self) -> tracing::Level {
        match (self.log_level, self.verbose) {
            _ if self.extra_verbose => tracing::Level::TRACE,
            (_, 2..) | (LogLevel::Trace, _) => tracing::Level::TRACE,
            (_, 1) | (LogLevel::Debug, _) => tracing::Level::DEBUG,
            (LogLevel::Info, _) => tracing::Level::INFO,
            (LogLevel::Warning, _) => tracing::Level::WARN,
            (LogLevel::Error, _) => tracing::Level::ERROR,
        }
    }
}
