//! `evenload simulate`: a fleet in virtual time.

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use engine::Profile;
use report::{Distribution, Metric, PolicyFigures, published};
use routing::PolicySettings;
use serde_json::json;
use simulate::{
    ClientModel, FleetSettings, kubeai,
    scenario::{Scenario, Traffic, Trial},
};

/// Flags of `evenload simulate`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Simulate the twelve tables of KubeAI's published comparison, beside the published figures.
    Kubeai(KubeaiArguments),
    /// Compare routing policies on a workload.
    Run(Box<RunArguments>),
}

#[derive(Debug, Args)]
struct KubeaiArguments {
    /// The load generator behind the figures: the Python script of the page, or one that keeps up.
    #[arg(long, value_enum, default_value = "legacy")]
    client: Client,
    /// Random picks and arrival times flow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write kubeai.json into this directory.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Client {
    /// One Python event loop: its CPU time delays what it sends and what it stamps.
    Legacy,
    /// Sends on time, stamps on arrival.
    Ideal,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// What is sent: `kubeai` (built in), `prompts:FILE` or `sessions:FILE` (JSON lines with conversation, turn,
    /// input_length, output_length, first_100_chars, hash_ids).
    #[arg(long, default_value = "kubeai", value_parser = traffic)]
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
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Kubeai(arguments) => arguments.run(),
            What::Run(arguments) => arguments.run(),
        }
    }
}

impl KubeaiArguments {
    fn run(self) -> anyhow::Result<ExitCode> {
        let client = match self.client {
            Client::Legacy => ClientModel::LEGACY,
            Client::Ideal => ClientModel::IDEAL,
        };
        let mut out = std::io::stdout().lock();
        let mut rows = Vec::new();
        writeln!(
            out,
            "{:<15}{:>8}  {:<22}{:>12}{:>12}{:>9}",
            "policy", "sessions", "figure", "simulated", "published", "error"
        )?;
        for published in published() {
            let name = &published.figures.policy;
            let policy = kubeai::policies()
                .into_iter()
                .find(|policy| policy.name().to_string() == *name)
                .with_context(|| format!("no policy for the published {name}"))?;
            let table =
                kubeai::table(policy, published.concurrency, published.request_rate, client, self.seed)?;
            let simulated = PolicyFigures::new(name.as_str(), &table.report.total, 1.0);
            for ((figure, simulated), (_, published_value)) in
                simulated.named().into_iter().zip(published.figures.named())
            {
                let error = (simulated / published_value - 1.0) * 100.0;
                writeln!(
                    out,
                    "{name:<15}{:>8}  {figure:<22}{simulated:>12.2}{published_value:>12.2}{error:>+8.1}%",
                    published.concurrency
                )?;
                rows.push(json!({"policy": name, "concurrency": published.concurrency, "figure": figure,
                    "simulated": simulated, "published": published_value}));
            }
        }
        if let Some(directory) = self.output {
            std::fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
            let path = directory.join("kubeai.json");
            let text = serde_json::to_string_pretty(
                &json!({"seed": self.seed, "client": format!("{:?}", self.client).to_lowercase(), "rows": rows}),
            )?;
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(out, "\nwritten: {}", path.display())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl RunArguments {
    fn run(self) -> anyhow::Result<ExitCode> {
        let kinds = self.profiles.iter().map(|name| profile(name)).collect::<anyhow::Result<Vec<_>>>()?;
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
            let row = Row::of(&trials);
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

/// Means over the seeds.
#[derive(Debug, serde::Serialize)]
struct Row {
    duration_s: f64,
    duration_deviation_s: f64,
    total_tokens_per_s: f64,
    mean_ttft_ms: f64,
    p99_ttft_ms: f64,
    mean_tpot_ms: f64,
    prefix_hit_ratio: f64,
    imbalance: f64,
    preemptions: f64,
    failed: f64,
}

impl Row {
    fn of(trials: &[Trial]) -> Self {
        let mean = |value: &dyn Fn(&Trial) -> f64| {
            trials.iter().map(value).sum::<f64>() / trials.len().max(1) as f64
        };
        let mean_ms = |distribution: &Distribution| distribution.mean().unwrap_or(f64::NAN) / 1e6;
        let duration = |trial: &Trial| trial.report.total.duration_s();
        let duration_s = mean(&duration);
        Self {
            duration_s,
            duration_deviation_s: mean(&|trial| (duration(trial) - duration_s).powi(2)).sqrt(),
            total_tokens_per_s: mean(&|trial| trial.report.total.total_tokens_per_s()),
            mean_ttft_ms: mean(&|trial| mean_ms(trial.report.total.of(Metric::Ttft))),
            p99_ttft_ms: mean(&|trial| {
                trial.report.total.of(Metric::Ttft).percentile(99.0).unwrap_or(f64::NAN) / 1e6
            }),
            mean_tpot_ms: mean(&|trial| mean_ms(trial.report.total.of(Metric::Tpot))),
            prefix_hit_ratio: mean(&|trial| trial.report.total.prefix_hit_ratio().unwrap_or(0.0)),
            imbalance: mean(&imbalance),
            preemptions: mean(&|trial| {
                trial.figures.replicas.iter().map(|replica| replica.counters.preemptions).sum::<u64>() as f64
            }),
            failed: mean(&|trial| trial.report.total.failed() as f64),
        }
    }
}

/// Requests of the busiest replica over the mean.
fn imbalance(trial: &Trial) -> f64 {
    let requests = trial.figures.replicas.iter().map(|replica| replica.requests as f64);
    let most = requests.clone().fold(0.0, f64::max);
    most * trial.figures.replicas.len() as f64 / requests.sum::<f64>().max(1.0)
}

fn traffic(text: &str) -> Result<Traffic, String> {
    match text.split_once(':') {
        None if text == "kubeai" => Ok(Traffic::Kubeai(kubeai::REQUESTS)),
        Some(("prompts", path)) => Ok(Traffic::Prompts(path.into())),
        Some(("sessions", path)) => Ok(Traffic::Sessions(path.into())),
        _ => Err(format!("`{text}` is no workload: give kubeai, prompts:FILE or sessions:FILE")),
    }
}

fn profile(name: &str) -> anyhow::Result<Profile> {
    if let Some(profile) = Profile::built_in(name) {
        return Ok(profile);
    }
    let text = std::fs::read_to_string(name).with_context(|| {
        format!("`{name}` is neither a built-in profile ({}) nor a readable file", Profile::NAMES.join(", "))
    })?;
    let profile: Profile = serde_json::from_str(&text).with_context(|| format!("{name} is not a profile"))?;
    profile.check().with_context(|| format!("the profile in {name} cannot work"))?;
    Ok(profile)
}
