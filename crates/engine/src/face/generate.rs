//! Requests for text and for embeddings: what they ask for, what is wrong with them, and their way in.

use std::rc::Rc;

use hyper::{Response, StatusCode, header};
use protocol::{Endpoint, RequestView};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    active::Job,
    answer::{Answer, NaturalEnd, Wish, hashes, prompt_tokens},
    fault::Fault,
    feed::Payload,
    pages::{Failure, json_response},
    replica::{Replica, unix_time},
    reply::{Delivery, Script, Shape, StreamUsage},
    tokens::encode,
};

/// vLLM's limit for completions that state none.
const COMPLETION_TOKENS: u32 = 16;
/// Where the model ends a chat answer that has no limit.
const CHAT_TOKENS: u32 = 256;

/// What the protocol's view of a request leaves out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Extras<'a> {
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    n: Option<i64>,
    temperature: Option<f64>,
    #[serde(borrow)]
    logprobs: Option<&'a RawValue>,
    #[serde(borrow)]
    top_logprobs: Option<&'a RawValue>,
    echo: Option<bool>,
    min_tokens: Option<u32>,
    stream_options: Option<StreamOptions>,
    encoding_format: Option<&'a str>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    continuous_usage_stats: bool,
}

/// Answers a request to generate, in time.
pub(crate) async fn generate(
    replica: Rc<Replica>,
    endpoint: Endpoint,
    body: &[u8],
    id: String,
    fault: Option<Fault>,
) -> Result<Response<Payload>, Failure> {
    let job = read(&replica, endpoint, body, &id, fault)?;
    let streams = job.script.streams();
    let ticket = replica.submit(job).map_err(|rejected| Failure::bad_request(rejected.to_string()))?;
    if streams {
        let mut response = Response::new(Payload::Stream(ticket));
        let event_stream = header::HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, event_stream);
        return Ok(response);
    }
    Ok(json_response(StatusCode::OK, ticket.whole().await?))
}

/// Reads a request body into a job, or says what is wrong with it, in vLLM's words.
fn read(
    replica: &Replica,
    endpoint: Endpoint,
    body: &[u8],
    id: &str,
    fault: Option<Fault>,
) -> Result<Job, Failure> {
    let view = RequestView::parse(endpoint, body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let extras: Extras<'_> =
        serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let served = replica.catalogue.find(&view.model).ok_or_else(|| Failure::no_model(&view.model))?;
    if !view.has_prompt() {
        let member = match endpoint {
            Endpoint::ChatCompletions | Endpoint::Messages => "messages",
            Endpoint::Embeddings => "input",
            _ => "prompt",
        };
        return Err(Failure::bad_request(format!("{member}: Field required")).with_param(member));
    }
    extras.check()?;
    if endpoint == Endpoint::Completions && batch_size(extras.prompt) != 1 {
        let message = "a batch of prompts is not supported by this simulated engine: send one at a time";
        return Err(Failure::bad_request(message).with_param("prompt"));
    }

    let mut text = Vec::with_capacity(body.len());
    view.render_prompt(&mut text);
    let prompt_tokens = prompt_tokens(&text);
    let max_tokens = match endpoint {
        Endpoint::Embeddings => 0,
        _ => limit(replica, &extras, endpoint, prompt_tokens)?,
    };
    let max_model_len = replica.config.profile.max_model_len;
    if prompt_tokens > max_model_len {
        return Err(too_long(max_model_len, prompt_tokens, 0));
    }
    let natural_end = match replica.config.output_tokens {
        _ if view.ignore_eos => NaturalEnd::Never,
        Some(mean) => NaturalEnd::About(mean),
        None if endpoint == Endpoint::ChatCompletions && extras.most_tokens().is_none() => {
            NaturalEnd::After(CHAT_TOKENS)
        }
        None => NaturalEnd::Never,
    };
    let min_tokens = extras.min_tokens.unwrap_or_default();
    let wish = Wish { max_tokens, natural_end, min_tokens, stop: &view.stop };
    let answer = Answer::to(&mut text, &wish);
    let salt = served.adapter().unwrap_or(replica.catalogue.base());
    let block_hashes = hashes(salt, &text, replica.config.profile.block_tokens);
    let token_ids = if replica.config.kv_events.is_some() { encode(&text) } else { Vec::new() };
    let usage = match extras.stream_options {
        Some(StreamOptions { continuous_usage_stats: true }) if view.include_usage => StreamUsage::Everywhere,
        _ if view.include_usage => StreamUsage::AtTheEnd,
        _ => StreamUsage::Nowhere,
    };
    let shape = match endpoint {
        Endpoint::ChatCompletions => Shape::Chat,
        Endpoint::Messages => Shape::Messages,
        Endpoint::Embeddings => Shape::Embeddings {
            inputs: batch_size(extras.input),
            base64: extras.encoding_format == Some("base64"),
        },
        _ => Shape::Completion,
    };
    let delivery = if view.stream && endpoint != Endpoint::Embeddings {
        Delivery::Stream(usage)
    } else {
        Delivery::Whole
    };
    let name = if view.model.is_empty() { replica.catalogue.base() } else { &view.model };
    let script = Script::new(shape, delivery, id, unix_time().as_secs(), name, answer);
    Ok(Job { served, block_hashes, token_ids, prompt_tokens, max_tokens, script, fault })
}

impl Extras<'_> {
    /// Says what vLLM refuses, and what it does but this engine cannot.
    fn check(&self) -> Result<(), Failure> {
        let refuse = |name, message: String| Err(Failure::bad_request(message).with_param(name));
        match (self.n, self.temperature) {
            (Some(choices), _) if choices < 1 => {
                return refuse("n", format!("n must be at least 1, got {choices}."));
            }
            (Some(choices), _) if choices > 1 => {
                let message = format!("n = {choices} is not supported by this simulated engine: use n = 1");
                return refuse("n", message);
            }
            (_, Some(temperature)) if temperature < 0.0 => {
                let message = format!("temperature must be non-negative, got {temperature:?}.");
                return refuse("temperature", message);
            }
            _ => {}
        }
        let wanted =
            |member: Option<&RawValue>| member.is_some_and(|value| !matches!(value.get(), "false" | "null"));
        for (name, wanted) in [
            ("echo", self.echo == Some(true)),
            ("logprobs", wanted(self.logprobs)),
            (
                "top_logprobs",
                wanted(self.top_logprobs) && self.top_logprobs.is_some_and(|value| value.get() != "0"),
            ),
        ] {
            if wanted {
                let message = format!("{name} is not supported by this simulated engine: leave it away");
                return refuse(name, message);
            }
        }
        Ok(())
    }

    /// The request's limit on the answer's length.
    fn most_tokens(&self) -> Option<i64> {
        self.max_completion_tokens.or(self.max_tokens)
    }
}

/// The limit on the answer's length: the request's, or vLLM's own.
fn limit(
    replica: &Replica,
    extras: &Extras<'_>,
    endpoint: Endpoint,
    prompt_tokens: u32,
) -> Result<u32, Failure> {
    for (name, value) in
        [("max_completion_tokens", extras.max_completion_tokens), ("max_tokens", extras.max_tokens)]
    {
        if let Some(value) = value.filter(|value| *value < 1) {
            let message = format!("{name} must be at least 1, got {value}.");
            return Err(Failure::bad_request(message).with_param(name));
        }
    }
    let asked = extras.most_tokens();
    if endpoint == Endpoint::Messages && asked.is_none() {
        return Err(Failure::bad_request("max_tokens: Field required").with_param("max_tokens"));
    }
    let max_model_len = replica.config.profile.max_model_len;
    let rest = max_model_len.saturating_sub(prompt_tokens);
    let default = if endpoint == Endpoint::Completions { rest.min(COMPLETION_TOKENS) } else { rest };
    let wanted = asked.unwrap_or(default.into());
    let Some(max_tokens) = u32::try_from(wanted).ok().filter(|wanted| (1..=rest).contains(wanted)) else {
        return Err(too_long(max_model_len, prompt_tokens, asked.unwrap_or_default()));
    };
    if let Some(min_tokens) = extras.min_tokens.filter(|min_tokens| *min_tokens > max_tokens) {
        let message =
            format!("min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}.");
        return Err(Failure::bad_request(message).with_param("min_tokens"));
    }
    Ok(max_tokens)
}

fn too_long(max_model_len: u32, prompt_tokens: u32, max_tokens: i64) -> Failure {
    let all = i64::from(prompt_tokens).saturating_add(max_tokens);
    Failure::bad_request(format!(
        "This model's maximum context length is {max_model_len} tokens. However, you requested {all} tokens \
         ({prompt_tokens} in the messages, {max_tokens} in the completion). Please reduce the length of the \
         messages or completion."
    ))
}

/// How many prompts a `prompt` or `input` member holds: more than one only where it is a list of texts or of
/// lists.
fn batch_size(member: Option<&RawValue>) -> usize {
    let list = member.and_then(|member| member.get().strip_prefix('['));
    if !list.is_some_and(|list| list.trim_start().starts_with(['"', '['])) {
        return 1;
    }
    let items: Result<Vec<IgnoredAny>, _> = serde_json::from_str(member.map_or("[]", RawValue::get));
    items.map_or(1, |items| items.len())
}

/// Which operation a path names, of those that run on the engine.
pub(crate) fn operation(path: &str) -> Option<Endpoint> {
    match path {
        "/v1/completions" => Some(Endpoint::Completions),
        "/v1/chat/completions" => Some(Endpoint::ChatCompletions),
        "/v1/messages" => Some(Endpoint::Messages),
        "/v1/embeddings" => Some(Endpoint::Embeddings),
        _ => None,
    }
}
