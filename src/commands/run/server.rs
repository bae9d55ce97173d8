//! The server under load: where it is, what it serves, and how requests to it are written.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use engine::{Fleet, Profile};
use loadgen::{Ask, ClientSettings, Identity, Options, Retries, Targets, TlsError};
use serde_json::{Map, Value};
use workload::{
    BodyOptions, MaxTokensField,
    inference_perf::{ApiType, Config, ConfigError, ServerType},
    write_body,
};

use super::lines::Lines;

/// Time limit for the list of models.
const MODELS_TIMEOUT: Duration = Duration::from_secs(10);
/// aiohttp's, which inference-perf leaves as it is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Of the Messages operation.
const ANTHROPIC_VERSION: &str = "2023-06-01";
/// A mock answers this many times faster than an L4.
const MOCK_SPEEDUP: f64 = 1000.0;

/// The server under load.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) targets: Targets,
    pub(super) adapters: Vec<String>,
    model: String,
    _mock: Option<Fleet>,
}

/// Whom to trust behind `https`, and what to show.
pub(super) fn trust(config: &Config) -> ClientSettings {
    let server = config.server();
    let identity = server.cert_path.zip(server.key_path);
    ClientSettings {
        insecure: config.evenload.insecure,
        authorities: None,
        identity: identity
            .map(|(certificates, key)| Identity { certificates: certificates.into(), key: key.into() }),
    }
}

impl Server {
    /// Finds the server and its model.
    pub(super) fn find(config: &Config, lines: &Lines) -> anyhow::Result<Self> {
        let given = config.server();
        let mock = match given.r#type {
            ServerType::Mock => Some(mock(config)?),
            _ => None,
        };
        let first = match &mock {
            Some(fleet) => format!("http://{}", fleet.addresses()[0]),
            None => given.base_url.clone(),
        };
        let urls = std::iter::once(&first).chain(&config.evenload.base_urls);
        let trust = trust(config);
        if let Some(identity) = &trust.identity {
            identity.check().map_err(|problem| of_identity(identity, &problem))?;
        }
        let targets =
            Targets::resolve_with(urls, &trust).map_err(|problem| wrong("server.base_url", &problem))?;
        if let Some((url, reason)) = targets.unresolved().next() {
            bail!("server.base_url: {url}: {reason}");
        }
        let models = models(config, &targets);
        let model = match (given.model_name, &models) {
            (Some(name), _) => name,
            (None, Ok(models)) => {
                let Some(first) = models.first() else {
                    bail!("{first} lists no models: give server.model_name")
                };
                if models.len() > 1 {
                    lines.warn(&format!("{first} is asked for, the first of {}", models.join(", ")));
                }
                first.clone()
            }
            (None, Err(problem)) => {
                bail!("{first} does not say what it serves ({problem}): give server.model_name")
            }
        };
        let adapters = config.load.lora_traffic_split.iter().flatten().map(|adapter| adapter.name.clone());
        let server = Self { targets, adapters: adapters.collect(), model, _mock: mock };
        match models {
            Ok(models) => {
                for name in server.adapters.iter().filter(|name| !models.contains(name)) {
                    lines.warn(&format!(
                        "the server does not list adapter {name}: its requests will probably fail"
                    ));
                }
            }
            Err(problem) => lines.warn(&format!("the models that the server has are not known: {problem}")),
        }
        Ok(server)
    }

    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// How requests are sent.
    pub(super) fn options(&self, config: &Config) -> Options {
        let (api, given) = (&config.api, config.server());
        let is_messages = api.r#type == ApiType::AnthropicMessages;
        let mut extra = Map::new();
        if let (Some(format), false) = (&api.response_format, is_messages) {
            extra.insert("response_format".to_owned(), format.body());
        }
        let body = BodyOptions {
            ignore_eos: given.ignore_eos,
            include_usage: true,
            max_tokens_field: MaxTokensField::MaxTokens,
            extra,
            ..BodyOptions::default()
        };
        let mut options =
            Options::new(Arc::new(move |request, history, out| write_body(request, history, &body, out)));
        let workers = config.load.num_workers.unwrap_or(1).max(1) as usize;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        options.threads =
            config.evenload.threads.map_or(workers.min((cores / 2).max(1)), |threads| threads as usize);
        options.headers =
            api.headers.iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
        options.headers.extend(key_header(config));
        if is_messages {
            options.headers.push(("anthropic-version".to_owned(), ANTHROPIC_VERSION.to_owned()));
        }
        options.names = false;
        // Single requests are of no session.
        let header = api.session_id_header_key.as_ref().filter(|_| config.data.has_sessions());
        options.session_header = header.cloned().unwrap_or_default();
        options.connect_timeout = CONNECT_TIMEOUT;
        options.retries = Retries {
            limit: config.load.request_retries,
            backoff: Duration::from_secs_f64(config.load.request_retry_backoff_sec),
        };
        let requests = &config.report.request_lifecycle;
        // What failed says why in its body, for the files of single requests and for circuit breakers.
        options.keep_bodies = requests.per_request || !config.load.circuit_breakers.is_empty();
        options
    }
}

/// The header that carries `server.api_key`, as the operation wants it, unless the user gives that header.
fn key_header(config: &Config) -> Option<(String, String)> {
    let key = config.server().api_key?;
    let (name, value) = match config.api.r#type {
        ApiType::AnthropicMessages => ("x-api-key", key),
        ApiType::Completion | ApiType::Chat => ("Authorization", format!("Bearer {key}")),
    };
    let is_given = config.api.headers.iter().flatten().any(|(given, _)| given.eq_ignore_ascii_case(name));
    (!is_given).then(|| (name.to_owned(), value))
}

fn wrong(key: &str, problem: &impl ToString) -> ConfigError {
    ConfigError::Key { key: key.to_owned(), message: problem.to_string() }
}

/// Which key names the file that cannot be used.
fn of_identity(identity: &Identity, problem: &TlsError) -> ConfigError {
    let is_key = matches!(problem, TlsError::File { path, .. } if *path == identity.key);
    wrong(if is_key { "server.key_path" } else { "server.cert_path" }, problem)
}

/// The names that the server lists.
fn models(config: &Config, targets: &Targets) -> Result<Vec<String>, String> {
    let given = config.api.headers.iter().flatten().map(|(name, value)| (name.clone(), value.clone()));
    let headers: Vec<(String, String)> = key_header(config).into_iter().chain(given).collect();
    let reply = Ask { headers: &headers, ..Ask::get("/v1/models", MODELS_TIMEOUT) }.send(targets, 0)?;
    if reply.status != 200 {
        return Err(format!("/v1/models answers with status {}", reply.status));
    }
    let list: Value = serde_json::from_slice(&reply.body).map_err(|error| format!("/v1/models: {error}"))?;
    let names = list["data"].as_array().into_iter().flatten();
    Ok(names.filter_map(|model| model["id"].as_str().map(ToOwned::to_owned)).collect())
}

/// A simulated engine, for `server.type: mock`.
fn mock(config: &Config) -> anyhow::Result<Fleet> {
    let profile = Profile { max_adapters: 64, ..Profile::l4() };
    let mut settings = engine::Config { speedup: MOCK_SPEEDUP, ..engine::Config::new(profile) };
    settings.model_names = config.server().model_name.map_or(settings.model_names, |name| vec![name]);
    let adapters = config.load.lora_traffic_split.iter().flatten();
    settings.adapters =
        adapters.map(|adapter| engine::Adapter { name: adapter.name.clone(), path: String::new() }).collect();
    Ok(engine::serve(settings)?)
}
