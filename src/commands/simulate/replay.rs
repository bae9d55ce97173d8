//! `evenload simulate replay`: recorded traffic under other policies.

use std::{collections::BTreeMap, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use engine::Profile;
use serde_json::json;
use simulate::{
    ClientModel, FleetSettings, Pace, Traffic,
    replay::{DecisionLog, Recorded},
    scenario::Scenario,
};

use super::{
    compare::Comparison,
    inputs::{self, Engines, Policy},
    output::{self, Replayed},
};
use crate::{commands::command_line::command_line, print};

/// Flags of `evenload simulate replay`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Files of a decision log, as `serve --decision-log` writes them; name the older ones (.1, .2, ...) too.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A policy to compare; repeat for more. As for `simulate run`.
    #[arg(long = "policy", value_name = "POLICY", default_value = "prefix_aware", value_parser = inputs::policy)]
    policies: Vec<Policy>,
    /// Replicas, of the engine profiles in turn [default: as many as answered in the log].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    replicas: Option<u16>,
    /// Engine profile, NAME[@SPEED][=COUNT]: a built-in name (`evenload engine --help` has them) or a JSON file, such as
    /// `simulate fit` writes from the same log, how many times as fast, how many replicas. Repeat for a mixed fleet; with
    /// counts on all of them --replicas plays no part.
    #[arg(long = "profile", value_name = "PROFILE", default_value = "l4-llama-3.1-8b-fp8", value_parser = inputs::engines)]
    profiles: Vec<Engines>,
    /// Independent balancers, each with its own view.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    balancers: u32,
    /// One way, from the balancer to an engine, in milliseconds.
    #[arg(long, value_name = "MS", default_value = "0", value_parser = inputs::milliseconds)]
    network_ms: Duration,
    /// The balancers do not know the output lengths that requests allowed.
    #[arg(long)]
    unknown_output: bool,
    /// Divide the log's times by this: the same requests, so many times as fast.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    speed_up: f64,
    /// Let every replica serve every model. Without it a model goes only to those that it went to in the log, as an
    /// adapter does that is not everywhere.
    #[arg(long)]
    models_anywhere: bool,
    /// Send everything once before, so that caches are warm.
    #[arg(long)]
    warm: bool,
    /// Leave out the bound: the run in which every prefix is a hit, wherever a request goes.
    #[arg(long)]
    no_bound: bool,
    /// A seed; repeat for more, figures are means over them.
    #[arg(long = "seed", value_name = "NUMBER", default_values_t = [1, 2, 3])]
    seeds: Vec<u64>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Write results.json and report.html into this directory.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let log = DecisionLog::read(self.files.iter().map(PathBuf::as_path))?;
        let recorded = log.recorded();
        let scenario = self.scenario(&log)?;
        let served = scenario.fleet.served.clone();
        let models = self.models(&log, &scenario.fleet);
        let loaded = scenario.load()?;
        output::create(self.output.as_deref())?;
        let demand = loaded.demand(self.seeds.first().copied().unwrap_or(1))?;
        let mut out = print::Output;
        if self.json {
            writeln!(
                out,
                "{}",
                json!({"policy": output::AS_RECORDED, "figures": recorded, "served": served})
            )?;
        } else {
            writeln!(out, "{}", output::demand_lines(&demand))?;
            for line in left_out(&recorded).into_iter().chain(models) {
                writeln!(out, "{line}\n")?;
            }
            writeln!(out, "{}\n{}", output::header(), output::recorded_row(&recorded))?;
        }
        let comparison = Comparison { loaded: &loaded, demand: &demand, seeds: &self.seeds, json: self.json };
        let compared = comparison.run(&self.policies, !self.no_bound, &mut out)?;
        if let Some(directory) = &self.output {
            let replayed = Some(Replayed { recorded: &recorded, served: &served });
            for path in output::write(directory, &demand, replayed, &compared, &self.seeds, &command_line())?
            {
                remark!("written: {}", path.display());
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn scenario(&self, log: &DecisionLog) -> anyhow::Result<Scenario> {
        let replicas = self.replicas.map_or_else(|| log.replicas(), usize::from);
        let profiles = inputs::fleet(&self.profiles, replicas)?;
        let same_fleet = !self.models_anywhere && profiles.len() == log.replicas();
        let policy = self.policies.first().map(|policy| policy.settings.clone()).unwrap_or_default();
        let fleet = FleetSettings::uniform(&Profile::l4(), 1, policy);
        Ok(Scenario {
            traffic: Traffic::Dataset(log.dataset()),
            pace: Pace::OwnTimes { speed_up: self.speed_up },
            sessions: None,
            concurrency: None,
            warm: self.warm,
            fleet: FleetSettings {
                profiles,
                balancers: self.balancers,
                network: self.network_ms,
                output_known: !self.unknown_output,
                served: if same_fleet { log.served() } else { BTreeMap::new() },
                ..fleet
            },
            client: ClientModel::IDEAL,
        })
    }

    /// Where models may go, if that is not everywhere.
    fn models(&self, log: &DecisionLog, fleet: &FleetSettings) -> Option<String> {
        if log.served().is_empty() || self.models_anywhere {
            return None;
        }
        let (before, replicas) = (log.replicas(), fleet.profiles.len());
        if before != replicas {
            return Some(format!(
                "models did not go to all {before} replicas of the log; with {replicas} of them every one serves every model"
            ));
        }
        Some(format!(
            "models that go only to replicas that they went to in the log (--models-anywhere: to all): {}",
            output::served_list(&fleet.served, replicas)
        ))
    }
}

/// What of the log is not sent again.
fn left_out(recorded: &Recorded) -> Option<String> {
    let parts = [
        (recorded.skipped, "requests without an answer"),
        (recorded.without_output, "answers without output tokens (embeddings)"),
        (recorded.unreadable_lines, "lines that are no decisions"),
    ];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, what)| format!("{what} {count}")).collect();
    (!parts.is_empty()).then(|| format!("left out: {}", parts.join(", ")))
}
