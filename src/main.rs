//! evenload: a load balancer, load generators and a simulated engine for large language model inference.

mod commands;

use std::process::ExitCode;

use clap::Parser;

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
    match Cli::parse().command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("evenload: {error:#}");
            ExitCode::FAILURE
        }
    }
}
