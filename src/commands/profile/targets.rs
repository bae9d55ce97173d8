//! The servers: their URLs, how they share the load, and what is asked of them before and after the measured phase.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use loadgen::{
    Ask, AskPath, BeforePhase, ClientSettings, Control, Options, Reply, RoundRobin, Routed, Targets,
    UrlChooser,
};
use protocol::Endpoint;
use report::PhaseShape;
use routing::PolicyName;
use workload::{BodyOptions, MaxTokensField, Prompt, Request, Tokenizer, write_body};

use super::{
    Arguments,
    flags::{EndpointFlags, ExportLevel, WaitMode},
};
use crate::commands::counting::count_prompts;

/// Time limit of one look at whether a server is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two looks at the user's signals.
const LOOK: Duration = Duration::from_millis(20);

/// The servers of a run.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) targets: Arc<Targets>,
    /// Pages beside those of the targets.
    pub(super) other_pages: Option<Targets>,
    /// The policy that shares the load, unless that is AIPerf's own.
    pub(super) routed: Option<Arc<Routed>>,
}

/// AIPerf's switch for certificates is a variable of the environment.
const VERIFY: &str = "AIPERF_HTTP_SSL_VERIFY";

/// Whom to trust, by that variable.
fn trust(verify: Option<&str>) -> anyhow::Result<ClientSettings> {
    let insecure = match verify.map(str::to_ascii_lowercase).as_deref() {
        None | Some("1" | "true" | "t" | "yes" | "y" | "on") => false,
        Some("0" | "false" | "f" | "no" | "n" | "off") => true,
        Some(other) => bail!("{VERIFY} is {other:?}; it can be true or false"),
    };
    Ok(ClientSettings { insecure, ..ClientSettings::default() })
}

/// Host and port of a URL, as they are written.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

impl Servers {
    pub(super) fn new(arguments: &Arguments, seed: u64) -> anyhow::Result<Self> {
        let endpoint = &arguments.endpoint;
        let trust = trust(std::env::var(VERIFY).ok().as_deref())?;
        let targets = Arc::new(Targets::resolve_with(&endpoint.url, &trust)?);
        for (url, reason) in targets.unresolved() {
            tracing::warn!("{url}: {reason}; its requests will fail");
        }
        let routed = match endpoint.url_strategy {
            PolicyName::RoundRobin => None,
            policy => Some(Arc::new(Routed::new(policy.into(), &targets, seed)?)),
        };
        // A page of one of the URLs is read anyway.
        let own: Vec<&str> = endpoint.url.iter().map(|url| host(url)).collect();
        let is_own = |page: &&String| !(page.ends_with("/metrics") && own.contains(&host(page)));
        let pages: Vec<String> = arguments.output.server_metrics.iter().filter(is_own).cloned().collect();
        let other_pages = (!pages.is_empty())
            .then(|| Targets::resolve_with(&pages, &trust))
            .transpose()
            .context("--server-metrics")?;
        Ok(Self { targets, other_pages, routed })
    }

    pub(super) fn urls(&self) -> Vec<String> {
        self.targets.names().map(ToString::to_string).collect()
    }

    fn chooser(&self) -> Arc<dyn UrlChooser> {
        match &self.routed {
            Some(routed) => Arc::clone(routed) as Arc<dyn UrlChooser>,
            None => Arc::new(RoundRobin),
        }
    }

    /// How requests are sent.
    pub(super) fn options(
        &self,
        arguments: &Arguments,
        run_name: &str,
        counter: Option<&Arc<Tokenizer>>,
    ) -> Options {
        let (endpoint, output) = (&arguments.endpoint, &arguments.output);
        let body = body_options(arguments);
        let mut options =
            Options::new(Arc::new(move |request, history, out| write_body(request, history, &body, out)));
        let counts = counter.is_some();
        options.threads = output.workers_max.into();
        options.precise = arguments.own.precise_pacing;
        options.kernel_stamps = arguments.own.kernel_timestamps;
        options.reuse = endpoint.connection_reuse_strategy.into();
        options.headers = arguments.input.header.concat();
        options.api_key.clone_from(&endpoint.api_key);
        options.session_header.clone_from(&endpoint.session_header);
        options.path.clone_from(&endpoint.custom_endpoint);
        run_name.clone_into(&mut options.run_name);
        options.count_prompt = counter.map(|counter| count_prompts(Arc::clone(counter), false));
        options.keep_answers =
            counts || output.export_outputs_json || output.export_level == ExportLevel::Raw;
        options.content_needed = true;
        options.keep_bodies = output.export_level == ExportLevel::Raw;
        options.chooser = self.chooser();
        options
    }

    /// Waits until every server is ready, or the user has had enough.
    pub(super) fn wait_until_ready(&self, arguments: &Arguments, control: &Control) -> anyhow::Result<()> {
        let endpoint = &arguments.endpoint;
        if endpoint.wait_for_model_timeout.is_zero() {
            return Ok(());
        }
        let until = Instant::now() + endpoint.wait_for_model_timeout;
        for (target, url) in (0..self.targets.count()).zip(self.targets.names()) {
            while let Some(Err(problem)) = self.look(arguments, target, control) {
                if Instant::now() + endpoint.wait_for_model_interval > until {
                    let waited = endpoint.wait_for_model_timeout.as_secs_f64();
                    bail!("{url} was not ready within --wait-for-model-timeout {waited}: {problem}");
                }
                tracing::info!("Waiting for {url}: {problem}");
                control.wait(endpoint.wait_for_model_interval);
            }
        }
        Ok(())
    }

    /// Whether a server is ready; nothing if the user has had enough. The question is asked on a thread of its own,
    /// because a server that is still loading may leave it open for a long time.
    fn look(&self, arguments: &Arguments, target: u16, control: &Control) -> Option<Result<(), String>> {
        if control.stops() > 0 {
            return None;
        }
        let (done, looked) = mpsc::channel();
        let (arguments, targets) = (arguments.clone(), Arc::clone(&self.targets));
        thread::spawn(move || done.send(is_ready(&arguments, &targets, target)));
        while control.stops() == 0 {
            match looked.recv_timeout(LOOK) {
                Ok(result) => return Some(result),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Some(Err("the look at it broke down".to_owned()));
                }
            }
        }
        None
    }

    /// Empties the servers' prefix caches.
    pub(super) fn reset_caches(&self, arguments: &Arguments) -> anyhow::Result<()> {
        let EndpointFlags { reset_kv_cache_path: path, reset_kv_cache_timeout_seconds: timeout, .. } =
            &arguments.endpoint;
        if arguments.endpoint.reset_kv_cache {
            post_to_all(arguments, &self.targets, path, *timeout).context("--reset-kv-cache")?;
            tracing::info!("Prefix caches were reset");
        }
        Ok(())
    }

    /// Starts the servers' profilers before the measured phase, which begins when all have answered.
    pub(super) fn before_phase(&self, arguments: &Arguments, shapes: &[PhaseShape]) -> Option<BeforePhase> {
        let measured: Vec<bool> = shapes.iter().map(|shape| shape.measured).collect();
        let (arguments, targets) = (arguments.clone(), Arc::clone(&self.targets));
        arguments.endpoint.server_profiler.then(|| -> BeforePhase {
            Arc::new(move |phase| {
                if measured.get(usize::from(phase)) == Some(&true) {
                    profiler(&arguments, &targets, &arguments.endpoint.server_profiler_start_path);
                }
            })
        })
    }

    /// Stops them.
    pub(super) fn stop_profiler(&self, arguments: &Arguments) {
        if arguments.endpoint.server_profiler {
            profiler(arguments, &self.targets, &arguments.endpoint.server_profiler_stop_path);
        }
    }
}

fn is_ready(arguments: &Arguments, targets: &Targets, target: u16) -> Result<(), String> {
    let endpoint = &arguments.endpoint;
    let headers = headers(arguments);
    let model = endpoint.model_names.first().map_or("", String::as_str);
    if endpoint.wait_for_model_mode != WaitMode::Inference {
        let ask = Ask { headers: &headers, ..Ask::get("/v1/models", READY_TIMEOUT) };
        let reply = success(ask.send(targets, target)?)?;
        if !String::from_utf8_lossy(&reply.body).contains(model) {
            return Err(format!("it does not serve {model:?}"));
        }
    }
    if endpoint.wait_for_model_mode != WaitMode::Models {
        let operation = endpoint.endpoint_type.operation();
        let mut request = Request::new(operation, model, Prompt::Text("Hello".into()));
        (request.stream, request.output_tokens) = (false, (operation != Endpoint::Embeddings).then_some(1));
        let mut body = Vec::new();
        write_body(&request, &[], &body_options(arguments), &mut body);
        let path = AskPath::Operation(operation, endpoint.custom_endpoint.as_deref());
        let ask = Ask { method: "POST", path, body: &body, headers: &headers, timeout: READY_TIMEOUT };
        success(ask.send(targets, target)?)?;
    }
    Ok(())
}

/// Starts or stops the servers' profilers; the run goes on without them.
fn profiler(arguments: &Arguments, targets: &Targets, path: &str) {
    let timeout = arguments.endpoint.server_profiler_timeout_seconds;
    if let Err(problem) = post_to_all(arguments, targets, path, timeout).context("--server-profiler") {
        tracing::warn!("{problem:#}");
    }
}

fn post_to_all(
    arguments: &Arguments,
    targets: &Targets,
    path: &str,
    timeout: Duration,
) -> anyhow::Result<()> {
    let headers = headers(arguments);
    for (target, url) in (0..targets.count()).zip(targets.names()) {
        let ask = Ask { method: "POST", path: AskPath::Below(path), body: &[], headers: &headers, timeout };
        let reply = ask.send(targets, target).and_then(success);
        reply.map_err(|problem| anyhow::anyhow!("{url}: POST {path}: {problem}"))?;
    }
    Ok(())
}

fn success(reply: Reply) -> Result<Reply, String> {
    match reply.status {
        200..=299 => Ok(reply),
        status => {
            let message = protocol::error_message(&reply.body).unwrap_or_default();
            Err(format!("status {status} {message}").trim_end().to_owned())
        }
    }
}

/// The user's headers, and the key, for requests beside the run.
fn headers(arguments: &Arguments) -> Vec<(String, String)> {
    let key =
        arguments.endpoint.api_key.iter().map(|key| ("Authorization".to_owned(), format!("Bearer {key}")));
    key.chain(arguments.input.header.concat()).collect()
}

/// What bodies say beyond their requests.
pub(super) fn body_options(arguments: &Arguments) -> BodyOptions {
    let endpoint = &arguments.endpoint;
    let extra = arguments.input.extra_inputs.iter().flat_map(|inputs| inputs.clone());
    BodyOptions {
        include_usage: true,
        continuous_usage: endpoint.per_chunk_usage,
        max_tokens_field: if endpoint.use_legacy_max_tokens {
            MaxTokensField::MaxTokens
        } else {
            MaxTokensField::MaxCompletionTokens
        },
        extra: extra.collect(),
        ..BodyOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_checked_unless_the_variable_says_no() {
        for (value, insecure) in
            [(None, false), (Some("True"), false), (Some("False"), true), (Some("0"), true)]
        {
            assert_eq!(trust(value).unwrap().insecure, insecure, "{value:?}");
        }
        assert!(trust(Some("maybe")).unwrap_err().to_string().contains("true or false"));
    }
}
