//! The configuration of inference-perf 0.7.0: its keys, spellings and defaults, and those of ours.
//!
//! A file is read, flags go over it, what depends on the machine and the moment is filled in, and the rules between
//! keys are checked. An unknown key is an error that says where; a key that is known and not implemented is an error
//! that says so. Nothing is read but the text that is given, and no clock.

mod api;
mod check;
mod data;
mod extension;
mod lax;
mod load;
mod overrides;
mod refused;
mod replay;
mod report;
mod schema;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use api::{Api, ApiType, ResponseFormat, ResponseFormatType, Server, ServerType, TokenizerConfig};
pub use data::{ConversationReplay, Data, DataType, Distribution, DistributionType, LengthOr, SharedPrefix};
pub use extension::{ArrivalMode, Extension, SweepMode};
use lax::relax;
pub use load::{AdapterShare, Load, LoadType, Stage, Sweep, SweepType, Trace, TraceFormat};
pub use replay::{OtelReplay, SyntheticAgentic, VisionArena, WekaReplay};
pub use report::{
    BreakerMetrics, CircuitBreaker, CloudStorage, Goodput, LocalStorage, Metrics, MetricsType,
    PerRequestFields, PrometheusConfig, PrometheusReports, ReportConfig, RequestLifecycle, S3Storage,
    SessionLifecycle, Storage, Trigger, TriggerType,
};
pub use schema::Key;
use schema::{Described, closest, section};
use serde_json::Value;

use crate::{HIDDEN, is_secret_header};

section! {
    /// The whole file.
    Config {
        /// How requests are written.
        api: Api = Api::default();
        /// What is sent.
        data: Data = Data::default();
        /// When it is sent.
        load: Load = Load::default();
        /// Where the server's own figures come from.
        metrics: Option<Metrics> = None;
        /// Which reports are written.
        report: ReportConfig = ReportConfig::default();
        /// Where they go.
        storage: Storage = Storage::default();
        /// The server under load. Required.
        server: Option<Server> = None;
        /// Counts tokens.
        tokenizer: Option<TokenizerConfig> = None;
        /// What ends a run when requests go wrong.
        circuit_breakers: Option<Vec<CircuitBreaker>> = None;
        /// Keys that inference-perf does not have.
        evenload: Extension = Extension::default();
    }
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// The file does not say what it should.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// A flag does not say what it should.
    #[error("--{flag}: {message}")]
    Flag {
        /// The flag.
        flag: String,
        /// What is wrong.
        message: String,
    },
    /// Keys that do not go together.
    #[error("{key}: {message}")]
    Key {
        /// The key.
        key: String,
        /// What is wrong with it.
        message: String,
    },
}

/// What depends on the machine and the moment.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Cores of this machine.
    pub cores: u32,
    /// Milliseconds since 1970: the seed where none is given.
    pub now_ms: u64,
    /// What `{timestamp}` in paths becomes.
    pub timestamp: &'a str,
}

impl Config {
    /// Reads the text of a file; `path` is its name in errors.
    pub fn from_yaml(text: &str, path: &Path) -> Result<Self, ConfigError> {
        if text.lines().all(|line| line.trim_start().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        let options = serde_saphyr::options! { with_snippet: false };
        let config: Self = match serde_saphyr::from_str_with_options(text, options) {
            Ok(config) => config,
            Err(error) => Self::from_lax(text).map_err(|why| wrong(path, &error, why))?,
        };
        match config.endless_number() {
            None => Ok(config),
            Some(key) => Err(ConfigError::key(key, "a finite number is wanted")),
        }
    }

    /// The same with values that are not of their key's type, and can be brought to it; why they cannot, if that is known.
    fn from_lax(text: &str) -> Result<Self, Option<String>> {
        // A JSON value cannot hold them.
        let is_endless = |word: &str| ["inf", "nan"].contains(&word.trim_start_matches(['-', '+', '.']));
        let words = text.to_lowercase();
        if words
            .split([' ', ',', '[', ']', '{', '}', '\n'])
            .any(|word| word.contains('.') && is_endless(word))
        {
            return Err(Some("a finite number is wanted".to_owned()));
        }
        let mut value: Value = serde_saphyr::from_str(text).map_err(|_| None)?;
        relax(&mut value, "", &Self::all_keys()).map_err(Some)?;
        serde_json::from_value(value).map_err(|_| None)
    }

    /// The key of a number that is infinite or none at all. JSON, the form in which flags go over the file, has none.
    fn endless_number(&self) -> Option<String> {
        let text = self.to_yaml();
        let (key, _) = text.lines().filter_map(|line| line.rsplit_once([' '])).find(|(_, value)| {
            [".inf", "-.inf", "+.inf", ".nan"].iter().any(|number| value.eq_ignore_ascii_case(number))
        })?;
        Some(key.trim().trim_start_matches("- ").trim_end_matches([':', '-']).to_owned())
    }

    /// All keys, in the order of the file.
    pub fn all_keys() -> Vec<Key> {
        let mut keys = Vec::new();
        Self::keys("", &mut keys);
        keys
    }

    /// Fills in what depends on the machine and the moment, and checks the rules between keys.
    pub fn resolve(mut self, surroundings: Surroundings<'_>) -> Result<Self, ConfigError> {
        self.load.num_workers.get_or_insert(surroundings.cores.max(1));
        self.load.base_seed.get_or_insert(surroundings.now_ms);
        let path = &mut self.storage.local_storage.path;
        *path = path.replace("{timestamp}", surroundings.timestamp);
        refused::check(&self)?;
        check::check(&self)?;
        Ok(self)
    }

    /// The server; the default where none is named, which [`resolve`](Self::resolve) does not let pass.
    pub fn server(&self) -> Server {
        self.server.clone().unwrap_or_default()
    }

    /// The seed of everything random.
    pub fn seed(&self) -> u64 {
        self.load.base_seed.unwrap_or_default()
    }

    /// The same without its keys, to be shown and kept.
    pub fn without_secrets(&self) -> Self {
        let mut shown = self.clone();
        let key = shown.server.as_mut().and_then(|server| server.api_key.as_mut());
        let token = shown.tokenizer.as_mut().and_then(|tokenizer| tokenizer.token.as_mut());
        let headers = shown.api.headers.iter_mut().flatten();
        let headers = headers.filter(|(name, _)| is_secret_header(name)).map(|(_, value)| value);
        key.into_iter().chain(token).chain(headers).for_each(|secret| HIDDEN.clone_into(secret));
        shown
    }

    /// The text of a file that says the same.
    pub fn to_yaml(&self) -> String {
        serde_saphyr::to_string(self).unwrap_or_default()
    }
}

impl ConfigError {
    pub(crate) fn key(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Key { key: key.into(), message: message.into() }
    }
}

/// The error of a file; `why` says it by its key.
fn wrong(path: &Path, error: &serde_saphyr::Error, why: Option<String>) -> ConfigError {
    let location = error.location();
    let formatter = serde_saphyr::UserMessageFormatter;
    let message = serde_saphyr::MessageFormatter::format_message(&formatter, error).into_owned();
    ConfigError::Parse {
        path: path.into(),
        line: location.map_or(1, |location| location.line()),
        column: location.map_or(1, |location| location.column()),
        message: match (message.as_str(), why) {
            (message, _) if message.starts_with("unknown field") => with_suggestion(message),
            (_, Some(why)) => why,
            ("expected mapping start", None) => {
                "a section is wanted here: keys with values, as in `sweep: {type: linear}`".to_owned()
            }
            (message, None) => with_suggestion(message),
        },
    }
}

/// Adds the key that was probably meant to a message about an unknown one.
fn with_suggestion(message: &str) -> String {
    let parts = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    let Some((unknown, rest)) = parts else { return message.to_owned() };
    let (_, known) =
        rest.split_once("one of ").unwrap_or((rest, rest.rsplit(' ').next().unwrap_or_default()));
    let known = known.split(", ").map(|name| name.trim_matches('`'));
    match closest(unknown, known) {
        Some(meant) => format!("unknown key `{unknown}`; did you mean `{meant}`?"),
        None => format!("unknown key `{unknown}`{rest}"),
    }
}
