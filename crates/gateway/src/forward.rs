//! From a whole request to the head of a replica's answer: the pick, the connection, the attempts.
//!
//! An attempt may be repeated on another replica as the retry rule and its budget allow; a connect failure, at
//! which nothing can have reached the engine, always in principle. An idle connection that turns out to be
//! closed is not an attempt: the request goes out once more to the same replica on a fresh connection. It is told
//! from an engine that dies over a request by the time that the close took, see [`IDLE_CLOSE`].

mod outgoing;
pub(crate) mod query;

use std::{future::poll_fn, mem, pin::pin, rc::Rc, sync::Arc, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use protocol::Endpoint;
use routing::{Health, NoReplica, Outcome, Pick, Retry, may_retry};
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
    security,
    server::{Client, Phase, write_interim},
    shared::Shared,
    upstream::connection::{Connection, ExchangeError, Outgoing},
    wire::{Wire, is_own_want},
    worker::Worker,
};
use query::Understood;

/// How soon after the first byte of a request the close of a kept connection must be seen to count as one that was
/// on its way already, as when an engine's own limit of idleness runs out: a round trip, and a busy machine's delay.
/// Later, or with a byte of an answer, the engine may have worked on the request.
const IDLE_CLOSE: Duration = Duration::from_millis(100);
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
    let (mut tried, mut attempts) = (Vec::new(), 0);
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
                // It left between two instructions; the others did not.
                None => {
                    tried.push(pick.lease.replica().id);
                    continue;
                }
            },
            Err(none) => return Err(nowhere(none, last)),
        };
        let Pick { lease, reason, cached_tokens, .. } = pick;
        if let Some(decision) = &mut flight.decision {
            decision.reason = Some(reason.label().into());
            decision.expected_tokens = cached_tokens;
        }
        backend.metrics.picks(reason).add(1);
        tried.push(backend.id);
        attempts += 1;
        let outgoing = outgoing::write(head, &client, &backend, request_id, body.len());
        let mut request = Outgoing::new(outgoing, &body);
        flight.attempt(Attempt::new(lease, Arc::clone(&backend), retry.take()));
        let failure = match exchange(&client, &backend, &mut request, head, understood.prompt_tokens()).await
        {
            Ok(asked) if asked.head.status == StatusCode::SWITCHING_PROTOCOLS && !upgrade => {
                Failure { outcome: Outcome::Broken, reason: Reason::UpstreamInvalid, sent: true }
            }
            Ok(asked) => {
                flight.answered(&asked.head);
                if asked.head.status.is_success() {
                    shared.lessons.offer(shared, &backend, Endpoint::from_path(head.path()), &body);
                }
                let outcome = flight.current().and_then(|attempt| attempt.outcome);
                let attempt = retryable(outcome.unwrap_or(Outcome::Answered), true, head, attempts);
                // An answer in hand is thrown away for a replica only that is as good as others.
                retry = again(shared, &attempt, || has_other(&client, &understood, &tried, Health::eligible));
                match retry {
                    Some(_) => continue,
                    None => return Ok(asked),
                }
            }
            Err(failure) => failure,
        };
        flight.judge(failure.outcome);
        let attempt = retryable(failure.outcome, failure.sent, head, attempts);
        retry = again(shared, &attempt, || has_other(&client, &understood, &tried, Health::available));
        let refusal = failed(&failure, &backend);
        if retry.is_none() {
            return Err(refusal);
        }
        last = Some(refusal);
    }
}

/// Leave to repeat an attempt, if the rule, the replicas and the budget give it.
fn again(shared: &Shared, attempt: &routing::Attempt, has_other: impl FnOnce() -> bool) -> Option<Retry> {
    let rule = &shared.in_force.load().retry;
    if may_retry(attempt, rule).is_err() || !has_other() {
        return None;
    }
    let retry = shared.budget.retry(rule);
    let count = if retry.is_some() { &shared.metrics.retries } else { &shared.metrics.retries_refused };
    count.add(1);
    retry
}

fn retryable(outcome: Outcome, sent: bool, head: &RequestHead, attempts: u32) -> routing::Attempt {
    routing::Attempt { outcome, retries: attempts - 1, sent, answering: false, safe: head.method.is_safe() }
}

/// Whether a replica that was not tried, and is fit, could take the request.
fn has_other(
    client: &Client,
    understood: &Understood<'_>,
    tried: &[u64],
    is_fit: fn(&Health, Duration) -> bool,
) -> bool {
    let query = understood.query(tried);
    let now = client.worker.routing_now();
    let replicas = client.worker.shared.fleet.router.replicas();
    replicas.iter().any(|replica| query.admits(replica) && is_fit(&replica.health, now))
}

/// One attempt: a connection, the request, the head of the answer.
async fn exchange(
    client: &Client,
    backend: &Arc<Backend>,
    request: &mut Outgoing,
    asked: &RequestHead,
    prompt_tokens: u32,
) -> Result<Asked, Failure> {
    let mut prompt_tokens = prompt_tokens.into();
    let to_head = asked.method == Method::HEAD;
    let worker = &client.worker;
    let limits = worker.limits();
    let closed = Failure { outcome: Outcome::Broken, reason: Reason::UpstreamClosed, sent: true };
    let mut idle = worker.pool.take(backend.id, worker.now());
    let mut replayed = false;
    loop {
        let mut connection = match idle.take() {
            Some(connection) => connection,
            // An engine that is gone altogether was not closing an idle connection: it may have died of the request.
            None => match connect(client, backend).await {
                Err(Failure { outcome: Outcome::ConnectFailed, .. }) if replayed => return Err(closed),
                connected => connected?,
            },
        };
        // Nothing was sent to who cannot be connected to.
        backend.metrics.prompt_tokens.add(mem::take(&mut prompt_tokens));
        client.enter(Phase::Upstream, limits.response_timeout);
        let begun = worker.now();
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
            Some(Err(ExchangeError::Closed { silent: true }))
                if connection.reused && worker.now().saturating_duration_since(begun) < IDLE_CLOSE =>
            {
                worker.shared.metrics.replays.add(1);
                request.rewind();
                replayed = true;
                continue;
            }
            Some(Err(ExchangeError::Closed { .. })) => return Err(closed),
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

/// Connects to the first of the replica's addresses that accepts. Each has an equal part of the time that is left, so
/// that one that hangs does not keep the others from being tried.
async fn connect(client: &Client, backend: &Arc<Backend>) -> Result<Connection, Failure> {
    let failure = |outcome, reason| Failure { outcome, reason, sent: false };
    let mut last = Reason::ConnectFailed;
    let limit = client.worker.limits().connect_timeout;
    let until = client.worker.now() + limit;
    if backend.addresses().is_empty() {
        // It joined a moment ago.
        client.enter(Phase::Upstream, limit);
        let mut look_up = pin!(backend.resolve());
        poll_fn(|context| if client.is_late() { Poll::Ready(()) } else { look_up.as_mut().poll(context) })
            .await;
    }
    let addresses = backend.addresses();
    for (&address, untried) in addresses.iter().zip((1..=addresses.len() as u32).rev()) {
        client.enter(Phase::Upstream, until.saturating_duration_since(client.worker.now()) / untried);
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
                return Err(failure(Outcome::Abandoned, Reason::NoDescriptor));
            }
            Some(Err(error)) => {
                tracing::debug!(%address, error = security::explain(&error), "cannot connect");
                last = Reason::ConnectFailed;
            }
            None => {
                tracing::debug!(%address, "cannot connect in time");
                last = Reason::ConnectTimeout;
            }
        }
    }
    Err(failure(Outcome::ConnectFailed, last))
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

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use socket2::{Domain, Socket, Type};
    use tokio::{runtime::Builder, time::sleep};

    use super::*;
    use crate::probe;

    #[test]
    fn an_address_that_hangs_does_not_keep_the_next_from_being_tried() {
        // A full backlog: the kernel drops what comes, and connects hang.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let hanging = full.local_addr().unwrap().as_socket().unwrap();
        let fill = || std::net::TcpStream::connect_timeout(&hanging, Duration::from_millis(50));
        let _fill = [(); 3].map(|()| fill());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let backend = Arc::new(Backend::new(1, &format!("http://{address}").parse().unwrap()));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let connects = |addresses: Vec<SocketAddr>| {
            backend.set_addresses(addresses);
            runtime.block_on(async {
                let (client, _stream) = Client::pair().await;
                let ticking = async {
                    loop {
                        sleep(Duration::from_millis(5)).await;
                        client.worker.tick();
                    }
                };
                tokio::select! {
                    connected = connect(&client, &backend) => connected.map_err(|failure| failure.reason),
                    () = ticking => Err(Reason::Internal),
                }
            })
        };
        connects(vec![hanging, hanging, address]).unwrap();
        assert_eq!(connects(vec![hanging]).unwrap_err(), Reason::ConnectTimeout);

        backend.set_addresses(vec![hanging, address]);
        std::thread::spawn(move || {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
                let _ = std::io::Write::write_all(&mut stream, answer);
            }
        });
        let checked = runtime.block_on(async {
            let (client, _stream) = Client::pair().await;
            let security = &client.worker.shared.security;
            probe::get(security, &backend, "/health", Duration::from_secs(4), 1024).await
        });
        assert_eq!(checked.unwrap().0, StatusCode::OK);
    }
}
