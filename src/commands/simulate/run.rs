//! `evenload simulate run`: routing policies compared on a workload.

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Args;
use engine::Profile;
use routing::PolicySettings;
use serde_json::json;
use simulate::{
    ClientModel, FleetSettings, Means,
    scenario::{Scenario, Traffic},
};

use super::inputs;

/// Flags of `evenload simulate run`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What is sent: `kubeai` (built in), `prompts:FILE` or `sessions:FILE` (JSON lines with conversation, turn,
    /// input_length, output_length, first_100_chars, hash_ids).
    #[arg(long, default_value = "kubeai", value_parser = inputs::traffic)]
    workload: Traffic,
    /// A policy to compare; repeat for more.
    #[arg(long = "policy", required = true)]
    policies: Vec<PolicySettings>,
    /// Replicas of each engine profile in turn.
    #[arg(long, default_value_t = 8)]
    replicas: usize,
    /// Engine profile: a built-in name, or a JSON file. Repeat for a mixed fleet.
    #[arg(long = "profile", default_value = "l4-llama-3.1-8b-fp8")]
    profiles: Vec<String>,
    /// Sessions in flight; without it the loop is open.
    #[arg(long)]
    concurrency: Option<u32>,
    /// Sessions per second, at Poisson times; without it one starts as soon as there is room.
    #[arg(long)]
    rate: Option<f64>,
    /// Tokens that every prompt of a sessions file starts with.
    #[arg(long, default_value_t = 0)]
    preamble_tokens: u32,
    /// Send everything once before, so that caches are warm.
    #[arg(long)]
    warm: bool,
    /// Independent balancers, each with its own view.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    balancers: u32,
    /// One way, through the balancer, in milliseconds.
    #[arg(long, default_value_t = 3.0)]
    network_ms: f64,
    /// Relative speed of the first replica; 0.5 is half as fast as the others.
    #[arg(long, default_value_t = 1.0)]
    first_replica_speed: f64,
    /// The balancers do not know output lengths.
    #[arg(long)]
    unknown_output: bool,
    /// A seed; repeat for more, figures are means over them.
    #[arg(long = "seed", default_values_t = [1, 2, 3])]
    seeds: Vec<u64>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let kinds =
            self.profiles.iter().map(|name| inputs::profile(name)).collect::<anyhow::Result<Vec<_>>>()?;
        let profiles: Vec<Profile> = kinds.iter().cycle().take(self.replicas).cloned().collect();
        let mut speeds = vec![1.0; self.replicas];
        if let Some(first) = speeds.first_mut() {
            *first = self.first_replica_speed;
        }
        if self.first_replica_speed.is_nan() || self.first_replica_speed <= 0.0 {
            bail!("--first-replica-speed must be above 0");
        }
        let scenario = Scenario {
            traffic: self.workload,
            concurrency: self.concurrency,
            rate: self.rate,
            preamble_tokens: self.preamble_tokens,
            warm: self.warm,
            fleet: FleetSettings {
                profiles,
                speeds,
                policy: PolicySettings::Random,
                balancers: self.balancers,
                network: Duration::from_secs_f64(self.network_ms.max(0.0) / 1e3),
                output_known: !self.unknown_output,
            },
            client: ClientModel::IDEAL,
        };
        let loaded = scenario.load()?;
        let mut out = std::io::stdout().lock();
        if !self.json {
            let demand = loaded.demand(self.seeds.first().copied().unwrap_or(1));
            writeln!(
                out,
                "{} requests, {} prompt tokens; working set {} tokens, cache of a replica {}, of all {}; best possible hit ratio {:.3}",
                demand.requests,
                demand.prompt_tokens,
                demand.working_set_tokens,
                demand.replica_capacity_tokens,
                demand.fleet_capacity_tokens,
                demand.best_hit_ratio
            )?;
            writeln!(
                out,
                "{:<14}{:>10}{:>6}{:>11}{:>11}{:>11}{:>10}{:>8}{:>9}{:>10}{:>11}",
                "policy",
                "seconds",
                "+-",
                "tokens/s",
                "TTFT ms",
                "p99 ms",
                "TPOT ms",
                "hit",
                "max/mean",
                "preempted",
                "failed"
            )?;
        }
        for policy in &self.policies {
            let trials = self
                .seeds
                .iter()
                .map(|seed| loaded.trial(policy.clone(), *seed))
                .collect::<Result<Vec<_>, _>>()?;
            let row = Means::of(&trials);
            if self.json {
                writeln!(
                    out,
                    "{}",
                    json!({"policy": policy.name().to_string(), "seeds": self.seeds, "figures": row})
                )?;
            } else {
                writeln!(
                    out,
                    "{:<14}{:>10.2}{:>6.2}{:>11.0}{:>11.1}{:>11.1}{:>10.2}{:>8.3}{:>9.2}{:>10.0}{:>11.0}",
                    policy.name().to_string(),
                    row.duration_s,
                    row.duration_deviation_s,
                    row.total_tokens_per_s,
                    row.mean_ttft_ms,
                    row.p99_ttft_ms,
                    row.mean_tpot_ms,
                    row.prefix_hit_ratio,
                    row.imbalance,
                    row.preemptions,
                    row.failed
                )?;
            }
            out.flush()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
