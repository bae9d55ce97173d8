//! `evenload profile`: a load generator with AIPerf's flags and files.
//!
//! Flags, files and definitions are those of AIPerf 0.13. What it does not say (each server's figures, how late
//! requests left, what the engines said of themselves, whether the numbers may be quoted) stands beside its own.

mod check;
mod config;
mod configuration;
mod data;
mod engines;
mod files;
mod flags;
mod inputs;
mod live;
mod log;
mod output;
mod plan;
mod recording;
mod run;
mod runs;
mod search;
mod stability;
mod targets;
mod unsupported;

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use loadgen::TargetError;

pub(crate) use self::{
    config::parse,
    flags::{RangeRatio, header, range_ratio},
};
use self::{
    flags::{EndpointFlags, InputFlags, LoadFlags, OutputFlags, OwnFlags, RunsFlags, SearchFlags},
    unsupported::Unsupported,
};
use super::{
    interrupt::{INTERRUPTED, Interrupts},
    refused::NoneOf,
};

/// Exit status for flags that cannot be used together, as for wrong ones.
const USAGE: u8 = 2;

/// Flags of `evenload profile`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) endpoint: EndpointFlags,
    #[command(flatten)]
    pub(crate) input: InputFlags,
    #[command(flatten)]
    pub(crate) load: LoadFlags,
    #[command(flatten)]
    pub(crate) runs: RunsFlags,
    #[command(flatten)]
    pub(crate) search: SearchFlags,
    #[command(flatten)]
    pub(crate) output: OutputFlags,
    #[command(flatten)]
    pub(crate) own: OwnFlags,
    #[command(flatten)]
    _unsupported: NoneOf<Unsupported>,
}

/// How the command ended; the exit status is the gravest of several runs'.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Status {
    /// Everything as it should be.
    Good,
    /// The verdict is SUSPECT, and `--strict` was given.
    Suspect,
    /// The verdict is INVALID, and `--strict` was given.
    Invalid,
    /// A figure is beyond a limit of `--fail-if`.
    LimitBroken,
    /// Nothing was answered, too much failed, or a file could not be read or written.
    Failed,
    /// The user ended it.
    Interrupted,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if let Err(problem) = self.check() {
            remark!("evenload: {problem}");
            return Ok(ExitCode::from(USAGE));
        }
        log::begin(&self);
        let interrupts = Interrupts::listen().context("cannot wait for signals")?;
        match runs::carry_out(&self, &interrupts) {
            Err(error) if is_usage(&error) => {
                remark!("evenload: {error:#}");
                Ok(ExitCode::from(USAGE))
            }
            ended => ended.map(ExitCode::from),
        }
    }
}

/// Flags that do not go together, where only the data or the making of a run shows it.
fn wrong(problem: impl Into<String>) -> anyhow::Error {
    workload::Error::Setting(problem.into()).into()
}

/// Whether the flags are at fault, and not a file or the system.
fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(workload::Error::Setting(_)))
            || cause.downcast_ref().is_some_and(|error| !matches!(error, TargetError::Tls(..)))
    })
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Good => 0,
            Status::Failed => 1,
            Status::LimitBroken => 3,
            Status::Suspect => 4,
            Status::Invalid => 5,
            Status::Interrupted => INTERRUPTED,
        })
    }
}
