//! `evenload simulate kubeai`: the twelve published tables. The file is written before they are printed.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use crate::print;
use anyhow::Context;
use clap::{Args, ValueEnum};
use report::{PolicyFigures, published};
use serde_json::json;
use simulate::{ClientModel, kubeai};

use super::output;

/// Flags of `evenload simulate kubeai`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The load generator behind the figures: the Python script of the page, or one that keeps up.
    #[arg(long, value_enum, default_value = "legacy")]
    client: Client,
    /// Random picks and arrival times flow from it.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Write kubeai.json into this directory.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Client {
    /// One Python event loop: its CPU time delays what it sends and what it stamps.
    Legacy,
    /// Sends on time, stamps on arrival.
    Ideal,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let client = match self.client {
            Client::Legacy => ClientModel::LEGACY,
            Client::Ideal => ClientModel::IDEAL,
        };
        output::create(self.output.as_deref())?;
        let mut text = String::new();
        let mut rows = Vec::new();
        writeln!(
            text,
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
                    text,
                    "{name:<15}{:>8}  {figure:<22}{simulated:>12.2}{published_value:>12.2}{error:>+8.1}%",
                    published.concurrency
                )?;
                rows.push(json!({"policy": name, "concurrency": published.concurrency, "figure": figure,
                    "simulated": simulated, "published": published_value}));
            }
        }
        if let Some(directory) = self.output {
            let path = directory.join("kubeai.json");
            let object = serde_json::to_string_pretty(
                &json!({"seed": self.seed, "client": format!("{:?}", self.client).to_lowercase(), "rows": rows}),
            )?;
            std::fs::write(&path, object).with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(text, "\nwritten: {}", path.display())?;
        }
        print::text(&text);
        Ok(ExitCode::SUCCESS)
    }
}
