//! What there is at which path.

use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderMap, HeaderValue},
};
use protocol::{Endpoint, RequestView};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    connection::Link,
    failure::Failure,
    fault::{Fault, Order, UnknownFault},
    feed::{Broken, Payload},
    generate::{Arrival, generate, operation},
    members::Members,
    replica::Replica,
    tokens,
};

const VERSION: &str = concat!("0.19.0+evenload.", env!("CARGO_PKG_VERSION"));
/// Under this path answers and errors are Anthropic's.
const MESSAGES: &str = "/v1/messages";
const FAULT_HEADER: &str = "x-sim-fault";
const REQUEST_ID_HEADER: &str = "x-request-id";
const LONGEST_REQUEST_ID: usize = 128;
/// A body of more limits than this is not read to its end.
const DROPPED_LIMITS: usize = 4;

#[derive(Deserialize)]
struct AdapterBody {
    #[serde(default)]
    lora_name: String,
    #[serde(default)]
    lora_path: String,
}

#[derive(Deserialize)]
struct DetokenizeBody {
    model: Option<String>,
    tokens: Vec<u32>,
}

/// Answers a request. An error breaks the connection.
pub(crate) async fn answer(
    replica: Rc<Replica>,
    link: Rc<Link>,
    request: Request<Incoming>,
) -> Result<Response<Payload>, Broken> {
    let anthropic = request.uri().path().starts_with(MESSAGES);
    match route(&replica, &link, request).await {
        Ok(response) => Ok(response),
        Err(failure) => failure.into_response(anthropic),
    }
}

async fn route(
    replica: &Rc<Replica>,
    link: &Rc<Link>,
    request: Request<Incoming>,
) -> Result<Response<Payload>, Failure> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    // Before anything is said or waited for: the connection of a body that is left unread cannot be used again, and its
    // client is not seen to leave.
    let body = read_body(body, replica.config.max_body_bytes).await?;
    let mut fault = None;
    if !path.starts_with("/sim/") {
        if !replica.is_ready() {
            return Err(Failure::unavailable("the engine is starting"));
        }
        fault = fault_of(replica, &head.headers, path)?;
        if let Some(fault) = fault {
            suffer(fault, link).await?;
        }
    }
    if let Some(endpoint) = operation(path) {
        require(&head.method, &Method::POST)?;
        let id = request_id(&head.headers).unwrap_or_else(|| replica.next_id());
        let arrival = Arrival { endpoint, body: &body, id, fault, link: link.clone() };
        return generate(replica, arrival).await;
    }
    match path {
        "/health" | "/ping" | "/v1/models" | "/version" | "/metrics" | "/load" | "/server_info"
        | "/sim/state" => {
            require(&head.method, &Method::GET)?;
            get(replica, path)
        }
        "/reset_prefix_cache"
        | "/tokenize"
        | "/detokenize"
        | "/v1/messages/count_tokens"
        | "/v1/load_lora_adapter"
        | "/v1/unload_lora_adapter"
        | "/sim/reset_lag"
        | "/sim/fault" => {
            require(&head.method, &Method::POST)?;
            post(replica, path, &body)
        }
        _ => Err(Failure::not_found(format!("there is nothing at {path}"))),
    }
}

fn get(replica: &Replica, path: &str) -> Result<Response<Payload>, Failure> {
    Ok(match path {
        "/health" | "/ping" if !replica.healthy.get() => return Err(Failure::unavailable("unhealthy")),
        "/health" | "/ping" => Response::new(Payload::Whole(Full::default())),
        "/v1/models" => {
            json_value(&replica.catalogue.to_json(replica.created(), replica.config.profile.max_model_len))
        }
        "/version" => json_value(&json!({"version": VERSION})),
        "/metrics" => text_response("text/plain; version=0.0.4; charset=utf-8", replica.metrics()),
        "/load" => json_value(&json!({"server_load": replica.load()})),
        "/server_info" => json_value(&json!({
            "version": VERSION,
            "model_names": replica.config.model_names,
            "profile": replica.config.profile,
            "speedup": replica.config.speedup,
        })),
        _ => json_value(&replica.to_json()),
    })
}

fn post(replica: &Replica, path: &str, body: &[u8]) -> Result<Response<Payload>, Failure> {
    match path {
        "/sim/reset_lag" => {
            replica.reset_lag();
            Ok(Response::new(Payload::Whole(Full::default())))
        }
        "/reset_prefix_cache" if replica.reset_prefix_cache() => {
            Ok(Response::new(Payload::Whole(Full::default())))
        }
        "/reset_prefix_cache" => {
            Err(Failure::unavailable("the prefix cache cannot be reset while requests hold blocks"))
        }
        "/tokenize" => tokenize(replica, body),
        "/v1/messages/count_tokens" => {
            let text = rendered(replica, Endpoint::Messages, body)?;
            Ok(json_value(&json!({"input_tokens": tokens::encode(&text).len()})))
        }
        "/detokenize" => {
            let DetokenizeBody { model, tokens } = parse(body)?;
            require_model(replica, &model.unwrap_or_default())?;
            Ok(json_value(&json!({"prompt": tokens::decode(&tokens)})))
        }
        "/v1/load_lora_adapter" => {
            let AdapterBody { lora_name, lora_path } = parse(body)?;
            if lora_name.is_empty() || lora_path.is_empty() {
                return Err(Failure::bad_request("Both 'lora_name' and 'lora_path' must be provided."));
            }
            if !replica.catalogue.load(&lora_name, &lora_path) {
                let message = format!("The lora adapter '{lora_name}' has already been loaded.");
                return Err(Failure::bad_request(message));
            }
            Ok(text_response(
                "text/plain",
                format!("Success: LoRA adapter '{lora_name}' added successfully."),
            ))
        }
        "/v1/unload_lora_adapter" => {
            let AdapterBody { lora_name, .. } = parse(body)?;
            if lora_name.is_empty() {
                return Err(Failure::bad_request("'lora_name' must be provided to unload a LoRA adapter."));
            }
            if !replica.catalogue.unload(&lora_name) {
                return Err(Failure::not_found(format!("The lora adapter '{lora_name}' cannot be found.")));
            }
            Ok(text_response(
                "text/plain",
                format!("Success: LoRA adapter '{lora_name}' removed successfully."),
            ))
        }
        _ => {
            let order: Order = parse(body)?;
            match order.read().map_err(|invalid| Failure::bad_request(invalid.to_string()))? {
                Ok(lasting) => replica.suffer(lasting),
                Err(plan) => replica.faults.set(Some(plan)),
            }
            Ok(json_value(&replica.to_json()))
        }
    }
}

/// Tokens of a prompt or of a conversation, by the four-byte rule.
fn tokenize(replica: &Replica, body: &[u8]) -> Result<Response<Payload>, Failure> {
    let members = Members::read(body)?;
    require_model(replica, &members.text("model")?.unwrap_or_default())?;
    let text = match members.text("prompt")? {
        Some(prompt) => prompt.as_bytes().to_vec(),
        None => rendered(replica, Endpoint::ChatCompletions, body)?,
    };
    let tokens = tokens::encode(&text);
    let texts = members.truth("return_token_strs")?;
    let texts = texts.then(|| tokens.iter().map(|token| tokens::decode(&[*token])).collect::<Vec<_>>());
    Ok(json_value(&json!({
        "count": tokens.len(),
        "max_model_len": replica.config.profile.max_model_len,
        "tokens": tokens,
        "token_strs": texts,
    })))
}

/// The text that a conversation is for the engine.
fn rendered(replica: &Replica, endpoint: Endpoint, body: &[u8]) -> Result<Vec<u8>, Failure> {
    let view = RequestView::parse(endpoint, body).map_err(|error| Failure::bad_request(error.to_string()))?;
    require_model(replica, &view.model)?;
    if !view.has_prompt() {
        return Err(Failure::bad_request("prompt or messages: Field required"));
    }
    let mut text = Vec::new();
    view.render_prompt(&mut text);
    Ok(text)
}

fn require_model(replica: &Replica, model: &str) -> Result<(), Failure> {
    replica.catalogue.find(model).map(drop).ok_or_else(|| Failure::no_model(model))
}

/// The fault of this request: its header's, or the replica's.
fn fault_of(replica: &Replica, headers: &HeaderMap, path: &str) -> Result<Option<Fault>, Failure> {
    let Some(value) = headers.get(FAULT_HEADER) else {
        return Ok(replica.faults.draw(operation(path).is_some()));
    };
    let text = value.to_str().unwrap_or_default();
    text.parse().map(Some).map_err(|unknown: UnknownFault| Failure::bad_request(unknown.to_string()))
}

/// Lets happen what happens before a request is looked at.
async fn suffer(fault: Fault, link: &Link) -> Result<(), Failure> {
    match fault {
        Fault::Status(code) => {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let message = format!("a fault that was asked for: status {code}");
            Err(Failure::with(status, "SimulatedFault", message))
        }
        Fault::Hang => std::future::pending().await,
        Fault::Delay(delay) => {
            tokio::time::sleep(delay).await;
            Ok(())
        }
        Fault::ResetBeforeHeaders => {
            link.reset_on_close();
            Err(Failure::Broken)
        }
        Fault::After(..) => Ok(()),
    }
}

/// Reads a body into memory. Of one that is too large the rest is read and dropped, within reason: a client that
/// is still writing would not see the answer.
async fn read_body(mut body: Incoming, limit: usize) -> Result<Vec<u8>, Failure> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::Broken)?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        length += data.len();
        if length <= limit {
            bytes.extend_from_slice(data);
        } else if length > limit.saturating_mul(DROPPED_LIMITS) {
            break;
        }
    }
    if length > limit {
        let message = format!("the request body is larger than {limit} bytes");
        return Err(Failure::with(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message));
    }
    Ok(bytes)
}

/// An id that the client gave, where it can stand in JSON as it is.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID_HEADER)?.to_str().ok()?;
    (!id.is_empty() && id.len() <= LONGEST_REQUEST_ID).then(|| id.to_owned())
}

fn require(method: &Method, needed: &Method) -> Result<(), Failure> {
    if method == needed || (*needed == Method::GET && method == Method::HEAD) {
        return Ok(());
    }
    Err(Failure::with(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", format!("use {needed} here")))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))
}

pub(crate) fn json_response(status: StatusCode, body: impl Into<Bytes>) -> Response<Payload> {
    let mut response = Response::new(Payload::Whole(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn json_value(value: &Value) -> Response<Payload> {
    json_response(StatusCode::OK, value.to_string())
}

fn text_response(content_type: &'static str, text: String) -> Response<Payload> {
    let mut response = Response::new(Payload::Whole(Full::new(text.into())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
