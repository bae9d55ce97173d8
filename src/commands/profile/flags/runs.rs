//! Flags: several runs in one command, over lists of values and as repetitions.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::{fraction_seconds, share};

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
pub(crate) enum SweepType {
    Grid,
    Zip,
}
