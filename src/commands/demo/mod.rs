//! `evenload demo`: engines, balancer and load generator in one process, on the published workload.
//!
//! One policy after the other meets the same requests at the same times, over HTTP on the loopback interface,
//! with empty caches. The engines run faster than real ones by the speed-up; printed times are multiplied by it,
//! so that they stand beside the published ones.

mod fleet;
mod speed;
mod trial;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use report::{Compared, PolicyRun, comparison_page, comparison_table};
use routing::{PolicyName, PolicySettings};
use serde_json::json;

use fleet::DemoFleet;
use trial::TrialSettings;

use crate::print;

/// Requests of a full run; the published one sent as many.
const REQUESTS: usize = 8_000;
const QUICK_REQUESTS: usize = 1_300;
/// What fewer requests than [`REQUESTS`] mean.
const FILLING: &str = "The published runs sent 8000 requests: caches were still filling here, so every policy looks worse than it is.";
/// Shares of the cores for [`speed::measure`]. The full run has time to be exact.
const LOAD: f64 = 0.25;
const QUICK_LOAD: f64 = 0.33;

/// Flags of `evenload demo`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(long = "policy", value_name = "NAME", default_values = ["random", "least_requests", "prefix_hash"], help = policy_help())]
    policies: Vec<PolicySettings>,
    #[arg(long, value_name = "NUMBER", default_value = "800", value_parser = load, help = concurrency_help())]
    concurrency: Load,
    /// Requests of each policy [default: 8000, or 1300 with --quick].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    requests: Option<u64>,
    /// Fewer requests: about half a minute. Caches are still filling then, so the gain is smaller.
    #[arg(long)]
    quick: bool,
    /// Simulated seconds in a real one [default: what this machine can follow].
    #[arg(long, value_name = "FACTOR", value_parser = speedup)]
    speedup: Option<f64>,
    /// All send times and random picks flow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory for demo.json, report.html and the records of all requests.
    #[arg(long, value_name = "DIR", default_value = "evenload-demo")]
    output: PathBuf,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut names: Vec<_> = self.policies.iter().map(PolicySettings::name).collect();
        names.sort_unstable_by_key(ToString::to_string);
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("--policy {} is given twice: each policy runs once", twice[0]);
        }
        fs::create_dir_all(&self.output).with_context(|| {
            format!("cannot create the directory {}: choose another --output", self.output.display())
        })?;
        let requests = match self.requests {
            Some(requests) => usize::try_from(requests)?,
            None if self.quick => QUICK_REQUESTS,
            None => REQUESTS,
        };
        let speedup = match self.speedup {
            Some(speedup) => speedup,
            None => speed::measure(if self.quick { QUICK_LOAD } else { LOAD }, self.concurrency.rate)?,
        };
        say!(
            "8 simulated L4 replicas, {requests} requests, {} in flight, {speedup:.1} times as fast as real ones",
            self.concurrency.sessions
        );

        let mut trials = Vec::new();
        for policy in &self.policies {
            let settings = TrialSettings {
                policy: policy.clone(),
                load: self.concurrency,
                requests,
                speedup,
                seed: self.seed,
            };
            let fleet = DemoFleet::start(policy.clone(), speedup)?;
            let trial = trial::run(&fleet, &settings, &self.output)?;
            fleet.check_idle()?;
            trials.push(trial);
        }
        self.conclude(&trials, requests, speedup)
    }

    fn conclude(&self, trials: &[PolicyRun], requests: usize, speedup: f64) -> anyhow::Result<ExitCode> {
        let written = self.write(trials, requests, speedup);
        let compared: Vec<Compared> = trials.iter().map(|trial| trial.compared.clone()).collect();
        say!("\n{}", comparison_table(&compared));
        if requests < REQUESTS {
            say!("{FILLING}");
        }
        for trial in trials {
            print::text(&format!("{}: {}", trial.compared.measured.policy, trial.assessment.lines()));
        }
        let [json_path, page_path] = written?;
        say!(
            "\nwritten: {} (open it), {}, and the records beside them",
            page_path.display(),
            json_path.display()
        );
        if !self.policies.iter().any(|policy| policy.name() == PolicyName::PrefixAware) {
            say!(
                "The page knows nothing of prefix_aware, the default policy of `evenload serve`. To see it beside the page's \
                 best: evenload demo --policy prefix_hash --policy prefix_aware"
            );
        }

        let failed: u64 = trials.iter().map(|trial| trial.compared.measured.failed).sum();
        if failed > 0 {
            bail!("{failed} requests failed; {} says which", self.output.display());
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Writes `demo.json` and `report.html`; returns their paths.
    fn write(&self, trials: &[PolicyRun], requests: usize, speedup: f64) -> anyhow::Result<[PathBuf; 2]> {
        let assessment = |trial: &PolicyRun| json!({"policy": trial.compared.measured.policy, "assessment": trial.assessment.json()});
        let summary = json!({
            "concurrency": self.concurrency.sessions,
            "requests": requests,
            "replicas": fleet::REPLICAS,
            "speedup": speedup,
            "seed": self.seed,
            "policies": trials.iter().map(|trial| &trial.compared.measured).collect::<Vec<_>>(),
            "assessments": trials.iter().map(assessment).collect::<Vec<_>>(),
        });
        let subtitle = format!(
            "Eight simulated L4 replicas of Llama 3.1 8B behind one balancer, over HTTP on one machine: {requests} requests \
             of KubeAI's published workload for each policy, at most {} in flight. Engines ran {speedup:.1} times as fast as \
             real ones; times are those of real ones. {}",
            self.concurrency.sessions,
            if requests < REQUESTS { FILLING } else { "" }
        );
        let page = comparison_page("Routing policies, side by side", &subtitle, trials).footer(format!(
            "evenload {} demo; published figures: {}",
            env!("CARGO_PKG_VERSION"),
            report::PUBLISHED_SOURCE
        ));
        let paths = ["demo.json", "report.html"].map(|name| self.output.join(name));
        for (path, content) in paths.iter().zip([serde_json::to_string_pretty(&summary)?, page.render()]) {
            fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(paths)
    }
}

fn policy_help() -> String {
    let names = PolicyName::ALL.map(PolicyName::label).join(", ");
    format!(
        "A policy to compare: {names}; repeat it for more. The page has the default ones; the default of `evenload serve` \
         is prefix_aware"
    )
}

/// One of the published settings.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// In flight at most.
    sessions: u32,
    /// New ones a second.
    rate: f64,
}

fn load(text: &str) -> Result<Load, String> {
    let number: u32 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    let load = simulate::kubeai::LOADS.into_iter().find(|(sessions, _)| *sessions == number);
    let load = load.map(|(sessions, rate)| Load { sessions, rate });
    load.ok_or_else(|| format!("choose one of {}", loads()))
}

fn loads() -> String {
    simulate::kubeai::LOADS.map(|(sessions, _)| sessions.to_string()).join(", ")
}

fn concurrency_help() -> String {
    format!("Which of the published settings: sessions in flight at most, one of {}", loads())
}

fn speedup(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.1..=1000.0).contains(&number) { Ok(number) } else { Err("give a factor from 0.1 to 1000".into()) }
}
