//! `evenload run`: inference-perf's configuration, load and reports, at the rate that was asked for.
//!
//! The file is read as it is; flags of the same paths go over it. Stages run one after the other; what was measured is
//! on disk also when a stage fails, a circuit breaker opens or the user stops the run.

mod driver;
mod files;
mod keeping;
mod keys;
mod lines;
mod merge;
mod metrics;
mod output;
mod sending;
mod server;
mod sweep;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use report::compact_time;
use workload::inference_perf::{Config, ConfigError, Shard, Surroundings, Workload};

pub(crate) use merge::merge;

use super::{interrupt::INTERRUPTED, report::Analysis};

/// Exit status for a configuration that cannot be used, as for wrong flags.
const USAGE: u8 = 2;
/// Latest time of `--start-at`, from now.
const MAX_WAIT: Duration = Duration::from_hours(24);

/// Flags of `evenload run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Every key of the file is a flag, too: --load.worker_max_concurrency 200, \
                        --load.stages '[{\"rate\": 10, \"duration\": 60}]'. docs/run.md lists them.")]
pub(crate) struct Arguments {
    /// The configuration: a YAML file.
    #[arg(
        short = 'c',
        long = "config_file",
        alias = "config-file",
        value_name = "FILE",
        conflicts_with = "analyze"
    )]
    config_file: Option<PathBuf>,
    #[command(flatten)]
    analysis: Analysis,
    /// Least severity of what is said about the run on standard error.
    #[arg(long = "log-level", value_name = "LEVEL", default_value = "INFO", ignore_case = true)]
    log_level: lines::Level,
    /// Runs the I-th of N equal shares of the same schedule, I from 1: one on each of N machines.
    #[arg(long, value_name = "I/N", value_parser = str::parse::<Shard>)]
    shard: Option<Shard>,
    /// Starts the first stage at this moment, and the others by their lengths: seconds since 1970, to line up several
    /// machines.
    #[arg(long, value_name = "SECONDS", value_parser = moment)]
    start_at: Option<SystemTime>,
    #[command(flatten)]
    keys: keys::KeyFlags,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.carry_out() {
            // What the configuration names cannot be used, either.
            Err(error) if error.is::<ConfigError>() || error.is::<workload::Error>() => {
                remark!("evenload: {error:#}");
                Ok(ExitCode::from(USAGE))
            }
            Err(error) if error.is::<sweep::Stopped>() => {
                remark!("evenload: {error}");
                Ok(ExitCode::from(INTERRUPTED))
            }
            done => done,
        }
    }

    fn carry_out(self) -> anyhow::Result<ExitCode> {
        if let Some(drawn) = self.analysis.run() {
            return drawn;
        }
        let lines = lines::Lines::new(self.log_level);
        let config = self.config(&lines)?;
        if config.load.sweep.is_some() && self.shard.is_some_and(|shard| shard.count > 1) {
            remark!(
                "evenload: --shard: a sweep chooses its stages by what it finds; give load.stages to share them"
            );
            return Ok(ExitCode::from(USAGE));
        }
        if let Some(problem) = self.shard.and_then(|shard| too_few(&config, shard)) {
            remark!("evenload: --shard: {problem}");
            return Ok(ExitCode::from(USAGE));
        }
        let shown = config.without_secrets();
        say!("{}", shown.to_yaml().trim_end());
        let server = server::Server::find(&config, &lines)?;
        let prometheus = metrics::Prometheus::find(&config, &server)?;
        let mut workload = Workload::load(&config, server.model())?;
        workload.notes().iter().for_each(|note| lines.warn(note));
        let shard = self.shard.unwrap_or(Shard::WHOLE);
        let folder = files::Folder::create(&config)?;
        folder.write_text("config.yaml", &shown.to_yaml())?;
        let sending = sending::Sending::new(&config, &server, &lines, shard, workload.counter())?;
        let mut outcome = driver::Driver::new(&sending, self.start_at).run(&mut workload, &folder)?;
        let judged = output::write_reports(&shown, &folder, &outcome)?;
        // The verdict stands without the server's own figures.
        if let Err(problem) = metrics::write(&sending, prometheus.as_ref(), &folder, &outcome) {
            outcome.problem.get_or_insert(problem);
        }
        let code = output::conclude(&config, &lines, &folder, &outcome, &judged)?;
        let health = &outcome.run.health;
        let by_hand = health.interrupted && health.ended_by.is_none();
        Ok(if by_hand { ExitCode::from(INTERRUPTED) } else { code })
    }

    /// The effective configuration, or what is wrong with it.
    fn config(&self, lines: &lines::Lines) -> anyhow::Result<Config> {
        let now = SystemTime::now();
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let surroundings = Surroundings {
            cores,
            now_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            timestamp: &compact_time(now),
        };
        let config = match &self.config_file {
            None if self.keys.is_empty() => {
                bail!("no configuration: give --config_file FILE, or keys as flags, or --analyze DIR")
            }
            None => Config::default(),
            Some(path) => Config::from_yaml(&read(path)?, path)?,
        };
        let config = self.keys.iter().try_fold(config, |config, (key, value)| config.set(key, value))?;
        let config = config.resolve(surroundings)?;
        let seed = config.seed();
        lines
            .info(&format!("seed {seed}: --load.base_seed {seed} makes the same requests at the same times"));
        Ok(config)
    }
}

/// What cannot be shared out, because there is less of it than shares: each would send one at a time at least.
fn too_few(config: &Config, shard: Shard) -> Option<String> {
    let levels = (0..).zip(&config.load.stages).flat_map(|(number, stage)| {
        let sessions = stage.concurrent_sessions.filter(|sessions| *sessions > 0);
        [("concurrency_level", stage.concurrency_level), ("concurrent_sessions", sessions)]
            .map(|(name, level)| (format!("load.stages[{number}].{name}"), level))
    });
    let (key, level) =
        levels.filter_map(|(key, level)| Some((key, level?))).find(|(_, level)| *level < shard.count)?;
    Some(format!(
        "{key} is {level}, which {} shares cannot divide: raise it, or use fewer shares",
        shard.count
    ))
}

fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|error| ConfigError::Flag {
        flag: "config_file".to_owned(),
        message: format!("cannot read {}: {error}", path.display()),
    })
}

fn moment(text: &str) -> Result<SystemTime, String> {
    let seconds: f64 =
        text.parse().map_err(|_| "give seconds since 1970, as date +%s prints them".to_owned())?;
    let since = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    let moment = UNIX_EPOCH.checked_add(since).ok_or_else(|| "that is more than a day away".to_owned())?;
    match moment.duration_since(SystemTime::now()) {
        Ok(wait) if wait > MAX_WAIT => Err("that is more than a day away".to_owned()),
        Ok(_) => Ok(moment),
        Err(_) => Err("that moment has passed".to_owned()),
    }
}
