//! Flags: several runs in one command, over lists of values and as repetitions.

use std::time::Duration;

use clap::{Args, ValueEnum};
use report::Agreement;

use super::values::{fraction_seconds, open_share, share};

/// Flags of repeated runs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Several runs")]
pub(crate) struct RunsFlags {
    /// Runs of each setting; their figures are averaged.
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub(crate) num_profile_runs: u32,
    /// Wait between them.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = fraction_seconds)]
    pub(crate) profile_run_cooldown_seconds: Duration,
    /// Confidence of the intervals around the averages.
    #[arg(long, value_name = "SHARE", default_value = "0.95", value_parser = share)]
    pub(crate) confidence_level: f64,
    /// Only the first of them has a warm-up. The default.
    #[arg(
        id = "profile_run_disable_warmup_after_first",
        long = "profile-run-disable-warmup-after-first",
        overrides_with = "no_profile_run_disable_warmup_after_first"
    )]
    _profile_run_disable_warmup_after_first: bool,
    /// All of them have a warm-up.
    #[arg(long)]
    pub(crate) no_profile_run_disable_warmup_after_first: bool,
    /// The repetitions of a setting send the same, from seed 42 where --random-seed is not given. The default.
    #[arg(
        id = "set_consistent_seed",
        long = "set-consistent-seed",
        overrides_with = "no_set_consistent_seed"
    )]
    _set_consistent_seed: bool,
    /// They send from seeds that are drawn.
    #[arg(long)]
    pub(crate) no_set_consistent_seed: bool,
    /// Each repetition has a seed of its own, made from the first.
    #[arg(long, overrides_with = "no_vary_seed_per_trial")]
    pub(crate) vary_seed_per_trial: bool,
    /// All repetitions have the same seed. The default.
    #[arg(id = "no_vary_seed_per_trial", long = "no-vary-seed-per-trial")]
    _no_vary_seed_per_trial: bool,
    /// Repeat only until this metric is stable, at least twice and at most --num-profile-runs times; by its name in the
    /// files, such as time_to_first_token.
    #[arg(long, value_name = "METRIC")]
    pub(crate) convergence_metric: Option<String>,
    /// Its statistic: avg, p50, p90, p95, p99, min, max.
    #[arg(long, value_name = "STATISTIC", default_value = "avg", value_parser = ["avg", "p50", "p90", "p95", "p99", "min", "max"], hide_possible_values = true, requires = "convergence_metric")]
    pub(crate) convergence_stat: String,
    /// Stable is: ci-width, cv: below this share of the mean; distribution: above this probability [default: 0.1,
    /// 0.05, 0.05].
    #[arg(long, value_name = "SHARE", value_parser = open_share, requires = "convergence_metric")]
    pub(crate) convergence_threshold: Option<f64>,
    /// What is compared: ci-width, the width of the confidence interval of the mean; cv, the standard deviation;
    /// distribution, the values of the last run with those before (Kolmogorov-Smirnov).
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value = "ci-width",
        hide_possible_values = true,
        requires = "convergence_metric"
    )]
    pub(crate) convergence_mode: ConvergenceMode,
    /// Wait between settings.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = fraction_seconds)]
    pub(crate) parameter_sweep_cooldown_seconds: Duration,
    /// All settings send from the same seed, instead of one each.
    #[arg(long, overrides_with = "no_parameter_sweep_same_seed", requires = "random_seed")]
    pub(crate) parameter_sweep_same_seed: bool,
    /// Each setting has a seed of its own. The default.
    #[arg(id = "no_parameter_sweep_same_seed", long = "no-parameter-sweep-same-seed")]
    _no_parameter_sweep_same_seed: bool,
    /// Order: repeated, all settings again and again; independent, all runs of a setting before the next.
    #[arg(long, value_enum, value_name = "ORDER", default_value = "repeated", hide_possible_values = true)]
    pub(crate) parameter_sweep_mode: SweepMode,
    /// Several lists: grid, every combination; zip, the first values, then the second ones.
    #[arg(long, value_enum, value_name = "KIND", default_value = "grid", hide_possible_values = true)]
    pub(crate) sweep_type: SweepType,
    /// Print no table of the settings at the end.
    #[arg(long)]
    pub(crate) no_sweep_table: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum SweepMode {
    Repeated,
    Independent,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum ConvergenceMode {
    #[value(alias = "ci_width")]
    CiWidth,
    Cv,
    Distribution,
}

impl From<ConvergenceMode> for Agreement {
    fn from(mode: ConvergenceMode) -> Self {
        match mode {
            ConvergenceMode::CiWidth => Self::IntervalWidth,
            ConvergenceMode::Cv => Self::Variation,
            ConvergenceMode::Distribution => Self::Distribution,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum SweepType {
    Grid,
    Zip,
}
