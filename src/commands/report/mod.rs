//! `evenload report`: what is made of reports that are there: charts, and one report of several processes.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

mod analyze;

pub(crate) use analyze::analyze;

/// Flags of `evenload report`.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    /// Draws charts of the reports in these folders: inference-perf's or ours.
    #[arg(short = 'a', long, value_name = "DIR", num_args = 1..)]
    analyze: Vec<PathBuf>,
    /// Also lays the runs over each other, with charts in this folder.
    #[arg(
        short = 'u',
        long = "unified_analysis_dir",
        alias = "unified-analysis-dir",
        value_name = "DIR",
        requires = "analyze"
    )]
    unified_analysis_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
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
            None => analyze(&self.analyze, self.unified_analysis_dir.as_deref().map(Path::new)),
        }
    }
}
