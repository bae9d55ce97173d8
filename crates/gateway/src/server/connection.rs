//! The task of one client's connection: its requests one after the other, one timer, and a look at whether the
//! client is still there.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::{net::TcpStream, time::sleep_until};

use super::{
    client::{Client, Phase},
    service::{self, Next},
};
use crate::{Reason, error::Refusal, http1::request::RequestHead, shared::Stage, wire::Wire, worker::Listed};

/// Serves one connection to its end.
pub(crate) async fn drive(listed: Listed, stream: TcpStream, address: SocketAddr) {
    let worker = Rc::clone(&listed.worker);
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
    let mut is_woken = false;
    poll_fn(|context| {
        let now = worker.tick();
        client.forget_waiting();
        if !std::mem::replace(&mut is_woken, true) {
            listed.wake_by(context.waker());
        }
        if worker.stage() == Stage::Ending || conversation.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if client.poll_gone(context).is_ready() {
            return Poll::Ready(());
        }
        // Whoever could answer a missed deadline has done so by now, and begun another phase.
        if now >= client.deadline() {
            return Poll::Ready(());
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
        } else {
            // An idle connection holds no buffer.
            *input = Default::default();
        }
        let is_idle = input.is_empty();
        drop(input);
        match client.poll_fill(context) {
            Poll::Ready(Ok(1..)) => {}
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(None)),
            // While draining, a request that has come is still answered, and none is waited for.
            Poll::Pending if is_idle && client.worker.stage() != Stage::Running && !client.has_unread() => {
                return Poll::Ready(Ok(None));
            }
            Poll::Pending if client.phase() == Phase::Head && client.is_late() => {
                let message = "the head of the request did not arrive in time";
                return Poll::Ready(Err(Refusal::new(Reason::HeaderTimeout, message)));
            }
            Poll::Pending => return Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, runtime::Builder};

    use super::*;

    #[test]
    fn a_drain_takes_the_request_that_has_come_and_waits_for_none() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, mut stream) = Client::pair().await;
            stream.write_all(b"GET /come HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            client.worker.enter(Stage::Draining);
            let head = poll_fn(|context| poll_head(&client, context)).await.unwrap();
            assert_eq!(head.map(|head| head.path().to_owned()).as_deref(), Some("/come"));
            client.enter(Phase::Idle, client.worker.limits().idle_timeout);
            assert!(poll_fn(|context| poll_head(&client, context)).await.unwrap().is_none());
        });
    }
}
