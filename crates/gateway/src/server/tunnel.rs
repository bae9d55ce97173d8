//! A connection that left HTTP: after a 101 that the client asked for, bytes go both ways until one side ends.

use std::{future::poll_fn, pin::pin, rc::Rc, task::Poll};

use tokio::io::{AsyncWriteExt, copy_bidirectional};

use super::client::{Phase, TunnelIo};
use crate::{flight::Flight, upstream::connection::Connection};

/// Copies until both sides have ended, one has broken, or nothing has moved for the time limit of a stream.
pub(super) async fn run(mut flight: Box<Flight>, connection: Connection) {
    flight.answering();
    let client = Rc::clone(&flight.client);
    let (mut replica, from_replica) = connection.into_parts();
    let from_client = client.input.take();
    let mut client_io = TunnelIo(Rc::clone(&client));
    client.enter(Phase::Tunnel, client.worker.limits().stream_timeout);
    let mut copying = pin!(async {
        client_io.write_all(&from_replica).await?;
        replica.write_all(&from_client).await?;
        copy_bidirectional(&mut client_io, &mut replica).await
    });
    // The connection's task wakes at the deadline, and looks here first.
    let copied = poll_fn(|context| match copying.as_mut().poll(context) {
        Poll::Pending if client.is_late() => Poll::Ready(None),
        polled => polled.map(Result::ok),
    })
    .await;
    if let Some((up, down)) = copied {
        flight.request_bytes += up;
        flight.response_bytes += down;
    }
    // However a tunnel ends, neither side was promised more.
    flight.complete();
}
