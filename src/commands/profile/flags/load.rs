//! Flags: when requests are sent, how many, and when the run ends.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::values::{
    fraction_seconds, grace, percent, positive_count, positive_rate, positive_seconds, share,
};

/// Flags of the load.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadFlags {
    /// Sessions in flight; with a rate, at most so many [default: 1 where no rate is given].
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: Vec<u32>,
    /// Requests that wait for their first token, at most.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..), requires = "streaming")]
    pub(crate) prefill_concurrency: Vec<u32>,
    /// Sessions that start a second, on average.
    #[arg(long, value_name = "RATE", value_delimiter = ',', value_parser = positive_rate)]
    pub(crate) request_rate: Vec<f64>,
    /// Law of the gaps between arrivals: constant, poisson, gamma, or concurrency-burst (as --concurrency lets).
    #[arg(
        long,
        visible_alias = "request-rate-mode",
        value_enum,
        value_name = "LAW",
        hide_possible_values = true
    )]
    pub(crate) arrival_pattern: Option<ArrivalPattern>,
    /// Shape of the gamma law: 1 is Poisson, below comes in bursts, above is smoother.
    #[arg(long, visible_alias = "vllm-burstiness", value_name = "SHAPE", value_parser = positive_rate)]
    pub(crate) arrival_smoothness: Option<f64>,
    /// Requests to send [default: 10 or twice the concurrency, or as many as a file has].
    #[arg(long, visible_alias = "num-requests", value_name = "NUMBER", value_delimiter = ',', value_parser = positive_count)]
    pub(crate) request_count: Vec<u64>,
    /// Sessions to start.
    #[arg(long, visible_aliases = ["num-conversations", "num-sessions"], value_name = "NUMBER", value_delimiter = ',', value_parser = positive_count)]
    pub(crate) conversation_num: Vec<u64>,
    /// Nothing starts after so long.
    #[arg(long, value_name = "SECONDS", value_delimiter = ',', value_parser = positive_seconds)]
    pub(crate) benchmark_duration: Vec<Duration>,
    /// After --benchmark-duration, answers are waited for so long; inf: for ever [default: 30].
    #[arg(long, value_name = "SECONDS", value_parser = grace, requires = "benchmark_duration")]
    pub(crate) benchmark_grace_period: Option<Grace>,
    /// The concurrency grows from 1 over this time.
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds, requires = "concurrency")]
    pub(crate) concurrency_ramp_duration: Option<Duration>,
    /// The prefill concurrency grows from 1 over this time.
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds, requires = "prefill_concurrency")]
    pub(crate) prefill_concurrency_ramp_duration: Option<Duration>,
    /// The rate grows from nearly nothing over this time.
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds, requires = "request_rate")]
    pub(crate) request_rate_ramp_duration: Option<Duration>,
    /// JSON file of a rate over time: a list of {"time_s": SECONDS, "qps": RATE}, straight lines between them.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["request_rate", "user_centric_rate"])]
    pub(crate) request_rate_series: Option<PathBuf>,
    /// End the run when this share of the requests has failed, once there are 10 or as many as the concurrency.
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) failed_request_threshold: Option<f64>,

    /// Replay a file by its times [default: traces that have them].
    #[arg(long, conflicts_with = "no_fixed_schedule")]
    pub(crate) fixed_schedule: bool,
    /// Do not replay a trace by its times.
    #[arg(long)]
    pub(crate) no_fixed_schedule: bool,
    /// The first entry of the trace starts at once.
    #[arg(long, conflicts_with = "fixed_schedule_start_offset")]
    pub(crate) fixed_schedule_auto_offset: bool,
    /// Entries of the trace before this time are left out, and it becomes time 0.
    #[arg(long, value_name = "MS")]
    pub(crate) fixed_schedule_start_offset: Option<u64>,
    /// Entries of the trace after this time are left out.
    #[arg(long, value_name = "MS")]
    pub(crate) fixed_schedule_end_offset: Option<u64>,

    /// Requests a second of --num-users users, each of whom holds one conversation after the other, evenly spread.
    #[arg(long, value_name = "RATE", value_parser = positive_rate, requires = "num_users", conflicts_with_all = ["request_rate", "concurrency"])]
    pub(crate) user_centric_rate: Option<f64>,
    /// Users of --user-centric-rate.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..), requires = "user_centric_rate")]
    pub(crate) num_users: Vec<u32>,
    /// Share of the requests that the client gives up.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub(crate) request_cancellation_rate: Option<f64>,
    /// It gives up so long after it sent the last byte.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = fraction_seconds, requires = "request_cancellation_rate")]
    pub(crate) request_cancellation_delay: Duration,

    #[command(flatten)]
    pub(crate) warm_up: WarmUpFlags,
}

/// A phase before the measured one, left out of the results. It exists with one of the first three flags.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Warm-up")]
pub(crate) struct WarmUpFlags {
    /// Requests of the warm-up; 0: no warm-up.
    #[arg(long, visible_alias = "num-warmup-requests", value_name = "NUMBER")]
    pub(crate) warmup_request_count: Option<u64>,
    /// Length of the warm-up.
    #[arg(long, value_name = "SECONDS", value_parser = positive_seconds)]
    pub(crate) warmup_duration: Option<Duration>,
    /// Sessions of the warm-up.
    #[arg(long, value_name = "NUMBER", value_parser = positive_count)]
    pub(crate) num_warmup_sessions: Option<u64>,
    /// [default: --concurrency]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) warmup_concurrency: Option<u32>,
    /// [default: --prefill-concurrency]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) warmup_prefill_concurrency: Option<u32>,
    /// [default: --request-rate]
    #[arg(long, value_name = "RATE", value_parser = positive_rate)]
    pub(crate) warmup_request_rate: Option<f64>,
    /// [default: --arrival-pattern]
    #[arg(long, value_enum, value_name = "LAW", hide_possible_values = true)]
    pub(crate) warmup_arrival_pattern: Option<ArrivalPattern>,
    /// After --warmup-duration, its answers are waited for so long; inf: for ever.
    #[arg(long, value_name = "SECONDS", default_value = "inf", value_parser = grace)]
    pub(crate) warmup_grace_period: Grace,
    /// 0: none [default: --concurrency-ramp-duration]
    #[arg(long, value_name = "SECONDS", value_parser = fraction_seconds)]
    pub(crate) warmup_concurrency_ramp_duration: Option<Duration>,
    /// 0: none [default: --prefill-concurrency-ramp-duration]
    #[arg(long, value_name = "SECONDS", value_parser = fraction_seconds)]
    pub(crate) warmup_prefill_concurrency_ramp_duration: Option<Duration>,
    /// 0: none [default: --request-rate-ramp-duration]
    #[arg(long, value_name = "SECONDS", value_parser = fraction_seconds)]
    pub(crate) warmup_request_rate_ramp_duration: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ArrivalPattern {
    Constant,
    Poisson,
    Gamma,
    #[value(alias = "concurrency_burst")]
    ConcurrencyBurst,
}

/// A time, or for ever.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Grace(pub(crate) Option<Duration>);

impl LoadFlags {
    /// The first flag that paces sessions by a rate.
    pub(crate) fn rate_flag(&self) -> Option<&'static str> {
        let flags = [
            ("--request-rate", !self.request_rate.is_empty()),
            ("--request-rate-series", self.request_rate_series.is_some()),
            ("--user-centric-rate", self.user_centric_rate.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// The first flag that only a replay by a file's times heeds.
    pub(crate) fn schedule_flag(&self) -> Option<&'static str> {
        let flags = [
            ("--fixed-schedule-auto-offset", self.fixed_schedule_auto_offset),
            ("--fixed-schedule-start-offset", self.fixed_schedule_start_offset.is_some()),
            ("--fixed-schedule-end-offset", self.fixed_schedule_end_offset.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}

impl WarmUpFlags {
    /// Leaves the warm-up out.
    pub(crate) fn remove(&mut self) {
        (self.warmup_request_count, self.warmup_duration, self.num_warmup_sessions) = (None, None, None);
    }

    /// Whether there is a warm-up.
    pub(crate) fn is_wanted(&self) -> bool {
        self.warmup_request_count.is_some_and(|count| count > 0)
            || self.warmup_duration.is_some()
            || self.num_warmup_sessions.is_some()
    }
}
