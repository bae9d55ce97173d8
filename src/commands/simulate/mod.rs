//! `evenload simulate`: a fleet in virtual time. One file a subcommand.

mod compare;
mod fit;
mod inputs;
mod kubeai;
mod output;
mod replay;
mod run;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Flags of `evenload simulate`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Simulate the twelve tables of KubeAI's published comparison, beside the published figures.
    Kubeai(kubeai::Arguments),
    /// Compare routing policies on a workload.
    Run(Box<run::Arguments>),
    /// Compare routing policies on traffic that a balancer recorded.
    Replay(Box<replay::Arguments>),
    /// Derive an engine's profile from measurements.
    Fit(Box<fit::Arguments>),
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Kubeai(arguments) => arguments.run(),
            What::Run(arguments) => arguments.run(),
            What::Replay(arguments) => arguments.run(),
            What::Fit(arguments) => arguments.run(),
        }
    }
}
