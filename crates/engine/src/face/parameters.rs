//! What a request may say about the answer: checked as vLLM checks it, and what this engine cannot do is refused.

use protocol::Endpoint;
use serde::Deserialize;

use super::{failure::Failure, members::Members, reply::StreamUsage};

/// How an answer is to be generated and sent.
#[derive(Debug)]
pub(crate) struct Parameters {
    pub(crate) stream: bool,
    /// Where a stream says it.
    pub(crate) usage: StreamUsage,
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    min_tokens: i64,
    pub(crate) ignore_eos: bool,
    /// The stop text that ends the answer is part of it.
    pub(crate) include_stop: bool,
}

/// A member that is an object with a type.
#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

impl Parameters {
    pub(crate) fn read(endpoint: Endpoint, members: &Members<'_>) -> Result<Self, Failure> {
        let stream = members.truth("stream")?;
        members.texts(if endpoint == Endpoint::Messages { "stop_sequences" } else { "stop" })?;
        check_numbers(members)?;
        refuse(endpoint, members)?;
        let min_tokens = members.integer("min_tokens")?.unwrap_or_default();
        if min_tokens < 0 {
            let message = format!("min_tokens must be greater than or equal to 0, got {min_tokens}.");
            return Err(Failure::bad_request(message).with_param("min_tokens"));
        }
        Ok(Self {
            stream,
            usage: stream_usage(endpoint, members, stream)?,
            max_tokens: members.integer("max_tokens")?,
            // The others have no such member, and like any other unknown one it says nothing there.
            max_completion_tokens: match endpoint {
                Endpoint::ChatCompletions => members.integer("max_completion_tokens")?,
                _ => None,
            },
            min_tokens,
            ignore_eos: members.truth("ignore_eos")?,
            include_stop: members.truth("include_stop_str_in_output")?,
        })
    }

    /// The request's limit on the answer's length.
    pub(crate) fn most_tokens(&self) -> Result<Option<i64>, Failure> {
        for (name, value) in
            [("max_completion_tokens", self.max_completion_tokens), ("max_tokens", self.max_tokens)]
        {
            if let Some(value) = value.filter(|value| *value < 1) {
                let message = format!("{name} must be at least 1, got {value}.");
                return Err(Failure::bad_request(message).with_param(name));
            }
        }
        Ok(self.max_completion_tokens.or(self.max_tokens))
    }

    /// The least length of an answer of at most `max_tokens`.
    pub(crate) fn least_tokens(&self, max_tokens: u32) -> Result<u32, Failure> {
        let least = u32::try_from(self.min_tokens).ok().filter(|least| *least <= max_tokens);
        least.ok_or_else(|| {
            let message = format!(
                "min_tokens must be less than or equal to max_tokens={max_tokens}, got {}.",
                self.min_tokens
            );
            Failure::bad_request(message).with_param("min_tokens")
        })
    }
}

fn check_numbers(members: &Members<'_>) -> Result<(), Failure> {
    let refuse = |name, message: String| Err(Failure::bad_request(message).with_param(name));
    match members.integer("n")? {
        Some(choices) if choices < 1 => return refuse("n", format!("n must be at least 1, got {choices}.")),
        Some(choices) if choices > 1 => {
            return refuse(
                "n",
                format!("n = {choices} is not supported by this simulated engine: use n = 1"),
            );
        }
        _ => {}
    }
    if let Some(temperature) = members.number("temperature")?.filter(|temperature| *temperature < 0.0) {
        return refuse("temperature", format!("temperature must be non-negative, got {temperature:?}."));
    }
    if let Some(top_p) = members.number("top_p")?.filter(|top_p| !(*top_p > 0.0 && *top_p <= 1.0)) {
        return refuse("top_p", format!("top_p must be in (0, 1], got {top_p:?}."));
    }
    Ok(())
}

/// Refuses what would change the answer, and cannot be done here.
fn refuse(endpoint: Endpoint, members: &Members<'_>) -> Result<(), Failure> {
    let wanted = |name| members.get(name).is_some_and(|value| value != "false");
    // A number of alternatives for completions, none of them included; elsewhere a truth.
    let logprobs = match endpoint {
        Endpoint::Completions => wanted("logprobs"),
        _ => members.truth("logprobs")?,
    };
    let kind = |name| {
        let value = members.get(name)?;
        Some(serde_json::from_str(value).map_or(value, |Typed { kind }| kind))
    };
    let forces_tools = |choice| !matches!(choice, "\"auto\"" | "\"none\"" | "auto" | "none");
    for (name, wanted) in [
        ("echo", members.truth("echo")?),
        ("logprobs", logprobs),
        ("top_logprobs", wanted("top_logprobs") && members.get("top_logprobs") != Some("0")),
        ("prompt_logprobs", wanted("prompt_logprobs")),
        ("response_format", kind("response_format").is_some_and(|kind| kind != "text")),
        ("structured_outputs", wanted("structured_outputs")),
        ("tool_choice", endpoint != Endpoint::Completions && kind("tool_choice").is_some_and(forces_tools)),
    ] {
        if wanted {
            let message = format!("{name} is not supported by this simulated engine: leave it away");
            return Err(Failure::bad_request(message).with_param(name));
        }
    }
    Ok(())
}

fn stream_usage(endpoint: Endpoint, members: &Members<'_>, stream: bool) -> Result<StreamUsage, Failure> {
    // Anthropic's streams say it in any case.
    if endpoint == Endpoint::Messages {
        return Ok(StreamUsage::Nowhere);
    }
    let Some(options) = members.object("stream_options")? else { return Ok(StreamUsage::Nowhere) };
    if !stream && !options.is_empty() {
        let message = "Stream options can only be defined when `stream=True`.";
        return Err(Failure::bad_request(message).with_param("stream_options"));
    }
    Ok(match (options.truth("include_usage")?, options.truth("continuous_usage_stats")?) {
        (false, _) => StreamUsage::Nowhere,
        (true, false) => StreamUsage::AtTheEnd,
        (true, true) => StreamUsage::Everywhere,
    })
}
