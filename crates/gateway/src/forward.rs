//! From a whole request to the head of a replica's answer: the pick, the connection, the attempts.
//!
//! An attempt may be repeated on another replica as the retry rule and its budget allow; a connect failure, at
//! which nothing can have reached the engine, always in principle. An idle connection that turns out to be
//! closed is not an attempt: the request goes out once more to the same replica on a fresh connection.

mod outgoing;
pub(crate) mod query;

use std::{future::poll_fn, io, pin::pin, rc::Rc, sync::Arc, task::Poll};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use protocol::Endpoint;
use routing::{NoReplica, Outcome, Pick, may_retry};
use tokio::net::TcpStream;

use crate::{
    Reason,
    error::Refusal,
    fleet::Backend,
    flight::{Attempt, Flight},
    http1::{
        fields::{Fields, MAX_FIELDS},
        request::RequestHead,
        response::{InvalidHead, MAX_HEAD_BYTES, ResponseHead},
    },
    server::{Client, Phase, write_interim},
    upstream::connection::{Connection, ExchangeError, Outgoing},
    wire::Wire,
    worker::Worker,
};
use query::Understood;

/// The name under which requests are numbered.
const REQUEST_ID: &str = "x-request-id";

/// A replica's answer, up to its body.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) head: ResponseHead,
    pub(crate) connection: Connection,
}

/// Why an attempt gave no answer.
#[derive(Debug)]
struct Failure {
    outcome: Outcome,
    reason: Reason,
    /// Whether bytes of the request went out.
    sent: bool,
}

/// The request's own id, or a new one.
pub(crate) fn request_id(worker: &Worker, fields: &Fields) -> String {
    match fields.all(REQUEST_ID).find(|id| !id.is_empty()) {
        Some(id) => String::from_utf8_lossy(id).into_owned(),
        None => format!("{:016x}{:016x}", worker.random_u64(), worker.random_u64()),
    }
}

/// Asks replicas until one answers or none is left.
pub(crate) async fn ask(
    flight: &mut Flight,
    head: &RequestHead,
    request_id: &str,
    body: Bytes,
) -> Result<Asked, Refusal> {
    let client = Rc::clone(&flight.client);
    let worker = &client.worker;
    let shared = &worker.shared;
    let understood = Understood::of(worker, head, &body);
    flight.decision = understood.decision().map(Box::new);
    let mut tried = Vec::new();
    let mut last: Option<Refusal> = None;
    let mut retry = None;
    let upgrade = head.upgrade().is_some();
    loop {
        let pick = {
            let query = understood.query(&tried);
            shared.fleet.router.pick(&query, worker.routing_now(), &mut *worker.random.borrow_mut())
        };
        let (pick, backend) = match pick {
            Ok(pick) => match shared.fleet.backend(pick.lease.replica().id) {
                Some(backend) => (pick, backend),
                // It left between two instructions.
                None => return Err(nowhere(NoReplica::NoneHealthy, last)),
            },
            Err(none) => return Err(nowhere(none, last)),
        };
        let Pick { lease, reason, cached_tokens, .. } = pick;
        if let Some(decision) = &mut flight.decision {
            decision.reason = Some(reason.label().into());
            decision.expected_tokens = cached_tokens;
        }
        backend.metrics.picks(reason).add(1);
        backend.metrics.prompt_tokens.add(understood.prompt_tokens().into());
        tried.push(backend.id);
        let outgoing = outgoing::write(head, &client, &backend, request_id, body.len());
        let mut request = Outgoing::new(outgoing, &body);
        flight.attempt(Attempt { lease, backend: Arc::clone(&backend), _retry: retry.take(), outcome: None });
        let failure = match exchange(&client, &backend, &mut request, head).await {
            Ok(asked) if asked.head.status == StatusCode::SWITCHING_PROTOCOLS && !upgrade => {
                Failure { outcome: Outcome::Broken, reason: Reason::UpstreamInvalid, sent: true }
            }
            Ok(asked) => {
                flight.answered(&asked.head);
                if asked.head.status.is_success() {
                    shared.lessons.offer(shared, &backend, Endpoint::from_path(head.path()), &body);
                }
                let outcome = flight.current().and_then(|attempt| attempt.outcome);
                let attempt = retryable(outcome.unwrap_or(Outcome::Answered), true, head, tried.len());
                if may_retry(&attempt, &shared.in_force.load().retry).is_err()
                    || !has_other(&client, &understood, &tried)
                {
                    return Ok(asked);
                }
                match shared.budget.retry(&shared.in_force.load().retry) {
                    Some(granted) => retry = Some(granted),
                    None => {
                        shared.metrics.retries_refused.add(1);
                        return Ok(asked);
                    }
                }
                shared.metrics.retries.add(1);
                continue;
            }
            Err(failure) => failure,
        };
        flight.judge(failure.outcome);
        let attempt = retryable(failure.outcome, failure.sent, head, tried.len());
        if may_retry(&attempt, &shared.in_force.load().retry).is_err() {
            return Err(failed(&failure, &backend));
        }
        match shared.budget.retry(&shared.in_force.load().retry) {
            Some(granted) => retry = Some(granted),
            None => {
                shared.metrics.retries_refused.add(1);
                return Err(failed(&failure, &backend));
            }
        }
        shared.metrics.retries.add(1);
        last = Some(failed(&failure, &backend));
    }
}

fn retryable(outcome: Outcome, sent: bool, head: &RequestHead, tried: usize) -> routing::Attempt {
    routing::Attempt {
        outcome,
        retries: u32::try_from(tried).unwrap_or(u32::MAX).saturating_sub(1),
        sent,
        answering: false,
        idempotent: head.method.is_idempotent(),
    }
}

/// Whether a replica that was not tried could take the request, so that an answer in hand is worth throwing away.
fn has_other(client: &Client, understood: &Understood<'_>, tried: &[u64]) -> bool {
    let query = understood.query(tried);
    let now = client.worker.routing_now();
    let replicas = client.worker.shared.fleet.router.replicas();
    replicas.iter().any(|replica| query.admits(replica) && replica.health.eligible(now))
}

/// One attempt: a connection, the request, the head of the answer.
async fn exchange(
    client: &Client,
    backend: &Backend,
    request: &mut Outgoing,
    asked: &RequestHead,
) -> Result<Asked, Failure> {
    let to_head = asked.method == Method::HEAD;
    let worker = &client.worker;
    let limits = worker.limits();
    let mut idle = worker.pool.take(backend.id, worker.now());
    loop {
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => {
                client.enter(Phase::Upstream, limits.connect_timeout);
                connect(client, backend).await?
            }
        };
        client.enter(Phase::Upstream, limits.response_timeout);
        let exchanged = poll_fn(|context| {
            let polled = connection.poll_exchange(context, request, to_head, &mut worker.room.borrow_mut());
            match polled {
                Poll::Pending if client.is_late() => Poll::Ready(None),
                polled => polled.map(Some),
            }
        });
        let failure = match exchanged.await {
            Some(Ok(head)) if head.is_interim() => {
                pass_interim(client, asked, &head).await;
                idle = Some(connection);
                continue;
            }
            Some(Ok(head)) => return Ok(Asked { head, connection }),
            Some(Err(ExchangeError::Closed { silent: true })) if connection.reused => {
                worker.shared.metrics.replays.add(1);
                request.rewind();
                continue;
            }
            Some(Err(ExchangeError::Closed { .. })) => (Outcome::Broken, Reason::UpstreamClosed),
            Some(Err(ExchangeError::Invalid(error))) => {
                tracing::debug!(replica = %backend.authority, %error, "invalid answer");
                let reason = match error {
                    InvalidHead::TooLarge => Reason::UpstreamHeadTooLarge,
                    InvalidHead::Syntax(_) | InvalidHead::Framing(_) => Reason::UpstreamInvalid,
                };
                (Outcome::Broken, reason)
            }
            None => (Outcome::TimedOut, Reason::UpstreamTimeout),
        };
        return Err(Failure { outcome: failure.0, reason: failure.1, sent: true });
    }
}

/// Passes on a head that another one follows, to a client that expects such. The attempt may still be repeated.
async fn pass_interim(client: &Client, asked: &RequestHead, head: &ResponseHead) {
    if !asked.is_http_10 {
        let mut out = BytesMut::new();
        write_interim(head, &mut out);
        // A client that cannot be written to has left, which its connection's task notices.
        let _ = poll_fn(|context| client.poll_write(context, &mut out)).await;
    }
}

/// Connects to the first of the replica's addresses that accepts.
async fn connect(client: &Client, backend: &Backend) -> Result<Connection, Failure> {
    let failure = |reason| Failure { outcome: Outcome::ConnectFailed, reason, sent: false };
    for &address in backend.addresses().iter() {
        let secret = backend.secret(&client.worker.shared.security);
        let mut connecting = pin!(async { Wire::connect(TcpStream::connect(address).await?, secret?).await });
        let connected = poll_fn(|context| match connecting.as_mut().poll(context) {
            Poll::Pending if client.is_late() => Poll::Ready(None),
            polled => polled.map(Some),
        });
        match connected.await.map(|wire| wire.map(Connection::new)) {
            Some(Ok(connection)) => {
                backend.metrics.connects.add(1);
                return Ok(connection);
            }
            Some(Err(error)) if is_own_want(&error) => {
                tracing::debug!(%address, %error, "cannot connect");
                // That says nothing about the replica.
                return Err(Failure {
                    outcome: Outcome::Abandoned,
                    reason: Reason::NoDescriptor,
                    sent: false,
                });
            }
            Some(Err(error)) => tracing::debug!(%address, error = tls::explain(&error), "cannot connect"),
            None => return Err(failure(Reason::ConnectTimeout)),
        }
    }
    Err(failure(Reason::ConnectFailed))
}

/// Whether it is this process or this machine that has no room for another socket.
fn is_own_want(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The error answer when an attempt failed and is not repeated.
fn failed(failure: &Failure, backend: &Backend) -> Refusal {
    let what = match failure.reason {
        Reason::NoDescriptor => "cannot be reached: evenload has too many open files; raise the limit",
        Reason::ConnectFailed => "does not accept connections",
        Reason::ConnectTimeout => "did not accept the connection in time",
        Reason::UpstreamTimeout => "did not answer in time",
        Reason::UpstreamInvalid => "gave an answer that is not HTTP",
        Reason::UpstreamHeadTooLarge => {
            &*format!("gave an answer with a head of more than {MAX_HEAD_BYTES} bytes or {MAX_FIELDS} fields")
        }
        _ => "closed the connection before an answer",
    };
    Refusal::new(failure.reason, format!("the replica {} {what}", backend.authority))
}

/// The error answer when nothing is left to try.
fn nowhere(none: NoReplica, last: Option<Refusal>) -> Refusal {
    match (none, last) {
        (NoReplica::AllTried | NoReplica::NoneHealthy, Some(Refusal { reason, message })) => {
            Refusal::new(reason, format!("{message}, and no other that could serve this request is left"))
        }
        (NoReplica::NoAdapter, _) => Refusal::new(Reason::NoAdapter, none.to_string()),
        _ => Refusal::new(Reason::NoReplica, format!("{none}; try again in a moment")),
    }
}
