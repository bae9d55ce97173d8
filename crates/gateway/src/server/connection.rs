//! The task of one client's connection: hyper, one timer, and a look at whether the client is still there.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::sleep_until};

use super::{
    client::{Client, ClientIo, Phase},
    service,
    tunnel::{self, Exit},
};
use crate::{Reason, shared::Stage, worker::Worker};

/// Room in hyper's buffers beyond the largest head: for a request line that is to be refused as too long, and
/// for answers that wait for a slow client.
const SPARE_BYTES: usize = 64 * 1024;
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// How a connection ended.
enum End {
    Http(hyper::Result<()>),
    Gone,
    Late(Phase),
    Stopped,
}

/// Serves one connection to its end.
pub(crate) async fn drive(worker: Rc<Worker>, stream: TcpStream, address: SocketAddr) {
    worker.tick();
    let Ok(client) = Client::new(Rc::clone(&worker), stream, address).map(Rc::new) else { return };
    let metrics = &worker.shared.metrics;
    let _counted = metrics.connections.hold(1);
    let exit = Exit::default();
    let service = service_fn(|request| service::serve(Rc::clone(&client), &exit, request));
    let most_head_bytes = worker.limits().max_header.get() as usize + SPARE_BYTES;
    let mut http = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(most_head_bytes)
        .max_header_size(most_head_bytes)
        .auto_date_header(false)
        .writev(true)
        .serve_connection(TokioIo::new(ClientIo(Rc::clone(&client))), service);
    let mut alarm = pin!(sleep_until(client.deadline().into()));
    let mut listed = None;
    let mut closing = false;
    let end = poll_fn(|context| {
        let now = worker.tick();
        client.forget_waiting();
        if listed.is_none() {
            listed = Some(worker.list(context.waker().clone()));
        }
        match worker.stage() {
            Stage::Running => {}
            Stage::Draining => {
                if !std::mem::replace(&mut closing, true) {
                    Pin::new(&mut http).graceful_shutdown();
                }
            }
            Stage::Ending => return Poll::Ready(End::Stopped),
        }
        if let Poll::Ready(result) = Pin::new(&mut http).poll(context) {
            return Poll::Ready(End::Http(result));
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
    if let (End::Http(Ok(())), Some(tunnel)) = (&end, exit.take()) {
        tunnel::run(&client, tunnel, http.into_parts().read_buf).await;
        return;
    }
    match end {
        End::Late(Phase::Head) => {
            client.write_last(REQUEST_TIMEOUT);
            refuse(&client, Reason::HeaderTimeout);
        }
        // hyper has answered these by itself, as far as they can be answered.
        End::Http(Err(error)) if error.is_parse_too_large() => refuse(&client, Reason::HeadTooLarge),
        End::Http(Err(error)) if error.is_parse() => refuse(&client, Reason::BadRequest),
        End::Http(_) | End::Gone | End::Late(_) | End::Stopped => {}
    }
}

/// Counts and logs a request whose head never became one.
fn refuse(client: &Client, reason: Reason) {
    let shared = &client.worker.shared;
    shared.metrics.errors(reason).add(1);
    shared.metrics.own_answers[crate::metrics::class(reason.status())].add(1);
    service::log_unread(client, reason);
}
