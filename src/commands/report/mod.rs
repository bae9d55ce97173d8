//! `evenload report`: what is made of reports that are there: charts, and one report of several processes.

use std::{path::PathBuf, process::ExitCode};

mod analyze;

/// Flags of `evenload report`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    analysis: Analysis,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags that draw charts of reports that are there.
#[derive(Debug, clap::Args)]
pub(crate) struct Analysis {
    /// Draws charts of the reports in these folders: inference-perf's or ours.
    #[arg(short = 'a', long, value_name = "DIR", num_args = 1..)]
    analyze: Vec<PathBuf>,
    /// With --analyze: also lays the runs over each other, with charts in this folder.
    #[arg(
        short = 'u',
        long = "unified_analysis_dir",
        alias = "unified-analysis-dir",
        value_name = "DIR",
        requires = "analyze"
    )]
    unified_analysis_dir: Option<PathBuf>,
}

impl Analysis {
    /// Draws the charts, if any are asked for.
    pub(crate) fn run(&self) -> Option<anyhow::Result<ExitCode>> {
        let unified = self.unified_analysis_dir.as_deref();
        (!self.analyze.is_empty()).then(|| analyze::analyze(&self.analyze, unified))
    }
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes one report of the folders that `evenload run --shard I/N` left, one a share.
    Merge {
        /// The folders.
        #[arg(required = true, value_name = "DIR")]
        folders: Vec<PathBuf>,
        /// Folder for the merged report.
        #[arg(short, long, value_name = "DIR", default_value = "merged")]
        out: PathBuf,
    },
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Some(Command::Merge { folders, out }) => super::run::merge(&folders, &out),
            None => self.analysis.run().unwrap_or(Ok(ExitCode::SUCCESS)),
        }
    }
}
