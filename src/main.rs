//! evenload: a load balancer, load generators and a simulated engine for large language model inference.

mod commands;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};
use commands::profile;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Balance, load and simulate OpenAI-compatible inference servers.
#[derive(Debug, Parser)]
#[command(name = "evenload", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    // Not `Cli::parse`, which adds the usage of `evenload` to the line that refuses a foreign tool's flag.
    let cli = profile::parse(Cli::command(), std::env::args_os().collect())
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .unwrap_or_else(|error| error.exit());
    match cli.command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("evenload: {error:#}");
            ExitCode::FAILURE
        }
    }
}
