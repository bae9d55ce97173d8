//! The task of one client's connection: its requests one after the other, one timer, and a look at whether the
//! client is still there.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::{net::TcpStream, time::sleep_until};

use super::{
    client::{Client, Phase},
    service::{self, Next},
};
use crate::{Reason, error::Refusal, http1::request::RequestHead, shared::Stage, wire::Wire, worker::Worker};

const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// How a connection ended.
enum End {
    Regular,
    Gone,
    Late(Phase),
    Stopped,
}

/// Serves one connection to its end.
pub(crate) async fn drive(worker: Rc<Worker>, stream: TcpStream, address: SocketAddr) {
    let metrics = &worker.shared.metrics;
    let certificate = worker.shared.security.of_clients();
    let wire = match Wire::accept(stream, certificate, worker.limits().header_timeout).await {
        Ok(wire) => wire,
        Err(error) => {
            tracing::debug!(%address, error = tls::explain(&error), "no handshake");
            metrics.failed_handshakes.add(1);
            return;
        }
    };
    worker.tick();
    let client = Rc::new(Client::new(Rc::clone(&worker), wire, address));
    let _counted = metrics.connections.hold(1);
    let mut conversation = pin!(converse(&client));
    let mut alarm = pin!(sleep_until(client.deadline().into()));
    let mut listed = None;
    let end = poll_fn(|context| {
        let now = worker.tick();
        client.forget_waiting();
        if listed.is_none() {
            listed = Some(worker.list(context.waker().clone()));
        }
        match worker.stage() {
            Stage::Running | Stage::Draining => {}
            Stage::Ending => return Poll::Ready(End::Stopped),
        }
        if conversation.as_mut().poll(context).is_ready() {
            return Poll::Ready(End::Regular);
        }
        if client.poll_gone(context).is_ready() {
            return Poll::Ready(End::Gone);
        }
        // Whoever could answer a missed deadline has done so by now, and begun another phase.
        if now >= client.deadline() {
            return Poll::Ready(End::Late(client.phase()));
        }
        let needed = client.deadline().into();
        if alarm.deadline() > needed {
            alarm.as_mut().reset(needed);
        }
        while alarm.as_mut().poll(context).is_ready() {
            alarm.as_mut().reset(client.deadline().into());
        }
        Poll::Pending
    })
    .await;
    if let End::Late(Phase::Head) = end {
        client.write_last(REQUEST_TIMEOUT);
        service::count_unread(&client, Reason::HeaderTimeout);
    }
}

/// Answers one request after the other, until one side wants to end.
async fn converse(client: &Rc<Client>) {
    loop {
        let next = match poll_fn(|context| poll_head(client, context)).await {
            Ok(Some(head)) => Box::pin(service::serve(client, head)).await,
            Ok(None) => return,
            Err(refusal) => service::refuse_unread(client, refusal).await,
        };
        match next {
            Next::Request => {}
            Next::Close => return poll_fn(|context| client.poll_close(context)).await,
            Next::Break => return,
        }
    }
}

/// The head of the next request; none when the client wants no more, or should get no more.
fn poll_head(client: &Client, context: &mut Context<'_>) -> Poll<Result<Option<RequestHead>, Refusal>> {
    let most_bytes = client.worker.limits().max_header.get() as usize;
    loop {
        let mut input = client.input.borrow_mut();
        if !input.is_empty() {
            if client.phase() == Phase::Idle {
                client.enter(Phase::Head, client.worker.limits().header_timeout);
            }
            if let Some(head) = RequestHead::take(&mut input, most_bytes)? {
                return Poll::Ready(Ok(Some(head)));
            }
        } else if client.worker.stage() != Stage::Running {
            return Poll::Ready(Ok(None));
        } else {
            // An idle connection holds no buffer.
            *input = Default::default();
        }
        drop(input);
        match ready!(client.poll_fill(context)) {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Poll::Ready(Ok(None)),
        }
    }
}
