//! Flags: the search for the largest load that keeps its limits.

use std::fmt;

use clap::{Args, ValueEnum};
use report::Sla;

use super::values::{open_share, positive_rate, recipe, search_style};

/// Flags of the search.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Search")]
pub(crate) struct SearchFlags {
    /// Search for a concurrency: max-concurrency-under-sla, max-throughput-ttft-sla, max-throughput-itl-sla,
    /// max-goodput-under-slo: the largest that keeps the limits; concurrency-ramp: where latency degrades.
    #[arg(long, value_name = "NAME", value_parser = recipe, conflicts_with_all = ["concurrency", "request_rate", "request_rate_series", "user_centric_rate"])]
    pub(crate) search_recipe: Option<Recipe>,
    /// monotonic is the only one: double until the limits break, then halve.
    #[arg(id = "search_style", long = "search-style", value_name = "STYLE", value_parser = search_style, requires = "search_recipe")]
    _search_style: Option<()>,
    /// Limit of the TTFT, P95.
    #[arg(long, value_name = "MS", value_parser = positive_rate, requires = "search_recipe")]
    pub(crate) ttft_sla_ms: Option<f64>,
    /// Limit of the inter-token latency, P95.
    #[arg(long, value_name = "MS", value_parser = positive_rate, requires = "search_recipe")]
    pub(crate) itl_sla_ms: Option<f64>,
    /// The same by another name.
    #[arg(long, value_name = "MS", value_parser = positive_rate, requires = "search_recipe", conflicts_with = "itl_sla_ms")]
    pub(crate) tpot_sla_ms: Option<f64>,
    /// Limit of the request latency, P99.
    #[arg(long, value_name = "MS", value_parser = positive_rate, requires = "search_recipe")]
    pub(crate) e2e_sla_ms: Option<f64>,
    /// Limit of the share of failed requests.
    #[arg(long, value_name = "SHARE", value_parser = open_share, requires = "search_recipe")]
    pub(crate) error_rate_sla: Option<f64>,
    /// Share of the requests that must keep all limits, for max-goodput-under-slo [default: 0.95].
    #[arg(long, value_name = "SHARE", value_parser = open_share, requires = "search_recipe")]
    pub(crate) slo_attainment_fraction: Option<f64>,
    /// A further limit: METRIC:STATISTIC:lt|le|gt|ge:VALUE, such as request_latency:p50:lt:800.
    #[arg(long, value_name = "LIMIT", num_args = 1.., requires = "search_recipe")]
    pub(crate) search_sla: Vec<Sla>,
    /// Loads that are tried, at most [default: 30].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..=200), requires = "search_recipe")]
    pub(crate) search_max_iterations: Option<u32>,
    /// Smallest load of the search or the ramp [default: 1].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..), requires = "search_recipe")]
    pub(crate) concurrency_min: Option<u32>,
    /// Largest load of the search or the ramp [default: 1000].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..), requires = "search_recipe")]
    pub(crate) concurrency_max: Option<u32>,
    /// Loads of the ramp, evenly spread on a logarithmic scale [default: 8].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..=100), requires = "search_recipe")]
    pub(crate) concurrency_steps: Option<u32>,
    /// Share by which the ramp's figure may be above that of its smallest load [default: 0.2].
    #[arg(long, value_name = "SHARE", value_parser = open_share, requires = "search_recipe")]
    pub(crate) degradation_threshold: Option<f64>,
    /// Metric of the ramp, by its name in the files [default: request_latency].
    #[arg(long, value_name = "METRIC", requires = "search_recipe")]
    pub(crate) degradation_metric_tag: Option<String>,
    /// Its statistic: avg, p50, p90, p95, p99 [default: p99].
    #[arg(long, value_name = "STATISTIC", value_parser = ["avg", "p50", "p90", "p95", "p99"], hide_possible_values = true, requires = "search_recipe")]
    pub(crate) degradation_stat: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Recipe {
    MaxConcurrencyUnderSla,
    MaxThroughputTtftSla,
    MaxThroughputItlSla,
    MaxGoodputUnderSlo,
    ConcurrencyRamp,
}

impl fmt::Display for Recipe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.to_possible_value();
        formatter.write_str(name.as_ref().map_or("", |value| value.get_name()))
    }
}
