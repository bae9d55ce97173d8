//! The configuration in the files, in the shape of AIPerf's own, whose reader takes no key and no word that it does not
//! know. What is not set is left out.

use report::{Object, PhaseShape};
use serde_json::json;

use super::{
    Arguments,
    files::Files,
    flags::{ArrivalPattern, InputFlags},
    plan::Made,
};

/// `input_config`
pub(super) fn input_config(
    arguments: &Arguments,
    made: &Made,
    files: &Files,
    seed: u64,
    urls: &[String],
) -> serde_json::Value {
    let (endpoint, input) = (&arguments.endpoint, &arguments.input);
    let phases = made.shapes.iter().zip(&made.expected).zip(&made.durations);
    let phases = phases.map(|((shape, expected), duration)| {
        let mut phase = Object::default();
        phase.set("name", &shape.name);
        phase.set("kind", if shape.measured { "profiling" } else { "warmup" });
        phase.set("type", law(arguments, made, shape));
        set(&mut phase, "requests", *expected);
        set(&mut phase, "duration", duration.map(|time| time.as_secs_f64()));
        let warm_up = arguments.load.warm_up.num_warmup_sessions;
        let sessions =
            if shape.measured { arguments.load.conversation_num.first().copied() } else { warm_up };
        set(&mut phase, "sessions", sessions);
        set(&mut phase, "concurrency", shape.concurrency);
        set(&mut phase, "rate", shape.target_rate);
        set(
            &mut phase,
            "users",
            arguments.load.num_users.first().filter(|_| follows_users(arguments, shape)),
        );
        set(
            &mut phase,
            "smoothness",
            arguments.load.arrival_smoothness.filter(|_| shape.target_rate.is_some()),
        );
        json!(phase)
    });
    json!({
        "models": { "items": endpoint.model_names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>() },
        "endpoint": {
            "urls": urls,
            "type": endpoint.endpoint_type.name(),
            "streaming": endpoint.streams(),
            "timeout": endpoint.request_timeout_seconds.as_secs_f64(),
        },
        "datasets": [dataset(input, seed)],
        "phases": phases.collect::<Vec<_>>(),
        "artifacts": { "dir": files.directory.display().to_string() },
        "tokenizer": arguments.output.tokenizer.as_ref().map_or_else(|| json!({}), |name| json!({ "name": name })),
    })
}

fn dataset(input: &InputFlags, seed: u64) -> Object {
    let mut dataset = Object::default();
    dataset.set("name", "main");
    dataset.set("type", if input.is_synthetic() { "synthetic" } else { "file" });
    set(&mut dataset, "path", input.input_file.as_ref().map(|path| path.display().to_string()));
    set(&mut dataset, "entries", input.num_dataset_entries);
    dataset.set("random_seed", seed);
    if input.is_synthetic() {
        let length = |means: &[u32], spreads: &[f64]| {
            let spread = spreads.first().copied().unwrap_or_default();
            let mean = f64::from(*means.first()?);
            Some(if spread > 0.0 {
                json!({ "mean": mean, "stddev": spread })
            } else {
                json!({ "mean": mean })
            })
        };
        let mut prompts = Object::default();
        set(&mut prompts, "isl", length(&input.isl, &input.isl_stddev));
        set(&mut prompts, "osl", length(&input.osl, &input.osl_stddev));
        dataset.nest("prompts", prompts);
    }
    dataset
}

/// How a phase is paced, in AIPerf's word.
fn law(arguments: &Arguments, made: &Made, shape: &PhaseShape) -> &'static str {
    let (load, warm_up) = (&arguments.load, &arguments.load.warm_up);
    let law = if shape.measured { None } else { warm_up.warmup_arrival_pattern }.or(load.arrival_pattern);
    match law {
        _ if follows_users(arguments, shape) => "user_centric",
        _ if shape.measured && made.replays => "fixed_schedule",
        _ if shape.target_rate.is_none() => "concurrency",
        Some(ArrivalPattern::Constant) => "constant",
        Some(ArrivalPattern::Gamma) => "gamma",
        None if load.arrival_smoothness.is_some() => "gamma",
        None | Some(ArrivalPattern::Poisson | ArrivalPattern::ConcurrencyBurst) => "poisson",
    }
}

fn follows_users(arguments: &Arguments, shape: &PhaseShape) -> bool {
    shape.measured && arguments.load.user_centric_rate.is_some()
}

fn set(object: &mut Object, key: &str, value: Option<impl serde::Serialize>) {
    if let Some(value) = value {
        object.set(key, value);
    }
}
