//! Keys that are known and not implemented: each is refused by its name, never ignored.

use super::{Config, ConfigError, DataType};

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let data = &config.data;
    let shared_media = data.shared_prefix.as_ref().is_some_and(|shared| shared.multimodal.is_some());
    let managed = config.metrics.as_ref().and_then(|metrics| metrics.prometheus.as_ref());
    let kind = format!("data.type: {}", data.r#type.word());
    let refused: [(bool, &str, &str); 9] = [
        (data.r#type == DataType::SyntheticAgentic, &kind, "made-up agents"),
        (data.r#type == DataType::VisionArena, &kind, "pictures"),
        (data.multimodal.is_some(), "data.multimodal", "pictures, films and sound"),
        (shared_media, "data.shared_prefix.multimodal", "pictures, films and sound"),
        (data.use_chat_template, "data.use_chat_template", "chat templates; use api.type: chat"),
        (data.synthetic_agentic.is_some(), "data.synthetic_agentic", "made-up agents"),
        (data.visionarena.is_some(), "data.visionarena", "pictures"),
        (
            config.api.session_token_header_key.is_some(),
            "api.session_token_header_key",
            "tokens that the server hands out; api.session_id_header_key names sessions",
        ),
        (
            managed.is_some_and(|prometheus| prometheus.google_managed),
            "metrics.prometheus.google_managed",
            "managed Prometheus; give metrics.prometheus.url",
        ),
    ];
    let storage = &config.storage;
    let buckets = [
        (storage.google_cloud_storage.is_some(), "storage.google_cloud_storage"),
        (storage.simple_storage_service.is_some(), "storage.simple_storage_service"),
    ];
    let buckets = buckets.map(|(is_set, key)| (is_set, key, "object storage; reports go to local_storage"));
    match refused.into_iter().chain(buckets).find(|(is_set, ..)| *is_set) {
        Some((_, key, what)) => Err(ConfigError::key(key, format!("not implemented: {what}"))),
        None => recordings(config),
    }
}

/// What recorded sessions do not have here.
fn recordings(config: &Config) -> Result<(), ConfigError> {
    let data = &config.data;
    let mut refused = Vec::new();
    if let Some(given) = &data.otel_trace_replay {
        refused.extend([
            (
                given.inject_random_session_id,
                "otel_trace_replay.inject_random_session_id",
                "texts are sent as recorded",
            ),
            (
                given.bad_tool_call_handling != "none",
                "otel_trace_replay.bad_tool_call_handling",
                "no tool is forced",
            ),
            (
                given.hf_dataset_path.is_some(),
                "otel_trace_replay.hf_dataset_path",
                "nothing is fetched; give trace_directory",
            ),
            (
                given.filter.is_some(),
                "otel_trace_replay.filter",
                "Python is not run; keep the wanted files in a folder",
            ),
            (
                given.attribute_to_header_map.is_some(),
                "otel_trace_replay.attribute_to_header_map",
                "headers of single requests",
            ),
            (
                given.attribute_to_label_map.is_some(),
                "otel_trace_replay.attribute_to_label_map",
                "labels of single requests",
            ),
        ]);
    }
    if let Some(given) = &data.weka_trace_replay {
        refused.extend([
            (
                given.inject_random_session_id,
                "weka_trace_replay.inject_random_session_id",
                "equal ids stay equal text",
            ),
            (
                given.bad_tool_call_handling != "none",
                "weka_trace_replay.bad_tool_call_handling",
                "no tool is forced",
            ),
            (
                given.hf_dataset_path.is_some(),
                "weka_trace_replay.hf_dataset_path",
                "nothing is fetched; give trace_directory",
            ),
            (
                given.filter.is_some(),
                "weka_trace_replay.filter",
                "Python is not run; keep the wanted files in a folder",
            ),
        ]);
    }
    match refused.into_iter().find(|(is_set, ..)| *is_set) {
        Some((_, key, what)) => {
            Err(ConfigError::key(format!("data.{key}"), format!("not implemented: {what}")))
        }
        None => Ok(()),
    }
}
