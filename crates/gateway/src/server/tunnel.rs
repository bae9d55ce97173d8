//! A connection that left HTTP: after a 101 that the client asked for, bytes go both ways until one side ends.

use std::{cell::Cell, future::poll_fn, pin::pin, rc::Rc, task::Poll};

use bytes::Bytes;
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    time::sleep_until,
};

use super::client::{Client, ClientIo, Phase};
use crate::{flight::Flight, upstream::connection::Connection};

/// What remains of a request after its 101.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) connection: Connection,
    pub(crate) flight: Box<Flight>,
}

/// Where a request leaves what its connection becomes when hyper is done with it.
pub(crate) type Exit = Cell<Option<Tunnel>>;

/// Copies until both sides have ended, one has broken, or nothing has moved for the time limit of a stream.
/// `from_client` is what hyper had read beyond the request.
pub(super) async fn run(client: &Rc<Client>, tunnel: Tunnel, from_client: Bytes) {
    let Tunnel { connection, mut flight } = tunnel;
    let (mut replica, from_replica) = connection.into_parts();
    let mut client_io = ClientIo(Rc::clone(client));
    let limit = client.worker.limits().stream_timeout;
    client.enter(Phase::Tunnel, limit);
    let mut copying = pin!(async {
        client_io.write_all(&from_replica).await?;
        replica.write_all(&from_client).await?;
        copy_bidirectional(&mut client_io, &mut replica).await
    });
    let mut alarm = pin!(sleep_until(client.deadline().into()));
    let copied = poll_fn(|context| {
        client.worker.tick();
        if let Poll::Ready(copied) = copying.as_mut().poll(context) {
            return Poll::Ready(copied.ok());
        }
        while alarm.as_mut().poll(context).is_ready() {
            if client.is_late() {
                return Poll::Ready(None);
            }
            alarm.as_mut().reset(client.deadline().into());
        }
        Poll::Pending
    })
    .await;
    if let Some((up, down)) = copied {
        flight.request_bytes += up;
        flight.response_bytes += down;
    }
    // However a tunnel ends, neither side was promised more.
    flight.complete();
}
