//! One request, from its head to the answer that hyper is given: checks, local answers, the body, the replica.

use std::{convert::Infallible, future::poll_fn, rc::Rc, task::Poll};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING},
    uri::Authority,
};
use http_body_util::Full;
use hyper::body::{Body, Incoming};

use super::{
    client::{Client, Phase},
    tunnel::Exit,
};
use crate::{
    Reason,
    config::AccessLog,
    error::Refusal,
    flight::Flight,
    forward::{self, Asked},
    headers,
    metrics::Share,
    relay::Reply,
    shared::Stage,
};

/// Bytes of a body that must arrive within the time limit.
const LEAST_PROGRESS: u64 = 1024;
/// Room that is made for a body whose length is declared, before any of it has come.
const FIRST_ROOM: u64 = 256 * 1024;

/// Answers one request.
pub(crate) async fn serve(
    client: Rc<Client>,
    exit: &Exit,
    request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    let mut flight = Flight::begin(Rc::clone(&client));
    let response = match answer(&mut flight, request).await {
        Ok(Answer::Relayed(asked)) => asked.into_response(flight, exit),
        Ok(Answer::Own(response)) => {
            let response = flight.own(response);
            response.map(|body| Reply::Own(Full::new(body), flight))
        }
        Err(Refusal { reason, message }) => {
            let response = flight.refuse(reason, message);
            response.map(|body| Reply::Own(Full::new(body), flight))
        }
    };
    client.set_unflushed();
    client.enter(Phase::Reply, client.worker.limits().stream_timeout);
    Ok(response)
}

enum Answer {
    Relayed(Asked),
    Own(Response<Bytes>),
}

async fn answer(flight: &mut Flight, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let client = Rc::clone(&flight.client);
    let (mut head, body) = request.into_parts();
    let request_id = forward::request_id(&client.worker, &head.headers);
    flight.describe(&head.method, &head.uri, &request_id);
    check(&head, client.worker.limits().max_header.get())?;
    if let Some(response) = answer_locally(&client, &head) {
        return Ok(Answer::Own(response));
    }
    let connection: Vec<HeaderValue> =
        head.headers.get_all(http::header::CONNECTION).into_iter().cloned().collect();
    headers::remove_nominated(&mut head.headers, &connection);
    let (body, _held) = read_body(flight, &client, &head.headers, body).await?;
    flight.request_bytes = body.len() as u64;
    client.enter(Phase::Upstream, client.worker.limits().response_timeout);
    forward::ask(flight, &head, &connection, &request_id, body).await.map(Answer::Relayed)
}

/// What hyper lets through and a gateway must not.
fn check(head: &http::request::Parts, max_header: u32) -> Result<(), Refusal> {
    let bad = |message: &str| Err(Refusal::new(Reason::BadRequest, message));
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        let message = format!("{} is not available here", head.method);
        return Err(Refusal::new(Reason::MethodNotAllowed, message));
    }
    let target = head.uri.path_and_query().map_or(1, |target| target.as_str().len());
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if target + fields > max_header as usize {
        let message = format!("the request head exceeds {max_header} bytes");
        return Err(Refusal::new(Reason::HeadTooLarge, message));
    }
    let mut hosts = head.headers.get_all(HOST).into_iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return bad("more than one Host field"),
        (None, None) if head.version == http::Version::HTTP_11 => return bad("no Host field"),
        (Some(host), None) if !host.is_empty() => {
            let valid = Authority::try_from(host.as_bytes());
            if !valid.is_ok_and(|host| !host.as_str().contains('@')) {
                return bad("the Host field is not a host name with an optional port");
            }
        }
        _ => {}
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).into_iter();
    if let Some(coding) = codings.next() {
        if !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
            let twice = coding
                .as_bytes()
                .split(|&byte| byte == b',')
                .all(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"chunked"));
            let reason = if twice { Reason::BadRequest } else { Reason::CodingNotSupported };
            return Err(Refusal::new(reason, "a transfer coding that is not a single `chunked`"));
        }
        if codings.next().is_some() {
            return bad("more than one Transfer-Encoding field");
        }
    }
    let foreign = |expectation: &HeaderValue| !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if head.headers.get_all(EXPECT).iter().any(foreign) {
        return Err(Refusal::new(Reason::ExpectationFailed, "an expectation other than `100-continue`"));
    }
    Ok(())
}

/// What the gateway itself knows the answer to.
fn answer_locally(client: &Client, head: &http::request::Parts) -> Option<Response<Bytes>> {
    let shared = &client.worker.shared;
    let mut response = Response::new(Bytes::new());
    match (head.method.as_str(), head.uri.path()) {
        ("OPTIONS", "*") => {}
        ("GET" | "HEAD", "/healthz") => *response.body_mut() = Bytes::from_static(b"ok\n"),
        ("GET" | "HEAD", "/health") if shared.fleet.is_ready() => {}
        ("GET" | "HEAD", "/readyz") if shared.is_ready() => {
            *response.body_mut() = Bytes::from_static(b"ready\n")
        }
        ("GET" | "HEAD", "/readyz" | "/health") => {
            return Some(Reason::NoReplica.response("no replica can take requests now"));
        }
        _ => return None,
    }
    *response.status_mut() = StatusCode::OK;
    Some(response)
}

/// Reads the body to its end, within the limits. Only then is a replica asked, so a slow client holds none.
async fn read_body<'m>(
    flight: &Flight,
    client: &'m Client,
    fields: &HeaderMap,
    mut body: Incoming,
) -> Result<(Bytes, Option<Share<'m>>), Refusal> {
    if body.is_end_stream() {
        return Ok((Bytes::new(), None));
    }
    let shared = &client.worker.shared;
    let limits = &shared.settings.limits;
    let too_large = || {
        let message = format!("the request body exceeds {} bytes", limits.max_body);
        Refusal::new(Reason::BodyTooLarge, message)
    };
    // hyper has checked that it is a number.
    let declared = fields.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limits.max_body) {
        return Err(too_large());
    }
    let mut held = shared.metrics.buffered_bytes.hold(0);
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let (mut length, mut marked) = (0, 0);
    client.enter(Phase::Body, limits.body_timeout);
    loop {
        let frame = poll_fn(|context| match std::pin::Pin::new(&mut body).poll_frame(context) {
            Poll::Pending if client.is_late() => Poll::Ready(Err(Reason::BodyTimeout)),
            polled => polled.map(Ok),
        });
        let data = match frame.await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => data,
                // Trailers of a request say nothing to an engine that gets the length before the body.
                Err(_) => continue,
            },
            Ok(Some(Err(_))) => {
                return Err(Refusal::new(Reason::BodyBroken, "the request body is malformed or incomplete"));
            }
            Err(reason) => return Err(Refusal::new(reason, "the request body did not arrive in time")),
        };
        length += data.len() as u64;
        if length > limits.max_body {
            return Err(too_large());
        }
        if held.grow(data.len() as u64) > limits.max_buffered {
            let message = "too many request bodies are in memory; try again in a moment";
            return Err(Refusal::new(Reason::BufferFull, message));
        }
        if length - marked >= LEAST_PROGRESS {
            marked = length;
            client.enter(Phase::Body, limits.body_timeout);
        }
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.reserve(declared.unwrap_or(length * 2).min(FIRST_ROOM) as usize);
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
    }
    debug_assert!(flight.request_bytes == 0);
    let body = if all.is_empty() { first } else { all.freeze() };
    Ok((body, Some(held)))
}

/// The log line of a request that never had a flight.
pub(super) fn log_unread(client: &Client, reason: Reason) {
    if client.worker.shared.settings.access_log != AccessLog::Off && client.worker.stage() != Stage::Ending {
        tracing::info!(
            target: "evenload::access",
            client = %client.address,
            status = reason.status(),
            reason = reason.label(),
            "request"
        );
    }
}
