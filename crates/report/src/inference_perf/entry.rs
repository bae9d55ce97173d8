//! An entry of `per_request_lifecycle_metrics.json`: what one request was, and what came of it.
//!
//! Times are seconds on the run's clock. `scheduled_time`, `stage_id`, `request_id`, `session_id`, `status` and `url`
//! are additions: with them every figure can be worked out again. `scheduled_time` is the planned one, also of a turn
//! that had to wait for the one before it. `session_id` is null where requests have no sessions.

use std::time::Duration;

use protocol::SseSplitter;
use serde_json::Value;

use super::{
    Settings,
    collector::{Latencies, planned, start, token_gaps},
    failures::{error_type, message},
};
use crate::{Chunk, Count, CountSource, Object, Outcome, Record};

/// Which parts an entry has.
#[derive(Clone, Copy, Debug)]
pub struct EntryFields {
    /// The request's body.
    pub request: bool,
    /// The answer's body.
    pub response: bool,
    /// Lengths and times.
    pub info: bool,
    /// The data of the events, within the lengths and times.
    pub response_chunks: bool,
    /// Latencies.
    pub computed_metrics: bool,
}

/// What the record does not hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct EntryBodies<'a> {
    /// The request's body.
    pub request: &'a str,
    /// The answer's body, as it came.
    pub response: &'a str,
    /// The server.
    pub url: &'a str,
    /// The model is an adapter.
    pub is_adapter: bool,
}

/// The entry of one request; nothing if it was not sent.
pub fn entry(
    record: &Record,
    bodies: EntryBodies<'_>,
    fields: EntryFields,
    settings: &Settings,
) -> Option<Object> {
    let start = start(record)?;
    let latencies = Latencies::of(record, settings.streaming);
    let mut object = Object::default();
    object.set("start_time", start.as_secs_f64());
    object.set("end_time", record.done.as_secs_f64());
    object.set("scheduled_time", planned(record).as_secs_f64());
    object.set("stage_id", record.phase);
    object.set("request_id", record.index);
    object.set("session_id", settings.has_sessions.then(|| record.session.to_string()));
    object.set("status", record.status);
    object.set("url", bodies.url);
    if fields.request {
        object.set("request", bodies.request);
    }
    if fields.response {
        object.set("response", bodies.response);
    }
    if fields.info {
        object.nest("info", info(record, bodies, fields, settings));
    }
    if fields.computed_metrics {
        object.nest("computed_metrics", computed(record, &latencies, settings));
    }
    if record.outcome.is_success() {
        object.set("error", Value::Null);
    } else {
        let mut error = Object::default();
        error.set("error_type", error_type(record));
        let words = match record.outcome {
            Outcome::Status(..) if !bodies.response.is_empty() => bodies.response.to_owned(),
            _ => message(record),
        };
        error.set("error_msg", words);
        object.nest("error", error);
    }
    Some(object)
}

fn info(record: &Record, bodies: EntryBodies<'_>, fields: EntryFields, settings: &Settings) -> Object {
    // Nobody counted the prompt of a failure.
    let input = if record.outcome.is_success() { record.input_tokens.tokens } else { 0 };
    let mut request = Object::default();
    request.set("text", serde_json::json!({ "input_tokens": input }));
    ["image", "video", "audio"].into_iter().for_each(|media| request.set(media, Value::Null));
    let mut info = Object::default();
    info.nest("request_metrics", request);
    let answered = record.outcome.is_success();
    info.nest("response_metrics", answered.then(|| response_metrics(record, bodies, fields, settings)));
    let user = match settings.has_sessions {
        true => {
            serde_json::json!({ "user_session": record.session.to_string(), "chat_round": record.turn + 1 })
        }
        false => serde_json::json!({}),
    };
    info.set("extra_info", user);
    info.set("lora_adapter", bodies.is_adapter.then_some(&*record.model));
    info.set("graph_event_id", Value::Null);
    info.set("labels", serde_json::json!({}));
    if record.retries > 0 {
        info.set("retries_attempted", record.retries);
        info.set("retries_recovered", answered);
        info.set("retry_wasted_sec", record.retried_for.as_secs_f64());
    }
    info.set("input_tokens", input);
    info
}

fn response_metrics(
    record: &Record,
    bodies: EntryBodies<'_>,
    fields: EntryFields,
    settings: &Settings,
) -> Object {
    let times: Vec<f64> = match settings.streaming {
        true => record.chunks.iter().map(|chunk| chunk.at.as_secs_f64()).collect(),
        false => Vec::new(),
    };
    let tokens = record.chunks.iter().filter(|_| settings.streaming);
    let times_of = |chunk: &Chunk| std::iter::repeat_n(chunk.at.as_secs_f64(), chunk.tokens as usize);
    let token_times: Vec<f64> = tokens.flat_map(times_of).take(most(record)).collect();
    let mut response = Object::default();
    response.set("output_tokens", record.output_tokens.tokens);
    response.set("server_usage", usage(record));
    if fields.response_chunks {
        response.set("response_chunks", events(bodies.response.as_bytes()));
    }
    response.set("chunk_times", times);
    response.set("output_token_times", token_times);
    response
}

/// Tokens that are believed: a server may claim any number, but each of them takes a byte at least.
fn most(record: &Record) -> usize {
    usize::try_from(record.response_bytes).unwrap_or(usize::MAX)
}

/// What the server counted; nothing if it did not.
fn usage(record: &Record) -> Option<Value> {
    let counted = |count: Count| (count.source == CountSource::Usage).then_some(count.tokens);
    let (prompt, completion) = (counted(record.input_tokens)?, counted(record.output_tokens)?);
    let mut usage = serde_json::json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": u64::from(prompt) + u64::from(completion),
    });
    if let Some(cached) = record.cached_tokens {
        usage["prompt_tokens_details"] = serde_json::json!({ "cached_tokens": cached });
    }
    Some(usage)
}

fn computed(record: &Record, latencies: &Latencies, settings: &Settings) -> Object {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let gaps: Vec<f64> = token_gaps(record)
        .filter(|_| settings.streaming)
        .take(most(record))
        .map(|gap| gap.as_secs_f64())
        .collect();
    let mut object = Object::default();
    object.set("request_latency", seconds(latencies.request));
    object.set("normalized_time_per_output_token", seconds(latencies.ntpot));
    object.set("time_to_first_token", seconds(latencies.ttft));
    object.set("time_per_output_token", seconds(latencies.tpot));
    object.set("inter_token_latency", seconds(latencies.itl));
    object.set("inter_token_latencies", gaps);
    object.set("input_tokens", record.input_tokens.tokens);
    object.set("output_tokens", record.output_tokens.tokens);
    let [ttft, tpot] = settings.header_limits;
    object.set("ttft_slo_sec", ttft);
    object.set("tpot_slo_sec", tpot);
    object
}

/// The data of the events of a stream; a body that is none has none.
fn events(body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    if !body.trim_ascii_start().starts_with(b"{") {
        let mut splitter = SseSplitter::new();
        let mut keep = |data: &[u8]| found.push(String::from_utf8_lossy(data).into_owned());
        splitter.feed(body, |event| keep(event.data));
        splitter.finish(|event| keep(event.data));
    }
    found
}

/// Moves all times of an entry, as it was read, by seconds.
pub fn shift_entry(entry: &mut Value, by: f64) {
    for path in [
        "/start_time",
        "/end_time",
        "/scheduled_time",
        "/info/response_metrics/chunk_times",
        "/info/response_metrics/output_token_times",
    ] {
        let times = match entry.pointer_mut(path) {
            Some(Value::Array(times)) => times.iter_mut().collect(),
            Some(time) => vec![time],
            None => Vec::new(),
        };
        for time in times {
            if let Some(seconds) = time.as_f64() {
                *time = (seconds + by).into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sample::request;

    const ALL: EntryFields = EntryFields {
        request: true,
        response: true,
        info: true,
        response_chunks: true,
        computed_metrics: true,
    };

    fn of(response: &str) -> Value {
        let bodies = EntryBodies { response, ..EntryBodies::default() };
        let settings = Settings { streaming: true, ..Settings::default() };
        json!(entry(&request(1000, 50, 10, 2), bodies, ALL, &settings).unwrap())
    }

    #[test]
    fn chunks_are_the_events_of_a_stream() {
        let chunks = |response: &str| of(response)["info"]["response_metrics"]["response_chunks"].clone();
        assert_eq!(chunks("data: {\"a\": 1}\n\ndata: [DONE]\n\n"), json!(["{\"a\": 1}", "[DONE]"]));
        assert_eq!(chunks("{\"choices\": []}"), json!([]));
    }

    #[test]
    fn no_more_token_times_than_bytes_came() {
        let mut record = request(1000, 50, 10, 3);
        record.chunks[1].tokens = u32::MAX;
        let settings = Settings { streaming: true, ..Settings::default() };
        let entry = json!(entry(&record, EntryBodies::default(), ALL, &settings).unwrap());
        let times = entry["info"]["response_metrics"]["output_token_times"].as_array().unwrap();
        assert_eq!(times.len() as u64, record.response_bytes);
        let mut books = super::super::Collector::new(std::sync::Arc::new(settings));
        books.push(&record);
        assert_eq!(books.answered(), 1);
    }

    #[test]
    fn a_refusal_has_its_body_and_no_figures_of_an_answer() {
        let refused = crate::sample::failure(0, 5, Outcome::Status(503, "busy".to_owned()));
        let body = r#"{"error": {"message": "busy"}}"#;
        let bodies = EntryBodies { response: body, ..EntryBodies::default() };
        let entry = json!(entry(&refused, bodies, ALL, &Settings::default()).unwrap());
        assert_eq!(entry["error"], json!({"error_type": "HTTP Error 503", "error_msg": body}));
        assert_eq!((&entry["info"]["response_metrics"], &entry["session_id"]), (&Value::Null, &Value::Null));
        assert_eq!(entry["info"]["extra_info"], json!({}));
    }

    #[test]
    fn all_times_of_an_entry_move() {
        let mut entry = of("");
        shift_entry(&mut entry, 100.0);
        let info = &entry["info"]["response_metrics"];
        assert_eq!((&entry["start_time"], &entry["scheduled_time"]), (&json!(101.0), &json!(101.0)));
        assert_eq!((&entry["end_time"], &info["chunk_times"]), (&json!(101.06), &json!([101.05, 101.06])));
        assert_eq!(info["output_token_times"], info["chunk_times"]);
        assert_eq!(entry["computed_metrics"]["request_latency"], 0.06, "a length is no time");
    }
}
