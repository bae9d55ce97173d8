//! Requests to generate: what is asked of the engine for them, what is wrong with them, and what is answered.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use hyper::{Response, StatusCode, header};
use protocol::{Endpoint, RequestView, Usage};

use super::{
    active::Job,
    adapters::Served,
    answer::{Answer, NaturalEnd, Wish, hashes, prompt_tokens},
    connection::Link,
    embeddings,
    failure::Failure,
    fault::{Fault, Midway},
    feed::{Half, Payload},
    members::Members,
    pages::json_response,
    parameters::Parameters,
    replica::{Replica, unix_time},
    reply::{Delivery, Script, Shape},
    tokens::encode,
};

/// vLLM's limit for completions that state none.
const COMPLETION_TOKENS: u32 = 16;
/// Where the model ends a chat answer that has no limit.
const CHAT_TOKENS: u32 = 256;
/// A body that is not JSON.
const MALFORMED_BODY: &[u8] = b"{\"id\":";

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) endpoint: Endpoint,
    pub(crate) body: &'a [u8],
    pub(crate) id: String,
    pub(crate) fault: Option<Fault>,
    pub(crate) link: Rc<Link>,
}

/// Answers a request to generate, in time.
pub(crate) async fn generate(
    replica: &Rc<Replica>,
    arrival: Arrival<'_>,
) -> Result<Response<Payload>, Failure> {
    let (script, jobs) = read(replica, &arrival)?;
    let tickets: Result<Vec<_>, _> = jobs.into_iter().map(|job| replica.submit(job)).collect();
    let mut tickets = tickets.map_err(|rejected| Failure::bad_request(rejected.to_string()))?;
    if script.streams() {
        let ticket = tickets.pop().ok_or(Failure::Broken)?;
        let mut response = Response::new(Payload::Stream(ticket));
        let event_stream = header::HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, event_stream);
        return Ok(response);
    }
    let (mut usage, mut fault) = (Usage { cached_tokens: Some(0), ..Usage::default() }, None);
    for ticket in &tickets {
        let generated = ticket.generated().await?;
        usage.prompt_tokens = usage.prompt_tokens.saturating_add(generated.usage.prompt_tokens);
        usage.completion_tokens += generated.usage.completion_tokens;
        usage.cached_tokens = usage.cached_tokens.max(generated.usage.cached_tokens);
        fault = fault.or(generated.fault);
    }
    whole(&script, usage, fault)
}

/// An answer in one piece, or what is made of it.
fn whole(script: &Script, usage: Usage, fault: Option<Midway>) -> Result<Response<Payload>, Failure> {
    let mut body = BytesMut::new();
    script.write_whole(usage, &mut body);
    let mut body = body.freeze();
    match fault {
        Some(Midway::Error) => return Err(Failure::died()),
        Some(Midway::Truncate) => {
            return Ok(json_response(StatusCode::OK, Bytes::new()).map(|_| Payload::Half(Half::of(body))));
        }
        Some(Midway::End) => body.truncate(body.len() / 2),
        Some(Midway::Malformed) => body = Bytes::from_static(MALFORMED_BODY),
        // These come to no answer.
        Some(Midway::Reset | Midway::Stall) | None => {}
    }
    Ok(json_response(StatusCode::OK, body))
}

/// Reads a request into what is to be sent and what is asked of the engine, or says what is wrong with it, in vLLM's
/// words.
fn read(replica: &Replica, arrival: &Arrival<'_>) -> Result<(Rc<Script>, Vec<Job>), Failure> {
    let Arrival { endpoint, body, .. } = *arrival;
    let view = RequestView::parse(endpoint, body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let members = Members::read(body)?;
    let served = replica.catalogue.find(&view.model).ok_or_else(|| Failure::no_model(&view.model))?;
    if !view.has_prompt() {
        let member = match endpoint {
            Endpoint::ChatCompletions | Endpoint::Messages => "messages",
            Endpoint::Embeddings => "input",
            _ => "prompt",
        };
        return Err(Failure::bad_request(format!("{member}: Field required")).with_param(member));
    }
    if endpoint == Endpoint::Embeddings {
        return embeddings::read(replica, arrival, &view, &members, &served);
    }
    let job = text_job(replica, arrival, &view, &members, served)?;
    Ok((job.script.clone(), vec![job]))
}

/// What a request for text asks of the engine.
fn text_job(
    replica: &Replica,
    arrival: &Arrival<'_>,
    view: &RequestView<'_>,
    members: &Members<'_>,
    served: Served,
) -> Result<Job, Failure> {
    let endpoint = arrival.endpoint;
    let parameters = Parameters::read(endpoint, members)?;
    if endpoint == Endpoint::Completions {
        check_prompt(view)?;
    }
    let mut text = Vec::with_capacity(arrival.body.len());
    view.render_prompt(&mut text);
    let prompt_tokens = prompt_tokens(&text);
    let asked = parameters.most_tokens()?;
    let max_tokens = limit(replica, asked, endpoint, prompt_tokens)?;
    let natural_end = match replica.config.output_tokens {
        _ if parameters.ignore_eos => NaturalEnd::Never,
        Some(mean) => NaturalEnd::About(mean),
        None if endpoint == Endpoint::ChatCompletions && asked.is_none() => NaturalEnd::After(CHAT_TOKENS),
        None => NaturalEnd::Never,
    };
    let wish = Wish {
        max_tokens,
        natural_end,
        min_tokens: parameters.least_tokens(max_tokens)?,
        stop: &view.stop(),
        include_stop: parameters.include_stop,
    };
    let answer = Answer::to(&mut text, &wish);
    let shape = match endpoint {
        Endpoint::ChatCompletions => Shape::Chat,
        Endpoint::Messages => Shape::Messages,
        _ => Shape::Completion,
    };
    let delivery = if parameters.stream { Delivery::Stream(parameters.usage) } else { Delivery::Whole };
    let script = Rc::new(script(replica, arrival, view, shape, delivery, answer));
    Ok(job(replica, arrival, served, script, &text, prompt_tokens, max_tokens))
}

/// What is sent for a request.
pub(crate) fn script(
    replica: &Replica,
    arrival: &Arrival<'_>,
    view: &RequestView<'_>,
    shape: Shape,
    delivery: Delivery,
    answer: Answer,
) -> Script {
    let name = if view.model.is_empty() { replica.catalogue.base() } else { &view.model };
    Script::new(shape, delivery, &arrival.id, unix_time().as_secs(), name, answer)
}

/// What is asked of the engine for a prompt of which `text` is the text, with that of its answer.
pub(crate) fn job(
    replica: &Replica,
    arrival: &Arrival<'_>,
    served: Served,
    script: Rc<Script>,
    text: &[u8],
    prompt_tokens: u32,
    max_tokens: u32,
) -> Job {
    let salt = served.adapter().unwrap_or(replica.catalogue.base());
    let block_hashes = hashes(salt, text, replica.config.profile.block_tokens);
    let token_ids = if replica.config.kv_events.is_some() { encode(text) } else { Vec::new() };
    let (fault, link) = (arrival.fault, arrival.link.clone());
    Job { served, block_hashes, token_ids, prompt_tokens, max_tokens, script, fault, link }
}

/// A completion has one prompt, and something in it.
fn check_prompt(view: &RequestView<'_>) -> Result<(), Failure> {
    let prompts = view.prompts();
    let message = if prompts.iter().all(|prompt| prompt.is_empty()) {
        "Either prompt or prompt_embeds must be provided and non-empty."
    } else if prompts.len() > 1 {
        "a batch of prompts is not supported by this simulated engine: send one at a time"
    } else {
        return Ok(());
    };
    Err(Failure::bad_request(message).with_param("prompt"))
}

/// The limit on the answer's length: the request's, or vLLM's own.
fn limit(
    replica: &Replica,
    asked: Option<i64>,
    endpoint: Endpoint,
    prompt_tokens: u32,
) -> Result<u32, Failure> {
    if endpoint == Endpoint::Messages && asked.is_none() {
        return Err(Failure::bad_request("max_tokens: Field required").with_param("max_tokens"));
    }
    let max_model_len = replica.config.profile.max_model_len;
    let rest = max_model_len.saturating_sub(prompt_tokens);
    let default = if endpoint == Endpoint::Completions { rest.min(COMPLETION_TOKENS) } else { rest };
    let wanted = asked.unwrap_or(default.into());
    let fits = u32::try_from(wanted).ok().filter(|wanted| (1..=rest).contains(wanted));
    fits.ok_or_else(|| too_long(max_model_len, prompt_tokens, asked.unwrap_or_default()))
}

pub(crate) fn too_long(max_model_len: u32, prompt_tokens: u32, max_tokens: i64) -> Failure {
    let all = i64::from(prompt_tokens).saturating_add(max_tokens);
    Failure::bad_request(format!(
        "This model's maximum context length is {max_model_len} tokens. However, you requested {all} tokens \
         ({prompt_tokens} in the messages, {max_tokens} in the completion). Please reduce the length of the \
         messages or completion."
    ))
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
