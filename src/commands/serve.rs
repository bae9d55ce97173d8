//! `evenload serve`.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Context;
use gateway::{Config, ConfigError, ConfigFile, LogFormat, LogLevel, Settings};
use tracing_subscriber::{EnvFilter, fmt};

/// Exit status for a configuration that cannot be used, as for wrong flags.
const USAGE: u8 = 2;

/// Flags of `evenload serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// YAML file with the same settings and more; flags go over it, and its changes are taken over.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Config,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let (settings, file) = match self.settings() {
            Ok(found) => found,
            Err(error) => {
                remark!("evenload: {error}");
                return Ok(ExitCode::from(USAGE));
            }
        };
        log(&settings);
        let gateway = gateway::start(settings)?;
        tracing::info!(
            address = %gateway.address(),
            admin_address = %gateway.admin_address(),
            policy = gateway.router().policy().name().label(),
            replicas = gateway.router().replicas().len(),
            "serving"
        );
        gateway::run(gateway, file).context("cannot wait for signals")?;
        Ok(ExitCode::SUCCESS)
    }

    /// The settings, and the file that they were read from.
    fn settings(self) -> Result<(Settings, Option<ConfigFile>), ConfigError> {
        let Some(path) = &self.config else { return Ok((self.flags.resolve()?, None)) };
        let file = ConfigFile::read(path, self.flags)?;
        Ok((file.settings()?, Some(file)))
    }
}

/// Logs to standard error. `RUST_LOG`, where it is set, says what.
fn log(settings: &Settings) {
    let level = match settings.log_level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colours = std::io::stderr().is_terminal();
    // A standard error that fails cannot be told of on standard error, and is no reason to stop serving.
    let builder = fmt()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_env_filter(filter)
        .log_internal_errors(false);
    match settings.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}
