//! One request, from its head to the last byte of its answer: local answers, the body, the replica, the relay.

use std::{future::poll_fn, rc::Rc};

use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode};

use super::{
    answer::Manners,
    body,
    client::{Client, Phase},
    tunnel,
};
use crate::{
    Reason,
    config::AccessLog,
    error::Refusal,
    flight::Flight,
    forward::{self, Asked},
    http1::request::{BodyLength, RequestHead},
    relay::Relay,
    shared::Stage,
};

/// Room for a usual head of an answer.
const HEAD_ROOM: usize = 512;

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// It may bring another request.
    Request,
    /// It ends in peace.
    Close,
    /// It ends at once: the client has nothing more to read, or shall see that its answer broke off.
    Break,
}

enum Answer {
    Relayed(Asked),
    Own(Response<Bytes>),
}

/// Answers one request.
pub(super) async fn serve(client: &Rc<Client>, head: RequestHead) -> Next {
    let mut flight = Flight::begin(Rc::clone(client));
    let mut manners = Manners::of(&head);
    // Whoever is answered before the body has been read may still be sending it.
    manners.keep_alive &= matches!(head.body, BodyLength::None | BodyLength::Known(0));
    let answer = answer(&mut flight, &head, &mut manners).await;
    drop(head);
    manners.keep_alive &= client.worker.stage() == Stage::Running;
    let response = match answer {
        Ok(Answer::Relayed(asked)) => return pass_on(flight, asked, manners).await,
        Ok(Answer::Own(response)) => flight.own(response),
        Err(Refusal { reason, message }) => flight.refuse(reason, message),
    };
    if write_own(client, &response, manners).await {
        flight.complete();
        return if manners.keep_alive { Next::Request } else { Next::Close };
    }
    Next::Break
}

async fn answer(flight: &mut Flight, head: &RequestHead, manners: &mut Manners) -> Result<Answer, Refusal> {
    let client = Rc::clone(&flight.client);
    let request_id = forward::request_id(&client.worker, &head.fields);
    flight.describe(head, &request_id);
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        let message = format!("{} is not available here", head.method);
        return Err(Refusal::new(Reason::MethodNotAllowed, message));
    }
    if let Some(response) = answer_locally(&client, head) {
        return Ok(Answer::Own(response));
    }
    let (body, _held) = body::read(&client, head).await?;
    manners.keep_alive = head.keep_alive;
    flight.request_bytes = body.len() as u64;
    client.enter(Phase::Upstream, client.worker.limits().response_timeout);
    forward::ask(flight, head, &request_id, body).await.map(Answer::Relayed)
}

/// What the gateway itself knows the answer to.
fn answer_locally(client: &Client, head: &RequestHead) -> Option<Response<Bytes>> {
    let shared = &client.worker.shared;
    let mut response = Response::new(Bytes::new());
    match (head.method.as_str(), head.path()) {
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
    Some(response)
}

/// Passes a replica's answer on to its end.
async fn pass_on(flight: Box<Flight>, asked: Asked, mut manners: Manners) -> Next {
    let client = Rc::clone(&flight.client);
    client.enter(Phase::Reply, client.worker.limits().stream_timeout);
    let mut out = BytesMut::with_capacity(HEAD_ROOM + asked.connection.buffer.len());
    manners.write_head(&asked.head, &mut out);
    if asked.head.status == StatusCode::SWITCHING_PROTOCOLS {
        if poll_fn(|context| client.poll_write(context, &mut out)).await.is_ok() {
            tunnel::run(flight, asked.connection).await;
        }
        return Next::Break;
    }
    let mut relay = Relay::new(flight, asked, manners, out);
    match poll_fn(|context| relay.poll(context)).await {
        Ok(()) if manners.keep_alive => Next::Request,
        Ok(()) => Next::Close,
        Err(_) => Next::Break,
    }
}

/// Whether the client has it.
async fn write_own(client: &Client, response: &Response<Bytes>, manners: Manners) -> bool {
    client.enter(Phase::Reply, client.worker.limits().stream_timeout);
    let mut out = BytesMut::new();
    manners.write_own(response, &mut out);
    poll_fn(|context| client.poll_write(context, &mut out)).await.is_ok()
}

/// Answers a request whose head is none.
pub(super) async fn refuse_unread(client: &Client, refusal: Refusal) -> Next {
    count_unread(client, refusal.reason);
    let response = refusal.reason.response(refusal.message);
    if write_own(client, &response, Manners::unread()).await { Next::Close } else { Next::Break }
}

/// Counts and logs a request whose head never became one.
fn count_unread(client: &Client, reason: Reason) {
    let shared = &client.worker.shared;
    shared.metrics.errors(reason).add(1);
    shared.metrics.own_answers[crate::metrics::class(reason.status())].add(1);
    if shared.in_force.load().access_log != AccessLog::Off && client.worker.stage() != Stage::Ending {
        tracing::info!(
            target: "evenload::access",
            client = %client.address,
            status = reason.status(),
            reason = reason.label(),
            "request"
        );
    }
}
