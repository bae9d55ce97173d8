//! The rules between keys.

use protocol::header_problem;

use super::{
    AdapterShare, ApiType, CircuitBreaker, Config, ConfigError, DataType, Distribution, DistributionType,
    LengthOr, Load, LoadType, ServerType, Stage, TriggerType,
};
use crate::{
    MAX_PROMPT_TOKENS,
    inference_perf::{
        Breaker,
        talks::{MARGIN, OUTPUT_TOKENS},
    },
};

type Checked = Result<(), ConfigError>;

/// Shares may miss 1 by this much: [0.7, 0.2, 0.1] adds up to 0.9999999999999999.
const SHARE_TOLERANCE: f64 = 1e-6;
/// The most of anything that a stage can ask for.
const MOST: f64 = 1e9;
/// Smallest rate or time that is taken, above 0.
const LEAST: f64 = 1e-6;
/// What `report.goodput.constraints` may hold.
const CONSTRAINTS: [&str; 5] = ["ttft", "tpot", "itl", "ntpot", "request_latency"];

pub(super) fn check(config: &Config) -> Checked {
    server(config)?;
    headers(config)?;
    load(&config.load)?;
    data(config)?;
    breakers(config)?;
    metrics(config)?;
    let constraints = config.report.goodput.iter().flat_map(|goodput| &goodput.constraints);
    for (name, limit) in constraints {
        let key = format!("report.goodput.constraints.{name}");
        require(CONSTRAINTS.contains(&name.as_str()), &key, || {
            format!("not one of {}", CONSTRAINTS.join(", "))
        })?;
        require(*limit > 0.0, &key, || "must be above 0 seconds".to_owned())?;
    }
    for percentile in &config.report.request_lifecycle.percentiles {
        require((0.0..=100.0).contains(percentile), "report.request_lifecycle.percentiles", || {
            format!("{percentile} is not from 0 to 100")
        })?;
    }
    require(config.evenload.threads != Some(0), "evenload.threads", || "must be at least 1".to_owned())?;
    let speeds = 1e-6..=1e6;
    require(speeds.contains(&config.evenload.trace_speed), "evenload.trace_speed", || {
        "must be from 1e-6 to 1e6".to_owned()
    })
}

fn require(holds: bool, key: &str, message: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(ConfigError::key(key, message())) }
}

fn server(config: &Config) -> Checked {
    let missing = || "required: name the server, as in http://localhost:8000".to_owned();
    match &config.server {
        None => require(false, "server.base_url", missing),
        Some(server) if server.r#type == ServerType::Mock => Ok(()),
        Some(server) => {
            let both = server.cert_path.is_some() == server.key_path.is_some();
            require(both, "server.cert_path", || {
                "goes with server.key_path, and the other way round".to_owned()
            })?;
            require(!server.base_url.trim().is_empty(), "server.base_url", missing)
        }
    }
}

/// Whatever becomes a header of the requests.
fn headers(config: &Config) -> Checked {
    let sound = |key: &str, name: &str, value: &str| match header_problem(name, value) {
        Some(why) => require(false, key, || why.to_owned()),
        None => Ok(()),
    };
    let api = &config.api;
    for (name, value) in api.headers.iter().flatten() {
        sound(&format!("api.headers.{}", name.escape_debug()), name, value)?;
    }
    let mut session = api.session_id_header_key.iter();
    session.try_for_each(|name| sound("api.session_id_header_key", name, ""))?;
    let key = config.server().api_key.unwrap_or_default();
    sound("server.api_key", "Authorization", &key)
}

fn load(load: &Load) -> Checked {
    let kind = load.r#type;
    let needs_stages = kind != LoadType::TraceReplay;
    require(!needs_stages || !load.stages.is_empty() || load.sweep.is_some(), "load.stages", || {
        "required: give stages, or a sweep".to_owned()
    })?;
    if let Some(sweep) = &load.sweep {
        let rates = matches!(kind, LoadType::Constant | LoadType::Poisson);
        require(rates, "load.sweep", || {
            format!("there are no rates to sweep with load.type {}", kind.word())
        })?;
        require(sweep.r#type.is_some(), "load.sweep.type", || "required: linear or geometric".to_owned())?;
        require(sweep.num_requests > 0, "load.sweep.num_requests", || "must be above 0".to_owned())?;
        require(sweep.num_stages > 0, "load.sweep.num_stages", || "must be above 0".to_owned())?;
        require(sweep.stage_duration > 0, "load.sweep.stage_duration", || "must be above 0".to_owned())?;
        time_limit("load.sweep.timeout", sweep.timeout)?;
    }
    for (number, given) in load.stages.iter().enumerate() {
        stage(kind, given, &format!("load.stages[{number}]"))?;
    }
    require(kind != LoadType::TraceReplay || load.trace.is_some(), "load.trace", || {
        "required with load.type trace_replay".to_owned()
    })?;
    if let Some(trace) = &load.trace {
        require(!trace.file.is_empty(), "load.trace.file", || "required".to_owned())?;
    }
    for (key, seconds) in [
        ("load.interval", load.interval),
        ("load.request_retry_backoff_sec", load.request_retry_backoff_sec),
        ("load.stage_teardown_grace_seconds", load.stage_teardown_grace_seconds),
    ] {
        require((0.0..1e9).contains(&seconds), key, || format!("{seconds} is no time in seconds"))?;
    }
    load.request_timeout.iter().try_for_each(|limit| time_limit("load.request_timeout", *limit))?;
    require(load.worker_max_concurrency > 0, "load.worker_max_concurrency", || "must be above 0".to_owned())?;
    if let Some(adapters) = &load.lora_traffic_split {
        let sum: f64 = adapters.iter().map(|adapter| adapter.split).sum();
        for (number, AdapterShare { split, .. }) in adapters.iter().enumerate() {
            require(
                (0.0..=1.0).contains(split),
                &format!("load.lora_traffic_split[{number}].split"),
                || format!("{split} is no share: it goes from 0 to 1"),
            )?;
        }
        require((sum - 1.0).abs() <= SHARE_TOLERANCE, "load.lora_traffic_split", || {
            format!("the shares add up to {sum}; they must add up to 1")
        })?;
        let named = adapters.iter().all(|adapter| !adapter.name.is_empty());
        require(named, "load.lora_traffic_split[].name", || "required".to_owned())?;
    }
    Ok(())
}

fn time_limit(key: &str, seconds: f64) -> Checked {
    require(seconds > 0.0 && seconds < MOST, key, || {
        format!("{seconds} is no time limit: it must be above 0 and below {MOST} seconds")
    })
}

fn stage(kind: LoadType, stage: &Stage, path: &str) -> Checked {
    let number = |name: &str, value: Option<f64>, required: bool| {
        let key = format!("{path}.{name}");
        match value {
            None => require(!required, &key, || format!("required with load.type {}", kind.word())),
            Some(value) => {
                require(value > 0.0, &key, || format!("{value} is not above 0"))?;
                require(value >= LEAST, &key, || format!("{value} is too little: at least {LEAST}"))?;
                require(value <= MOST, &key, || format!("{value} is too much: at most {MOST}"))
            }
        }
    };
    let integer = |value: Option<u64>| value.map(|value| value as f64);
    let absent = |name: &str, is_given: bool| {
        require(!is_given, &format!("{path}.{name}"), || {
            format!("has no meaning with load.type {}; take it out", kind.word())
        })
    };
    let rates = matches!(kind, LoadType::Constant | LoadType::Poisson);
    let sessions = kind == LoadType::TraceSessionReplay;
    number("rate", stage.rate, rates)?;
    number("duration", integer(stage.duration), rates)?;
    number("num_requests", integer(stage.num_requests), kind == LoadType::Concurrent)?;
    number("concurrency_level", stage.concurrency_level.map(f64::from), kind == LoadType::Concurrent)?;
    if kind != LoadType::Concurrent {
        absent("num_requests", stage.num_requests.is_some())?;
        absent("concurrency_level", stage.concurrency_level.is_some())?;
    }
    if sessions {
        absent("rate", stage.rate.is_some())?;
        absent("duration", stage.duration.is_some())?;
    }
    if sessions {
        let concurrent = stage.concurrent_sessions;
        require(concurrent.is_some(), &format!("{path}.concurrent_sessions"), || "required".to_owned())?;
    } else {
        absent("concurrent_sessions", stage.concurrent_sessions.is_some())?;
        absent("session_rate", stage.session_rate.is_some())?;
        absent("num_sessions", stage.num_sessions.is_some())?;
        absent("timeout", stage.timeout.is_some())?;
    }
    number("session_rate", stage.session_rate, false)?;
    number("num_sessions", integer(stage.num_sessions), false)?;
    number("timeout", stage.timeout, false)
}

fn data(config: &Config) -> Checked {
    let data = &config.data;
    for (key, given) in [
        ("data.input_distribution", &data.input_distribution),
        ("data.output_distribution", &data.output_distribution),
    ] {
        given.iter().try_for_each(|given| distribution(given, key))?;
    }
    if let Some(trace) = &data.trace {
        require(data.r#type == DataType::Random, "data.trace", || {
            "gives lengths to data.type random only".to_owned()
        })?;
        require(!trace.file.is_empty(), "data.trace.file", || "required".to_owned())?;
    }
    if let Some(shared) = &data.shared_prefix {
        let key = |name: &str| format!("data.shared_prefix.{name}");
        for (name, given) in [
            ("system_prompt_len", &shared.system_prompt_len),
            ("question_len", &shared.question_len),
            ("output_len", &shared.output_len),
        ] {
            length(given, &key(name))?;
        }
        for (name, older, newer) in [
            ("question_distribution", &shared.question_distribution, &shared.question_len),
            ("output_distribution", &shared.output_distribution, &shared.output_len),
        ] {
            let both = older.is_some() && matches!(newer, LengthOr::Distribution(_));
            require(!both, &key(name), || "says the same as a distribution in the newer key".to_owned())?;
            older.iter().try_for_each(|given| distribution(given, &key(name)))?;
        }
        require(shared.num_groups > 0, &key("num_groups"), || "must be above 0".to_owned())?;
        require(shared.num_prompts_per_group > 0, &key("num_prompts_per_group"), || {
            "must be above 0".to_owned()
        })?;
    }
    recordings(config)?;
    if let Some(replay) = &data.conversation_replay {
        let key = |name: &str| format!("data.conversation_replay.{name}");
        require(
            replay.shared_system_prompt_len <= MAX_PROMPT_TOKENS,
            &key("shared_system_prompt_len"),
            || format!("must be at most {MAX_PROMPT_TOKENS}"),
        )?;
        let longest = match &replay.output_tokens_per_turn {
            None => OUTPUT_TOKENS,
            Some(LengthOr::Number(number)) => *number,
            Some(LengthOr::Distribution(given)) if given.r#type == DistributionType::Fixed => given.mean,
            Some(LengthOr::Distribution(given)) => given.max as f64,
        };
        let model = replay.model_tokens();
        require(longest + f64::from(MARGIN) < f64::from(model), &key("max_model_len"), || {
            format!(
                "{model} leaves no room for a prompt: answers have up to {longest} tokens, and {MARGIN} are kept free"
            )
        })?;
        require(replay.num_conversations > 0, &key("num_conversations"), || "must be above 0".to_owned())?;
        for (name, given) in [
            ("dynamic_system_prompt_len", &replay.dynamic_system_prompt_len),
            ("turns_per_conversation", &replay.turns_per_conversation),
            ("input_tokens_per_turn", &replay.input_tokens_per_turn),
            ("output_tokens_per_turn", &replay.output_tokens_per_turn),
            ("tool_call_latency_sec", &replay.tool_call_latency_sec),
        ] {
            given.iter().try_for_each(|given| length(given, &key(name)))?;
        }
    }
    Ok(())
}

/// The sections of recorded sessions, and what they need.
fn recordings(config: &Config) -> Checked {
    let data = &config.data;
    for (kind, name, given) in [
        (
            DataType::OtelTraceReplay,
            "otel_trace_replay",
            data.otel_trace_replay.as_ref().map(|given| {
                (&given.trace_directory, &given.trace_files, given.use_static_model, &given.static_model_name)
            }),
        ),
        (
            DataType::WekaTraceReplay,
            "weka_trace_replay",
            data.weka_trace_replay.as_ref().map(|given| {
                (&given.trace_directory, &given.trace_files, given.use_static_model, &given.static_model_name)
            }),
        ),
    ] {
        let key = format!("data.{name}");
        let is_chosen = data.r#type == kind;
        require(is_chosen == given.is_some(), &key, || match is_chosen {
            true => format!("required with data.type {name}"),
            false => format!("has no meaning without data.type {name}"),
        })?;
        let Some((folder, files, is_static, model)) = given else { continue };
        require(folder.is_some() != files.is_some(), &key, || {
            "give either trace_directory or trace_files".to_owned()
        })?;
        require(!is_static || !model.is_empty(), &format!("{key}.static_model_name"), || {
            "required with use_static_model".to_owned()
        })?;
        require(config.load.r#type == LoadType::TraceSessionReplay, "load.type", || {
            format!("data.type {name} needs trace_session_replay")
        })?;
        require(config.api.r#type == ApiType::Chat, "api.type", || format!("data.type {name} needs chat"))?;
    }
    Ok(())
}

fn length(given: &LengthOr, key: &str) -> Checked {
    match given {
        LengthOr::Number(number) => {
            require((0.0..1e9).contains(number), key, || format!("{number} is no length"))
        }
        LengthOr::Distribution(given) => distribution(given, key),
    }
}

fn distribution(given: &Distribution, key: &str) -> Checked {
    let Distribution { min, max, mean, std_dev, variance, .. } = given;
    require((0..=*max).contains(min), key, || format!("min {min} and max {max}: 0 <= min <= max must hold"))?;
    require(mean.is_finite(), key, || format!("a mean of {mean}"))?;
    let both =
        std_dev.is_some_and(|std_dev| std_dev > 0.0) && variance.is_some_and(|variance| variance > 0.0);
    require(!both, key, || "std_dev and variance say the same; give one".to_owned())?;
    let deviation = given.deviation();
    require(deviation >= 0.0 && deviation.is_finite(), key, || "std_dev must be 0 or more".to_owned())
}

fn breakers(config: &Config) -> Checked {
    let known: &[CircuitBreaker] = config.circuit_breakers.as_deref().unwrap_or_default();
    for name in &config.load.circuit_breakers {
        require(known.iter().any(|breaker| breaker.name == *name), "load.circuit_breakers", || {
            format!("there is no circuit breaker {name:?} in circuit_breakers")
        })?;
    }
    for (number, breaker) in known.iter().enumerate() {
        let key = |name: &str| format!("circuit_breakers[{number}].{name}");
        require(!breaker.name.is_empty(), &key("name"), || "required".to_owned())?;
        require(!breaker.metrics.matches.is_empty(), &key("metrics.matches"), || {
            "give at least one".to_owned()
        })?;
        for trigger in &breaker.triggers {
            let window = trigger.window_sec.is_some_and(|window| window > 0.0 && window < 1e9);
            let sound = match trigger.r#type {
                TriggerType::Consecutive => trigger.threshold >= 1.0,
                TriggerType::RateOverWindow => window && (0.0..=1.0).contains(&trigger.threshold),
            };
            require(sound, &key("triggers"), || {
                "consecutive needs a threshold of 1 or more; rate_over_window a window_sec above 0 and a threshold \
                 from 0 to 1"
                    .to_owned()
            })?;
        }
    }
    Breaker::enabled(config).map(drop)
}

fn metrics(config: &Config) -> Checked {
    let Some(metrics) = &config.metrics else { return Ok(()) };
    require(metrics.r#type.is_some(), "metrics.type", || "required: prometheus".to_owned())?;
    let interval = metrics.prometheus.as_ref().map_or(0, |prometheus| prometheus.scrape_interval);
    require(interval < 1_000_000, "metrics.prometheus.scrape_interval", || {
        format!("{interval} is no time in seconds")
    })?;
    let url = metrics.prometheus.as_ref().and_then(|prometheus| prometheus.url.as_ref());
    require(url.is_none_or(|url| !url.trim().is_empty()), "metrics.prometheus.url", || "is empty".to_owned())
}
