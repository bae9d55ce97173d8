//! evenload: a load balancer, load generators and a simulated engine for large language model inference.

// A closed pipe must not end a run: `print` is the one place that prints.
#![warn(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod print;
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
    let ended = cli.command.run().unwrap_or_else(|error| {
        remark!("evenload: {}", in_a_line(&error));
        ExitCode::FAILURE
    });
    match print::problem() {
        None => ended,
        Some(problem) => {
            remark!("evenload: cannot print: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes. Many errors say their cause themselves; it is not said again.
fn in_a_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let gone = || io::Error::from_raw_os_error(2);
        let telling = anyhow::Error::from(workload::Error::Read { path: "x".into(), source: gone() });
        assert_eq!(in_a_line(&telling), "cannot read x: No such file or directory (os error 2)");
        let silent = anyhow::Error::from(gone()).context("cannot read y").context("no start");
        assert_eq!(in_a_line(&silent), "no start: cannot read y: No such file or directory (os error 2)");
    }
}
