//! One file a subcommand: each maps its flags to a library's settings, runs it and prints. No logic of its own.

mod bench;
mod calibrate;
mod command_line;
mod counting;
mod demo;
mod engine;
mod engine_profile;
mod engine_state;
mod interrupt;
mod process;
pub(crate) mod profile;
mod progress;
mod refused;
mod report;
mod run;
mod serve;
mod simulate;

use std::process::ExitCode;

use clap::Subcommand;

/// What evenload can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run KubeAI's serving benchmark, or today's `vllm bench serve` (--script vllm), by their flags.
    Bench(Box<bench::Arguments>),
    /// Measure how far this machine's measurements can be trusted.
    Calibrate(calibrate::Arguments),
    /// Compare routing policies on the published workload: engines, balancer and load in one process.
    Demo(demo::Arguments),
    /// Run simulated vLLM servers.
    Engine(Box<engine::Arguments>),
    /// Load one or several servers, by AIPerf's flags and files.
    Profile(Box<profile::Arguments>),
    /// Draw charts of reports, or merge those of several machines.
    Report(report::Arguments),
    /// Load a server by inference-perf's configuration, with its reports.
    Run(Box<run::Arguments>),
    /// Balance requests over inference servers.
    Serve(Box<serve::Arguments>),
    /// Simulate a fleet in virtual time.
    Simulate(Box<simulate::Arguments>),
}

impl Command {
    /// Runs the command to its end. An error is one line for the user and exit status 1.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Bench(arguments) => arguments.run(),
            Self::Calibrate(arguments) => arguments.run(),
            Self::Demo(arguments) => arguments.run(),
            Self::Engine(arguments) => arguments.run(),
            Self::Profile(arguments) => arguments.run(),
            Self::Report(arguments) => arguments.run(),
            Self::Run(arguments) => arguments.run(),
            Self::Serve(arguments) => arguments.run(),
            Self::Simulate(arguments) => arguments.run(),
        }
    }
}
