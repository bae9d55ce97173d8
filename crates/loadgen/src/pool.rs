//! The connections of one thread: in use, or idle per target.
//!
//! The most recently used idle connection serves next, so that those not needed grow old and are closed by the
//! server. There is no limit on their number but the system's; what limits a run is its plan.

use std::{io, net::SocketAddr, time::Duration};

use mio::{Registry, Token};

use crate::{connection::Connection, session::ConnectionId, target::Target, wire::Wire};

/// Tokens below are not connections.
pub(crate) const FIRST_TOKEN: usize = 2;

pub(crate) struct Pool {
    places: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Places of idle connections, by target, the latest last.
    idle: Vec<Vec<usize>>,
    serial: u64,
    kernel_stamps: bool,
}

impl Pool {
    pub(crate) fn new(targets: u16, kernel_stamps: bool) -> Self {
        let idle = vec![Vec::new(); targets.into()];
        Self { places: Vec::new(), free: Vec::new(), idle, serial: 0, kernel_stamps }
    }

    pub(crate) fn get(&mut self, place: usize) -> Option<&mut Connection> {
        self.places.get_mut(place)?.as_mut()
    }

    /// Starts to connect; returns the place of the new connection.
    pub(crate) fn open(
        &mut self,
        registry: &Registry,
        address: SocketAddr,
        target: &Target,
        index: u16,
        now: Duration,
    ) -> io::Result<usize> {
        let place = self.free.last().copied().unwrap_or(self.places.len());
        self.serial += 1;
        let token = Token(FIRST_TOKEN + place);
        let connection = Connection {
            wire: Wire::connect(registry, token, address, target, self.kernel_stamps)?,
            serial: self.serial,
            target: index,
            address,
            opened: now,
            is_open: false,
            exchange: None,
        };
        if self.free.pop().is_some() {
            self.places[place] = Some(connection);
        } else {
            self.places.push(Some(connection));
        }
        Ok(place)
    }

    /// Closes a connection; the kernel takes it out of the poll.
    pub(crate) fn close(&mut self, place: usize) {
        let Some(connection) = self.places.get_mut(place).and_then(Option::take) else { return };
        self.free.push(place);
        if connection.exchange.is_none() {
            self.idle[usize::from(connection.target)].retain(|idle| *idle != place);
        }
    }

    /// Keeps a connection for the next request to its target.
    pub(crate) fn park(&mut self, place: usize) {
        if let Some(target) = self.get(place).map(|connection| connection.target) {
            self.idle[usize::from(target)].push(place);
        }
    }

    /// Takes the connection that was parked last.
    pub(crate) fn unpark(&mut self, target: u16) -> Option<usize> {
        self.idle[usize::from(target)].pop()
    }

    /// The name of a connection, under which it can be found as long as it is open.
    pub(crate) fn id(&mut self, place: usize) -> Option<ConnectionId> {
        self.get(place).map(|connection| ConnectionId { place, serial: connection.serial })
    }

    /// The place of a connection, if it is still open.
    pub(crate) fn find(&mut self, id: ConnectionId) -> Option<usize> {
        (self.id(id.place) == Some(id)).then_some(id.place)
    }

    /// The places of all connections that carry a request.
    pub(crate) fn busy(&self) -> Vec<usize> {
        let busy =
            |connection: &Option<Connection>| connection.as_ref().is_some_and(|c| c.exchange.is_some());
        (0..self.places.len()).filter(|place| busy(&self.places[*place])).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use mio::Poll;

    use super::*;
    use crate::Targets;

    #[test]
    fn places_are_used_again_but_names_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let targets = Targets::resolve([address.to_string()]).unwrap();
        let poll = Poll::new().unwrap();
        let mut pool = Pool::new(2, false);
        let open = |pool: &mut Pool, index| {
            let place = pool.open(poll.registry(), address, targets.get(0), index, Duration::ZERO).unwrap();
            pool.park(place);
            place
        };
        let (first, second) = (open(&mut pool, 1), open(&mut pool, 1));
        let name = pool.id(first).unwrap();
        pool.close(first);
        assert_eq!(open(&mut pool, 0), first);
        assert_eq!(pool.find(name), None);
        assert_eq!((pool.unpark(1), pool.unpark(1), pool.unpark(0)), (Some(second), None, Some(first)));
    }

    #[test]
    fn the_latest_idle_connection_serves_next() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let targets = Targets::resolve([address.to_string()]).unwrap();
        let poll = Poll::new().unwrap();
        let mut pool = Pool::new(1, false);
        for _ in 0..3 {
            let place = pool.open(poll.registry(), address, targets.get(0), 0, Duration::ZERO).unwrap();
            pool.park(place);
        }
        assert_eq!([pool.unpark(0), pool.unpark(0), pool.unpark(0)], [Some(2), Some(1), Some(0)]);
    }
}
